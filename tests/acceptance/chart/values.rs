// SPDX-License-Identifier: Apache-2.0
//! The chart's values: which exist, and that all of them make objects that Kubernetes accepts.

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::chart::{Chart, KUBERNETES, NAMESPACE};
use serde_json::{Value, json};

use super::{POLICY, choices, rendered};

#[test]
fn helm_finds_nothing_to_complain_about() -> Result<()> {
    for (name, values) in choices()? {
        Chart::here()?.lint(&values).context(name)?;
    }
    Ok(())
}

#[test]
fn every_rendering_is_valid_in_every_kubernetes() -> Result<()> {
    let chart = Chart::here()?;
    let check = |kubernetes: &str| -> Result<()> {
        let folder = tempfile::tempdir()?;
        // Most objects are the same whatever is chosen: each is looked at once.
        let mut documents = BTreeSet::new();
        for (name, values) in choices()? {
            if name == POLICY && !["1.36", "1.37"].contains(&kubernetes) {
                continue;
            }
            let rendered = chart.render(&values, kubernetes).context(name.clone())?;
            ensure!(rendered.documents.len() >= 5, "{name}: {}", rendered.text);
            documents.extend(of_kubernetes(&rendered.text).map(str::to_owned));
        }
        let file = folder.path().join("all.yaml");
        fs::write(&file, documents.into_iter().collect::<Vec<_>>().join("\n---\n"))?;
        chart.validate(kubernetes, &[file])
    };
    // Two at a time: each is a process that computes.
    let (first, second) = KUBERNETES.split_at(KUBERNETES.len() / 2);
    thread::scope(|scope| {
        let other = scope.spawn(|| second.iter().try_for_each(|kubernetes| check(kubernetes)));
        first.iter().try_for_each(|kubernetes| check(kubernetes))?;
        match other.join() {
            Ok(result) => result,
            Err(_) => bail!("a check panicked"),
        }
    })
}

/// The documents but those of the Prometheus operator, for which Kubernetes has no schema.
fn of_kubernetes(text: &str) -> impl Iterator<Item = &str> {
    let kubernetes = |document: &&str| !document.contains("\napiVersion: monitoring.coreos.com/");
    let parts = text.split("\n---\n").map(|part| part.trim_start_matches("---\n"));
    parts.filter(|part| part.contains("\nkind: ")).filter(kubernetes)
}

/// Tools that compare what is rendered with what is there would never be done.
#[test]
fn a_second_rendering_is_the_first() -> Result<()> {
    for (name, values) in choices()? {
        let [first, second] = [rendered(&values)?, rendered(&values)?];
        ensure!(first.text == second.text, "{name}: a second rendering is another one");
    }
    Ok(())
}

/// Names that YAML reads as numbers and truth values, and Kubernetes takes.
#[test]
fn a_name_that_looks_like_a_number_stays_a_name() -> Result<()> {
    let chart = Chart::here()?;
    let folder = tempfile::tempdir()?;
    let values = json!({ "platform": "openshift", "resourceQuota": true, "image": { "pullSecrets": ["1", "true"] },
                         "agent": { "priorityClassName": "1e3", "seLinuxType": "1" } });
    let mut files = Vec::new();
    for (release, namespace) in [("123", "456"), ("true", "null"), ("1e3", "0x1")] {
        let file = folder.path().join(format!("{release}.yaml"));
        fs::write(&file, chart.render_as(release, namespace, &values, "1.37")?.text)?;
        files.push(file);
    }
    chart.validate("1.37", &files)
}

#[test]
fn the_schemas_refuse_a_field_that_kubernetes_does_not_know() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("wrong.yaml");
    let text = rendered(&json!({}))?.text;
    let wrong = text.replace("terminationGracePeriodSeconds", "terminationGraceSeconds");
    ensure!(wrong != text, "nothing was replaced");
    fs::write(&file, wrong)?;
    let refused = Chart::here()?.validate("1.30", &[file]).expect_err("a wrong field passed");
    assert!(format!("{refused:#}").contains("terminationGraceSeconds"), "{refused:#}");
    Ok(())
}

#[test]
fn wrong_values_are_refused_and_named() -> Result<()> {
    for (values, words) in [
        (json!({ "platfrom": "k3s" }), &["platfrom", "not allowed"][..]),
        (json!({ "platform": "k3d" }), &["/platform", "microk8s"]),
        (json!({ "platform": null }), &["platform"]),
        (json!({ "image": { "repository": "UPPER/case" } }), &["/image/repository"]),
        (json!({ "image": { "repository": "name:with a space" } }), &["/image/repository"]),
        (json!({ "image": { "tag": 1.0 } }), &["/image/tag", "want string"]),
        (json!({ "image": { "digest": "sha256:1234" } }), &["/image/digest"]),
        (json!({ "image": { "pullPolicy": "Sometimes" } }), &["/image/pullPolicy", "IfNotPresent"]),
        (json!({ "paths": { "cniConfDir": "etc/cni/net.d" } }), &["/paths/cniConfDir"]),
        // Its parent would be the node's root.
        (json!({ "paths": { "cniConfDir": "/net.d" } }), &["/paths/cniConfDir"]),
        (json!({ "paths": { "runtimeSocket": "/run.sock" } }), &["/paths/runtimeSocket"]),
        (json!({ "paths": { "cniBinDir": "/opt/../etc" } }), &["/paths/cniBinDir"]),
        (json!({ "paths": { "cniBinDir": "/" } }), &["/paths/cniBinDir"]),
        (json!({ "paths": { "cniBinDirs": "/opt" } }), &["cniBinDirs"]),
        (json!({ "agent": { "mode": "standalone" } }), &["/agent/mode", "drop-in"]),
        (json!({ "agent": { "position": "first" } }), &["/agent/position"]),
        (json!({ "agent": { "position": "after:" } }), &["/agent/position"]),
        (json!({ "agent": { "repair": true } }), &["/agent/repair", "report"]),
        (json!({ "agent": { "maxUnavailable": 0 } }), &["/agent/maxUnavailable"]),
        (json!({ "agent": { "maxUnavailable": "0%" } }), &["/agent/maxUnavailable"]),
        (json!({ "agent": { "tolerations": [{ "operator": "Any" }] } }), &["/agent/tolerations/0/operator"]),
        (json!({ "agent": { "affinity": { "nodeAfinity": {} } } }), &["/agent/affinity", "nodeAfinity"]),
        (json!({ "agent": { "affinity": [] } }), &["/agent/affinity", "object"]),
        (json!({ "agent": { "hostNetwork": true } }), &["hostNetwork"]),
        // The DaemonSet would not know its pods by these.
        (
            json!({ "agent": { "podLabels": { "app.kubernetes.io/component": "x" } } }),
            &["/agent/podLabels", "component"],
        ),
        (json!({ "agent": { "podLabels": { "a b": "x" } } }), &["/agent/podLabels"]),
        (json!({ "agent": { "podLabels": { "team": "a b" } } }), &["/agent/podLabels/team"]),
        // The agent behind its own redirect.
        (
            json!({ "agent": { "podAnnotations": { "culvert.dev/redirect": "enabled" } } }),
            &["/agent/podAnnotations", "redirect"],
        ),
        (json!({ "entry": { "onUnknown": "maybe" } }), &["/entry/onUnknown", "deny"]),
        (json!({ "entry": { "excludeNamespaces": "kube-system" } }), &["/entry/excludeNamespaces", "array"]),
        (json!({ "entry": { "redirect": { "proxyUidd": 1 } } }), &["proxyUidd"]),
        (json!({ "entry": { "redirect": { "proxyUid": 0 } } }), &["/entry/redirect/proxyUid"]),
        (json!({ "entry": { "redirect": { "outboundUdp": "drop" } } }), &["/entry/redirect/outboundUdp"]),
        (json!({ "entry": { "redirect": { "excludeInboundPorts": "80-" } } }), &["excludeInboundPorts"]),
        (json!({ "entry": { "locked": ["proxy-uid"] } }), &["/entry/locked/0"]),
        (json!({ "entry": { "logLevel": "loud" } }), &["/entry/logLevel"]),
        (json!({ "entry": { "logFile": "cni.log" } }), &["/entry/logFile"]),
        (json!({ "entry": { "logFile": "/cni.log" } }), &["/entry/logFile"]),
        (json!({ "hold": { "enabled": "yes" } }), &["/hold/enabled", "boolean"]),
        (json!({ "hold": { "taint": "a b" } }), &["/hold/taint"]),
        (json!({ "uninstall": { "unreachable": "ignore" } }), &["/uninstall/unreachable", "skip"]),
        (json!({ "uninstall": { "timeoutSeconds": "4m" } }), &["/uninstall/timeoutSeconds"]),
        (json!({ "resourceQuota": "yes" }), &["/resourceQuota"]),
        (json!({ "injector": { "mode": "magic" } }), &["/injector/mode", "webhook"]),
        (json!({ "injector": { "replicas": 0 } }), &["/injector/replicas"]),
        (json!({ "injector": { "sidecar": "init" } }), &["/injector/sidecar", "native"]),
        (json!({ "injector": { "excludeNamespaces": ["A"] } }), &["/injector/excludeNamespaces/0"]),
        (
            json!({ "injector": { "doctor": { "enabled": true, "namespaces": ["A"] } } }),
            &["/injector/doctor/namespaces/0"],
        ),
        (
            json!({ "injector": { "doctor": { "enabled": true } } }),
            &["injector.doctor.namespaces is empty", "={shop}"],
        ),
        (
            json!({ "injector": { "doctor": { "enabled": true, "namespaces": ["shop", "kube-system"] } } }),
            &["injector.doctor.namespaces: kube-system gets no sidecars"],
        ),
        (json!({ "injector": { "failurePolicy": "Ignore" } }), &["failurePolicy", "not allowed"]),
        (
            json!({ "injector": { "podLabels": { "culvert.dev/inject": "enabled" } } }),
            &["/injector/podLabels", "inject"],
        ),
        (json!({ "controller": { "replicas": 0 } }), &["/controller/replicas"]),
        (json!({ "controller": { "trustDomain": "Cluster.local" } }), &["/controller/trustDomain"]),
        (json!({ "controller": { "trustDomain": "" } }), &["/controller/trustDomain"]),
        (json!({ "controller": { "identityLife": "1w" } }), &["/controller/identityLife"]),
        (json!({ "controller": { "crds": true } }), &["/controller/crds", "always"]),
        (json!({ "controller": { "secret": "A b" } }), &["/controller/secret"]),
        (json!({ "controller": { "leader": true } }), &["leader", "not allowed"]),
        (
            json!({ "controller": { "podLabels": { "culvert.dev/inject": "enabled" } } }),
            &["/controller/podLabels", "inject"],
        ),
        (
            json!({ "controller": { "podAnnotations": { "culvert.dev/redirect": "enabled" } } }),
            &["/controller/podAnnotations", "redirect"],
        ),
        (json!({ "networkPolicy": { "metricsFrom": [{}] } }), &["/networkPolicy/metricsFrom/0"]),
        (json!({ "monitoring": { "podMonitor": { "interval": "often" } } }), &["/podMonitor/interval"]),
        (json!({ "monitoring": { "dashboards": {} } }), &["dashboards", "not allowed"]),
        (json!({ "test": { "namespace": "" } }), &["/test/namespace"]),
    ] {
        let Err(refused) = rendered(&values) else { bail!("{values} was taken") };
        let said = format!("{refused:#}");
        for word in words {
            assert!(said.contains(word), "{values}: no {word:?} in {said}");
        }
    }
    Ok(())
}

#[test]
fn the_notes_name_the_next_steps() -> Result<()> {
    let chart = Chart::here()?;
    let notes = chart.notes(&json!({ "injector": { "mode": "webhook" } }))?;
    for words in [
        "rollout status daemonset/culvert-agent",
        "rollout status deployment/culvert-injector",
        "helm test culvert --namespace culvert-system",
        "kubectl label namespace shop culvert.dev/inject=enabled",
        "kube-system, kube-public, kube-node-lease, culvert-system",
        "in no registry",
    ] {
        assert!(notes.contains(words), "no {words:?} in {notes}");
    }
    assert!(!notes.contains("taint"), "{notes}");
    assert!(!notes.contains("controller"), "{notes}");
    assert!(!notes.contains("AdmissionPolic") && !notes.contains("admissionpolic"), "{notes}");
    let of_policy = chart.notes(&json!({ "injector": { "mode": "policy" } }))?;
    for words in [
        "get mutatingadmissionpolicies,validatingadmissionpolicies culvert-injector",
        "--set injector.mode=webhook",
        "helm test culvert --namespace culvert-system",
        "kubectl label namespace shop culvert.dev/inject=enabled",
    ] {
        assert!(of_policy.contains(words), "no {words:?} in {of_policy}");
    }
    assert!(!of_policy.contains("deployment/culvert-injector"), "{of_policy}");
    for (values, words) in [
        (json!({ "hold": { "enabled": true } }), "culvert.dev/agent-not-ready"),
        (json!({ "uninstall": { "enabled": false } }), "will leave plugin and entry"),
        (
            json!({ "injector": { "enabled": false } }),
            "culvert-install inject --file web.yaml --image localhost/culvert:",
        ),
        (
            json!({ "controller": { "enabled": true, "trustDomain": "mesh.example" } }),
            "rollout status deployment/culvert-controller",
        ),
        (
            json!({ "controller": { "enabled": true, "trustDomain": "mesh.example" } }),
            "spiffe://mesh.example/ns/NAMESPACE/sa/ACCOUNT",
        ),
        (
            json!({ "controller": { "enabled": true }, "injector": { "enabled": false } }),
            "--control https://culvert-controller.culvert-system.svc:15012 --trust-domain cluster.local | kubectl",
        ),
    ] {
        let notes = chart.notes(&values)?;
        assert!(notes.contains(words), "no {words:?} in {notes}");
    }
    let elsewhere = chart.notes(&json!({ "image": { "repository": "registry.example.com/culvert" } }))?;
    assert!(!elsewhere.contains("in no registry"), "{elsewhere}");
    Ok(())
}

#[test]
fn the_nodes_defaults_are_those_that_the_plugin_knows() -> Result<()> {
    let schema: Value = serde_json::from_str(&Chart::file("values.schema.json")?)?;
    let known: BTreeSet<&str> = culvert_cni::pod::names().map(|(_, key)| key).collect();
    let redirect = &schema["properties"]["entry"]["properties"]["redirect"]["properties"];
    let offered: BTreeSet<&str> =
        redirect.as_object().context("no redirect")?.keys().map(String::as_str).collect();
    assert_eq!(offered, known);
    let lockable = &schema["properties"]["entry"]["properties"]["locked"]["items"]["enum"];
    assert_eq!(culvert_tests::chart::strings(lockable).into_iter().collect::<BTreeSet<_>>(), known);
    Ok(())
}

#[test]
fn the_entry_reaches_the_agent_as_the_plugin_reads_it() -> Result<()> {
    let entry = json!({ "excludeNamespaces": ["kube-system", "infra"], "onUnknown": "deny",
        "locked": ["proxyUid"], "logLevel": "debug", "logFile": "/srv/cni.log",
        "redirect": { "proxyUid": 4294967294u32, "excludeInboundPorts": "22", "dropInvalid": true } });
    let found = rendered(&json!({ "entry": entry }))?;
    let text = found.one("ConfigMap", "-entry")?["data"]["entry.json"].as_str().context("no entry")?;
    let mut expected = entry;
    // Its own pods start where no agent answers for them.
    expected["excludeNamespaces"] = json!(["kube-system", "infra", NAMESPACE]);
    assert_eq!(serde_json::from_str::<Value>(text)?, expected);
    // A number of any size stays one: helm's own are floating.
    assert!(text.contains("4294967294"), "{text}");
    Ok(())
}
