//! Doors for the fuzzer to what reads a stranger's bytes.

use std::collections::HashMap;

use futures::FutureExt as _;
use polymath_types::{InviteClaims, MeshId, MeshSecret};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use crate::{
    PeerId,
    bulk::{frame, limits::MAX_HEADER},
    dialback, discovery,
    door::Door,
    hello,
    names::Names,
    whereabouts,
};

const MESH: MeshId = MeshId::from_bytes([0; 32]);

/// An answer to [`Net::hello`](crate::Net::hello).
pub fn hello(bytes: &[u8]) {
    let stream = tokio::io::join(bytes, tokio::io::sink());
    let _ = hello::exchange(PeerId::random(), stream).now_or_never();
}

/// Where a member says it is.
pub fn whereabouts(bytes: &[u8]) {
    if let Some(Ok(message)) = whereabouts::receive(bytes).now_or_never() {
        let _ = (message.addresses(), message.candidates());
    }
}

/// A message of the dial-back protocol.
pub fn dial_back(bytes: &[u8]) {
    let _ = dialback::is_message(bytes).now_or_never();
}

/// What is found on the local network, as lines `key=value`; and an identify message's version.
pub fn announcement(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let entries: HashMap<&str, &str> = text.lines().filter_map(|l| l.split_once('=')).collect();
    let _ = discovery::Announcement::from_txt(|key| entries.get(key).copied());
    let _ = Names::new(MESH).classify(text);
}

/// The first bytes of a connection, to a closed mesh's member from outside, and to a guest from within.
pub fn door(bytes: &[u8]) {
    let stream = || tokio::io::join(bytes, tokio::io::sink()).compat();
    let (me, them) = (PeerId::random(), PeerId::random());
    let secret = MeshSecret::from_bytes([1; 32]);
    let member = Door::member(MESH, secret.clone(), None);
    let entered = member.answer(stream(), me, them, false).now_or_never();
    assert!(
        !matches!(entered, Some(Ok(()))),
        "nobody here knows the secret"
    );
    let claims = InviteClaims {
        id: [0; 16],
        issuer: them,
        expires: None,
        uses: None,
    };
    let key = claims.key(MESH, &secret);
    let guest = Door::guest(MESH, claims, key, None);
    let entered = guest.knock(stream(), me, them).now_or_never();
    assert!(!matches!(entered, Some(Ok(()))) && guest.secret().is_none());
}

/// The head of a transfer on the bulk lane.
pub fn bulk_head(bytes: &[u8]) {
    let mut rest = bytes;
    if let Some(Ok((_, header, _))) = frame::read_head(&mut rest, MAX_HEADER).now_or_never() {
        assert!(header.len() <= MAX_HEADER);
    }
}
