// SPDX-License-Identifier: Apache-2.0
//! Readiness: a list of reasons against it. A part of the sidecar that is not ready holds a [`Block`]; dropping it is the
//! message, so no part can forget to report, and a new one changes nothing here.

use crate::metrics::{Gauge, metrics};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// State of a process in Envoy's admin interface, with its number in `server.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerState {
    Live = 0,
    Draining = 1,
    /// Not ready, and not draining.
    Initializing = 3,
}

impl ServerState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::Initializing => "INITIALIZING",
        }
    }
}

metrics! {
    /// The answer of `/ready`.
    #[derive(Clone, Default)]
    pub(crate) struct ReadinessMetrics {
        ready: Gauge = "ready", "Whether /ready says yes" => "server.ready";
    }
}

/// Readiness of the process.
#[derive(Clone, Debug)]
pub(crate) struct Readiness(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    // A `watch` and no mutex, since the log line "ready" waits for the last block to go.
    blocks: watch::Sender<Blocks>,
    metrics: ReadinessMetrics,
}

#[derive(Debug, Default)]
struct Blocks {
    draining: bool,
    /// By age of the block, the oldest first.
    reasons: BTreeMap<u64, Vec<String>>,
    next: u64,
}

impl Blocks {
    fn is_ready(&self) -> bool {
        !self.draining && self.reasons.values().all(Vec::is_empty)
    }
}

/// Keeps the process from being ready until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the block at once"]
pub(crate) struct Block {
    shared: Arc<Shared>,
    id: u64,
}

// === impl Shared ===

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Blocks)) {
        self.blocks.send_modify(|blocks| {
            change(blocks);
            self.metrics.ready.set(i64::from(blocks.is_ready()));
        });
    }
}

// === impl Readiness ===

impl Readiness {
    /// Ready, until the first block.
    pub(crate) fn new(metrics: ReadinessMetrics) -> Self {
        let shared = Shared { blocks: watch::Sender::default(), metrics };
        shared.change(|_| ());
        Self(Arc::new(shared))
    }

    /// Blocks readiness for these reasons, one a line of `/ready`. Older blocks come first there.
    pub(crate) fn block(&self, reasons: Vec<String>) -> Block {
        let mut id = 0;
        self.0.change(|blocks| {
            id = blocks.next;
            blocks.next += 1;
            blocks.reasons.insert(id, reasons);
        });
        Block { shared: Arc::clone(&self.0), id }
    }

    /// Ends readiness for good: the pod is leaving.
    pub(crate) fn drain(&self) {
        self.0.change(|blocks| blocks.draining = true);
    }

    /// Ready, or everything that stands in the way, one reason a line.
    ///
    /// # Errors
    /// The reasons.
    pub(crate) fn check(&self) -> Result<(), String> {
        let blocks = self.0.blocks.borrow();
        if blocks.is_ready() {
            return Ok(());
        }
        let draining = blocks.draining.then_some("draining: the sidecar was told to stop");
        let reasons = draining.into_iter().chain(blocks.reasons.values().flatten().map(String::as_str));
        Err(reasons.collect::<Vec<_>>().join("\n"))
    }

    /// State under Envoy's name.
    pub(crate) fn state(&self) -> ServerState {
        let blocks = self.0.blocks.borrow();
        if blocks.is_ready() {
            ServerState::Live
        } else if blocks.draining {
            ServerState::Draining
        } else {
            ServerState::Initializing
        }
    }

    /// Waits until nothing blocks.
    pub(crate) async fn ready(&self) {
        let mut blocks = self.0.blocks.subscribe();
        // The sender is in `self`, so it is not gone.
        let _ = blocks.wait_for(Blocks::is_ready).await;
    }
}

// === impl Block ===

impl Block {
    /// Replaces the reasons. An empty list lets the process be ready without giving the block up: the next update may
    /// have reasons again, as when a family's address comes later.
    pub(crate) fn update(&self, reasons: Vec<String>) {
        self.shared.change(|blocks| _ = blocks.reasons.insert(self.id, reasons));
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.shared.change(|blocks| _ = blocks.reasons.remove(&self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness() -> (Readiness, ReadinessMetrics) {
        let metrics = ReadinessMetrics::default();
        (Readiness::new(metrics.clone()), metrics)
    }

    fn reasons(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_block_is_a_reason_until_it_is_dropped() {
        let (readiness, metrics) = readiness();
        assert_eq!(readiness.check(), Ok(()));
        let starting = readiness.block(reasons(&["starting"]));
        let capture = readiness.block(reasons(&["IPv4", "IPv6"]));
        assert_eq!(readiness.check(), Err("starting\nIPv4\nIPv6".into()));
        assert_eq!((readiness.state(), metrics.ready.get()), (ServerState::Initializing, 0));
        drop(starting);
        capture.update(reasons(&["IPv6"]));
        assert_eq!(readiness.check(), Err("IPv6".into()));
        capture.update(Vec::new());
        assert_eq!((readiness.check(), metrics.ready.get()), (Ok(()), 1));
        capture.update(reasons(&["IPv6"]));
        assert_eq!((readiness.check(), metrics.ready.get()), (Err("IPv6".into()), 0));
        drop(capture);
        assert_eq!((readiness.state(), metrics.ready.get()), (ServerState::Live, 1));
    }

    #[test]
    fn draining_comes_first_and_has_no_end() {
        let (readiness, metrics) = readiness();
        let block = readiness.block(reasons(&["no identity"]));
        readiness.drain();
        assert_eq!(readiness.check(), Err("draining: the sidecar was told to stop\nno identity".into()));
        drop(block);
        assert_eq!((readiness.state(), metrics.ready.get()), (ServerState::Draining, 0));
    }

    #[tokio::test]
    async fn a_waiter_hears_of_the_last_block_that_goes() {
        let (readiness, _) = readiness();
        let blocks = [readiness.block(reasons(&["one"])), readiness.block(reasons(&["two"]))];
        let dropping = async {
            for block in blocks {
                tokio::task::yield_now().await;
                drop(block);
            }
        };
        tokio::join!(readiness.ready(), dropping);
        assert_eq!(readiness.check(), Ok(()));
    }
}
