//! Documents as users of Kuma have them: all that `kubectl get` prints of a mesh, and a Dataplane with variables.

use std::fs;

use anyhow::Result;
use culvert_tests::eventually;

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::walkthrough::{OPEN_MESH, dump, of_dump, onboarded, with_documents};

/// A zone's mesh by `kubectl get … -A -o yaml`.
const LIST: &str = "apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: kuma.io/v1alpha1
  kind: Mesh
  metadata: {name: default, resourceVersion: '1234', uid: a}
  spec:
    meshServices: {mode: Exclusive}
    skipCreatingInitialPolicies: ['*']
    metrics: {enabledBackend: prom, backends: [{name: prom, type: prometheus, conf: {port: 5670, path: /metrics}}]}
    routing: {zoneEgress: true}
- apiVersion: v1
  kind: Secret
  metadata: {name: default.ca-builtin-cert-ca-1, namespace: kuma-system}
  type: system.kuma.io/secret
  data: {value: eA==}
- apiVersion: kuma.io/v1alpha1
  kind: DataplaneInsight
  mesh: default
  metadata: {name: web-1, namespace: shop}
  status: {subscriptions: [{id: a, version: {kumaDp: {version: 2.14.3}}}]}
- apiVersion: kuma.io/v1alpha1
  kind: Zone
  metadata: {name: zone-1}
  spec: {enabled: true}
- apiVersion: kuma.io/v1alpha1
  kind: Dataplane
  mesh: default
  metadata: {name: web-1, namespace: shop, labels: {app: web, kuma.io/zone: zone-1}}
  spec:
    networking:
      address: 192.0.2.10
      admin: {port: 9901}
      inbound:
      - port: 80
        name: http
        state: NotReady
        health: {ready: false}
        protocol: http
        tags: {kuma.io/service: web_shop_svc_80, kuma.io/protocol: http, kuma.io/zone: zone-1}
      transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001, reachableBackends: {}}
    probes: {port: 9000, endpoints: [{inboundPort: 80, inboundPath: /healthz, path: /80/healthz}]}
- apiVersion: kuma.io/v1alpha1
  kind: MeshTrafficPermission
  metadata: {name: allow-all, namespace: kuma-system, labels: {kuma.io/mesh: default}}
  spec: {targetRef: {kind: Mesh}, from: [{targetRef: {kind: Mesh}, default: {action: Allow}}]}
";

#[test]
fn what_kubectl_prints_of_a_mesh_loads_and_says_what_it_leaves_out() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let file = folder.join("mesh.yaml");
    fs::write(&file, LIST)?;
    let mut validated =
        lab.pod.sidecar().options(["validate", &folder.display().to_string()]).start_unready()?;
    assert_eq!(validated.wait(SOON)?.code(), Some(0), "{}", validated.stderr().text());
    let sidecar = with_documents(&lab, &folder, &[])?;
    for line in [
        "left out: 1 Secret document (keys and tokens",
        "left out: 1 DataplaneInsight document (state",
        "left out: 1 Zone document (a zone",
        "without effect here: networking.admin of 1 Dataplane document (",
        "without effect here: probes of 1 Dataplane document (",
        "without effect here: meshServices of 1 Mesh document (",
        "without effect here: skipCreatingInitialPolicies of 1 Mesh document (",
        "without effect here: routing of 1 Mesh document (",
    ] {
        let said = validated.stdout().text();
        assert_eq!(said.matches(&format!("warning: {line}")).count(), 1, "{line}: {said}");
        let log = sidecar.stderr().text();
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    assert!(validated.stdout().text().contains("\n3 documents are well-formed; "));
    let counted = || {
        Ok::<_, anyhow::Error>([
            sidecar.stat("config_left_out_documents")?,
            sidecar.stat("config_left_out_fields")?,
        ])
    };
    assert_eq!(counted()?, [3, 5]);
    assert!(sidecar.metrics()?.contains("\nculvert_config_left_out{what=\"documents\"} 3\n"));
    replace(&file, OPEN_MESH)?;
    eventually!(counted().is_ok_and(|counted| counted == [0, 0]), SOON);
    // A kind that would change what the pod does is no such kind.
    replace(&file, &format!("{OPEN_MESH}---\n{{type: MeshOPA, name: o, spec: {{}}}}\n"))?;
    eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n == 1), SOON);
    assert_eq!(counted()?, [0, 0]);
    Ok(())
}

#[test]
fn a_dataplane_with_variables_is_this_pod() -> Result<()> {
    let (lab, folder) = onboarded()?;
    fs::write(
        folder.join("dataplane.yaml"),
        format!(
            "type: Dataplane\nmesh: default\nname: {{{{ name }}}}\nnetworking:\n  address: {{{{ address }}}}\n  {TRANSPARENT}\n  \
             inbound:\n  - port: {{{{ port }}}}\n    tags: {{kuma.io/service: '{{{{ name }}}}-api'}}\n"
        ),
    )?;
    let variables = [
        "--dataplane",
        "here",
        "--dataplane-var",
        "name=here,address=10.77.0.2",
        "--dataplane-var",
        "port=8080",
    ];
    let sidecar = with_documents(&lab, &folder, &variables)?;
    assert!(of_dump(&dump(&sidecar)?, "inbound:10.77.0.2:8080").is_some());
    drop(sidecar);
    let path = folder.display().to_string();
    for first in [["validate", path.as_str()], ["--resources", path.as_str()]] {
        let mut sidecar = lab.pod.sidecar().options(first).options(&variables[..4]).start_unready()?;
        assert_eq!(sidecar.wait(SOON)?.code(), Some(64));
        let said = sidecar.stderr().text();
        let expected = "dataplane.yaml: document 1 (Dataplane here): networking.inbound[0].port: found {{ port }}, a variable \
                        without a value; allowed: a variable with a value: --dataplane-var port=VALUE";
        assert!(said.contains(expected), "{said}");
        assert_eq!(said.lines().filter(|line| line.contains("allowed: ")).count(), 1, "no other: {said}");
    }
    let mut other = lab.pod.sidecar();
    other = other.options(["validate", &path, "--dataplane", "other"]).options(&variables[2..]);
    let mut other = other.start_unready()?;
    assert_eq!(other.wait(SOON)?.code(), Some(64));
    let said = other.stderr().text();
    assert!(said.contains("found a variable, {{ name }}, in a Dataplane that is not this pod's"), "{said}");
    Ok(())
}
