// SPDX-License-Identifier: Apache-2.0
//! The page for people, and the values that its script draws.

use super::app::App;
use super::connection_view::ConnectionView;
use super::envoy;
use super::requests::RequestsView;
use crate::cluster::registry::{Cluster, ClusterState, Listener, Running};
use crate::control::Control;
use crate::dns::metrics::{Answered, Outcome};
use crate::net::addrs::Direction;
use crate::net::clock::rfc3339;
use crate::net::limit::Limit;
use crate::observe::history::Sample;
use crate::observe::spoken::Spoken;
use crate::plan::stand_in::StandIns;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// The page: one file, no reference to any other, from this host or elsewhere.
pub(super) const PAGE: &str = include_str!("page.html");

/// Rights that a browser gives the page: its own script and style, and requests to this server. No page may frame it.
pub(super) const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Most connections on the page; `/connections` has them all.
const MOST_CONNECTIONS: usize = 200;
/// Most warnings; the log has them all.
const MOST_WARNINGS: usize = 20;
/// Most listeners and most clusters: names of the mesh may make thousands of both. `/listeners` and `/clusters` have them all.
const MOST_ROWS: usize = 200;
/// Most destinations per cluster; `/clusters` has more.
const MOST_DESTINATIONS: usize = 20;

/// Everything on the page.
#[derive(Serialize)]
pub(super) struct Overview {
    version: &'static str,
    now: String,
    /// In seconds.
    uptime: f64,
    ready: bool,
    /// Reasons why it is not ready.
    reasons: Vec<String>,
    workers: usize,
    documents: DocumentsView,
    tls: Option<TlsView>,
    /// The DNS server, where it is on.
    dns: Option<DnsView>,
    /// One sample a second, oldest first.
    history: Vec<Sample>,
    /// Requests, where a port of HTTP is.
    requests: Option<RequestsView>,
    listeners: Vec<ListenerView>,
    /// Number of all listeners, and of all clusters.
    listeners_total: usize,
    clusters: Vec<ClusterView>,
    clusters_total: usize,
    open: usize,
    /// The newest of them.
    connections: Vec<ConnectionView>,
    errors: Vec<ErrorView>,
}

/// State of the mesh documents.
#[derive(Serialize)]
struct DocumentsView {
    mesh: String,
    dataplane: Option<String>,
    count: usize,
    files: usize,
    /// The controller, where there is one.
    control: Option<ControlView>,
    passthrough: bool,
    /// Time since which they are in force.
    loaded: String,
    reload_failed: u64,
    /// Errors of a later change that could not be used.
    errors: Vec<String>,
    /// In seconds before now.
    failed: Option<f64>,
    warnings: Vec<String>,
}

/// The stream from the controller.
#[derive(Serialize)]
struct ControlView {
    address: String,
    state: String,
    /// Documents of the controller that are in force.
    documents: usize,
    /// Destinations that are followed.
    destinations: i64,
    /// What stands in for a document that has not come.
    stand_ins: Vec<&'static str>,
    /// Reasons for which documents are not in force as the controller told them.
    refused: Vec<String>,
}

/// TLS between the mesh's members.
#[derive(Serialize)]
struct TlsView {
    /// `STRICT`, `PERMISSIVE`, or nothing where the mesh has none.
    mode: Option<&'static str>,
    /// Identity of this workload.
    identity: Option<String>,
    /// End of the identity's certificate.
    expires: Option<String>,
    /// Problem that an operator should solve.
    complaint: Option<String>,
    /// Inbound connections so far, by what they speak.
    spoken: Vec<(&'static str, u64)>,
}

/// The DNS server.
#[derive(Serialize)]
struct DnsView {
    /// Number of names of the mesh.
    names: usize,
    /// Queries so far, by what they were answered with.
    queries: Vec<(&'static str, u64)>,
    active: i64,
    /// Mean time in milliseconds that servers took to answer; none before the first answer.
    mean: Option<f64>,
    /// Servers of the pod, with words for their states.
    servers: Vec<(String, &'static str)>,
}

#[derive(Serialize)]
struct ListenerView {
    name: String,
    direction: &'static str,
    address: String,
    total: u64,
    active: i64,
    /// Connections refused because the mesh closes the way to their destination.
    denied: u64,
    /// Both families of a direction share one limit.
    used: u32,
    max: u32,
}

#[derive(Serialize)]
struct ClusterView {
    name: String,
    total: u64,
    active: i64,
    connect_fail: u64,
    connect_timeout: u64,
    overflow: u64,
    bytes_sent: u64,
    bytes_recv: u64,
    limits: Vec<LimitView>,
    destinations: Vec<DestinationView>,
}

#[derive(Serialize)]
struct LimitView {
    name: &'static str,
    used: u32,
    max: u32,
}

#[derive(Serialize)]
struct DestinationView {
    address: String,
    total: u64,
    active: u32,
    connect_fail: u64,
    /// In seconds before now.
    last_seen: f64,
    /// Dataplane or match that names it. Without one, the way there would be closed without passthrough.
    named_by: Option<String>,
}

#[derive(Serialize)]
struct ErrorView {
    direction: &'static str,
    reason: &'static str,
    words: String,
    client: String,
    orig_dst: Option<String>,
    count: u64,
    /// In seconds before now.
    last: f64,
}

impl Overview {
    pub(super) fn of(app: &App) -> Self {
        let proxy = &app.proxy;
        let ready = app.readiness.check();
        let now = Instant::now();
        let connections = proxy.table.newest(MOST_CONNECTIONS);
        let running = proxy.running.load();
        let (listeners_total, listeners) =
            first(listeners(&running), |of| of.metrics.view(|metrics| metrics.opened.get() > 0));
        let (clusters_total, clusters) =
            first(clusters(&running), |of| of.state.metrics.view(|metrics| metrics.total.get() > 0));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            now: rfc3339(std::time::SystemTime::now()),
            uptime: app.started.elapsed().as_secs_f64(),
            ready: ready.is_ok(),
            reasons: ready.err().map_or_else(Vec::new, |text| text.lines().map(str::to_owned).collect()),
            workers: proxy.config.workers,
            documents: documents(app, &running),
            tls: tls(app, &running),
            dns: dns(app, &running),
            history: proxy.history.samples(),
            requests: RequestsView::of_http(app),
            listeners: listeners.iter().map(|of| listener(app, of)).collect(),
            listeners_total,
            clusters: clusters.iter().map(|of| cluster(app, &running, &of.state)).collect(),
            clusters_total,
            open: proxy.table.len(),
            connections: connections.iter().map(|entry| ConnectionView::of(entry, now)).collect(),
            errors: errors(app),
        }
    }
}

/// Returns the number of all listeners, and those that a row can be about: of thousands on demand the ones that were called,
/// as the page asks once a second.
fn listeners(running: &Running) -> (usize, Vec<Arc<Listener>>) {
    let total = running.listener_count();
    if total <= MOST_ROWS {
        let all = envoy::listeners(running);
        return (all.len(), all);
    }
    let used = running.used_listeners();
    let (on, off): (Vec<_>, Vec<_>) = used.into_iter().partition(envoy::is_on);
    (total - off.len(), on)
}

/// Returns the same of clusters.
fn clusters(running: &Running) -> (usize, Vec<Arc<Cluster>>) {
    let total = running.cluster_count();
    if total <= MOST_ROWS {
        let all = envoy::clusters(running);
        return (all.len(), all);
    }
    (total, running.used_clusters())
}

/// Returns the number of all rows, and those that the page shows: of too many those that were used come first.
fn first<T>((total, mut rows): (usize, Vec<T>), used: impl Fn(&T) -> bool) -> (usize, Vec<T>) {
    if rows.len() > MOST_ROWS {
        rows.sort_by_key(|row| !used(row));
        rows.truncate(MOST_ROWS);
    }
    (total, rows)
}

fn of_controller(control: &Control, stand_ins: StandIns) -> ControlView {
    let (address, state) = control.words();
    let StandIns { mesh, dataplane } = stand_ins;
    let mut refused = control.bad();
    refused.truncate(MOST_WARNINGS);
    ControlView {
        address,
        state,
        documents: control.in_force().len(),
        destinations: control.metrics.destinations.get(),
        stand_ins: [(mesh, "Mesh"), (dataplane, "Dataplane")]
            .into_iter()
            .filter_map(|(stands, kind)| stands.then_some(kind))
            .collect(),
        refused,
    }
}

fn documents(app: &App, running: &Running) -> DocumentsView {
    let status = app.proxy.documents.get();
    DocumentsView {
        mesh: running.plan.mesh.to_string(),
        dataplane: app.proxy.config.dataplane.clone(),
        count: running.documents(),
        files: status.files,
        control: app.proxy.control.as_ref().map(|control| of_controller(control, running.plan.stand_ins)),
        passthrough: running.plan.passthrough,
        loaded: rfc3339(status.loaded),
        reload_failed: app.proxy.documents.failures(),
        errors: status.errors,
        failed: status.failed.map(|at| at.elapsed().as_secs_f64()),
        warnings: running.plan.warnings.iter().take(MOST_WARNINGS).cloned().collect(),
    }
}

/// Returns `None` where neither options nor documents have TLS.
fn tls(app: &App, running: &Running) -> Option<TlsView> {
    let (tls, mtls) = (&app.proxy.tls, running.plan.mtls.as_ref());
    if tls.source().is_none() && mtls.is_none() {
        return None;
    }
    let identity = tls.identity();
    let of = &app.proxy.metrics.tls;
    Some(TlsView {
        mode: mtls.map(|mtls| mtls.mode().name()),
        identity: identity.as_ref().map(|identity| identity.ids[0].to_string()),
        expires: identity.map(|identity| rfc3339(std::time::SystemTime::UNIX_EPOCH + identity.expires())),
        complaint: tls.complaint(mtls.is_some()),
        spoken: Spoken::ALL.map(|spoken| (spoken.name(), of.spoken(spoken).total.get())).into(),
    })
}

/// Returns `None` where the DNS server is off.
fn dns(app: &App, running: &Running) -> Option<DnsView> {
    let (of, proxy) = (&app.proxy.metrics.dns, &app.proxy);
    let answered = of.upstream.outcomes[Outcome::Answered].get();
    (proxy.config.dns_port != 0).then(|| DnsView {
        names: running.plan.names.names.len(),
        queries: Answered::ALL.map(|answered| (answered.name(), of.queries[answered].get())).into(),
        active: of.active.get(),
        mean: (answered > 0).then(|| of.upstream.micros.get() as f64 / 1e3 / answered as f64),
        servers: proxy.dns.servers().into_iter().map(|(at, state)| (at.to_string(), state)).collect(),
    })
}

fn listener(app: &App, of: &Listener) -> ListenerView {
    let planned = &of.plan;
    let limit = app.proxy.limits.listener(planned.direction);
    of.metrics.view(|metrics| ListenerView {
        name: planned.name.to_string(),
        direction: planned.direction.name(),
        address: planned.address.to_string(),
        total: metrics.opened.get(),
        active: metrics.active.get(),
        denied: metrics.no_route.get(),
        used: limit.used(),
        max: limit.max(),
    })
}

fn cluster(app: &App, running: &Running, of: &ClusterState) -> ClusterView {
    let limit = |name, limit: &Limit| LimitView { name, used: limit.used(), max: limit.max() };
    of.metrics.view(|metrics| ClusterView {
        name: of.name.to_string(),
        total: metrics.total.get(),
        active: metrics.active.get(),
        connect_fail: metrics.connect_failed.get(),
        connect_timeout: metrics.connect_timed_out.get(),
        overflow: metrics.overflow.get() + metrics.pending_overflow.get(),
        bytes_sent: metrics.to_server.get(),
        bytes_recv: metrics.to_client.get(),
        limits: of.limits.view(|breaker| {
            vec![limit("connections", &breaker.connections), limit("connects under way", &breaker.pending)]
        }),
        destinations: app
            .proxy
            .destinations
            .of(of.id)
            .into_iter()
            .take(MOST_DESTINATIONS)
            .map(|(addr, host)| DestinationView {
                address: addr.to_string(),
                total: host.total,
                active: host.active,
                connect_fail: host.connect_fail,
                last_seen: host.last_seen.elapsed().as_secs_f64(),
                named_by: running.plan.named_by(addr.get()),
            })
            .collect(),
    })
}

fn errors(app: &App) -> Vec<ErrorView> {
    let view = |one: crate::observe::failures::Failure| ErrorView {
        direction: one.direction.name(),
        reason: one.reason.name(),
        words: sentence(one.direction, one.reason.in_words(), one.words.as_deref()),
        client: one.client.to_string(),
        orig_dst: one.orig_dst.map(|addr| addr.to_string()),
        count: one.count,
        last: one.last.elapsed().as_secs_f64(),
    };
    app.proxy.mishaps.latest().into_iter().map(view).collect()
}

/// For example: "An outbound connection was refused: 192.0.2.1:80 refused the connection: is the application …?"
fn sentence(direction: Direction, what: &str, words: Option<&str>) -> String {
    match words {
        Some(words) => format!("An {direction} connection {what}: {words}"),
        None => format!("An {direction} connection {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_rows_those_that_were_used_come_first() {
        let few: Vec<_> = (0..MOST_ROWS).collect();
        assert_eq!(first((MOST_ROWS, few.clone()), |row| *row == 7), (MOST_ROWS, few));
        let (total, rows) = first((10_000, (0..10_000).collect()), |row| *row % 5_000 == 4_999);
        assert_eq!((total, rows.len(), &rows[..3]), (10_000, MOST_ROWS, &[4_999, 9_999, 0][..]));
    }
}
