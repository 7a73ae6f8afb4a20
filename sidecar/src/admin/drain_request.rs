// SPDX-License-Identifier: Apache-2.0
//! Requests to drain, from a page or a signal.

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
