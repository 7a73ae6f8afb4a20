// SPDX-License-Identifier: Apache-2.0
//! `ProxyTemplate` and `MeshProxyPatch`: patches of the generated clusters and listeners, as far as culvert has what they
//! change.

mod envoy;
mod json_patch;
mod mesh_proxy_patch;

pub use envoy::*;
pub use json_patch::*;
pub use mesh_proxy_patch::*;

use crate::context::Context;
use crate::kinds::Resource;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, Read, fields, words};
use crate::target::Target;
use serde_json::{Value, json};

fields! {
    /// Patches of the clusters and listeners of some pods.
    pub struct ProxyTemplate {
        /// The pods by their tags: one of these has to fit.
        selectors: required Vec<Selector> = "selectors",
        /// Base of the changes, and the changes.
        conf: default TemplateConf = "conf",
    }
}

impl Resource for ProxyTemplate {
    const NAME: &'static str = "ProxyTemplate";

    fn target(&self) -> Target<'_> {
        Target::Selectors(self.selectors.iter().map(|selector| &selector.tags).collect())
    }

    // No two fields of a template depend on each other.
    fn check(_: &Part<'_>, _: Option<&Context>, _: &mut At<'_>) {}
}

fields! {
    /// Pods by their tags.
    pub struct Selector {
        /// Tags that the pod has; "*" takes any value.
        tags: required Tags = "match",
    }
}

fields! {
    /// Base of the changes, and the changes.
    pub struct TemplateConf {
        /// Base of the changes: default-proxy, also where none is named.
        imports: default Vec<Import> = "imports",
        /// The changes, in order.
        modifications: default Vec<Modification> = "modifications",
    }
}

impl Default for TemplateConf {
    /// A template without changes, as Kuma takes one.
    fn default() -> Self {
        Self { imports: Vec::new(), modifications: Vec::new() }
    }
}

words! {
    /// Bases that changes can start from.
    pub enum Import {
        /// The configuration without a template.
        DefaultProxy = "default-proxy",
    }
}

/// A change of clusters or of a listener's filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modification {
    /// Changes limits and deadline of clusters.
    Cluster(ClusterPatch),
    /// Changes the filter of listeners.
    NetworkFilter(FilterPatch),
}

impl Read for Modification {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        const ALLOWED: &str = "cluster or networkFilter, one of them";
        let Some(map) = value.as_object() else { return at.wrong(value, ALLOWED) };
        if map.len() != 1 {
            at.problem(format!("{} of them", map.len()), ALLOWED);
        }
        let mut read = None;
        for (key, value) in map {
            if at.field(key, |at| is_another_operation(key, value, at)) {
                continue;
            }
            read = match key.as_str() {
                "cluster" => at.field(key, |at| ClusterPatch::read(value, at)).map(Self::Cluster),
                "networkFilter" => at.field(key, |at| FilterPatch::read(value, at)).map(Self::NetworkFilter),
                "listener" | "httpFilter" | "virtualHost" => {
                    at.problem(
                        format!("a change of a {key}"),
                        format!("{ALLOWED}: culvert changes nothing else of what Envoy has"),
                    );
                    None
                }
                _ => at.wrong(&Value::String(key.clone()), ALLOWED),
            };
        }
        read.filter(|_| map.len() == 1)
    }

    fn schema() -> Value {
        json!({"oneOf": [
            {"type": "object", "additionalProperties": false, "required": ["cluster"],
             "properties": {"cluster": ClusterPatch::schema()}},
            {"type": "object", "additionalProperties": false, "required": ["networkFilter"],
             "properties": {"networkFilter": FilterPatch::schema()}},
        ]})
    }
}

/// Notes an operation other than patch and returns true; its value is not a patch then, and is not read as one.
fn is_another_operation(key: &str, value: &Value, at: &mut At<'_>) -> bool {
    let operation = &value["operation"];
    if !operation.is_string() || operation == "patch" {
        return false;
    }
    let which = &value["match"];
    match key {
        "cluster" if which.is_null() => {}
        "cluster" => drop(at.field("match", |at| ClusterMatch::read(which, at))),
        "networkFilter" if which.is_null() => {}
        "networkFilter" => drop(at.field("match", |at| FilterMatch::read(which, at))),
        _ => return false,
    }
    at.field("operation", |at| Operation::read(operation, at)).is_none()
}

words! {
    /// Operations of a change.
    pub enum Operation {
        /// Changes the fields that the patch names, and keeps the rest.
        Patch = "patch",
    }
}

words! {
    /// Origins of clusters and listeners.
    pub enum Origin {
        /// An inbound of the Dataplane.
        Inbound = "inbound",
        /// An outbound of the Dataplane.
        Outbound = "outbound",
        /// The redirect: passthrough clusters and listeners.
        Transparent = "transparent",
    }
}

fields! {
    /// A change of clusters.
    pub struct ClusterPatch {
        /// The operation: only patch.
        operation: required Operation = "operation",
        /// The clusters. Absent: all.
        which: optional ClusterMatch = "match",
        /// Envoy's YAML: circuit_breakers.thresholds[] and connect_timeout.
        value: required Inline<ClusterValue> = "value",
    }
}

fields! {
    /// Clusters by name and origin.
    pub struct ClusterMatch {
        /// Name of the cluster.
        name: optional String = "name",
        /// Origin of the cluster.
        origin: optional Origin = "origin",
    }
}

fields! {
    /// A change of a listener's filter.
    pub struct FilterPatch {
        /// The operation: only patch.
        operation: required Operation = "operation",
        /// The filters. Absent: the tcp_proxy of all listeners.
        which: optional FilterMatch = "match",
        /// Envoy's YAML: the tcp_proxy's idle_timeout.
        value: required Inline<FilterValue> = "value",
    }
}

fields! {
    /// Filters by name, listener and origin.
    pub struct FilterMatch {
        /// Name of the filter.
        name: optional FilterName = "name",
        /// Name of the listener.
        listener_name: optional String = "listenerName",
        /// Origin of the listener.
        origin: optional Origin = "origin",
    }
}

#[cfg(test)]
mod tests;
