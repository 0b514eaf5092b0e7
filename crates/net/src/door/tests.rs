#![allow(clippy::unwrap_used)]
use polymath_types::NodeKey;
use tokio::io::{DuplexStream, duplex};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::*;

const MESH: MeshId = MeshId::from_bytes([1; 32]);

fn secret(byte: u8) -> MeshSecret {
    MeshSecret::from_bytes([byte; 32])
}

fn pipe() -> (Compat<DuplexStream>, Compat<DuplexStream>) {
    let (a, b) = duplex(4096);
    (a.compat(), b.compat())
}

/// Lets in whoever is not on its list, once.
#[derive(Debug, Default)]
struct Once(Mutex<Vec<PeerId>>);

impl Doorkeeper for Once {
    fn admit(&self, guest: PeerId, _: InviteClaims) -> BoxFuture<'static, Result<(), Refused>> {
        let mut seen = self.0.lock().unwrap();
        let verdict = if seen.is_empty() || seen.contains(&guest) {
            seen.push(guest);
            Ok(())
        } else {
            Err(Refused::UsedUp)
        };
        Box::pin(async move { verdict })
    }
}

fn claims() -> InviteClaims {
    InviteClaims {
        id: [7; 16],
        issuer: NodeKey::generate().peer_id(),
        expires: Some(10),
        uses: Some(1),
    }
}

async fn meet(outside: &Door, inside: &Door) -> (Result<(), Refused>, Result<(), Refused>) {
    between(outside, PeerId::random(), inside).await
}

async fn between(
    outside: &Door,
    dialer: PeerId,
    inside: &Door,
) -> (Result<(), Refused>, Result<(), Refused>) {
    let listener = PeerId::random();
    let (near, far) = pipe();
    tokio::join!(
        outside.knock(near, dialer, listener),
        inside.answer(far, listener, dialer, false)
    )
}

#[tokio::test]
async fn members_let_each_other_in_and_nobody_else() {
    let member = || Door::member(MESH, secret(1), None);
    assert_eq!(meet(&member(), &member()).await, (Ok(()), Ok(())));
    let stranger = Door::member(MESH, secret(2), None);
    let (told, refused) = meet(&stranger, &member()).await;
    assert_eq!(told, Err(Refused::Stranger));
    assert_eq!(refused, Err(Refused::Stranger));
    assert_eq!(stranger.refusal().unwrap().1, Refused::Stranger);
    let neighbour = Door::member(MeshId::from_bytes([2; 32]), secret(1), None);
    assert_eq!(meet(&neighbour, &member()).await.1, Err(Refused::Stranger));
}

#[tokio::test]
async fn a_guest_becomes_a_member_and_its_invite_is_counted() {
    let claims = claims();
    let key = claims.key(MESH, &secret(1));
    let keeper: Arc<dyn Doorkeeper> = Arc::new(Once::default());
    let member = Door::member(MESH, secret(1), Some(keeper));
    let guest = || Door::guest(MESH, claims.clone(), key.clone(), None);
    let (first, me) = (guest(), PeerId::random());
    // Before it is a member it lets nobody in.
    assert!(meet(&member, &first).await.1.is_err());
    assert_eq!(between(&first, me, &member).await, (Ok(()), Ok(())));
    assert_eq!(first.secret(), Some(secret(1)));
    assert_eq!(first.let_in().await, secret(1));
    // The same peer once more, another not.
    assert_eq!(between(&guest(), me, &member).await, (Ok(()), Ok(())));
    assert_eq!(meet(&guest(), &member).await.0, Err(Refused::UsedUp));
    // The first knocks as a member now, and answers as one.
    let plain = Door::member(MESH, secret(1), None);
    assert_eq!(meet(&first, &plain).await, (Ok(()), Ok(())));
    assert_eq!(meet(&plain, &first).await, (Ok(()), Ok(())));
}

#[tokio::test]
async fn altered_claims_and_impostors_are_found_out() {
    let claims = claims();
    let key = claims.key(MESH, &secret(1));
    let member = Door::member(MESH, secret(1), Some(Arc::new(Once::default())));
    let longer = InviteClaims {
        expires: None,
        ..claims.clone()
    };
    let forged = Door::guest(MESH, longer, key.clone(), None);
    assert_eq!(meet(&forged, &member).await.0, Err(Refused::Stranger));

    // Somebody who says welcome to all the world.
    let guest = Door::guest(MESH, claims, key, None);
    let (near, mut far) = pipe();
    let welcome = async {
        receive(&mut far).await.unwrap();
        let answer = [&[version(), WELCOME][..], &[0; 64]].concat();
        send(&mut far, &answer).await.unwrap();
    };
    let knock = guest.knock(near, PeerId::random(), PeerId::random());
    assert_eq!(tokio::join!(knock, welcome).0, Err(Refused::Impostor));
    assert_eq!(guest.secret(), None);
}

#[tokio::test]
async fn a_proof_is_worth_nothing_to_another_peer() {
    let (member, guard) = (
        Door::member(MESH, secret(1), None),
        Door::member(MESH, secret(1), None),
    );
    let (dialer, listener, thief) = (PeerId::random(), PeerId::random(), PeerId::random());
    let (near, mut wire) = pipe();
    let (_, knock) = tokio::join!(
        async {
            tokio::time::timeout(
                std::time::Duration::from_millis(50),
                member.knock(near, dialer, listener),
            )
            .await
        },
        receive(&mut wire)
    );
    let (mut near, far) = pipe();
    send(&mut near, &knock.unwrap()).await.unwrap();
    let told = async { receive(&mut { near }).await };
    let (answered, told) = tokio::join!(guard.answer(far, listener, thief, false), told);
    assert_eq!(answered, Err(Refused::Stranger));
    assert_eq!(told.unwrap(), [version(), Refused::Stranger.code()]);
}

#[tokio::test]
async fn what_is_no_knock_ends_at_once() {
    let member = Door::member(MESH, secret(1), None);
    for bytes in [
        &b"\x13/multistream/1.0.0\n"[..],
        b"\xff\xff",
        b"\x00\x00",
        b"\x00\x01\x01",
        b"\x00\x02\x01\x09",
        b"",
    ] {
        let (mut near, far) = pipe();
        near.write_all(bytes).await.unwrap();
        near.close().await.unwrap();
        let answered = member.answer(far, PeerId::random(), PeerId::random(), false);
        assert!(
            matches!(answered.await, Err(Refused::NoDoor(_))),
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn another_version_is_answered_with_ours_and_named() {
    let member = Door::member(MESH, secret(1), None);
    let (mut near, far) = pipe();
    send(&mut near, &[9, MEMBER]).await.unwrap();
    let told = async { receive(&mut { near }).await };
    let answered = member.answer(far, PeerId::random(), PeerId::random(), false);
    let (answered, told) = tokio::join!(answered, told);
    let Err(Refused::Version(mismatch)) = answered else {
        panic!("it was let in");
    };
    assert_eq!((mismatch.found, mismatch.supported), (9, 1));
    assert_eq!(told.unwrap()[0], version());
}
