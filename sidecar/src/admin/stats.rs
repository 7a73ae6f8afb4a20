// SPDX-License-Identifier: Apache-2.0
//! The statistics under Envoy's names, where Envoy has one, so that the runbooks of Kong Mesh hold. Each counter's name
//! stands beside its field; here are those that depend on the plan in force, and those of the process.

use crate::cluster::metrics::read_limits;
use crate::cluster::registry::{Running, stat_name};
use crate::metrics::{MetricRegistry, Stats};
use crate::observe::readiness::ServerState;
use crate::plan;
use std::time::Duration;

/// State of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) state: ServerState,
    /// Time since its start.
    pub(crate) uptime: Duration,
    /// Number of worker threads.
    pub(crate) workers: usize,
}

/// Collects the statistics of all rooms.
pub(crate) fn collect(running: &Running, registry: &MetricRegistry, process: Process) -> Stats {
    let mut stats = registry.stats();
    server(&mut stats, running, process);
    for cluster in &running.used_clusters() {
        let (state, name) = (&cluster.state, &cluster.stat_name);
        stats.read(&state.metrics, &[("cluster", name)]);
        state.limits.view(|limits| read_limits(limits, name, &mut stats));
        let ejected = cluster.health().filter(|endpoint| endpoint.ejected).count();
        stats.add(format!("cluster.{name}.outlier_detection.ejections_active"), count(ejected));
        if let Some(outsiders) = state.outsiders.get() {
            stats.read(&**outsiders, &[("cluster", name)]);
        }
        if cluster.check().is_some() {
            stats.read(state.health.metrics(), &[("cluster", name)]);
            stats.add(format!("cluster.{name}.health_check.healthy"), count(cluster.healthy()));
        }
    }
    for of in &running.used_listeners() {
        let planned = &of.plan;
        if planned.address.port() == 0 {
            continue;
        }
        let (address, name) = (stat_address(planned), stat_name(&planned.name));
        stats.read(&of.metrics, &[("listener", &address), ("tcp", &name)]);
        for cluster in of.clusters() {
            stats.read(&cluster.state.metrics, &[("tcp", &name)]);
        }
    }
    stats
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn server(stats: &mut Stats, running: &Running, Process { state, uptime, workers }: Process) {
    let used = running.used_listeners();
    let open = used.iter().map(|listener| listener.metrics.view(|metrics| metrics.active.get())).sum();
    let off = running.plan.listeners.iter().filter(|listener| listener.address.port() == 0).count();
    let on = running.listener_count() - off;
    for (name, value) in [
        ("server.live", i64::from(state != ServerState::Draining)),
        ("server.state", state as i64),
        ("server.uptime", i64::try_from(uptime.as_secs()).unwrap_or(i64::MAX)),
        ("server.concurrency", count(workers)),
        ("server.total_connections", open),
        ("cluster_manager.active_clusters", count(running.cluster_count())),
        ("listener_manager.total_listeners_active", count(on)),
    ] {
        stats.add(name, value);
    }
}

/// Envoy's spelling of an address: 0.0.0.0_15001, [__]_15001.
fn stat_address(planned: &plan::ListenerPlan) -> String {
    let address = planned.address.to_string();
    let (ip, port) = address.rsplit_once(':').unwrap_or((&address, ""));
    format!("{}_{port}", ip.replace(':', "_"))
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
        let process = Process { state: ServerState::Live, uptime: Duration::from_secs(90), workers: 2 };
        let names: Vec<_> = collect(&proxy.running.load(), &proxy.metrics.registry, process)
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        insta::assert_snapshot!(names.join("\n"));
    }
}
