//! A wire between two namespaces: plain, or with delay, jitter, loss and a bandwidth.
//!
//! The kernel's netem does the latter where it exists. Where it does not, this program is the line: it
//! holds a TUN device in each of the two namespaces and carries packets between them.

use std::{
    process::Command,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::{
    line::{Direction, Quality},
    netns::{Netns, tool},
    topology::Subnet,
};

/// The kind of a wire.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Wiring {
    /// As fast as the machine.
    #[default]
    Plain,
    /// By the kernel's netem.
    Netem(Quality),
    /// By two TUN devices and this program, with a seed.
    Tun(Quality, u64),
}

impl Wiring {
    /// A wire of this quality, by whatever there is here to make one.
    pub(crate) fn of(quality: Quality, seed: u64) -> Self {
        static NETEM: OnceLock<bool> = OnceLock::new();
        if *NETEM.get_or_init(|| has_netem().unwrap_or(false)) {
            Self::Netem(quality)
        } else {
            Self::Tun(quality, seed)
        }
    }

    /// What makes it.
    pub(crate) const fn by(&self) -> &'static str {
        match self {
            Self::Plain => "veth",
            Self::Netem(_) => "netem",
            Self::Tun(..) => "a user-space TUN line",
        }
    }
}

/// Whether this kernel has netem, by trying.
fn has_netem() -> Result<bool> {
    let trial = Netns::create("netem-trial".into())?;
    trial.within(|| {
        let mut tc = Command::new("tc");
        Ok(tool(
            tc.args(["qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]),
            "",
        )
        .is_ok())
    })
}

/// A wire that was laid. What this program carries is cut when dropped; the namespaces keep a TUN
/// device, and are kept by it, for as long.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Namespace and device of each end that this program holds.
    held: Vec<[String; 2]>,
}

impl Wire {
    /// Connects `outer` (which gets the subnet's gateway address) and `inner` (the member, whose
    /// default route leads here). `devices` are their names, the outer's first.
    pub(crate) fn lay(
        wiring: &Wiring,
        outer: &Netns,
        inner: &Netns,
        devices: [&str; 2],
        subnet: Subnet,
    ) -> Result<Self> {
        let ends = [(outer, devices[0]), (inner, devices[1])];
        let mut wire = Self { held: Vec::new() };
        match wiring {
            Wiring::Plain => pair(ends)?,
            Wiring::Netem(quality) => {
                pair(ends)?;
                for (namespace, device) in ends {
                    namespace.within(|| tool(&mut netem(device, quality), "").map(drop))?;
                }
            }
            Wiring::Tun(quality, seed) => {
                wire.held = ends
                    .map(|(n, d)| [n.name().to_owned(), d.to_owned()])
                    .to_vec();
                carry(ends, *quality, *seed)?;
            }
        }
        let (gateway, member) = (subnet.gateway(), subnet.member());
        let up = |device: &str, address| {
            format!("address add {address}/24 dev {device}\nlink set {device} up\n")
        };
        outer.ip(&up(devices[0], gateway))?;
        inner.ip(&format!(
            "{}route add default via {gateway}\n",
            up(devices[1], member)
        ))?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for [namespace, device] in &self.held {
            let mut ip = Command::new("ip");
            let _ = tool(ip.args(["-netns", namespace, "link", "del", device]), "");
        }
    }
}

fn pair([(outer, outer_device), (inner, inner_device)]: [(&Netns, &str); 2]) -> Result<()> {
    outer.ip(&format!(
        "link add {outer_device} type veth peer name {inner_device} netns {}\n",
        inner.name()
    ))
}

fn netem(device: &str, quality: &Quality) -> Command {
    let mut tc = Command::new("tc");
    let half = quality.jitter / 2;
    // netem's jitter goes both ways around the delay; ours only adds to it.
    tc.args(["qdisc", "add", "dev", device, "root", "netem"])
        .args(["delay", &micros(quality.delay + half), &micros(half)])
        .args(["loss", &format!("{}%", quality.loss * 100.0)])
        .args(["rate", &format!("{}bit", quality.rate)]);
    tc
}

fn micros(time: Duration) -> String {
    format!("{}us", time.as_micros())
}

/// Makes this program the wire.
fn carry(ends: [(&Netns, &str); 2], quality: Quality, seed: u64) -> Result<()> {
    let [outer, inner] = ends.map(|(namespace, name)| {
        namespace.within(|| {
            let device = DeviceBuilder::new().name(name).build_sync();
            device
                .map(Arc::new)
                .with_context(|| format!("no TUN device {name}"))
        })
    });
    let (outer, inner) = (outer?, inner?);
    for (from, to, seed) in [(&outer, &inner, seed), (&inner, &outer, !seed)] {
        let lane = Arc::new(Lane::new(Direction::new(quality, seed)));
        let (taking, giving) = (Arc::clone(&lane), lane);
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        thread::spawn(move || taking.take(&from));
        thread::spawn(move || giving.give(&to));
    }
    Ok(())
}

/// One direction between two threads: one takes packets in, the other gives them out in time.
struct Lane {
    began: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    direction: Direction,
    /// The device that packets come from is gone.
    over: bool,
}

/// The largest packet of a device; TUN's default is 1,500.
const LARGEST: usize = 2048;

impl Lane {
    fn new(direction: Direction) -> Self {
        Self {
            began: Instant::now(),
            state: Mutex::new(State {
                direction,
                over: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves a queue as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, from: &SyncDevice) {
        let mut buffer = [0; LARGEST];
        while let Ok(length) = from.recv(&mut buffer) {
            let packet = buffer.get(..length).unwrap_or_default().to_vec();
            self.state().direction.offer(self.began.elapsed(), packet);
            self.changed.notify_one();
        }
        self.state().over = true;
        self.changed.notify_one();
    }

    fn give(&self, to: &SyncDevice) {
        let mut state = self.state();
        while !state.over {
            let now = self.began.elapsed();
            if let Some(packet) = state.direction.arrived(now) {
                drop(state);
                // A device that is down drops packets, as any line does.
                let _ = to.send(&packet);
                state = self.state();
            } else if let Some(due) = state.direction.next_due() {
                let wait = due.saturating_sub(now);
                let waited = self.changed.wait_timeout(state, wait);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                let waited = self.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
