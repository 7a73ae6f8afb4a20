// SPDX-License-Identifier: Apache-2.0
//! The state that the pages show and change, and requests to drain, from a page or a signal.

use crate::connection::proxy::Proxy;
use crate::observe::logging::LogControl;
use crate::observe::readiness::Readiness;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// A request to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainRequest {
    /// Drain the inbound half only and go on (SIGUSR2, POST /drain).
    Inbound,
    /// Drain both halves and exit (SIGTERM). A second one: exit now.
    All,
    /// Exit now (POST /quitquitquit).
    Now,
}

/// Everything that the pages show and change.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// The data path, whose state the pages show.
    pub(crate) proxy: Arc<Proxy>,
    /// Answer of `/ready`.
    pub(crate) readiness: Readiness,
    /// Queue of requests to drain, read by the main task.
    pub(crate) drain: mpsc::Sender<DrainRequest>,
    /// Control of the log level.
    pub(crate) log: LogControl,
    /// Start of the process.
    pub(crate) started: Instant,
}
