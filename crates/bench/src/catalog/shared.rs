//! The naive way: one Automerge document, in which every peer writes its own entry.

use std::time::{Duration, Instant};

use automerge::{
    ActorId, AutoCommit, AutomergeError, Change, ObjType, ROOT, ReadDoc,
    sync::{Message, State, SyncDoc},
    transaction::Transactable,
};
use polymath_types::{ExpertId, Failure, NodeKey};

use super::{authors, failed};

/// A replica that knows everything, and how each peer wrote its entry.
pub(super) struct Shared {
    document: AutoCommit,
    replica: AutoCommit,
    entries: Vec<(ActorId, String)>,
    version: u64,
}

fn entry(number: usize) -> Result<(ActorId, String, Change), AutomergeError> {
    let key = NodeKey::generate();
    let actor = ActorId::from(&key.peer_id().to_bytes()[22..]);
    let name = key.peer_id().to_string();
    let mut document = AutoCommit::new().with_actor(actor.clone());
    let own = document.put_object(ROOT, name.as_str(), ObjType::Map)?;
    document.put(&own, "agent", "polymath/0.1.0")?;
    let addresses = document.put_object(&own, "addresses", ObjType::List)?;
    let (high, low) = (number / 256, number % 256);
    for (at, address) in [
        format!("/ip4/10.7.{high}.{low}/tcp/4001"),
        format!("/ip4/10.7.{high}.{low}/udp/4001/quic-v1"),
        format!("/ip6/2001:db8:7:{number:x}::1/udp/4001/quic-v1"),
    ]
    .into_iter()
    .enumerate()
    {
        document.insert(&addresses, at, address)?;
    }
    let experts = document.put_object(&own, "experts", ObjType::Map)?;
    for id in authors::cards(number).map(|c| c.id()) {
        let id: ExpertId = id;
        document.put(&experts, id.to_string(), true)?;
    }
    document.commit();
    let change = document.get_last_local_change();
    let change = change.ok_or(AutomergeError::NotAnObject)?;
    Ok((actor, name, change))
}

impl Shared {
    pub(super) fn new(count: usize) -> Result<Self, Failure> {
        Self::build(count).map_err(|e| failed("the shared document", e))
    }

    fn build(count: usize) -> Result<Self, AutomergeError> {
        let (mut entries, mut changes) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (actor, name, change) = entry(number)?;
            entries.push((actor, name));
            changes.push(change);
        }
        let mut document = AutoCommit::new();
        document.apply_changes(changes)?;
        let replica = document.fork();
        Ok(Self {
            document,
            replica,
            entries,
            version: 0,
        })
    }

    /// So many peers change an entry, then two replicas synchronise: bytes, both ways.
    pub(super) fn differing(&mut self, count: usize) -> Result<usize, Failure> {
        let changed = self.change(count);
        changed
            .and_then(|()| synchronise(&mut self.document, &mut self.replica))
            .map(|(bytes, _)| bytes)
            .map_err(|e| failed("the shared document", e))
    }

    fn change(&mut self, count: usize) -> Result<(), AutomergeError> {
        self.version += 1;
        for (actor, name) in self.entries.iter().take(count) {
            // By its own peer, who knows nothing else that is new.
            let own = self.document.get(ROOT, name.as_str())?;
            let (_, own) = own.ok_or(AutomergeError::NotAnObject)?;
            self.document.set_actor(actor.clone());
            let agent = format!("polymath/0.1.{}", self.version);
            self.document.put(&own, "agent", agent)?;
            self.document.commit();
        }
        Ok(())
    }

    /// A replica without anything synchronises: bytes both ways, and the time it worked itself.
    pub(super) fn newcomer(&mut self) -> Result<(usize, Duration), Failure> {
        let mut newcomer = AutoCommit::new();
        synchronise(&mut self.document, &mut newcomer).map_err(|e| failed("the shared document", e))
    }
}

/// Bytes both ways, and the time the second worked.
fn synchronise(
    one: &mut AutoCommit,
    other: &mut AutoCommit,
) -> Result<(usize, Duration), AutomergeError> {
    let (mut ones, mut others) = (State::new(), State::new());
    let (mut bytes, mut busy) = (0, Duration::ZERO);
    loop {
        let from_one = one.sync().generate_sync_message(&mut ones);
        let begun = Instant::now();
        let silent = from_one.is_none();
        if let Some(message) = from_one.map(Message::encode) {
            bytes += message.len();
            let message = Message::decode(&message).map_err(|_| AutomergeError::Fail)?;
            other.sync().receive_sync_message(&mut others, message)?;
        }
        let from_other = other.sync().generate_sync_message(&mut others);
        let from_other = from_other.map(Message::encode);
        busy += begun.elapsed();
        match from_other {
            Some(message) => {
                bytes += message.len();
                let message = Message::decode(&message).map_err(|_| AutomergeError::Fail)?;
                one.sync().receive_sync_message(&mut ones, message)?;
            }
            None if silent => return Ok((bytes, busy)),
            None => {}
        }
    }
}
