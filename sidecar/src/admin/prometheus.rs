// SPDX-License-Identifier: Apache-2.0
//! The statistics with the names and labels that Envoy gives them on `/stats/prometheus`, so that a mesh's dashboards
//! hold: `cluster.C.upstream_cx_total` is `envoy_cluster_upstream_cx_total{envoy_cluster_name="C"}`.

use crate::metrics::Stats;
use std::collections::BTreeMap;
use std::fmt::Write;

/// First part of a statistic's name, and the label that has the second part as its value.
const LABELS: [(&str, &str); 4] = [
    ("cluster", "envoy_cluster_name"),
    ("http", "envoy_http_conn_manager_prefix"),
    ("listener", "envoy_listener_address"),
    ("tcp", "envoy_tcp_prefix"),
];

/// Statistics that all rates of requests have together, and their label.
const RATE: (&str, &str) = ("rate_limit.", "{envoy_local_http_ratelimit_prefix=\"rate_limit\"}");

/// Classes of answers, which are a label in place of a part of the name.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Endings of gauges, whose values also fall.
const GAUGES: [&str; 4] = ["_active", "_active_faults", "_open", "_healthy"];

/// Statistics of the process, which have no label.
const UNLABELLED: [&str; 7] = [
    "cluster_manager.active_clusters",
    "listener_manager.total_listeners_active",
    "server.concurrency",
    "server.live",
    "server.state",
    "server.total_connections",
    "server.uptime",
];

/// Makes the series, without the line that ends the page. Statistics that Envoy does not have are left out: `/metrics` has
/// them under our names.
pub(super) fn series(stats: &Stats) -> String {
    let mut families: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in stats.iter() {
        if let Some(what) = name.strip_prefix(RATE.0) {
            let family = format!("envoy_{}", what.replace('.', "_"));
            families.entry(family).or_default().push(format!("{} {value}", RATE.1));
            continue;
        }
        let Some((kind, rest)) = name.split_once('.') else { continue };
        let Some((_, label)) = LABELS.iter().find(|(first, _)| *first == kind) else { continue };
        // The listener's address has dots of its own; what is measured has none, but for that of these.
        let mut groups =
            [".circuit_breakers.", ".outlier_detection.", ".health_check.", ".fault."].into_iter();
        let at = groups.find_map(|group| rest.find(group)).or_else(|| rest.rfind('.'));
        let Some((whose, what)) = at.map(|at| (&rest[..at], &rest[at + 1..])) else { continue };
        let (what, class) = of_class(what);
        let family = format!("envoy_{kind}_{}", what.replace('.', "_"));
        families.entry(family).or_default().push(format!("{{{class}{label}=\"{whose}\"}} {value}"));
    }
    let mut text = String::new();
    for (name, value) in stats.iter().filter(|(name, _)| UNLABELLED.contains(name)) {
        let name = name.replace('.', "_");
        // Writing to a String does not fail.
        let _ = writeln!(text, "# TYPE envoy_{name} gauge\nenvoy_{name} {value}");
    }
    for (family, lines) in families {
        let gauge = GAUGES.iter().any(|end| family.ends_with(end)) || family.contains("_remaining_");
        // OpenMetrics wants `_total` at a counter's end; Envoy has counters without it.
        let (name, kind) = match family.strip_suffix("_total") {
            Some(name) => (name, "counter"),
            None => (family.as_str(), if gauge { "gauge" } else { "unknown" }),
        };
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for line in lines {
            let _ = writeln!(text, "{family}{line}");
        }
    }
    text
}

/// Takes the class of an answer out of a name; returns it as a label.
fn of_class(what: &str) -> (String, String) {
    let class = what.rsplit_once('_').filter(|(_, end)| CLASSES.contains(end));
    match class {
        Some((begin, class)) => {
            (format!("{begin}_xx"), format!("envoy_response_code_class=\"{}\",", &class[..1]))
        }
        None => (what.to_owned(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_envoys() {
        let mut stats = Stats::default();
        for (name, value) in [
            ("cluster.outbound_passthrough_ipv4.circuit_breakers.default.cx_open", 0),
            ("cluster.outbound_passthrough_ipv4.outlier_detection.ejections_active", 1),
            ("cluster.outbound_passthrough_ipv4.upstream_cx_active", 3),
            ("cluster.inbound_passthrough_ipv4.upstream_cx_active", 4),
            ("cluster.web.upstream_rq_5xx", 8),
            ("http.web.downstream_rq_active", 9),
            ("http.web.fault.active_faults", 10),
            ("rate_limit.http_local_rate_limit.ok", 11),
            ("listener.0.0.0.0_15001.downstream_cx_total", 5),
            ("loop_rejected", 6),
            ("server.ready", 1),
            ("server.uptime", 7),
        ] {
            stats.add(name, value);
        }
        assert_eq!(
            series(&stats),
            "# TYPE envoy_server_uptime gauge\n\
             envoy_server_uptime 7\n\
             # TYPE envoy_cluster_circuit_breakers_default_cx_open gauge\n\
             envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name=\"outbound_passthrough_ipv4\"} 0\n\
             # TYPE envoy_cluster_outlier_detection_ejections_active gauge\n\
             envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name=\"outbound_passthrough_ipv4\"} 1\n\
             # TYPE envoy_cluster_upstream_cx_active gauge\n\
             envoy_cluster_upstream_cx_active{envoy_cluster_name=\"inbound_passthrough_ipv4\"} 4\n\
             envoy_cluster_upstream_cx_active{envoy_cluster_name=\"outbound_passthrough_ipv4\"} 3\n\
             # TYPE envoy_cluster_upstream_rq_xx unknown\n\
             envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"5\",envoy_cluster_name=\"web\"} 8\n\
             # TYPE envoy_http_downstream_rq_active gauge\n\
             envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix=\"web\"} 9\n\
             # TYPE envoy_http_fault_active_faults gauge\n\
             envoy_http_fault_active_faults{envoy_http_conn_manager_prefix=\"web\"} 10\n\
             # TYPE envoy_http_local_rate_limit_ok unknown\n\
             envoy_http_local_rate_limit_ok{envoy_local_http_ratelimit_prefix=\"rate_limit\"} 11\n\
             # TYPE envoy_listener_downstream_cx counter\n\
             envoy_listener_downstream_cx_total{envoy_listener_address=\"0.0.0.0_15001\"} 5\n"
        );
    }
}
