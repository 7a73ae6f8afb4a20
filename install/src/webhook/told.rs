// SPDX-License-Identifier: Apache-2.0
//! Events about decisions that someone would ask about: on the pod's owner, or on the pod where it has a name and no owner.

use serde_json::Value;

use crate::kube::events::{Reason, Regarding};
use crate::kube::told::Told;

/// A pod that was left without a sidecar, or not created.
pub(super) const SKIPPED: Reason = Reason::warning("SidecarSkipped");
pub(super) const REFUSED: Reason = Reason::warning("SidecarRefused");

/// Posts an event about a pod of this namespace. Without an owner and a name there is nothing to show it at.
pub(super) fn tell(told: &Told, pod: &Value, (namespace, name): (&str, &str), reason: Reason, message: &str) {
    if let Some(regarding) = regarding(pod, namespace, name) {
        told.tell(regarding, reason, message);
    }
}

/// The pod's owner, or the pod.
fn regarding(pod: &Value, namespace: &str, name: &str) -> Option<Regarding> {
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owner = owners.iter().find(|owner| owner["controller"] == true).or_else(|| owners.first());
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let of_owner = |owner: &Value| {
        Some(Regarding {
            api_version: text(&owner["apiVersion"])?,
            kind: text(&owner["kind"])?,
            namespace: namespace.to_owned(),
            name: text(&owner["name"])?,
            uid: text(&owner["uid"]),
        })
    };
    owner.and_then(of_owner).or_else(|| {
        let named =
            text(&pod["metadata"]["name"]).or_else(|| Some(name.to_owned()).filter(|name| !name.is_empty()));
        Some(Regarding::pod(namespace.to_owned(), named?, text(&pod["metadata"]["uid"])))
    })
}
