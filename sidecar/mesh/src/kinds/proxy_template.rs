// SPDX-License-Identifier: Apache-2.0
//! `ProxyTemplate`: patches of the generated clusters and listeners, as far as they mean something here.

use crate::context::Context;
use crate::kinds::Resource;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::yaml;
use crate::read::{At, AtMostOne, Read, Span, fields, words};
use crate::target::Target;
use serde_json::{Value, json};

/// The one type of a tcp_proxy.
const TCP_PROXY_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

fields! {
    /// Patches of the clusters and listeners of some pods.
    pub struct ProxyTemplate {
        /// The pods, by their tags: one of these has to fit.
        selectors: required Vec<Selector> = "selectors",
        /// What is changed.
        conf: required Conf = "conf",
    }
}

impl Resource for ProxyTemplate {
    const NAME: &'static str = "ProxyTemplate";

    fn target(&self) -> Target<'_> {
        Target::Selectors(self.selectors.iter().map(|selector| &selector.tags).collect())
    }

    // Its fields say nothing together.
    fn check(_: &Part<'_>, _: Option<&Context>, _: &mut At<'_>) {}
}

fields! {
    /// Some pods, by their tags.
    pub struct Selector {
        /// Tags that the pod has; "*" takes any value.
        tags: required Tags = "match",
    }
}

fields! {
    /// What is changed.
    pub struct Conf {
        /// What the changes start from.
        imports: required Imports = "imports",
        /// The changes, in their order.
        modifications: default Vec<Modification> = "modifications",
    }
}

words! {
    /// What changes start from.
    pub enum Import {
        /// What there is without a template.
        DefaultProxy = "default-proxy",
    }
}

/// The imports; at least one, as without them nothing is there to change.
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

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modification {
    /// Of clusters.
    Cluster(ClusterPatch),
    /// Of a listener's filter.
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

/// Whether this does something else than to patch, which is told; its value is no patch then, and is not held to be one.
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
    /// How something is changed.
    pub enum Operation {
        /// What the patch says is changed, the rest stays.
        Patch = "patch",
    }
}

words! {
    /// Where a cluster or listener comes from.
    pub enum Origin {
        /// From a Dataplane's inbound.
        Inbound = "inbound",
        /// From a Dataplane's outbound.
        Outbound = "outbound",
        /// From the redirect: the passthrough ones.
        Transparent = "transparent",
    }
}

fields! {
    /// A change of clusters.
    pub struct ClusterPatch {
        /// How: only patch.
        operation: required Operation = "operation",
        /// Which; absent: all.
        which: optional ClusterMatch = "match",
        /// Envoy's YAML: circuit_breakers.thresholds[] and connect_timeout.
        value: required Inline<ClusterValue> = "value",
    }
}

fields! {
    /// Which clusters.
    pub struct ClusterMatch {
        /// By name.
        name: optional String = "name",
        /// By where they come from.
        origin: optional Origin = "origin",
    }
}

fields! {
    /// A change of a listener's filter.
    pub struct FilterPatch {
        /// How: only patch.
        operation: required Operation = "operation",
        /// Which; absent: the tcp_proxy of all listeners.
        which: optional FilterMatch = "match",
        /// Envoy's YAML: the tcp_proxy's idle_timeout.
        value: required Inline<FilterValue> = "value",
    }
}

fields! {
    /// Which filters.
    pub struct FilterMatch {
        /// The filter's name.
        name: optional FilterName = "name",
        /// The listener's name.
        listener_name: optional String = "listenerName",
        /// By where the listener comes from.
        origin: optional Origin = "origin",
    }
}

words! {
    /// The filters that there are.
    pub enum FilterName {
        /// Forwards bytes.
        TcpProxy = "envoy.filters.network.tcp_proxy",
    }
}

/// YAML within YAML, as text.
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
    /// What can be changed of a cluster.
    pub struct ClusterValue {
        /// Its limits.
        circuit_breakers: optional CircuitBreakers = "circuit_breakers" | "circuitBreakers",
        /// How long a server may take to answer a connect.
        connect_timeout: optional Span = "connect_timeout" | "connectTimeout",
    }
}

fields! {
    /// The limits of a cluster.
    pub struct CircuitBreakers {
        /// By priority, of which there is one here: at most one entry.
        thresholds: required AtMostOne<Thresholds> = "thresholds",
    }
}

fields! {
    /// Limits; what is absent stays as it is.
    pub struct Thresholds {
        /// Connections.
        max_connections: optional Wrapped = "max_connections" | "maxConnections",
        /// Connects under way.
        max_pending_requests: optional Wrapped = "max_pending_requests" | "maxPendingRequests",
        /// Requests under way.
        max_requests: optional Wrapped = "max_requests" | "maxRequests",
        /// Retries under way.
        max_retries: optional Wrapped = "max_retries" | "maxRetries",
        /// Only the default one.
        priority: optional Priority = "priority",
        /// Whether /stats shows what is left; here it always does.
        track_remaining: optional bool = "track_remaining" | "trackRemaining",
    }
}

words! {
    /// Envoy's priorities.
    pub enum Priority {
        /// The one that TCP has.
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

/// What can be changed of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterValue {
    /// How long a connection may move no byte.
    pub idle_timeout: Option<Span>,
}

fields! {
    /// A filter as Envoy spells it.
    struct RawFilter {
        /// Its name.
        name: optional FilterName = "name",
        /// Its configuration.
        config: required TcpProxy = "typed_config" | "typedConfig",
    }
}

fields! {
    /// The tcp_proxy's configuration.
    struct TcpProxy {
        /// Its type.
        kind: optional TcpProxyType = "@type",
        /// How long a connection may move no byte.
        idle_timeout: optional Span = "idle_timeout" | "idleTimeout",
    }
}

/// The one `@type` that a tcp_proxy has.
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
