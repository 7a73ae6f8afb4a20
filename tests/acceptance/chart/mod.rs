// SPDX-License-Identifier: Apache-2.0
//! The Helm chart, the container image, and the sidecar's manifests in the README.

mod controller;
pub(crate) mod image;
mod injection;
mod nodes;
mod observed;
mod options;
mod page;
mod replicas;
mod sbom;
mod sidecar;
mod values;

use anyhow::Result;
use culvert_tests::chart::{Chart, KUBERNETES, Rendered};
use serde_json::{Value, json};

/// Sets of values as users choose them, each under a name: the chart's own files of values, and more.
fn choices() -> Result<Vec<(String, Value)>> {
    let mut all = Chart::value_files()?;
    all.extend(others().into_iter().map(|(name, values)| (name.to_owned(), values)));
    Ok(all)
}

/// The choice that Kubernetes has from 1.36 on only.
const POLICY: &str = "policy";

fn others() -> Vec<(&'static str, Value)> {
    vec![
        ("defaults", json!({})),
        ("hold", json!({ "hold": { "enabled": true, "taint": "example.com/born-so" } })),
        (
            "drop-in",
            json!({ "agent": { "mode": "drop-in", "position": "after:portmap", "repair": "report",
                               "appArmorProfile": "RuntimeDefault", "maxUnavailable": "10%",
                               "podLabels": { "team": "net", "example.com/tier": "1" },
                               "podAnnotations": { "example.com/note": "a: b\n- c" } } }),
        ),
        (
            "other paths",
            json!({ "platform": "crio", "paths": {
                "cniConfDir": "/srv/cni/net.d", "cniBinDir": "/srv/cni/bin",
                "runtimeConfigDir": "/srv/runtime", "runtimeSocket": "/srv/sockets/runtime.sock" } }),
        ),
        (
            "another image",
            json!({ "image": { "repository": "registry.example.com:5000/net/culvert", "tag": "edge",
                               "digest": format!("sha256:{}", "0".repeat(64)), "pullSecrets": ["registry"] } }),
        ),
        (
            "an entry",
            json!({ "entry": { "excludeNamespaces": [], "onUnknown": "deny", "locked": ["proxyUid"],
                               "redirect": { "proxyUid": 4294967294u32, "excludeInboundPorts": "22,8000-8999",
                                             "dropInvalid": true } } }),
        ),
        (
            "some nodes",
            json!({ "agent": {
                "nodeSelector": { "pool": "apps" },
                "tolerations": [{ "key": "pool", "operator": "Equal", "value": "apps", "effect": "NoSchedule" }],
                "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{ "matchExpressions": [
                        { "key": "zone", "operator": "In", "values": ["a", "b"] }] }] } } } } }),
        ),
        ("any node", json!({ "agent": { "affinity": null } })),
        ("no injector", json!({ "injector": { "enabled": false } })),
        (
            "one injector",
            json!({ "injector": {
                "mode": "webhook", "replicas": 1, "sidecar": "plain", "kumaLabel": false, "excludeNamespaces": ["infra", "1"],
                "podLabels": { "team": "net" }, "podAnnotations": { "example.com/note": "a: b" },
                "tolerations": [{ "operator": "Exists" }],
                "affinity": { "podAntiAffinity": {}, "nodeAffinity": {} } } }),
        ),
        ("webhook", json!({ "injector": { "mode": "webhook" } })),
        (POLICY, json!({ "injector": { "mode": "policy", "sidecar": "plain" } })),
        (
            "doctor",
            json!({ "injector": { "doctor": { "enabled": true, "namespaces": ["shop", "1"] } },
                           "image": { "pullSecrets": ["registry"] } }),
        ),
        (
            "doctor of a webhook",
            json!({ "injector": { "mode": "webhook", "doctor": { "enabled": true, "namespaces": ["shop"] } },
                    "platform": "openshift" }),
        ),
        ("watched", watched()),
        (
            "controller",
            json!({ "controller": {
                "enabled": true, "replicas": 3, "trustDomain": "1", "identityLife": "12h", "crds": "never", "secret": "own",
                "podLabels": { "team": "net" }, "podAnnotations": { "example.com/note": "a: b" },
                "tolerations": [{ "operator": "Exists" }], "priorityClassName": "1e3",
                "affinity": { "podAntiAffinity": {}, "nodeAffinity": {} } } }),
        ),
        (
            "controller beside a webhook",
            json!({ "controller": { "enabled": true, "replicas": 1 }, "injector": { "mode": "webhook" } }),
        ),
        (
            "identities by requests",
            json!({ "controller": { "enabled": true }, "identity": { "mode": "requests" } }),
        ),
        (
            "identities in volumes",
            json!({ "controller": { "enabled": true }, "identity": { "mode": "directory" }, "injector": { "mode": "webhook" } }),
        ),
        ("no uninstall", json!({ "uninstall": { "enabled": false } })),
    ]
}

/// All that watches and fences the chart's pods.
fn watched() -> Value {
    let peers = json!([{ "namespaceSelector": { "matchLabels": { "team": "monitoring" } } },
                       { "ipBlock": { "cidr": "10.0.0.0/8" } }]);
    let monitor = json!({ "enabled": true, "interval": "30s", "labels": { "release": "prometheus" } });
    json!({
        "controller": { "enabled": true },
        "networkPolicy": { "enabled": true, "metricsFrom": peers },
        "monitoring": { "podMonitor": monitor, "serviceMonitor": monitor,
                        "dashboard": { "enabled": true, "annotations": { "grafana_folder": "net" } } },
    })
}

/// The same with a server that injects.
fn with_webhook(values: &Value) -> Result<Rendered> {
    let mut values = values.clone();
    values["injector"]["mode"] = "webhook".into();
    rendered(&values)
}

/// As the newest Kubernetes gets it.
fn rendered(values: &Value) -> Result<Rendered> {
    Chart::here()?.render(values, KUBERNETES[KUBERNETES.len() - 1])
}
