// SPDX-License-Identifier: Apache-2.0
//! The client's side of one connection: counted when it begins, while it lives, and exactly once when it ends.

use crate::cluster::metrics::ListenerMetrics;
use crate::cluster::registry::{ClusterState, Running};
use crate::cluster::stream::Stream;
use crate::connection::accepted::{Accepted, ConnectionInfo};
use crate::connection::error::ForwardError;
use crate::connection::metrics::Totals;
use crate::connection::proxy::Proxy;
use crate::connection::route::Route;
use crate::connection::table::Entry;
use crate::control::{Ended, Peer};
use crate::metrics::Lazy;
use crate::net::addrs::{DialAddr, Direction, OrigDst};
use crate::net::limit::{Claim, Permit};
use crate::net::original_dst::Redirected;
use crate::observe::access_log::Record;
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::{Known, Spoken};
use crate::observe::traffic_log::{HttpTraffic, Traffic};
use crate::plan::logs::LogTargets;
use crate::tls::first;
use culvert_mesh::model::log_template::LogField;
use culvert_mesh::model::spiffe::SpiffeId;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;

/// An accepted connection until its closing record is written. Dropped without [`Downstream::end`], which only a panic
/// does, it writes that record as [`CloseReason::Internal`].
///
/// It belongs to the connection's task, on one worker at a time; no other thread sees it. What others may see or ask of
/// the connection is in its [`Entry`].
#[derive(Debug)]
pub(crate) struct Downstream {
    /// Shared by all connections. Read here for counters, logs and the table.
    proxy: Arc<Proxy>,
    /// Written once, at accept. The entry has a copy.
    info: ConnectionInfo,
    /// Written by [`Downstream::routed`]; read when the connection ends, to count it out where it was counted in. `None`
    /// at the end means that the connection was refused before it had a route.
    listener: Option<Arc<Lazy<ListenerMetrics>>>,
    /// The place among the connections of its direction. Written by admission, given back before the connection leaves
    /// the table.
    permit: Option<Permit>,
    /// Written when the first server is dialled. From then on the table shows the connection, and the main thread's
    /// sweep, drain and admin pages read it and may stop the connection by it.
    entry: Option<Arc<Entry>>,
    /// Written once it is known, where mTLS is on: by a handshake, or by a look at the client's first bytes. The entry and
    /// the closing record share it.
    known: Option<Arc<Known>>,
    /// Written by [`Downstream::routed`] if a document wants the connection logged; read when it ends. On the heap, as few
    /// connections have one.
    log: Option<Box<LogEntry>>,
    /// Written by the end, so that the drop that follows writes no second record.
    ended: bool,
}

/// The part of a traffic log's line that the route decides.
#[derive(Debug)]
struct LogEntry {
    targets: LogTargets,
    mesh: Arc<str>,
    zone: Option<Arc<str>>,
    workload: Option<Arc<str>>,
    source: Option<Arc<str>>,
    destination: Option<Arc<str>>,
    /// Written when the client's ClientHello is looked at.
    server_name: Option<Box<str>>,
    /// True once a request was logged: there is no line about the connection then.
    by_request: bool,
}

impl Downstream {
    /// Counts the connection in.
    pub(crate) fn begin(proxy: Arc<Proxy>, accepted: &Accepted, redirected: Redirected) -> Self {
        let orig_dst = match redirected {
            Redirected::From(orig_dst) => Some(orig_dst),
            Redirected::Not => None,
        };
        let &Accepted { client, direction, .. } = accepted;
        let id = proxy.table.take_id();
        let info =
            ConnectionInfo { id, direction, client, orig_dst, opened: Instant::now(), claim: Claim::Full };
        let this = Self {
            proxy,
            info,
            listener: None,
            permit: None,
            entry: None,
            known: None,
            log: None,
            ended: false,
        };
        this.totals().opened.inc();
        this.totals().active.inc();
        this
    }

    /// Notes the route: counts the connection for its listener, and finds the traffic logs that want it.
    pub(crate) fn routed(&mut self, running: &Running, route: &Route, original: OrigDst) {
        let plan = &running.plan;
        let metrics = &route.listener.metrics;
        metrics.opened.inc();
        metrics.active.inc();
        self.listener = Some(Arc::clone(metrics));
        let direction = self.info.direction;
        if plan.logs.is_off(direction) && !running.has_told_logs() {
            return;
        }
        let destination = route.listener.plan.service.clone().or_else(|| match direction {
            Direction::Inbound => plan.service.clone(),
            Direction::Outbound => route.member.as_ref().map(|member| member.service().into()),
        });
        let source = plan.service.clone().filter(|_| direction == Direction::Outbound);
        let logs = running.logs_of((&route.listener, original.get()), destination.as_deref());
        self.log = logs.map(|targets| {
            Box::new(LogEntry {
                targets,
                mesh: Arc::clone(&plan.mesh),
                zone: plan.zone.clone(),
                workload: plan.workload.clone(),
                source,
                destination,
                server_name: None,
                by_request: false,
            })
        });
    }

    pub(crate) fn proxy(&self) -> Arc<Proxy> {
        Arc::clone(&self.proxy)
    }

    pub(crate) fn shared(&self) -> &Proxy {
        &self.proxy
    }

    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// The connection as the table shows it.
    ///
    /// # Panics
    /// Before [`Downstream::enter`].
    pub(crate) fn entry(&self) -> &Entry {
        self.entry.as_ref().expect("a connection is entered before a server is dialled")
    }

    /// Keeps the place among the connections of its direction, which was taken by this claim, until the end.
    pub(crate) fn hold(&mut self, permit: Permit, claim: Claim) {
        self.permit = Some(permit);
        self.info.claim = claim;
    }

    /// Notes that the client is a member, which may have every place.
    pub(crate) fn is_member(&mut self) {
        self.info.claim = Claim::Full;
    }

    /// Enters the connection in the table, from where it can be stopped from now on.
    pub(crate) fn enter(
        &mut self,
        cluster: &Arc<ClusterState>,
        dial: DialAddr,
        idle_timeout: Option<Duration>,
    ) -> Arc<Entry> {
        let entry = self.proxy.table.enter(self.info, Arc::clone(cluster), dial, idle_timeout);
        if let Some(known) = &self.known {
            entry.set_known(Arc::clone(known));
        }
        self.entry = Some(Arc::clone(&entry));
        if let (Some(control), Some(peer)) = (&self.proxy.control, self.peer()) {
            control.traffic.opened(peer);
        }
        entry
    }

    /// Notes the protocol, and the peer if it is a mesh member: of an inbound connection the client, else the server.
    pub(crate) fn speaks(&mut self, spoken: Spoken, peer: Option<SpiffeId>) {
        let known = Arc::new(Known { spoken, peer });
        if let Some(entry) = &self.entry {
            entry.set_known(Arc::clone(&known));
        }
        self.known = Some(known);
        if self.info.direction == Direction::Inbound {
            let metrics = self.proxy.metrics.tls.spoken(spoken);
            metrics.total.inc();
            metrics.active.inc();
        }
    }

    /// Notes the server name of the ClientHello that waits in the client's socket, where a log has it.
    pub(crate) fn note_server_name(&mut self, client: &TcpStream) {
        if let Some(log) = self.log.as_mut().filter(|log| log.targets.have(LogField::ServerName)) {
            log.server_name = first::server_name(client);
        }
    }

    /// Notes the server name of the client's ClientHello.
    pub(crate) fn asked_for(&mut self, server_name: &str) {
        if let Some(log) = &mut self.log {
            log.server_name = Some(server_name.into());
        }
    }

    /// Returns true if a traffic log wants the connection.
    pub(crate) fn is_logged(&self) -> bool {
        self.log.is_some()
    }

    /// Returns true once the sidecar drains its direction.
    pub(crate) fn is_draining(&self) -> bool {
        self.shared().table.is_draining(self.info().direction)
    }

    /// Writes requests to the traffic logs that want the connection.
    pub(crate) fn log_requests(&mut self, requests: Vec<HttpTraffic>) {
        if requests.is_empty() {
            return;
        }
        let Some(mut log) = self.log.take() else { return };
        for request in &requests {
            self.write_traffic_log(&log, CloseReason::Ok, Some(request));
        }
        log.by_request = true;
        self.log = Some(log);
    }

    /// Resets the client and ends the connection with the error.
    pub(crate) fn refuse(self, client: TcpStream, error: &ForwardError) {
        let client = Stream::Plain(client);
        client.reset();
        drop(client);
        self.end(error.reason(), Some(error));
    }

    /// Counts the connection out and writes its closing record.
    pub(crate) fn end(mut self, reason: CloseReason, error: Option<&dyn Error>) {
        self.close(reason, error);
    }

    /// The counters of its direction and family.
    fn totals(&self) -> &Totals {
        self.proxy.metrics.totals(self.info.direction, self.info.client.family())
    }

    fn close(&mut self, reason: CloseReason, error: Option<&dyn Error>) {
        self.ended = true;
        let duration = self.info.opened.elapsed();
        self.count_out(reason);
        // Given back before the connection leaves the table: a reader that sees it gone may count on its place.
        self.permit = None;
        if self.entry.is_some() {
            self.totals().duration_seconds.observe(duration.as_secs_f64());
        }
        let ConnectionInfo { direction, client, orig_dst, .. } = self.info;
        if reason != CloseReason::Ok {
            let words = || error.map(ToString::to_string);
            self.proxy.mishaps.note(direction, client, orig_dst, reason, words);
        }
        self.write_record(reason, duration, error);
        if let (Some(control), Some(peer)) = (&self.proxy.control, self.peer()) {
            let (to_server, to_client) = self.bytes();
            let spoken = self.known.as_ref().map(|known| known.spoken);
            let bytes = to_server.saturating_add(to_client);
            control.traffic.ended(peer, Ended { reason, was_open: self.entry.is_some(), spoken, bytes });
        }
        if let Some(log) = self.log.take().filter(|log| !log.by_request) {
            self.write_traffic_log(&log, reason, None);
        }
        if let Some(entry) = self.entry.take() {
            self.proxy.table.leave(&entry);
        }
    }

    fn count_out(&self, reason: CloseReason) {
        let metrics = &self.proxy.metrics;
        let direction = self.info.direction;
        metrics.direction(direction).closed(reason).inc();
        self.totals().active.dec();
        match &self.listener {
            Some(listener) => _ = listener.active.dec(),
            // Refused before it had a route: then it counts for the listener that it was redirected to.
            None => {
                let running = self.proxy.running.load();
                running.passthrough(direction, self.info.client.family()).metrics.opened.inc();
            }
        }
        if let Some(known) = self.known.as_ref().filter(|_| direction == Direction::Inbound) {
            metrics.tls.spoken(known.spoken).active.dec();
        }
    }

    /// The peer, as the controller is told of it; `None` for a connection that was never redirected.
    fn peer(&self) -> Option<Peer> {
        let ConnectionInfo { direction, client, orig_dst, .. } = self.info;
        let to = orig_dst?.get();
        let address = match direction {
            Direction::Inbound => client.get().ip(),
            Direction::Outbound => to.ip(),
        };
        Some(Peer { direction, address, port: to.port() })
    }

    /// Bytes to the server and to the client.
    fn bytes(&self) -> (u64, u64) {
        self.entry.as_ref().map_or((0, 0), |entry| entry.bytes())
    }

    fn write_record(&self, reason: CloseReason, duration: Duration, error: Option<&dyn Error>) {
        let debug = tracing::enabled!(target: "access", tracing::Level::DEBUG);
        if !debug && !self.proxy.access_log.is_on() {
            return;
        }
        let ConnectionInfo { id, direction, client, orig_dst, opened: _, claim: _ } = self.info;
        let (bytes_sent, bytes_recv) = self.bytes();
        let record = Record {
            id,
            direction,
            client,
            orig_dst,
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
        self.proxy.access_log.record(record);
    }

    /// Writes a line about the connection, or about one of its requests.
    fn write_traffic_log(&self, log: &LogEntry, reason: CloseReason, http: Option<&HttpTraffic>) {
        let ConnectionInfo { id, direction, client, orig_dst, opened, claim: _ } = self.info;
        let (started, duration, (bytes_sent, bytes_recv)) = match http {
            Some(request) => (request.started, request.duration, request.bytes.into()),
            None => {
                let (now, duration) = (SystemTime::now(), opened.elapsed());
                (now.checked_sub(duration).unwrap_or(now), duration, self.bytes())
            }
        };
        let traffic = Traffic {
            id,
            mesh: &log.mesh,
            zone: log.zone.as_deref(),
            workload: log.workload.as_deref(),
            direction,
            client,
            orig_dst,
            dial: self.entry.as_ref().map(|entry| entry.dial()),
            cluster: self.entry.as_ref().map(|entry| &*entry.cluster.name),
            source_service: log.source.as_deref(),
            destination_service: log.destination.as_deref(),
            started,
            duration,
            bytes_sent,
            bytes_recv,
            reason,
            server_name: log.server_name.as_deref(),
            http,
        };
        let caller = self.known.as_ref().and_then(|known| known.peer.as_ref());
        for sink in log.targets.of(caller.filter(|_| direction == Direction::Inbound)) {
            self.proxy.traffic_log.send(&sink.target, sink.format.line(&traffic));
        }
    }
}

impl Drop for Downstream {
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
