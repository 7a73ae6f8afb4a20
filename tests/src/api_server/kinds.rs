// SPDX-License-Identifier: Apache-2.0
//! The kinds that are served: Kubernetes' own, and those of CustomResourceDefinitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::path::Resource;

/// The group of CustomResourceDefinitions.
pub(super) const EXTENSIONS: &str = "apiextensions.k8s.io";
pub(super) const DEFINITIONS: &str = "customresourcedefinitions";

/// Version, plural, kind, and the letters `n` for namespaced, `s` for a status of its own, `v` for kinds of which a PUT
/// must name the version that it replaces.
const OWN: &[(&str, &str, &str, &str)] = &[
    ("v1", "configmaps", "ConfigMap", "n"),
    ("v1", "endpoints", "Endpoints", "n"),
    ("v1", "events", "Event", "n"),
    ("v1", "limitranges", "LimitRange", "n"),
    ("v1", "namespaces", "Namespace", "s"),
    ("v1", "nodes", "Node", "s"),
    ("v1", "pods", "Pod", "ns"),
    ("v1", "resourcequotas", "ResourceQuota", "ns"),
    ("v1", "secrets", "Secret", "n"),
    ("v1", "serviceaccounts", "ServiceAccount", "n"),
    ("v1", "services", "Service", "ns"),
    ("admissionregistration.k8s.io/v1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy", "v"),
    (
        "admissionregistration.k8s.io/v1",
        "mutatingadmissionpolicybindings",
        "MutatingAdmissionPolicyBinding",
        "v",
    ),
    ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "v"),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", "sv"),
    (
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        "v",
    ),
    (
        "admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        "v",
    ),
    ("apiextensions.k8s.io/v1", DEFINITIONS, "CustomResourceDefinition", "sv"),
    ("apps/v1", "daemonsets", "DaemonSet", "ns"),
    ("apps/v1", "deployments", "Deployment", "ns"),
    ("apps/v1", "replicasets", "ReplicaSet", "ns"),
    ("apps/v1", "statefulsets", "StatefulSet", "ns"),
    ("batch/v1", "cronjobs", "CronJob", "ns"),
    ("batch/v1", "jobs", "Job", "ns"),
    ("coordination.k8s.io/v1", "leases", "Lease", "nv"),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", "n"),
    ("events.k8s.io/v1", "events", "Event", "n"),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", "ns"),
];

/// A kind that is served.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kind {
    /// `Pod`
    pub(super) name: String,
    pub(super) is_namespaced: bool,
    /// The status is written by `/status` alone.
    pub(super) has_status: bool,
    /// A PUT names the version that it replaces.
    pub(super) needs_version: bool,
    /// The OpenAPI schema of a custom resource; `None` for Kubernetes' own kinds.
    pub(super) schema: Option<Arc<Value>>,
}

impl Kind {
    /// A kind by its letters, as the table of Kubernetes' own has them.
    pub(super) fn new(name: &str, letters: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_namespaced: letters.contains('n'),
            has_status: letters.contains('s'),
            needs_version: letters.contains('v'),
            schema: None,
        }
    }
}

/// All kinds that are served.
#[derive(Debug)]
pub(super) struct Kinds(BTreeMap<Resource, Kind>);

impl Kinds {
    pub(super) fn own() -> Self {
        let row = |(api_version, plural, kind, letters): &(&str, &str, &str, &str)| {
            (Resource::new(api_version, plural), Kind::new(kind, letters))
        };
        Self(OWN.iter().map(row).collect())
    }

    pub(super) fn get(&self, resource: &Resource) -> Option<&Kind> {
        self.0.get(resource)
    }

    pub(super) fn insert(&mut self, resource: Resource, kind: Kind) {
        self.0.insert(resource, kind);
    }

    pub(super) fn remove(&mut self, resource: &Resource) {
        self.0.remove(resource);
    }

    /// Groups with their versions, without the core group.
    pub(super) fn groups(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for resource in self.0.keys().filter(|resource| !resource.group.is_empty()) {
            groups.entry(&resource.group).or_default().insert(&resource.version);
        }
        groups
    }

    /// Kinds of one group and version.
    pub(super) fn of(&self, api_version: &str) -> impl Iterator<Item = (&Resource, &Kind)> {
        self.0.iter().filter(move |(resource, _)| resource.api_version() == api_version)
    }
}

/// Kinds that a CustomResourceDefinition serves, one for each of its versions.
pub(super) fn defined(definition: &Value) -> Vec<(Resource, Kind)> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let served = versions.iter().filter(|version| version["served"] == true);
    served
        .map(|version| {
            let resource = Resource {
                group: text(&spec["group"]),
                version: text(&version["name"]),
                name: text(&spec["names"]["plural"]),
            };
            let kind = Kind {
                name: text(&spec["names"]["kind"]),
                is_namespaced: spec["scope"] == "Namespaced",
                has_status: version["subresources"]["status"].is_object(),
                needs_version: true,
                schema: Some(Arc::new(version["schema"]["openAPIV3Schema"].clone())),
            };
            (resource, kind)
        })
        .collect()
}

/// A CustomResourceDefinition's status once its names are taken.
pub(super) fn established(definition: &Value, now: &str) -> Value {
    let condition = |kind: &str, reason: &str, message: &str| json!({ "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now });
    let versions = definition["spec"]["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let stored = versions.iter().filter(|version| version["storage"] == true);
    json!({
        "acceptedNames": definition["spec"]["names"],
        "storedVersions": stored.map(|version| version["name"].clone()).collect::<Vec<_>>(),
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    })
}
