//! Whatever comes in as an invite, a list of anchors or a guest's claims is read or refused, and
//! nothing that was changed passes for what it was.

#![allow(clippy::unwrap_used)]

use polymath_types::{
    Access, AnchorList, Genesis, Invite, InviteClaims, MeshSecret, NodeKey, PeerId,
};
use proptest::prelude::*;

fn invite() -> Invite {
    let key = NodeKey::generate();
    let genesis = Genesis::found("home", &key.keypair().public(), Access::Closed).unwrap();
    let claims = InviteClaims {
        id: [9; 16],
        issuer: key.peer_id(),
        expires: Some(2_000_000_000),
        uses: Some(3),
    };
    let address = format!("/ip4/192.0.2.7/tcp/4040/p2p/{}", key.peer_id());
    let list = AnchorList::sign(&genesis, &key, 1, 1, None, vec![address.clone()]).unwrap();
    let secret = MeshSecret::from_bytes([5; 32]);
    Invite::issue(
        &genesis,
        &key,
        claims,
        vec![address],
        Some(list),
        Some(&secret),
    )
    .unwrap()
}

#[test]
fn every_character_that_is_another_is_seen() {
    let text = invite().to_string();
    let alphabet = "ABCXYZabcxyz019-_.=+/ \n";
    for (at, was) in text.char_indices() {
        for other in alphabet.chars().filter(|c| *c != was) {
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(
                changed.parse::<Invite>().is_err(),
                "{other:?} for {was:?} at {at}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}", body in "[A-Za-z0-9_-]{0,400}") {
        let _ = text.parse::<Invite>();
        let invite = format!("polymath-invite1.{body}").parse::<Invite>();
        prop_assert!(invite.is_err());
        prop_assert!(AnchorList::from_bytes(text.as_bytes()).is_err());
        if let Some(list) = AnchorList::from_txt(&format!("polymath-anchors1={body}")) {
            prop_assert!(list.is_err());
        }
    }

    #[test]
    fn two_characters_that_change_places_are_seen(a in 17usize..900, b in 17usize..900) {
        let text = invite().to_string();
        let mut bytes = text.clone().into_bytes();
        let (a, b) = (a % bytes.len(), b % bytes.len());
        bytes.swap(a, b);
        let swapped = String::from_utf8(bytes).unwrap();
        prop_assert_eq!(swapped.parse::<Invite>().is_ok(), swapped == text);
    }

    #[test]
    fn claims_are_read_as_they_were_written(
        id: [u8; 16], expires in proptest::option::of(1u64..), uses in proptest::option::of(1u32..)
    ) {
        let claims = InviteClaims { id, issuer: PeerId::random(), expires, uses };
        prop_assert_eq!(InviteClaims::from_bytes(&claims.to_bytes()), Some(claims));
    }

    #[test]
    fn any_bytes_are_claims_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Some(claims) = InviteClaims::from_bytes(&bytes) {
            prop_assert_eq!(claims.to_bytes(), bytes);
        }
    }
}
