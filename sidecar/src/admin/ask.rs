// SPDX-License-Identifier: Apache-2.0
//! Requests to drain, from a page or a signal.

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Drain the inbound half only and go on (SIGUSR2, POST /drain).
    Inbound,
    /// Drain both halves and exit (SIGTERM). Asked again: exit now.
    All,
    /// Exit now (POST /quitquitquit).
    Now,
}
