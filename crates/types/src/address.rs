//! Addresses as text: what this floor, which knows no transports, can say of them.

/// Longest address passed on, bytes.
const MAX_BYTES: usize = 256;

/// Whether `text` may be handed on as the address of a peer: short, printable, begins like a
/// multiaddr and names whose it is. Whether it can be dialled is for others to find out.
pub(crate) fn names_a_peer(text: &str) -> bool {
    text.len() <= MAX_BYTES
        && text.starts_with('/')
        && text.bytes().all(|b| b.is_ascii_graphic())
        && text
            .rsplit_once("/p2p/")
            .is_some_and(|(_, peer)| peer.parse::<libp2p_identity::PeerId>().is_ok())
}
