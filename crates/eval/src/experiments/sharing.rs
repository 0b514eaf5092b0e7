//! Twenty nodes that grade a hundred answers each, apart and with what the others tell.
//!
//! A node asks random experts of LLMRouter about training questions of its own. What it tells, and what becomes
//! of it at the others, goes by the catalog's own rules ([`Weigher`]): cells of five grades and more, weighed by
//! own evidence and by who holds a role in the mesh. Tested on the test split. Six of the twenty then lie at
//! fifty times the volume; figures are means over the fourteen others.

use std::{path::Path, sync::Arc};

use polymath_catalog::Weigher;
use polymath_figures::Row;
use polymath_router::{
    Random,
    learning::{Estimator, EstimatorConfig},
};
use polymath_types::{Evidence, Keypair, Observations, PeerId, Weighed};

use super::experts::split;
use crate::{
    DataError, Entry,
    baseline::{argmax, totals},
    bootstrap,
    figures::{goal, percent},
    load,
    study::{PRIOR, Study, estimator},
};

const NODES: usize = 20;
const LIARS: usize = 6;
const FEEDBACKS: usize = 100;
const VOLUME: u32 = 50;
const REPEATS: u64 = 10;

/// What liars write in place of what they saw.
#[derive(Debug, Clone, Copy)]
enum Lie {
    PraiseWorst,
    DamnBest,
    Invert,
    Noise,
    Collude,
}

const LIES: [(Lie, &str); 5] = [
    (Lie::PraiseWorst, "praise the worst"),
    (Lie::DamnBest, "damn the best"),
    (Lie::Invert, "invert all"),
    (Lie::Noise, "noise"),
    (Lie::Collude, "praise the worst, damn all others"),
];

impl Lie {
    fn tell(self, seen: Evidence, worst: bool, best: bool, random: &mut Random) -> Evidence {
        let mean = seen.mean();
        let told = match self {
            Self::PraiseWorst if worst => 1.0,
            Self::DamnBest if best => 0.0,
            Self::Invert => 1.0 - mean,
            Self::Noise => random.unit(),
            Self::Collude => f64::from(u8::from(worst)),
            Self::PraiseWorst | Self::DamnBest => mean,
        };
        let count = seen.count.saturating_mul(VOLUME).min(Evidence::MOST);
        let reward = (1000.0 * told * f64::from(count)).round() as u32;
        Evidence { count, reward }
    }
}

/// Who holds a role in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roles {
    Nobody,
    /// All but the liars.
    Honest,
    Everybody,
}

const ROLES: [(Roles, &str); 3] = [
    (Roles::Nobody, "nobody holds a role"),
    (Roles::Honest, "the honest hold a role"),
    (Roles::Everybody, "liars hold a role too"),
];

/// Where nodes learn and where they are tested.
#[derive(Debug)]
pub struct Setting<'a> {
    /// Experts' graded answers.
    pub study: &'a Study,
    /// Rows that nodes grade answers of.
    pub train: &'a [usize],
    /// Rows that are routed, to print the mean reward.
    pub test: &'a [usize],
    /// How nodes learn.
    pub config: EstimatorConfig,
}

/// Mean rewards of one draw of twenty nodes. Of three numbers the first is where nobody holds a role in the
/// mesh, the second where the honest do, the third where liars do too.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    /// All of them, each by what it saw itself.
    pub isolated: f64,
    /// All of them, with what the others told, where nobody holds a role, and where everybody does.
    pub merged: [f64; 2],
    /// The same where all that was told is added up.
    pub summed: f64,
    /// One that graded all answers itself.
    pub one: f64,
    /// Fourteen of them, each by what it saw itself.
    pub apart: f64,
    /// The same fourteen, with what all twenty told.
    pub honest: [f64; 3],
    /// The same, where six lie: by strategy.
    pub lied: [[f64; 3]; LIES.len()],
    /// The same where all is added up, by the last strategy.
    pub believed: f64,
}

impl Setting<'_> {
    /// Nodes after their own questions.
    fn nodes(&self, random: &mut Random) -> Vec<Estimator> {
        let node = |seed| {
            let mut e = estimator(self.config.clone(), seed);
            self.grade(&mut e, FEEDBACKS, random);
            e
        };
        (0..NODES as u64).map(node).collect()
    }

    fn grade(&self, e: &mut Estimator, answers: usize, random: &mut Random) {
        let study = self.study;
        for _ in 0..answers {
            let row = self.train[random.below(self.train.len())];
            let expert = random.below(study.ids.len());
            let score = study.table.rows[row].scores[expert];
            e.observe(study.ids[expert], &study.seen[row], PRIOR, score);
        }
    }

    fn mean(&self, nodes: &[Estimator]) -> f64 {
        let (study, test) = (self.study, self.test);
        let sum: f64 = nodes
            .iter()
            .flat_map(|e| test.iter().map(move |row| (e, *row)))
            .map(|(e, row)| study.table.rows[row].scores[argmax(&study.estimated(e, row))])
            .sum();
        sum / (nodes.len() * test.len()).max(1) as f64
    }

    /// One draw.
    pub fn shared(&self, seed: u64) -> Shared {
        let mut random = Random::new(seed);
        let mut nodes = self.nodes(&mut random);
        let honest = told(&nodes);
        let mut shared = Shared {
            isolated: self.mean(&nodes),
            apart: self.mean(&nodes[LIARS..]),
            ..Shared::default()
        };
        for (merged, role) in shared.merged.iter_mut().zip([false, true]) {
            share(&mut nodes, 0, &honest, |_| role);
            *merged = self.mean(&nodes);
            let fourteen = self.mean(&nodes[LIARS..]);
            if role {
                shared.honest[1..].fill(fourteen);
            } else {
                shared.honest[0] = fourteen;
            }
        }
        sum_up(&mut nodes, 0, &honest);
        shared.summed = self.mean(&nodes);
        for ((lie, _), lied) in LIES.iter().zip(&mut shared.lied) {
            let told = self.lied(&honest, *lie, &mut random);
            for ((roles, _), mean) in ROLES.iter().zip(lied) {
                let role = |node: usize| match roles {
                    Roles::Nobody => false,
                    Roles::Honest => node >= LIARS,
                    Roles::Everybody => true,
                };
                share(&mut nodes, LIARS, &told, role);
                *mean = self.mean(&nodes[LIARS..]);
            }
            sum_up(&mut nodes, LIARS, &told);
            shared.believed = self.mean(&nodes[LIARS..]);
        }
        let mut one = estimator(self.config.clone(), seed);
        self.grade(&mut one, NODES * FEEDBACKS, &mut random);
        shared.one = self.mean(&[one]);
        shared
    }

    /// What the nodes told, of whom the first six lie.
    fn lied(
        &self,
        told: &[Arc<Observations>],
        lie: Lie,
        random: &mut Random,
    ) -> Vec<Arc<Observations>> {
        let sums = totals(&self.study.table, self.train.iter());
        let best = self.study.ids[argmax(&sums)];
        let worst = self.study.ids[argmax(&sums.iter().map(|s| -s).collect::<Vec<_>>())];
        let mut told = told.to_vec();
        for said in &mut told[..LIARS] {
            let cells = said.iter().map(|(cell, seen)| {
                let lied = lie.tell(seen, cell.expert == worst, cell.expert == best, random);
                (cell, lied)
            });
            *said = Arc::new(cells.collect());
        }
        told
    }
}

/// What each node tells others.
fn told(nodes: &[Estimator]) -> Vec<Arc<Observations>> {
    let told = nodes.iter().map(|n| Weigher::told(n.published(1)).into());
    told.collect()
}

/// Gives the nodes from `from` on what all others told.
fn share(
    nodes: &mut [Estimator],
    from: usize,
    told: &[Arc<Observations>],
    role: impl Fn(usize) -> bool,
) {
    for (at, node) in nodes.iter_mut().enumerate().skip(from) {
        let mut weigher = Weigher::default();
        weigher.use_codebooks(node.codebooks());
        weigher.know(node.published(1));
        for (other, said) in told.iter().enumerate().filter(|(other, _)| *other != at) {
            weigher.set(peer(other), Arc::clone(said), [], role(other));
        }
        node.share_weighed(weigher.weighed());
    }
}

/// What becomes of nodes that believe everything.
fn sum_up(nodes: &mut [Estimator], from: usize, told: &[Arc<Observations>]) {
    for (at, node) in nodes.iter_mut().enumerate().skip(from) {
        let others = told.iter().enumerate().filter(|(other, _)| *other != at);
        let cells = others.flat_map(|(_, said)| said.iter());
        let cells = cells.map(|(cell, e)| (cell, weighed(e)));
        node.share_weighed(cells.collect::<Vec<_>>());
    }
}

fn weighed(evidence: Evidence) -> Weighed {
    Weighed {
        mass: evidence.count.saturating_mul(1000),
        reward: evidence.reward,
    }
}

/// Names a node of the experiment.
fn peer(node: usize) -> PeerId {
    let seed = *blake3::hash(&node.to_be_bytes()).as_bytes();
    // Every 32 bytes are a key.
    let key = Keypair::ed25519_from_bytes(seed).map(|key| key.public().to_peer_id());
    key.unwrap_or_else(|_| PeerId::random())
}

pub(super) fn run(path: &Path, _: Entry) -> Result<Vec<Row>, DataError> {
    let study = Study::new(load(path, None)?);
    let (train, test) = split(&study.table);
    let setting = Setting {
        study: &study,
        train: &train,
        test: &test,
        config: EstimatorConfig::default(),
    };
    let shared: Vec<Shared> = (500..500 + REPEATS).map(|s| setting.shared(s)).collect();
    let of = |f: &dyn Fn(&Shared) -> f64| shared.iter().map(f).collect::<Vec<f64>>();
    let isolated = of(&|s| s.isolated);
    let mut rows = vec![figure("isolated", &isolated)];
    for (at, who) in ["nobody holds a role", "all hold a role"]
        .iter()
        .enumerate()
    {
        let merged = of(&|s| s.merged[at]);
        rows.push(figure(&format!("merged, {who}"), &merged));
        let gained = gain(
            &format!("merged less isolated, {who}"),
            &less(&merged, &isolated),
        );
        rows.push(goal(gained, 3.0));
    }
    rows.push(figure("all told is added up", &of(&|s| s.summed)));
    let one = "one node that graded all 2,000 answers itself";
    rows.push(figure(one, &of(&|s| s.one)));
    rows.push(figure("fourteen of them, isolated", &of(&|s| s.apart)));
    for (lie, (_, strategy)) in LIES.iter().enumerate() {
        for (at, (_, roles)) in ROLES.iter().enumerate() {
            let (lied, honest) = (of(&|s| s.lied[lie][at]), of(&|s| s.honest[at]));
            let case = format!("6 liars, {roles}: {strategy}");
            rows.push(figure(&case, &lied));
            let case = format!("6 liars less honest, {roles}: {strategy}");
            rows.push(goal(gain(&case, &less(&lied, &honest)), -1.0));
        }
    }
    let naive = format!("6 liars, all told is added up: {}", LIES[LIES.len() - 1].1);
    rows.push(figure(&naive, &of(&|s| s.believed)));
    Ok(rows)
}

fn less(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn named(case: &str) -> String {
    format!("{NODES} nodes, {FEEDBACKS} grades each: {case}")
}

fn figure(case: &str, values: &[f64]) -> Row {
    percent(named(case), "reward", bootstrap::mean(values))
}

fn gain(case: &str, values: &[f64]) -> Row {
    percent(named(case), "gain", bootstrap::mean(values))
}
