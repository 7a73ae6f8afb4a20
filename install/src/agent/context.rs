// SPDX-License-Identifier: Apache-2.0
//! What the agent's tasks share.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::metrics::Metrics;
use super::options::Options;
use crate::host::layout::Layout;

/// What the agent's tasks share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// What was asked for.
    pub options: Arc<Options>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Told when our entry had been away for a while: pods may have started without rules.
    pub verify_now: Arc<Notify>,
    /// Where things are; looked up again every few seconds, since k3s moves its folders with each release.
    pub(super) layout: watch::Receiver<Arc<Layout>>,
    pub(super) readiness: watch::Receiver<Readiness>,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// Whether the next pod of this node will be covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Our entry is effective in this file, as the node calls it.
    Effective(String),
    /// It is not, for this reason.
    Not(String),
}

impl Readiness {
    /// Whether it will.
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
    /// Where things are now.
    pub(crate) fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.layout.borrow())
    }

    /// Whether the next pod will be covered.
    pub(crate) fn readiness(&self) -> Readiness {
        self.readiness.borrow().clone()
    }

    /// Waits until the next pod will be covered; for the taint. `false`: the agent ends first.
    pub(crate) async fn until_ready(&self) -> bool {
        let mut readiness = self.readiness.clone();
        tokio::select! {
            ready = readiness.wait_for(Readiness::is_ready) => ready.is_ok(),
            () = self.shutdown() => false,
        }
    }

    /// Waits until the agent is told to end.
    pub(crate) async fn shutdown(&self) {
        let mut shutdown = self.shutdown.clone();
        // An error means that the agent is gone already.
        let _ = shutdown.wait_for(|ends| *ends).await;
    }
}

/// What the task that keeps things in place tells the others.
#[derive(Debug)]
pub(crate) struct Told {
    /// See [`Context::layout`].
    pub layout: watch::Sender<Arc<Layout>>,
    /// See [`Context::readiness`].
    pub readiness: watch::Sender<Readiness>,
}
