// SPDX-License-Identifier: Apache-2.0
//! The books of one connection: what is counted when it begins, while it runs, and exactly once when it ends.

use crate::access_log::Record;
use crate::addrs::{ClientAddr, Direction, OrigDst};
use crate::close_reason::CloseReason;
use crate::limits::Permit;
use crate::listener::Accepted;
use crate::metrics::ClusterMetrics;
use crate::original_dst::Redirected;
use crate::proxy::Proxy;
use crate::relay::pipes::Pipes;
use crate::relay::{Mode, Moved, Side, Watch};
use crate::route::{ClusterId, Route};
use crate::table::{Entry, NewEntry, State};
use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// An accepted connection until its closing record is written. Dropped without [`Life::end`], which only a panic does,
/// it writes that record as [`CloseReason::Internal`].
#[derive(Debug)]
pub(crate) struct Life {
    proxy: Arc<Proxy>,
    id: u64,
    direction: Direction,
    client: ClientAddr,
    orig_dst: Option<OrigDst>,
    opened: Instant,
    entry: Option<Arc<Entry>>,
    /// Of the listener and of the cluster.
    permits: [Option<Permit>; 2],
    ended: bool,
}

impl Life {
    /// Counts the connection in.
    pub(crate) fn begin(proxy: Arc<Proxy>, accepted: &Accepted, redirected: Redirected) -> Self {
        let &Accepted { client, direction, .. } = accepted;
        let id = proxy.table.take_id();
        let life = Self {
            proxy,
            id,
            direction,
            client,
            orig_dst: match redirected {
                Redirected::From(orig_dst) => Some(orig_dst),
                Redirected::Not => None,
            },
            opened: Instant::now(),
            entry: None,
            permits: [None, None],
            ended: false,
        };
        life.listener_metrics().opened.inc();
        life.listener_metrics().active.inc();
        life
    }

    pub(crate) fn proxy(&self) -> Arc<Proxy> {
        Arc::clone(&self.proxy)
    }

    /// Keeps a permit for as long as the connection lives.
    pub(crate) fn hold(&mut self, permit: Permit) {
        let place = self.permits.iter_mut().find(|place| place.is_none());
        debug_assert!(place.is_some(), "a connection holds two permits");
        if let Some(place) = place {
            *place = Some(permit);
        }
    }

    /// Shows the connection in the table, from here on also to whoever wants to stop it.
    pub(crate) fn enter(&mut self, orig_dst: OrigDst, route: Route) -> Arc<Entry> {
        let Route { cluster, dial, source: _ } = route;
        let metrics = self.proxy.metrics.cluster(cluster);
        metrics.upstream_total.inc();
        metrics.upstream_active.inc();
        self.proxy.destinations.dialled(cluster, dial);
        let entry = self.proxy.table.enter(NewEntry {
            id: self.id,
            direction: self.direction,
            client: self.client,
            orig_dst,
            dial,
            cluster,
            opened: self.opened,
        });
        self.entry = Some(Arc::clone(&entry));
        entry
    }

    /// Counts the connection out and hands its record to the log.
    pub(crate) fn end(mut self, reason: CloseReason, error: Option<&dyn Error>) {
        self.close(reason, error);
    }

    fn listener_metrics(&self) -> &ClusterMetrics {
        self.proxy.metrics.cluster(ClusterId { direction: self.direction, family: self.client.family() })
    }

    fn close(&mut self, reason: CloseReason, error: Option<&dyn Error>) {
        self.ended = true;
        let duration = self.opened.elapsed();
        let metrics = &self.proxy.metrics;
        metrics.direction(self.direction).closed(reason).inc();
        self.listener_metrics().active.dec();
        // Given back before the connection leaves the table: who sees it gone may count on its place.
        self.permits = [None, None];
        let (mut bytes_sent, mut bytes_recv) = (0, 0);
        if let Some(entry) = &self.entry {
            let cluster = metrics.cluster(entry.cluster);
            cluster.upstream_active.dec();
            cluster.duration_seconds.observe(duration.as_secs_f64());
            if reason == CloseReason::IdleTimeout {
                cluster.idle_timeout.inc();
            }
            self.proxy.destinations.closed(entry.cluster, entry.dial);
            (bytes_sent, bytes_recv) = entry.bytes();
        }
        if reason != CloseReason::Ok {
            let words = || error.map(ToString::to_string);
            self.proxy.mishaps.note(self.direction, self.client, self.orig_dst, reason, words);
        }
        let debug = tracing::enabled!(target: "access", tracing::Level::DEBUG);
        if debug || self.proxy.access_log.is_on() {
            let record = Record {
                id: self.id,
                direction: self.direction,
                client: self.client,
                orig_dst: self.orig_dst,
                dial: self.entry.as_ref().map(|entry| entry.dial),
                cluster: self.entry.as_ref().map(|entry| entry.cluster),
                bytes_sent,
                bytes_recv,
                duration,
                reason,
                error: error.map(ToString::to_string),
            };
            if debug {
                trace(&record);
            }
            if !self.proxy.access_log.record(record) {
                metrics.access_log_dropped.inc();
            }
        }
        if let Some(entry) = self.entry.take() {
            self.proxy.table.leave(&entry);
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if !self.ended {
            self.close(CloseReason::Internal, None);
        }
    }
}

fn trace(record: &Record) {
    tracing::debug!(
        target: "access",
        id = record.id,
        direction = %record.direction,
        src.addr = %record.client,
        orig_dst = record.orig_dst.map(tracing::field::display),
        dst.addr = record.dial.map(tracing::field::display),
        bytes_sent = record.bytes_sent,
        bytes_recv = record.bytes_recv,
        duration = ?record.duration,
        reason = %record.reason,
        error = record.error.as_deref(),
    );
}

/// What the relay tells about its connection.
pub(crate) struct Watched {
    proxy: Arc<Proxy>,
    entry: Arc<Entry>,
    registered: Option<Waker>,
}

impl Watched {
    pub(crate) fn new(proxy: Arc<Proxy>, entry: Arc<Entry>) -> Self {
        Self { proxy, entry, registered: None }
    }
}

impl Watch for Watched {
    type Stop = CloseReason;

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.entry.poll_stop(cx, &mut self.registered)
    }

    fn moved(&mut self, Moved { to_server, to_client }: Moved) {
        self.entry.add_bytes(to_server, to_client);
        self.proxy.table.touch(&self.entry);
        let cluster = self.proxy.metrics.cluster(self.entry.cluster);
        if to_server != 0 {
            cluster.to_server.inc_by(to_server);
        }
        if to_client != 0 {
            cluster.to_client.inc_by(to_client);
        }
    }

    fn half_closed(&mut self, by: Side) {
        self.proxy.table.touch(&self.entry);
        self.entry.set_state(match by {
            Side::Client => State::HalfClosedByClient,
            Side::Server => State::HalfClosedByServer,
        });
    }

    fn deaf(&mut self, deaf: bool) {
        self.entry.set_deaf(deaf);
    }

    fn look(&mut self) -> bool {
        self.entry.take_look()
    }

    fn keep_alive(&self) -> Option<Duration> {
        self.proxy.config.tcp_keepalive
    }

    fn pipes(&self) -> &Arc<Pipes> {
        &self.proxy.pipes
    }

    fn mode(&mut self, mode: Mode) {
        self.entry.set_mode(mode);
    }
}
