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

/// The content of a document, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub pods: Vec<PodPlace>,
    /// Titles of other kinds with containers where a Deployment has them.
    pub unknown: Vec<String>,
}

/// Kind and version of a value without its own: an item of a `PodList` is a Pod of the list's version.
type Inherited<'a> = Option<(&'a str, &'a str)>;

/// Finds the pods of a document, those in lists too.
pub(super) fn places(document: &Value) -> Places {
    let mut found = Places::default();
    within(document, "", None, &mut found);
    found
}

fn within(value: &Value, pointer: &str, inherited: Inherited<'_>, found: &mut Places) {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let own = text("/kind").zip(text("/apiVersion"));
    let Some((kind, version)) = own.or_else(|| inherited.filter(|_| text("/kind").is_none())) else { return };
    if let Some(items) = value.get("items").and_then(Value::as_array).filter(|_| kind.ends_with("List")) {
        let of_items = kind.strip_suffix("List").filter(|kind| !kind.is_empty()).map(|kind| (kind, version));
        for (place, item) in items.iter().enumerate() {
            within(item, &format!("{pointer}/items/{place}"), of_items, found);
        }
        return;
    }
    let namespace = text("/metadata/namespace");
    let name = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or("without a name");
    let title = match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    let known = KINDS.iter().find(|(name, _)| *name == kind).filter(|_| VERSIONS.contains(&version));
    if let Some((_, pod)) = known {
        found.pods.push(PodPlace {
            pointer: format!("{pointer}{pod}"),
            title,
            namespace: namespace.map(str::to_owned),
        });
    } else if let Some(Value::Array(containers)) = value.pointer("/spec/template/spec/containers")
        && !containers.is_empty()
    {
        found.unknown.push(title);
    }
}
