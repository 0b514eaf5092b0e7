//! Congestion control for long links that lose packets at random.
//!
//! CUBIC takes every loss for a full queue; at one loss in a thousand packets and 150 ms it settles at a
//! few per cent of what a 200 Mbit/s link carries. Here the window follows what the path has shown to
//! deliver: the bandwidth-delay product, as in BBR (Cardwell et al., ACM Queue 14/5, 2016;
//! draft-ietf-ccwg-bbr). quinn has a BBR of its own. It takes the largest rate between two
//! acknowledgements for the bandwidth, so acknowledgements that come bunched make it overrate the path
//! many times over, and it ends its start at the first lost packet. This one samples delivery rates as
//! draft-cheng-iccrg-delivery-rate-estimation does, and gives way when more than 2 % of a
//! round is lost, which chance alone rarely does and a full queue always. quinn paces by the window:
//! 5/4 of it a round trip. So a window is all there is to decide.

use std::{any::Any, sync::Arc, time::Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

mod model;

use model::Model;

/// Makes a controller for each connection.
#[derive(Debug, Default)]
pub(super) struct Bottleneck(());

impl ControllerFactory for Bottleneck {
    fn build(self: Arc<Self>, _: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Model::new(mtu))
    }
}

impl Controller for Model {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        self.sent(now, bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        self.acknowledged(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.end_of_acknowledgements(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, persistent: bool, lost: u64) {
        self.lost(lost, persistent);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.set_mtu(mtu);
    }

    fn window(&self) -> u64 {
        Model::window(self)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = Model::window(self);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        Model::initial_window(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
