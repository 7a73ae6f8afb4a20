// SPDX-License-Identifier: Apache-2.0
//! The page for people, and the numbers that its script draws.

use super::envoy;
use super::pages::{App, Connection};
use crate::addrs::Direction;
use crate::history::Sample;
use crate::limits::Limit;
use crate::route::ClusterId;
use serde::Serialize;
use std::time::Instant;

/// The page: one file, no reference to any other, from this host or elsewhere.
pub(super) const PAGE: &str = include_str!("page.html");

/// What a browser may do with it: run and style itself, and ask this server. No other page may frame it.
pub(super) const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Most connections on the page; `/connections` has them all.
const MOST_CONNECTIONS: usize = 200;
/// Most destinations per cluster; `/clusters` has more.
const MOST_DESTINATIONS: usize = 20;

/// Everything on the page.
#[derive(Serialize)]
pub(super) struct Overview {
    version: &'static str,
    now: String,
    /// Seconds.
    uptime: f64,
    ready: bool,
    /// Why not.
    reasons: Vec<String>,
    workers: usize,
    /// One a second, oldest first.
    history: Vec<Sample>,
    listeners: Vec<ListenerView>,
    clusters: Vec<ClusterView>,
    open: usize,
    /// The newest.
    connections: Vec<Connection>,
    errors: Vec<ErrorView>,
}

#[derive(Serialize)]
struct ListenerView {
    name: String,
    address: String,
    total: u64,
    active: i64,
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
    /// Seconds ago.
    last_seen: f64,
}

#[derive(Serialize)]
struct ErrorView {
    direction: &'static str,
    reason: &'static str,
    words: String,
    client: String,
    orig_dst: Option<String>,
    count: u64,
    /// Seconds ago.
    last: f64,
}

impl Overview {
    pub(super) fn of(app: &App) -> Self {
        let proxy = &app.proxy;
        let ready = app.check_ready();
        let now = Instant::now();
        let connections = proxy.table.newest(MOST_CONNECTIONS);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            now: envoy::rfc3339(std::time::SystemTime::now()),
            uptime: app.started.elapsed().as_secs_f64(),
            ready: ready.is_ok(),
            reasons: ready.err().map_or_else(Vec::new, |text| text.lines().map(str::to_owned).collect()),
            workers: proxy.config.workers,
            history: proxy.history.samples(),
            listeners: envoy::listeners(&proxy.config).map(|(id, at)| listener(app, id, at)).collect(),
            clusters: envoy::listeners(&proxy.config).map(|(id, _)| cluster(app, id)).collect(),
            open: proxy.table.len(),
            connections: connections.iter().map(|entry| Connection::of(entry, now)).collect(),
            errors: errors(app),
        }
    }
}

fn listener(app: &App, id: ClusterId, address: std::net::SocketAddr) -> ListenerView {
    let metrics = app.proxy.metrics.cluster(id);
    let limit = app.proxy.limits.listener(id.direction);
    ListenerView {
        name: id.to_string(),
        address: address.to_string(),
        total: metrics.opened.get(),
        active: metrics.active.get(),
        used: limit.used(),
        max: limit.max(),
    }
}

fn cluster(app: &App, id: ClusterId) -> ClusterView {
    let metrics = app.proxy.metrics.cluster(id);
    let breaker = app.proxy.limits.cluster(id);
    let limit = |name, limit: &Limit| LimitView { name, used: limit.used(), max: limit.max() };
    ClusterView {
        name: id.to_string(),
        total: metrics.upstream_total.get(),
        active: metrics.upstream_active.get(),
        connect_fail: metrics.connect_failed.get(),
        connect_timeout: metrics.connect_timed_out.get(),
        overflow: metrics.overflow.get() + metrics.pending_overflow.get(),
        bytes_sent: metrics.to_server.get(),
        bytes_recv: metrics.to_client.get(),
        limits: vec![
            limit("connections", &breaker.connections),
            limit("connects under way", &breaker.pending),
        ],
        destinations: app
            .proxy
            .destinations
            .of(id)
            .into_iter()
            .take(MOST_DESTINATIONS)
            .map(|(addr, host)| DestinationView {
                address: addr.to_string(),
                total: host.total,
                active: host.active,
                connect_fail: host.connect_fail,
                last_seen: host.last_seen.elapsed().as_secs_f64(),
            })
            .collect(),
    }
}

fn errors(app: &App) -> Vec<ErrorView> {
    let view = |one: crate::mishaps::Mishap| ErrorView {
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
