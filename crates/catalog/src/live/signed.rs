//! Statements as they are signed: for one mesh, by the key in the author's peer id.

use polymath_proto::v1::{
    LiveMessage, LiveStatement, LiveStatus, LiveSuspicion, live_statement::What,
};
use polymath_types::{MeshId, NodeKey, PeerId};
use prost::Message as _;

use super::{LiveRefusal, order::Order};
use crate::envelope;

const DOMAIN: &[u8] = b"polymath live statement v1\0";
/// Longest statement, bytes; the longest this build writes has about 120.
pub(super) const STATEMENT_BYTES: usize = 256;

/// What a message says, before its signature was looked at.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Status(LiveStatus),
    Suspicion(Suspicion),
}

#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    pub(super) subject: PeerId,
    /// The subject's latest status that the witness knew.
    pub(super) known: Order,
}

fn signed_bytes(mesh: &MeshId, statement: &[u8]) -> Vec<u8> {
    [DOMAIN, mesh.as_bytes(), statement].concat()
}

fn sign(key: &NodeKey, mesh: &MeshId, what: What) -> Option<LiveMessage> {
    let statement = LiveStatement { what: Some(what) }.encode_to_vec();
    let signature = key.keypair().sign(&signed_bytes(mesh, &statement)).ok()?;
    Some(LiveMessage {
        author: key.peer_id().to_bytes().into(),
        statement: statement.into(),
        signature: signature.into(),
    })
}

pub(super) fn status(key: &NodeKey, mesh: &MeshId, status: LiveStatus) -> Option<LiveMessage> {
    sign(key, mesh, What::Status(status))
}

pub(super) fn suspicion(
    key: &NodeKey,
    mesh: &MeshId,
    suspicion: &Suspicion,
) -> Option<LiveMessage> {
    let wire = LiveSuspicion {
        subject: suspicion.subject.to_bytes().into(),
        incarnation: suspicion.known.incarnation,
        sequence: suspicion.known.sequence,
    };
    sign(key, mesh, What::Suspicion(wire))
}

/// Size and form: everything that costs nothing to check.
pub(super) fn read(message: &LiveMessage) -> Result<(PeerId, Said), LiveRefusal> {
    if message.statement.len() > STATEMENT_BYTES || message.signature.len() != 64 {
        return Err(LiveRefusal::Form);
    }
    let author = envelope::peer_id(&message.author).ok_or(LiveRefusal::Form)?;
    let statement = LiveStatement::decode(message.statement.clone());
    let said = match statement.map_err(|_| LiveRefusal::Form)?.what {
        Some(What::Status(status)) => Said::Status(status),
        Some(What::Suspicion(s)) => {
            let subject = envelope::peer_id(&s.subject).ok_or(LiveRefusal::Form)?;
            if subject == author {
                return Err(LiveRefusal::Form);
            }
            // Of whoever leaves nobody needs to be told that it is gone.
            let known = Order {
                incarnation: s.incarnation,
                leaving: false,
                sequence: s.sequence,
            };
            Said::Suspicion(Suspicion { subject, known })
        }
        // Of a later build; nobody's fault.
        None => return Err(LiveRefusal::Unknown),
    };
    Ok((author, said))
}

/// Whether `author` signed it for `mesh`.
pub(super) fn verify(
    message: &LiveMessage,
    author: &PeerId,
    mesh: &MeshId,
) -> Result<(), LiveRefusal> {
    let key = envelope::inlined_key(author).ok_or(LiveRefusal::Signature)?;
    let bytes = signed_bytes(mesh, &message.statement);
    if key.verify(&bytes, &message.signature) {
        Ok(())
    } else {
        Err(LiveRefusal::Signature)
    }
}
