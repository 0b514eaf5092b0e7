//! How two peers are connected.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether bytes flow straight between two peers or through a third.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// The expert runs in this very process.
    Local,
    /// One side dialled the other's address.
    Direct,
    /// Both sides opened their NATs at once.
    HolePunched,
    /// Through a relay's circuit.
    Relayed,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Direct => "direct",
            Self::HolePunched => "hole-punched",
            Self::Relayed => "relayed",
        })
    }
}

/// The transport under a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// No network at all.
    None,
    /// TCP with noise and yamux.
    Tcp,
    /// QUIC v1 over UDP.
    Quic,
    /// WebSocket inside TLS.
    Wss,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Wss => "wss",
        })
    }
}
