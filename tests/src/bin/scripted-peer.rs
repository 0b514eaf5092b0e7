//! A daemon as `polymath up` makes it, but for its engine, in which [`script`](polymath_tests::script)
//! stands in for models.
//!
//! `scripted-peer HOME MODELS LISTEN SLOWNESS EXPERT...`, an expert being its name, or a
//! [`Part`].

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, sync::Arc};

use polymath_blobs::{SilentProgress, Store};
use polymath_engine::{Engine, EngineConfig};
use polymath_node::{Home, Node, Options, config::Config, experts::Card};
use polymath_tests::{
    says::Part,
    script::{card, script},
};

/// Answers at once: none of these tests is about who waits.
const PLACES: usize = 4096;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [home, models, listen, slowness, experts @ ..] = args.as_slice() else {
        panic!("scripted-peer HOME MODELS LISTEN SLOWNESS EXPERT...");
    };
    let engine = Engine::start(EngineConfig {
        threads: 1,
        ..EngineConfig::default()
    });
    let engine = engine.expect("an engine");
    let mut config = Config::default();
    config.net.listen = listen.split(',').map(str::to_owned).collect();
    config.net.local_discovery = false;
    config.net.upnp = false;
    config.engine.slots = PLACES;
    config.engine.queue = PLACES;
    config.router.encoder = "static".into();
    config.accept_public = true;
    let slowness = slowness.parse().expect("a number");
    let mut cards = Vec::new();
    for name in experts {
        let part = Part::read(name);
        let card = Arc::new(card(part.as_ref().map_or(name, |p| &p.name)));
        let stand_in = match part {
            Some(part) => {
                config.prices.extend(part.price.clone());
                part.shared()
            }
            None => script(slowness),
        };
        engine.stand_in(card.id(), stand_in);
        cards.push(Card::Known(card));
    }
    let home = Home::open(home).expect("a home");
    let lock = home.lock().expect("a home of its own");
    polymath_node::allow_open_files();
    let node = Node::start(Options {
        home,
        lock,
        config,
        cards,
        store: Store::open(Path::new(models)).expect("a model store"),
        progress: Arc::new(SilentProgress),
        passing: false,
        engine: Some(engine),
    });
    let node = node.await.expect("it starts");
    node.ended().await;
    node.shut_down().await;
}
