// SPDX-License-Identifier: Apache-2.0
//! Rules of requests: what documents of them come to.

use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::listener::http::{Caller, Callers, HttpPlan, HttpTimes, RequestRate};
use crate::plan::listener::rate::RatePlan;
use crate::plan::{Plan, Serve};
use clap::Parser;
use std::time::Duration;

const PODS: &str = "---
{type: Dataplane, name: here, labels: {app: here}, networking: {address: 10.0.0.2, inbound: [
  {port: 80, name: web, protocol: http, tags: {kuma.io/service: here}}],
  outbound: [{port: 1000, tags: {kuma.io/service: backend}}]}}
---
{type: Dataplane, name: b, networking: {address: 10.0.0.3, inbound: [{port: 90, protocol: http, tags: {kuma.io/service: backend}}]}}
";

fn plan(documents: &str) -> Plan {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, &format!("{PODS}{documents}"), "m.yaml");
    assert!(loaded.errors.is_empty(), "{documents}: {:?}", loaded.errors);
    compile(&config, &loaded.found).unwrap_or_else(|errors| panic!("{documents}: {errors:?}"))
}

/// The rules of a listener of HTTP.
fn rules(plan: &Plan, name: &str) -> HttpPlan {
    let listener = plan.listeners.iter().find(|one| &*one.name == name).unwrap();
    assert_eq!(listener.serve, Serve::Http, "{name}");
    listener.http.as_deref().cloned().unwrap_or_default()
}

fn inbound(documents: &str) -> HttpPlan {
    rules(&plan(documents), "inbound:10.0.0.2:80")
}

fn outbound(documents: &str) -> HttpPlan {
    rules(&plan(documents), "outbound:127.0.0.1:1000")
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn without_documents_requests_have_no_rules() {
    let plan = plan("");
    assert!(plan.listeners.iter().all(|one| one.http.is_none()));
}

#[test]
fn times_are_merged_field_by_field() {
    let mesh = "---
{type: MeshTimeout, name: wide, spec: {to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 15s, streamIdleTimeout: 30m, maxStreamDuration: 0s}}}],
  from: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 0s, maxConnectionDuration: 1h, requestHeadersTimeout: 3s}}}]}}
---
{type: MeshTimeout, name: one, spec: {to: [{targetRef: {kind: MeshService, name: backend}, default: {connectionTimeout: 2s, http: {requestTimeout: 1s}}}]}}
";
    let out = HttpTimes { request: seconds(1), stream_idle: seconds(1800), ..HttpTimes::default() };
    let within = HttpTimes { connection: seconds(3600), headers: seconds(3), ..HttpTimes::default() };
    let of_times = |times| HttpPlan { times, ..HttpPlan::default() };
    assert_eq!((outbound(mesh), inbound(mesh)), (of_times(out), of_times(within)));
    let older = "---
{type: Timeout, name: t, sources: [{match: {kuma.io/service: '*'}}], destinations: [{match: {kuma.io/service: backend}}],
  conf: {http: {requestTimeout: 7s, idleTimeout: 9s, streamIdleTimeout: 8s, maxStreamDuration: 6s}}}
";
    let out = HttpTimes {
        request: seconds(7),
        stream_idle: seconds(8),
        stream: seconds(6),
        ..HttpTimes::default()
    };
    assert_eq!(outbound(older), of_times(out));
}

#[test]
fn a_rate_has_the_answer_that_its_policy_says() {
    let of = |local: &str| {
        inbound(&format!(
            "---\n{{type: MeshRateLimit, name: r, spec: {{from: [{{targetRef: {{kind: Mesh}}, default: {{local: {local}}}}}]}}}}\n"
        ))
        .rates
    };
    let rate = RatePlan { num: 5, interval: Duration::from_secs(10) };
    let answer = |status, fields: &[(&str, &str)]| {
        let fields = fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Some(RequestRate { by: "MeshRateLimit r".into(), rate, status, fields })
    };
    for (local, expected) in [
        ("{http: {requestRate: {num: 5, interval: 10s}}}", answer(429, &[])),
        ("{http: {disabled: true, requestRate: {num: 5, interval: 10s}}}", None),
        ("{tcp: {connectionRate: {num: 5, interval: 10s}}}", None),
        ("{http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 101}}}", answer(429, &[])),
        ("{http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 200}}}", answer(429, &[])),
        ("{http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 599}}}", answer(599, &[])),
        ("{http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 600}}}", answer(429, &[])),
        ("{http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 70000}}}", answer(429, &[])),
        (
            "{http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 423, headers: {set: [{name: x-a, value: b}], add: [{name: x-c, value: d}]}}}}",
            answer(423, &[("x-a", "b"), ("x-c", "d")]),
        ),
    ] {
        let rates = of(local);
        assert!(rates.iter().all(|one| one.from == Callers::everyone()), "{local}: {rates:?}");
        let rates: Vec<_> = rates.into_iter().map(|one| one.rate).collect();
        assert_eq!(rates, Vec::from_iter(expected), "{local}");
    }
}

/// A RateLimit.
fn limit(name: &str, sources: &str, destinations: &str, conf: &str) -> String {
    format!(
        "---\n{{type: RateLimit, name: {name}, sources: [{sources}], destinations: [{destinations}], conf: {{{conf}}}}}\n"
    )
}

const HERE: &str = "{match: {kuma.io/service: here}}";
const ALL: &str = "{match: {kuma.io/service: '*'}}";

/// Requests in 10 s.
fn http(requests: u32) -> String {
    format!("http: {{requests: {requests}, interval: 10s}}")
}

#[test]
fn a_caller_has_the_rate_of_the_source_with_most_tags_that_fits_it() {
    const CALLERS: &str = "---
{type: Dataplane, name: c1, networking: {address: 10.0.0.11, inbound: [{port: 1, tags: {kuma.io/service: web, version: '1'}}]}}
---
{type: Dataplane, name: c2, networking: {address: 10.0.0.12, inbound: [{port: 1, tags: {kuma.io/service: web}}]}}
---
{type: Dataplane, name: c3, networking: {address: 10.0.0.13, inbound: [{port: 1, tags: {kuma.io/service: ops}}]}}
";
    const WEB: &str = "{match: {kuma.io/service: web}}";
    const WEB_1: &str = "{match: {kuma.io/service: web, version: '1'}}";
    const WEB_ANY: &str = "{match: {kuma.io/service: web, version: '*'}}";
    let newer = "---\n{type: MeshRateLimit, name: n, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 99, interval: 10s}}}}}]}}\n";
    // The rates of web in version 1, web, ops, and a client that no document knows; 0 = no limit.
    for (name, documents, expected) in [
        ("of one", limit("a", WEB, HERE, &http(1)), [1, 1, 0, 0]),
        ("of all", limit("a", ALL, HERE, &http(1)), [1, 1, 1, 1]),
        ("another inbound's", limit("a", ALL, "{match: {kuma.io/service: backend}}", &http(1)), [0; 4]),
        (
            "of a port by its protocol",
            limit("a", ALL, "{match: {kuma.io/service: '*', kuma.io/protocol: http}}", &http(1)),
            [0; 4],
        ),
        (
            "the one with most tags",
            limit("a", ALL, HERE, &http(1))
                + &limit("b", WEB, HERE, &http(2))
                + &limit("c", WEB_1, ALL, &http(3)),
            [3, 2, 1, 1],
        ),
        (
            "tags with a value before others",
            limit("a", WEB_ANY, HERE, &http(1)) + &limit("b", WEB_1, HERE, &http(2)),
            [2, 0, 0, 0],
        ),
        (
            "a tag with any value",
            limit("a", WEB_ANY, HERE, &http(1)) + &limit("b", WEB, HERE, &http(2)),
            [1, 2, 0, 0],
        ),
        (
            "sources of one policy apart",
            limit("b", &format!("{ALL}, {WEB_1}"), HERE, &http(1)) + &limit("a", WEB, HERE, &http(2)),
            [1, 2, 1, 1],
        ),
        (
            "of even ones the first by name",
            limit("b", WEB, HERE, &http(1)) + &limit("a", WEB, ALL, &http(2)),
            [2, 2, 0, 0],
        ),
        ("beside a MeshRateLimit", limit("a", WEB, HERE, &http(1)) + newer, [1, 1, 0, 0]),
        ("without a rate", limit("a", WEB, HERE, "") + newer, [0; 4]),
        ("a MeshRateLimit alone", newer.to_owned(), [99; 4]),
    ] {
        let plan = inbound(&format!("{CALLERS}{documents}"));
        let rates = [11, 12, 13, 14].map(|last| {
            let caller = Caller { peer: None, names_services: true, address: [10, 0, 0, last].into() };
            plan.rate_of(caller).map_or(0, |place| plan.rates[place].rate.rate.num)
        });
        assert_eq!(rates, expected, "{name}");
    }
}

#[test]
fn a_rate_that_never_holds_is_none_of_the_plan() {
    let source = |service: &str| format!("{{match: {{kuma.io/service: {service}}}}}");
    let all = limit("a", &format!("{}, {ALL}", source("web")), HERE, &http(1))
        + &limit("b", &format!("{}, {ALL}", source("web")), HERE, &http(2))
        + &limit("c", "{match: {version: '*'}}", HERE, &http(3));
    let rates = inbound(&all).rates;
    assert_eq!(rates.len(), 2, "{rates:?}");
    assert!(rates.iter().all(|one| one.rate.rate.num == 1) && rates[1].from.is_everyone(), "{rates:?}");
}

#[test]
fn a_header_takes_the_place_of_others_unless_it_is_to_be_added() {
    let of = |answer: &str| {
        let conf = format!("http: {{requests: 1, interval: 1s, onRateLimit: {{{answer}}}}}");
        let RequestRate { status, fields, .. } = inbound(&limit("a", ALL, HERE, &conf)).rates.remove(0).rate;
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        (status, fields.join(", "))
    };
    for (answer, status, fields) in [
        ("", 429, ""),
        ("status: 423", 423, ""),
        ("status: 200", 429, ""),
        ("status: 600", 429, ""),
        ("headers: [{key: a, value: b}, {key: A, value: c}]", 429, "A: c"),
        ("headers: [{key: a, value: b}, {key: A, value: c, append: false}]", 429, "A: c"),
        ("headers: [{key: a, value: b}, {key: A, value: c, append: true}]", 429, "a: b, A: c"),
        ("status: 503, headers: [{key: a, value: b, append: true}, {key: c, value: d}]", 503, "a: b, c: d"),
    ] {
        assert_eq!(of(answer), (status, fields.into()), "{answer}");
    }
}

#[test]
fn a_ratelimit_puts_a_meshratelimits_rate_of_connections_out_of_force_too() {
    let newer = "---\n{type: MeshRateLimit, name: n, spec: {rules: [{default: {local: {tcp: {connectionRate: {num: 5, interval: 10s}}}}}]}}\n";
    for (documents, expected) in [
        (newer.to_owned(), Some(5)),
        (newer.to_owned() + &limit("a", "{match: {kuma.io/service: other}}", HERE, &http(1)), None),
        (newer.to_owned() + &limit("a", ALL, "{match: {kuma.io/service: other}}", &http(1)), Some(5)),
    ] {
        let plan = plan(&documents);
        let listener = plan.listeners.iter().find(|one| &*one.name == "inbound:10.0.0.2:80").unwrap();
        assert_eq!(listener.rate.map(|rate| rate.num), expected, "{documents}");
    }
}

#[test]
fn calls_of_servers_outside_of_the_mesh_have_no_rate_and_a_warning() {
    const OUTSIDE: &str = "---
{type: ExternalService, name: e, tags: {kuma.io/service: es, kuma.io/protocol: http}, networking: {address: '192.0.2.1:80'}}
";
    let es = "{match: {kuma.io/service: es}}";
    for (documents, is_told) in [
        (limit("a", ALL, es, &http(1)), true),
        (limit("a", HERE, ALL, &http(1)), true),
        (limit("a", "{match: {kuma.io/service: other}}", es, &http(1)), false),
        (limit("a", ALL, HERE, &http(1)), false),
        (limit("a", ALL, es, ""), false),
    ] {
        let lines = plan(&format!("{OUTSIDE}{documents}")).warnings;
        let told = lines
            .iter()
            .any(|one| one.starts_with("RateLimit a: calls of ExternalService es are not limited"));
        assert_eq!(told, is_told, "{documents}: {lines:?}");
    }
}
