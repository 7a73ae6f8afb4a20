// SPDX-License-Identifier: Apache-2.0
//! The context that all tasks of the agent share, and the readiness of the node.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::metrics::Metrics;
use super::options::AgentOptions;
use crate::host::layout::Layout;

/// The context of the agent's tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub options: Arc<AgentOptions>,
    pub metrics: Arc<Metrics>,
    /// Notified by `keep_entry` when it has put the entry back: pods may have started without rules. `verify` waits for it.
    pub verify_now: Arc<Notify>,
    /// The node's folders. `keep_entry` publishes them every few seconds, since k3s moves its folders with each release.
    pub(super) layout: watch::Receiver<Arc<Layout>>,
    /// Published by `keep_entry`; read by `/ready` and by the task that removes the taint.
    pub(super) readiness: watch::Receiver<Readiness>,
    /// True once SIGTERM or SIGINT has come.
    pub(super) shutdown: watch::Receiver<bool>,
}

/// The readiness of the node: an onboarded pod that starts now is redirected, or is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// The entry is effective in this file, as the node names it.
    Effective(String),
    /// The entry is not effective, for this reason.
    Not(String),
}

impl Readiness {
    pub(crate) const fn is_ready(&self) -> bool {
        matches!(self, Self::Effective(_))
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Effective(file) => write!(f, "ready: the entry is effective in {file}"),
            Self::Not(reason) => write!(f, "not ready: {reason}"),
        }
    }
}

impl Context {
    /// Returns the node's folders as they are now.
    pub(crate) fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.layout.borrow())
    }

    pub(crate) fn readiness(&self) -> Readiness {
        self.readiness.borrow().clone()
    }

    /// Waits until the node is ready; false if the agent ends first.
    pub(crate) async fn until_ready(&self) -> bool {
        let mut readiness = self.readiness.clone();
        tokio::select! {
            ready = readiness.wait_for(Readiness::is_ready) => ready.is_ok(),
            () = self.shutdown() => false,
        }
    }

    /// Waits for the shutdown of the agent.
    pub(crate) async fn shutdown(&self) {
        let mut shutdown = self.shutdown.clone();
        // An error means that the sender is gone, and with it the agent.
        let _ = shutdown.wait_for(|ends| *ends).await;
    }
}

/// The channels by which `keep_entry` publishes to the other tasks.
#[derive(Debug)]
pub(crate) struct Publishers {
    pub layout: watch::Sender<Arc<Layout>>,
    pub readiness: watch::Sender<Readiness>,
}
