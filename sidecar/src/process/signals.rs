// SPDX-License-Identifier: Apache-2.0
//! Signals that ask the sidecar for something, and those that must not end it.

use crate::admin::DrainRequest;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals whose default is the end, or a stop, of the process: runbooks, terminals, limits and timers of other programs send
/// them. SIGUSR1 and SIGUSR2 are among them for as long as nothing listens to them yet. Those that report a fault of the
/// program itself (SIGABRT, SIGTRAP, SIGBUS, SIGSYS …) keep their default: a dump is what they are for. SIGPIPE is ignored
/// by Rust's start. Numbers as on x86-64 and arm64.
const HARMLESS: [i32; 14] = [
    1,  // SIGHUP
    10, // SIGUSR1
    12, // SIGUSR2
    14, // SIGALRM
    16, // SIGSTKFLT
    20, // SIGTSTP
    21, // SIGTTIN
    22, // SIGTTOU
    24, // SIGXCPU
    25, // SIGXFSZ
    26, // SIGVTALRM
    27, // SIGPROF
    29, // SIGIO
    30, // SIGPWR
];
/// Real-time signals. The C library keeps 32 and 33 for itself; musl 34 too, and refuses a handler for it.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// A request by signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Drain(DrainRequest),
    /// Look for the files of the logs' names, as Envoy does.
    ReopenLogs,
}

/// Lets signals that ask for nothing pass, from now until the end of the process. Within an event loop.
pub(super) fn survive() -> io::Result<()> {
    // The kernel goes on calling a handler when nothing listens any more.
    for number in REAL_TIME {
        drop(signal(SignalKind::from_raw(number)));
    }
    HARMLESS.into_iter().try_for_each(|number| signal(SignalKind::from_raw(number)).map(drop))
}

/// SIGTERM, SIGINT, SIGQUIT, SIGUSR1 and SIGUSR2.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    drain: Signal,
    reopen: Signal,
}

impl Signals {
    /// Takes the signals over from the kernel's defaults, within an event loop.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            // Images of web servers make it their stop signal.
            quit: signal(SignalKind::quit())?,
            drain: signal(SignalKind::user_defined2())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Drain(DrainRequest::All),
            _ = self.interrupt.recv() => Asked::Drain(DrainRequest::All),
            _ = self.quit.recv() => Asked::Drain(DrainRequest::All),
            _ = self.drain.recv() => Asked::Drain(DrainRequest::Inbound),
            _ = self.reopen.recv() => Asked::ReopenLogs,
        }
    }
}
