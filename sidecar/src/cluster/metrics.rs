// SPDX-License-Identifier: Apache-2.0
//! Counters of one cluster and of one listener.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// Counters of connections to servers: of one cluster, or of one direction and family.
#[derive(Debug, Default)]
pub(crate) struct UpstreamMetrics {
    /// Upstream connections, successful or not.
    pub(crate) total: Counter,
    /// Upstream connections that are open or being made.
    pub(crate) active: Gauge,
    /// Upstream connections that failed for any reason, timeouts included.
    pub(crate) connect_failed: Counter,
    /// Upstream connections that were not answered in time.
    pub(crate) connect_timed_out: Counter,
    /// Connections refused by the cluster's limit on connections.
    pub(crate) overflow: Counter,
    /// Connections refused by the cluster's limit on connects under way.
    pub(crate) pending_overflow: Counter,
    /// Connects to a second or later endpoint.
    pub(crate) retries: Counter,
    /// Such connects that the cluster's limit did not allow.
    pub(crate) retry_overflow: Counter,
    /// Connections that found no endpoint.
    pub(crate) no_endpoint: Counter,
    /// Bytes from clients to servers.
    pub(crate) to_server: Counter,
    /// Bytes from servers to clients.
    pub(crate) to_client: Counter,
    /// Connections ended by the idle timeout.
    pub(crate) idle_timeout: Counter,
}

/// Counters of one listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerMetrics {
    pub(crate) opened: Counter,
    /// Connections that are open.
    pub(crate) active: Gauge,
    /// Connections refused because the limit of its direction was reached.
    pub(crate) overflow: Counter,
    /// Connections without a cluster: the mesh denies them.
    pub(crate) no_route: Counter,
}
