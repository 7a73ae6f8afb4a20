// SPDX-License-Identifier: Apache-2.0
//! What runs here, in the shape and the words of Envoy's admin interface, so that the runbooks of Kong Mesh hold.

use crate::addrs::{Direction, Family, inbound_source};
use crate::config::Config;
use crate::destinations::Destinations;
use crate::limits::{ClusterLimits, Limits};
use crate::metrics::Metrics;
use crate::route::ClusterId;
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// Hosts of a cluster that are shown.
const MOST_HOSTS: usize = 256;

/// The listeners that are on, and the addresses of Envoy's that they stand for: one socket of ours takes both families.
pub(super) fn listeners(config: &Config) -> impl Iterator<Item = (ClusterId, SocketAddr)> {
    ClusterId::ALL.into_iter().filter_map(|id| {
        let port = config.listen_port(id.direction);
        (port != 0).then(|| (id, SocketAddr::new(wildcard(id.family), port)))
    })
}

fn wildcard(family: Family) -> IpAddr {
    match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn clusters(config: &Config) -> impl Iterator<Item = ClusterId> {
    listeners(config).map(|(id, _)| id)
}

/// `/config_dump`.
pub(super) fn config_dump(config: &Config, started: SystemTime) -> Value {
    let updated = rfc3339(started);
    let clusters: Vec<_> = clusters(config)
        .map(|id| {
            json!({
                "version_info": env!("CARGO_PKG_VERSION"),
                "cluster": cluster(config, id),
                "last_updated": updated,
            })
        })
        .collect();
    let listeners: Vec<_> = listeners(config)
        .map(|(id, address)| {
            json!({
                "name": id.to_string(),
                "active_state": {
                    "version_info": env!("CARGO_PKG_VERSION"),
                    "listener": listener(config, id, address),
                    "last_updated": updated,
                },
            })
        })
        .collect();
    json!({"configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            "bootstrap": {
                "node": {"user_agent_name": "culvert-sidecar", "user_agent_version": env!("CARGO_PKG_VERSION")},
                "admin": {"address": socket_address(config.admin)},
            },
            "last_updated": updated,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "version_info": env!("CARGO_PKG_VERSION"),
            "dynamic_active_clusters": clusters,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "version_info": env!("CARGO_PKG_VERSION"),
            "dynamic_listeners": listeners,
        },
    ]})
}

fn cluster(config: &Config, id: ClusterId) -> Value {
    let thresholds = &config.thresholds;
    let mut cluster = json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": id.to_string(),
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": {"thresholds": [{
            "max_connections": thresholds.max_connections,
            "max_pending_requests": thresholds.max_pending_requests,
            "max_requests": thresholds.max_requests,
            "max_retries": thresholds.max_retries,
        }]},
    });
    if let Some(timeout) = config.connect_timeout {
        cluster["connect_timeout"] = duration(timeout).into();
    }
    if id.direction == Direction::Inbound {
        let source = SocketAddr::new(inbound_source(id.family), 0);
        cluster["upstream_bind_config"] = json!({"source_address": inner_address(source)});
    }
    cluster
}

fn listener(config: &Config, id: ClusterId, address: SocketAddr) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": id.to_string(),
        "address": socket_address(address),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": id.stat_name(),
                "cluster": id.to_string(),
                // Envoy's word for none is 0.
                "idle_timeout": duration(config.idle_timeout.unwrap_or_default()),
            },
        }]}],
        "use_original_dst": true,
        "traffic_direction": id.direction.name().to_uppercase(),
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": inner_address(address)})
}

fn inner_address(address: SocketAddr) -> Value {
    json!({"address": address.ip().to_string(), "port_value": address.port()})
}

/// Protobuf's spelling: seconds, with as many decimals as it needs.
fn duration(duration: Duration) -> String {
    let mut text = duration.as_secs().to_string();
    if duration.subsec_nanos() != 0 {
        let decimals = format!("{:09}", duration.subsec_nanos());
        let _ = write!(text, ".{}", decimals.trim_end_matches('0'));
    }
    text.push('s');
    text
}

/// `/listeners`.
pub(super) fn listeners_text(config: &Config) -> String {
    listeners(config).fold(String::new(), |mut text, (id, address)| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{id}::{address}");
        text
    })
}

/// `/listeners?format=json`.
pub(super) fn listeners_json(config: &Config) -> Value {
    let statuses: Vec<_> = listeners(config)
        .map(|(id, address)| json!({"name": id.to_string(), "local_address": socket_address(address)}))
        .collect();
    json!({ "listener_statuses": statuses })
}

/// The numbers that make up `/clusters`, in Envoy's names.
fn limits(of: &ClusterLimits) -> [(&'static str, u32); 4] {
    [
        ("max_connections", of.connections.max()),
        ("max_pending_requests", of.pending.max()),
        ("max_requests", of.requests.max()),
        ("max_retries", of.retries.max()),
    ]
}

/// `/clusters`.
pub(super) fn clusters_text(
    config: &Config,
    limits_of: &Limits,
    metrics: &Metrics,
    destinations: &Destinations,
) -> String {
    let mut text = String::new();
    for id in clusters(config) {
        let _ = writeln!(text, "{id}::observability_name::{}", id.stat_name());
        for (name, value) in limits(limits_of.cluster(id)) {
            let _ = writeln!(text, "{id}::default_priority::{name}::{value}");
        }
        let _ = writeln!(text, "{id}::added_via_api::false");
        let _ = writeln!(text, "{id}::cx_active::{}", metrics.cluster(id).upstream_active.get());
        for (addr, host) in destinations.of(id).into_iter().take(MOST_HOSTS) {
            let _ = writeln!(text, "{id}::{addr}::cx_active::{}", host.active);
            let _ = writeln!(text, "{id}::{addr}::cx_connect_fail::{}", host.connect_fail);
            let _ = writeln!(text, "{id}::{addr}::cx_total::{}", host.total);
            let _ = writeln!(text, "{id}::{addr}::last_seen::{}", rfc3339(host.last_seen_at()));
        }
    }
    text
}

/// `/clusters?format=json`.
pub(super) fn clusters_json(config: &Config, limits_of: &Limits, destinations: &Destinations) -> Value {
    let statuses: Vec<_> = clusters(config)
        .map(|id| {
            let thresholds: serde_json::Map<_, _> = limits(limits_of.cluster(id))
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Value::from(value)))
                .collect();
            let hosts: Vec<_> = destinations
                .of(id)
                .into_iter()
                .take(MOST_HOSTS)
                .map(|(addr, host)| {
                    json!({
                        "address": socket_address(addr.get()),
                        "stats": [
                            {"name": "cx_active", "type": "GAUGE", "value": host.active.to_string()},
                            {"name": "cx_connect_fail", "value": host.connect_fail.to_string()},
                            {"name": "cx_total", "value": host.total.to_string()},
                        ],
                        "last_seen": rfc3339(host.last_seen_at()),
                    })
                })
                .collect();
            json!({
                "name": id.to_string(),
                "observability_name": id.stat_name(),
                "circuit_breakers": {"thresholds": [thresholds]},
                "host_statuses": hosts,
            })
        })
        .collect();
    json!({ "cluster_statuses": statuses })
}

/// The date of Howard Hinnant's `civil_from_days`: no dependency for one line of text.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use clap::Parser;

    fn config(arguments: &[&str]) -> Config {
        let arguments = std::iter::once(&"culvert-sidecar").chain(arguments);
        Options::try_parse_from(arguments).unwrap().check().unwrap()
    }

    #[test]
    fn the_dump_has_envoys_shape() {
        let dump = config_dump(&config(&["--idle-timeout=1500ms"]), SystemTime::UNIX_EPOCH);
        let text = serde_json::to_string_pretty(&dump).unwrap();
        insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }

    /// The excerpts of the product's seeds, as far as they are about what runs here.
    #[test]
    fn the_seeds_listeners_are_in_the_dump() {
        let dump = config_dump(&config(&[]), SystemTime::now());
        let listeners = dump["configs"][2]["dynamic_listeners"].as_array().unwrap();
        for (name, address, port, direction) in [
            ("inbound:passthrough:ipv4", "0.0.0.0", 15006, "INBOUND"),
            ("outbound:passthrough:ipv6", "::", 15001, "OUTBOUND"),
        ] {
            let found = listeners.iter().find(|listener| listener["name"] == name).unwrap();
            let listener = &found["active_state"]["listener"];
            assert_eq!(listener["@type"], "type.googleapis.com/envoy.config.listener.v3.Listener");
            assert_eq!(listener["name"], name);
            assert_eq!(
                listener["address"]["socket_address"],
                json!({"address": address, "port_value": port})
            );
            assert_eq!(listener["use_original_dst"], true);
            assert_eq!(listener["traffic_direction"], direction);
        }
    }

    #[test]
    fn a_listener_that_is_off_is_not_shown() {
        let config = config(&["--inbound-port=0"]);
        assert_eq!(
            listeners_text(&config),
            "outbound:passthrough:ipv4::0.0.0.0:15001\noutbound:passthrough:ipv6::[::]:15001\n"
        );
        assert_eq!(listeners_json(&config)["listener_statuses"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn durations_are_protobufs() {
        for (millis, text) in [(0, "0s"), (10_000, "10s"), (1_500, "1.5s"), (20, "0.02s")] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn dates_are_right() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
