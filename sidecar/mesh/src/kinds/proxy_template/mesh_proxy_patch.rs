// SPDX-License-Identifier: Apache-2.0
//! `MeshProxyPatch`: the successor of ProxyTemplate. The changes of all policies about a pod are made, one after the other.

use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::proxy_template::envoy::{CircuitBreakers, ClusterValue, FilterName, FilterValue, Inline};
use crate::kinds::proxy_template::json_patch::{JsonPatch, PatchFailure, Patched, patched};
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, Ignored, Mapping, Read, Span, fields, words};
use crate::target::{PodsOrGateway, Target};
use serde_json::{Value, json};

/// Patches of the clusters and listeners of some pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshProxyPatch {
    /// The pods. Absent: all pods of the mesh.
    pub target_ref: Option<PodsOrGateway>,
    /// The changes.
    pub default: ProxyPatchConf,
}

fields! {
    /// Patches of the clusters and listeners of some pods.
    struct RawProxyPatch {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrGateway = "targetRef",
        /// The changes.
        default: required ProxyPatchConf = "default",
    }
}

fields! {
    /// Patches of a gateway, which has filters that no sidecar here has.
    struct GatewayPatch {
        target_ref: required PodsOrGateway = "targetRef",
        default: required Mapping = "default",
    }
}

impl Read for MeshProxyPatch {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        if value["targetRef"]["kind"].as_str() == Some("MeshGateway") {
            let GatewayPatch { target_ref, default: Mapping } = GatewayPatch::read(value, at)?;
            let default = ProxyPatchConf { modifications: Vec::new() };
            return Some(Self { target_ref: Some(target_ref), default });
        }
        let RawProxyPatch { target_ref, default } = RawProxyPatch::read(value, at)?;
        Some(Self { target_ref, default })
    }

    fn schema() -> Value {
        RawProxyPatch::schema()
    }
}

fields! {
    /// The changes.
    pub struct ProxyPatchConf {
        /// The changes in order, after those of less specific policies.
        modifications: required Vec<ProxyPatch> = "appendModifications",
    }
}

impl Resource for MeshProxyPatch {
    const NAME: &'static str = "MeshProxyPatch";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrGateway::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let target = part.field("targetRef");
        PodsOrGateway::check(&target, at);
        if target.has("sectionName") == Ok(true) {
            target.problem(
                at,
                "sectionName",
                "an inbound",
                "whole pods: match says which listeners and clusters",
            );
        }
        let conf = part.field("default");
        if conf.items("appendModifications").is_ok_and(|items| items.is_empty())
            && conf.has("appendModifications") == Ok(true)
        {
            conf.problem(at, "appendModifications", "no entry", "at least one");
        }
    }
}

/// A change of clusters or of a listener's filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyPatch {
    /// A change of clusters.
    Cluster(ClusterChange),
    /// A change of the filter of listeners.
    NetworkFilter(FilterChange),
}

/// Notes a change that culvert cannot make, and returns true.
fn is_not_built(key: &str, at: &mut At<'_>) -> bool {
    const ALLOWED: &str = "cluster or networkFilter";
    let why = match key {
        "httpFilter" | "virtualHost" => "culvert has no such filters of its own to patch",
        "listener" => "changes of listeners are not built; networkFilter changes their idle timeout",
        _ => return false,
    };
    at.problem(format!("a change of a {key}"), format!("{ALLOWED}: {why}"));
    true
}

impl Read for ProxyPatch {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        const ALLOWED: &str = "cluster or networkFilter, one of them";
        let Some(map) = value.as_object() else { return at.wrong(value, ALLOWED) };
        if map.len() != 1 {
            at.problem(format!("{} of them", map.len()), ALLOWED);
        }
        let mut read = None;
        for (key, value) in map {
            read = match key.as_str() {
                "cluster" => at.field(key, |at| ClusterChange::read(value, at)).map(Self::Cluster),
                "networkFilter" => at.field(key, |at| FilterChange::read(value, at)).map(Self::NetworkFilter),
                _ if at.field(key, |at| is_not_built(key, at)) => None,
                _ => at.wrong(&Value::String(key.clone()), ALLOWED),
            };
        }
        read.filter(|_| map.len() == 1)
    }

    fn schema() -> Value {
        json!({"oneOf": [
            {"type": "object", "additionalProperties": false, "required": ["cluster"],
             "properties": {"cluster": ClusterChange::schema()}},
            {"type": "object", "additionalProperties": false, "required": ["networkFilter"],
             "properties": {"networkFilter": FilterChange::schema()}},
        ]})
    }
}

words! {
    /// Origins of clusters and listeners, as Kuma names them. Those that culvert does not have fit nothing.
    pub enum PatchOrigin {
        /// An inbound of the Dataplane.
        Inbound = "inbound",
        /// An outbound of the Dataplane.
        Outbound = "outbound",
        /// The redirect: passthrough clusters and listeners.
        Transparent = "transparent",
        /// Members by address, in a closed mesh.
        DirectAccess = "direct-access",
        /// Matches of a MeshPassthrough.
        MeshPassthrough = "meshpassthrough",
        /// Metrics of Kuma's proxies.
        Prometheus = "prometheus",
        /// The ingress of a zone.
        Ingress = "ingress",
        /// The egress of a zone.
        Egress = "egress",
        /// Kuma's built-in gateways.
        Gateway = "gateway",
    }
}

words! {
    /// Operations on clusters.
    pub enum ClusterOperation {
        /// Adds a cluster.
        Add = "Add",
        /// Changes the fields that the patch names, and keeps the rest.
        Patch = "Patch",
        /// Takes clusters out; their listeners refuse every connection then.
        Remove = "Remove",
    }
}

words! {
    /// Operations on filters.
    pub enum FilterOperation {
        /// Changes the fields that the patch names, and keeps the rest.
        Patch = "Patch",
    }
}

fields! {
    /// Clusters by name and origin.
    pub struct ClusterChoice {
        /// Name of the cluster.
        name: optional String = "name",
        /// Origin of the cluster.
        origin: optional PatchOrigin = "origin",
    }
}

fields! {
    /// Filters by name, and listeners by name, tags and origin.
    pub struct FilterChoice {
        /// Name of the filter.
        name: required FilterName = "name",
        /// Name of the listener.
        listener_name: optional String = "listenerName",
        /// Tags of the listener's inbound or outbound; "*" takes any value.
        listener_tags: default Tags = "listenerTags",
        /// Origin of the listener.
        origin: optional PatchOrigin = "origin",
    }
}

fields! {
    /// A cluster that is added. No listener leads to it.
    pub struct NewCluster {
        /// Name of the cluster.
        name: required String = "name",
        /// The way to its endpoints: only STATIC, and none are listed.
        kind: optional NewClusterType = "type",
        /// Limits of the cluster.
        circuit_breakers: optional CircuitBreakers = "circuit_breakers" | "circuitBreakers",
        /// Deadline of a connect.
        connect_timeout: optional Span = "connect_timeout" | "connectTimeout",
    }
}

words! {
    /// Ways to the endpoints of a cluster that is added.
    pub enum NewClusterType {
        /// Endpoints that stand in the cluster.
        Static = "STATIC",
    }
}

/// New values of fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewValue<T> {
    /// Envoy's YAML: its fields take the place of those that are there.
    Merged(T),
    /// A JSON patch.
    Patched(Vec<JsonPatch>),
}

impl NewValue<ClusterValue> {
    /// Returns the fields of a cluster that change.
    ///
    /// # Errors
    /// The first operation of a JSON patch that cannot be made.
    pub fn changes(&self, now: &ClusterValue) -> Result<ClusterValue, PatchFailure> {
        match self {
            Self::Merged(value) => Ok(value.clone()),
            Self::Patched(patches) => Ok(patched(patches, now)?.changed_from(now)),
        }
    }
}

impl NewValue<FilterValue> {
    /// Returns the fields of a filter that change.
    ///
    /// # Errors
    /// The first operation of a JSON patch that cannot be made.
    pub fn changes(&self, now: &FilterValue) -> Result<FilterValue, PatchFailure> {
        match self {
            Self::Merged(value) => Ok(value.clone()),
            Self::Patched(patches) => Ok(patched(patches, now)?.changed_from(now)),
        }
    }
}

/// A change of clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterChange {
    /// Adds a cluster.
    Add(NewCluster),
    /// Changes clusters; without a choice all of them.
    Patch(Option<ClusterChoice>, NewValue<ClusterValue>),
    /// Takes clusters out; without a choice all of them.
    Remove(Option<ClusterChoice>),
}

/// A change of the filter of listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterChange {
    /// The listeners.
    pub which: FilterChoice,
    /// New values of the filter's fields.
    pub value: NewValue<FilterValue>,
}

fields! {
    /// A change of clusters; the operation decides which fields it has, and of which types.
    struct RawClusterChange {
        operation: required ClusterOperation = "operation",
        which: optional ClusterChoice = "match",
        value: optional Ignored = "value",
        json_patches: optional Ignored = "jsonPatches",
    }
}

fields! {
    /// A change of filters.
    struct RawFilterChange {
        operation: required FilterOperation = "operation",
        which: required FilterChoice = "match",
        value: optional Ignored = "value",
        json_patches: optional Ignored = "jsonPatches",
    }
}

impl Read for ClusterChange {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let raw = RawClusterChange::read(value, at);
        // By the word itself, so that a mistake elsewhere hides none in the value.
        match value["operation"].as_str() {
            Some("Add") => {
                refuse(value, &["match", "jsonPatches"], "Add", at);
                let new = inline::<NewCluster>(value, at);
                raw.filter(|raw| raw.which.is_none() && raw.json_patches.is_none())?;
                new.map(Self::Add)
            }
            Some("Patch") => {
                let new = new_value(value, at);
                Some(Self::Patch(raw?.which, new?))
            }
            Some("Remove") => {
                refuse(value, &["value", "jsonPatches"], "Remove", at);
                let raw = raw.filter(|raw| raw.value.is_none() && raw.json_patches.is_none())?;
                Some(Self::Remove(raw.which))
            }
            // Its reader has noted it.
            _ => None,
        }
    }

    fn schema() -> Value {
        schema_of_change(ClusterOperation::schema(), ClusterChoice::schema())
    }
}

impl Read for FilterChange {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let raw = RawFilterChange::read(value, at);
        if value["operation"] != "Patch" {
            return None;
        }
        let new = new_value(value, at);
        Some(Self { which: raw?.which, value: new? })
    }

    fn schema() -> Value {
        schema_of_change(FilterOperation::schema(), FilterChoice::schema())
    }
}

fn schema_of_change(operation: Value, choice: Value) -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["operation"],
        "properties": {
            "operation": operation,
            "match": choice,
            "value": {"type": "string", "description": "Envoy's YAML"},
            "jsonPatches": {"type": "array", "minItems": 1, "items": JsonPatch::schema()},
        },
    })
}

/// Notes fields that an operation does not have.
fn refuse(value: &Value, fields: &[&str], operation: &str, at: &mut At<'_>) {
    for field in fields.iter().filter(|field| !value[**field].is_null()) {
        at.field(field, |at| at.problem(format!("it beside operation {operation}"), "none"));
    }
}

/// Reads Envoy's YAML of a field that has to be there.
fn inline<T: Read>(value: &Value, at: &mut At<'_>) -> Option<T> {
    at.field("value", |at| match &value["value"] {
        Value::Null => {
            at.problem("nothing", "this field is required");
            None
        }
        text => Inline::<T>::read(text, at).map(|Inline(read)| read),
    })
}

/// Reads `value` or `jsonPatches`.
fn new_value<T: Read + Patched>(value: &Value, at: &mut At<'_>) -> Option<NewValue<T>> {
    const ALLOWED: &str = "value or jsonPatches, one of them";
    let patches = &value["jsonPatches"];
    let listed = !patches.is_null() && patches.as_array().is_none_or(|list| !list.is_empty());
    match (value["value"].is_null(), listed) {
        (true, false) => {
            at.problem("neither value nor jsonPatches", ALLOWED);
            None
        }
        (false, true) => {
            at.problem("value beside jsonPatches", ALLOWED);
            None
        }
        (false, false) => inline(value, at).map(NewValue::Merged),
        (true, true) => {
            let before = at.count();
            let read = at.field("jsonPatches", |at| {
                let read = Vec::<JsonPatch>::read(patches, at)?;
                for (index, patch) in read.iter().enumerate() {
                    at.item(index, |at| patch.check::<T>(at));
                }
                Some(read)
            })?;
            (at.count() == before).then_some(NewValue::Patched(read))
        }
    }
}
