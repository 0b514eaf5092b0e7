//! Nodes with their catalogs, the links between them, and the frames on their way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use polymath_catalog::{Action, Catalog, CatalogConfig, CatalogLimits, Offer};
use polymath_proto::v1::{SyncFrame, sync_frame::Frame};
use polymath_types::{ExpertId, MeshId, PeerId, PeerOffer};
use prost::Message as _;

use crate::{
    Fault, actors,
    chance::{Chance, For},
    links::Distance,
    queue::Queue,
};

pub(crate) const MESH: MeshId = MeshId::from_bytes([0x51; 32]);
/// The daemon's pace of `Catalog::tick` (`node::sync`).
pub(crate) const TICK: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Node {
    catalog: Catalog,
    id: PeerId,
    /// Open links, by the other node, with the number of that opening.
    links: BTreeMap<usize, u64>,
    alive: bool,
    experts: Vec<ExpertId>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    index_changed: bool,
    /// How often it has changed its address.
    moves: usize,
    /// Bytes received and sent, by what the frames are.
    pub(crate) traffic: BTreeMap<&'static str, [u64; 2]>,
}

#[derive(Debug)]
enum Event {
    /// Somebody who is not simulated sends a frame.
    Bring {
        from: PeerId,
        to: usize,
        frame: SyncFrame,
    },
    Deliver {
        from: usize,
        to: usize,
        opening: u64,
        frame: SyncFrame,
    },
    Tick(usize),
}

/// Nodes that are to have all that the authors say.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) nodes: Vec<usize>,
    pub(crate) authors: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Mesh {
    chance: Chance,
    pub(crate) nodes: Vec<Node>,
    places: BTreeMap<PeerId, usize>,
    queue: Queue<Event>,
    openings: u64,
    distance: Distance,
}

/// What an author says, and what it names.
struct Wanted {
    offers: Vec<(PeerId, PeerOffer)>,
    experts: BTreeSet<ExpertId>,
}

impl Mesh {
    pub(crate) fn new(chance: Chance, distance: Distance) -> Self {
        Self {
            chance,
            distance,
            nodes: Vec::new(),
            places: BTreeMap::new(),
            queue: Queue::new(),
            openings: 0,
        }
    }

    /// A fresh node without links; its number.
    pub(crate) fn add_node(&mut self) -> Result<usize, Fault> {
        self.add_node_with([])
    }

    /// The same of a node that has these records.
    pub(crate) fn add_node_with(
        &mut self,
        records: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<usize, Fault> {
        let n = self.nodes.len();
        let key = actors::key(self.chance, n)?;
        let id = key.peer_id();
        let config = CatalogConfig {
            unix: 0,
            key,
            mesh: MESH,
            founders: Vec::new(),
            observations: true,
            limits: CatalogLimits::default(),
        };
        let (catalog, _) = Catalog::open(config, records);
        self.nodes.push(Node {
            catalog,
            id,
            links: BTreeMap::new(),
            alive: true,
            experts: Vec::new(),
            sent: 0,
            received: 0,
            index_changed: false,
            moves: 0,
            traffic: BTreeMap::new(),
        });
        self.places.insert(id, n);
        let first = TICK.mul_f64(self.chance.unit(For::Tick, &[n as u64]));
        self.queue.after(first, Event::Tick(n));
        Ok(n)
    }

    /// A node hosts one more expert and says so.
    pub(crate) fn host(&mut self, n: usize) -> Result<(), Fault> {
        let node = &mut self.nodes[n];
        let card = actors::card(&format!("expert-{n}-{}", node.experts.len()));
        node.experts.push(card.id());
        let added = node.catalog.add_card(card);
        let actions = added.map_err(|e| refused(n, e))?;
        self.perform(n, actions);
        self.offer(n)
    }

    /// A node has another address and says so.
    pub(crate) fn move_on(&mut self, n: usize) -> Result<(), Fault> {
        self.nodes[n].moves += 1;
        self.offer(n)
    }

    fn offer(&mut self, n: usize) -> Result<(), Fault> {
        let node = &mut self.nodes[n];
        let (high, low, port) = (n / 256, n % 256, 4001 + node.moves);
        let offer = Offer {
            agent: "polymath/meshsim".into(),
            addresses: vec![format!("/ip4/10.0.{high}.{low}/udp/{port}/quic-v1")],
            experts: node.experts.clone(),
            ..Offer::default()
        };
        let actions = node.catalog.set_offer(offer);
        let actions = actions.map_err(|e| refused(n, e))?;
        self.perform(n, actions);
        Ok(())
    }

    /// Links every node to random others, and what is apart then.
    pub(crate) fn connect_all(&mut self, links: usize) {
        let nodes = self.nodes.len();
        for n in 0..nodes {
            let others = self.chance.shuffled(nodes, For::Link, &[n as u64]);
            let others = others.into_iter().filter(|o| *o != n).take(links);
            others.for_each(|other| self.connect(n, other));
        }
        let all = self.alive();
        self.mend(&all);
    }

    /// Links a node to somebody who is not simulated, and who answers nothing.
    pub(crate) fn connect_stranger(&mut self, n: usize, peer: PeerId) {
        let actions = self.nodes[n].catalog.peer_connected(peer);
        self.perform(n, actions);
    }

    /// And gone again.
    pub(crate) fn disconnect_stranger(&mut self, n: usize, peer: PeerId) {
        self.nodes[n].catalog.peer_disconnected(peer);
    }

    /// Somebody who is not simulated sends a frame that arrives after `delay`.
    pub(crate) fn bring(&mut self, delay: Duration, from: PeerId, to: usize, frame: SyncFrame) {
        self.queue.after(delay, Event::Bring { from, to, frame });
    }

    /// All records of a node.
    pub(crate) fn records(&self, n: usize) -> Vec<(String, Vec<u8>)> {
        self.nodes[n].catalog.records().collect()
    }

    /// Changes of others that a node has taken.
    pub(crate) fn taken(&self, n: usize) -> u64 {
        self.nodes[n].catalog.counters().changes
    }

    pub(crate) fn alive(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|n| self.nodes[*n].alive).collect()
    }

    pub(crate) fn linked(&self, a: usize, b: usize) -> bool {
        self.nodes[a].links.contains_key(&b)
    }

    /// Every open link once.
    pub(crate) fn links(&self) -> Vec<(usize, usize)> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .flat_map(|(a, node)| node.links.keys().map(move |b| (a, *b)))
            .filter(|(a, b)| a < b)
            .collect()
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        if a == b || self.linked(a, b) {
            return;
        }
        self.openings += 1;
        self.nodes[a].links.insert(b, self.openings);
        self.nodes[b].links.insert(a, self.openings);
        for (x, y) in [(a, b), (b, a)] {
            let peer = self.nodes[y].id;
            let actions = self.nodes[x].catalog.peer_connected(peer);
            self.perform(x, actions);
        }
    }

    pub(crate) fn disconnect(&mut self, a: usize, b: usize) {
        for (x, y) in [(a, b), (b, a)] {
            if self.nodes[x].links.remove(&y).is_some() {
                let peer = self.nodes[y].id;
                self.nodes[x].catalog.peer_disconnected(peer);
            }
        }
    }

    /// A node is gone for good; its offer stays with the others.
    pub(crate) fn leave(&mut self, n: usize) {
        let others: Vec<usize> = self.nodes[n].links.keys().copied().collect();
        for other in others {
            self.disconnect(n, other);
        }
        self.nodes[n].alive = false;
    }

    /// Links what has fallen apart among these nodes: a random member of each part to one of the
    /// first part. The daemon's members do so by looking for more peers.
    pub(crate) fn mend(&mut self, among: &[usize]) {
        let Some(start) = among.first() else { return };
        let mut reached = BTreeSet::from([*start]);
        let mut to_visit = vec![*start];
        loop {
            while let Some(n) = to_visit.pop() {
                for other in self.nodes[n].links.keys() {
                    if among.contains(other) && reached.insert(*other) {
                        to_visit.push(*other);
                    }
                }
            }
            let Some(lost) = among.iter().copied().find(|n| !reached.contains(n)) else {
                return;
            };
            let known: Vec<usize> = reached.iter().copied().collect();
            let at = self.chance.below(known.len(), For::Mend, &[lost as u64]);
            self.connect(lost, known[at]);
            reached.insert(lost);
            to_visit.push(lost);
        }
    }

    pub(crate) fn total_sent(&self) -> u64 {
        self.nodes.iter().map(|n| n.sent).sum()
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, time: Duration) -> Result<(), Fault> {
        let limit = self.queue.now() + time;
        while let Some(event) = self.queue.pop_until(limit) {
            self.handle(event)?;
        }
        Ok(())
    }

    /// Lets time pass until every goal is reached, each node in at most one of them; how long it took.
    pub(crate) fn run_until(
        &mut self,
        phase: &'static str,
        goals: &[Goal],
        limit: Duration,
    ) -> Result<Duration, Fault> {
        let start = self.queue.now();
        let wanted: Vec<Wanted> = goals.iter().map(|g| self.wanted(g)).collect();
        // Which goal, and how many of its offers are known to be there.
        let mut behind: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (goal, g) in goals.iter().enumerate() {
            behind.extend(g.nodes.iter().map(|n| (*n, (goal, 0))));
        }
        behind.retain(|n, (goal, known)| !self.has(*n, &wanted[*goal], known));
        while !behind.is_empty() {
            let Some(event) = self.queue.pop_until(start + limit) else {
                let behind = behind.len();
                return Err(Fault::NotEqual {
                    phase,
                    behind,
                    limit,
                });
            };
            let n = self.handle(event)?;
            if std::mem::take(&mut self.nodes[n].index_changed)
                && let Some((goal, known)) = behind.get_mut(&n)
                && self.has(n, &wanted[*goal], known)
            {
                behind.remove(&n);
            }
        }
        for goal in goals {
            let mut indexes = goal.nodes.iter().map(|n| self.nodes[*n].catalog.index());
            let first = indexes.next();
            if indexes.any(|other| Some(other) != first) {
                return Err(Fault::Differ { phase });
            }
        }
        Ok(self.queue.now() - start)
    }

    /// Lets time pass until all know what `author` says now, or `limit` is over; when each of the others
    /// did, as far as it does.
    pub(crate) fn spread(
        &mut self,
        author: usize,
        limit: Duration,
    ) -> Result<Vec<Option<Duration>>, Fault> {
        let start = self.queue.now();
        let id = self.nodes[author].id;
        let said = self.nodes[author].catalog.index().peers().get(&id).cloned();
        let mut known = vec![None; self.nodes.len()];
        let mut left = self.alive().len() - 1;
        while left > 0 {
            let Some(event) = self.queue.pop_until(start + limit) else {
                break;
            };
            let n = self.handle(event)?;
            let node = &mut self.nodes[n];
            if std::mem::take(&mut node.index_changed)
                && known[n].is_none()
                && n != author
                && node.catalog.index().peers().get(&id) == said.as_ref()
            {
                known[n] = Some(self.queue.now() - start);
                left -= 1;
            }
        }
        known.remove(author);
        Ok(known)
    }

    fn wanted(&self, goal: &Goal) -> Wanted {
        let authors = goal.authors.iter().map(|n| &self.nodes[*n]);
        let offers: Vec<(PeerId, PeerOffer)> = authors
            .filter_map(|node| {
                let index = node.catalog.index();
                Some((node.id, index.peers().get(&node.id)?.clone()))
            })
            .collect();
        let experts = offers.iter().flat_map(|(_, o)| o.experts.clone()).collect();
        Wanted { offers, experts }
    }

    fn has(&self, n: usize, wanted: &Wanted, known: &mut usize) -> bool {
        let index = self.nodes[n].catalog.index();
        while let Some((author, offer)) = wanted.offers.get(*known) {
            if index.peers().get(author) != Some(offer) {
                return false;
            }
            *known += 1;
        }
        wanted.experts.iter().all(|id| index.expert(id).is_some())
    }

    /// Does what an event says; the node it happened to.
    fn handle(&mut self, event: Event) -> Result<usize, Fault> {
        match event {
            Event::Tick(n) => {
                if self.nodes[n].alive {
                    let actions = self.nodes[n].catalog.tick();
                    self.perform(n, actions);
                    self.queue.after(TICK, Event::Tick(n));
                }
                Ok(n)
            }
            Event::Bring { from, to, frame } => {
                let actions = self.nodes[to].catalog.receive(from, frame);
                let actions = actions.map_err(|e| refused(to, e))?;
                self.perform(to, actions);
                Ok(to)
            }
            Event::Deliver {
                from,
                to,
                opening,
                frame,
            } => {
                if self.nodes[to].links.get(&from) != Some(&opening) {
                    return Ok(to);
                }
                let peer = self.nodes[from].id;
                let node = &mut self.nodes[to];
                let bytes = frame.encoded_len() as u64;
                node.received += bytes;
                node.traffic.entry(kind(&frame)).or_default()[0] += bytes;
                let actions = node.catalog.receive(peer, frame);
                let actions = actions.map_err(|e| refused(to, e))?;
                self.perform(to, actions);
                Ok(to)
            }
        }
    }

    /// Sends what is to be sent. Nodes here never restart, so nothing is kept on a disk.
    fn perform(&mut self, n: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { peer, frame } => self.send(n, peer, frame),
                Action::Answer { peer } => {
                    while let Some(frame) = self.nodes[n].catalog.next_answer(&peer) {
                        self.send(n, peer, frame);
                    }
                }
                Action::IndexChanged => self.nodes[n].index_changed = true,
                _ => {}
            }
        }
    }

    fn send(&mut self, n: usize, peer: PeerId, frame: SyncFrame) {
        let Some(to) = self.places.get(&peer).copied() else {
            return;
        };
        let Some(opening) = self.nodes[n].links.get(&to).copied() else {
            return;
        };
        let bytes = frame.encoded_len() as u64;
        self.nodes[n].sent += bytes;
        self.nodes[n].traffic.entry(kind(&frame)).or_default()[1] += bytes;
        let event = Event::Deliver {
            from: n,
            to,
            opening,
            frame,
        };
        let way = self.distance.one_way(self.chance, n, to);
        self.queue.after(way, event);
    }
}

fn refused(node: usize, why: impl ToString) -> Fault {
    let why = why.to_string();
    Fault::Refused { node, why }
}

fn kind(frame: &SyncFrame) -> &'static str {
    match frame.frame {
        Some(Frame::Digest(_)) => "digests",
        Some(Frame::Branches(_)) => "sums of branches",
        Some(Frame::Heads(_)) => "heads",
        Some(Frame::Want(_)) => "questions",
        Some(Frame::Offers(_)) => "changes",
        Some(Frame::Cards(_)) => "cards",
        None => "nothing",
    }
}
