//! What every floor of Polymath speaks about: identities, expert cards, queries, answers, the
//! routing [`Index`] and the error taxonomy.
//!
//! This crate decides the *meaning* and the *canonical bytes* of those things. It leaves to others
//! how they travel (`proto`, `rpc`), who may say them (`catalog`) and what is done with them
//! (`router`, `node`). It knows neither tokio nor sockets; of libp2p it knows only identities.

mod address;
mod anchors;
mod answer;
mod card;
mod charter;
mod error;
mod identity;
mod index;
mod invite;
mod mesh;
mod observations;
mod path;
mod query;
mod signed;
mod table;
mod version;

pub use anchors::{AnchorList, AnchorsError};
pub use answer::{FinishReason, LoadReport, Usage};
pub use card::{
    CARD_LIMITS, Capability, CardError, CardLimits, ExpertCard, ExpertId, ExpertKind, FileRef,
    FileRole, LabelSet, Model, NOT_PROMISED, Runtime, Sampling, WeightsId,
};
pub use charter::{ADMIN, Admin, Charter, Stated};
pub use error::{Attempt, ErrorKind, Failure};
pub use identity::{IdentityError, NodeKey};
pub use index::{Index, IndexedExpert, PeerOffer, Property, Replica, Terms};
pub use invite::{Invite, InviteClaims, InviteError, InviteKey};
pub use libp2p_identity::{Keypair, PeerId, PublicKey};
pub use mesh::{Access, Genesis, GenesisError, MeshId, MeshSecret};
pub use observations::{Cell, CodebookId, Evidence, Observations, Seen, Weighed, WeighedExpert};
pub use path::{PathKind, Transport};
pub use query::{
    Constraints, How, Message, Preference, Privacy, Query, RequestId, Role, SamplingOverrides,
};
pub use table::{Shard, Table, TableKey};
pub use version::{Format, VersionMismatch};
