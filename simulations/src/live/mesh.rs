//! Nodes with their tables of fast state, the links between them, and the frames on their way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use polymath_catalog::live::{LIVE_TICK, Live, LiveAction, LiveConfig, Standing};
use polymath_proto::v1::LiveFrame;
use polymath_types::{LoadReport, MeshId, PeerId};
use prost::Message as _;

use crate::{
    Fault, actors,
    chance::{Chance, For},
    links::Distance,
    queue::Queue,
};

const MESH: MeshId = MeshId::from_bytes([0x52; 32]);
/// Within this a peer of a dead node has lost its connection.
const FOUND_OUT: Duration = Duration::from_secs(1);
/// How many of a dead node's peers look again, on average (`node::live::watch`).
const WITNESSES: usize = 16;

#[derive(Debug)]
struct Node {
    live: Live,
    id: PeerId,
    links: BTreeSet<usize>,
    alive: bool,
    received: u64,
}

#[derive(Debug)]
enum Event {
    Tick(usize),
    Deliver {
        from: usize,
        to: usize,
        frame: LiveFrame,
    },
    /// `by` cannot reach `whom`.
    Lost {
        by: usize,
        whom: usize,
    },
}

/// How soon a death was known to all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death {
    pub(super) since_it_died: Duration,
    pub(super) since_two_said_so: Duration,
}

#[derive(Debug)]
pub(super) struct Mesh {
    chance: Chance,
    nodes: Vec<Node>,
    places: BTreeMap<PeerId, usize>,
    queue: Queue<Event>,
}

impl Mesh {
    /// Nodes that start within one round, each linked to random others.
    pub(super) fn new(chance: Chance, nodes: usize, links: usize) -> Result<Self, Fault> {
        let mut mesh = Self {
            chance,
            nodes: Vec::new(),
            places: BTreeMap::new(),
            queue: Queue::new(),
        };
        for n in 0..nodes {
            let key = actors::key(chance, n)?;
            let id = key.peer_id();
            let live = Live::new(LiveConfig {
                key,
                mesh: MESH,
                run: n as u64 + 1,
                started: n as u64,
                incarnation: 1,
                seed: chance.word(For::Order, &[n as u64]),
                authors: LiveConfig::AUTHORS,
            });
            mesh.places.insert(id, n);
            mesh.nodes.push(Node {
                live,
                id,
                links: BTreeSet::new(),
                alive: true,
                received: 0,
            });
            let first = LIVE_TICK.mul_f64(chance.unit(For::Tick, &[n as u64]));
            mesh.queue.after(first, Event::Tick(n));
        }
        for n in 0..nodes {
            let others = chance.shuffled(nodes, For::Link, &[n as u64]);
            let others = others.into_iter().filter(|o| *o != n).take(links);
            // Each is linked to the one before, so that nobody is apart.
            for other in others.chain(n.checked_sub(1)) {
                mesh.connect(n, other);
            }
        }
        Ok(mesh)
    }

    fn connect(&mut self, a: usize, b: usize) {
        if !self.nodes[a].links.insert(b) {
            return;
        }
        self.nodes[b].links.insert(a);
        for (x, y) in [(a, b), (b, a)] {
            let peer = self.nodes[y].id;
            let now = self.queue.now();
            let actions = self.nodes[x].live.peer_connected(now, peer, false);
            self.perform(x, actions);
        }
    }

    /// Bytes that each node has sent, and received.
    pub(super) fn bytes(&self) -> Vec<[u64; 2]> {
        let nodes = self.nodes.iter();
        nodes
            .map(|n| [n.live.counters().sent, n.received])
            .collect()
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let limit = self.queue.now() + time;
        while let Some(event) = self.queue.pop_until(limit) {
            self.handle(event);
        }
    }

    /// A node dies; when all others have suspended it, if they do within `time`, all of which passes.
    pub(super) fn kill(&mut self, victim: usize, time: Duration) -> Option<Death> {
        let died = self.queue.now();
        let dead = self.nodes[victim].id;
        self.nodes[victim].alive = false;
        let peers = std::mem::take(&mut self.nodes[victim].links);
        for (at, peer) in peers.iter().enumerate() {
            self.nodes[*peer].links.remove(&victim);
            self.nodes[*peer].live.peer_disconnected(&dead);
            let place = [victim as u64, *peer as u64];
            let others = self.nodes[*peer].links.len();
            let drawn = self.chance.below(others.max(1), For::Side, &place);
            if others <= WITNESSES || drawn < WITNESSES || at < 2 {
                let after = FOUND_OUT.mul_f64(self.chance.unit(For::Pause, &place));
                let (by, whom) = (*peer, victim);
                self.queue.after(after, Event::Lost { by, whom });
            }
        }
        let mut left: BTreeSet<usize> = (0..self.nodes.len()).collect();
        left.retain(|n| self.nodes[*n].alive);
        let (mut witnesses, mut said, mut all) = (0, None, None);
        while let Some(event) = self.queue.pop_until(died + time) {
            if matches!(event, Event::Lost { .. }) {
                witnesses += 1;
                if witnesses == 2 {
                    said = Some(self.queue.now());
                }
            }
            let n = self.handle(event);
            let now = self.queue.now();
            let view = self.nodes[n].live.view(now, &dead);
            if view.is_some_and(|v| v.standing == Standing::Suspended)
                && left.remove(&n)
                && left.is_empty()
            {
                all = Some(now);
            }
        }
        Some(Death {
            since_it_died: all? - died,
            since_two_said_so: all?.saturating_sub(said?),
        })
    }

    /// The node that an event happens to.
    fn handle(&mut self, event: Event) -> usize {
        let now = self.queue.now();
        match event {
            Event::Tick(n) => {
                if self.nodes[n].alive {
                    let actions = self.nodes[n].live.tick(now, LoadReport::default());
                    self.perform(n, actions);
                    self.queue.after(LIVE_TICK, Event::Tick(n));
                }
                n
            }
            Event::Deliver { from, to, frame } => {
                if self.nodes[to].links.contains(&from) {
                    let peer = self.nodes[from].id;
                    let node = &mut self.nodes[to];
                    node.received += frame.encoded_len() as u64;
                    if let Ok(actions) = node.live.receive(now, peer, frame) {
                        self.perform(to, actions);
                    }
                }
                to
            }
            Event::Lost { by, whom } => {
                if self.nodes[by].alive {
                    let peer = self.nodes[whom].id;
                    let actions = self.nodes[by].live.lost(now, peer);
                    self.perform(by, actions);
                }
                by
            }
        }
    }

    fn perform(&mut self, n: usize, actions: Vec<LiveAction>) {
        for action in actions {
            match action {
                LiveAction::Send { peer, frame } => {
                    let Some(to) = self.places.get(&peer).copied() else {
                        continue;
                    };
                    let way = Distance::Drawn.one_way(self.chance, n, to);
                    let from = n;
                    self.queue.after(way, Event::Deliver { from, to, frame });
                }
                // Its last words came after it was lost.
                LiveAction::Probe(peer) => {
                    if let Some(whom) = self.places.get(&peer).copied()
                        && !self.nodes[whom].alive
                    {
                        self.queue.after(FOUND_OUT, Event::Lost { by: n, whom });
                    }
                }
                _ => {}
            }
        }
    }
}
