//! Answering no peer for a while, and what a node offers meanwhile: nothing. Its part in the DHT,
//! relaying and the catalog go on, as do its own user's questions.

use std::sync::Arc;

use polymath_types::{ExpertCard, Failure};

use crate::Node;

impl Node {
    /// Stops answering peers, or begins again, and remembers it across restarts. Answers under way are
    /// finished. Whether that was a change.
    pub fn pause(&self, pause: bool) -> Result<bool, Failure> {
        self.inner.home.set_paused(pause)?;
        let changed = self.inner.service.gate.pause(pause);
        if changed {
            let what = if pause { "paused" } else { "resumed" };
            tracing::info!("{what} answering peers");
        }
        Ok(changed)
    }

    /// Whether peers are answered at present.
    pub fn is_paused(&self) -> bool {
        self.inner.service.gate.is_paused()
    }

    /// Cards of the experts that peers may ask now.
    pub(crate) fn offered(&self) -> Vec<Arc<ExpertCard>> {
        let service = &self.inner.service;
        if service.gate.is_closed() {
            return Vec::new();
        }
        service.hosted.offered()
    }
}
