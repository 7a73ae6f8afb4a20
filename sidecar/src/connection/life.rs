// SPDX-License-Identifier: Apache-2.0
//! The books of one connection: what is counted when it begins, while it runs, and exactly once when it ends.

use crate::cluster::metrics::UpstreamMetrics;
use crate::cluster::registry::{Cluster, Listener, Running};
use crate::connection::Accepted;
use crate::connection::metrics::Totals;
use crate::connection::proxy::Proxy;
use crate::connection::route::Route;
use crate::connection::table::{Entry, NewEntry, State};
use crate::net::addrs::{ClientAddr, DialAddr, Direction, OrigDst};
use crate::net::limit::Permit;
use crate::net::original_dst::Redirected;
use crate::net::spiffe::SpiffeId;
use crate::observe::access_log::Record;
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::Known;
use crate::observe::spoken::Spoken;
use crate::observe::traffic_log::{Sink, Traffic};
use crate::plan::Plan;
use crate::relay::pipes::Pipes;
use crate::relay::{Mode, Moved, Side, Watch};
use prometheus_client::metrics::counter::Counter;
use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

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
    /// The one that it came to, once that is known.
    listener: Option<Arc<Listener>>,
    entry: Option<Arc<Entry>>,
    /// Of the listener and of the cluster.
    permits: [Option<Permit>; 2],
    /// What it speaks, and with whom, once that is known.
    known: Option<Arc<Known>>,
    /// Where documents want it logged.
    log: Option<Box<Logged>>,
    ended: bool,
}

/// What a traffic log says of a connection besides its record.
#[derive(Debug)]
struct Logged {
    sinks: Arc<[Sink]>,
    mesh: Arc<str>,
    source: Option<Arc<str>>,
    destination: Option<Arc<str>>,
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
            listener: None,
            entry: None,
            permits: [None, None],
            known: None,
            log: None,
            ended: false,
        };
        life.totals().opened.inc();
        life.totals().active.inc();
        life
    }

    /// The listener is known, and with it who logs the connection.
    pub(crate) fn came_to(&mut self, running: &Running, route: &Route) {
        let listener = &running.listeners[route.listener];
        listener.metrics.opened.inc();
        listener.metrics.active.inc();
        self.listener = Some(Arc::clone(listener));
        let plan = &running.plan;
        if plan.logs[self.direction as usize].is_empty() {
            return;
        }
        let planned = &plan.listeners[route.listener];
        let destination = planned.service.clone().or_else(|| match self.direction {
            Direction::Inbound => plan.service.clone(),
            Direction::Outbound => route.member.as_ref().map(|member| member.service().into()),
        });
        let source = plan.service.clone().filter(|_| self.direction == Direction::Outbound);
        self.log = plan.sinks(self.direction, destination.as_deref()).map(|sinks| {
            Box::new(Logged { sinks: Arc::clone(sinks), mesh: Arc::clone(&plan.mesh), source, destination })
        });
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

    /// Counts in a cluster, and in the totals of its direction and family.
    pub(crate) fn count(&self, cluster: &Cluster, counter: impl Fn(&UpstreamMetrics) -> &Counter) {
        counter(&cluster.metrics).inc();
        counter(&self.totals().upstream).inc();
    }

    /// Shows the connection in the table, from here on also to whoever wants to stop it.
    pub(crate) fn enter(
        &mut self,
        orig_dst: OrigDst,
        dial: DialAddr,
        cluster: Arc<Cluster>,
        idle_timeout: Option<Duration>,
    ) -> Arc<Entry> {
        self.count(&cluster, |upstream| &upstream.total);
        cluster.metrics.active.inc();
        self.totals().upstream.active.inc();
        self.proxy.destinations.dialled(cluster.id, dial);
        let entry = self.proxy.table.enter(NewEntry {
            id: self.id,
            direction: self.direction,
            client: self.client,
            orig_dst,
            dial,
            cluster,
            opened: self.opened,
            idle_timeout,
        });
        if let Some(known) = &self.known {
            entry.set_known(Arc::clone(known));
        }
        self.entry = Some(Arc::clone(&entry));
        entry
    }

    /// It is known what it speaks, and with whom: an inbound one with its client, an outbound one with its server.
    pub(crate) fn speaks(&mut self, spoken: Spoken, peer: Option<SpiffeId>) {
        let known = Arc::new(Known { spoken, peer });
        if let Some(entry) = &self.entry {
            entry.set_known(Arc::clone(&known));
        }
        self.known = Some(known);
        if self.direction == Direction::Inbound {
            let metrics = self.proxy.metrics.tls.spoken(spoken);
            metrics.total.inc();
            metrics.active.inc();
        }
    }

    /// When it was accepted.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// It is dialled again, elsewhere.
    pub(crate) fn redial(&self, entry: &Entry, dial: DialAddr) {
        self.count(&entry.cluster, |upstream| &upstream.total);
        self.proxy.destinations.closed(entry.cluster.id, entry.dial());
        self.proxy.destinations.dialled(entry.cluster.id, dial);
        entry.set_dial(dial);
    }

    /// Counts the connection out and hands its record to the log.
    pub(crate) fn end(mut self, reason: CloseReason, error: Option<&dyn Error>) {
        self.close(reason, error);
    }

    /// The counters of its direction and family.
    pub(crate) fn totals(&self) -> &Totals {
        self.proxy.metrics.totals(self.direction, self.client.family())
    }

    fn close(&mut self, reason: CloseReason, error: Option<&dyn Error>) {
        self.ended = true;
        let duration = self.opened.elapsed();
        let metrics = &self.proxy.metrics;
        metrics.direction(self.direction).closed(reason).inc();
        self.totals().active.dec();
        match &self.listener {
            Some(listener) => _ = listener.metrics.active.dec(),
            // Refused before that was known: it is the business of the listener that it was redirected to.
            None => {
                let running = self.proxy.running.load();
                let at = Plan::passthrough_listener(self.direction, self.client.family());
                running.listeners[at].metrics.opened.inc();
            }
        }
        if let Some(known) = self.known.as_ref().filter(|_| self.direction == Direction::Inbound) {
            metrics.tls.spoken(known.spoken).active.dec();
        }
        // Given back before the connection leaves the table: who sees it gone may count on its place.
        self.permits = [None, None];
        let (mut bytes_sent, mut bytes_recv) = (0, 0);
        if let Some(entry) = &self.entry {
            entry.cluster.metrics.active.dec();
            self.totals().upstream.active.dec();
            self.totals().duration_seconds.observe(duration.as_secs_f64());
            if reason == CloseReason::IdleTimeout {
                self.count(&entry.cluster, |upstream| &upstream.idle_timeout);
            }
            self.proxy.destinations.closed(entry.cluster.id, entry.dial());
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
                dial: self.entry.as_ref().map(|entry| entry.dial()),
                cluster: self.entry.as_ref().map(|entry| Arc::clone(&entry.cluster.name)),
                bytes_sent,
                bytes_recv,
                ended: SystemTime::now(),
                duration,
                known: self.known.clone(),
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
        if let Some(log) = self.log.take() {
            self.write_traffic_log(&log, reason, duration, (bytes_sent, bytes_recv));
        }
        if let Some(entry) = self.entry.take() {
            self.proxy.table.leave(&entry);
        }
    }

    fn write_traffic_log(
        &self,
        log: &Logged,
        reason: CloseReason,
        duration: Duration,
        (bytes_sent, bytes_recv): (u64, u64),
    ) {
        let now = SystemTime::now();
        let traffic = Traffic {
            id: self.id,
            mesh: &log.mesh,
            direction: self.direction,
            client: self.client,
            orig_dst: self.orig_dst,
            dial: self.entry.as_ref().map(|entry| entry.dial()),
            cluster: self.entry.as_ref().map(|entry| &*entry.cluster.name),
            source_service: log.source.as_deref(),
            destination_service: log.destination.as_deref(),
            started: now.checked_sub(duration).unwrap_or(now),
            duration,
            bytes_sent,
            bytes_recv,
            reason,
        };
        for sink in &*log.sinks {
            self.proxy.traffic_log.send(&sink.target, sink.format.line(&traffic));
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
        tls = record.known.as_ref().map(|known| known.spoken.name()),
        peer = record.known.as_ref().and_then(|known| known.peer.as_ref()).map(tracing::field::display),
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

    #[cfg(test)]
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
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
        let totals = &self.proxy.metrics.totals(self.entry.direction, self.entry.client.family()).upstream;
        for metrics in [&self.entry.cluster.metrics, totals] {
            if to_server != 0 {
                metrics.to_server.inc_by(to_server);
            }
            if to_client != 0 {
                metrics.to_client.inc_by(to_client);
            }
        }
    }

    fn half_closed(&mut self, by: Side) {
        self.proxy.table.touch(&self.entry);
        self.entry.set_state(match by {
            Side::Client => State::HalfClosedByClient,
            Side::Server => State::HalfClosedByServer,
        });
    }

    fn not_read(&mut self, not_read: bool) {
        self.entry.set_deaf(not_read);
    }

    fn check_due(&mut self) -> bool {
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
