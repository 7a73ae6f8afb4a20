// SPDX-License-Identifier: Apache-2.0
//! Rules of requests: what documents of them come to.

use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::listener::http::{HttpPlan, HttpTimes, RequestRate};
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
        .rate
    };
    let rate = RatePlan { num: 5, interval: Duration::from_secs(10) };
    let answer = |status, fields: &[(&str, &str)]| {
        let fields = fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Some(RequestRate { rate, status, fields })
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
        assert_eq!(of(local), expected, "{local}");
    }
}
