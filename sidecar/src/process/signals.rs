// SPDX-License-Identifier: Apache-2.0
//! Signals that ask the sidecar to drain.

use crate::admin::DrainRequest;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, SIGINT and SIGUSR2.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    drain: Signal,
}

impl Signals {
    /// Takes the signals over from the kernel's defaults, within an event loop.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            drain: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> DrainRequest {
        tokio::select! {
            _ = self.terminate.recv() => DrainRequest::All,
            _ = self.interrupt.recv() => DrainRequest::All,
            _ = self.drain.recv() => DrainRequest::Inbound,
        }
    }
}
