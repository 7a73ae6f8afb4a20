// SPDX-License-Identifier: Apache-2.0
//! Envoy's clusters and filters, as far as culvert has their fields: YAML as text inside of a document.

use crate::read::{At, AtMostOne, Read, Span, fields, words, yaml};
use serde_json::{Value, json};
use std::time::Duration;

/// The only type that a tcp_proxy has.
const TCP_PROXY_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// Envoy's numbers of a cluster and a filter that do not say them.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const LIMITS: [u32; 4] = [1024, 1024, 1024, 3];
const IDLE_TIMEOUT: Duration = Duration::from_hours(1);

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

impl ClusterValue {
    /// Returns the fields of a cluster that has all of them; 0 = no timeout. The limits are those of connections, of pending
    /// requests, of requests and of retries.
    pub fn whole(connect_timeout: Duration, limits: [u32; 4]) -> Self {
        let limits = Thresholds::of(limits.map(|limit| Some(Wrapped(limit))));
        Self {
            connect_timeout: Some(Span(connect_timeout)),
            circuit_breakers: Some(CircuitBreakers::of(limits)),
        }
    }

    fn limits(&self) -> [Option<Wrapped>; 4] {
        let of = self.circuit_breakers.as_ref().and_then(|of| of.thresholds.0.as_ref());
        of.map_or([None; 4], |of| {
            [of.max_connections, of.max_pending_requests, of.max_requests, of.max_retries]
        })
    }

    /// Returns the fields that are others than before; one that is absent has Envoy's number.
    pub(super) fn changed_from(&self, before: &Self) -> Self {
        let timeout = Some(self.connect_timeout.unwrap_or(Span(CONNECT_TIMEOUT)));
        let (was, is) = (before.limits(), self.limits());
        let limit = |index: usize| {
            let new = Some(is[index].unwrap_or(Wrapped(LIMITS[index])));
            new.filter(|_| new != was[index])
        };
        Self {
            connect_timeout: timeout.filter(|_| timeout != before.connect_timeout),
            circuit_breakers: Some(CircuitBreakers::of(Thresholds::of([0, 1, 2, 3].map(limit)))),
        }
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

impl CircuitBreakers {
    fn of(limits: Thresholds) -> Self {
        Self { thresholds: AtMostOne(Some(limits)) }
    }
}

impl Thresholds {
    fn of([max_connections, max_pending_requests, max_requests, max_retries]: [Option<Wrapped>; 4]) -> Self {
        Self {
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            priority: None,
            track_remaining: None,
        }
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

impl FilterValue {
    /// Returns the fields of a filter that has all of them; 0 = no timeout.
    pub fn whole(idle_timeout: Duration) -> Self {
        Self { idle_timeout: Some(Span(idle_timeout)) }
    }

    /// Returns the fields that are others than before; one that is absent has Envoy's number.
    pub(super) fn changed_from(&self, before: &Self) -> Self {
        let timeout = Some(self.idle_timeout.unwrap_or(Span(IDLE_TIMEOUT)));
        Self { idle_timeout: timeout.filter(|_| timeout != before.idle_timeout) }
    }
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
    pub(crate) struct TcpProxy {
        /// Type of the configuration.
        kind: optional TcpProxyType = "@type",
        /// Time after which a connection that moves no byte is closed.
        idle_timeout: optional Span = "idle_timeout" | "idleTimeout",
    }
}

/// The only `@type` that a tcp_proxy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpProxyType;

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
