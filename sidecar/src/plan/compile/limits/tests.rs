// SPDX-License-Identifier: Apache-2.0
use super::{INBOUND, OUTBOUND, PASSTHROUGH};
use crate::options::Options;
use crate::options::config::Thresholds;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::{ClusterPlan, FailedAnswers, ListenerPlan, MOST_ATTEMPTS, OutlierPlan, Plan};
use clap::Parser;
use std::time::Duration;

/// A pod with two inbounds and two outbounds; the endpoint of the first outbound has an inbound `http`.
const PODS: &str = "---
{type: Dataplane, name: here, labels: {app: here}, networking: {address: 10.0.0.2, inbound: [
  {port: 80, name: web, servicePort: 8080, serviceAddress: 127.0.0.1, tags: {kuma.io/service: here}},
  {port: 81, name: admin, servicePort: 8080, serviceAddress: 127.0.0.1, tags: {kuma.io/service: here}}],
  outbound: [{port: 1000, tags: {kuma.io/service: backend}}, {port: 1001, tags: {kuma.io/service: redis_shop_svc_6379}}]}}
---
{type: Dataplane, name: b, networking: {address: 10.0.0.3, inbound: [{port: 90, name: http, tags: {kuma.io/service: backend}}]}}
";
const BACKEND: &str = "kind: MeshService, name: backend";
const ALL: &str = "kind: Mesh";

fn read(arguments: &[&str], documents: &str) -> Result<Plan, Vec<String>> {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"].iter().chain(arguments);
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, &format!("{PODS}{documents}"), "m.yaml");
    let together = compile(&config, &loaded.found);
    let errors = loaded.errors.iter().map(ToString::to_string);
    let all: Vec<_> = match &together {
        Ok(_) => errors.collect(),
        Err(together) => errors.chain(together.iter().map(ToString::to_string)).collect(),
    };
    together.map_err(|_| all.clone()).and_then(|plan| if all.is_empty() { Ok(plan) } else { Err(all) })
}

fn plan(documents: &str) -> Plan {
    read(&[], documents).unwrap_or_else(|errors| panic!("{documents}: {errors:#?}"))
}

fn listener<'p>(plan: &'p Plan, name: &str) -> &'p ListenerPlan {
    plan.listeners.iter().find(|one| &*one.name == name).unwrap_or_else(|| panic!("no listener {name}"))
}

fn cluster<'p>(plan: &'p Plan, listener_name: &str) -> &'p ClusterPlan {
    plan.cluster_named(listener(plan, listener_name).cluster.as_deref().unwrap()).unwrap()
}

/// Connect and idle timeout in seconds; 0 = none.
fn times(plan: &Plan, name: &str) -> [u64; 2] {
    [cluster(plan, name).connect_timeout, listener(plan, name).idle_timeout]
        .map(|time| time.map_or(0, |time| time.as_secs()))
}

const WEB: &str = "inbound:10.0.0.2:80";
const ADMIN: &str = "inbound:10.0.0.2:81";
const TO_BACKEND: &str = "outbound:127.0.0.1:1000";
const TO_REDIS: &str = "outbound:127.0.0.1:1001";
const BY_ADDRESS: &str = "outbound:passthrough:ipv4";

/// A policy, with its top-level target.
fn policy(kind: &str, name: &str, target: &str, rest: &str) -> String {
    format!("---\n{{type: {kind}, name: {name}, spec: {{targetRef: {{{target}}}, {rest}}}}}\n")
}

fn to(target: &str, conf: &str) -> String {
    format!("{{targetRef: {{{target}}}, default: {{{conf}}}}}")
}

/// A MeshTimeout about destinations.
fn timeout(name: &str, target: &str, entries: &[(&str, &str)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(target, conf)| to(target, conf)).collect();
    policy("MeshTimeout", name, target, &format!("to: [{}]", entries.join(", ")))
}

#[test]
fn the_numbers_without_documents_are_those_of_the_page() {
    let breaker = Thresholds::default();
    let ejection = OutlierPlan::default();
    let seconds = |time: Duration| match time.as_secs() {
        hours if hours % 3600 == 0 => format!("{} h", hours / 3600),
        seconds => format!("{seconds} s"),
    };
    let page = include_str!("../../../../DOCUMENTS.md");
    for row in [
        format!("| connect timeout of an outbound | {} |", seconds(OUTBOUND.connect)),
        format!("| connect timeout of an inbound | {} |", seconds(INBOUND.connect)),
        format!("| connect timeout of passthrough | {} |", seconds(PASSTHROUGH.connect)),
        format!("| idle timeout of an outbound | {} |", seconds(OUTBOUND.idle)),
        format!("| idle timeout of an inbound | {} |", seconds(INBOUND.idle)),
        format!("| idle timeout of passthrough | {} |", seconds(PASSTHROUGH.idle)),
        format!("| connections of a cluster | {} |", breaker.max_connections),
        format!("| connects in flight | {} |", breaker.max_pending_requests),
        format!("| requests (HTTP only) | {} |", breaker.max_requests),
        format!("| connects in flight to ejected endpoints | {} |", breaker.max_retries),
        format!("| endpoints that a connection tries | {MOST_ATTEMPTS} |"),
        format!("| failed connects that eject an endpoint | {} |", ejection.consecutive),
        format!("| time until its first trial | {} |", seconds(ejection.ejection_time)),
        format!("| endpoints that may be ejected | {} % |", ejection.most_ejected),
        format!("| panic threshold | {} % |", ejection.panic_threshold / 1000),
    ] {
        assert!(page.contains(&row), "DOCUMENTS.md has no row {row}");
    }
    let plan = plan("");
    for (name, expected) in [
        (WEB, [10, 7200]),
        (TO_BACKEND, [5, 3600]),
        (BY_ADDRESS, [10, 3600]),
        ("inbound:passthrough:ipv6", [10, 3600]),
    ] {
        assert_eq!(times(&plan, name), expected, "{name}");
        assert_eq!(cluster(&plan, name).thresholds, breaker);
        assert_eq!(cluster(&plan, name).outlier, Some(ejection));
    }
    assert_eq!(cluster(&plan, WEB).name, cluster(&plan, ADMIN).name, "one application, one cluster");
}

#[test]
fn an_option_holds_where_it_is_given_and_a_policy_before_it() {
    let options = ["--connect-timeout=7s", "--idle-timeout=0"];
    let plan = read(&options, &timeout("t", ALL, &[(BACKEND, "connectionTimeout: 3s")])).unwrap();
    for (name, expected) in [(WEB, [7, 0]), (TO_BACKEND, [3, 0]), (TO_REDIS, [7, 0]), (BY_ADDRESS, [7, 0])] {
        assert_eq!(times(&plan, name), expected, "{name}");
    }
    let patch = "---\n{type: ProxyTemplate, name: p, selectors: [{match: {kuma.io/service: '*'}}], conf: {imports: [default-proxy], \
        modifications: [{cluster: {operation: patch, match: {name: backend}, value: 'connect_timeout: 2s'}}]}}\n";
    let plan = read(&options, &(timeout("t", ALL, &[(BACKEND, "connectionTimeout: 3s")]) + patch)).unwrap();
    assert_eq!(times(&plan, TO_BACKEND), [2, 0], "a patch comes last");
}

#[test]
fn timeouts_of_destinations_are_those_of_the_entries_that_fit() {
    for (entries, backend, redis) in [
        (&[(ALL, "connectionTimeout: 1s")][..], [1, 3600], [1, 3600]),
        (&[(ALL, "idleTimeout: 0s")], [5, 0], [5, 0]),
        (&[(BACKEND, "connectionTimeout: 1s, idleTimeout: 2s")], [1, 2], [5, 3600]),
        (&[("kind: MeshService, name: redis, namespace: shop", "idleTimeout: 9s")], [5, 3600], [5, 9]),
        (
            &[("kind: MeshService, labels: {k8s.kuma.io/namespace: shop}", "idleTimeout: 9s")],
            [5, 3600],
            [5, 9],
        ),
        (&[("kind: MeshService, name: backend, sectionName: http", "idleTimeout: 9s")], [5, 9], [5, 3600]),
        (&[("kind: MeshService, name: backend, sectionName: '90'", "idleTimeout: 9s")], [5, 9], [5, 3600]),
        (&[("kind: MeshService, name: backend, sectionName: grpc", "idleTimeout: 9s")], [5, 3600], [5, 3600]),
        (&[("kind: MeshExternalService, name: backend", "idleTimeout: 9s")], [5, 3600], [5, 3600]),
        (&[(ALL, "http: {requestTimeout: 1s}")], [5, 3600], [5, 3600]),
    ] {
        let plan = plan(&timeout("t", ALL, entries));
        assert_eq!((times(&plan, TO_BACKEND), times(&plan, TO_REDIS)), (backend, redis), "{entries:?}");
        assert_eq!((times(&plan, WEB), times(&plan, BY_ADDRESS)), ([10, 7200], [10, 3600]), "{entries:?}");
    }
}

/// Every pair of policies and entries about one destination, the deciding one second. Kuma sorts by the policy's target, then
/// by the entry's, then by the policy's name, then by the place in the list.
#[test]
fn of_two_entries_about_a_destination_the_one_decides_that_kuma_lets_decide() {
    const SECTION: &str = "kind: MeshService, name: backend, sectionName: http";
    const POD: &str = "kind: Dataplane, labels: {app: here}";
    let narrower = |one: &str, two: &str| {
        let order = [ALL, BACKEND, SECTION];
        let place = |of: &str| order.iter().position(|one| *one == of);
        place(one) < place(two)
    };
    for loser in [ALL, BACKEND, SECTION] {
        for winner in [ALL, BACKEND, SECTION] {
            let (low, high) =
                ((loser, "idleTimeout: 1s, connectionTimeout: 3s"), (winner, "idleTimeout: 2s"));
            let decides = |documents: &str, what: &str| {
                let times = times(&plan(documents), TO_BACKEND);
                assert_eq!(times, [3, 2], "{what}: {loser} and {winner}: {documents}");
            };
            decides(
                &(timeout("a", ALL, &[low]) + &timeout("b", POD, &[high])),
                "a policy about this pod decides before one about the mesh",
            );
            if loser == winner || narrower(loser, winner) {
                decides(&timeout("a", ALL, &[low, high]), "the later of two even ones, or the narrower");
                decides(
                    &(timeout("a", ALL, &[high]) + &timeout("b", ALL, &[low])),
                    "of two even policies the narrower entry, then the first by name",
                );
            }
            if narrower(loser, winner) {
                decides(&timeout("a", ALL, &[high, low]), "the narrower, wherever it stands");
                decides(
                    &(timeout("a", ALL, &[low]) + &timeout("b", ALL, &[high])),
                    "of two even policies the narrower entry before the name",
                );
            }
        }
    }
}

#[test]
fn timeouts_of_inbounds_are_those_of_the_policies_about_them() {
    let rules = |name: &str, target: &str, conf: &str| {
        policy("MeshTimeout", name, target, &format!("rules: [{{default: {{{conf}}}}}]"))
    };
    let from = policy(
        "MeshTimeout",
        "f",
        ALL,
        "from: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 1s, idleTimeout: 2s}}]",
    );
    let web = "kind: Dataplane, name: here, sectionName: web";
    for (documents, web, admin) in [
        (from.clone(), [1, 2], [1, 2]),
        (rules("r", ALL, "idleTimeout: 0s"), [10, 0], [10, 0]),
        (rules("r", web, "connectionTimeout: 4s"), [4, 7200], [10, 7200]),
        (
            rules("r", "kind: Dataplane, name: here, sectionName: '81'", "idleTimeout: 4s"),
            [10, 7200],
            [10, 4],
        ),
        (from.clone() + &rules("r", web, "connectionTimeout: 4s"), [4, 2], [1, 2]),
        (
            from + &rules("r", "kind: Dataplane, labels: {app: other}", "connectionTimeout: 4s"),
            [1, 2],
            [1, 2],
        ),
        (
            policy(
                "MeshTimeout",
                "t",
                ALL,
                "rules: [{default: {idleTimeout: 1s}}, {default: {idleTimeout: 2s}}]",
            ),
            [10, 2],
            [10, 2],
        ),
    ] {
        let plan = plan(&documents);
        assert_eq!((times(&plan, WEB), times(&plan, ADMIN)), (web, admin), "{documents}");
        assert_eq!(
            (times(&plan, TO_BACKEND), times(&plan, BY_ADDRESS)),
            ([5, 3600], [10, 3600]),
            "{documents}"
        );
    }
    let plan = plan(&rules("r", web, "connectionTimeout: 4s"));
    assert_eq!(&*cluster(&plan, WEB).name, "localhost:8080");
    assert_eq!(&*cluster(&plan, ADMIN).name, "localhost:8080#2", "of one application, with other numbers");
}

#[test]
fn a_breaker_limits_clusters_of_destinations_and_of_inbounds() {
    let limits =
        "connectionLimits: {maxConnections: 1, maxPendingRequests: 2, maxRetries: 4, maxRequests: 5}";
    let outbound = policy("MeshCircuitBreaker", "b", ALL, &format!("to: [{}]", to(BACKEND, limits)));
    let inbound = policy("MeshCircuitBreaker", "i", ALL, &format!("rules: [{{default: {{{limits}}}}}]"));
    let limited = Thresholds { max_connections: 1, max_pending_requests: 2, max_requests: 5, max_retries: 4 };
    let plan = plan(&(outbound + &inbound));
    for (name, expected) in [
        (TO_BACKEND, limited),
        (WEB, limited),
        (ADMIN, limited),
        (TO_REDIS, Thresholds::default()),
        (BY_ADDRESS, Thresholds::default()),
    ] {
        assert_eq!(cluster(&plan, name).thresholds, expected, "{name}");
    }
    assert_eq!(plan.warnings.iter().filter(|line| line.starts_with("MeshCircuitBreaker")).count(), 0);
}

#[test]
fn a_breaker_says_when_endpoints_are_ejected() {
    let own = OutlierPlan::default();
    let answers = |all, gateway| FailedAnswers { all, gateway };
    let after = |consecutive, answers| OutlierPlan {
        consecutive,
        answers,
        ejection_time: Duration::from_secs(30),
        most_ejected: 10,
        panic_threshold: 50_000,
    };
    for (conf, expected) in [
        ("detectors: {totalFailures: {consecutive: 7}}", Some(after(7, answers(Some(7), None)))),
        (
            "detectors: {totalFailures: {consecutive: 7}, gatewayFailures: {consecutive: 6}}",
            Some(after(6, answers(Some(7), Some(6)))),
        ),
        (
            "splitExternalAndLocalErrors: true, detectors: {gatewayFailures: {consecutive: 7}}",
            Some(after(5, answers(None, Some(7)))),
        ),
        ("detectors: {totalFailures: {}}", Some(own)),
        ("detectors: {localOriginFailures: {consecutive: 3}}", Some(own)),
        (
            "splitExternalAndLocalErrors: true, detectors: {totalFailures: {consecutive: 7}, localOriginFailures: {consecutive: 3}}",
            Some(after(3, answers(Some(7), None))),
        ),
        (
            "detectors: {successRate: {minimumHosts: 5, requestVolume: 10, standardDeviationFactor: '1.9'}}",
            Some(own),
        ),
        (
            "interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 20, healthyPanicThreshold: '33.3', detectors: {totalFailures: {consecutive: 7}}",
            Some(OutlierPlan {
                consecutive: 7,
                answers: answers(Some(7), None),
                ejection_time: Duration::from_secs(2),
                most_ejected: 20,
                panic_threshold: 33_300,
            }),
        ),
        ("healthyPanicThreshold: 30", Some(OutlierPlan { panic_threshold: 30_000, ..own })),
        ("disabled: true, detectors: {totalFailures: {consecutive: 7}}", None),
        (
            "disabled: false, detectors: {totalFailures: {consecutive: 7}}",
            Some(after(7, answers(Some(7), None))),
        ),
    ] {
        let entry = to(BACKEND, &format!("outlierDetection: {{{conf}}}"));
        let plan = plan(&policy("MeshCircuitBreaker", "b", ALL, &format!("to: [{entry}]")));
        assert_eq!(cluster(&plan, TO_BACKEND).outlier, expected, "{conf}");
        assert_eq!(cluster(&plan, TO_REDIS).outlier, Some(own), "{conf}");
    }
}

#[test]
fn a_retry_says_how_many_endpoints_a_connection_tries() {
    let entries = [
        to(ALL, "tcp: {maxConnectAttempt: 2}"),
        to(BACKEND, "tcp: {maxConnectAttempt: 3}, http: {numRetries: 5}"),
    ];
    let plan = plan(&policy("MeshRetry", "r", ALL, &format!("to: [{}]", entries.join(", "))));
    let attempts = [TO_BACKEND, TO_REDIS, WEB, BY_ADDRESS].map(|name| cluster(&plan, name).most_attempts);
    assert_eq!(attempts, [3, 2, MOST_ATTEMPTS, MOST_ATTEMPTS]);
}

#[test]
fn what_a_connection_does_not_show_is_passed_over_with_one_warning_a_policy() {
    let http = "http: {requestTimeout: 1s}";
    let detectors = "detectors: {totalFailures: {consecutive: 1}, localOriginFailures: {consecutive: 1}, successRate: {}, failurePercentage: {}}";
    let breaker = format!("connectionLimits: {{maxConnectionPools: 1}}, outlierDetection: {{{detectors}}}");
    for (documents, told) in [
        (timeout("t", ALL, &[(ALL, http), (BACKEND, http)]), None),
        (timeout("t", ALL, &[(ALL, "idleTimeout: 1s")]), None),
        (timeout("t", "kind: Dataplane, name: other", &[(ALL, http)]), None),
        (
            policy(
                "MeshTimeout",
                "t",
                "kind: Dataplane, name: here, sectionName: web",
                &format!("rules: [{{default: {{{http}}}}}]"),
            ),
            None,
        ),
        (
            policy(
                "MeshTimeout",
                "t",
                ALL,
                &format!(
                    "rules: [{{matches: [{{spiffeID: {{type: Exact, value: 'spiffe://default/a'}}}}], default: {{{http}}}}}]"
                ),
            ),
            Some(
                "MeshTimeout t: passed over, as the sidecar does nothing by it: rules[].default.http beside matches",
            ),
        ),
        (
            policy(
                "MeshRetry",
                "r",
                ALL,
                &format!("to: [{}]", to(ALL, "http: {numRetries: 1}, grpc: {numRetries: 1}")),
            ),
            Some("MeshRetry r: passed over, as the sidecar does nothing by it: http, grpc"),
        ),
        (
            policy("MeshCircuitBreaker", "b", ALL, &format!("to: [{}]", to(ALL, &breaker))),
            Some(
                "MeshCircuitBreaker b: passed over, as the sidecar does nothing by it: detectors.failurePercentage, \
                 detectors.localOriginFailures, detectors.successRate, maxConnectionPools",
            ),
        ),
    ] {
        let warnings = plan(&documents).warnings;
        let own: Vec<_> = warnings.iter().filter(|line| line.contains("passed over")).collect();
        assert_eq!(own.first().map(|line| line.as_str()), told, "{documents}: {warnings:?}");
        assert_eq!(own.len(), usize::from(told.is_some()), "{documents}");
    }
}

/// A policy of Kuma up to 2.x.
fn older(kind: &str, name: &str, source: &str, destination: &str, conf: &str) -> String {
    format!(
        "---\n{{type: {kind}, name: {name}, sources: [{{match: {{{source}}}}}], destinations: [{{match: {{kuma.io/service: {destination}}}}}], conf: {{{conf}}}}}\n"
    )
}

#[test]
fn of_older_policies_the_one_holds_that_says_most_and_a_newer_one_before_it() {
    const ANY: &str = "kuma.io/service: '*'";
    const HERE: &str = "kuma.io/service: here";
    let connect = |seconds: u32| format!("connectTimeout: {seconds}s, tcp: {{idleTimeout: 9s}}");
    let any = older("Timeout", "any", ANY, "'*'", &connect(1));
    let source = older("Timeout", "source", HERE, "'*'", &connect(2));
    let destination = older("Timeout", "destination", ANY, "backend", &connect(3));
    let both = older("Timeout", "both", HERE, "backend", &connect(4));
    let other = older("Timeout", "a", "kuma.io/service: other", "'*'", &connect(5));
    for (documents, backend, redis) in [
        (vec![&any], [1, 9], [1, 9]),
        (vec![&any, &source], [2, 9], [2, 9]),
        (vec![&any, &destination], [3, 9], [1, 9]),
        // One exact tag each: the first by name.
        (vec![&source, &destination], [3, 9], [2, 9]),
        (vec![&source, &destination, &both], [4, 9], [2, 9]),
        (vec![&other], [5, 3600], [5, 3600]),
    ] {
        let documents: String = documents.into_iter().map(String::as_str).collect();
        let plan = plan(&documents);
        assert_eq!((times(&plan, TO_BACKEND), times(&plan, TO_REDIS)), (backend, redis), "{documents}");
        assert_eq!((times(&plan, WEB), times(&plan, BY_ADDRESS)), ([10, 7200], [10, 3600]), "outbounds only");
    }
    let plan = plan(&(any + &timeout("t", ALL, &[(BACKEND, "connectionTimeout: 7s")])));
    assert_eq!((times(&plan, TO_BACKEND), times(&plan, TO_REDIS)), ([7, 9], [1, 9]), "field by field");
}

#[test]
fn older_breakers_and_retries_are_read_into_the_newer_ones() {
    let breaker = "baseEjectionTime: 20s, maxEjectionPercent: 20, thresholds: {maxConnections: 2}, detectors: {totalErrors: {}, gatewayErrors: {consecutive: 9}}";
    let text = older("CircuitBreaker", "c", "kuma.io/service: '*'", "backend", breaker)
        + &older("Retry", "r", "kuma.io/service: '*'", "'*'", "tcp: {maxConnectAttempts: 3}");
    let plan = plan(&text);
    let backend = cluster(&plan, TO_BACKEND);
    assert_eq!(backend.thresholds, Thresholds { max_connections: 2, ..Thresholds::default() });
    let outlier = OutlierPlan {
        consecutive: 5,
        answers: FailedAnswers { all: Some(5), gateway: Some(9) },
        ejection_time: Duration::from_secs(20),
        most_ejected: 20,
        panic_threshold: 50_000,
    };
    assert_eq!(backend.outlier, Some(outlier));
    let attempts = [TO_BACKEND, TO_REDIS, WEB].map(|name| cluster(&plan, name).most_attempts);
    assert_eq!(attempts, [3, 3, MOST_ATTEMPTS]);
    assert_eq!(cluster(&plan, TO_REDIS).thresholds, Thresholds::default());
}

#[test]
fn entries_for_destinations_that_no_call_goes_to_are_told_with_their_places() {
    let told = |documents: &str| {
        let warnings = plan(documents).warnings.into_iter();
        warnings.filter(|line| line.contains("without effect")).collect::<Vec<_>>()
    };
    let about = |kind: &str, target: &str, conf: &str| {
        let (known, unknown) = (to(BACKEND, conf), to("kind: MeshHTTPRoute, name: r", conf));
        policy(kind, "p", target, &format!("to: [{known}, {unknown}]"))
    };
    for (kind, conf) in [
        ("MeshTimeout", "http: {requestTimeout: 1s}"),
        ("MeshRetry", "http: {numRetries: 1}"),
        ("MeshAccessLog", "backends: []"),
    ] {
        let line = format!(
            "{kind} p: without effect, as no connection of this pod is known to go there: to[1] (MeshHTTPRoute)"
        );
        assert_eq!(told(&about(kind, ALL, conf)), [line], "{kind}");
        let elsewhere = about(kind, "kind: Dataplane, labels: {app: web}", conf);
        assert_eq!(told(&elsewhere), [""; 0], "{kind}, about another pod");
    }
    let requests = to("kind: MeshHTTPRoute, name: r", "http: {requestTimeout: 1s}");
    let lines = told(&policy("MeshTimeout", "p", ALL, &format!("to: [{requests}]")));
    assert!(matches!(&lines[..], [one] if one.ends_with(": to[0] (MeshHTTPRoute)")), "{lines:?}");
}
