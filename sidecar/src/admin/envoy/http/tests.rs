// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::admin::dump;
use crate::cluster::registry::{Registry, Running};
use crate::options::Options;
use crate::options::config::Config;
use crate::plan::compile::{compile, read_with_mesh};
use clap::Parser;
use std::sync::Arc;
use std::time::SystemTime;

/// The pod of Kong Mesh's documentation, behind a redirection, with calls of three services.
const POD: &str = "---
{type: Dataplane, name: demo-app, networking: {address: 10.244.0.6, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 5000, tags: {kuma.io/service: demo-app, kuma.io/protocol: http}}],
  outbound: [{port: 1000, tags: {kuma.io/service: backend}}]}}
---
{type: Dataplane, name: b1, networking: {address: 10.0.0.3, inbound: [{port: 90, tags: {kuma.io/service: backend, kuma.io/protocol: http}}]}}
---
{type: Dataplane, name: b2, networking: {address: 10.0.0.4, inbound: [{port: 90, tags: {kuma.io/service: backend, kuma.io/protocol: http}}]}}
---
{type: Dataplane, name: o, networking: {address: 10.0.0.5, inbound: [{port: 90, tags: {kuma.io/service: other, kuma.io/protocol: http}}]}}
";

const INBOUND: &str = "inbound:10.244.0.6:5000";
const OUTBOUND: &str = "outbound:127.0.0.1:1000";

fn running(documents: &str) -> (Config, Arc<Running>) {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=demo-app"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, &format!("{POD}{documents}"), "mesh.yaml");
    assert_eq!(loaded.errors, [], "{documents}");
    let plan = compile(&config, &loaded.found).unwrap_or_else(|errors| panic!("{documents}: {errors:?}"));
    let running = Registry::default().open(plan);
    (config, running)
}

fn the_dump(documents: &str) -> Value {
    let (config, running) = running(documents);
    super::super::config_dump(&config, &running, SystemTime::UNIX_EPOCH)
}

/// The chains of a listener.
fn chains(documents: &str, name: &str) -> Value {
    let dump = the_dump(documents);
    let all = dump["configs"][2]["dynamic_listeners"].as_array().unwrap();
    let found = all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}: {dump}"));
    found["active_state"]["listener"]["filter_chains"].clone()
}

/// The configuration of the last filter of a listener's first chain.
fn manager(documents: &str, name: &str) -> Value {
    let chains = chains(documents, name);
    let filter = chains[0]["filters"].as_array().unwrap().last().unwrap();
    assert_eq!(filter["name"], "envoy.filters.network.http_connection_manager", "{documents}");
    filter["typed_config"].clone()
}

/// Kong Mesh's page shows these lines of a dump, of which it leaves out some.
const EXCERPT: [&str; 2] = [
    r#"
     "name": "inbound:10.244.0.6:5000",
     "active_state": {
      "version_info": "9dac7d53-3560-4ad4-ba42-c7e563db958e",
      "listener": {
       "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
       "name": "inbound:10.244.0.6:5000",
       "address": {
        "socket_address": {
         "address": "10.244.0.6",
         "port_value": 5000
        }
       },
          "filter_chains": [
            {
              "filters": [
                {
                  "name": "envoy.filters.network.http_connection_manager",
                  "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "localhost_5000",
                    "route_config": {
"#,
    r#"
                    "http_filters": [
                      {
                        "name": "envoy.filters.http.fault",
                        "typed_config": {
                          "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                          "delay": {
                            "fixed_delay": "5s",
                            "percentage": {
                              "numerator": 50,
                              "denominator": "TEN_THOUSAND"
"#,
];

#[test]
fn the_listener_of_kong_meshs_page_is_in_the_dump() {
    let dump = the_dump(
        "---
{type: MeshFaultInjection, name: slow, mesh: default, spec: {targetRef: {kind: Mesh}, from: [{targetRef: {kind: Mesh},
  default: {http: [{delay: {percentage: '0.5', value: 5s}}]}}]}}
",
    );
    let version = dump["configs"][2]["version_info"].as_str().unwrap();
    // Its lines come from two dumps, one of them indented by an editor.
    let lines = |text: &str| text.trim().lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let mut rest = lines(&dump::text(&dump).replace(version, "9dac7d53-3560-4ad4-ba42-c7e563db958e"));
    for part in EXCERPT {
        let part = lines(part);
        let (before, behind) = rest.split_once(&part).unwrap_or_else(|| panic!("{part}\nis not in\n{rest}"));
        assert!(!before.contains("\"fixed_delay\""), "it is the first fault: {before}");
        rest = behind.to_owned();
    }
}

#[test]
fn a_rate_of_some_callers_has_a_route_of_its_own_before_the_others() {
    let limit = |name: &str, source: &str, requests: u32| {
        format!(
            "---\n{{type: RateLimit, name: {name}, sources: [{{match: {{{source}}}}}], destinations: [{{match: {{kuma.io/service: demo-app}}}}], \
             conf: {{http: {{requests: {requests}, interval: 10s}}}}}}\n"
        )
    };
    let some = limit("a", "kuma.io/service: web, version: '1'", 1) + &limit("b", "kuma.io/service: ops", 2);
    let all = limit("c", "kuma.io/service: '*'", 3);
    let (first, second) =
        (".*&kuma.io/service=[^&]*web[,&].*&version=[^&]*1[,&].*", ".*&kuma.io/service=[^&]*ops[,&].*");
    for (documents, expected) in [
        (some.clone(), vec![(Some(first), Some(1)), (Some(second), Some(2)), (None, None)]),
        (some + &all, vec![(Some(first), Some(1)), (Some(second), Some(2)), (None, Some(3))]),
        (all, vec![(None, Some(3))]),
        (String::new(), vec![(None, None)]),
    ] {
        let config = manager(&documents, INBOUND);
        let routes = config["route_config"]["virtual_hosts"][0]["routes"].as_array().unwrap();
        let found = routes.iter().map(|route| {
            assert_eq!(route["match"]["prefix"], "/", "{route}");
            assert_eq!(route["route"]["cluster"], "localhost:5000", "{route}");
            let by = &route["match"]["headers"][0];
            assert!(by.is_null() || by["name"] == "x-kuma-tags" && by["invert_match"].is_null(), "{route}");
            let limit = &route["typed_per_filter_config"][RATE]["token_bucket"];
            (by["string_match"]["safe_regex"]["regex"].as_str(), limit["max_tokens"].as_u64())
        });
        assert_eq!(found.collect::<Vec<_>>(), expected, "{documents}");
        let filters = config["http_filters"].as_array().unwrap();
        assert_eq!(filters.iter().any(|one| one["name"] == RATE), !documents.is_empty(), "{documents}");
    }
}

/// Everything that documents may say of it.
const ALL: &str = "---
{type: Mesh, name: default, mtls: {enabledBackend: ca, backends: [{name: ca}]}}
---
{type: MeshFaultInjection, name: f, spec: {from: [{targetRef: {kind: Mesh}, default: {http: [{abort: {httpStatus: 503, percentage: 12}}]}},
  {targetRef: {kind: MeshSubset, tags: {kuma.io/service: web.prod, version: '*'}}, default: {http: [
    {delay: {value: 1500ms, percentage: '33.3'}, responseBandwidth: {limit: 50Mbps, percentage: 50}}, {abort: {httpStatus: 418, percentage: 0}}]}}]}}
---
{type: MeshRateLimit, name: r, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {tcp: {connectionRate: {num: 7, interval: 1s}},
  http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 423, headers: {add: [{name: x-a, value: b}]}}}}}}]}}
---
{type: MeshTimeout, name: t, spec: {from: [{targetRef: {kind: Mesh}, default: {idleTimeout: 2m, http: {requestTimeout: 20s, streamIdleTimeout: 30s, maxStreamDuration: 40s,
  maxConnectionDuration: 50s, requestHeadersTimeout: 1s}}}]}}
";

#[test]
fn what_documents_say_of_an_inbound_is_what_kuma_writes() {
    let text = |value: &Value| dump::text(&json!({ "filter_chains": value }));
    insta::assert_snapshot!(text(&chains(ALL, INBOUND)));
}

#[test]
fn without_documents_a_time_that_envoy_would_have_is_0() {
    let inbound = manager("", INBOUND);
    assert_eq!(inbound["stream_idle_timeout"], "0s");
    assert_eq!(inbound["common_http_protocol_options"], json!({"idle_timeout": "7200s"}));
    assert_eq!(
        inbound["route_config"]["virtual_hosts"][0]["routes"][0]["route"],
        json!({"cluster": "localhost:5000", "timeout": "0s"})
    );
    let absent =
        ["request_headers_timeout", "forward_client_cert_details", "set_current_client_cert_details"];
    assert!(absent.iter().all(|field| inbound.get(field).is_none()), "{inbound}");
    let names = |of: &Value| {
        of["http_filters"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&inbound), ["envoy.filters.http.router"]);
}

#[test]
fn an_outbound_is_named_by_its_service_and_its_splits_have_weights() {
    let outbound = manager("", OUTBOUND);
    assert_eq!(outbound["stat_prefix"], "backend");
    assert_eq!(
        outbound["route_config"],
        json!({
            "name": "outbound:backend",
            "virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": [{
                "match": {"prefix": "/"},
                "route": {
                    "cluster": "backend", "timeout": "0s",
                    "retry_policy": {"retry_on": "connect-failure", "num_retries": 4},
                },
            }]}],
            "validate_clusters": false,
        })
    );
    let split = "---
{type: MeshTCPRoute, name: r, spec: {to: [{targetRef: {kind: MeshService, name: backend}, rules: [{default: {backendRefs: [
  {kind: MeshService, name: backend, weight: 3}, {kind: MeshService, name: other, weight: 1}]}}]}]}}
---
{type: MeshTimeout, name: t, spec: {to: [{targetRef: {kind: MeshService, name: backend}, default: {http: {requestTimeout: 9s}}}]}}
---
{type: MeshLoadBalancingStrategy, name: s, spec: {to: [{targetRef: {kind: Mesh}, default: {loadBalancer: {type: Maglev}, hashPolicies: [{type: Connection, connection: {sourceIP: true}}]}}]}}
";
    let route = manager(split, OUTBOUND)["route_config"]["virtual_hosts"][0]["routes"][0]["route"].clone();
    let clusters = json!([{"name": "backend", "weight": 3}, {"name": "other", "weight": 1}]);
    assert_eq!(
        (&route["weighted_clusters"], &route["timeout"]),
        (&json!({"clusters": clusters}), &json!("9s"))
    );
    assert_eq!(route["hash_policy"], json!([{"connection_properties": {"source_ip": true}}]));
    assert_eq!(route.get("cluster"), None);
}

#[test]
fn clusters_of_http_say_so_and_no_other() {
    let dump = the_dump(
        "---
{type: Dataplane, name: t, networking: {address: 10.0.0.6, inbound: [{port: 90, tags: {kuma.io/service: plain}}]}}
---
{type: Dataplane, name: u, networking: {address: 10.0.0.7, inbound: [{port: 90, tags: {kuma.io/service: calls, kuma.io/protocol: grpc}}]}}
",
    );
    let clusters = dump["configs"][1]["dynamic_active_clusters"].as_array().unwrap();
    let version = |one: &Value| {
        let options = &one["cluster"]["typed_extension_protocol_options"];
        let options = &options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
        let (version, _) = options["explicit_http_config"].as_object()?.iter().next()?;
        Some(format!("{}: {version}", one["cluster"]["name"].as_str()?))
    };
    let mut of_http: Vec<_> = clusters.iter().filter_map(version).collect();
    of_http.sort();
    assert_eq!(
        of_http,
        [
            "backend: http_protocol_options",
            "calls: http2_protocol_options",
            "demo-app: http_protocol_options",
            "localhost:5000: http_protocol_options",
            "other: http_protocol_options",
        ]
    );
    assert!(clusters.iter().any(|one| one["cluster"]["name"] == "plain"));
}

#[test]
fn callers_are_named_in_kumas_words() {
    let tags = |tags: &[(&str, &str)]| {
        Who::Tags(Tags(tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()))
    };
    let callers = |who: Vec<Who>| Callers { who, addresses: Default::default() };
    let web = tags(&[("kuma.io/service", "web.prod"), ("version", "*")]);
    for (who, expected) in [
        (vec![Who::Everyone], None),
        (vec![web.clone()], Some(r".*&kuma.io/service=[^&]*web\.prod[,&].*&version=.*")),
        (vec![tags(&[("a", "b")]), tags(&[("c", "d")])], Some("(.*&a=[^&]*b[,&].*|.*&c=[^&]*d[,&].*)")),
        (vec![web, Who::Everyone], None),
        (vec![Who::Exactly("spiffe://a/b".into())], None),
    ] {
        assert_eq!(tags_of(&callers(who.clone())).as_deref(), expected, "{who:?}");
    }
}

#[test]
fn a_fault_of_an_identity_is_skipped_for_the_others() {
    let rules = "---
{type: MeshFaultInjection, name: f, spec: {rules: [{matches: [{spiffeID: {type: Prefix, value: 'spiffe://default/ops'}}],
  default: {http: [{abort: {httpStatus: 503, percentage: 100}}]}}, {default: {http: [{abort: {httpStatus: 500, percentage: 1}}]}}]}}
";
    let filters = manager(rules, INBOUND)["http_filters"].clone();
    let fault = |status, share| {
        json!({
            "name": "envoy.filters.http.fault",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                "abort": {"http_status": status, "percentage": {"numerator": share}},
            },
        })
    };
    let matching = &filters[0]["typed_config"];
    assert_eq!(
        matching["@type"],
        "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher"
    );
    assert_eq!(matching["extension_config"], fault(503, 100));
    let matcher = &matching["xds_matcher"]["matcher_list"]["matchers"][0];
    let predicate = &matcher["predicate"]["not_matcher"]["single_predicate"];
    assert_eq!(predicate["value_match"], json!({"prefix": "spiffe://default/ops"}));
    assert_eq!(filters[1], fault(500, 1));
}
