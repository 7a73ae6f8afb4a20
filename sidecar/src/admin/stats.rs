// SPDX-License-Identifier: Apache-2.0
//! The statistics under Envoy's names, where Envoy has one, so that the runbooks of Kong Mesh hold. Each counter's name
//! stands beside its field; here are those that depend on the plan in force, and those of the process.

use crate::cluster::metrics::read_limits;
use crate::cluster::registry::{Running, stat_name, stat_prefix};
use crate::metrics::{MetricRegistry, Stats};
use crate::observe::readiness::ServerState;
use crate::plan;
use std::collections::HashSet;
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
    let listeners = running.used_listeners();
    let of_http = listeners.iter().filter(|one| one.plan.serve.is_http());
    let of_http: HashSet<_> = of_http.flat_map(|one| one.clusters()).map(|one| &*one.state.name).collect();
    for cluster in &running.used_clusters() {
        let (state, name) = (&cluster.state, &cluster.stat_name);
        stats.read(&state.metrics, &[("cluster", name)]);
        if of_http.contains(&*state.name) {
            let requests = format!("cluster.{name}.upstream_rq");
            state.metrics.view(|metrics| stats.read(&metrics.http, &[("requests", &requests)]));
        }
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
    for of in &listeners {
        let planned = &of.plan;
        if planned.address.port() == 0 {
            continue;
        }
        let (address, name) = (stat_address(planned), stat_name(&planned.name));
        stats.read(&of.metrics, &[("listener", &address), ("tcp", &name)]);
        if planned.serve.is_http() {
            let prefix = stat_prefix(planned);
            let requests = format!("http.{prefix}.downstream_rq");
            stats.read(&of.metrics, &[("http", &prefix), ("requests", &requests)]);
            if !planned.request_rates().is_empty() {
                // All rates have Kuma's one name, so their values are added up.
                stats.read(&of.metrics, &[("rate", "rate_limit")]);
            }
        }
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
    use crate::cluster::registry::Registry;
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

    #[test]
    fn only_listeners_and_clusters_of_http_have_statistics_of_requests() {
        let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
        let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
        let documents = "
{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 80, servicePort: 8080, tags: {kuma.io/service: web, kuma.io/protocol: http}},
  {port: 81, servicePort: 8081, tags: {kuma.io/service: raw}}]}}
---
{type: MeshRateLimit, name: r, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 1, interval: 1s}}}}}]}}
";
        let loaded = crate::plan::compile::read_with_mesh(&config, documents, "m.yaml");
        let running =
            Registry::default().open(crate::plan::compile::compile(&config, &loaded.found).unwrap());
        let process = Process { state: ServerState::Live, uptime: Duration::from_secs(90), workers: 2 };
        let stats = collect(&running, &MetricRegistry::new(), process);
        let of_requests = |name: &&str| {
            name.starts_with("http.") || name.starts_with("rate_limit.") || name.contains(".upstream_rq_")
        };
        let of_connections =
            [".upstream_rq_pending_overflow", ".upstream_rq_retry", ".upstream_rq_retry_overflow"];
        let names = stats.iter().map(|(name, _)| name).filter(of_requests);
        let names: HashSet<String> = names
            .filter(|name| !of_connections.iter().any(|end| name.ends_with(end)))
            .map(Into::into)
            .collect();
        let page = include_str!("../../METRICS.md");
        let (_, section) = page.split_once("\n## Statistics of requests\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        // Their names stand in quotes in the first cell of a row.
        let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
        let rows = cells.flat_map(|(cell, _)| cell.split("`, `")).map(|name| {
            name.trim_end_matches('`')
                .replace("PREFIX", "localhost_8080")
                .replace("CLUSTER", "localhost_8080")
        });
        let rows: HashSet<String> = rows.collect();
        let differences: Vec<_> = names.symmetric_difference(&rows).collect();
        assert!(differences.is_empty() && names.len() > 25, "{differences:?}");
    }
}
