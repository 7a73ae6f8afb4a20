// SPDX-License-Identifier: Apache-2.0
//! Counts of requests under Envoy's names, by what becomes of them.

use super::*;
use crate::cluster::registry::{Listener, Registry};
use crate::connection::carry::filters::{Setting, Told};
use crate::metrics::{ByMember, Counter, Histogram, Stats};
use crate::observe::requests::RequestBook;
use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use clap::Parser;
use culvert_http::{Exchange, Step};
use std::sync::Arc;

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
        lost_lines: Default::default(),
        rates: None,
        listener: Arc::clone(listener),
        cluster: listener.cluster.as_ref().map(|cluster| Arc::clone(&cluster.state)),
        peer: None,
        names_services: true,
        address: "10.0.0.3".parse().unwrap(),
        forbidden: false,
        metrics: Default::default(),
        told: Box::new(Told {
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
