// SPDX-License-Identifier: Apache-2.0
//! `ProxyTemplate`: patches of the generated clusters and listeners, as far as culvert has what they change.

use crate::context::Context;
use crate::kinds::Resource;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::yaml;
use crate::read::{At, AtMostOne, Read, Span, fields, words};
use crate::target::Target;
use serde_json::{Value, json};

/// The only type that a tcp_proxy has.
const TCP_PROXY_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

fields! {
    /// Patches of the clusters and listeners of some pods.
    pub struct ProxyTemplate {
        /// The pods by their tags: one of these has to fit.
        selectors: required Vec<Selector> = "selectors",
        /// Base of the changes, and the changes.
        conf: required TemplateConf = "conf",
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
        /// Base of the changes: only default-proxy.
        imports: required Imports = "imports",
        /// The changes, in order.
        modifications: default Vec<Modification> = "modifications",
    }
}

words! {
    /// Bases that changes can start from.
    pub enum Import {
        /// The configuration without a template.
        DefaultProxy = "default-proxy",
    }
}

/// Bases of the changes; at least one, as without a base there is nothing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imports(pub Vec<Import>);

impl Read for Imports {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let imports = Vec::read(value, at)?;
        if imports.is_empty() {
            return at.wrong(value, "default-proxy");
        }
        Some(Self(imports))
    }

    fn schema() -> Value {
        json!({"type": "array", "minItems": 1, "items": Import::schema()})
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

words! {
    /// Filters that a listener can have.
    pub enum FilterName {
        /// The filter that forwards bytes.
        TcpProxy = "envoy.filters.network.tcp_proxy",
    }
}

/// YAML inside of YAML, written as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inline<T>(pub T);

impl<T: Read> Read for Inline<T> {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let Some(text) = value.as_str() else { return at.wrong(value, "Envoy's YAML as text: value: |") };
        match yaml::parse(text) {
            Ok(inner) => T::read(&inner, at).map(Self),
            Err(error) => {
                at.problem(error.to_string(), "Envoy's YAML");
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

fields! {
    /// Fields of a cluster that can be changed.
    pub struct ClusterValue {
        /// Limits of the cluster.
        circuit_breakers: optional CircuitBreakers = "circuit_breakers" | "circuitBreakers",
        /// Deadline of a connect.
        connect_timeout: optional Span = "connect_timeout" | "connectTimeout",
    }
}

fields! {
    /// Limits of a cluster.
    pub struct CircuitBreakers {
        /// By priority, of which there is one here: at most one entry.
        thresholds: required AtMostOne<Thresholds> = "thresholds",
    }
}

fields! {
    /// Limits; an absent one stays as it is.
    pub struct Thresholds {
        /// Most connections that are open at once.
        max_connections: optional Wrapped = "max_connections" | "maxConnections",
        /// Most connects in flight.
        max_pending_requests: optional Wrapped = "max_pending_requests" | "maxPendingRequests",
        /// Most requests in flight.
        max_requests: optional Wrapped = "max_requests" | "maxRequests",
        /// Most retries in flight.
        max_retries: optional Wrapped = "max_retries" | "maxRetries",
        /// Priority of the limits: only DEFAULT.
        priority: optional Priority = "priority",
        /// Shows in /stats how much is left; culvert always does.
        track_remaining: optional bool = "track_remaining" | "trackRemaining",
    }
}

words! {
    /// Priorities of Envoy that culvert has.
    pub enum Priority {
        /// The priority of all TCP connections.
        Default = "DEFAULT",
    }
}

/// A number, or protobuf's number in a wrapper: `{value: 1}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapped(pub u32);

impl Read for Wrapped {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        match value.as_object().map(|map| (map.len(), map.get("value"))) {
            Some((1, Some(inner))) => at.field("value", |at| u32::read(inner, at)),
            _ => u32::read(value, at),
        }
        .map(Self)
    }

    fn schema() -> Value {
        u32::schema()
    }
}

/// Fields of a filter that can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterValue {
    /// Time after which a connection that moves no byte is closed.
    pub idle_timeout: Option<Span>,
}

fields! {
    /// A filter in Envoy's spelling.
    struct RawFilter {
        /// Name of the filter.
        name: optional FilterName = "name",
        /// Configuration of the filter.
        config: required TcpProxy = "typed_config" | "typedConfig",
    }
}

fields! {
    /// Configuration of a tcp_proxy, the only filter.
    struct TcpProxy {
        /// Type of the configuration.
        kind: optional TcpProxyType = "@type",
        /// Time after which a connection that moves no byte is closed.
        idle_timeout: optional Span = "idle_timeout" | "idleTimeout",
    }
}

/// The only `@type` that a tcp_proxy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TcpProxyType;

impl Read for TcpProxyType {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        if value == TCP_PROXY_TYPE { Some(Self) } else { at.wrong(value, TCP_PROXY_TYPE) }
    }

    fn schema() -> Value {
        json!({"const": TCP_PROXY_TYPE})
    }
}

impl Read for FilterValue {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        RawFilter::read(value, at).map(|raw| Self { idle_timeout: raw.config.idle_timeout })
    }

    fn schema() -> Value {
        RawFilter::schema()
    }
}
