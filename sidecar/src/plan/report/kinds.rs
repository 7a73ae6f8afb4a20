// SPDX-License-Identifier: Apache-2.0
//! Each kind that decides anything stands in the report, with its value, its document, and what lost.

use super::tests::{read, report};
use crate::plan::balance::Algorithm;
use crate::plan::compile::explained;
use crate::plan::decisions::words;
use crate::plan::{Origin, Plan};

const DOCUMENTS: &str = "
{type: Mesh, name: default, mtls: {enabledBackend: ca, backends: [{name: ca, mode: STRICT}]}, networking: {outbound: {passthrough: false}}}
---
{type: Dataplane, name: here, labels: {app: here, kuma.io/workload: front}, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 80, servicePort: 8080, serviceProbe: {interval: 3s, tcp: {}}, tags: {kuma.io/service: here, kuma.io/zone: east, node: n1}}],
  outbound: [{port: 1000, tags: {kuma.io/service: backend}}, {port: 1001, tags: {kuma.io/service: db}}]}}
---
{type: Dataplane, name: b1, networking: {address: 10.0.0.3, inbound: [{port: 90, tags: {kuma.io/service: backend, kuma.io/zone: east, node: n1}}]}}
---
{type: Dataplane, name: b2, networking: {address: 10.0.0.4, inbound: [{port: 90, tags: {kuma.io/service: backend, kuma.io/zone: west}}]}}
---
{type: Dataplane, name: d, networking: {address: 10.0.0.5, inbound: [{port: 91, tags: {kuma.io/service: db, kuma.io/zone: east}}]}}
---
{type: MeshTCPRoute, name: r, spec: {to: [{targetRef: {kind: MeshService, name: backend}, rules: [{default: {backendRefs: [
  {kind: MeshService, name: backend, weight: 3}, {kind: MeshService, name: db, weight: 1}]}}]}]}}
---
{type: MeshTCPRoute, name: s, spec: {to: [{targetRef: {kind: MeshService, name: backend}, rules: [{default: {backendRefs: [{kind: MeshService, name: db}]}}]}]}}
---
{type: MeshTimeout, name: times, spec: {to: [{targetRef: {kind: MeshService, name: backend}, default: {idleTimeout: 11m, connectionTimeout: 1s}},
  {targetRef: {kind: MeshService, name: db}, default: {idleTimeout: 22m, connectionTimeout: 2s}}]}}
---
{type: MeshLoadBalancingStrategy, name: wide, spec: {to: [{targetRef: {kind: Mesh}, default: {loadBalancer: {type: RingHash, ringHash: {minRingSize: 2048}},
  hashPolicies: [{type: Connection, connection: {sourceIP: true}}]}}]}}
---
{type: MeshLoadBalancingStrategy, name: narrow, spec: {to: [{targetRef: {kind: MeshService, name: backend}, default: {loadBalancer: {type: RingHash, ringHash: {maxRingSize: 4096}},
  localityAwareness: {localZone: {affinityTags: [{key: node, weight: 5}]}, crossZone: {failover: [{to: {type: Any}}], failoverThreshold: {percentage: 70}}}}}]}}
---
{type: MeshHealthCheck, name: wide, spec: {to: [{targetRef: {kind: Mesh}, default: {interval: 30s, timeout: 2s, tcp: {send: ping, receive: [pong]}}}]}}
---
{type: MeshHealthCheck, name: narrow, spec: {to: [{targetRef: {kind: MeshService, name: backend}, default: {interval: 10s, unhealthyThreshold: 3, healthyPanicThreshold: 20, failTrafficOnPanic: true, tcp: {}}}]}}
---
{type: HealthCheck, name: old, sources: [{match: {kuma.io/service: '*'}}], destinations: [{match: {kuma.io/service: '*'}}],
  conf: {interval: 99s, timeout: 9s, unhealthyThreshold: 9, healthyThreshold: 8}}
---
{type: MeshRateLimit, name: wide, spec: {rules: [{default: {local: {tcp: {connectionRate: {num: 5, interval: 10s}}}}}]}}
---
{type: MeshRateLimit, name: narrow, spec: {targetRef: {kind: Dataplane, labels: {app: here}}, rules: [{default: {local: {tcp: {connectionRate: {num: 7, interval: 1s}}}}}]}}
---
{type: MeshMetric, name: wide, spec: {default: {sidecar: {profiles: {appendProfiles: [{name: All}], exclude: [{type: Prefix, match: culvert_dns}]}}, backends: [{type: Prometheus, prometheus: {}}],
  applications: [{name: shop, port: 8081}]}}}
---
{type: MeshMetric, name: narrow, spec: {targetRef: {kind: Dataplane, labels: {app: here}}, default: {sidecar: {profiles: {appendProfiles: [{name: Basic}]}}, backends: [{type: Prometheus, prometheus: {port: 5671, path: /m}}]}}}
---
{type: MeshAccessLog, name: callers, spec: {rules: [{matches: [{spiffeID: {type: Exact, value: 'spiffe://default/web'}}], default: {backends: [{type: File, file: {path: /web.log}}]}},
  {matches: [{spiffeID: {type: Prefix, value: 'spiffe://default/ops'}}], default: {backends: [{type: File, file: {path: /ops.log}}]}}]}}
---
{type: MeshAccessLog, name: more, spec: {rules: [{matches: [{spiffeID: {type: Exact, value: 'spiffe://default/web'}}], default: {backends: [{type: File, file: {path: /lost.log}}]}}]}}
---
{type: MeshAccessLog, name: db, spec: {to: [{targetRef: {kind: MeshService, name: db}, default: {backends: [{type: File, file: {path: /db.log}}]}}]}}
---
{type: MeshRateLimit, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, rules: [{default: {local: {tcp: {disabled: true}}}}]}}
---
{type: MeshLoadBalancingStrategy, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, to: [{targetRef: {kind: MeshService, name: backend}, default: {loadBalancer: {type: Random}, localityAwareness: {disabled: true}}}]}}
---
{type: MeshHealthCheck, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, to: [{targetRef: {kind: MeshService, name: backend}, default: {tcp: {disabled: true}}}]}}
---
{type: MeshTCPRoute, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, to: [{targetRef: {kind: MeshService, name: backend}, rules: [{default: {backendRefs: [{kind: MeshService, name: db}]}}]}]}}
---
{type: MeshMetric, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, default: {backends: [{type: Prometheus, prometheus: {port: 5679}}]}}}
";

#[test]
fn each_kind_has_its_values_its_documents_and_what_lost() {
    insta::assert_snapshot!(report(DOCUMENTS).to_string());
}

fn said(plan: &Plan, subject: &str, field: &str) -> Option<String> {
    let found = plan.decisions.list().iter().find(|one| one.subject == subject && one.field == field);
    found.map(|one| one.holds.value.clone())
}

/// Only what is said can be wrong; what a plan has beyond its defaults has to be said.
#[test]
fn what_holds_of_checks_rates_and_endpoints_is_what_the_plan_has() {
    let off = "---\n{type: MeshHealthCheck, name: a, spec: {targetRef: {kind: Dataplane, name: here}, to: [{targetRef: {kind: Mesh}, default: {tcp: {disabled: true}, healthyPanicThreshold: 5}}]}}
---
{type: MeshRateLimit, name: a, spec: {targetRef: {kind: Dataplane, name: here}, rules: [{default: {local: {tcp: {disabled: true}}}}]}}
---
{type: MeshLoadBalancingStrategy, name: a, spec: {targetRef: {kind: Dataplane, name: here}, to: [{targetRef: {kind: Mesh}, default: {loadBalancer: {type: Maglev, maglev: {tableSize: 17}}, localityAwareness: {disabled: true}}}]}}
---
{type: MeshCircuitBreaker, name: a, spec: {to: [{targetRef: {kind: Mesh}, default: {outlierDetection: {healthyPanicThreshold: 33, detectors: {totalFailures: {consecutive: 2}}}}}]}}
";
    for documents in [DOCUMENTS.to_owned(), format!("{DOCUMENTS}{off}")] {
        let (config, loaded) = read(&[], &documents);
        let plan = explained(&config, &loaded.found, false).unwrap();
        for cluster in &plan.clusters {
            let of = |field: &str| said(&plan, &format!("cluster {}", cluster.name), field);
            let must = |field: &str| of(field).unwrap_or_else(|| panic!("{}: {field}", cluster.name));
            let check = cluster.health.as_ref().and_then(|health| health.check.as_ref());
            assert_eq!(
                check.is_some(),
                of("active check").is_some_and(|value| value != "none"),
                "{}",
                cluster.name
            );
            if let Some(check) = check {
                assert_eq!(must("check interval"), words(Some(check.interval)));
                assert_eq!(must("check timeout"), words(Some(check.timeout)));
                assert_eq!(must("failed checks until it is down"), check.unhealthy_threshold.to_string());
                assert_eq!(must("passed checks until it is up"), check.healthy_threshold.to_string());
            }
            if cluster.origin == Origin::Outbound && cluster.outlier.is_some() && of("endpoints").is_some() {
                let ejection = cluster.outlier.map(|outlier| outlier.panic_threshold);
                let share = cluster.health.as_ref().map(|health| health.panic_threshold).or(ejection);
                let share = format!("{} %", f64::from(share.unwrap()) / 1000.0);
                assert_eq!(must("panic threshold"), share, "{}", cluster.name);
            }
            match cluster.balance.algorithm {
                Algorithm::RingHash { least, most, .. } => {
                    assert_eq!(must("points of the ring, at least"), least.to_string());
                    assert_eq!(must("points of the ring, at most"), most.to_string());
                }
                Algorithm::Maglev { size } => assert_eq!(must("entries of the table"), size.to_string()),
                other => assert_eq!(other, Algorithm::RoundRobin),
            }
            let hashes =
                matches!(cluster.balance.algorithm, Algorithm::RingHash { .. } | Algorithm::Maglev { .. });
            if hashes {
                let by_source = must("hashed of a connection") == "the client's address";
                assert_eq!(by_source, cluster.balance.by_source, "{}", cluster.name);
                assert_eq!(must("zones") == "all alike", cluster.balance.localities.is_none());
            }
        }
        for listener in &plan.listeners {
            let rate = said(&plan, &format!("listener {}", listener.name), "rate of connections");
            assert_eq!(rate.filter(|rate| rate != "no limit"), listener.rate.map(|rate| rate.to_string()));
        }
    }
}

#[test]
fn the_log_of_a_caller_is_shown_with_the_caller_and_one_that_is_overridden_as_lost() {
    let (config, loaded) = read(&[], DOCUMENTS);
    let plan = explained(&config, &loaded.found, false).unwrap();
    let listener = "listener inbound:10.0.0.2:80";
    let of = |caller: &str| {
        let field = format!("log of {caller} too");
        let all = plan.decisions.list().iter().filter(|one| one.subject == listener && one.field == field);
        all.map(|one| (one.holds.value.clone(), one.lost.iter().map(|lost| lost.value.clone()).collect()))
            .collect::<Vec<(String, Vec<String>)>>()
    };
    assert_eq!(of("spiffe://default/web"), [("/web.log".into(), vec!["/lost.log".to_owned()])]);
    assert_eq!(of("spiffe://default/ops…"), [("/ops.log".into(), vec![])]);
    let targets = &plan.logs.inbounds.values().next().unwrap_or(&plan.logs.ports).by_caller;
    assert_eq!(targets.len(), 2, "and what is shown is what the plan has");
}
