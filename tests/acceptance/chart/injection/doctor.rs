// SPDX-License-Identifier: Apache-2.0
//! The account of `culvert-install doctor --cluster`, and the command that helm prints for it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{Chart, NAMESPACE, Rendered};
use serde_json::{Value, json};

use super::injector::rights;
use crate::chart::options::takes;
use crate::chart::rendered;

const DOCTOR: &str = "culvert-doctor";

/// The doctor's roles of a kind, each by its namespace; that of the cluster has none.
fn of_doctor(rendered: &Rendered, kind: &str) -> BTreeMap<String, Value> {
    let all = rendered.documents.iter();
    let own = all.filter(|object| object["kind"] == kind && object["metadata"]["name"] == DOCTOR);
    own.map(|object| {
        (object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(), object.clone())
    })
    .collect()
}

#[test]
fn the_doctor_may_do_what_the_page_says_and_nothing_else() -> Result<()> {
    let set = |all: &[&str]| all.iter().map(|&right| right.to_owned()).collect::<BTreeSet<_>>();
    let group = "admissionregistration.k8s.io";
    let read = set(&[
        &format!("get {group}/mutatingwebhookconfigurations culvert-injector"),
        // Of either mode: where its own object is missing, a refusal about the other's would hide that.
        &format!("get {group}/mutatingadmissionpolicies culvert-injector"),
        "get /namespaces",
        "list /namespaces",
        "list /pods",
        "list kuma.io/*",
    ]);
    for (mode, of_cluster, own) in [
        ("webhook", read.clone(), Some(set(&["get /secrets culvert-injector"]))),
        // There is no certificate.
        ("policy", read, None),
    ] {
        let doctor = json!({ "enabled": true, "namespaces": ["shop", "web"] });
        let rendered = rendered(&json!({ "injector": { "mode": mode, "doctor": doctor } }))?;
        let mut expected = BTreeMap::from([(String::new(), of_cluster)]);
        expected.extend(own.map(|own| (NAMESPACE.to_owned(), own)));
        expected.extend(["shop", "web"].map(|name| (name.to_owned(), set(&["create /pods"]))));
        let mut found = of_doctor(&rendered, "ClusterRole");
        found.extend(of_doctor(&rendered, "Role"));
        let found: BTreeMap<_, _> = found.iter().map(|(of, role)| (of.clone(), rights(role))).collect();
        assert_eq!(found, expected, "{mode}");
        let mut bindings = of_doctor(&rendered, "ClusterRoleBinding");
        bindings.extend(of_doctor(&rendered, "RoleBinding"));
        ensure!(bindings.keys().eq(expected.keys()), "{bindings:?}");
        for (of, binding) in bindings {
            let kind = if of.is_empty() { "ClusterRole" } else { "Role" };
            assert_eq!(
                (&binding["roleRef"]["kind"], &binding["roleRef"]["name"]),
                (&json!(kind), &json!(DOCTOR))
            );
            let account = json!([{ "kind": "ServiceAccount", "name": DOCTOR, "namespace": NAMESPACE }]);
            assert_eq!(binding["subjects"], account);
        }
        assert_eq!(of_doctor(&rendered, "ServiceAccount")[NAMESPACE]["automountServiceAccountToken"], false);
    }
    // With a controller, in both modes, which of its replicas writes.
    for mode in ["webhook", "policy"] {
        let doctor = json!({ "enabled": true, "namespaces": ["shop"] });
        let values =
            json!({ "controller": { "enabled": true }, "injector": { "mode": mode, "doctor": doctor } });
        let lease = "get coordination.k8s.io/leases culvert-controller";
        let own = rights(&of_doctor(&rendered(&values)?, "Role")[NAMESPACE]);
        ensure!(own.contains(lease), "{mode}: {own:?}");
    }
    let page = Chart::file("OPERATIONS.md")?;
    for row in [
        "| mutatingwebhookconfigurations, mutatingadmissionpolicies: get of one name |",
        "| namespaces: get, list |",
        "| pods: list; every kind of `kuma.io`: list |",
        "| leases: get of one name, with `controller.enabled` |",
        "| secrets: get of one name |",
        "| pods: create, in `injector.doctor.namespaces` only |",
    ] {
        ensure!(page.contains(row), "{row} is not in OPERATIONS.md");
    }
    let text = rendered(&json!({}))?.text;
    ensure!(!text.contains("doctor"), "it may do something without being asked for");
    Ok(())
}

#[test]
fn helm_prints_the_doctors_command_whole() -> Result<()> {
    let chart = Chart::here()?;
    for (mode, platform) in [("webhook", "containerd"), ("policy", "openshift")] {
        let doctor = json!({ "enabled": true, "namespaces": ["shop", "web"] });
        let values = json!({ "platform": platform, "image": { "pullSecrets": ["registry"] },
                             "injector": { "mode": mode, "doctor": doctor } });
        let notes = chart.notes(&values)?.replace("\\\n", " ");
        let line = notes.lines().find(|line| line.contains(" run culvert-doctor ")).context("no command")?;
        let (kubectl, program) = line.split_once(" --command -- ").context("no program")?;
        ensure!(
            kubectl.contains("--namespace culvert-system") && kubectl.contains("--image=localhost/culvert:")
        );
        let (_, overrides) = kubectl.split_once("--overrides='").context("no overrides")?;
        let overrides: Value = serde_json::from_str(overrides.split('\'').next().unwrap_or_default())?;
        let spec = &overrides["spec"];
        assert_eq!(spec["serviceAccountName"], DOCTOR);
        assert_eq!(spec["automountServiceAccountToken"], true);
        assert_eq!(spec["imagePullSecrets"], json!([{ "name": "registry" }]));
        assert_eq!(spec["securityContext"]["runAsUser"].is_null(), platform == "openshift", "{spec}");
        let words: Vec<&str> = program.split_whitespace().collect();
        assert_eq!(words[..3], ["/bin/culvert-install", "doctor", "--cluster"]);
        assert_eq!(
            words[3..],
            ["--namespace=shop", "--webhook=culvert-injector", "--secret=culvert-injector"]
        );
        takes(&json!(words[..2]), &json!(words[2..]))?;
        let mut runs = notes.lines().filter(|line| line.contains(" run culvert-doctor "));
        let status = runs.nth(1).context("no status")?;
        let (of_status, program) = status.split_once(" --command -- ").context("no program")?;
        assert_eq!(of_status, kubectl, "it runs by the same account");
        let words: Vec<&str> = program.split_whitespace().collect();
        assert_eq!(words, ["/bin/culvert-install", "status", "--cluster", "--webhook=culvert-injector"]);
        takes(&json!(words[..2]), &json!(words[2..]))?;
    }
    ensure!(!chart.notes(&json!({}))?.contains("run culvert-doctor"));
    Ok(())
}
