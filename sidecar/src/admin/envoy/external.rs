// SPDX-License-Identifier: Apache-2.0
//! Servers outside of the mesh in Envoy's words: by their names, addresses and paths, with the TLS that is spoken to them.

use super::{balancing, socket_address};
use crate::admin::transport;
use crate::cluster::endpoint::Behind;
use crate::cluster::outsider::Outsider;
use crate::cluster::registry::Cluster;
use crate::net::addrs::DialAddr;
use crate::plan::external::{ExternalEndpoint, ExternalHost, ExternalTls};
use crate::plan::{ClusterPlan, Discovery};
use serde_json::{Value, json};

/// Adds type, endpoints and TLS to a cluster of `/config_dump`.
pub(super) fn describe(cluster: &mut Value, planned: &ClusterPlan, endpoints: &[ExternalEndpoint]) {
    let is_named = |one: &ExternalEndpoint| matches!(one.host, ExternalHost::Name(_));
    cluster["type"] = if endpoints.iter().any(is_named) { "STRICT_DNS" } else { "STATIC" }.into();
    let endpoint = |one: &ExternalEndpoint| {
        let mut shown = match &one.host {
            ExternalHost::Socket(path) => json!({"address": pipe(path)}),
            ExternalHost::Address | ExternalHost::Name(_) => json!({"address": socket_address(one.address)}),
        };
        if let ExternalHost::Name(name) = &one.host {
            shown["hostname"] = (&**name).into();
        }
        json!({ "endpoint": shown })
    };
    let all: Vec<_> = endpoints.iter().map(endpoint).collect();
    let localities = planned.balance.localities.as_ref();
    cluster["load_assignment"] = balancing::assignment(&planned.name, &all, localities);
    let mut different: Vec<&ExternalTls> = Vec::new();
    for tls in endpoints.iter().filter_map(|one| one.tls.as_deref()) {
        if !different.contains(&tls) {
            different.push(tls);
        }
    }
    // As Kuma's, which names them by their servers.
    let socket = |tls: &&ExternalTls| json!({"name": tls.server_name.to_str(), "transport_socket": transport::outside(tls)});
    if !different.is_empty() {
        cluster["transport_socket_matches"] = different.iter().map(socket).collect();
    }
}

/// Returns the server outside of the mesh at an address that a cluster dialled.
pub(super) fn server(of: &Cluster, addr: DialAddr) -> Option<&Outsider> {
    // A service of the mesh may have thousands of endpoints, and none of them is such a server.
    let Discovery::External(_) = of.plan.upstream else { return None };
    let endpoint = of.endpoints().iter().find(|endpoint| endpoint.address == addr.get())?;
    match &endpoint.behind {
        Behind::Outsider(outsider) => Some(outsider),
        Behind::Member(_) => None,
    }
}

/// Returns the path of a server that is a Unix socket.
pub(super) fn path(server: &Outsider) -> Option<String> {
    server.host.socket().map(|path| path.display().to_string())
}

/// Returns the name by which a document names a server.
pub(super) fn host_name(server: &Outsider) -> Option<&str> {
    match &server.host {
        ExternalHost::Name(name) => Some(name),
        ExternalHost::Address | ExternalHost::Socket(_) => None,
    }
}

/// Adds name or path to a host of `/clusters?format=json`.
pub(super) fn show(host: &mut Value, server: &Outsider) {
    if let Some(path) = server.host.socket() {
        host["address"] = pipe(path);
    }
    if let Some(name) = host_name(server) {
        host["hostname"] = name.into();
    }
}

fn pipe(path: &std::path::Path) -> Value {
    json!({"pipe": {"path": path.display().to_string()}})
}
