// SPDX-License-Identifier: Apache-2.0
use crate::options::Options;
use crate::plan::Plan;
use crate::plan::compile::{compile, read_with_mesh};
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
{type: Dataplane, name: db, networking: {address: 10.0.0.5, inbound: [{port: 5432, tags: {kuma.io/service: db_shop_svc_5432}}]}}
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
