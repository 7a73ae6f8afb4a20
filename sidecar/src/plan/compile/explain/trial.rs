// SPDX-License-Identifier: Apache-2.0
//! Policies on trial (`kuma.io/effect: shadow`): their warning, and the second plan by which connections count what these
//! policies would do.

use crate::options::config::Config;
use crate::plan::Plan;
use crate::plan::compile::{Documents, compiled};
use crate::plan::decisions::Decisions;
use crate::plan::decisions::trial::OnTrial;
use crate::plan::names::Standing;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Kind;
use std::sync::Arc;

/// Kinds whose effect a second plan says. Who may call has a shadow in each gate.
const COUNTED: [Kind; 4] =
    [Kind::MeshRateLimit, Kind::MeshCircuitBreaker, Kind::MeshTcpRoute, Kind::MeshPassthrough];

/// Adds what connections count of the policies on trial. The second plan is made only where there is such a policy.
pub(in crate::plan::compile) fn add_trial(
    plan: &mut Plan,
    (config, standing): (&Config, &Standing),
    found: &Documents<'_>,
) {
    let is_counted = |document: &Document| {
        COUNTED.contains(&document.kind()) && document.mesh == config.mesh && document.is_shadow()
    };
    if !found.all.iter().copied().any(is_counted) {
        return;
    }
    match compiled((config, standing), found, Decisions::default(), true) {
        Ok(tried) => plan.trial = OnTrial::between(plan, &tried).map(Arc::new),
        Err(errors) => {
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            plan.warnings.push(format!(
                "policies on trial are not counted, as they would be {} errors, the first: {first}",
                errors.len()
            ));
        }
    }
}

/// Returns the warning of a policy on trial: it is not in force, and where its effect is seen.
pub(in crate::plan::compile) fn trial_warning(document: &Document) -> String {
    let seen = match document.kind() {
        Kind::MeshTrafficPermission
        | Kind::MeshTls
        | Kind::MeshRateLimit
        | Kind::MeshTcpRoute
        | Kind::MeshPassthrough => "what it would do is counted",
        Kind::MeshFaultInjection => "no request has its faults, and inspect shows what it would change",
        Kind::MeshCircuitBreaker => {
            "connections above its maxConnections are counted, and inspect shows what else it would change"
        }
        _ => "inspect shows what it would change",
    };
    let (kind, name) = (document.kind().name(), &document.name);
    format!("{kind} {name} is on trial (kuma.io/effect: shadow) and not in force: {seen}")
}

#[cfg(test)]
mod tests {
    use crate::options::Options;
    use crate::plan::compile::{compile, read_with_mesh};
    use clap::Parser;

    #[test]
    fn the_warning_of_each_kind_says_where_its_effect_is_seen() {
        let here = "{type: Dataplane, name: here, networking: {address: 10.0.0.2}}\n";
        let to = |conf: &str| format!("to: [{{targetRef: {{kind: Mesh}}, default: {{{conf}}}}}]");
        let route = "to: [{targetRef: {kind: MeshService, name: web}, rules: [{default: {backendRefs: [{kind: MeshService, name: web}]}}]}]";
        for (kind, spec, seen) in [
            (
                "MeshTrafficPermission",
                "rules: [{default: {allow: [{spiffeID: {type: Prefix, value: 'spiffe://'}}]}}]".to_owned(),
                "what it would do is counted",
            ),
            ("MeshTLS", "rules: [{default: {mode: Strict}}]".into(), "what it would do is counted"),
            (
                "MeshRateLimit",
                "rules: [{default: {local: {tcp: {connectionRate: {num: 1, interval: 1s}}}}}]".into(),
                "what it would do is counted",
            ),
            (
                "MeshRateLimit",
                "rules: [{default: {local: {http: {requestRate: {num: 1, interval: 1s}}}}}]".into(),
                "what it would do is counted",
            ),
            (
                "MeshFaultInjection",
                "from: [{targetRef: {kind: Mesh}, default: {http: [{abort: {httpStatus: 503, percentage: 100}}]}}]".into(),
                "no request has its faults, and inspect shows",
            ),
            ("MeshPassthrough", "default: {passthroughMode: None}".into(), "what it would do is counted"),
            ("MeshTCPRoute", route.into(), "what it would do is counted"),
            (
                "MeshCircuitBreaker",
                to("connectionLimits: {maxConnections: 1}"),
                "connections above its maxConnections are counted",
            ),
            ("MeshTimeout", to("idleTimeout: 1m"), "inspect shows what it would change"),
            ("MeshRetry", to("tcp: {maxConnectAttempt: 1}"), "inspect shows what it would change"),
            ("MeshHealthCheck", to("tcp: {}"), "inspect shows what it would change"),
            (
                "MeshLoadBalancingStrategy",
                to("loadBalancer: {type: Random}"),
                "inspect shows what it would change",
            ),
            ("MeshAccessLog", to("backends: []"), "inspect shows what it would change"),
            ("MeshMetric", "default: {backends: []}".into(), "inspect shows what it would change"),
        ] {
            let documents = format!(
                "{here}---\n{{type: {kind}, name: p, labels: {{kuma.io/effect: shadow}}, spec: {{{spec}}}}}\n"
            );
            let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
            let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
            let loaded = read_with_mesh(&config, &documents, "m.yaml");
            assert_eq!(loaded.errors, [], "{kind}");
            let warnings = compile(&config, &loaded.found).unwrap().warnings;
            let begins = format!("{kind} p is on trial (kuma.io/effect: shadow) and not in force: {seen}");
            assert!(warnings.iter().any(|one| one.starts_with(&begins)), "{kind}: {warnings:?}");
        }
    }
}
