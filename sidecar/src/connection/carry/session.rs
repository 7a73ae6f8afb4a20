// SPDX-License-Identifier: Apache-2.0
//! A connection with both its sides, as its relay and its end see it: the counters, the table's entry, the closing record.

use crate::connection::downstream::Downstream;
use crate::connection::table::ConnectionState;
use crate::connection::tls;
use crate::connection::upstream::UpstreamUse;
use crate::net::own_sockets::OwnSocket;
use crate::observe::close_reason::CloseReason;
use crate::observe::traffic_log::HttpTraffic;
use crate::relay::pipes::Pipes;
use crate::relay::{End, Mode, Moved, Side, Watch};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The part of a connection that watches its relay. Fields are dropped in this order, which a panic relies on: the use of the
/// cluster before the closing record.
pub(super) struct Session {
    upstream: UpstreamUse,
    downstream: Downstream,
    /// The waker that the entry has; see [`crate::connection::table::Entry::poll_stop`].
    registered: Option<Waker>,
}

/// Returns the reason for the closing record, and the error behind it.
pub(super) fn reason_of(end: End<CloseReason>) -> (CloseReason, Option<io::Error>) {
    match end {
        End::Closed => (CloseReason::Ok, None),
        End::Died(side, error) => {
            let reset = match side {
                Side::Client => CloseReason::ClientReset,
                Side::Server => CloseReason::ServerReset,
            };
            (tls::reason_of(&error, reset), Some(error))
        }
        End::Stopped(reason) => (reason, None),
    }
}

// === impl Session ===

impl Session {
    pub(super) fn new(downstream: Downstream, upstream: UpstreamUse) -> Self {
        Self { upstream, downstream, registered: None }
    }

    /// Keeps the note of the server's socket until it is closed.
    pub(super) fn note_own_socket(&self, noted: Option<OwnSocket>) {
        self.downstream.entry().set_own_socket(noted);
    }

    /// Notes that the server's socket is closed.
    pub(super) fn server_closed(&self) {
        self.downstream.entry().set_own_socket(None);
    }

    /// Returns the bytes that moved, both ways together.
    pub(super) fn bytes(&self) -> u64 {
        let (to_server, to_client) = self.downstream.entry().bytes();
        to_server.wrapping_add(to_client)
    }

    /// Writes requests to the traffic logs.
    pub(super) fn log_requests(&mut self, requests: Vec<HttpTraffic>) {
        self.downstream.log_requests(requests);
    }

    /// Asks for a wake-up at a time, which the table's sweep gives.
    pub(super) fn set_due(&self, at: Option<Instant>) {
        let table = &self.downstream.shared().table;
        self.downstream.entry().set_due(at.map(|at| table.due_at(at)));
    }

    /// Returns true once the sidecar drains the connection's direction.
    pub(super) fn is_draining(&self) -> bool {
        self.downstream.is_draining()
    }

    /// Closes both sides and writes the closing record.
    pub(super) fn end(self, sides: impl Sized, reason: CloseReason, error: Option<&dyn Error>) {
        let Self { upstream, downstream, registered: _ } = self;
        downstream.entry().set_own_socket(None);
        // Before the record: a reader of the record, or of an empty table, may rely on both being closed.
        drop(sides);
        upstream.ends(reason);
        drop(upstream);
        downstream.end(reason, error);
    }

    #[cfg(test)]
    pub(super) fn cluster(&self) -> &Arc<crate::cluster::registry::ClusterState> {
        self.upstream.cluster()
    }
}

impl Watch for Session {
    type Stop = CloseReason;

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let Self { downstream, registered, .. } = self;
        downstream.entry().poll_stop(cx, registered)
    }

    fn moved(&mut self, moved: Moved) {
        let entry = self.downstream.entry();
        entry.add_bytes(moved.to_server, moved.to_client);
        self.downstream.shared().table.touch(entry);
        self.upstream.moved(moved);
    }

    fn half_closed(&mut self, by: Side) {
        let entry = self.downstream.entry();
        self.downstream.shared().table.touch(entry);
        entry.set_state(match by {
            Side::Client => ConnectionState::HalfClosedByClient,
            Side::Server => ConnectionState::HalfClosedByServer,
        });
    }

    fn not_read(&mut self, deaf: bool) {
        self.downstream.entry().set_unread(deaf);
    }

    fn check_due(&mut self) -> bool {
        self.downstream.entry().take_check()
    }

    fn keep_alive(&self) -> Option<Duration> {
        self.downstream.shared().config.tcp_keepalive
    }

    fn pipes(&self) -> &Arc<Pipes> {
        &self.downstream.shared().pipes
    }

    fn mode(&mut self, mode: Mode) {
        self.downstream.entry().set_mode(mode);
    }
}
