// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::options::Options;
use crate::plan::Plan;
use crate::plan::compile::{compile, explained, read_with_mesh};
use crate::plan::decisions::{field, words};
use clap::Parser;
use culvert_mesh::load::Loaded;

const DOCUMENTS: &str = "
{type: Mesh, name: default, networking: {outbound: {passthrough: false}}, mtls: {enabledBackend: ca, backends: [{name: ca, mode: PERMISSIVE}]},
  logging: {defaultBackend: all, backends: [{name: all, type: file, conf: {path: /dev/stdout}}]}}
---
{type: Dataplane, name: here, labels: {app: here}, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 80, servicePort: 8080, tags: {kuma.io/service: here}}],
  outbound: [{port: 1000, tags: {kuma.io/service: backend}}, {port: 1001, tags: {kuma.io/service: nobody}}]}}
---
{type: Dataplane, name: b, networking: {address: 10.0.0.3, inbound: [{port: 90, tags: {kuma.io/service: backend}}]}}
---
{type: MeshTimeout, name: wide, spec: {to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 7s, idleTimeout: 20m}}]}}
---
{type: MeshTimeout, name: narrow, spec: {targetRef: {kind: Dataplane, labels: {app: here}},
  to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 30m}}, {targetRef: {kind: MeshService, name: backend}, default: {idleTimeout: 10m}}]}}
---
{type: MeshTimeout, name: callers, spec: {rules: [{default: {idleTimeout: 3h}}]}}
---
{type: Timeout, name: old, sources: [{match: {kuma.io/service: '*'}}], destinations: [{match: {kuma.io/service: '*'}}], conf: {connectTimeout: 9s}}
---
{type: MeshCircuitBreaker, name: limits, spec: {to: [{targetRef: {kind: MeshService, name: backend}, default: {connectionLimits: {maxConnections: 2},
  outlierDetection: {maxEjectionPercent: 50, detectors: {totalFailures: {consecutive: 4}}}}}]}}
---
{type: MeshRetry, name: again, spec: {to: [{targetRef: {kind: Mesh}, default: {tcp: {maxConnectAttempt: 2}}}]}}
---
{type: MeshAccessLog, name: backend, spec: {to: [{targetRef: {kind: MeshService, name: backend}, default: {backends: [{type: File, file: {path: /backend.log}}, {type: Tcp, tcp: {address: 127.0.0.1:5000}}]}}]}}
---
{type: MeshAccessLog, name: quiet, spec: {rules: [{default: {backends: []}}]}}
---
{type: MeshPassthrough, name: out, spec: {default: {passthroughMode: Matched, appendMatch: [{type: IP, value: 192.0.2.1, port: 80}]}}}
---
{type: MeshPassthrough, name: zz, spec: {default: {passthroughMode: None, appendMatch: [{type: Domain, value: ext.test, protocol: tls}]}}}
---
{type: MeshTLS, name: strict, spec: {rules: [{default: {mode: Strict, tlsVersion: {min: TLS13}}}]}}
---
{type: MeshTrafficPermission, name: web, spec: {from: [{targetRef: {kind: MeshService, name: web}, default: {action: Allow}}]}}
---
{type: MeshProxyPatch, name: patch, spec: {default: {appendModifications: [
  {cluster: {operation: Patch, match: {name: backend}, jsonPatches: [{op: replace, path: /connectTimeout, value: 1s}]}},
  {cluster: {operation: Remove, match: {name: nobody}}}]}}}
---
{type: ProxyTemplate, name: template, selectors: [{match: {kuma.io/service: '*'}}], conf: {modifications: [
  {networkFilter: {operation: patch, match: {listenerName: 'inbound:10.0.0.2:80'}, value: 'typed_config: {idle_timeout: 4h}'}}]}}
---
{type: MeshTimeout, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, labels: {app: here}}, to: [{targetRef: {kind: MeshService, name: backend}, default: {idleTimeout: 1m}}]}}
---
{type: MeshTrafficPermission, name: nobody, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane}, from: [{targetRef: {kind: Mesh}, default: {action: Deny}}]}}
";

pub(super) fn read(arguments: &[&str], documents: &str) -> (Config, Loaded) {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"].iter().chain(arguments);
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, documents, "m.yaml");
    assert_eq!(loaded.errors, []);
    (config, loaded)
}

pub(super) fn report(documents: &str) -> Report {
    let (config, loaded) = read(&[], documents);
    let caller = Caller::new(&config, "spiffe://default/web").unwrap();
    Report::of(&config, &loaded.found, Some(&caller))
}

#[test]
fn every_number_log_and_way_has_the_document_that_decides_it_and_those_that_lost() {
    insta::assert_snapshot!(report(DOCUMENTS).to_string());
}

#[test]
fn without_documents_options_and_defaults_decide() {
    let config = Options::try_parse_from([
        "culvert-sidecar",
        "--idle-timeout=5m",
        "--circuit-breaker-max-connections=7",
    ]);
    let config = config.unwrap().check().unwrap();
    insta::assert_snapshot!(Report::of(&config, &Found::default(), None).to_string());
}

#[test]
fn json_says_the_same() {
    let value = serde_json::to_value(report(DOCUMENTS)).unwrap();
    let decisions = value["decisions"].as_array().unwrap();
    let of = |subject: &str, field: &str| {
        decisions.iter().find(|one| one["subject"] == subject && one["field"] == field).unwrap()
    };
    let timeout = of("listener outbound:127.0.0.1:1000", "idle timeout");
    assert_eq!(timeout["value"], "600s");
    assert_eq!(timeout["by"], "MeshTimeout narrow (m.yaml: document 5, spec.to[1])");
    assert_eq!(timeout["lost"].as_array().unwrap().len(), 3, "{timeout}");
    assert_eq!(value["ports"][0]["caller"]["verdict"], "may call");
    assert_eq!(value["ports"][0]["caller"]["on_trial"], "is refused");
    assert_eq!(value["trial"]["changes"][0]["would_be"][0]["value"], "60s");
}

/// What is said has to be what is in force, for each number of each listener and cluster.
#[test]
fn what_holds_is_what_the_plan_has() {
    let more = "---\n{type: MeshProxyPatch, name: all, spec: {default: {appendModifications: [{cluster: {operation: Patch, value: 'circuit_breakers: {thresholds: [{max_requests: 6}]}'}}]}}}\n";
    let narrower = "---\n{type: MeshCircuitBreaker, name: z, spec: {targetRef: {kind: Dataplane}, to: [{targetRef: {kind: Mesh}, default: {outlierDetection: {disabled: true, detectors: {totalFailures: {consecutive: 8}}}, connectionLimits: {maxRetries: 9}}}]}}\n";
    for (arguments, documents) in [
        (&[][..], DOCUMENTS.to_owned()),
        (
            &["--connect-timeout=3s", "--idle-timeout=0", "--circuit-breaker-max-retries=1"],
            DOCUMENTS.to_owned(),
        ),
        (&[], format!("{DOCUMENTS}{more}{narrower}")),
    ] {
        let (config, loaded) = read(arguments, &documents);
        let plan = explained(&config, &loaded.found, false).unwrap();
        let said = |subject: &str, field: &str| {
            let found = plan.decisions.list().iter().find(|one| one.subject == subject && one.field == field);
            found.map(|one| one.holds.value.clone()).unwrap_or_else(|| panic!("{subject}: {field}"))
        };
        for listener in &plan.listeners {
            let subject = format!("listener {}", listener.name);
            assert_eq!(said(&subject, field::IDLE_TIMEOUT), words(listener.idle_timeout), "{subject}");
        }
        for cluster in &plan.clusters {
            let subject = format!("cluster {}", cluster.name);
            assert_eq!(said(&subject, field::CONNECT_TIMEOUT), words(cluster.connect_timeout), "{subject}");
            let limits = &cluster.thresholds;
            assert_eq!(
                said(&subject, field::MAX_CONNECTIONS),
                limits.max_connections.to_string(),
                "{subject}"
            );
            assert_eq!(
                said(&subject, field::MAX_PENDING),
                limits.max_pending_requests.to_string(),
                "{subject}"
            );
        }
        let backend = plan.cluster_named("backend").unwrap();
        assert_eq!(said("cluster backend", "endpoints tried at most"), backend.most_attempts.to_string());
        assert_eq!(said("cluster backend", field::MAX_RETRIES), backend.thresholds.max_retries.to_string());
        assert_eq!(said("cluster backend", field::MAX_REQUESTS), backend.thresholds.max_requests.to_string());
        assert_eq!(said("cluster backend", "ejection"), if backend.outlier.is_some() { "on" } else { "off" });
        if let Some(outlier) = backend.outlier {
            assert_eq!(
                said("cluster backend", "failed connects until ejection"),
                outlier.consecutive.to_string()
            );
            assert_eq!(said("cluster backend", "ejection time"), words(Some(outlier.ejection_time)));
            assert_eq!(said("cluster backend", "ejected at most"), format!("{} %", outlier.most_ejected));
        }
        // But for what is said, it is the plan that is in force.
        let in_force = compile(&config, &loaded.found).unwrap();
        assert_eq!(in_force, Plan { decisions: Default::default(), ..plan });
    }
}

#[test]
fn a_trial_that_would_be_an_error_says_so() {
    let many = (0..1001).map(|n| format!("{{type: IP, value: 10.0.{}.{}}}", n / 256, n % 256));
    let half: Vec<_> = many.collect();
    let policy = |name: &str, labels: &str, matches: &[String]| {
        format!(
            "---\n{{type: MeshPassthrough, name: {name}, labels: {{{labels}}}, spec: {{default: {{appendMatch: [{}]}}}}}}\n",
            matches.join(", ")
        )
    };
    let here = "---\n{type: Dataplane, name: here, networking: {address: 10.0.0.2}}\n";
    let shadow = policy("b", "kuma.io/effect: shadow", &half[900..]);
    let report = report(&format!("{here}{}{shadow}", policy("a", "", &half[..900])));
    let text = report.to_string();
    assert!(text.contains("  would be an error: m.yaml: document 3 (MeshPassthrough b): "), "{text}");
}
