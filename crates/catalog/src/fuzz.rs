//! Doors for the fuzzer to what reads a stranger's bytes.

use std::time::Duration;

use polymath_proto::v1::{LiveFrame, ShortChange, SignedChange, SyncFrame, sync_frame::Frame};
use polymath_types::{LoadReport, MeshId, NodeKey, PeerId};
use prost::Message as _;

use crate::{
    Catalog, CatalogConfig, CatalogLimits, chunk,
    document::{Document, Head},
    envelope,
    kind::{Kind, charter::CharterKind, observations::ObservationKind, offer::OfferKind},
    live::{Live, LiveConfig},
    short::{self, Arrived},
};

/// A change of somebody's document: its own bytes, in its envelope, and in a frame. Automerge is behind
/// all of them, and behind `catch_unwind`.
pub fn change(bytes: &[u8]) {
    let limits = CatalogLimits::default();
    let _ = chunk::read(bytes, 10_000);
    let mut changes: Vec<SignedChange> = SignedChange::decode(bytes).into_iter().collect();
    let frame = SyncFrame::decode(bytes).ok().and_then(|f| f.frame);
    if let Some(Frame::Offers(offers)) = frame {
        changes.extend(offers.changes);
    }
    for change in changes {
        let _ = chunk::read(&change.change, 10_000);
        let mesh = MeshId::from_bytes([0; 32]);
        signed::<OfferKind>(&change, &limits, &mesh);
        signed::<CharterKind>(&change, &limits, &mesh);
        signed::<ObservationKind>(&change, &limits, &mesh);
    }
}

fn signed<K: Kind>(change: &SignedChange, limits: &CatalogLimits, mesh: &MeshId) {
    if let Ok(author) = envelope::check_form::<K>(change, limits) {
        let _ = envelope::check_signature::<K>(change, &author, mesh);
    }
}

/// A change in the short form, its columns, or a frame of such changes: what they are rebuilt to is bounded,
/// and has one short form, which is rebuilt to the same.
pub fn short_change(bytes: &[u8]) {
    columns::<OfferKind>(1, 1, bytes);
    let frame = SyncFrame::decode(bytes).ok().and_then(|f| f.frame);
    let mut all: Vec<ShortChange> = ShortChange::decode(bytes).into_iter().collect();
    if let Some(Frame::Offers(offers)) = frame {
        all.extend(offers.short);
    }
    for short in all {
        columns::<OfferKind>(short.epoch, short.sequence, &short.columns);
        columns::<CharterKind>(short.epoch, short.sequence, &short.columns);
        columns::<ObservationKind>(short.epoch, short.sequence, &short.columns);
        let _ = Arrived::from(short);
    }
}

fn columns<K: Kind>(epoch: u64, sequence: u64, columns: &[u8]) {
    let Some(author) = envelope::author(&[7; 32]) else {
        return;
    };
    let head = Head {
        hash: [9; 32],
        last_op: sequence,
    };
    for head in [None, Some(head)] {
        let Some(change) = short::rebuild::<K>(&author, (epoch, sequence), head, columns) else {
            continue;
        };
        assert!(change.len() <= columns.len() + short::LEFT_OUT);
        let whole = SignedChange {
            author: author.to_bytes().into(),
            epoch,
            sequence,
            change: change.into(),
            ..SignedChange::default()
        };
        let again = short::shorten::<K>(&whole).and_then(|short| {
            short::rebuild::<K>(&author, (epoch, sequence), head, &short.columns)
        });
        assert!(again.is_none_or(|again| again == whole.change));
    }
}

/// Changes with right checksums, one after another, as far as their structure is bounded: what
/// Automerge makes of them in the sandbox. Unlike a catalog this asks for no continuity, so more
/// reaches Automerge than strangers can bring to it.
pub fn scratch_apply(changes: &[Vec<u8>]) {
    apply::<OfferKind>(changes);
    apply::<CharterKind>(changes);
    apply::<ObservationKind>(changes);
}

fn apply<K: Kind>(changes: &[Vec<u8>]) {
    let limits = CatalogLimits::default();
    let mut document = Document::new::<K>(&PeerId::random(), 1);
    for change in changes {
        let Ok(facts) = chunk::read(change, K::bounds(&limits).operations) else {
            continue;
        };
        let last_op = facts.start_op.saturating_add(facts.operations);
        let mut expected = Head {
            hash: [0; 32],
            last_op: last_op.saturating_sub(1),
        };
        expected.hash[..4].copy_from_slice(&facts.checksum);
        if let Ok((changed, ..)) = document.with_change::<K>(change, expected, &limits) {
            document = changed;
        }
    }
}

/// A frame of a peer's, and what the catalog makes of it.
pub fn sync_frame(bytes: &[u8]) {
    let Ok(frame) = SyncFrame::decode(bytes) else {
        return;
    };
    let config = CatalogConfig {
        unix: 0,
        key: NodeKey::generate(),
        // Of the golden files, so that what they hold is taken.
        mesh: MeshId::from_bytes([7; 32]),
        founders: vec![NodeKey::generate().peer_id()],
        observations: true,
        limits: CatalogLimits::default(),
    };
    let (mut catalog, _) = Catalog::open(config, []);
    let peer = PeerId::random();
    let _ = catalog.peer_connected(peer);
    let _ = catalog.receive(peer, frame);
    while catalog.next_answer(&peer).is_some() {}
    let _ = catalog.tick();
    catalog.peer_disconnected(peer);
}

/// A frame of fast state, and what its table makes of it.
pub fn live_frame(bytes: &[u8]) {
    let Ok(frame) = LiveFrame::decode(bytes) else {
        return;
    };
    let mut live = Live::new(LiveConfig {
        key: NodeKey::generate(),
        // Of the golden file, so that what it holds is taken.
        mesh: MeshId::from_bytes([7; 32]),
        run: 1,
        started: 1,
        incarnation: 1,
        seed: 1,
        authors: 16,
    });
    let (peer, now) = (PeerId::random(), Duration::from_secs(1));
    let _ = live.peer_connected(now, peer, false);
    let _ = live.receive(now, peer, frame);
    let _ = live.tick(now, LoadReport::default());
    let _ = live.leave(now);
}
