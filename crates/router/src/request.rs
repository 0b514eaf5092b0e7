//! What a decision is made from, and what comes back from a call.

use std::time::Duration;

use crate::learning::Sparse;
use polymath_types::{ErrorKind, ExpertId, LoadReport, PathKind, PeerId, Query};

/// What was computed of a query before routing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features {
    /// Names the encoder, so that vectors of different encoders are never compared.
    pub encoder: String,
    /// The query's vector, L2-normalised; empty when no encoder is at hand.
    pub vector: Vec<f32>,
    /// The query's words under the encoder that learning goes by, of length 1; empty where there is none.
    pub words: Sparse,
    /// That encoder's cues.
    pub cues: Vec<f32>,
    /// Tokens the rendered prompt has at least: who is excluded by it could not take the prompt.
    pub prompt_tokens: u32,
    /// ISO 639-1 code, only where it is confidently known.
    pub language: Option<String>,
}

/// One query with its features.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What is asked, and under which constraints.
    pub query: &'a Query,
    /// What was computed of it.
    pub features: &'a Features,
    /// Whether another than the expected best may be tried, so that something is learnt.
    pub explore: bool,
}

/// How a peer can be reached now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It is this very node.
    Here,
    /// Connected.
    Connected {
        /// Over which kind of path.
        path: PathKind,
    },
    /// Not connected; it may be dialled.
    Known,
    /// It cannot be reached.
    Unreachable {
        /// In a few words, for people.
        why: String,
    },
    /// Others have lost it, or it has been silent: asked only where nobody else serves.
    Suspended {
        /// In a few words, for people.
        why: String,
    },
    /// It says that it leaves.
    Leaving,
}

/// What this node knows of a peer as it decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// How it can be reached.
    pub reach: Reach,
    /// Its operator is this node's: it may have what leaves this machine only for own ones.
    pub own: bool,
    /// Measured round trip.
    pub rtt: Option<Duration>,
    /// The latest load it reported; advisory, breaks ties only.
    pub load: Option<LoadReport>,
}

/// What was measured of a call that an expert answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// From the call to the first token; for vectors and labels, to the answer.
    pub ttft: Duration,
    /// Tokens received; 0 for vectors and labels.
    pub tokens: u32,
    /// From the first token to the last.
    pub decode: Duration,
}

/// How one call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The expert asked.
    pub expert: ExpertId,
    /// The peer asked.
    pub peer: PeerId,
    /// The measured answer, or what sort of failure it was.
    pub result: Result<Served, ErrorKind>,
}
