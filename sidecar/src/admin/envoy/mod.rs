// SPDX-License-Identifier: Apache-2.0
//! Listeners and clusters in the shape and the words of Envoy's admin interface, so that the runbooks of Kong Mesh hold.

mod balancing;
mod external;
mod http;

use self::balancing::HostPlace;
use super::dump::duration;
use super::{checks, dump, outside, transport};
use crate::admin::stats::Process;
use crate::cluster::destinations::{Destination, Destinations};
use crate::cluster::health::EndpointHealth;
use crate::cluster::limits::ClusterLimits;
use crate::cluster::registry::{Cluster, ClusterId, Listener, Running, stat_name};
use crate::net::addrs::{DialAddr, Direction};
use crate::net::clock::rfc3339;
use crate::observe::one_line::one_line;
use crate::options::config::Config;
use crate::plan::{self, Discovery, FailedAnswers, Mtls, OutlierPlan, Serve};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Most hosts of a cluster on a page.
const MOST_HOSTS: usize = 256;

/// The listeners that are on. A passthrough one has the address of Envoy's that it stands for: one socket of ours takes
/// both families.
pub(super) fn listeners(running: &Running) -> Vec<Arc<Listener>> {
    let mut all = running.all_listeners();
    all.retain(is_on);
    all
}

pub(super) fn is_on(listener: &Arc<Listener>) -> bool {
    listener.plan.address.port() != 0
}

/// The clusters that connections can come to: of those, listeners that are off have none.
pub(super) fn clusters(running: &Running) -> Vec<Arc<Cluster>> {
    // Looked up, as names of the mesh may make thousands of both.
    let used = running.used_listeners();
    let on = used.iter().filter(|listener| is_on(listener));
    let led = on.flat_map(|listener| listener.clusters()).chain(&running.direct_access);
    let mut led: HashSet<_> = led.map(|cluster| cluster.state.id).collect();
    // Those on demand, whose listeners are always on.
    led.insert(ClusterId::NONE);
    let mut all = running.all_clusters();
    all.retain(|cluster| {
        cluster.plan.origin == plan::Origin::MeshPassthrough || led.contains(&cluster.state.id)
    });
    all
}

/// Makes `/config_dump`. `loaded` is the time since which it is in force.
pub(super) fn config_dump(config: &Config, running: &Running, loaded: SystemTime) -> Value {
    let updated = rfc3339(loaded);
    let on = listeners(running);
    let of_http = on.iter().filter(|one| one.plan.serve.is_http());
    let served: HashMap<_, _> =
        of_http.flat_map(|one| one.plan.clusters().map(|name| (&**name, one.plan.serve))).collect();
    let described = |one: &Arc<Cluster>| {
        let mut described = cluster(&one.plan, running.plan.mtls.as_ref());
        if let Some(serve) = served.get(&*one.plan.name) {
            http::mark(&mut described, *serve);
        }
        described
    };
    let clusters: Vec<_> = clusters(running).iter().map(described).collect();
    let listeners: Vec<_> = on.iter().map(|one| listener(running, one)).collect();
    let (of_clusters, of_listeners) = (dump::version(&clusters), dump::version(&listeners));
    let clusters: Vec<_> = clusters
        .into_iter()
        .map(|cluster| json!({"version_info": of_clusters, "cluster": cluster, "last_updated": updated}))
        .collect();
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            json!({
                "name": listener["name"],
                "active_state": {
                    "version_info": of_listeners,
                    "listener": listener,
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
            "version_info": of_clusters,
            "dynamic_active_clusters": clusters,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "version_info": of_listeners,
            "dynamic_listeners": listeners,
        },
    ]})
}

fn cluster(planned: &plan::ClusterPlan, mtls: Option<&Mtls>) -> Value {
    let thresholds = &planned.thresholds;
    let mut cluster = json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": &*planned.name,
        "circuit_breakers": {"thresholds": [{
            "max_connections": thresholds.max_connections,
            "max_pending_requests": thresholds.max_pending_requests,
            "max_requests": thresholds.max_requests,
            "max_retries": thresholds.max_retries,
        }]},
    });
    let (kind, policy, source, endpoints) = match &planned.upstream {
        Discovery::OriginalDst { source } => ("ORIGINAL_DST", "CLUSTER_PROVIDED", *source, Vec::new()),
        Discovery::Application { address, source } => ("STATIC", "ROUND_ROBIN", *source, vec![*address]),
        Discovery::Endpoints(endpoints) => {
            let policy = balancing::policy(planned.balance.algorithm);
            ("STATIC", policy, None, endpoints.iter().map(|endpoint| endpoint.address).collect())
        }
        Discovery::External(_) => ("STATIC", balancing::policy(planned.balance.algorithm), None, Vec::new()),
    };
    cluster["type"] = kind.into();
    cluster["lb_policy"] = policy.into();
    if kind == "STATIC" {
        let endpoints: Vec<_> =
            endpoints.into_iter().map(|at| json!({"endpoint": {"address": socket_address(at)}})).collect();
        let localities = planned.balance.localities.as_ref();
        cluster["load_assignment"] = balancing::assignment(&planned.name, &endpoints, localities);
    }
    match (&planned.upstream, mtls) {
        (Discovery::Endpoints(_), Some(mtls)) => cluster["transport_socket"] = transport::upstream(mtls),
        (Discovery::External(endpoints), _) => external::describe(&mut cluster, planned, endpoints),
        _ => {}
    }
    if let Some(timeout) = planned.connect_timeout {
        cluster["connect_timeout"] = duration(timeout).into();
    }
    // Without a policy Envoy ejects no endpoint.
    if let (Discovery::Endpoints(_) | Discovery::External(_), Some(outlier)) =
        (&planned.upstream, planned.outlier)
        && outlier != OutlierPlan::default()
    {
        let FailedAnswers { all, gateway } = outlier.answers;
        cluster["outlier_detection"] = json!({
            "consecutive_5xx": all.unwrap_or(outlier.consecutive),
            "base_ejection_time": duration(outlier.ejection_time),
            "max_ejection_percent": outlier.most_ejected,
        });
        if let Some(gateway) = gateway {
            cluster["outlier_detection"]["consecutive_gateway_failure"] = gateway.into();
        }
        let percent = f64::from(outlier.panic_threshold) / 1000.0;
        cluster["common_lb_config"] = json!({"healthy_panic_threshold": {"value": percent}});
    }
    balancing::add_settings(&planned.balance, &mut cluster);
    if let Some(health) = &planned.health {
        checks::of_cluster(&mut cluster, health, planned.origin);
    }
    if let Some(source) = source {
        cluster["upstream_bind_config"] =
            json!({"source_address": inner_address(SocketAddr::new(source, 0))});
    }
    cluster
}

/// Returns the number of endpoints that a connection to the listener tries at most, where there are several.
fn listener_attempts(of: &Listener) -> Option<usize> {
    let planned = &of.cluster.as_ref()?.plan;
    let several = matches!(planned.upstream, Discovery::Endpoints(_) | Discovery::External(_));
    several.then_some(planned.most_attempts)
}

fn listener(running: &Running, of: &Listener) -> Value {
    let planned = &of.plan;
    let mtls = running.plan.mtls.as_ref();
    let mut chains = outside::chains(running, planned, |cluster| json!([tcp_proxy(planned, cluster)]));
    if chains.is_empty() {
        let rate = planned.rate.map(checks::rate_limit);
        let last = match planned.serve {
            Serve::Tcp => whole_tcp_proxy(of),
            Serve::Http | Serve::Http2 => http::connection_manager(of, listener_attempts(of), mtls.is_some()),
        };
        let filters: Vec<_> = rate.into_iter().chain([last]).collect();
        chains.push(json!({ "filters": filters }));
    }
    let mut listener = json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": &*planned.name,
        "address": socket_address(planned.address),
        "filter_chains": chains,
        "traffic_direction": planned.direction.name().to_uppercase(),
    });
    if planned.origin == plan::Origin::Transparent {
        listener["use_original_dst"] = true.into();
    } else if !planned.binds {
        listener["bind_to_port"] = false.into();
    }
    if let Some(mtls) = mtls.filter(|_| planned.direction == Direction::Inbound) {
        transport::secure_listener(&mut listener, mtls.gate(planned).mode, mtls);
    }
    listener
}

/// Returns the filter that relays the connections of a listener to one cluster.
fn tcp_proxy(planned: &plan::ListenerPlan, cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": stat_name(&planned.name),
            "cluster": cluster,
            // Envoy's word for none is 0.
            "idle_timeout": duration(planned.idle_timeout.unwrap_or_default()),
        },
    })
}

/// Returns the same filter with everything that a listener's way has.
fn whole_tcp_proxy(of: &Listener) -> Value {
    let planned = &of.plan;
    // Without a cluster Envoy has a name that leads nowhere; the listener's own, as in Kong Mesh.
    let mut filter = tcp_proxy(planned, planned.cluster.as_ref().unwrap_or(&planned.name));
    let config = &mut filter["typed_config"];
    if let Some(attempts) = listener_attempts(of) {
        config["max_connect_attempts"] = attempts.into();
    }
    if !planned.split.is_empty() {
        weigh(config, &planned.split);
    }
    if of.cluster.as_ref().is_some_and(|cluster| cluster.plan.balance.by_source) {
        config["hash_policy"] = json!([{"source_ip": {}}]);
    }
    filter
}

/// Puts a split in the place of a filter's cluster.
fn weigh(filter: &mut Value, split: &[plan::Share]) {
    let share = |share: &plan::Share| json!({"name": &*share.cluster, "weight": share.weight});
    let clusters: Vec<_> = split.iter().map(share).collect();
    if let Some(filter) = filter.as_object_mut() {
        filter.remove("cluster");
        filter.insert("weighted_clusters".into(), json!({"clusters": clusters}));
    }
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": inner_address(address)})
}

fn inner_address(address: SocketAddr) -> Value {
    json!({"address": address.ip().to_string(), "port_value": address.port()})
}

/// Makes `/listeners`, a line for each.
pub(super) fn listeners_text(running: &Running) -> String {
    listeners(running).iter().fold(String::new(), |mut text, listener| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}::{}", listener.plan.name, listener.plan.address);
        text
    })
}

/// Makes `/listeners?format=json` in Envoy's shape.
pub(super) fn listeners_json(running: &Running) -> Value {
    let statuses: Vec<_> = listeners(running)
        .iter()
        .map(|listener| &listener.plan)
        .map(|plan| json!({"name": &*plan.name, "local_address": socket_address(plan.address)}))
        .collect();
    json!({ "listener_statuses": statuses })
}

/// Limits of a cluster on `/clusters`, under Envoy's names.
fn limits(of: &ClusterLimits) -> [(&'static str, u32); 4] {
    [
        ("max_connections", of.connections.max()),
        ("max_pending_requests", of.pending.max()),
        ("max_requests", of.requests.max()),
        ("max_retries", of.retries.max()),
    ]
}

/// A destination that a cluster dialled.
struct Host<'a> {
    addr: DialAddr,
    /// `None` of an endpoint that is checked, and that no connection dialled lately.
    counted: Option<Destination>,
    /// The document that names it, of passthrough: without passthrough the way to the others would be closed.
    named: Option<Named>,
    /// Of a service's endpoint, and of an application that is probed.
    health: Option<EndpointHealth>,
    /// Of a service's endpoint.
    place: Option<HostPlace<'a>>,
}

fn hosts<'a>(running: &Running, of: &'a Cluster, destinations: &Destinations) -> Vec<Host<'a>> {
    let asked = of.plan.origin == plan::Origin::Transparent && of.plan.name.starts_with("outbound");
    let named = |addr: DialAddr| Named(running.plan.named_by(addr.get()));
    let mut health: HashMap<_, _> = of.health().map(|one| (one.address, one)).collect();
    let places = balancing::places(&of.plan);
    let hosts = destinations.of(of.state.id).into_iter();
    let host = |(addr, counted): (DialAddr, _)| Host {
        addr,
        counted: Some(counted),
        named: asked.then(|| named(addr)),
        health: health.remove(&addr.get()),
        place: places.get(&addr.get()).copied(),
    };
    let mut hosts: Vec<_> = hosts.map(host).collect();
    let mut others: Vec<_> = health.into_values().filter(|one| one.checked).collect();
    others.sort_unstable_by_key(|one| (!one.unhealthy, one.address));
    hosts.extend(others.into_iter().map(|one| {
        let addr = DialAddr::new(one.address);
        let place = places.get(&one.address).copied();
        Host { addr, counted: None, named: asked.then(|| named(addr)), health: Some(one), place }
    }));
    hosts.truncate(MOST_HOSTS);
    hosts
}

impl Host<'_> {
    /// Connections open, connects that failed, and connections dialled.
    fn counts(&self) -> (u32, u64, u64) {
        self.counted.map_or((0, 0, 0), |of| (of.active, of.connect_fail, of.total))
    }
}

/// The Dataplane or match that names a destination.
struct Named(Option<String>);

/// Makes `/server_info`, with those of Envoy's fields that have a value here.
pub(super) fn server_info(config: &Config, process: Process) -> Value {
    let uptime = format!("{}s", process.uptime.as_secs());
    json!({
        "version": concat!("culvert/", env!("CARGO_PKG_VERSION")),
        "state": process.state.name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": {"concurrency": process.workers, "drain_time": duration(config.drain_time)},
        "node": {
            "id": config.dataplane.as_deref().unwrap_or_default(),
            "user_agent_name": "culvert-sidecar",
            "user_agent_version": env!("CARGO_PKG_VERSION"),
        },
    })
}

/// Makes `/clusters`, a line for each value.
pub(super) fn clusters_text(running: &Running, destinations: &Destinations) -> String {
    let mut text = String::new();
    for of in &clusters(running) {
        let name = &of.plan.name;
        let _ = writeln!(text, "{name}::observability_name::{}", of.stat_name);
        for (limit, value) in of.state.limits.view(limits) {
            let _ = writeln!(text, "{name}::default_priority::{limit}::{value}");
        }
        let _ = writeln!(text, "{name}::added_via_api::false");
        let _ =
            writeln!(text, "{name}::cx_active::{}", of.state.metrics.view(|metrics| metrics.active.get()));
        for host in hosts(running, of, destinations) {
            let (active, connect_fail, total) = host.counts();
            let Host { addr, counted, named, health, place } = host;
            let server = external::server(of, addr);
            // Envoy has the path in the place of a Unix socket's address.
            let addr = server.and_then(external::path).unwrap_or_else(|| addr.to_string());
            if let Some(host) = server.and_then(external::host_name) {
                let _ = writeln!(text, "{name}::{addr}::hostname::{host}");
            }
            let _ = writeln!(text, "{name}::{addr}::cx_active::{active}");
            let _ = writeln!(text, "{name}::{addr}::cx_connect_fail::{connect_fail}");
            let _ = writeln!(text, "{name}::{addr}::cx_total::{total}");
            if let Some(health) = health {
                let _ = writeln!(text, "{name}::{addr}::health_flags::{}", health.flags());
            }
            for (key, value) in place.map(HostPlace::lines).unwrap_or_default() {
                let _ = writeln!(text, "{name}::{addr}::{key}::{}", one_line(&value));
            }
            if let Some(counted) = counted {
                let _ = writeln!(text, "{name}::{addr}::last_seen::{}", rfc3339(counted.last_seen_at()));
            }
            if let Some(Named(named)) = named {
                let named = named.as_deref().unwrap_or("no document");
                let _ = writeln!(text, "{name}::{addr}::named_by::{}", one_line(named));
            }
        }
    }
    text
}

/// Makes `/clusters?format=json` in Envoy's shape.
pub(super) fn clusters_json(running: &Running, destinations: &Destinations) -> Value {
    let statuses: Vec<_> = clusters(running)
        .iter()
        .map(|of| {
            let thresholds: serde_json::Map<_, _> = of
                .state
                .limits
                .view(limits)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Value::from(value)))
                .collect();
            let hosts: Vec<_> = hosts(running, of, destinations)
                .into_iter()
                .map(|host| {
                    let (active, connect_fail, total) = host.counts();
                    let Host { addr, counted, named, health, place } = host;
                    let mut shown = json!({
                        "address": socket_address(addr.get()),
                        "stats": [
                            {"name": "cx_active", "type": "GAUGE", "value": active.to_string()},
                            {"name": "cx_connect_fail", "value": connect_fail.to_string()},
                            {"name": "cx_total", "value": total.to_string()},
                        ],
                    });
                    if let Some(server) = external::server(of, addr) {
                        external::show(&mut shown, server);
                    }
                    if let Some(counted) = counted {
                        shown["last_seen"] = rfc3339(counted.last_seen_at()).into();
                    }
                    if let Some(health) = health {
                        shown["health_status"] = checks::status(&health);
                    }
                    if let Some(place) = place {
                        place.add_to(&mut shown);
                    }
                    if let Some(Named(named)) = named {
                        shown["named_by"] = named.into();
                    }
                    shown
                })
                .collect();
            json!({
                "name": &*of.plan.name,
                "observability_name": &*of.stat_name,
                "circuit_breakers": {"thresholds": [thresholds]},
                "host_statuses": hosts,
            })
        })
        .collect();
    json!({ "cluster_statuses": statuses })
}

#[cfg(test)]
mod tests;
