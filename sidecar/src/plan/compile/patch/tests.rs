// SPDX-License-Identifier: Apache-2.0
use crate::options::Options;
use crate::options::config::Thresholds;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::{ClusterPlan, ListenerPlan, Plan};
use clap::Parser;
use std::time::Duration;

const PODS: &str = "---
{type: Dataplane, name: here, labels: {app: here}, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 80, servicePort: 8080, tags: {kuma.io/service: here, version: '1'}}, {port: 81, servicePort: 8081, tags: {kuma.io/service: here, version: '2'}}],
  outbound: [{port: 1000, tags: {kuma.io/service: backend}}]}}
---
{type: Dataplane, name: b, networking: {address: 10.0.0.3, inbound: [{port: 90, tags: {kuma.io/service: backend}}]}}
";

/// A policy of these changes.
fn policy(name: &str, target: &str, changes: &[&str]) -> String {
    let changes = changes.join("\n    - ");
    format!(
        "---\ntype: MeshProxyPatch\nname: {name}\nspec:\n  targetRef: {{{target}}}\n  default:\n    appendModifications:\n    - {changes}\n"
    )
}

fn compiled(documents: &str) -> Result<Plan, Vec<String>> {
    let config = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(config).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, &format!("{PODS}{documents}"), "m.yaml");
    assert_eq!(loaded.errors, [], "{documents}");
    compile(&config, &loaded.found).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn plan(documents: &str) -> Plan {
    compiled(documents).unwrap_or_else(|errors| panic!("{documents}: {errors:#?}"))
}

fn cluster<'p>(plan: &'p Plan, name: &str) -> &'p ClusterPlan {
    plan.cluster_named(name).unwrap_or_else(|| panic!("no cluster {name}"))
}

fn listener<'p>(plan: &'p Plan, name: &str) -> &'p ListenerPlan {
    plan.listeners.iter().find(|one| &*one.name == name).unwrap_or_else(|| panic!("no listener {name}"))
}

fn connect(plan: &Plan, name: &str) -> u64 {
    cluster(plan, name).connect_timeout.map_or(0, |timeout| timeout.as_secs())
}

fn idle(plan: &Plan, name: &str) -> u64 {
    listener(plan, name).idle_timeout.map_or(0, |timeout| timeout.as_secs())
}

const ALL: &str = "kind: Mesh";
const HERE: &str = "kind: Dataplane, labels: {app: here}";
const PASSTHROUGH: &str = "outbound:passthrough:ipv4";

/// A change of the connect timeout.
fn timeout(seconds: u32, which: &str) -> String {
    format!("cluster: {{operation: Patch, match: {{{which}}}, value: 'connect_timeout: {seconds}s'}}")
}

#[test]
fn the_documentations_patches_of_passthrough_take_effect() {
    let text = "---
type: MeshProxyPatch
mesh: default
name: custom-mpp-1
spec:
  targetRef:
    kind: Mesh
  default:
    appendModifications:
    - cluster:
        operation: Patch
        match:
          name: outbound:passthrough:ipv4
        jsonPatches:
        - op: replace
          path: /connectTimeout
          value: 99s
    - networkFilter:
        operation: Patch
        match:
          name: envoy.filters.network.tcp_proxy
          listenerName: outbound:passthrough:ipv4
        value: |
          name: envoy.filters.network.tcp_proxy
          typedConfig:
            '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
            idleTimeout: \"3h\"
    - cluster:
        operation: Patch
        match:
          name: outbound:passthrough:ipv4
        value: |
          circuit_breakers: {
            thresholds: [
              {
                max_connections: 2048,
                max_pending_requests: 2048,
                max_requests: 2048,
                max_retries: 4
              }
            ]
          }
";
    let plan = plan(text);
    assert_eq!((connect(&plan, PASSTHROUGH), idle(&plan, PASSTHROUGH)), (99, 3 * 3600));
    let limits =
        Thresholds { max_connections: 2048, max_pending_requests: 2048, max_requests: 2048, max_retries: 4 };
    assert_eq!(cluster(&plan, PASSTHROUGH).thresholds, limits);
    assert_eq!(connect(&plan, "outbound:passthrough:ipv6"), 10, "the other one stays");
    assert_eq!(plan.warnings, [""; 0]);
}

#[test]
fn the_changes_of_all_policies_are_made_and_the_most_specific_one_is_the_last() {
    let narrow = policy("narrow", HERE, &[&timeout(1, "name: backend")]);
    let wide = policy("wide", ALL, &[&timeout(2, "name: backend"), &timeout(3, "name: localhost:8080")]);
    let namesake = policy("zz", ALL, &[&timeout(4, "name: backend"), &timeout(5, "name: localhost:8081")]);
    for documents in [
        format!("{narrow}{wide}{namesake}"),
        format!("{namesake}{wide}{narrow}"),
        format!("{wide}{narrow}{namesake}"),
    ] {
        let plan = plan(&documents);
        let times = ["backend", "localhost:8080", "localhost:8081"].map(|name| connect(&plan, name));
        assert_eq!(times, [1, 3, 5], "{documents}");
    }
    // Of even policies the first by name decides, so it comes last.
    assert_eq!(connect(&plan(&format!("{wide}{namesake}")), "backend"), 2);
    let elsewhere = policy("e", "kind: Dataplane, labels: {app: web}", &[&timeout(9, "name: backend")]);
    assert_eq!(connect(&plan(&elsewhere), "backend"), 5);
    let template = "---\n{type: ProxyTemplate, name: t, selectors: [{match: {kuma.io/service: '*'}}], conf: {modifications: [\
        {cluster: {operation: patch, match: {name: backend}, value: 'connect_timeout: 7s'}}]}}\n";
    assert_eq!(connect(&plan(&format!("{narrow}{template}")), "backend"), 7, "a template comes after all");
    let shadow = narrow.replace("name: narrow", "name: narrow\nlabels: {kuma.io/effect: shadow}");
    assert_eq!(connect(&plan(&shadow), "backend"), 5, "on trial");
}

#[test]
fn a_match_goes_by_name_origin_and_tags() {
    let closed = "---\n{type: Mesh, name: default, networking: {outbound: {passthrough: false}}}\n";
    let exit = "---\n{type: MeshPassthrough, name: p, spec: {default: {appendMatch: [{type: IP, value: 192.0.2.1}]}}}\n";
    let all = [
        "backend",
        "direct_access",
        "inbound:passthrough:ipv4",
        "localhost:8080",
        "meshpassthrough_tcp_192.0.2.1_*",
    ];
    for (which, changed) in [
        ("", &all[..]),
        ("origin: outbound", &["backend"]),
        ("origin: inbound", &["localhost:8080"]),
        ("origin: transparent", &["inbound:passthrough:ipv4"]),
        ("origin: direct-access", &["direct_access"]),
        ("origin: meshpassthrough", &["meshpassthrough_tcp_192.0.2.1_*"]),
        ("name: direct_access, origin: direct-access", &["direct_access"]),
        ("name: self_transparentproxy_passthrough_inbound_ipv4", &["inbound:passthrough:ipv4"]),
        ("name: backend, origin: inbound", &[]),
        ("origin: gateway", &[]),
    ] {
        let plan = plan(&format!("{closed}{exit}{}", policy("p", ALL, &[&timeout(77, which)])));
        let found: Vec<_> = all.into_iter().filter(|name| connect(&plan, name) == 77).collect();
        assert_eq!(found, changed, "{which}");
        let warned = plan.warnings.iter().any(|one| {
            one.starts_with("MeshProxyPatch p: spec.default.appendModifications[0] changes nothing")
        });
        assert_eq!(warned, changed.is_empty(), "{which}: {:?}", plan.warnings);
    }
    let all = ["inbound:10.0.0.2:80", "inbound:10.0.0.2:81", "outbound:127.0.0.1:1000", PASSTHROUGH];
    for (which, changed) in [
        ("", &all[..]),
        ("listenerTags: {version: '1'}", &all[..1]),
        ("listenerTags: {version: '*'}", &all[..2]),
        ("listenerTags: {kuma.io/service: backend}", &all[2..3]),
        ("listenerTags: {kuma.io/service: here}, origin: outbound", &[]),
        ("listenerName: 'outbound:127.0.0.1:1000'", &all[2..3]),
        ("listenerName: self_transparentproxy_passthrough_outbound_ipv4", &all[3..]),
        ("origin: inbound", &all[..2]),
    ] {
        let filter = format!(
            "networkFilter: {{operation: Patch, match: {{name: envoy.filters.network.tcp_proxy, {which}}}, value: 'typed_config: {{idle_timeout: 77s}}'}}"
        );
        let plan = plan(&policy("p", ALL, &[&filter]));
        let found: Vec<_> = all.into_iter().filter(|name| idle(&plan, name) == 77).collect();
        assert_eq!(found, changed, "{which}");
    }
}

#[test]
fn a_json_patch_leaves_what_it_does_not_name_and_removes_to_envoys_numbers() {
    let patch = |list: &str| {
        format!("cluster: {{operation: Patch, match: {{name: backend}}, jsonPatches: [{list}]}}")
    };
    let base = "---\n{type: MeshCircuitBreaker, name: c, spec: {to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxConnections: 5, maxRetries: 6}}}]}}\n---\n\
        {type: MeshTimeout, name: t, spec: {to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 8s}}]}}\n";
    let of = |list: &str| {
        let plan = plan(&format!("{base}{}", policy("p", ALL, &[&patch(list)])));
        let cluster = cluster(&plan, "backend");
        let Thresholds { max_connections, max_retries, .. } = cluster.thresholds;
        (cluster.connect_timeout, max_connections, max_retries)
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    const LIMITS: &str = "/circuitBreakers/thresholds/0";
    for (list, expected) in [
        (format!("{{op: add, path: {LIMITS}/maxConnections, value: 9}}"), (seconds(8), 9, 6)),
        (
            format!(
                "{{op: test, path: {LIMITS}/maxRetries, value: 6}}, {{op: remove, path: {LIMITS}/maxRetries}}"
            ),
            (seconds(8), 5, 3),
        ),
        (
            "{op: remove, path: /circuitBreakers}, {op: remove, path: /connectTimeout}".into(),
            (seconds(5), 1024, 3),
        ),
        ("{op: replace, path: /connectTimeout, value: 0s}".into(), (None, 5, 6)),
        (
            format!("{{op: copy, from: {LIMITS}/maxRetries, path: {LIMITS}/maxConnections}}"),
            (seconds(8), 6, 6),
        ),
    ] {
        assert_eq!(of(&list), expected, "{list}");
    }
    let errors =
        compiled(&policy("p", ALL, &[&patch("{op: test, path: /connectTimeout, value: 9s}")])).unwrap_err();
    let error = "m.yaml: document 3 (MeshProxyPatch p): spec.default.appendModifications[0].cluster.jsonPatches[0]: \
                 found \"5s\" at /connectTimeout, of backend; allowed: \"9s\"";
    assert_eq!(errors, [error]);
}

#[test]
fn a_cluster_that_is_taken_out_closes_its_ways_and_one_that_is_added_opens_none() {
    let remove =
        |which: &str| policy("p", ALL, &[&format!("cluster: {{operation: Remove, match: {{{which}}}}}")]);
    // All is made out where a policy patches.
    let open = plan(&policy("p", ALL, &[&timeout(4, "name: nothing")]));
    let inbound = plan(&remove("origin: inbound"));
    assert_eq!(inbound.clusters.len(), open.clusters.len() - 2);
    assert_eq!(listener(&inbound, "inbound:10.0.0.2:80").cluster, None);
    assert!(listener(&inbound, PASSTHROUGH).cluster.is_some() && inbound.passthrough);
    let one = plan(&remove("name: outbound:passthrough:ipv4"));
    assert!(listener(&one, PASSTHROUGH).cluster.is_none() && one.passthrough, "IPv6 is open");
    assert!(!plan(&remove("origin: transparent")).passthrough, "as a mesh that is closed");
    let closed = "---\n{type: Mesh, name: default, networking: {outbound: {passthrough: false}}}\n";
    assert!(plan(closed).direct_access.is_some());
    assert_eq!(plan(&format!("{closed}{}", remove("origin: direct-access"))).direct_access, None);
    let add = "cluster: {operation: Add, value: '{name: extra, connectTimeout: 3s, type: STATIC}'}";
    let added = plan(&policy("p", ALL, &[add, &timeout(4, "name: extra")]));
    assert_eq!((added.clusters.len(), connect(&added, "extra")), (open.clusters.len() + 1, 4));
    assert_eq!(added.listeners, open.listeners);
    let errors = compiled(&policy("p", ALL, &[add, add])).unwrap_err();
    assert!(
        errors.len() == 1
            && errors[0]
                .contains("appendModifications[1].cluster.value.name: found \"extra\", which is there"),
        "{errors:?}"
    );
}
