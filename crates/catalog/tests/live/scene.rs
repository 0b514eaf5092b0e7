//! Nodes that are connected with each other, in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use polymath_catalog::live::{LIVE_TICK, Live, LiveAction, LiveConfig, Standing, View};
use polymath_proto::v1::{
    LiveFrame, LiveMessage, LiveStatement, LiveStatus, LiveSuspicion, live_statement::What,
};
use polymath_types::{Format, LoadReport, MeshId, NodeKey, PeerId};
use prost::Message as _;

pub(crate) fn mesh() -> MeshId {
    MeshId::from_bytes([7; 32])
}

pub(crate) fn config(key: &NodeKey, run: u64) -> LiveConfig {
    LiveConfig {
        key: key.clone(),
        mesh: mesh(),
        run,
        started: 1000 + run,
        incarnation: 1,
        seed: run,
        authors: LiveConfig::AUTHORS,
    }
}

pub(crate) fn signed(key: &NodeKey, mesh: MeshId, what: What) -> LiveMessage {
    let statement = LiveStatement { what: Some(what) }.encode_to_vec();
    let bytes = [
        b"polymath live statement v1\0",
        mesh.as_bytes().as_slice(),
        &statement,
    ]
    .concat();
    LiveMessage {
        author: key.peer_id().to_bytes().into(),
        signature: key.keypair().sign(&bytes).unwrap().into(),
        statement: statement.into(),
    }
}

pub(crate) fn status(key: &NodeKey, incarnation: u64, sequence: u64) -> LiveMessage {
    let status = LiveStatus {
        incarnation,
        sequence,
        run: 1,
        valid_s: 60,
        ..LiveStatus::default()
    };
    signed(key, mesh(), What::Status(status))
}

pub(crate) fn suspicion(witness: &NodeKey, subject: PeerId, known: (u64, u64)) -> LiveMessage {
    let suspicion = LiveSuspicion {
        subject: subject.to_bytes().into(),
        incarnation: known.0,
        sequence: known.1,
    };
    signed(witness, mesh(), What::Suspicion(suspicion))
}

pub(crate) fn frame(messages: impl IntoIterator<Item = LiveMessage>) -> LiveFrame {
    LiveFrame {
        version: Format::Live.current(),
        messages: messages.into_iter().collect(),
    }
}

/// What a message says of its author, if it is a status.
pub(crate) fn status_in(message: &LiveMessage) -> Option<LiveStatus> {
    match LiveStatement::decode(message.statement.clone())
        .unwrap()
        .what
    {
        Some(What::Status(status)) => Some(status),
        _ => None,
    }
}

pub(crate) struct Node {
    pub(crate) id: PeerId,
    pub(crate) live: Live,
    pub(crate) views: BTreeMap<PeerId, View>,
    pub(crate) load: LoadReport,
    pub(crate) incarnations: Vec<u64>,
    pub(crate) ended: bool,
    pub(crate) probes: Vec<PeerId>,
    key: NodeKey,
}

/// All of them connected with each other, unless they are down or cut.
pub(crate) struct Scene {
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) down: BTreeSet<usize>,
    /// In order; delivered by the next step.
    wire: Vec<(usize, usize, LiveFrame)>,
    pub(crate) bytes: u64,
}

impl Scene {
    pub(crate) fn new(nodes: usize) -> Self {
        let configs = (0..nodes).map(|n| config(&NodeKey::generate(), n as u64 + 1));
        Self::of(configs)
    }

    pub(crate) fn of(configs: impl IntoIterator<Item = LiveConfig>) -> Self {
        let node = |config: LiveConfig| Node {
            id: config.key.peer_id(),
            key: config.key.clone(),
            live: Live::new(config),
            views: BTreeMap::new(),
            load: LoadReport::default(),
            incarnations: Vec::new(),
            ended: false,
            probes: Vec::new(),
        };
        let mut scene = Self {
            now: Duration::from_secs(1),
            nodes: configs.into_iter().map(node).collect(),
            down: BTreeSet::new(),
            wire: Vec::new(),
            bytes: 0,
        };
        for a in 0..scene.nodes.len() {
            for b in 0..scene.nodes.len() {
                scene.connect(a, b);
            }
        }
        scene.run(Duration::from_secs(3));
        scene
    }

    /// `a` has a stream with `b`, unless both are one identity.
    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        let peer = self.nodes[b].id;
        if peer != self.nodes[a].id {
            let actions = self.nodes[a].live.peer_connected(self.now, peer, false);
            self.obey(a, actions);
        }
    }

    pub(crate) fn obey(&mut self, at: usize, actions: Vec<LiveAction>) {
        for action in actions {
            let node = &mut self.nodes[at];
            match action {
                LiveAction::Send { peer, frame } => {
                    assert!(frame.encoded_len() <= polymath_catalog::live::LIVE_FRAME_BYTES);
                    self.bytes += frame.encoded_len() as u64;
                    let to: Vec<usize> = (0..self.nodes.len())
                        .filter(|n| self.nodes[*n].id == peer)
                        .collect();
                    self.wire
                        .extend(to.into_iter().map(|to| (at, to, frame.clone())));
                }
                LiveAction::View { peer, view } => {
                    node.views.insert(peer, view);
                }
                LiveAction::Forgotten(peer) => {
                    node.views.remove(&peer);
                }
                LiveAction::Incarnation(n) => node.incarnations.push(n),
                LiveAction::Probe(peer) => node.probes.push(peer),
                LiveAction::RunsTwice => node.ended = true,
                _ => {}
            }
        }
    }

    /// A quarter of a second.
    pub(crate) fn step(&mut self) {
        self.now += LIVE_TICK;
        for (from, to, frame) in std::mem::take(&mut self.wire) {
            if self.down.contains(&from) || self.down.contains(&to) {
                continue;
            }
            let peer = self.nodes[from].id;
            if let Ok(actions) = self.nodes[to].live.receive(self.now, peer, frame) {
                self.obey(to, actions);
            }
        }
        for at in 0..self.nodes.len() {
            if !self.down.contains(&at) {
                let node = &mut self.nodes[at];
                let actions = node.live.tick(self.now, node.load);
                self.obey(at, actions);
            }
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    /// The stream of `a` with `b` is gone, and it does not come back.
    pub(crate) fn lose(&mut self, a: usize, b: usize) {
        let peer = self.nodes[b].id;
        self.nodes[a].live.peer_disconnected(&peer);
        let actions = self.nodes[a].live.lost(self.now, peer);
        self.obey(a, actions);
    }

    pub(crate) fn standing(&self, at: usize, of: usize) -> Option<Standing> {
        let of = self.nodes[of].id;
        let told = self.nodes[at].views.get(&of).map(|v| v.standing);
        let asked = self.nodes[at].live.view(self.now, &of).map(|v| v.standing);
        assert_eq!(told, asked, "what was told is what holds");
        told
    }

    /// The node at `at` runs again, its incarnation raised.
    pub(crate) fn restart(&mut self, at: usize, run: u64) {
        self.restart_at(at, run, run);
    }

    pub(crate) fn restart_at(&mut self, at: usize, run: u64, incarnation: u64) {
        self.down.remove(&at);
        let key = self.nodes[at].key.clone();
        self.nodes[at].live = Live::new(LiveConfig {
            incarnation,
            ..config(&key, run)
        });
        self.nodes[at].views.clear();
        for other in 0..self.nodes.len() {
            self.connect(at, other);
            self.connect(other, at);
        }
    }

    /// What all that run think of `of`, if they agree.
    pub(crate) fn agreed(&self, of: usize) -> Option<Standing> {
        let others = (0..self.nodes.len()).filter(|n| *n != of && !self.down.contains(n));
        let mut all = others.map(|n| self.standing(n, of));
        let first = all.next()??;
        all.all(|s| s == Some(first)).then_some(first)
    }
}
