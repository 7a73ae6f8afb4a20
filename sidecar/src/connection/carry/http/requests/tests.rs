// SPDX-License-Identifier: Apache-2.0
//! Counts of requests under Envoy's names, by what becomes of them; and what is told of those that failed.

use super::*;
use crate::cluster::registry::{Listener, Registry};
use crate::connection::carry::filters::{Setting, Told};
use crate::metrics::{ByMember, Counter, Histogram, Stats};
use crate::observe::requests::RequestBook;
use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use crate::relay::http::Local;
use clap::Parser;
use culvert_http::{Exchange, Step};
use std::sync::Arc;
use std::time::Duration;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The requests of a connection to an inbound with these policies.
fn requests(policies: &str) -> Requests {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let here = "{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 80, tags: {kuma.io/service: here, kuma.io/protocol: http}}]}}";
    let loaded = read_with_mesh(&config, &format!("{here}\n---\n{policies}"), "m.yaml");
    assert_eq!(loaded.errors, [], "{policies}");
    let running = Registry::default().open(compile(&config, &loaded.found).unwrap());
    let listener = running.listeners.iter().find(|one| one.plan.name.ends_with("10.0.0.2:80")).unwrap();
    let setting = Setting {
        logs: false,
        rates: None,
        listener: Arc::clone(listener),
        cluster: listener.cluster.as_ref().map(|cluster| Arc::clone(&cluster.state)),
        peer: None,
        names_services: true,
        address: "10.0.0.3".parse().unwrap(),
        forbidden: false,
        metrics: Default::default(),
        told: Box::new(Told {
            lost_lines: Default::default(),
            seconds: Histogram::new([1.0]),
            book: Arc::new(RequestBook::new(1)),
            peer: "web".into(),
            answers: ByMember::default().of("web"),
            because: None,
        }),
    };
    let setting = setting.with_rates(running.trial.as_deref(), &Counter::default());
    Requests::new(Filters::new(setting), &[])
}

/// Lets a request be decided.
fn ask(requests: &mut Requests) -> Decision {
    let mut exchange = Exchange::default();
    let Step::Head(head) = exchange.client(GET) else { panic!("a whole head") };
    requests.request(&head)
}

/// Lets a response to it begin.
fn answer(requests: &mut Requests, status: u16) {
    let mut exchange = Exchange::default();
    let Step::Head(head) = exchange.client(GET) else { panic!("a whole head") };
    exchange.admit_request(&head);
    let response = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
    let Step::Head(head) = exchange.server(response.as_bytes()) else { panic!("{status}: a whole head") };
    requests.response(&head);
}

/// Statistics that are not 0: of the listener, and of its cluster.
fn counted(listener: &Listener) -> String {
    let mut stats = Stats::default();
    stats.read(&listener.metrics, &[("http", "h"), ("requests", "down"), ("rate", "r")]);
    if let Some(cluster) = &listener.cluster {
        cluster.state.metrics.view(|metrics| stats.read(&metrics.http, &[("requests", "up")]));
    }
    let all = stats.iter().filter(|(_, value)| *value != 0).map(|(name, value)| format!("{name}={value}"));
    all.collect::<Vec<_>>().join(" ")
}

const ABORT: &str = "{type: MeshFaultInjection, name: f, spec: {from: [{targetRef: {kind: Mesh}, default: {http: [{abort: {httpStatus: 503, percentage: 100}}]}}]}}";
const DELAY: &str = "{type: MeshFaultInjection, name: f, spec: {from: [{targetRef: {kind: Mesh}, default: {http: [{delay: {value: 1s, percentage: 100}, responseBandwidth: {limit: 1kbps, percentage: 100}}]}}]}}";
const RATE: &str = "{type: MeshRateLimit, name: r, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 1, interval: 1h}}}}}]}}";
const ON_TRIAL: &str = "{type: MeshRateLimit, name: r, labels: {kuma.io/effect: shadow}, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 1, interval: 1h}}}}}]}}";
const BREAKER: &str = "{type: MeshCircuitBreaker, name: b, spec: {from: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxRequests: 1}}}]}}";

#[test]
fn each_fate_of_a_request_is_counted_for_its_listener_and_its_cluster() {
    type Play = fn(&mut Requests);
    let plain: Play = |all| {
        assert!(matches!(ask(all), Decision::Pass));
        answer(all, 103);
        answer(all, 204);
    };
    let twice: Play = |all| {
        assert!(matches!(ask(all), Decision::Pass));
        assert!(matches!(ask(all), Decision::Answer(_)));
    };
    let ask_once: Play = |all| drop(ask(all));
    let delayed: Play = |all| {
        assert!(matches!(ask(all), Decision::Wait(_)));
        assert!(matches!(ask(all), Decision::Pass));
    };
    for (name, policies, play, open, over) in [
        (
            "an answer",
            "",
            plain,
            "down_2xx=1 down_active=1 down_completed=1 down_total=1 up_2xx=1 up_active=1 up_completed=1 up_total=1",
            "down_2xx=1 down_completed=1 down_total=1 up_2xx=1 up_completed=1 up_total=1",
        ),
        (
            "an abort",
            ABORT,
            ask_once,
            "down_5xx=1 down_active=1 down_completed=1 down_total=1 h.fault.aborts_injected=1 h.fault.active_faults=1",
            "down_5xx=1 down_completed=1 down_total=1 h.fault.aborts_injected=1",
        ),
        (
            "a delay that lasts",
            DELAY,
            ask_once,
            "down_active=1 down_total=1 h.fault.active_faults=1 h.fault.delays_injected=1",
            "down_total=1 h.fault.delays_injected=1",
        ),
        (
            "a delay, and a bandwidth",
            DELAY,
            delayed,
            "down_active=1 down_total=1 h.fault.active_faults=1 h.fault.delays_injected=1 h.fault.response_rl_injected=1 up_active=1 up_total=1",
            "down_total=1 h.fault.delays_injected=1 h.fault.response_rl_injected=1 up_total=1",
        ),
        (
            "a rate",
            RATE,
            twice,
            "down_4xx=1 down_active=2 down_completed=1 down_total=2 r.http_local_rate_limit.enabled=2 r.http_local_rate_limit.enforced=1 \
             r.http_local_rate_limit.ok=1 r.http_local_rate_limit.rate_limited=1 up_active=1 up_total=1",
            "down_4xx=1 down_completed=1 down_total=2 r.http_local_rate_limit.enabled=2 r.http_local_rate_limit.enforced=1 \
             r.http_local_rate_limit.ok=1 r.http_local_rate_limit.rate_limited=1 up_total=1",
        ),
        (
            "a rate on trial",
            ON_TRIAL,
            |all| {
                let (bucket, above) = all.filters.setting.rates.as_ref().unwrap().tried.as_ref().unwrap();
                let (bucket, above) = (Arc::clone(bucket), above.clone());
                for counted in 0..3 {
                    assert_eq!(above.get(), u64::saturating_sub(counted, 1), "requests above it");
                    assert!(matches!(ask(all), Decision::Pass));
                }
                assert!(above.get() == 2 && !bucket.take());
            },
            "down_active=3 down_total=3 up_active=3 up_total=3",
            "down_total=3 up_total=3",
        ),
        (
            "too many at once",
            BREAKER,
            twice,
            "down_5xx=1 down_active=2 down_completed=1 down_total=2 up_5xx=1 up_active=1 up_active_overflow=1 up_completed=1 up_total=1",
            "down_5xx=1 down_completed=1 down_total=2 up_5xx=1 up_active_overflow=1 up_completed=1 up_total=1",
        ),
    ] {
        let mut all = requests(policies);
        let listener = Arc::clone(&all.filters.setting.listener);
        play(&mut all);
        let expected = |counts: &str| counts.replace("h.fault", "http.h.fault");
        assert_eq!(counted(&listener), expected(open), "{name}");
        drop(all);
        assert_eq!(counted(&listener), expected(over), "{name}, once it is over");
    }
}

#[test]
fn what_ends_a_connection_counts_where_envoy_counts_it() {
    for (rule, status, is_under_way, expected) in [
        (Refusal::BareLf, Some(400), false, "down_4xx=1 down_completed=1 down_total=1"),
        (
            Refusal::HeaderTimeout,
            Some(408),
            false,
            "down_4xx=1 down_completed=1 down_total=1 http.h.downstream_rq_header_timeout=1",
        ),
        (Refusal::CutHead, None, false, ""),
        (
            Refusal::RequestTimeout,
            Some(504),
            true,
            "down_5xx=1 down_completed=1 down_total=1 up_5xx=1 up_completed=1 up_timeout=1 up_total=1",
        ),
        (
            Refusal::StreamIdle,
            Some(504),
            true,
            "down_5xx=1 down_completed=1 down_total=1 http.h.downstream_rq_idle_timeout=1 up_total=1",
        ),
        (
            Refusal::StreamTimeout,
            None,
            true,
            "down_total=1 http.h.downstream_rq_max_duration_reached=1 up_total=1",
        ),
        (
            Refusal::Unreachable,
            Some(503),
            true,
            "down_5xx=1 down_completed=1 down_total=1 up_5xx=1 up_completed=1 up_total=1",
        ),
    ] {
        let mut all = requests("");
        let listener = Arc::clone(&all.filters.setting.listener);
        if is_under_way {
            assert!(matches!(ask(&mut all), Decision::Pass));
        }
        all.refused(rule, status);
        drop(all);
        assert_eq!(counted(&listener), expected, "{rule:?}");
    }
}

const POLICIES: &str = "{type: MeshTimeout, name: t, spec: {from: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 5s, streamIdleTimeout: 7s, maxStreamDuration: 9s, requestHeadersTimeout: 300ms}}}]}}
---
{type: MeshFaultInjection, name: f, spec: {from: [{targetRef: {kind: Mesh}, default: {http: [{delay: {value: 1s, percentage: 0}}, {abort: {httpStatus: 503, percentage: 100}}]}}]}}
---
{type: MeshRateLimit, name: r, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 3, interval: 60s}}}}}]}}
---
{type: MeshCircuitBreaker, name: b, spec: {from: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxRequests: 8}}}]}}";

#[test]
fn a_rule_that_answered_is_told_with_its_document_and_its_number() {
    let all = requests(POLICIES);
    for (by, fault, why) in [
        (Local::Permission, None, "no MeshTrafficPermission lets the caller in"),
        (Local::Fault, Some(1), "MeshFaultInjection f aborted it"),
        (Local::Fault, None, "a fault aborted it"),
        (Local::Rate, None, "it was above the rate of requests, 3 in 60s, of MeshRateLimit r"),
        (Local::Breaker, None, "maxRequests of the circuit breaker, 8, were under way"),
    ] {
        assert_eq!(all.filters.setting.why_answered(by, fault), why, "{by:?}");
    }
}

#[test]
fn a_limit_of_time_and_a_broken_rule_are_told_in_words() {
    let all = requests(POLICIES);
    for (rule, why) in [
        (Refusal::RequestTimeout, "the answer was not whole within requestTimeout, 5s"),
        (Refusal::StreamIdle, "no byte moved for streamIdleTimeout, 7s"),
        (Refusal::StreamTimeout, "it took longer than maxStreamDuration, 9s"),
        (Refusal::HeaderTimeout, "its head was not whole within requestHeadersTimeout, 300ms"),
        (Refusal::NoAnswer, "the application closed the connection before it answered"),
        (Refusal::CutBody, "the application closed the connection within its answer"),
        (Refusal::NoEndpoint, "no endpoint of the service is known"),
        (Refusal::NoHost, "it broke a rule of HTTP, no_host: the request has no Host field"),
        (
            Refusal::StatusCode,
            "the answer of the application broke a rule of HTTP, status_code: the status code is below 100",
        ),
    ] {
        assert_eq!(all.filters.setting.why_refused(rule), why);
    }
    for rule in Refusal::ALL {
        assert!(all.filters.setting.why_refused(*rule).len() > 10, "{rule:?}");
    }
}

#[test]
fn the_end_of_a_connection_is_told_of_its_requests() {
    let all = requests("");
    for (reason, is_answered, why) in [
        (CloseReason::ClientReset, false, "the client went away before the answer"),
        (CloseReason::Ok, true, "the client went away within the answer"),
        (CloseReason::ServerReset, true, "the application reset the connection within the answer"),
        (CloseReason::DrainTimeout, false, "the sidecar stopped before the answer"),
        (
            CloseReason::IdleTimeout,
            false,
            "its connection was ended because it moved no byte for the idle timeout",
        ),
    ] {
        assert_eq!(all.filters.setting.why_abandoned(reason, is_answered), why, "{reason}");
    }
}

#[test]
fn a_request_that_failed_is_told_with_its_words() {
    let all = requests("");
    for (target, status, why) in [
        ("/a?b=c", 503, Some("the application answered 503")),
        ("http://shop/a?b=c", 502, Some("the application answered 502")),
        ("http://shop", 404, None),
    ] {
        let mut exchange = Exchange::default();
        let request = format!("GET {target} HTTP/1.1\r\nHost: shop\r\n\r\n");
        let Step::Head(head) = exchange.client(request.as_bytes()) else { panic!("{target}: a whole head") };
        let mut noted = note(&head);
        noted.status = status;
        all.filters.setting.tell(noted, Duration::from_millis(1));
        let read = all.filters.setting.told.book.read();
        let told = read.failed.first().filter(|one| one.status == status);
        assert_eq!(told.map(|one| &*one.why), why, "{target}");
        if let Some(told) = told {
            assert_eq!((&*told.authority, &*told.path, &*told.peer), ("shop", "/a", "web"), "{target}");
        }
    }
    let paths: std::collections::BTreeSet<_> =
        all.filters.setting.told.book.read().routes.into_iter().map(|route| route.path).collect();
    assert_eq!(paths.into_iter().collect::<Vec<_>>(), ["/", "/a"]);
}
