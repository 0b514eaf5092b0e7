//! What happens to meshes in the course of a day, each played once on a cell of its own.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use crate::{
    cell::Cell,
    daemon::{Daemon, Link, eventually},
    echo,
    line::Quality,
    mesh::{self, Anchors, Place},
    nat::Access,
    report::{Figure, Outcome, seconds},
    theory::Transports,
    topology::{Side, Topology},
    trial::{self, Way},
    wire::Wiring,
};

/// How long a cell may take to be ready for its scenario.
const READY: Duration = Duration::from_secs(30);
/// After a disturbance, there must be an answer again by then.
const RECOVERY: Duration = Duration::from_secs(60);
/// What a NAT of the scenario remembers of idle UDP, in seconds.
const FORGETFUL: &str = "30";
/// Bytes that an anchor relays for one node in an hour.
const QUOTA: u64 = 512 * 1024;
/// What nodes say to each other and to anchors beside questions, while a scenario lasts.
const CHATTER: u64 = 256 * 1024;
/// Without anchors, a pair must go on for so long.
const ORPHANED: Duration = Duration::from_secs(20);
/// Longer than that.
const IDLE: Duration = Duration::from_secs(45);

/// One scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Both sides start at once, and the first question follows as soon as the expert is known
    ColdStart,
    /// The asking side's NAT forgets everything
    NatReboot,
    /// The asking side's outer address changes
    UplinkSwitch,
    /// NATs forget UDP mappings after 30 s, and nobody asks for 45 s
    MappingTimeout,
    /// A text of 2 MB between two symmetric NATs
    RelayLarge,
    /// The anchor that relays an answer is killed while it does
    RelayDeath,
    /// Nodes may have 512 KiB relayed in an hour, and ask for more
    RelayQuota,
    /// Both anchors are killed under a pair with a direct path
    AnchorsDeath,
    /// The answering side is cut off, and comes back
    PartitionHeal,
    /// The answering side's line is cut: when that is known everywhere, and when it is taken back
    CutOff,
    /// Both sides on a mobile line: 60 to 80 ms, 1 % loss, 8 Mbit/s
    RoughLine,
}

impl Scenario {
    pub(crate) const ALL: [Self; 11] = [
        Self::ColdStart,
        Self::NatReboot,
        Self::UplinkSwitch,
        Self::MappingTimeout,
        Self::RelayLarge,
        Self::RelayDeath,
        Self::RelayQuota,
        Self::AnchorsDeath,
        Self::PartitionHeal,
        Self::CutOff,
        Self::RoughLine,
    ];
    /// Those of `--quick`.
    pub(crate) const QUICK: [Self; 2] = [Self::NatReboot, Self::AnchorsDeath];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ColdStart => "cold-start",
            Self::NatReboot => "nat-reboot",
            Self::UplinkSwitch => "uplink-switch",
            Self::MappingTimeout => "mapping-timeout",
            Self::RelayLarge => "relay-large",
            Self::RelayDeath => "relay-death",
            Self::RelayQuota => "relay-quota",
            Self::AnchorsDeath => "anchors-death",
            Self::PartitionHeal => "partition-heal",
            Self::CutOff => "cut-off",
            Self::RoughLine => "rough-line",
        }
    }

    const fn cell(self) -> Cell {
        let (asks, answers, transports) = match self {
            // Its ports are others afterwards.
            Self::NatReboot => (Access::Symmetric, Access::Public, Transports::Both),
            Self::MappingTimeout => (
                Access::PortRestricted,
                Access::PortRestricted,
                Transports::Quic,
            ),
            Self::RelayLarge | Self::RelayDeath | Self::RelayQuota => {
                (Access::Symmetric, Access::Symmetric, Transports::Both)
            }
            Self::ColdStart
            | Self::UplinkSwitch
            | Self::AnchorsDeath
            | Self::PartitionHeal
            | Self::CutOff
            | Self::RoughLine => (
                Access::PortRestricted,
                Access::PortRestricted,
                Transports::Both,
            ),
        };
        Cell {
            transports,
            asks,
            answers,
        }
    }

    /// What the anchors have in their settings.
    fn settings(self) -> String {
        match self {
            Self::RelayQuota => format!("[net]\nrelayed_per_hour = {QUOTA}\n"),
            _ => String::new(),
        }
    }

    fn wiring(self, seed: u64) -> Wiring {
        let quality = match self {
            Self::RoughLine => Quality {
                delay: Duration::from_millis(30),
                jitter: Duration::from_millis(10),
                loss: 0.005,
                rate: 8_000_000,
                queue: Duration::from_millis(200),
            },
            // Slow, so that an answer has a middle.
            Self::RelayDeath => Quality {
                delay: Duration::from_millis(10),
                jitter: Duration::ZERO,
                loss: 0.0,
                rate: 4_000_000,
                queue: Duration::from_millis(200),
            },
            _ => return Wiring::Plain,
        };
        Wiring::of(quality, seed)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Plays a scenario, in namespaces and homes named `name`.
pub(crate) fn play(place: &Place, name: &str, scenario: Scenario, seed: u64) -> Outcome {
    let mut figures = Vec::new();
    let told = stage(place, name, scenario, seed, &mut figures);
    Outcome {
        scenario: scenario.name(),
        // One line, for the table.
        result: told.map_err(|e| {
            format!("{e:#}")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        }),
        figures,
    }
}

fn stage(
    place: &Place,
    name: &str,
    scenario: Scenario,
    seed: u64,
    figures: &mut Vec<Figure>,
) -> Result<String> {
    let cell = scenario.cell();
    let wiring = scenario.wiring(seed);
    let net = Topology::build(name, cell.asks, cell.answers, &wiring)?;
    if !matches!(wiring, Wiring::Plain) {
        let line = echo::measure(&net)?;
        figures.push(Figure {
            metric: "round trip of a datagram, p50",
            value: seconds(line.median),
            unit: "s",
        });
        figures.push(Figure {
            metric: "datagrams lost, there and back",
            value: (line.lost * 1000.0).round() / 10.0,
            unit: "%",
        });
    }
    let anchors = Anchors::start(place, &net, cell.transports, &scenario.settings())?;
    let start = |side| mesh::start(place, &net, &anchors, side, cell.transports);
    let (a, b) = if scenario == Scenario::ColdStart {
        thread::scope(|scope| {
            let b = scope.spawn(|| start(Side::B));
            let a = start(Side::A)?;
            let b = b
                .join()
                .unwrap_or_else(|_| bail!("the starting thread panicked"))?;
            anyhow::Ok((a, b))
        })?
    } else {
        let b = start(Side::B)?;
        mesh::reached(&b)?;
        (start(Side::A)?, b)
    };
    let mut stage = Stage {
        net: &net,
        anchors,
        a,
        b,
        figures,
    };
    if scenario != Scenario::ColdStart {
        stage.settle(cell)?;
    }
    match scenario {
        Scenario::ColdStart => stage.cold_start(),
        Scenario::NatReboot => stage.nat_reboot(),
        Scenario::UplinkSwitch => stage.uplink_switch(),
        Scenario::MappingTimeout => stage.mapping_timeout(),
        Scenario::RelayLarge => stage.relay_large(),
        Scenario::RelayDeath => stage.relay_death(),
        Scenario::RelayQuota => stage.relay_quota(),
        Scenario::AnchorsDeath => stage.anchors_death(),
        Scenario::PartitionHeal => stage.partition_heal(),
        Scenario::CutOff => stage.cut_off(),
        Scenario::RoughLine => stage.rough_line(&wiring),
    }
}

/// A cell at work, with a path that has settled.
struct Stage<'s, 'a> {
    net: &'a Topology,
    anchors: Anchors<'a>,
    a: Daemon<'a>,
    b: Daemon<'a>,
    figures: &'s mut Vec<Figure>,
}

impl Stage<'_, '_> {
    fn cold_start(&mut self) -> Result<String> {
        let since = Instant::now();
        let known = eventually(READY, || self.a.knows(mesh::expert(Side::B)))?;
        ensure!(known, "the two never heard of each other");
        let first = trial::ask(self.net, &self.a)?;
        let answered = self.recover()?;
        let direct = self.direct_again(since)?;
        let first = match first.way {
            Way::None => "failed",
            _ => "was answered",
        };
        Ok(format!(
            "the first question {first}; answers after {answered:.1} s, direct after {direct:.1} s"
        ))
    }

    /// Waits until the path is what theory allows.
    fn settle(&self, cell: Cell) -> Result<()> {
        let known = eventually(READY, || self.a.knows(mesh::expert(Side::B)))?;
        ensure!(known, "the two never heard of each other");
        let wanted = if cell.expected().is_direct() {
            Way::Direct
        } else {
            Way::Relayed
        };
        let mut last = None;
        let settled = eventually(READY, || {
            let asked = trial::ask(self.net, &self.a)?;
            let way = asked.way;
            last = Some(asked);
            Ok(way == wanted)
        })?;
        ensure!(
            settled,
            "before the scenario began the path was not {wanted} but {last:?}"
        );
        Ok(())
    }

    fn measured(&mut self, metric: &'static str, time: Duration) -> f64 {
        let value = seconds(time);
        self.figures.push(Figure {
            metric,
            value,
            unit: "s",
        });
        value
    }

    /// Asks until there is an answer; each question must end before its own deadline.
    fn recover(&mut self) -> Result<f64> {
        let since = Instant::now();
        let mut errors = Vec::new();
        let answered = eventually(RECOVERY, || {
            let asked = trial::ask(self.net, &self.a)?;
            let answered = asked.way != Way::None;
            if !answered {
                ensure!(!asked.note.is_empty(), "a question ended without a word");
                errors.push(asked.note);
            }
            Ok(answered)
        })?;
        ensure!(
            answered,
            "no answer within {} s: {errors:?}",
            RECOVERY.as_secs()
        );
        Ok(self.measured("answer after", since.elapsed()))
    }

    fn direct_again(&mut self, since: Instant) -> Result<f64> {
        let direct = eventually(RECOVERY, || {
            Ok(self
                .a
                .path_to(&self.b.peer)?
                .as_ref()
                .is_some_and(Link::is_direct)
                && trial::ask(self.net, &self.a)?.way == Way::Direct)
        })?;
        ensure!(
            direct,
            "no direct path again within {} s",
            RECOVERY.as_secs()
        );
        Ok(self.measured("direct path after", since.elapsed()))
    }

    fn nat_reboot(&mut self) -> Result<String> {
        self.net.site(Side::A).reboot_nat()?;
        let since = Instant::now();
        let answered = self.recover()?;
        let direct = self.direct_again(since)?;
        Ok(format!(
            "answers again after {answered:.1} s, direct again after {direct:.1} s"
        ))
    }

    fn uplink_switch(&mut self) -> Result<String> {
        self.net.switch_uplink(Side::A)?;
        let since = Instant::now();
        let answered = self.recover()?;
        let direct = self.direct_again(since)?;
        Ok(format!(
            "answers again after {answered:.1} s, direct again after {direct:.1} s"
        ))
    }

    fn mapping_timeout(&mut self) -> Result<String> {
        for side in Side::BOTH {
            for router in &self.net.site(side).routers {
                for timeout in [
                    "nf_conntrack_udp_timeout",
                    "nf_conntrack_udp_timeout_stream",
                ] {
                    router.set(&format!("netfilter/{timeout}"), FORGETFUL)?;
                }
            }
        }
        // Flows that are there already keep their old timeout until their next packet.
        thread::sleep(IDLE);
        let since = Instant::now();
        let asked = trial::ask(self.net, &self.a)?;
        ensure!(
            asked.way == Way::Direct,
            "after {} s of silence: {asked:?}",
            IDLE.as_secs()
        );
        let time = self.measured("answer after silence", since.elapsed());
        Ok(format!(
            "direct and answered in {time:.1} s after {} s of silence",
            IDLE.as_secs()
        ))
    }

    fn relay_large(&mut self) -> Result<String> {
        let since = Instant::now();
        let asked = trial::ask_longest(self.net, &self.a)?;
        ensure!(asked.way == Way::Relayed, "{asked:?}");
        let time = self.measured("answer after", since.elapsed());
        Ok(format!(
            "2 MB went through an anchor and were answered in {time:.1} s"
        ))
    }

    fn relay_death(&mut self) -> Result<String> {
        let site = self.net.site(Side::A);
        let before = site.carried()?;
        let asked = trial::ask(self.net, &self.a)?;
        ensure!(asked.way == Way::Relayed, "{asked:?}");
        let carried = site.carried()?.since(before).anchors;
        let relay = usize::from(carried[1] > carried[0]);
        let victim = self
            .anchors
            .daemons
            .get_mut(relay)
            .and_then(Option::take)
            .context("that anchor is gone")?;
        let (net, a) = (self.net, &self.a);
        let began = Instant::now();
        let ended = thread::scope(|scope| {
            let asking = scope.spawn(|| trial::ask_long(net, a));
            // It is killed when a good part of the question went through.
            let under_way = eventually(READY, || {
                Ok(site.carried()?.since(before).anchors[relay]
                    > carried[relay] + trial::QUESTION as u64)
            });
            drop(victim);
            let ended = asking
                .join()
                .unwrap_or_else(|_| bail!("the asking thread panicked"))?;
            ensure!(
                under_way?,
                "the long question never got under way: {ended:?}"
            );
            anyhow::Ok(ended)
        })?;
        let time = self.measured("question ended after", began.elapsed());
        let end = match ended.way {
            Way::None if ended.note.is_empty() => bail!("the question ended without a word"),
            Way::None => format!("named its error after {time:.1} s"),
            _ => format!("was answered after {time:.1} s"),
        };
        let again = self.recover()?;
        let before = site.carried()?;
        let asked = trial::ask(self.net, &self.a)?;
        let carried = site.carried()?.since(before).anchors;
        ensure!(
            asked.way == Way::Relayed && carried[1 - relay] > carried[relay],
            "the other anchor does not relay: {asked:?}, {carried:?}"
        );
        // Without any anchor there is no way left, and that must be said.
        self.anchors.daemons[1 - relay] = None;
        let since = Instant::now();
        let asked = trial::ask(self.net, &self.a)?;
        ensure!(
            asked.way == Way::None && !asked.note.is_empty(),
            "without an anchor: {asked:?}"
        );
        let named = self.measured("no anchor left, error named after", since.elapsed());
        Ok(format!(
            "the question {end}; relayed by the other anchor after {again:.1} s; \
             that one killed too, an error after {named:.1} s"
        ))
    }

    fn relay_quota(&mut self) -> Result<String> {
        let since = Instant::now();
        let mut answered = 0;
        let mut error = String::new();
        let refused = eventually(RECOVERY, || {
            let asked = trial::ask(self.net, &self.a)?;
            match asked.way {
                Way::None => {
                    ensure!(!asked.note.is_empty(), "a question ended without a word");
                    error = asked.note;
                    return Ok(true);
                }
                Way::Relayed => answered += 1,
                way => bail!("between two symmetric NATs the way was {way}: {asked:?}"),
            }
            Ok(false)
        })?;
        ensure!(refused, "{answered} questions, and no end of them");
        let time = self.measured("refused after", since.elapsed());
        // Each byte is charged to both nodes, so no anchor can have carried more than one allowance.
        let carried = self.net.site(Side::A).carried()?.anchors;
        ensure!(
            carried.iter().all(|c| *c <= QUOTA + CHATTER),
            "the anchors carried {carried:?} bytes"
        );
        for anchor in self.anchors.daemons.iter().flatten() {
            ensure!(
                anchor.look(&["status"])?.is_some(),
                "an anchor no longer answers"
            );
        }
        let again = self.recover()?;
        Ok(format!(
            "{answered} questions answered, then an error, after {time:.1} s: {error}; \
             by the other anchor after {again:.1} s"
        ))
    }

    fn anchors_death(&mut self) -> Result<String> {
        self.anchors.daemons = [None, None];
        let since = Instant::now();
        let mut answered = 0;
        while since.elapsed() < ORPHANED {
            let asked = trial::ask(self.net, &self.a)?;
            ensure!(
                asked.way == Way::Direct,
                "{:.0} s after the anchors' death: {asked:?}",
                since.elapsed().as_secs_f64()
            );
            answered += 1;
            thread::sleep(Duration::from_secs(1));
        }
        Ok(format!(
            "{answered} questions in {} s, each answered directly",
            ORPHANED.as_secs()
        ))
    }

    fn partition_heal(&mut self) -> Result<String> {
        self.net.partition(Side::B, true)?;
        let since = Instant::now();
        let asked = trial::ask(self.net, &self.a)?;
        ensure!(
            asked.way == Way::None,
            "an answer through a partition: {asked:?}"
        );
        ensure!(!asked.note.is_empty(), "the question ended without a word");
        let cut = self.measured("named its error after", since.elapsed());
        self.net.partition(Side::B, false)?;
        let since = Instant::now();
        let healed = self.recover()?;
        let direct = self.direct_again(since)?;
        Ok(format!(
            "cut off, an error after {cut:.1} s; healed, an answer after {healed:.1} s, direct after {direct:.1} s"
        ))
    }

    fn cut_off(&mut self) -> Result<String> {
        self.net.partition(Side::B, true)?;
        let gone =
            self.known_by_all("out of routing everywhere after", |why| why == "suspended")?;
        self.net.partition(Side::B, false)?;
        let back = self.known_by_all("back in routing everywhere after", str::is_empty)?;
        Ok(format!(
            "suspended on all others after {gone:.1} s; used again by all {back:.1} s after the line came back"
        ))
    }

    /// How long it takes until every node but the answering one gives such a reason for not using it.
    fn known_by_all(&mut self, metric: &'static str, such: impl Fn(&str) -> bool) -> Result<f64> {
        let since = Instant::now();
        let mut last = Vec::new();
        let known = eventually(RECOVERY, || {
            let others = self.anchors.daemons.iter().flatten().chain([&self.a]);
            let reasons = others.map(|d| d.reason(&self.b.peer));
            last = reasons.collect::<Result<_>>()?;
            Ok(last.iter().flatten().filter(|why| such(why)).count() == last.len())
        })?;
        ensure!(known, "not within {} s: {last:?}", RECOVERY.as_secs());
        Ok(self.measured(metric, since.elapsed()))
    }

    fn rough_line(&mut self, wiring: &Wiring) -> Result<String> {
        let since = Instant::now();
        let asked = trial::ask(self.net, &self.a)?;
        ensure!(asked.way == Way::Direct, "{asked:?}");
        let time = self.measured("answer after", since.elapsed());
        Ok(format!(
            "direct and answered in {time:.1} s (by {})",
            wiring.by()
        ))
    }
}
