// SPDX-License-Identifier: Apache-2.0
//! The rules of requests stand in the report, with their values, their documents, and what lost.

use super::tests::{read, report};
use crate::plan::Plan;
use crate::plan::compile::{compile, explained};
use crate::plan::decisions::words;
use crate::plan::listener::http::HttpPlan;

const PODS: &str = "
{type: Mesh, name: default}
---
{type: Dataplane, name: here, labels: {app: here}, networking: {address: 10.0.0.2, inbound: [{port: 80, tags: {kuma.io/service: here, kuma.io/protocol: http}},
  {port: 81, tags: {kuma.io/service: here}}], outbound: [{port: 1000, tags: {kuma.io/service: backend}}]}}
---
{type: Dataplane, name: b, networking: {address: 10.0.0.3, inbound: [{port: 90, tags: {kuma.io/service: backend, kuma.io/protocol: http}}]}}
";

const POLICIES: &str = "---
{type: MeshTimeout, name: wide, spec: {to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 15s, streamIdleTimeout: 30m}}}],
  from: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 0s, streamIdleTimeout: 1h, maxStreamDuration: 2h, maxConnectionDuration: 3h, requestHeadersTimeout: 4s}}}]}}
---
{type: MeshTimeout, name: narrow, spec: {targetRef: {kind: Dataplane, labels: {app: here}}, to: [{targetRef: {kind: MeshService, name: backend}, default: {http: {requestTimeout: 1s}}}]}}
---
{type: MeshRateLimit, name: wide, spec: {rules: [{default: {local: {http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 423, headers: {add: [{name: x-a, value: b}]}}}}}}]}}
---
{type: MeshRateLimit, name: narrow, spec: {targetRef: {kind: Dataplane, labels: {app: here}}, rules: [{default: {local: {http: {requestRate: {num: 7, interval: 1s}}}}}]}}
---
{type: MeshFaultInjection, name: wide, spec: {from: [{targetRef: {kind: Mesh}, default: {http: [{abort: {httpStatus: 503, percentage: 12}}]}},
  {targetRef: {kind: MeshSubset, tags: {kuma.io/service: web}}, default: {http: []}}]}}
---
{type: MeshFaultInjection, name: narrow, spec: {targetRef: {kind: Dataplane, labels: {app: here}}, from: [{targetRef: {kind: MeshSubset, tags: {kuma.io/service: web}},
  default: {http: [{delay: {value: 5s, percentage: '0.5'}, responseBandwidth: {limit: 50Mbps, percentage: 50}}, {abort: {httpStatus: 418, percentage: 1}}]}}]}}
---
{type: MeshFaultInjection, name: ids, spec: {rules: [{default: {http: [{abort: {httpStatus: 500, percentage: 1}}]}},
  {matches: [{spiffeID: {type: Exact, value: 'spiffe://default/web'}}, {spiffeID: {type: Prefix, value: 'spiffe://default/ops'}}], default: {http: [{delay: {value: 1s, percentage: 100}}]}}]}}
";

const ON_TRIAL: &str = "---
{type: MeshFaultInjection, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, from: [{targetRef: {kind: Mesh}, default: {http: [{abort: {httpStatus: 502, percentage: 100}}]}}]}}
---
{type: MeshRateLimit, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, rules: [{default: {local: {http: {requestRate: {num: 1, interval: 1s}}}}}]}}
---
{type: MeshTimeout, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, rules: [{default: {http: {requestTimeout: 2s}}}]}}
";

const OLDER: &str = "---
{type: FaultInjection, name: old, sources: [{match: {kuma.io/service: web}}, {match: {kuma.io/service: ops, version: '1'}}],
  destinations: [{match: {kuma.io/service: here, kuma.io/protocol: http}}], conf: {delay: {value: 2s, percentage: 10}}}
";

const INBOUND: &str = "listener inbound:10.0.0.2:80";

/// What is told of the rules of requests to a listener: field, value, document, and the values that lost.
fn told(plan: &Plan, subject: &str) -> Vec<String> {
    let of_requests = |field: &str| {
        ["request", "stream", "max connection duration", "faults"].iter().any(|word| field.contains(word))
    };
    let all = plan.decisions.list().iter().filter(|one| one.subject == subject && of_requests(&one.field));
    all.map(|one| {
        let lost: Vec<_> = one.lost.iter().map(|lost| lost.value.as_str()).collect();
        let name = one.holds.by.split(" (").next().unwrap_or_default();
        let lost = if lost.is_empty() { String::new() } else { format!(", not {}", lost.join(", not ")) };
        format!("{}: {} by {name}{lost}", one.field, one.holds.value)
    })
    .collect()
}

fn plan(policies: &str, on_trial: bool) -> Plan {
    let (config, loaded) = read(&[], &format!("{PODS}{policies}"));
    explained(&config, &loaded.found, on_trial).unwrap_or_else(|errors| panic!("{policies}: {errors:?}"))
}

#[test]
fn each_rule_of_requests_has_its_document_and_what_lost() {
    let plan = plan(POLICIES, false);
    assert_eq!(
        told(&plan, INBOUND),
        [
            "request timeout: none by MeshTimeout wide, not none",
            "stream idle timeout: 3600s by MeshTimeout wide, not none",
            "request headers timeout: 4s by MeshTimeout wide, not none",
            "max stream duration: 7200s by MeshTimeout wide, not none",
            "max connection duration: 10800s by MeshTimeout wide, not none",
            "rate of requests: 7 in 1s by MeshRateLimit narrow, not 5 in 10s, not no limit",
            "answer above the rate of requests: 423, x-a: b by MeshRateLimit wide, not 429",
            "faults of kuma.io/service=web: 5s late for 0.5 %, 50000 KiB/s for 50 %; answer 418 for 1 % by MeshFaultInjection narrow, \
             not none, not answer 503 for 12 %",
            "faults: answer 503 for 12 % by MeshFaultInjection wide",
            "faults of spiffe://default/web: 1s late for 100 % by MeshFaultInjection ids",
            "faults of spiffe://default/ops…: 1s late for 100 % by MeshFaultInjection ids",
            "faults: answer 500 for 1 % by MeshFaultInjection ids",
        ]
    );
    let outbound = told(&plan, "listener outbound:127.0.0.1:1000");
    assert_eq!(
        outbound.first().map(String::as_str),
        Some("request timeout: 1s by MeshTimeout narrow, not 15s, not none")
    );
    assert_eq!(outbound.len(), 5, "{outbound:?}");
    assert_eq!(told(&plan, "listener inbound:10.0.0.2:81"), [""; 0], "it is none of HTTP");
}

#[test]
fn an_older_fault_puts_the_newer_ones_out_of_force() {
    let plan = plan(&format!("{POLICIES}{OLDER}"), false);
    let faults: Vec<_> = told(&plan, INBOUND).into_iter().filter(|line| line.starts_with("faults")).collect();
    assert_eq!(
        faults[0],
        "faults of kuma.io/service=web or kuma.io/service=ops version=1: 2s late for 10 % by FaultInjection old"
    );
    let rest = &faults[1..];
    assert!(
        rest.len() == 4
            && rest.iter().all(|line| line.contains(" of newer policies: none by FaultInjection old, not ")),
        "{rest:?}"
    );
}

/// Rates of some callers' requests, and of all.
const RATES: &str = "---
{type: RateLimit, name: all, sources: [{match: {kuma.io/service: '*'}}], destinations: [{match: {kuma.io/service: here}}], conf: {http: {requests: 9, interval: 10s}}}
---
{type: RateLimit, name: web, sources: [{match: {kuma.io/service: '*'}}, {match: {kuma.io/service: web}}], destinations: [{match: {kuma.io/service: '*'}}],
  conf: {http: {requests: 3, interval: 10s, onRateLimit: {status: 423, headers: [{key: x-a, value: b}]}}}}
";

#[test]
fn rates_of_callers_have_their_documents_and_newer_ones_are_out_of_force() {
    let of_rates = |policies: &str, subject: &str| {
        let lines = told(&plan(policies, false), subject).into_iter();
        lines.filter(|line| line.contains("rate of ")).collect::<Vec<_>>()
    };
    let lost = "rate of requests of newer policies: none by RateLimit all, not 7 in 1s, not 5 in 10s";
    assert_eq!(
        of_rates(&format!("{POLICIES}{RATES}"), INBOUND),
        [
            "rate of requests of kuma.io/service=web: 3 in 10s by RateLimit web, not 9 in 10s, not 3 in 10s",
            "answer above the rate of requests of kuma.io/service=web: 423, x-a: b by RateLimit web, not 429, not 423, x-a: b",
            "rate of requests: 9 in 10s by RateLimit all, not 3 in 10s",
            "answer above the rate of requests: 429 by RateLimit all, not 423, x-a: b",
            lost,
        ]
    );
    const CONNECTIONS: &str = "---
{type: MeshRateLimit, name: n, spec: {rules: [{default: {local: {tcp: {connectionRate: {num: 5, interval: 10s}}}}}]}}
";
    let all = plan(&format!("{CONNECTIONS}{RATES}"), false);
    for name in ["inbound:10.0.0.2:80", "inbound:10.0.0.2:81"] {
        let subject = format!("listener {name}");
        let mut found = all.decisions.list().iter();
        let found = found.find(|one| one.subject == subject && one.field == "rate of connections");
        let found = found.expect("it would have one");
        assert_eq!((found.holds.value.as_str(), found.lost.len()), ("no limit", 1), "{found:?}");
        assert!(found.holds.by.starts_with("RateLimit all"), "{found:?}");
    }
}

#[test]
fn what_is_told_is_what_the_plan_has() {
    let plan = plan(POLICIES, false);
    for listener in plan.listeners.iter().filter(|one| one.serve.is_http()) {
        let subject = format!("listener {}", listener.name);
        let of = |field: &str| {
            let found = plan.decisions.list().iter().find(|one| one.subject == subject && one.field == field);
            found.map(|one| one.holds.value.clone())
        };
        let HttpPlan { faults, rates, times } = listener.http.as_deref().cloned().unwrap_or_default();
        for (field, time) in [
            ("request timeout", times.request),
            ("stream idle timeout", times.stream_idle),
            ("request headers timeout", times.headers),
            ("max stream duration", times.stream),
            ("max connection duration", times.connection),
        ] {
            assert_eq!(of(field), Some(words(time)), "{subject} {field}");
        }
        let rate = rates.iter().find(|one| one.from.is_everyone());
        assert_eq!(of("rate of requests"), rate.map(|one| one.rate.rate.to_string()), "{subject}");
        let told = plan.decisions.list().iter();
        let told = told.filter(|one| one.subject == subject && one.field.starts_with("faults")).count();
        let callers: std::collections::HashSet<_> =
            faults.first.iter().map(|set| format!("{:?}", set.from.who)).collect();
        assert_eq!(told, callers.len() + faults.each.len(), "{subject}");
    }
}

#[test]
fn policies_on_trial_change_no_request_and_the_report_says_what_they_would() {
    let (config, loaded) = read(&[], &format!("{PODS}{ON_TRIAL}"));
    let plan = compile(&config, &loaded.found).unwrap();
    assert!(plan.listeners.iter().all(|one| one.http.is_none()), "nothing of it is in force");
    let trial = plan.trial.expect("requests above the rate are counted");
    let counted: Vec<_> = trial.requests.keys().map(|name| &**name).collect();
    assert_eq!((counted, trial.rates.len()), (vec!["inbound:10.0.0.2:80"], 0));
    let text = report(&format!("{PODS}{POLICIES}{ON_TRIAL}")).to_string();
    insta::assert_snapshot!(text.split_once("on trial").expect("a part about the trial").1);
}
