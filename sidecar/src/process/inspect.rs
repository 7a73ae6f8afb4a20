// SPDX-License-Identifier: Apache-2.0
//! `culvert-sidecar inspect PATH…`: what documents decide for the pod, by which of them and in which order.

use crate::options::Options;
use crate::plan::load::{self, PlanSources};
use crate::plan::names::Standing;
use crate::plan::report::{Caller, Report};
use std::path::PathBuf;

/// Explains the documents below the paths, and with a caller the verdict about it.
///
/// # Errors
/// Every error in the options, the caller's identity or the documents.
pub fn inspect(options: Options, caller: Option<&str>, paths: &[PathBuf]) -> Result<String, Vec<String>> {
    let mut config = options.with_resources(paths).check().map_err(|errors| words(&errors))?;
    config.any_pod = config.dataplane.is_none();
    config.checks_only = true;
    let caller =
        caller.map(|id| Caller::new(&config, id).map_err(|error| vec![format!("--caller {id:?}: {error}")]));
    let caller = caller.transpose()?;
    let read = load::read(&config, &PlanSources { paths, ..PlanSources::default() }, &Standing::default());
    let (_, found) = read.map_err(|errors| words(&errors))?;
    Ok(Report::of(&config, &found, caller.as_ref()).to_string().trim_end().to_owned())
}

fn words<E: ToString>(errors: &[E]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const DOCUMENTS: &str = "
{type: Mesh, name: default, mtls: {enabledBackend: ca, backends: [{name: ca, mode: PERMISSIVE}]}}
---
{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 80, tags: {kuma.io/service: here}}, {port: 81, tags: {kuma.io/service: ops}}]}}
---
{type: MeshTLS, name: strict, spec: {rules: [{default: {mode: Strict}}]}}
---
{type: MeshTrafficPermission, name: all, spec: {from: [{targetRef: {kind: MeshService, name: web}, default: {action: Allow}}]}}
---
{type: MeshTrafficPermission, name: closed, spec: {targetRef: {kind: MeshService, name: here}, from: [{targetRef: {kind: Mesh}, default: {action: Deny}}]}}
---
{type: MeshTrafficPermission, name: ops, spec: {targetRef: {kind: MeshService, name: here},
  rules: [{default: {allow: [{spiffeID: {type: Prefix, value: 'spiffe://default/ops/'}}]}}]}}
";

    fn inspected(caller: Option<&str>, documents: &str) -> Result<String, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        std::fs::write(&path, documents).unwrap();
        let options = Options::try_parse_from(["culvert-sidecar", "--dataplane=here"]).unwrap();
        let text = inspect(options, caller, &[path]);
        text.map(|text| text.replace(&folder.path().display().to_string(), ""))
    }

    #[test]
    fn each_port_has_its_reasons_in_the_order_in_which_they_decide() {
        insta::assert_snapshot!(inspected(Some("spiffe://default/web"), DOCUMENTS).unwrap());
    }

    #[test]
    fn the_path_of_a_foreign_authority_names_no_service() {
        let text = inspected(Some("spiffe://cluster.local/web"), DOCUMENTS).unwrap();
        assert_eq!(text.matches("spiffe://cluster.local/web: is refused").count(), 3, "{text}");
    }

    #[test]
    fn a_caller_that_tls_refuses_is_refused_whatever_permissions_say() {
        let allow = "---\n{type: MeshTrafficPermission, name: any, spec: {targetRef: {kind: Dataplane, name: here}, from: [{targetRef: {kind: Mesh}, default: {action: Allow}}]}}\n";
        for (caller, why) in [
            ("spiffe://default", "by TLS: it has no path, so it is a trust domain and no workload"),
            (
                "spiffe://cluster.local/web",
                "by TLS: it is of the trust domain cluster.local, and this pod believes default",
            ),
        ] {
            let text = inspected(Some(caller), &format!("{DOCUMENTS}{allow}")).unwrap();
            assert_eq!(text.matches(&format!("{caller}: is refused, {why}\n")).count(), 3, "{text}");
        }
        let text = inspected(Some("spiffe://default/any"), &format!("{DOCUMENTS}{allow}")).unwrap();
        assert_eq!(text.matches("spiffe://default/any: may call, by 1\n").count(), 1, "{text}");
        assert_eq!(text.matches("spiffe://default/any: is refused, by 1\n").count(), 1, "{text}");
        let closed = "spiffe://default/any: is refused, STRICT closes ports that no inbound names\n";
        assert_eq!(text.matches(closed).count(), 1, "{text}");
    }

    fn authority() -> String {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn a_caller_of_a_trust_domain_that_a_mesh_trust_names_is_judged_by_permissions() {
        let documents = format!(
            "{{type: Mesh, name: default}}
---
{{type: Dataplane, name: here, labels: {{}}, networking: {{address: 10.0.0.2, inbound: [{{port: 80, tags: {{kuma.io/service: here}}}}]}}}}
---
{{type: MeshIdentity, name: all, spec: {{selector: {{dataplane: {{}}}}, provider: {{type: Spire, spire: {{}}}}}}}}
---
{{type: MeshTrust, name: friends, spec: {{trustDomain: friends, caBundles: [{{type: Pem, pem: {{value: {}}}}}]}}}}
---
{{type: MeshTrafficPermission, name: all, spec: {{rules: [{{default: {{allow: [{{spiffeID: {{type: Prefix, value: 'spiffe://'}}}}]}}}}]}}}}
",
            serde_json::Value::from(authority())
        );
        for (caller, verdict) in [
            ("spiffe://default.default.mesh.local/ns/a", "may call, by 1"),
            ("spiffe://friends/ns/a", "may call, by 1"),
            (
                "spiffe://default/web",
                "is refused, by TLS: it is of the trust domain default, and this pod believes default.default.mesh.local or friends",
            ),
        ] {
            let text = inspected(Some(caller), &documents).unwrap();
            assert!(text.contains(&format!("  {caller}: {verdict}\n")), "{text}");
        }
    }

    #[test]
    fn the_ports_of_a_gateway_are_there_for_strangers_and_those_of_its_metrics_for_members() {
        let documents = "
{type: Mesh, name: default, mtls: {enabledBackend: ca, backends: [{name: ca, mode: STRICT}]}}
---
{type: Dataplane, name: here, networking: {address: 10.0.0.2, gateway: {tags: {kuma.io/service: edge}}}}
---
{type: MeshMetric, name: all, spec: {default: {backends: [{type: Prometheus, prometheus: {}}]}}}
";
        let text = inspected(None, documents).unwrap();
        assert!(text.contains("\nport 5670, of metrics\n  mode: STRICT\n"), "{text}");
        assert!(text.contains("\nports that no inbound names\n  mode: PERMISSIVE\n"), "{text}");
        assert!(text.contains("     1. PERMISSIVE  Dataplane here ("), "{text}");
    }

    #[test]
    fn who_the_pod_is_and_whom_it_believes_stands_before_its_ports() {
        let documents = DOCUMENTS.replace("enabledBackend: ca, ", "").replace(", spec: {rules: [{default: {mode: Strict}}]}", ", spec: {targetRef: {kind: Dataplane, sectionName: '81'}, rules: [{default: {mode: Permissive}}]}")
            + "---
{type: MeshIdentity, name: all, spec: {selector: {dataplane: {}}, provider: {type: Spire, spire: {}}}}
---
{type: MeshIdentity, name: none, spec: {selector: {}, provider: {type: Spire, spire: {}}}}
";
        let text = inspected(Some("spiffe://default.default.mesh.local/ops"), &documents).unwrap();
        insta::assert_snapshot!(text);
        let alone = documents.split("---\n{type: MeshTrafficPermission").next().unwrap().to_owned()
            + &documents[documents.find("---\n{type: MeshIdentity").unwrap()..];
        let text = inspected(Some("spiffe://default.default.mesh.local/web"), &alone).unwrap();
        assert_eq!(text.matches("members: none may call").count(), 3, "{text}");
        assert_eq!(text.matches("/web: is refused").count(), 3, "{text}");
    }

    #[test]
    fn a_mesh_without_tls_knows_no_caller_and_wrong_input_is_an_error() {
        let open = DOCUMENTS.replace("enabledBackend: ca, ", "");
        assert!(
            inspected(None, &open)
                .unwrap()
                .contains("\nThe mesh has no mTLS: every peer may call every port.\n")
        );
        let wrong = inspected(Some("web"), DOCUMENTS).unwrap_err();
        assert!(wrong.len() == 1 && wrong[0].starts_with("--caller \"web\": "), "{wrong:?}");
        assert!(inspected(None, "{type: Mesh}").is_err());
    }
}
