// SPDX-License-Identifier: Apache-2.0
//! Health checks and rates: what documents of them come to, and those that Kuma's control plane refuses.

use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::health::{CheckPlan, HealthPlan};
use crate::plan::{ClusterPlan, ListenerPlan, Plan};
use clap::Parser;
use std::time::Duration;

const PODS: &str = "---
{type: Dataplane, name: here, labels: {app: here}, networking: {address: 10.0.0.2, inbound: [
  {port: 80, name: web, tags: {kuma.io/service: here}, serviceProbe: {tcp: {}}},
  {port: 81, name: admin, tags: {kuma.io/service: here, kuma.io/protocol: http}}],
  outbound: [{port: 1000, tags: {kuma.io/service: backend}}, {port: 1001, tags: {kuma.io/service: redis}}]}}
---
{type: Dataplane, name: b, networking: {address: 10.0.0.3, inbound: [{port: 90, tags: {kuma.io/service: backend}, serviceProbe: {tcp: {}}}]}}
";

fn read(documents: &str) -> Result<Plan, Vec<String>> {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, &format!("{PODS}{documents}"), "m.yaml");
    if !loaded.errors.is_empty() {
        return Err(loaded.errors.iter().map(ToString::to_string).collect());
    }
    compile(&config, &loaded.found).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn plan(documents: &str) -> Plan {
    read(documents).unwrap_or_else(|errors| panic!("{documents}: {errors:#?}"))
}

fn listener<'p>(plan: &'p Plan, name: &str) -> &'p ListenerPlan {
    plan.listeners.iter().find(|one| &*one.name == name).unwrap()
}

fn cluster<'p>(plan: &'p Plan, name: &str) -> &'p ClusterPlan {
    plan.cluster_named(name).unwrap()
}

/// A MeshHealthCheck of the pod's calls to `backend`.
fn checks(name: &str, target: &str, conf: &str) -> String {
    format!(
        "---\n{{type: MeshHealthCheck, name: {name}, spec: {{targetRef: {{{target}}}, to: [{{targetRef: {{kind: MeshService, name: backend}}, default: {{{conf}}}}}]}}}}\n"
    )
}

const ALL: &str = "kind: Mesh";
const HERE: &str = "kind: Dataplane, labels: {app: here}";

fn health(documents: &str) -> Option<HealthPlan> {
    let plan = plan(documents);
    assert_eq!(cluster(&plan, "redis").health, None, "another service");
    cluster(&plan, "backend").health.as_deref().cloned()
}

fn check(documents: &str) -> CheckPlan {
    let health = health(documents).unwrap_or_else(|| panic!("no checks: {documents}"));
    (*health.check.unwrap()).clone()
}

#[test]
fn a_check_by_tcp_has_kumas_numbers_where_nothing_else_is_said() {
    assert_eq!(health(""), None);
    assert_eq!(check(&checks("h", ALL, "tcp: {}")), CheckPlan::default());
    let health = health(&checks("h", ALL, "tcp: {}")).unwrap();
    assert_eq!((health.panic_threshold, health.fail_on_panic), (50_000, false));
    let all = "interval: 10s, unhealthyInterval: 3s, timeout: 2s, unhealthyThreshold: 3, healthyThreshold: 2, initialJitter: 5s, \
               intervalJitter: 6s, intervalJitterPercent: 10, healthyPanicThreshold: 61, failTrafficOnPanic: true, \
               noTrafficInterval: 1s, alwaysLogHealthCheckFailures: true, reuseConnection: false, tcp: {send: foo, receive: [ba, z]}";
    let seconds = Duration::from_secs;
    let expected = CheckPlan {
        interval: seconds(10),
        unhealthy_interval: seconds(3),
        no_traffic_interval: seconds(1),
        timeout: seconds(2),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
        initial_jitter: seconds(5),
        interval_jitter: seconds(6),
        interval_jitter_percent: 10,
        send: b"foo".to_vec(),
        receive: vec![b"ba".to_vec(), b"z".to_vec()],
        reuse_connection: false,
        log_failures: true,
    };
    assert_eq!(check(&checks("h", ALL, all)), expected);
    let health = self::health(&checks("h", ALL, all)).unwrap();
    assert_eq!((health.panic_threshold, health.fail_on_panic), (61_000, true));
}

#[test]
fn checks_by_http_and_grpc_are_none_of_a_cluster_of_tcp() {
    for (conf, checked) in [
        ("http: {path: /health, expectedStatuses: [200]}", false),
        ("grpc: {serviceName: a}", false),
        ("tcp: {disabled: true}, http: {}", false),
        ("tcp: {}, http: {disabled: true}", true),
        ("tcp: {disabled: false}, http: {}, grpc: {}", true),
    ] {
        let health = health(&checks("h", ALL, conf));
        assert_eq!(health.is_some_and(|health| health.check.is_some()), checked, "{conf}");
    }
    let warnings = |conf: &str| {
        let plan = plan(&checks("h", ALL, conf));
        plan.warnings.iter().filter(|line| line.contains("passed over")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("http: {}, grpc: {}, eventLogPath: /tmp/health.log"),
        [
            "MeshHealthCheck h: passed over, as the sidecar does nothing by it: eventLogPath (events are in the sidecar's log), grpc, http"
        ]
    );
    assert_eq!(warnings("tcp: {}, http: {disabled: true}"), [""; 0]);
}

#[test]
fn policies_are_merged_field_by_field_and_may_turn_checks_off() {
    let both = checks("a", ALL, "interval: 9s, timeout: 3s, tcp: {send: foo, receive: [a]}")
        + &checks("b", HERE, "interval: 5s, tcp: {receive: [baz]}");
    let merged = check(&both);
    assert_eq!((merged.interval.as_secs(), merged.timeout.as_secs()), (5, 3));
    assert_eq!((merged.send, merged.receive), (b"foo".to_vec(), vec![b"baz".to_vec()]));
    assert_eq!(health(&(checks("a", ALL, "tcp: {}") + &checks("b", HERE, "tcp: {disabled: true}"))), None);
    assert!(health(&checks("a", "kind: MeshService, name: web", "tcp: {}")).is_none(), "another pod's");
}

#[test]
fn the_panic_threshold_is_one_for_checks_and_ejections_and_the_circuit_breakers_counts_first() {
    let breaker = |more: &str| {
        format!(
            "---\n{{type: MeshCircuitBreaker, name: c, spec: {{to: [{{targetRef: {{kind: Mesh}}, default: {{outlierDetection: {{{more} detectors: {{totalFailures: {{consecutive: 3}}}}}}}}}}]}}}}\n"
        )
    };
    for (checks_say, breaker_says, thresholds) in [
        ("", "", (50_000, 50_000)),
        ("healthyPanicThreshold: 61,", "", (61_000, 61_000)),
        ("healthyPanicThreshold: 61,", "healthyPanicThreshold: 30,", (30_000, 30_000)),
        ("healthyPanicThreshold: 61,", "healthyPanicThreshold: 0,", (0, 0)),
        ("healthyPanicThreshold: '12.5',", "", (12_500, 12_500)),
    ] {
        let documents = checks("h", ALL, &format!("{checks_say} tcp: {{}}")) + &breaker(breaker_says);
        let plan = plan(&documents);
        let backend = cluster(&plan, "backend");
        let found =
            (backend.health.as_ref().unwrap().panic_threshold, backend.outlier.unwrap().panic_threshold);
        assert_eq!(found, thresholds, "{checks_say} {breaker_says}");
    }
    // culvert's own ejection orders endpoints, and does not take part.
    let plan = plan(&checks("h", ALL, "healthyPanicThreshold: 61, tcp: {}"));
    assert_eq!(cluster(&plan, "backend").outlier.unwrap().panic_threshold, 0);
}

/// A HealthCheck of calls to `backend`.
fn older(conf: &str) -> String {
    let numbers = "interval: 10s, timeout: 2s, unhealthyThreshold: 3, healthyThreshold: 1";
    format!(
        "---\n{{type: HealthCheck, name: o, sources: [{{match: {{kuma.io/service: here}}}}], destinations: [{{match: {{kuma.io/service: backend}}}}], conf: {{{numbers}, {conf}}}}}\n"
    )
}

#[test]
fn the_ancestor_has_its_bytes_in_base64_and_stands_below_the_newer_kind() {
    let plain = check(&older("noTrafficInterval: 10s"));
    assert_eq!((plain.interval.as_secs(), plain.unhealthy_threshold), (10, 3));
    assert_eq!((plain.send.len(), plain.receive.len()), (0, 0), "a connect");
    let bytes = check(&older("tcp: {send: Zm9v, receive: [YmFy, YmF6]}"));
    assert_eq!((bytes.send, bytes.receive), (b"foo".to_vec(), vec![b"bar".to_vec(), b"baz".to_vec()]));
    assert_eq!(health(&older("http: {path: /health}")), None);
    let both = check(&(older("tcp: {}") + &checks("h", ALL, "interval: 7s, tcp: {}")));
    assert_eq!((both.interval.as_secs(), both.timeout.as_secs()), (7, 2));
    assert_eq!(health(&older("").replace("kuma.io/service: here", "kuma.io/service: web")), None);
}

#[test]
fn a_service_probe_is_of_this_pods_application() {
    let documents = plan("");
    let probe = cluster(&documents, "localhost:80").health.as_ref().unwrap().check.clone().unwrap();
    assert_eq!((probe.interval.as_secs(), probe.timeout.as_secs()), (1, 2));
    assert_eq!((probe.unhealthy_threshold, probe.healthy_threshold), (1, 1));
    assert_eq!(cluster(&documents, "localhost:81").health, None);
    assert_eq!(cluster(&documents, "backend").health, None, "another pod's is its own sidecar's");
}

fn rate(documents: &str) -> [Option<(u32, u64)>; 2] {
    let plan = plan(documents);
    ["inbound:10.0.0.2:80", "inbound:10.0.0.2:81"].map(|name| {
        let rate = listener(&plan, name).rate?;
        Some((rate.num, rate.interval.as_secs()))
    })
}

fn limit(name: &str, target: &str, rest: &str) -> String {
    format!("---\n{{type: MeshRateLimit, name: {name}, spec: {{targetRef: {{{target}}}, {rest}}}}}\n")
}

fn tcp(conf: &str) -> String {
    format!("{{default: {{local: {{tcp: {{{conf}}}}}}}}}")
}

#[test]
fn a_rate_is_that_of_the_deciding_policy_about_the_inbound() {
    let five = tcp("connectionRate: {num: 5, interval: 10s}");
    let from = "from: [{targetRef: {kind: Mesh}, default: {local: {tcp: {connectionRate: {num: 7, interval: 2s}}}}}]";
    let seven = Some((7, 2));
    let both = |one| [one, one];
    for (name, documents, expected) in [
        ("none", String::new(), both(None)),
        ("rules", limit("a", ALL, &format!("rules: [{five}]")), both(Some((5, 10)))),
        ("from", limit("a", ALL, from), both(seven)),
        ("another pod", limit("a", "kind: MeshService, name: backend", from), both(None)),
        (
            "one inbound",
            limit("a", "kind: Dataplane, name: here, sectionName: admin", &format!("rules: [{five}]")),
            [None, Some((5, 10))],
        ),
        (
            "the more specific one",
            limit("a", ALL, from) + &limit("b", HERE, &format!("rules: [{five}]")),
            both(Some((5, 10))),
        ),
        (
            "turned off, and the rate of the wider policy stays beside it",
            limit("a", ALL, from) + &limit("b", HERE, &format!("rules: [{}]", tcp("disabled: true"))),
            both(None),
        ),
        (
            "the last rule",
            limit("a", ALL, &format!("rules: [{five}, {}]", tcp("connectionRate: {num: 1, interval: 1s}"))),
            both(Some((1, 1))),
        ),
        (
            "http alone",
            limit(
                "a",
                ALL,
                "rules: [{default: {local: {http: {requestRate: {num: 5, interval: 10s}, onRateLimit: {status: 423, headers: {set: [{name: x, value: 'true'}]}}}}}}]",
            ),
            both(None),
        ),
        (
            "requests of one client",
            limit(
                "a",
                ALL,
                "rules: [{matches: [{spiffeID: {type: Exact, value: 'spiffe://default/web'}}], default: {local: {http: {requestRate: {num: 5, interval: 10s}}}}}]",
            ),
            both(None),
        ),
    ] {
        assert_eq!(rate(&documents), expected, "{name}");
    }
}

#[test]
fn a_rate_of_requests_by_its_caller_is_passed_over_with_one_warning_a_policy() {
    let http = "rules: [{matches: [{spiffeID: {type: Exact, value: 'spiffe://default/a'}}], default: {local: {http: {requestRate: {num: 5, interval: 10s}}}}}, \
                {default: {local: {http: {onRateLimit: {status: 429}}}}}]";
    let lines: Vec<_> = plan(&limit("l", ALL, http)).warnings;
    let told: Vec<_> = lines.iter().filter(|line| line.contains("passed over")).collect();
    const PASSED: &str = "passed over, as the sidecar does nothing by it";
    let of_rules = format!("MeshRateLimit l: {PASSED}: rules[].default.local.http beside matches");
    assert_eq!(told, [&of_rules]);
}

fn refused(document: &str, expected: &str) {
    let errors = read(&format!("---\n{document}\n")).err().unwrap_or_default();
    assert!(matches!(&errors[..], [one] if one.contains(expected)), "{document}: {expected}: {errors:#?}");
}

#[test]
fn every_rule_of_kuma_about_health_checks_is_a_check() {
    let of = |conf: &str| {
        format!(
            "{{type: MeshHealthCheck, name: h, spec: {{to: [{{targetRef: {{kind: Mesh}}, default: {{{conf}}}}}]}}}}"
        )
    };
    const DEFAULT: &str = "spec.to[0].default";
    for (conf, expected) in [
        ("", ": found none of its fields; allowed: at least one of tcp, http, grpc"),
        ("interval: 10s", ": found none of its fields"),
        ("interval: 0s, tcp: {}", ".interval: found 0; allowed: a duration above 0"),
        ("timeout: 0s, tcp: {}", ".timeout: found 0"),
        ("initialJitter: 0s, tcp: {}", ".initialJitter: found 0"),
        ("noTrafficInterval: 0s, tcp: {}", ".noTrafficInterval: found 0"),
        ("unhealthyThreshold: 0, tcp: {}", ".unhealthyThreshold: found 0"),
        ("healthyThreshold: -3, tcp: {}", ".healthyThreshold: found -3"),
        ("intervalJitterPercent: 110, tcp: {}", ".intervalJitterPercent: found 110"),
        ("healthyPanicThreshold: 101, tcp: {}", ".healthyPanicThreshold: found more than 100"),
        ("eventLogPath: '#not_valid_path', tcp: {}", ".eventLogPath: found \"#not_valid_path\""),
        ("http: {expectedStatuses: [99]}", ".http.expectedStatuses[0]: found 99"),
        ("http: {path: ''}", ".http.path: found an empty text"),
        ("tcp: {send: ''}", ".tcp.send: found \"\"; allowed: a text of 1 to 16384 bytes"),
        ("tcp: {recieve: [a]}", ".tcp.recieve: found a field that culvert does not have"),
    ] {
        refused(&of(conf), &format!("{DEFAULT}{expected}"));
    }
    refused("{type: MeshHealthCheck, name: h, spec: {to: []}}", "spec.to: found no entry");
    refused("{type: MeshHealthCheck, name: h, spec: {}}", "spec.to: found no entry");
    let route = of("tcp: {}").replace("{kind: Mesh}", "{kind: MeshHTTPRoute, name: a}");
    refused(&route, "spec.to[0].targetRef.kind: found \"MeshHTTPRoute\"");
    for (conf, expected) in [
        ("tcp: {}, http: {path: /a}", "conf.http: found http beside tcp"),
        ("http: {}", "conf.http.path: found nothing"),
        ("tcp: {send: Zm9vY}", "conf.tcp.send: found \"Zm9vY\"; allowed: 1 to 16384 bytes in Base64"),
    ] {
        refused(older(conf).trim_start_matches("---\n"), expected);
    }
    let without = older("tcp: {}").replace("interval: 10s, ", "");
    refused(without.trim_start_matches("---\n"), "conf.interval: found nothing");
}

#[test]
fn every_rule_of_kuma_about_rates_is_a_check() {
    let of = |local: &str| {
        format!("{{type: MeshRateLimit, name: l, spec: {{rules: [{{default: {{{local}}}}}]}}}}")
    };
    const LOCAL: &str = "spec.rules[0].default.local";
    for (local, expected) in [
        ("", ": found nothing; allowed: this field is required"),
        ("local: {}", ": found none of its fields; allowed: at least one of tcp, http"),
        (
            "local: {tcp: {}}",
            ".tcp: found none of its fields; allowed: at least one of disabled, connectionRate",
        ),
        ("local: {http: {}}", ".http: found none of its fields"),
        ("local: {tcp: {connectionRate: {num: 0, interval: 1s}}}", ".tcp.connectionRate.num: found 0"),
        (
            "local: {tcp: {connectionRate: {num: 1, interval: 50ms}}}",
            ".tcp.connectionRate.interval: found 50 ms; allowed: a duration above 50ms",
        ),
        ("local: {http: {requestRate: {num: 1, interval: 49ms}}}", ".http.requestRate.interval: found 49 ms"),
        ("local: {tcp: {connectionRate: {num: 1}}}", ".tcp.connectionRate.interval: found nothing"),
        (
            r#"local: {http: {onRateLimit: {headers: {add: [{name: x-a, value: "a\r\nb: c"}]}}}}"#,
            ".http.onRateLimit.headers.add[0].value: found \"a\\r\\nb: c\"",
        ),
        (
            "local: {http: {onRateLimit: {headers: {set: [{name: 'a b', value: c}]}}}}",
            ".http.onRateLimit.headers.set[0].name: found \"a b\"",
        ),
        (
            "local: {http: {onRateLimit: {headers: {set: [{name: Content-Length, value: '1'}]}}}}",
            ".http.onRateLimit.headers.set[0].name: found \"Content-Length\"",
        ),
    ] {
        refused(&of(local), &format!("{LOCAL}{expected}"));
    }
    let tcp = "{local: {tcp: {disabled: true}}}";
    for (spec, expected) in [
        ("targetRef: {kind: Mesh}".into(), "spec: found no entry"),
        (format!("to: [{{targetRef: {{kind: Mesh}}, default: {tcp}}}]"), "spec.to: found entries"),
        (
            format!("from: [{{targetRef: {{kind: MeshService, name: a}}, default: {tcp}}}]"),
            "spec.from[0].targetRef",
        ),
        (
            format!("rules: [{{default: {tcp}}}], from: [{{targetRef: {{kind: Mesh}}, default: {tcp}}}]"),
            "spec: found rules beside to or from",
        ),
        (
            format!(
                "rules: [{{matches: [{{spiffeID: {{type: Exact, value: 'spiffe://default/a'}}}}], default: {tcp}}}]"
            ),
            "spec.rules[0].default.local.tcp: found it beside matches",
        ),
    ] {
        let errors = read(&format!("---\n{{type: MeshRateLimit, name: l, spec: {{{spec}}}}}\n")).unwrap_err();
        assert!(errors[0].contains(expected), "{spec}: {errors:#?}");
    }
    plan(
        "---\n{type: MeshRateLimit, name: l, spec: {targetRef: {kind: Mesh, proxyTypes: [Gateway]}, to: [{targetRef: {kind: Mesh}, default: {local: {tcp: {disabled: true}}}}]}}\n",
    );
}
