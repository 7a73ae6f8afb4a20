// SPDX-License-Identifier: Apache-2.0
//! Counters of one cluster and of one listener.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// What is counted of connections to servers: for one cluster, and for all of a direction and family.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    /// Upstream connections, successful or not.
    pub total: Counter,
    /// Upstream connections that are open or being made.
    pub active: Gauge,
    /// Upstream connections that failed for whatever reason; those that timed out are counted in both.
    pub connect_failed: Counter,
    /// Upstream connections that were not answered in time.
    pub connect_timed_out: Counter,
    /// Connections refused by the cluster's limit on connections.
    pub overflow: Counter,
    /// Connections refused by the cluster's limit on connects under way.
    pub pending_overflow: Counter,
    /// Connects to a second or later endpoint.
    pub retries: Counter,
    /// Such connects that the cluster's limit did not allow.
    pub retry_overflow: Counter,
    /// Connections that found no endpoint.
    pub no_endpoint: Counter,
    /// Bytes from clients to servers.
    pub to_server: Counter,
    /// Bytes from servers to clients.
    pub to_client: Counter,
    /// Connections ended by the idle timeout.
    pub idle_timeout: Counter,
}

/// What is counted for one listener.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    /// Connections accepted.
    pub opened: Counter,
    /// Connections that are open.
    pub active: Gauge,
    /// Connections refused because the limit of its direction was reached.
    pub overflow: Counter,
    /// Connections that have no cluster: the mesh denies them.
    pub no_route: Counter,
}
