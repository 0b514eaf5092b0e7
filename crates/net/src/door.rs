//! The door of a closed mesh: the first bytes of every connection, before anything else is said.
//!
//! Whoever dials opens the connection's first substream and knocks; whoever listens answers. Both
//! prove to know the mesh's secret, or the key of an invite, by a keyed BLAKE3 over mesh, role and
//! both peer ids. The ids are those the connection's encryption has authenticated, so a proof is
//! worth nothing to anybody else, and on no other connection with anybody else. A guest who knocks
//! with an invite is handed the secret inside the welcome; from then on its door is a member's.
//!
//! Frames, each way one: `length: u16`, big-endian, at most [`MOST`], and then
//!
//! * knock: `version: u8`, `1`, proof (32); or `version`, `2`, proof (32), [`InviteClaims`];
//! * answer: `version`, `0`, proof (32) to a member, proof (32) and secret (32) to a guest; or
//!   `version` and the code of a [`Refused`].
//!
//! This file decides who is let in and what is said; [`passage`] puts it in a connection's way.

mod passage;

use std::{
    fmt, io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, future::BoxFuture};
use libp2p::PeerId;
use polymath_types::{ErrorKind, Format, InviteClaims, InviteKey, MeshId, MeshSecret};
use tokio::sync::Notify;

/// Longest frame, bytes: a fraction of it is used.
const MOST: usize = 1024;
const MEMBER: u8 = 1;
const GUEST: u8 = 2;
const WELCOME: u8 = 0;
/// Bytes of a proof, and of a secret.
const PROOF: usize = 32;

/// Why the door stays shut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The proof is wrong: another secret, or an invite that was altered or is of another mesh.
    #[error(
        "this mesh is closed, and the secret or invite shown is not its own: ask a member for an invite"
    )]
    Stranger,
    /// The invite's time is over.
    #[error("the invite has expired: ask for another")]
    Expired,
    /// As many peers as it allows have come by the invite.
    #[error("the invite is used up: ask for another")]
    UsedUp,
    /// Its issuer no longer knows the invite.
    #[error("the invite is unknown to its issuer, or was withdrawn: ask for another")]
    Unknown,
    /// Uses of this invite are counted by its issuer, who must be asked.
    #[error(
        "an invite whose uses are counted is good at its issuer only, and this is another member: wait until {0} can be reached"
    )]
    NotTheIssuer(PeerId),
    /// The peer itself is shut out of the mesh.
    #[error("this mesh's admins have revoked this node: ask one of them to let it in again")]
    Revoked,
    /// The member cannot let anybody in just now.
    #[error("the member cannot let anybody in now: try again, or ask another")]
    Busy,
    /// The other side speaks another version of the door.
    #[error("{0}")]
    Version(polymath_types::VersionMismatch),
    /// The other side cannot prove that it is a member itself.
    #[error("the peer cannot prove that it belongs to this closed mesh: check the address")]
    Impostor,
    /// What the other side says is no answer of a door.
    #[error("the peer does not answer as a member of a closed mesh does: {0}")]
    NoDoor(String),
}

impl Refused {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Stranger | Self::Expired | Self::UsedUp | Self::Unknown | Self::Revoked => {
                ErrorKind::PermissionDenied
            }
            Self::NotTheIssuer(_) | Self::Busy | Self::NoDoor(_) => ErrorKind::Unavailable,
            Self::Version(_) => ErrorKind::VersionMismatch,
            Self::Impostor => ErrorKind::FailedPrecondition,
        }
    }

    /// Whether knocking again with the same invite is in vain, wherever.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Expired | Self::UsedUp | Self::Unknown)
    }

    /// On the wire. What only one side can find out has no code.
    fn code(&self) -> u8 {
        match self {
            Self::Stranger | Self::Impostor | Self::NoDoor(_) => 1,
            Self::Expired => 2,
            Self::UsedUp => 3,
            Self::Unknown => 4,
            Self::NotTheIssuer(_) => 5,
            Self::Busy => 6,
            Self::Version(_) => 7,
            Self::Revoked => 8,
        }
    }
}

/// For transports, whose errors are these.
impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, refused)
    }
}

/// Decides on invites whose proof is right.
pub trait Doorkeeper: fmt::Debug + Send + Sync {
    /// Whether `guest` may come in by an invite with these claims, which are as their issuer made
    /// them. A use that is counted is durable before this is `Ok`.
    fn admit(&self, guest: PeerId, claims: InviteClaims)
    -> BoxFuture<'static, Result<(), Refused>>;
}

/// The door of a closed mesh, from inside or from outside. Clones are the same door.
#[derive(Clone)]
pub struct Door {
    inner: Arc<Inner>,
}

struct Inner {
    mesh: MeshId,
    /// Empty for a guest who has not been let in yet.
    secret: OnceLock<MeshSecret>,
    let_in: Notify,
    invite: Option<(InviteClaims, InviteKey)>,
    keeper: Option<Arc<dyn Doorkeeper>>,
    /// The last refusal of a knock of ours, and whose.
    refusal: Mutex<Option<(PeerId, Refused)>>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("mesh", &self.inner.mesh)
            .field("inside", &self.inner.secret.get().is_some())
            .finish_non_exhaustive()
    }
}

impl Door {
    /// A member's door.
    pub fn member(mesh: MeshId, secret: MeshSecret, keeper: Option<Arc<dyn Doorkeeper>>) -> Self {
        Self::new(mesh, Some(secret), None, keeper)
    }

    /// The door of somebody who has an invite. Until a member has handed out the secret it lets
    /// nobody in; from then on it is a member's.
    pub fn guest(
        mesh: MeshId,
        claims: InviteClaims,
        key: InviteKey,
        keeper: Option<Arc<dyn Doorkeeper>>,
    ) -> Self {
        Self::new(mesh, None, Some((claims, key)), keeper)
    }

    fn new(
        mesh: MeshId,
        secret: Option<MeshSecret>,
        invite: Option<(InviteClaims, InviteKey)>,
        keeper: Option<Arc<dyn Doorkeeper>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                mesh,
                secret: secret.map_or_else(OnceLock::new, OnceLock::from),
                let_in: Notify::new(),
                invite,
                keeper,
                refusal: Mutex::default(),
            }),
        }
    }

    /// The mesh's secret, once it is known.
    pub fn secret(&self) -> Option<MeshSecret> {
        self.inner.secret.get().cloned()
    }

    /// Waits for the secret.
    pub async fn let_in(&self) -> MeshSecret {
        loop {
            let waiting = self.inner.let_in.notified();
            if let Some(secret) = self.secret() {
                return secret;
            }
            waiting.await;
        }
    }

    /// The last refusal of a knock of ours, and by whom.
    pub fn refusal(&self) -> Option<(PeerId, Refused)> {
        let refusal = self.inner.refusal.lock();
        refusal.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The dialer's part: proves to `them` that we may come in, and has them prove that they are
    /// members.
    pub(crate) async fn knock<S>(&self, stream: S, me: PeerId, them: PeerId) -> Result<(), Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let outcome = self.try_knock(stream, me, them).await;
        if let Err(refused) = &outcome {
            let mut last = self
                .inner
                .refusal
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *last = Some((them, refused.clone()));
        }
        outcome
    }

    async fn try_knock<S>(&self, mut stream: S, me: PeerId, them: PeerId) -> Result<(), Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Inner {
            mesh,
            secret,
            invite,
            ..
        } = &*self.inner;
        let mut knock = vec![version()];
        let key = match (secret.get(), invite) {
            (Some(secret), _) => {
                knock.push(MEMBER);
                door_key(secret.as_bytes())
            }
            (None, Some((_, key))) => {
                knock.push(GUEST);
                door_key(key.as_bytes())
            }
            (None, None) => return Err(Refused::Stranger),
        };
        knock.extend(proof(&key, Part::Knock, *mesh, me, them, &[]).as_bytes());
        if let (GUEST, Some((claims, _))) = (knock[1], invite) {
            knock.extend(claims.to_bytes());
        }
        let as_guest = knock[1] == GUEST;
        send(&mut stream, &knock).await?;
        let answer = receive(&mut stream).await?;
        let (verdict, rest) = match answer.as_slice() {
            [v, ..] if *v != version() => return Err(other_version(*v)),
            [_, verdict, rest @ ..] => (*verdict, rest),
            _ => return Err(Refused::NoDoor("its answer is too short".into())),
        };
        if verdict != WELCOME {
            return Err(self.refused(verdict));
        }
        let (shown, handed) = rest
            .split_first_chunk::<PROOF>()
            .ok_or_else(|| Refused::NoDoor("its answer is too short".into()))?;
        if proof(&key, Part::Answer, *mesh, them, me, handed) != blake3::Hash::from_bytes(*shown) {
            return Err(Refused::Impostor);
        }
        match (as_guest, <[u8; PROOF]>::try_from(handed)) {
            (true, Ok(handed)) => {
                let _ = secret.set(MeshSecret::from_bytes(handed));
                self.inner.let_in.notify_waiters();
                Ok(())
            }
            (false, _) if handed.is_empty() => Ok(()),
            _ => Err(Refused::NoDoor(
                "its answer has not the right length".into(),
            )),
        }
    }

    /// The refusal with this code.
    fn refused(&self, code: u8) -> Refused {
        match (code, &self.inner.invite) {
            (1, _) => Refused::Stranger,
            (2, _) => Refused::Expired,
            (3, _) => Refused::UsedUp,
            (4, _) => Refused::Unknown,
            (5, Some((claims, _))) => Refused::NotTheIssuer(claims.issuer),
            (6, _) => Refused::Busy,
            (8, _) => Refused::Revoked,
            _ => Refused::NoDoor(format!("its reason has the number {code}")),
        }
    }

    /// The listener's part: has `them` prove that they may come in. What is refused is told to
    /// them first. Who is `revoked` stays out whatever it shows.
    pub(crate) async fn answer<S>(
        &self,
        mut stream: S,
        me: PeerId,
        them: PeerId,
        revoked: bool,
    ) -> Result<(), Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // A guest that is not a member itself yet has nothing to check a knock by.
        let Some(secret) = self.inner.secret.get() else {
            return Err(Refused::Busy);
        };
        let knock = receive(&mut stream).await?;
        match self.judge(secret, &knock, me, them, revoked).await {
            Ok(welcome) => send(&mut stream, &[&[version(), WELCOME], &welcome[..]].concat()).await,
            // To whoever does not speak of doors there is nothing to say.
            Err(Refused::NoDoor(why)) => Err(Refused::NoDoor(why)),
            Err(refused) => {
                if send(&mut stream, &[version(), refused.code()])
                    .await
                    .is_ok()
                {
                    // The connection ends with this; the refusal must be read first.
                    let _ = stream.close().await;
                    let _ = stream.read(&mut [0]).await;
                }
                Err(refused)
            }
        }
    }

    async fn judge(
        &self,
        secret: &MeshSecret,
        knock: &[u8],
        me: PeerId,
        them: PeerId,
        revoked: bool,
    ) -> Result<Vec<u8>, Refused> {
        let mesh = self.inner.mesh;
        let (kind, rest) = match knock {
            [v, ..] if *v != version() => return Err(other_version(*v)),
            [_, kind, rest @ ..] => (*kind, rest),
            _ => return Err(Refused::NoDoor("its knock is too short".into())),
        };
        let (shown, rest) = rest
            .split_first_chunk::<PROOF>()
            .ok_or_else(|| Refused::NoDoor("its knock is too short".into()))?;
        let claims = match (kind, rest) {
            (MEMBER, []) => None,
            (GUEST, bytes) => Some(InviteClaims::from_bytes(bytes).ok_or(Refused::Stranger)?),
            _ => return Err(Refused::NoDoor("its knock is of no known kind".into())),
        };
        let key = match &claims {
            None => door_key(secret.as_bytes()),
            Some(claims) => door_key(claims.key(mesh, secret).as_bytes()),
        };
        if proof(&key, Part::Knock, mesh, them, me, &[]) != blake3::Hash::from_bytes(*shown) {
            return Err(Refused::Stranger);
        }
        // Before an invite counts a use, and behind the proof: strangers are told nothing of members.
        if revoked {
            return Err(Refused::Revoked);
        }
        let handed = match claims {
            None => &[][..],
            Some(claims) => {
                let keeper = self.inner.keeper.as_ref().ok_or(Refused::Busy)?;
                keeper.admit(them, claims).await?;
                secret.as_bytes()
            }
        };
        let proof = proof(&key, Part::Answer, mesh, me, them, handed);
        Ok([proof.as_bytes(), handed].concat())
    }
}

/// Whose proof: so that none can be sent back to its maker.
#[derive(Clone, Copy)]
enum Part {
    Knock = 1,
    Answer = 2,
}

fn door_key(from: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("polymath door v1", from)
}

/// Compared as `blake3::Hash` it is compared in constant time.
fn proof(
    key: &[u8; 32],
    part: Part,
    mesh: MeshId,
    prover: PeerId,
    verifier: PeerId,
    handed: &[u8],
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[part as u8]).update(mesh.as_bytes());
    for part in [&prover.to_bytes()[..], &verifier.to_bytes(), handed] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

fn version() -> u8 {
    u8::try_from(Format::Wire.current()).unwrap_or(u8::MAX)
}

fn other_version(found: u8) -> Refused {
    match Format::Wire.check(found.into()) {
        Err(mismatch) => Refused::Version(mismatch),
        Ok(()) => Refused::NoDoor("its version is ours and was not understood".into()),
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<(), Refused> {
    let length = u16::try_from(frame.len()).unwrap_or(u16::MAX).to_be_bytes();
    let sent = async {
        stream.write_all(&[&length[..], frame].concat()).await?;
        stream.flush().await
    };
    sent.await.map_err(broken)
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Refused> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.map_err(broken)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MOST {
        return Err(Refused::NoDoor(format!(
            "it announces {length} bytes, {MOST} are the most"
        )));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await.map_err(broken)?;
    Ok(frame)
}

fn broken(error: io::Error) -> Refused {
    Refused::NoDoor(match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection".into(),
        _ => error.to_string(),
    })
}

#[cfg(test)]
mod tests;
