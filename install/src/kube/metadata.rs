// SPDX-License-Identifier: Apache-2.0
//! Metadata of Kubernetes' objects.

use serde::Deserialize;

/// The part of an object's metadata that is read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version; for a list, where a watch goes on from.
    pub resource_version: String,
    /// Its annotations.
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
    /// Of a list: where its next page begins.
    #[serde(rename = "continue")]
    pub next_page: Option<String>,
}
