// SPDX-License-Identifier: Apache-2.0
//! The pods and pod templates of a document.

use serde_json::Value;

/// Kinds with a pod, and its place.
const KINDS: [(&str, &str); 9] = [
    ("Pod", ""),
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("ReplicationController", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
    ("PodTemplate", "/template"),
];
/// Groups of those kinds. Another `Deployment` is not Kubernetes'.
const VERSIONS: [&str; 3] = ["v1", "apps/v1", "batch/v1"];

/// A pod's place in a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PodPlace {
    /// JSON pointer to the pod or the template.
    pub pointer: String,
    /// Kind, namespace and name, for people.
    pub title: String,
    pub namespace: Option<String>,
}

/// Finds the pods of a document, those in lists too.
pub(super) fn places(document: &Value) -> Vec<PodPlace> {
    let mut found = Vec::new();
    within(document, "", &mut found);
    found
}

fn within(value: &Value, pointer: &str, found: &mut Vec<PodPlace>) {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let (Some(kind), Some(version)) = (text("/kind"), text("/apiVersion")) else { return };
    if !VERSIONS.contains(&version) {
        return;
    }
    if let Some(items) = value.get("items").and_then(Value::as_array).filter(|_| kind.ends_with("List")) {
        for (place, item) in items.iter().enumerate() {
            within(item, &format!("{pointer}/items/{place}"), found);
        }
    } else if let Some((_, pod)) = KINDS.iter().find(|(name, _)| *name == kind) {
        let namespace = text("/metadata/namespace");
        let name =
            text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or("without a name");
        let title = match namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        };
        found.push(PodPlace {
            pointer: format!("{pointer}{pod}"),
            title,
            namespace: namespace.map(str::to_owned),
        });
    }
}
