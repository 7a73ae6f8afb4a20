// SPDX-License-Identifier: Apache-2.0
use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::{Plan, Serve};
use clap::Parser;
use std::collections::BTreeMap;

/// Services by tags and by documents, with routes, a split, checks, limits, logs and a name that an outbound has too.
const DOCUMENTS: &str = "
{type: Dataplane, name: here, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 80, tags: {kuma.io/service: here}}], outbound: [{port: 1000, tags: {kuma.io/service: web}}]}}
---
{type: Dataplane, name: web-1, labels: {app: web}, networking: {address: 10.0.0.3, inbound: [{port: 80, tags: {kuma.io/service: web, version: '1'}}]}}
---
{type: Dataplane, name: web-2, labels: {app: web}, networking: {address: 10.0.0.4, inbound: [{port: 80, tags: {kuma.io/service: web, version: '2'}}, {port: 90, tags: {kuma.io/service: admin.web}}]}}
---
{type: Dataplane, name: db, networking: {address: 10.0.0.5, inbound: [{port: 5432, tags: {kuma.io/service: db_shop_svc_5432, kuma.io/protocol: http}}]}}
---
{type: Dataplane, name: checked, networking: {address: 10.0.0.6, inbound: [{port: 80, tags: {kuma.io/service: checked}}]}}
---
{type: Dataplane, name: split, networking: {address: 10.0.0.7, inbound: [{port: 80, tags: {kuma.io/service: split}}]}}
---
{type: MeshService, name: web, labels: {kuma.io/namespace: shop}, spec: {selector: {dataplaneLabels: {matchLabels: {app: web}}}, ports: [{port: 8000, targetPort: 80}]},
  status: {vips: [{ip: 10.96.0.7}], addresses: [{hostname: web.shop.svc.mesh.local}]}}
---
{type: MeshHealthCheck, name: a, spec: {to: [{targetRef: {kind: MeshService, name: checked}, default: {interval: 1s, tcp: {}}}]}}
---
{type: MeshTCPRoute, name: a, spec: {to: [{targetRef: {kind: MeshService, name: split}, rules: [{default: {backendRefs: [
  {kind: MeshService, name: split, weight: 1}, {kind: MeshService, name: db_shop_svc_5432, weight: 1}]}}]}]}}
---
{type: MeshTimeout, name: a, spec: {to: [{targetRef: {kind: MeshService, name: db_shop_svc_5432}, default: {idleTimeout: 7s}}]}}
---
{type: MeshCircuitBreaker, name: a, spec: {to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxConnections: 7}}}]}}
---
{type: MeshAccessLog, name: a, spec: {to: [{targetRef: {kind: MeshService, name: db_shop_svc_5432}, default: {backends: [{type: File, file: {path: /tmp/db.log}}]}}]}}
";
/// Looks at all listeners and clusters, so that all are made out.
const PATCH: &str = "---
{type: ProxyTemplate, name: a, selectors: [{match: {kuma.io/service: '*'}}], conf: {modifications: [{cluster: {operation: patch, match: {name: nothing}, value: 'connectTimeout: 1s'}}]}}
";

fn plan(documents: &str) -> Plan {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, documents, "m.yaml");
    assert_eq!(loaded.errors, []);
    compile(&config, &loaded.found).unwrap()
}

#[test]
fn what_is_made_out_on_demand_is_what_would_be_made_out_at_once() {
    let (lines, whole) = (plan(DOCUMENTS), plan(&format!("{DOCUMENTS}{PATCH}")));
    let on_demand = &lines.names.on_demand;
    let names = |plan: &Plan| plan.listeners.iter().map(|one| one.name.to_string()).collect::<Vec<_>>();
    assert_eq!(whole.names.on_demand, Default::default());
    assert_eq!(lines.listener_count(), whole.listeners.len(), "{:?}", names(&whole));
    assert_eq!(lines.cluster_count(), whole.clusters.len());
    // Web is an outbound's too, and what is split or checked is made out at once.
    assert!(on_demand.listeners() >= 5 && lines.listeners.len() < whole.listeners.len());
    let made_out = lines.clone().made_out();
    let by_name = |plan: &Plan| {
        let clusters = plan.clusters.iter().map(|one| (one.name.to_string(), format!("{one:?}")));
        let listeners = plan.listeners.iter().map(|one| (one.name.to_string(), format!("{one:?}")));
        clusters.chain(listeners).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(by_name(&made_out), by_name(&whole));
    assert_eq!(made_out.names.ways, whole.names.ways);
    assert_eq!((&made_out.names.names, &made_out.logs), (&whole.names.names, &whole.logs));
}

/// Inbounds and services with and without a protocol, and a split between both.
const PROTOCOLS: &str = "
{type: Dataplane, name: here, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 80, tags: {kuma.io/service: here, kuma.io/protocol: http}}, {port: 81, tags: {kuma.io/service: here, kuma.io/protocol: grpc}},
    {port: 82, tags: {kuma.io/service: here}}, {port: 83, protocol: http},
    {port: 84, protocol: tcp, tags: {kuma.io/service: here, kuma.io/protocol: http}}],
  outbound: [{port: 1000, tags: {kuma.io/service: both}}, {port: 1001, tags: {kuma.io/service: half}}, {port: 1002, tags: {kuma.io/service: none}},
    {port: 1003, tags: {kuma.io/service: both, version: '1'}}, {port: 1004, tags: {kuma.io/service: split}},
    {port: 1005, backendRef: {kind: MeshService, name: says-http, port: 80}}, {port: 1006, backendRef: {kind: MeshService, name: says-tcp, port: 80}},
    {port: 1007, backendRef: {kind: MeshService, name: says-nothing, port: 80}}]}}
---
{type: Dataplane, name: both-1, labels: {app: both}, networking: {address: 10.0.0.3, inbound: [{port: 80, tags: {kuma.io/service: both, version: '1', kuma.io/protocol: http}}]}}
---
{type: Dataplane, name: both-2, labels: {app: both}, networking: {address: 10.0.0.4, inbound: [{port: 80, tags: {kuma.io/service: both, version: '2', kuma.io/protocol: http}}]}}
---
{type: Dataplane, name: half-1, networking: {address: 10.0.0.5, inbound: [{port: 80, tags: {kuma.io/service: half, kuma.io/protocol: http}}]}}
---
{type: Dataplane, name: half-2, labels: {app: half}, networking: {address: 10.0.0.6, inbound: [{port: 80, tags: {kuma.io/service: half, kuma.io/protocol: tcp}}]}}
---
{type: Dataplane, name: split-1, networking: {address: 10.0.0.7, inbound: [{port: 80, tags: {kuma.io/service: split, kuma.io/protocol: http}}]}}
---
{type: MeshService, name: says-http, spec: {selector: {dataplaneLabels: {matchLabels: {app: half}}}, ports: [{port: 80, appProtocol: http}]}}
---
{type: MeshService, name: says-tcp, spec: {selector: {dataplaneLabels: {matchLabels: {app: both}}}, ports: [{port: 80, appProtocol: tcp}]}}
---
{type: MeshService, name: says-nothing, spec: {selector: {dataplaneLabels: {matchLabels: {app: both}}}, ports: [{port: 80}]}}
---
{type: MeshTCPRoute, name: a, spec: {to: [{targetRef: {kind: MeshService, name: split}, rules: [{default: {backendRefs: [
  {kind: MeshService, name: split, weight: 1}, {kind: MeshService, name: half, weight: 1}]}}]}]}}
";

#[test]
fn calls_are_messages_where_all_that_they_go_to_speaks_http() {
    let plan = plan(PROTOCOLS).made_out();
    let serve = |start: &str| {
        let of = plan.listeners.iter().filter(|one| one.name.starts_with(start));
        of.map(|one| one.serve).collect::<Vec<_>>()
    };
    for (name, expected) in [
        ("inbound:10.0.0.2:80", Serve::Http),
        ("inbound:10.0.0.2:81", Serve::Http2),
        ("inbound:10.0.0.2:82", Serve::Tcp),
        ("inbound:10.0.0.2:83", Serve::Http),
        ("inbound:10.0.0.2:84", Serve::Tcp),
        ("outbound:127.0.0.1:1000", Serve::Http),
        ("outbound:127.0.0.1:1001", Serve::Tcp),
        ("outbound:127.0.0.1:1002", Serve::Tcp),
        ("outbound:127.0.0.1:1003", Serve::Http),
        ("outbound:127.0.0.1:1004", Serve::Tcp),
        ("outbound:127.0.0.1:1005", Serve::Http),
        ("outbound:127.0.0.1:1006", Serve::Tcp),
        ("outbound:127.0.0.1:1007", Serve::Http),
        ("inbound:passthrough:ipv4", Serve::Tcp),
        ("outbound:passthrough:ipv4", Serve::Tcp),
    ] {
        assert_eq!(serve(name), [expected], "{name}");
    }
    // Addresses of names are as outbounds are, whether they are made out at once or not.
    let of = |name: &str, port| {
        let ip = plan.names.find(name).unwrap().addresses[0];
        serve(&format!("outbound:{ip}:{port}"))
    };
    assert_eq!(of("both.mesh", 80), [Serve::Http]);
    assert_eq!(of("half.mesh", 80), [Serve::Tcp]);
}
