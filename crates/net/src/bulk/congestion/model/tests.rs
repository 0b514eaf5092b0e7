//! A sender that always has more, over a simulated link, in virtual time.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;

const MTU: u64 = 1452;
const MS: Duration = Duration::from_millis(1);

struct Link {
    /// Bytes a second.
    rate: f64,
    round_trip: Duration,
    /// Bytes.
    queue: f64,
    /// One packet of so many is lost, evenly.
    one_in: u64,
}

/// What a sender saw.
struct Seen {
    /// Share of the link's rate that arrived, in the second half of the time.
    used: f64,
    /// Share of packets lost, in the same time.
    lost: f64,
    /// Largest queue in the last quarter, as time.
    waited: Duration,
}

enum Event {
    Acknowledged { left: Instant },
    Lost,
    Tick,
}

/// Sends for `length`, paced as quinn does.
fn send(model: &mut Model, link: &Link, length: Duration) -> Seen {
    let began = Instant::now();
    let mut events: BTreeMap<(Duration, u64), Event> = BTreeMap::new();
    let mut number = 0;
    let mut now = Duration::ZERO;
    let mut queue_empty_at = Duration::ZERO;
    let (mut in_flight, mut packets) = (0, 0);
    let mut tokens: f64 = 10.0 * MTU as f64;
    let (mut sent, mut lost, mut arrived) = (0, 0, 0);
    let mut waited = Duration::ZERO;
    let mut smoothed = link.round_trip;
    events.insert((now, number), Event::Tick);
    while let Some(((at, _), event)) = events.pop_first() {
        if at > length {
            break;
        }
        let pace = model.window() as f64 * 1.25 / smoothed.as_secs_f64();
        tokens = (tokens + pace * (at - now).as_secs_f64()).min(32.0 * MTU as f64);
        now = at;
        let counted = now > length / 2;
        match event {
            Event::Acknowledged { left } => {
                in_flight -= MTU;
                model.acknowledged(began + now, left, MTU);
                smoothed = (smoothed * 7 + (began + now - left)) / 8;
                model.end_of_acknowledgements(began + now, in_flight, false);
                arrived += u64::from(counted);
            }
            Event::Lost => {
                in_flight -= MTU;
                model.lost(MTU, false);
                lost += u64::from(counted);
            }
            Event::Tick => {
                number += 1;
                events.insert((now + MS / 2, number), Event::Tick);
            }
        }
        while in_flight + MTU <= model.window() && tokens >= MTU as f64 {
            tokens -= MTU as f64;
            in_flight += MTU;
            packets += 1;
            sent += u64::from(counted);
            model.sent(began + now, MTU);
            number += 1;
            let waits = queue_empty_at.saturating_sub(now);
            let full = waits.as_secs_f64() * link.rate > link.queue;
            if full || packets % link.one_in == 0 {
                // Known by what arrives behind it.
                events.insert((now + waits + link.round_trip + MS, number), Event::Lost);
                continue;
            }
            if now > length * 3 / 4 {
                waited = waited.max(waits);
            }
            queue_empty_at =
                queue_empty_at.max(now) + Duration::from_secs_f64(MTU as f64 / link.rate);
            let left = began + now;
            let arrives = queue_empty_at + link.round_trip;
            events.insert((arrives, number), Event::Acknowledged { left });
        }
    }
    let took = (length / 2).as_secs_f64();
    Seen {
        used: arrived as f64 * MTU as f64 / took / link.rate,
        lost: lost as f64 / sent as f64,
        waited,
    }
}

fn long_link() -> Link {
    Link {
        rate: 25e6,
        round_trip: 150 * MS,
        queue: 25e6 * 0.1,
        one_in: 1000,
    }
}

fn model() -> Model {
    Model::new(MTU as u16)
}

#[test]
fn a_long_link_that_loses_one_in_a_thousand_is_filled() {
    let seen = send(&mut model(), &long_link(), Duration::from_secs(20));
    assert!(seen.used > 0.9, "{}", seen.used);
    assert!(seen.lost < 0.005, "{}", seen.lost);
}

#[test]
fn a_loss_of_one_in_a_hundred_is_borne_too() {
    let link = Link {
        one_in: 100,
        ..long_link()
    };
    let seen = send(&mut model(), &link, Duration::from_secs(20));
    assert!(seen.used > 0.85, "{}", seen.used);
}

#[test]
fn the_first_second_is_enough_to_know_the_link() {
    let mut model = model();
    send(&mut model, &long_link(), Duration::from_millis(1500));
    let product = 25e6 * 0.15;
    assert!(
        (0.8..2.5).contains(&(model.window() as f64 / product)),
        "{}",
        model.window()
    );
}

#[test]
fn a_short_queue_is_not_kept_overflowing() {
    let link = Link {
        queue: 25e6 * 0.005,
        one_in: u64::MAX,
        ..long_link()
    };
    let seen = send(&mut model(), &link, Duration::from_secs(30));
    assert!(seen.lost < 0.03, "{}", seen.lost);
    assert!(seen.used > 0.75, "{}", seen.used);
}

#[test]
fn a_long_queue_is_not_filled() {
    let link = Link {
        queue: 25e6 * 2.0,
        one_in: u64::MAX,
        ..long_link()
    };
    let seen = send(&mut model(), &link, Duration::from_secs(40));
    assert!(seen.used > 0.9, "{}", seen.used);
    assert!(seen.waited < 120 * MS, "{:?}", seen.waited);
}

#[test]
fn a_link_that_has_become_slower_is_not_overrun() {
    let mut model = model();
    send(&mut model, &long_link(), Duration::from_secs(5));
    let slower = Link {
        rate: 2.5e6,
        queue: 2.5e6 * 0.1,
        ..long_link()
    };
    let seen = send(&mut model, &slower, Duration::from_secs(20));
    assert!(seen.lost < 0.03, "{}", seen.lost);
    assert!(seen.used > 0.8, "{}", seen.used);
}

#[test]
fn when_nothing_comes_through_any_more_little_is_sent() {
    let mut model = model();
    send(&mut model, &long_link(), Duration::from_secs(2));
    model.lost(MTU, true);
    assert_eq!(model.window(), LEAST_PACKETS * MTU);
}
