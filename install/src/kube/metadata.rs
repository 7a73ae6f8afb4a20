// SPDX-License-Identifier: Apache-2.0
//! Metadata of Kubernetes' objects.

use serde::Deserialize;

/// Fields of an object's metadata that are read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Namespace; empty for objects without one.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
    /// Uid, unique over all objects of a cluster.
    pub uid: String,
    /// Version of the object; for a list, the version a watch starts from.
    pub resource_version: String,
    /// All labels, if there are any.
    pub labels: Option<std::collections::BTreeMap<String, String>>,
    /// All annotations, if there are any.
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
    /// Token of the next page of a list.
    #[serde(rename = "continue")]
    pub next_page: Option<String>,
}
