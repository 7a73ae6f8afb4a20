// SPDX-License-Identifier: Apache-2.0
//! The counters under Envoy's names, where Envoy has one, so that the runbooks of Kong Mesh hold.

use crate::cluster::registry::{ClusterState, Listener, Running, stat_name};
use crate::connection::guard::Guard;
use crate::connection::metrics::Metrics;
use crate::net::addrs::Direction;
use crate::net::limit::Limit;
use crate::observe::close_reason::CloseReason;
use crate::observe::readiness::State;
use crate::observe::spoken::Spoken;
use crate::tls::Handshake;
use std::time::Duration;

/// A statistic: its name and value.
pub type Stat = (String, i64);

/// What is told of the process.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Whether it serves.
    pub state: State,
    /// Since its start.
    pub uptime: Duration,
    /// Worker threads.
    pub workers: usize,
}

/// All statistics, sorted by name.
pub(crate) fn collect(running: &Running, metrics: &Metrics, process: Process) -> Vec<Stat> {
    let mut stats = Vec::new();
    server(&mut stats, running, process);
    for of in &running.clusters {
        cluster(&mut stats, &of.state);
    }
    for of in &running.listeners {
        listener(&mut stats, of);
    }
    let mut loop_rejected = 0;
    for direction in Direction::ALL {
        let of = metrics.direction(direction);
        let total = Guard::ALL.into_iter().map(|guard| of.loop_rejected(guard).get()).sum::<u64>();
        loop_rejected += total;
        stats.push((format!("listener_manager.{direction}.loop_rejected"), signed(total)));
        for reason in CloseReason::ALL {
            stats.push((
                format!("listener_manager.{direction}.closed.{reason}"),
                signed(of.closed(reason).get()),
            ));
        }
    }
    stats.push(("loop_rejected".into(), signed(loop_rejected)));
    tls(&mut stats, metrics);
    stats.push(("access_log.dropped".into(), signed(metrics.access_log_dropped.get())));
    stats.push(("traffic_log.dropped".into(), signed(metrics.traffic_log_dropped.get())));
    stats.push(("config_reloaded".into(), signed(metrics.config_reloaded.get())));
    stats.push(("config_reload_failed".into(), signed(metrics.config_reload_failed.get())));
    stats.push(("server.ready".into(), metrics.ready.get()));
    stats.sort();
    stats
}

fn server(stats: &mut Vec<Stat>, running: &Running, Process { state, uptime, workers }: Process) {
    let open = running.listeners.iter().map(|listener| listener.metrics.active.get()).sum();
    let on = running.plan.listeners.iter().filter(|listener| listener.address.port() != 0).count();
    let count = |number: usize| signed(number as u64);
    for (name, value) in [
        ("server.live", i64::from(state != State::Draining)),
        ("server.state", state as i64),
        ("server.uptime", signed(uptime.as_secs())),
        ("server.concurrency", count(workers)),
        ("server.total_connections", open),
        ("cluster_manager.active_clusters", count(running.clusters.len())),
        ("listener_manager.total_listeners_active", count(on)),
    ] {
        stats.push((name.into(), value));
    }
}

fn cluster(stats: &mut Vec<Stat>, cluster: &ClusterState) {
    let of = &cluster.metrics;
    let name = stat_name(&cluster.name);
    let mut put = |stat: &str, value: i64| stats.push((format!("cluster.{name}.{stat}"), value));
    put("upstream_cx_total", signed(of.total.get()));
    put("upstream_cx_active", of.active.get());
    put("upstream_cx_connect_fail", signed(of.connect_failed.get()));
    put("upstream_cx_connect_timeout", signed(of.connect_timed_out.get()));
    put("upstream_cx_none_healthy", signed(of.no_endpoint.get()));
    put("upstream_cx_overflow", signed(of.overflow.get()));
    put("upstream_rq_pending_overflow", signed(of.pending_overflow.get()));
    put("upstream_rq_retry", signed(of.retries.get()));
    put("upstream_rq_retry_overflow", signed(of.retry_overflow.get()));
    // Envoy's point of view is its own: it receives from the server and transmits to it.
    put("upstream_cx_rx_bytes_total", signed(of.to_client.get()));
    put("upstream_cx_tx_bytes_total", signed(of.to_server.get()));
    put("upstream_cx_idle_timeout", signed(of.idle_timeout.get()));
    let breaker = &cluster.limits;
    let full = |limit: &Limit| i64::from(limit.used() >= limit.max());
    put("circuit_breakers.default.cx_open", full(&breaker.connections));
    put("circuit_breakers.default.rq_pending_open", full(&breaker.pending));
    put("circuit_breakers.default.rq_open", full(&breaker.requests));
    put("circuit_breakers.default.rq_retry_open", full(&breaker.retries));
    let left = |limit: &Limit| i64::from(limit.max().saturating_sub(limit.used()));
    put("circuit_breakers.default.remaining_cx", left(&breaker.connections));
    put("circuit_breakers.default.remaining_pending", left(&breaker.pending));
    put("circuit_breakers.default.remaining_rq", left(&breaker.requests));
    put("circuit_breakers.default.remaining_retries", left(&breaker.retries));
}

fn listener(stats: &mut Vec<Stat>, listener: &Listener) {
    let planned = &listener.plan;
    if planned.address.port() == 0 {
        return;
    }
    let of = &listener.metrics;
    // Envoy's spelling of an address: 0.0.0.0_15001, [__]_15001.
    let address = planned.address.to_string();
    let (ip, port) = address.rsplit_once(':').unwrap_or((&address, ""));
    let address = format!("{}_{port}", ip.replace(':', "_"));
    stats.push((format!("listener.{address}.downstream_cx_total"), signed(of.opened.get())));
    stats.push((format!("listener.{address}.downstream_cx_active"), of.active.get()));
    stats.push((format!("listener.{address}.downstream_cx_overflow"), signed(of.overflow.get())));
    // Several listeners may have one cluster, whose name Envoy gives to their filters; so these are by listener.
    let tcp = stat_name(&planned.name);
    stats.push((format!("tcp.{tcp}.downstream_cx_total"), signed(of.opened.get())));
    stats.push((format!("tcp.{tcp}.downstream_cx_no_route"), signed(of.no_route.get())));
    let Some(cluster) = listener.cluster.as_ref().map(|cluster| &cluster.state.metrics) else { return };
    stats.push((format!("tcp.{tcp}.downstream_cx_rx_bytes_total"), signed(cluster.to_server.get())));
    stats.push((format!("tcp.{tcp}.downstream_cx_tx_bytes_total"), signed(cluster.to_client.get())));
    stats.push((format!("tcp.{tcp}.idle_timeout"), signed(cluster.idle_timeout.get())));
}

/// Envoy's names are of a listener or a cluster each; ours of a direction, as all speak the same.
fn tls(stats: &mut Vec<Stat>, metrics: &Metrics) {
    let of = &metrics.tls;
    for direction in Direction::ALL {
        let count = |result| signed(of.handshakes(direction, result).get());
        let (full, resumed) = (count(Handshake::Full), count(Handshake::Resumed));
        stats.push((format!("listener_manager.{direction}.ssl.handshake"), full + resumed));
        stats.push((format!("listener_manager.{direction}.ssl.session_reused"), resumed));
        stats.push((format!("listener_manager.{direction}.ssl.connection_error"), count(Handshake::Failed)));
    }
    for spoken in Spoken::ALL {
        let (name, of) = (spoken.name(), of.spoken(spoken));
        stats.push((
            format!("listener_manager.inbound.spoken.{name}.downstream_cx_total"),
            signed(of.total.get()),
        ));
        stats.push((format!("listener_manager.inbound.spoken.{name}.downstream_cx_active"), of.active.get()));
    }
    stats.push(("rbac.denied".into(), signed(of.denied.get())));
    stats.push(("rbac.shadow_denied".into(), signed(of.shadow_denied.get())));
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use clap::Parser;

    #[test]
    fn names_are_envoys() {
        let config = Options::try_parse_from(["culvert-sidecar"]).unwrap().check().unwrap();
        let proxy = crate::connection::proxy::Proxy::for_tests(config);
        let process = Process { state: State::Live, uptime: Duration::from_secs(90), workers: 2 };
        let names: Vec<_> = collect(&proxy.running.load(), &proxy.metrics, process)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        insta::assert_snapshot!(names.join("\n"));
    }
}
