// SPDX-License-Identifier: Apache-2.0
//! Pods as Kubernetes knows them: their name and their annotations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The annotations of a pod, by their full names.
pub type Annotations = BTreeMap<String, String>;

/// A pod as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Kubernetes namespace, not the network namespace.
    pub namespace: String,
    /// Unique within the namespace at any one time, but reused later.
    pub name: String,
    /// Present where the runtime passes `K8S_POD_UID`; distinguishes pods that have the same name one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}
