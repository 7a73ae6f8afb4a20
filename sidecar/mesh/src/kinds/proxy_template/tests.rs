// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::read::Problems;

/// The problems of a MeshProxyPatch with this change.
fn problems(change: &Value) -> Vec<String> {
    let spec = json!({"default": {"appendModifications": [change]}});
    let mut problems = Problems::default();
    let read = MeshProxyPatch::read(&spec, &mut At::root(&mut problems));
    let problems: Vec<_> = problems.into_all().iter().map(ToString::to_string).collect();
    assert_eq!(read.is_some(), problems.is_empty(), "{change}: {problems:#?}");
    let start = "default.appendModifications[0].";
    problems.iter().map(|one| one.strip_prefix(start).unwrap_or(one).to_owned()).collect()
}

fn cluster(rest: Value) -> Value {
    json!({ "cluster": rest })
}

fn patches(list: Value) -> Value {
    cluster(json!({"operation": "Patch", "jsonPatches": list}))
}

#[test]
fn what_kuma_takes_and_culvert_has_is_read() {
    for change in [
        cluster(json!({"operation": "Add", "value": "{name: xyz, connectTimeout: 5s, type: STATIC}"})),
        cluster(json!({"operation": "Patch", "value": "connectTimeout: 5s"})),
        cluster(
            json!({"operation": "Patch", "match": {"name": "a", "origin": "direct-access"}, "value": "connect_timeout: 1.5s"}),
        ),
        cluster(json!({"operation": "Remove"})),
        cluster(json!({"operation": "Remove", "match": {"origin": "inbound"}})),
        patches(json!([{"op": "replace", "path": "/connectTimeout", "value": "99s"}])),
        patches(json!([
            {"op": "test", "path": "/circuitBreakers/thresholds/0/maxRetries", "value": 3},
            {"op": "add", "path": "/circuitBreakers", "value": {"thresholds": [{"maxRetries": 4}]}},
            {"op": "copy", "from": "/circuitBreakers/thresholds/0/maxRetries", "path": "/circuitBreakers/thresholds/0/maxRequests"},
            {"op": "move", "from": "/circuitBreakers/thresholds/0/maxRequests", "path": "/circuitBreakers/thresholds/0/maxRetries"},
            {"op": "remove", "path": "/circuitBreakers/thresholds"},
        ])),
        json!({"networkFilter": {"operation": "Patch",
            "match": {"name": "envoy.filters.network.tcp_proxy", "listenerName": "a", "listenerTags": {"kuma.io/service": "*"}, "origin": "outbound"},
            "value": "typedConfig: {idleTimeout: 3h}"}}),
        json!({"networkFilter": {"operation": "Patch", "match": {"name": "envoy.filters.network.tcp_proxy"},
            "jsonPatches": [{"op": "replace", "path": "/idleTimeout", "value": "3h"}]}}),
    ] {
        assert_eq!(problems(&change), [""; 0], "{change}");
    }
}

#[test]
fn what_kuma_refuses_or_culvert_has_not_is_a_problem_of_its_field() {
    let filter = |rest: Value| json!({ "networkFilter": rest });
    for (change, expected) in [
        (json!({}), "default.appendModifications[0]: found 0 of them"),
        (
            json!({"httpFilter": {"operation": "Remove"}}),
            "httpFilter: found a change of a httpFilter; allowed: cluster or networkFilter: culvert has no such filters",
        ),
        (
            json!({"virtualHost": {"operation": "Remove"}}),
            "virtualHost: found a change of a virtualHost; allowed: cluster or networkFilter: culvert has no such filters",
        ),
        (
            json!({"listener": {"operation": "Remove"}}),
            "listener: found a change of a listener; allowed: cluster or networkFilter: changes of listeners are not built",
        ),
        (json!({"route": {}}), "default.appendModifications[0]: found \"route\""),
        (
            cluster(json!({"operation": "AddFirst"})),
            "cluster.operation: found \"AddFirst\"; allowed: Add, Patch, Remove",
        ),
        (cluster(json!({"operation": "patch", "value": "{}"})), "cluster.operation: found \"patch\""),
        (cluster(json!({"operation": "Add"})), "cluster.value: found nothing"),
        (cluster(json!({"operation": "Add", "value": "{"})), "cluster.value: found "),
        (
            cluster(json!({"operation": "Add", "match": {"name": "a"}, "value": "name: a"})),
            "cluster.match: found it beside operation Add",
        ),
        (
            cluster(json!({"operation": "Add", "value": "{name: a, loadAssignment: {}}"})),
            "cluster.value.loadAssignment: found a field that culvert does not have",
        ),
        (
            cluster(json!({"operation": "Add", "value": "{name: a, type: STRICT_DNS}"})),
            "cluster.value.type: found \"STRICT_DNS\"; allowed: STATIC",
        ),
        (
            cluster(json!({"operation": "Remove", "value": "name: a"})),
            "cluster.value: found it beside operation Remove",
        ),
        (cluster(json!({"operation": "Patch"})), "cluster: found neither value nor jsonPatches"),
        (
            cluster(json!({"operation": "Patch", "jsonPatches": []})),
            "cluster: found neither value nor jsonPatches",
        ),
        (
            cluster(
                json!({"operation": "Patch", "value": "{}", "jsonPatches": [{"op": "remove", "path": "/connectTimeout"}]}),
            ),
            "cluster: found value beside jsonPatches",
        ),
        (
            cluster(json!({"operation": "Patch", "value": "max_requests_per_connection: 1"})),
            "cluster.value.max_requests_per_connection: found a field that culvert does not have",
        ),
        (
            cluster(json!({"operation": "Patch", "match": {"origin": "inbund"}, "value": "{}"})),
            "cluster.match.origin: found \"inbund\"; allowed: inbound, outbound, transparent, direct-access",
        ),
        (
            patches(json!([{"op": "set", "path": "/connectTimeout"}])),
            "cluster.jsonPatches[0].op: found \"set\"; allowed: add, remove, replace, move, copy, test",
        ),
        (patches(json!([{"op": "replace", "value": 1}])), "cluster.jsonPatches[0].path: found nothing"),
        (
            patches(json!([{"op": "remove", "path": ""}])),
            "cluster.jsonPatches[0].path: found \"\"; allowed: a field that culvert has: /connectTimeout, ",
        ),
        (
            patches(json!([{"op": "replace", "path": "/connect_timeout", "value": "1s"}])),
            "cluster.jsonPatches[0].path: found \"/connect_timeout\"",
        ),
        (
            patches(
                json!([{"op": "add", "path": "/transportSocket/typedConfig/commonTlsContext/tlsParams", "value": {}}]),
            ),
            "cluster.jsonPatches[0].path: found \"/transportSocket/",
        ),
        (
            patches(json!([{"op": "add", "path": "/circuitBreakers/thresholds/-", "value": {}}])),
            "cluster.jsonPatches[0].path: found ",
        ),
        (
            patches(json!([{"op": "replace", "path": "/connectTimeout", "value": "soon"}])),
            "cluster.jsonPatches[0].value.connectTimeout: found \"soon\"; allowed: a duration",
        ),
        (
            patches(
                json!([{"op": "add", "path": "/circuitBreakers/thresholds/0", "value": {"maxRetry": 1}}]),
            ),
            "cluster.jsonPatches[0].value.circuitBreakers.thresholds[0].maxRetry: found a field that culvert does not have",
        ),
        (
            patches(json!([{"op": "replace", "path": "/connectTimeout"}])),
            "cluster.jsonPatches[0].value: found nothing",
        ),
        (
            patches(json!([{"op": "remove", "path": "/connectTimeout", "value": "1s"}])),
            "cluster.jsonPatches[0].value: found it beside this op",
        ),
        (
            patches(json!([{"op": "remove", "path": "/connectTimeout", "from": "/connectTimeout"}])),
            "cluster.jsonPatches[0].from: found it beside this op",
        ),
        (
            patches(json!([{"op": "copy", "path": "/connectTimeout"}])),
            "cluster.jsonPatches[0].from: found nothing",
        ),
        (
            patches(json!([{"op": "copy", "from": "/name", "path": "/connectTimeout"}])),
            "cluster.jsonPatches[0].from: found \"/name\"",
        ),
        (
            filter(
                json!({"operation": "AddFirst", "match": {"name": "envoy.filters.network.tcp_proxy"}, "value": "{}"}),
            ),
            "networkFilter.operation: found \"AddFirst\"; allowed: Patch",
        ),
        (
            filter(json!({"operation": "Patch", "value": "typed_config: {}"})),
            "networkFilter.match: found nothing",
        ),
        (
            filter(
                json!({"operation": "Patch", "match": {"origin": "inbound"}, "value": "typed_config: {}"}),
            ),
            "networkFilter.match.name: found nothing",
        ),
        (
            filter(
                json!({"operation": "Patch", "match": {"name": "envoy.filters.network.http_connection_manager"}, "value": "typed_config: {}"}),
            ),
            "networkFilter.match.name: found \"envoy.filters.network.http_connection_manager\"; allowed: envoy.filters.network.tcp_proxy",
        ),
        (
            filter(
                json!({"operation": "Patch", "match": {"name": "envoy.filters.network.tcp_proxy"}, "jsonPatches": [{"op": "replace", "path": "/cluster", "value": "a"}]}),
            ),
            "networkFilter.jsonPatches[0].path: found \"/cluster\"; allowed: a field that culvert has: /idleTimeout",
        ),
    ] {
        let problems = problems(&change);
        assert!(matches!(&problems[..], [one] if one.starts_with(expected)), "{change}: {problems:#?}");
    }
}

#[test]
fn one_mistake_hides_no_other() {
    let change = cluster(json!({"operation": "Patch", "match": {"origin": "x"}, "other": 1,
        "jsonPatches": [{"op": "replace", "path": "/name", "value": "a"}, {"op": "add", "path": "/connectTimeout", "value": 5}]}));
    assert_eq!(problems(&change).len(), 4, "{:#?}", problems(&change));
}

/// The cluster's limits and timeout after a JSON patch, in protobuf's JSON.
fn after(list: Value) -> Result<Value, PatchFailure> {
    let now = json!({"connectTimeout": "5s", "circuitBreakers": {"thresholds": [{"maxConnections": 1024, "maxRetries": 3}]}});
    let mut problems = Problems::default();
    let at = &mut At::root(&mut problems);
    let (now, patches) = (ClusterValue::read(&now, at).unwrap(), Vec::<JsonPatch>::read(&list, at).unwrap());
    Ok(json_patch::Patched::tree(&json_patch::patched(&patches, &now)?))
}

#[test]
fn a_json_patch_is_made_as_kumas_control_plane_makes_it() {
    let limits = |limits: Value| json!({"connectTimeout": "5s", "circuitBreakers": {"thresholds": [limits]}});
    for (list, expected) in [
        (
            json!([{"op": "replace", "path": "/connectTimeout", "value": "1m30s"}]),
            json!({"connectTimeout": "90s", "circuitBreakers": {"thresholds": [{"maxConnections": 1024, "maxRetries": 3}]}}),
        ),
        (
            json!([{"op": "remove", "path": "/connectTimeout"}, {"op": "remove", "path": "/connectTimeout"}, {"op": "remove", "path": "/circuitBreakers"}]),
            json!({}),
        ),
        (
            json!([{"op": "remove", "path": "/circuitBreakers"}, {"op": "add", "path": "/circuitBreakers/thresholds/0/maxRetries", "value": 7}]),
            limits(json!({"maxRetries": 7})),
        ),
        (
            json!([{"op": "remove", "path": "/circuitBreakers/thresholds/0"}, {"op": "add", "path": "/circuitBreakers/thresholds/0", "value": {"maxRetries": {"value": 8}}}]),
            limits(json!({"maxRetries": 8})),
        ),
        (
            json!([{"op": "copy", "from": "/circuitBreakers/thresholds/0/maxRetries", "path": "/circuitBreakers/thresholds/0/maxConnections"}]),
            limits(json!({"maxConnections": 3, "maxRetries": 3})),
        ),
        (
            json!([{"op": "move", "from": "/circuitBreakers/thresholds/0/maxRetries", "path": "/circuitBreakers/thresholds/0/maxConnections"}]),
            limits(json!({"maxConnections": 3})),
        ),
        (
            json!([{"op": "test", "path": "/connectTimeout", "value": "5s"}, {"op": "replace", "path": "/circuitBreakers/thresholds", "value": []}]),
            json!({"connectTimeout": "5s", "circuitBreakers": {"thresholds": []}}),
        ),
    ] {
        assert_eq!(after(list.clone()).unwrap(), expected, "{list}");
    }
}

#[test]
fn a_json_patch_that_cannot_be_made_names_its_operation() {
    for (list, index, found) in [
        (
            json!([{"op": "replace", "path": "/circuitBreakers/thresholds/0/maxRequests", "value": 1}]),
            0,
            "nothing at /circuitBreakers/thresholds/0/maxRequests",
        ),
        (
            json!([{"op": "remove", "path": "/connectTimeout"}, {"op": "test", "path": "/connectTimeout", "value": "5s"}]),
            1,
            "nothing at /connectTimeout",
        ),
        (json!([{"op": "test", "path": "/connectTimeout", "value": "6s"}]), 0, "\"5s\" at /connectTimeout"),
        (
            json!([{"op": "copy", "from": "/connectTimeout", "path": "/circuitBreakers"}]),
            0,
            "circuitBreakers as \"5s\" after it",
        ),
        (
            json!([{"op": "add", "path": "/circuitBreakers/thresholds/0", "value": {}}]),
            0,
            "circuitBreakers.thresholds as a list of 2 after it",
        ),
        (
            json!([{"op": "move", "from": "/circuitBreakers/thresholds", "path": "/circuitBreakers/thresholds/0"}]),
            0,
            "circuitBreakers.thresholds",
        ),
        (
            json!([{"op": "copy", "from": "/circuitBreakers", "path": "/circuitBreakers/thresholds/0/maxRetries"}]),
            0,
            "circuitBreakers.thresholds[0].maxRetries as a mapping after it",
        ),
    ] {
        let failure = after(list.clone()).unwrap_err();
        assert!(failure.index == index && failure.found.starts_with(found), "{list}: {failure:?}");
    }
}
