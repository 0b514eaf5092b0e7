//! Nodes, their disks, and the frames on their way between them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use polymath_catalog::{
    Action, Catalog, CatalogConfig, CatalogLimits, FRAME_BYTES, Offer, Recovered,
};
use polymath_proto::v1::{
    Heads, OfferHead, Offers, ShortChange, SignedChange, SyncFrame, sync_frame::Frame,
};
use polymath_types::{
    ExpertCard, ExpertId, ExpertKind, Format, Index, Keypair, LabelSet, MeshId, Model, NodeKey,
    PeerId, Runtime, Sampling,
};
use prost::Message as _;

pub(crate) const MESH: MeshId = MeshId::from_bytes([7; 32]);

/// The key whose seed is `n` everywhere.
pub(crate) fn key(n: u8) -> NodeKey {
    let pair = Keypair::ed25519_from_bytes([n; 32]).unwrap();
    let text = STANDARD.encode(pair.to_protobuf_encoding().unwrap());
    NodeKey::from_text(&format!("polymath-identity 1\n{text}\n")).unwrap()
}

pub(crate) fn card(name: &str) -> Arc<ExpertCard> {
    Arc::new(ExpertCard {
        version: 1,
        name: name.into(),
        kind: ExpertKind::Generate,
        model: Model {
            name: "tiny".into(),
            runtime: Runtime::Trigram,
            files: Vec::new(),
            adapter: None,
            context_length: 128,
            dimensions: 0,
            licence: "MIT".into(),
        },
        system: None,
        sampling: Sampling::default(),
        description: format!("all about {name}"),
        examples: Vec::new(),
        languages: Vec::new(),
        labels: LabelSet::None,
        capabilities: Vec::new(),
    })
}

thread_local! {
    /// Changes that nodes have stored, by their signatures: what the short ones they send stand for.
    static STORED: RefCell<BTreeMap<Vec<u8>, SignedChange>> = RefCell::default();
}

/// The part of a document's record that holds its changes.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(message, repeated, tag = "2")]
    changes: Vec<SignedChange>,
}

pub(crate) type Disk = BTreeMap<String, Vec<u8>>;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) catalog: Catalog,
    pub(crate) disk: Disk,
    pub(crate) key: NodeKey,
    pub(crate) founders: Vec<PeerId>,
    pub(crate) links: BTreeSet<PeerId>,
}

impl Node {
    pub(crate) fn open(key: NodeKey, limits: CatalogLimits, disk: Disk) -> (Self, Recovered) {
        Self::founded(key, limits, disk, Vec::new())
    }

    /// The same in a mesh that has admins.
    pub(crate) fn founded(
        key: NodeKey,
        limits: CatalogLimits,
        disk: Disk,
        founders: Vec<PeerId>,
    ) -> (Self, Recovered) {
        let config = CatalogConfig {
            unix: 0,
            key: key.clone(),
            mesh: MESH,
            founders: founders.clone(),
            observations: true,
            limits,
        };
        let (catalog, recovered) = Catalog::open(config, disk.clone());
        (
            Self {
                catalog,
                disk,
                key,
                founders,
                links: BTreeSet::new(),
            },
            recovered,
        )
    }

    pub(crate) fn fresh(n: u8) -> Self {
        Self::open(key(n), CatalogLimits::default(), Disk::new()).0
    }

    pub(crate) fn id(&self) -> PeerId {
        self.key.peer_id()
    }

    /// Does what the actions say; what is to be sent comes back, checked against the wire's rules.
    pub(crate) fn perform(&mut self, actions: Vec<Action>) -> Vec<(PeerId, SyncFrame)> {
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Store { name, bytes } => {
                    assert!(sent.is_empty(), "{name} is stored after something was sent");
                    assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
                    if !name.starts_with("card-") {
                        let stored = Stored::decode(&bytes[40..]).unwrap();
                        STORED.with_borrow_mut(|all| {
                            let changes = stored.changes.into_iter();
                            all.extend(changes.map(|c| (c.signature.to_vec(), c)));
                        });
                    }
                    self.disk.insert(name, bytes);
                }
                Action::Remove { name } => {
                    let stored = self.disk.remove(&name).is_some();
                    // A charter document may come and go in one frame.
                    assert!(
                        stored || name.starts_with("charter-"),
                        "{name} was never stored"
                    );
                }
                Action::Send { peer, frame } => {
                    assert!(
                        self.links.contains(&peer),
                        "a frame for a peer that is not connected"
                    );
                    let bytes = frame.encode_to_vec();
                    assert!(
                        bytes.len() <= FRAME_BYTES,
                        "a frame of {} bytes",
                        bytes.len()
                    );
                    sent.push((peer, SyncFrame::decode(bytes.as_slice()).unwrap()));
                }
                Action::Answer { peer } => {
                    assert!(self.links.contains(&peer), "an answer for nobody");
                    while let Some(frame) = self.catalog.next_answer(&peer) {
                        assert!(frame.encoded_len() <= FRAME_BYTES);
                        sent.push((peer, frame));
                    }
                }
                _ => {}
            }
        }
        sent
    }

    /// Hosts experts of these names and says so.
    pub(crate) fn offer(&mut self, names: &[&str]) -> Vec<(PeerId, SyncFrame)> {
        let cards: Vec<_> = names.iter().map(|n| card(n)).collect();
        let offer = Offer {
            agent: "polymath/test".into(),
            addresses: vec![format!("/ip4/127.0.0.1/tcp/{}", 4000 + names.len())],
            experts: cards.iter().map(|c| c.id()).collect(),
            ..Offer::default()
        };
        let mut actions = self.catalog.set_cards(cards).unwrap();
        actions.extend(self.catalog.set_offer(offer).unwrap());
        // Two calls' actions: each is in order by itself.
        let (sends, rest): (Vec<_>, Vec<_>) = actions
            .into_iter()
            .partition(|a| matches!(a, Action::Send { .. } | Action::Answer { .. }));
        let mut sent = self.perform(rest);
        sent.extend(self.perform(sends));
        sent
    }

    /// Connects to a peer that exists only in the test.
    pub(crate) fn connect_to(&mut self, peer: PeerId) -> Vec<(PeerId, SyncFrame)> {
        self.links.insert(peer);
        let actions = self.catalog.peer_connected(peer);
        self.perform(actions)
    }

    pub(crate) fn receive(&mut self, from: PeerId, frame: SyncFrame) -> Vec<(PeerId, SyncFrame)> {
        let actions = self.catalog.receive(from, frame).unwrap();
        self.perform(actions)
    }

    /// The process ends and starts again on the same disk.
    pub(crate) fn restart(&mut self, limits: CatalogLimits) -> Recovered {
        let (node, recovered) = Self::founded(
            self.key.clone(),
            limits,
            std::mem::take(&mut self.disk),
            std::mem::take(&mut self.founders),
        );
        *self = node;
        recovered
    }

    pub(crate) fn expert_names(&self) -> BTreeSet<String> {
        self.catalog
            .index()
            .experts()
            .map(|e| e.card.name.clone())
            .collect()
    }
}

#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) from: PeerId,
    pub(crate) to: PeerId,
    pub(crate) frame: SyncFrame,
}

#[derive(Debug, Default)]
pub(crate) struct Mesh {
    pub(crate) nodes: Vec<Node>,
    pub(crate) wire: VecDeque<Packet>,
    /// Bytes of changes and cards carried, to see what is sent twice.
    pub(crate) carried: usize,
}

impl Mesh {
    /// Nodes with keys 1 to `n`, not connected.
    pub(crate) fn of(n: u8) -> Self {
        Self {
            nodes: (1..=n).map(Node::fresh).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn post(&mut self, from: usize, sent: Vec<(PeerId, SyncFrame)>) {
        let from = self.nodes[from].id();
        self.wire.extend(
            sent.into_iter()
                .map(|(to, frame)| Packet { from, to, frame }),
        );
    }

    pub(crate) fn offer(&mut self, node: usize, names: &[&str]) {
        let sent = self.nodes[node].offer(names);
        self.post(node, sent);
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        for (x, y) in [(a, b), (b, a)] {
            let peer = self.nodes[y].id();
            let sent = self.nodes[x].connect_to(peer);
            self.post(x, sent);
        }
    }

    pub(crate) fn disconnect(&mut self, a: usize, b: usize) {
        for (x, y) in [(a, b), (b, a)] {
            let peer = self.nodes[y].id();
            self.nodes[x].links.remove(&peer);
            self.nodes[x].catalog.peer_disconnected(peer);
        }
        let (a, b) = (self.nodes[a].id(), self.nodes[b].id());
        self.wire
            .retain(|p| (p.from, p.to) != (a, b) && (p.from, p.to) != (b, a));
    }

    /// Cuts every link of a node.
    pub(crate) fn isolate(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            if other != node {
                self.disconnect(node, other);
            }
        }
    }

    pub(crate) fn deliver(&mut self, packet: Packet) {
        if let Some(Frame::Offers(_) | Frame::Cards(_)) = packet.frame.frame {
            self.carried += packet.frame.encoded_len();
        }
        // Others are peers that exist only in the test.
        let Some(to) = self.nodes.iter().position(|n| n.id() == packet.to) else {
            return;
        };
        if !self.nodes[to].links.contains(&packet.from) {
            return;
        }
        let sent = self.nodes[to].receive(packet.from, packet.frame);
        self.post(to, sent);
    }

    /// Carries frames until none is left.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(packet) = self.wire.pop_front() else {
                return;
            };
            self.deliver(packet);
        }
        panic!("the mesh never falls silent");
    }

    pub(crate) fn tick(&mut self) {
        for node in 0..self.nodes.len() {
            let actions = self.nodes[node].catalog.tick();
            let sent = self.nodes[node].perform(actions);
            self.post(node, sent);
        }
    }

    pub(crate) fn index(&self, node: usize) -> Arc<Index> {
        self.nodes[node].catalog.index()
    }
}

/// Changes in frames, whole, those that came in the short form first.
pub(crate) fn changes(sent: &[(PeerId, SyncFrame)]) -> Vec<SignedChange> {
    let offers = sent.iter().filter_map(|(_, f)| match &f.frame {
        Some(Frame::Offers(offers)) => Some(offers.clone()),
        _ => None,
    });
    let stored =
        |short: &ShortChange| STORED.with_borrow(|all| all.get(short.signature.as_ref()).cloned());
    offers
        .flat_map(|offers| {
            let short = offers.short.iter().map(|short| stored(short).unwrap());
            short.chain(offers.changes).collect::<Vec<SignedChange>>()
        })
        .collect()
}

pub(crate) fn frame(frame: Frame) -> SyncFrame {
    SyncFrame {
        version: Format::Sync.current(),
        category: 0,
        frame: Some(frame),
    }
}

pub(crate) fn offers(changes: Vec<SignedChange>) -> SyncFrame {
    frame(Frame::Offers(Offers {
        changes,
        short: Vec::new(),
    }))
}

pub(crate) fn claim(heads: Vec<OfferHead>) -> SyncFrame {
    frame(Frame::Heads(Heads {
        heads,
        ..Heads::default()
    }))
}

pub(crate) fn head(author: &PeerId, epoch: u64, sequence: u64) -> OfferHead {
    OfferHead {
        author: key_of(author),
        epoch,
        sequence,
        mark: vec![9; 16].into(),
        whole: false,
    }
}

/// The key in a peer id.
pub(crate) fn key_of(peer: &PeerId) -> prost::bytes::Bytes {
    peer.as_ref().digest()[4..].to_vec().into()
}

/// The heads of all questions in frames.
pub(crate) fn wanted(sent: &[(PeerId, SyncFrame)]) -> Vec<OfferHead> {
    sent.iter()
        .filter_map(|(_, f)| match &f.frame {
            Some(Frame::Want(w)) => Some(w.offers.clone()),
            _ => None,
        })
        .flatten()
        .collect()
}

/// The key of the `n`th of many authors who exist only in the test.
pub(crate) fn stranger(n: u16) -> NodeKey {
    let mut seed = [0xaa; 32];
    seed[..2].copy_from_slice(&n.to_be_bytes());
    crate::formats::key_from_seed(seed)
}

/// The first change of a stranger's offer.
pub(crate) fn introduced(n: u16) -> SignedChange {
    let mut node = Node::open(stranger(n), CatalogLimits::default(), Disk::new()).0;
    node.connect_to(key(250).peer_id());
    changes(&node.offer(&[])).remove(0)
}

pub(crate) fn expert_id(name: &str) -> ExpertId {
    card(name).id()
}
