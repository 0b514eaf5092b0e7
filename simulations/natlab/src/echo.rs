//! What a side's line really does to packets: datagrams to an anchor and back.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    sockets::{datagrams, received},
    tally::percentile,
    topology::{Side, Topology, anchor_address},
};

/// Datagrams sent, and the pause between two.
const COUNT: u32 = 500;
const PAUSE: Duration = Duration::from_millis(4);
/// Of both ends.
const PORT: u16 = 40_003;

/// A line as measured, there and back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) median: Duration,
    /// Share of datagrams that did not come back, 0 to 1.
    pub(crate) lost: f64,
}

/// Measures the line of side A.
pub(crate) fn measure(net: &Topology) -> Result<Measured> {
    let at = SocketAddrV4::new(anchor_address(0), PORT);
    let mirror = net.anchor(0)?.within(|| datagrams(at))?;
    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
    let socket = &net.site(Side::A).host.within(|| datagrams(from))?;
    let mut trips = thread::scope(|scope| {
        scope.spawn(|| {
            // Ends with the first silence.
            while let Ok(Some((bytes, source))) = received(&mirror) {
                let _ = mirror.send_to(&bytes, source);
            }
        });
        let began = Instant::now();
        let reading = scope.spawn(move || {
            let mut trips = Vec::new();
            while let Some((bytes, _)) = received(socket)? {
                let sent: Option<[u8; 8]> = bytes.as_slice().try_into().ok();
                let sent = sent.context("a datagram of another length")?;
                let sent = Duration::from_nanos(u64::from_be_bytes(sent));
                trips.push(began.elapsed().saturating_sub(sent));
            }
            anyhow::Ok(trips)
        });
        for _ in 0..COUNT {
            let now = u64::try_from(began.elapsed().as_nanos()).unwrap_or_default();
            socket.send_to(&now.to_be_bytes(), at)?;
            thread::sleep(PAUSE);
        }
        reading
            .join()
            .map_err(|_| anyhow!("the reading thread panicked"))?
    })?;
    trips.sort_unstable();
    let came = u32::try_from(trips.len()).unwrap_or(COUNT);
    Ok(Measured {
        median: percentile(&trips, 50).context("nothing came back")?,
        lost: 1.0 - f64::from(came) / f64::from(COUNT),
    })
}
