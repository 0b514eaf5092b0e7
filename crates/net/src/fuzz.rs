//! Doors for the fuzzer to what reads a stranger's bytes.

use std::collections::HashMap;

use futures::FutureExt as _;

use crate::{dialback, discovery, hello, names::Names, whereabouts};

/// An answer to [`Net::hello`](crate::Net::hello).
pub fn hello(bytes: &[u8]) {
    let stream = tokio::io::join(bytes, tokio::io::sink());
    let _ = hello::exchange(crate::PeerId::random(), stream).now_or_never();
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
    let _ = Names::new(polymath_types::MeshId::from_bytes([0; 32])).classify(text);
}
