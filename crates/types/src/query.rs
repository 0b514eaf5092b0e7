//! What is asked, and under which constraints.

use std::{collections::BTreeMap, fmt, time::Duration};

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::ExpertKind;

/// Names one request in logs, headers and reports: 16 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId(String);

impl RequestId {
    /// From 8 random bytes.
    pub fn from_random(bytes: [u8; 8]) -> Self {
        Self(format!("{:016x}", u64::from_be_bytes(bytes)))
    }

    /// Accepts a foreign id: 1 to 64 visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who said a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The person who asks.
    User,
    /// The expert.
    Assistant,
}

impl Role {
    /// The name chat templates use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A user's turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            content: content.into(),
        }
    }
}

/// What a caller changes of an expert's sampling defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplingOverrides {
    /// Most tokens to generate.
    pub max_tokens: Option<u32>,
    /// 0 is greedy.
    pub temperature: Option<f64>,
    /// Nucleus mass, (0, 1].
    pub top_p: Option<f64>,
    /// Only the k likeliest tokens; 0 means all.
    pub top_k: Option<u32>,
    /// Seed of the counter-based generator; drawn at random when absent.
    pub seed: Option<u64>,
    /// Strings that end the answer; they are not part of it.
    pub stop: Vec<String>,
}

/// How far a query may travel.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Privacy {
    /// Not off this node.
    Local,
    /// To this node and those that its operator calls own.
    Own,
    /// To those, and to holders of a role in the mesh.
    Mesh,
    /// To whoever serves.
    #[default]
    Any,
}

impl Privacy {
    /// Every class, the narrowest first.
    pub const ALL: [Self; 4] = [Self::Local, Self::Own, Self::Mesh, Self::Any];

    /// Its name, as in flags and headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Own => "own",
            Self::Mesh => "mesh",
            Self::Any => "any",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == name)
    }
}

/// What matters more than usual, where no expert is named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preference {
    /// Quality, and of what is about equally good the faster and cheaper.
    #[default]
    Balanced,
    /// A quick answer.
    Fast,
    /// A cheap answer.
    Cheap,
    /// The best answer, whatever it costs and however long it takes.
    Best,
}

impl Preference {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Balanced, Self::Fast, Self::Cheap, Self::Best];

    /// Its name, as in flags and in `auto:NAME`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Fast => "fast",
            Self::Cheap => "cheap",
            Self::Best => "best",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == name)
    }
}

/// How many experts answer a question, and how their answers become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The one that is expected to answer best.
    #[default]
    One,
    /// Several at once; what most of them say is the answer.
    Vote,
    /// Cheap ones first, and the strongest where they disagree.
    Cascade,
    /// One divides the question into steps, each of which goes to whom it suits, and puts the answers together.
    Plan,
    /// One, several or nobody, by how sure the router is.
    Auto,
}

impl How {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::One, Self::Vote, Self::Cascade, Self::Plan, Self::Auto];

    /// Its name, as in flags and headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Vote => "vote",
            Self::Cascade => "cascade",
            Self::Plan => "plan",
            Self::Auto => "auto",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.as_str() == name)
    }
}

/// What an expert and a peer must satisfy to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraints {
    /// An expert's name, a model's name, or at least 8 digits of an expert id.
    pub model: Option<String>,
    /// Only this peer.
    pub peer: Option<PeerId>,
    /// None but these peers, if any are named.
    pub allow: Vec<PeerId>,
    /// None of these peers.
    pub exclude: Vec<PeerId>,
    /// How far the query may travel.
    pub privacy: Privacy,
    /// Labels the peer must state; an empty value takes any.
    pub peer_labels: BTreeMap<String, String>,
    /// What matters more than usual.
    pub prefer: Preference,
    /// How many are asked; nothing where the caller left it open, which means one.
    pub how: Option<How>,
    /// Most that may be asked for 1,000 tokens each way, millionths of a credit.
    pub max_price: Option<u64>,
    /// Time from the moment of asking until the answer must be complete.
    pub timeout: Duration,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            model: None,
            peer: None,
            allow: Vec::new(),
            exclude: Vec::new(),
            privacy: Privacy::Any,
            peer_labels: BTreeMap::new(),
            prefer: Preference::Balanced,
            how: None,
            max_price: None,
            timeout: Duration::from_secs(120),
        }
    }
}

/// One question to the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// Names the request everywhere.
    pub id: RequestId,
    /// What is wanted.
    pub kind: ExpertKind,
    /// The conversation so far (`Generate`), or the texts to embed or classify, one a message.
    pub messages: Vec<Message>,
    /// Candidate labels of a zero-shot classification; empty asks an expert with labels of its own.
    pub labels: Vec<String>,
    /// Departures from the expert's sampling defaults.
    pub sampling: SamplingOverrides,
    /// What the choice must satisfy.
    pub constraints: Constraints,
}

impl Query {
    /// The text that says what the query is about: the last user turn.
    pub fn topic(&self) -> &str {
        self.messages
            .iter()
            .rev()
            .find(|m| m.role == Role::User)
            .map_or("", |m| &m.content)
    }
}
