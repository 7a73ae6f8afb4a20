// SPDX-License-Identifier: Apache-2.0
//! Metrics of a cluster and of a listener.

use crate::cluster::limits::ClusterLimits;
use crate::metrics::{Counter, Gauge, Lazy, RareCounter, Stats, metrics};

metrics! {
    /// Connections to servers: of one cluster, and of all clusters for a direction and family.
    ///
    /// Envoy's point of view is its own: it receives (rx) from the server and transmits (tx) to it. Several listeners may
    /// have one cluster, whose name Envoy gives to their filters; so the statistics of filters are by listener (`tcp`).
    #[derive(Default)]
    pub(crate) struct UpstreamMetrics {
        /// Successful or not.
        total: Counter = "upstream_connections", "Connections dialled" => "cluster.{cluster}.upstream_cx_total";
        active: Gauge = "upstream_connections_active", "Connections to servers that are open or being made"
            => "cluster.{cluster}.upstream_cx_active";
        /// Those that timed out are counted in both.
        connect_failed: RareCounter = "connect_failures", "Connects that failed or timed out, handshakes of TLS included"
            => "cluster.{cluster}.upstream_cx_connect_fail";
        connect_timed_out: RareCounter = "connect_timeouts", "Connects that timed out"
            => "cluster.{cluster}.upstream_cx_connect_timeout";
        overflow: RareCounter = "connection_overflow", "Connections refused by --circuit-breaker-max-connections"
            => "cluster.{cluster}.upstream_cx_overflow";
        pending_overflow: RareCounter = "pending_overflow",
            "Connections refused by --circuit-breaker-max-pending-requests"
            => "cluster.{cluster}.upstream_rq_pending_overflow";
        retries: RareCounter = "retries", "Connects to a second or later endpoint of a service"
            => "cluster.{cluster}.upstream_rq_retry";
        retry_overflow: RareCounter = "retry_overflow",
            "Such connects to an ejected endpoint that --circuit-breaker-max-retries did not allow"
            => "cluster.{cluster}.upstream_rq_retry_overflow";
        ejections: RareCounter = "ejections", "Endpoints that failed, to be tried last until a trial succeeds"
            => "cluster.{cluster}.outlier_detection.ejections_enforced_total";
        no_endpoint: RareCounter = "no_endpoint", "Connections to a service without endpoints"
            => "cluster.{cluster}.upstream_cx_none_healthy";
        to_server: Counter = "bytes", "Bytes forwarded" { flow: "to_server" }
            => "cluster.{cluster}.upstream_cx_tx_bytes_total", "tcp.{tcp}.downstream_cx_rx_bytes_total";
        to_client: Counter = "bytes" { flow: "to_client" }
            => "cluster.{cluster}.upstream_cx_rx_bytes_total", "tcp.{tcp}.downstream_cx_tx_bytes_total";
        /// Not on `/metrics`, which has it as a close reason.
        idle_timeout: RareCounter => "cluster.{cluster}.upstream_cx_idle_timeout", "tcp.{tcp}.idle_timeout";
        /// Made by the first request, of a cluster of HTTP.
        http: Lazy<ClusterRequests>;
    }
}

metrics! {
    /// Connections to one listener. Its statistics are by address (`listener`) and by name (`tcp`).
    #[derive(Default)]
    pub(crate) struct ListenerMetrics {
        /// Connections accepted.
        opened: Counter
            => "listener.{listener}.downstream_cx_total", "tcp.{tcp}.downstream_cx_total",
               "http.{http}.downstream_cx_total";
        /// Connections that are open.
        active: Gauge => "listener.{listener}.downstream_cx_active", "http.{http}.downstream_cx_active";
        /// Connections refused because the limit of its direction was reached.
        overflow: RareCounter => "listener.{listener}.downstream_cx_overflow";
        /// Connections that have no cluster: the mesh denies them.
        no_route: RareCounter => "tcp.{tcp}.downstream_cx_no_route";
        /// Made by the first request, of a listener of HTTP.
        http: Lazy<ListenerRequests>;
    }
}

metrics! {
    /// Requests to a listener or a cluster: Envoy's names of both end alike (`requests`).
    #[derive(Default)]
    pub(crate) struct RequestCounts {
        total: Counter => "{requests}_total";
        active: Gauge => "{requests}_active";
        /// Requests that were answered.
        completed: Counter => "{requests}_completed";
        /// 101 alone: other 1xx are no answers.
        informational: RareCounter => "{requests}_1xx";
        successful: RareCounter => "{requests}_2xx";
        redirection: RareCounter => "{requests}_3xx";
        client_error: RareCounter => "{requests}_4xx";
        server_error: RareCounter => "{requests}_5xx";
    }
}

metrics! {
    /// Requests to one listener of HTTP (`http`), whose rate has a name of its own (`rate`).
    #[derive(Default)]
    pub(crate) struct ListenerRequests {
        counts: RequestCounts;
        /// Heads that were not whole in time.
        header_timeout: RareCounter => "http.{http}.downstream_rq_header_timeout";
        /// Exchanges that moved no byte for too long.
        idle_timeout: RareCounter => "http.{http}.downstream_rq_idle_timeout";
        /// Exchanges that took longer than one may.
        duration_timeout: RareCounter => "http.{http}.downstream_rq_max_duration_reached";
        /// Requests whose client ended the connection before it had a whole answer.
        reset: RareCounter => "http.{http}.downstream_rq_rx_reset";
        delays: RareCounter => "http.{http}.fault.delays_injected";
        aborts: RareCounter => "http.{http}.fault.aborts_injected";
        slowed: RareCounter => "http.{http}.fault.response_rl_injected";
        /// Requests that a fault came upon and that are active.
        faulty: Gauge => "http.{http}.fault.active_faults";
        /// Requests that a rate was asked about.
        rated: RareCounter => "{rate}.http_local_rate_limit.enabled";
        within_rate: RareCounter => "{rate}.http_local_rate_limit.ok";
        above_rate: RareCounter => "{rate}.http_local_rate_limit.rate_limited";
        /// All of them: what is above a rate is answered.
        enforced_rate: RareCounter => "{rate}.http_local_rate_limit.enforced";
    }
}

metrics! {
    /// Requests to one cluster.
    #[derive(Default)]
    pub(crate) struct ClusterRequests {
        counts: RequestCounts;
        /// Requests whose response was not whole in time.
        timeout: RareCounter => "{requests}_timeout";
        /// Requests above the most that the cluster may have.
        overflow: RareCounter => "{requests}_active_overflow";
    }
}

/// A place among the active ones of a gauge, until it is dropped.
#[derive(Debug)]
pub(crate) struct Active(Gauge);

// === impl Active ===

impl Active {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === impl RequestCounts ===

impl RequestCounts {
    /// Counts an answer.
    pub(crate) fn answered(&self, status: u16) {
        self.completed.inc();
        match status / 100 {
            1 => self.informational.inc(),
            2 => self.successful.inc(),
            3 => self.redirection.inc(),
            4 => self.client_error.inc(),
            5 => self.server_error.inc(),
            // No document defines these, and Envoy has no name for them.
            _ => {}
        }
    }
}

/// Adds a cluster's circuit breaker: whether a limit is reached, and how many places are left.
pub(crate) fn read_limits(limits: &ClusterLimits, cluster: &str, stats: &mut Stats) {
    let ClusterLimits { connections, pending, requests, retries } = limits;
    for (open, remaining, (used, max)) in [
        ("cx_open", "remaining_cx", (connections.used(), connections.max())),
        ("rq_pending_open", "remaining_pending", (pending.used(), pending.max())),
        ("rq_open", "remaining_rq", (requests.used(), requests.max())),
        ("rq_retry_open", "remaining_retries", (retries.used(), retries.max())),
    ] {
        let mut add =
            |stat, value| stats.add(format!("cluster.{cluster}.circuit_breakers.default.{stat}"), value);
        add(open, i64::from(used >= max));
        add(remaining, i64::from(max.saturating_sub(used)));
    }
}
