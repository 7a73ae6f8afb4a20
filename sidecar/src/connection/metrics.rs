// SPDX-License-Identifier: Apache-2.0
//! Metrics of connections, and all that `/metrics` shows. Each counter is looked up once per connection at most: a count
//! is one atomic addition.
//!
//! Every label on `/metrics` is from an enum, so the number of series is fixed at compile time, however many listeners and
//! clusters documents name; each of those has counters of its own too, which the admin statistics show.

use crate::cluster::health::CheckTotals;
use crate::cluster::metrics::UpstreamMetrics;
use crate::connection::guard::Guard;
use crate::control::ControlMetrics;
use crate::dns::metrics::DnsMetrics;
use crate::metrics::{By, Counter, Gauge, Histogram, MetricRegistry, metrics};
use crate::net::accept::AcceptMetrics;
use crate::net::addrs::{Direction, Family};
use crate::net::resolve::NameMetrics;
use crate::observe::access_log::AccessLogMetrics;
use crate::observe::capture::CaptureMetrics;
use crate::observe::close_reason::CloseReason;
use crate::observe::documents::DocumentMetrics;
use crate::observe::history::Reading;
use crate::observe::readiness::ReadinessMetrics;
use crate::observe::scrapes::ScrapeMetrics;
use crate::observe::traffic_log::TrafficLogMetrics;
use crate::relay::http::HttpMetrics;
use crate::relay::pipes::PipeMetrics;
use crate::tls::TlsMetrics;
use std::sync::Arc;

/// Upper bounds in seconds: from a loopback connect to the default timeout.
const CONNECT_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// Upper bounds in seconds: from a health probe to the default idle timeout.
const DURATION_BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0, 600.0, 3600.0];

/// Upper bounds in seconds: from an answer out of memory to a slow report.
const HTTP_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

metrics! {
    /// Connections of a direction and family, on all listeners and clusters.
    pub(crate) struct Totals {
        opened: Counter = "connections_opened", "Connections accepted";
        active: Gauge = "connections_active", "Connections that are open";
        duration_seconds: Histogram = "connection_duration_seconds", "How long forwarded connections lasted"
            buckets DURATION_BUCKETS;
        upstream: UpstreamMetrics;
        connect_seconds: Histogram = "connect_duration_seconds", "How long successful connects took"
            buckets CONNECT_BUCKETS;
    }
}

metrics! {
    /// Connections of a direction that were closed or refused.
    pub(crate) struct DirectionMetrics {
        closed: By<CloseReason> = "connections_closed", "Connections closed or refused, by reason"
            => "listener_manager.{direction}.closed.{reason}";
        http_seconds: Histogram = "http_request_duration_seconds",
            "Time from the head of an HTTP request to the end of its response" buckets HTTP_BUCKETS;
        listener_overflow: Counter = "listener_overflow", "Connections refused because of the limit of open files";
        rate_limited: Counter = "rate_limited", "Connections refused because a MeshRateLimit limits their rate"
            => "local_rate_limit.tcp_rate_limit.rate_limited";
        loop_rejected: By<Guard> = "loop_rejected", "Connections refused by a guard"
            => "listener_manager.{direction}.loop_rejected", "loop_rejected";
    }
}

impl DirectionMetrics {
    /// Connections closed or refused for a reason.
    pub(crate) fn closed(&self, reason: CloseReason) -> &Counter {
        &self.closed[reason]
    }

    /// Connections refused by a guard.
    pub(crate) fn loop_rejected(&self, guard: Guard) -> &Counter {
        &self.loop_rejected[guard]
    }
}

metrics! {
    /// Connections that policies on trial would treat otherwise. Those that would be refused to callers are in `TlsMetrics`.
    pub(crate) struct TrialMetrics {
        rate_limited: Counter = "rate_shadow_limited", "Connections that a MeshRateLimit on trial would refuse"
            => "local_rate_limit.tcp_rate_limit.shadow_rate_limited";
        requests_limited: Counter = "http_rate_shadow_limited",
            "Requests that a MeshRateLimit on trial would answer"
            => "local_rate_limit.http_rate_limit.shadow_rate_limited";
        overflow: Counter = "connection_shadow_overflow",
            "Connections above the maxConnections of a MeshCircuitBreaker on trial"
            => "circuit_breakers.shadow_overflow";
        elsewhere: Counter = "route_shadow_changed", "Connections that a MeshTCPRoute on trial would lead elsewhere"
            => "tcp_route.shadow_changed";
        denied: Counter = "passthrough_shadow_denied", "Calls that a MeshPassthrough on trial would deny"
            => "passthrough.shadow_denied";
        let_out: Counter = "passthrough_shadow_allowed",
            "Calls that are denied, and that a MeshPassthrough on trial would let out"
            => "passthrough.shadow_allowed";
    }
}

metrics! {
    /// The program itself.
    struct BuildMetrics {
        /// Always 1.
        info: Gauge = "build_info", "The running version" { version: env!("CARGO_PKG_VERSION") };
    }
}

/// The metrics of all rooms: one field each, which the room's code counts in.
#[derive(Debug)]
pub(crate) struct Metrics {
    totals: By<Direction, By<Family, Arc<Totals>>>,
    directions: By<Direction, DirectionMetrics>,
    pub(crate) accept: By<Direction, AcceptMetrics>,
    pub(crate) capture: CaptureMetrics,
    pub(crate) readiness: ReadinessMetrics,
    pub(crate) access_log: AccessLogMetrics,
    pub(crate) traffic_log: TrafficLogMetrics,
    pub(crate) documents: DocumentMetrics,
    pub(crate) names: NameMetrics,
    pub(crate) pipes: PipeMetrics,
    pub(crate) http: By<Direction, Arc<HttpMetrics>>,
    pub(crate) tls: TlsMetrics,
    pub(crate) scrapes: ScrapeMetrics,
    pub(crate) checks: CheckTotals,
    pub(crate) dns: DnsMetrics,
    pub(crate) trial: TrialMetrics,
    pub(crate) control: ControlMetrics,
    /// Reads all of them, for the pages.
    pub(crate) registry: MetricRegistry,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = MetricRegistry::new();
        registry.add::<BuildMetrics>().info.set(1);
        Self {
            totals: registry.add(),
            directions: registry.add(),
            accept: registry.add(),
            capture: registry.add(),
            readiness: registry.add(),
            access_log: registry.add(),
            traffic_log: registry.add(),
            documents: registry.add(),
            names: registry.add(),
            pipes: registry.add(),
            http: registry.add(),
            tls: registry.add(),
            scrapes: registry.add(),
            checks: registry.add(),
            dns: registry.add(),
            trial: registry.add(),
            control: registry.add(),
            registry,
        }
    }
}

impl Metrics {
    /// The counters of a direction and family.
    pub(crate) fn totals(&self, direction: Direction, family: Family) -> &Arc<Totals> {
        &self.totals[direction][family]
    }

    /// The counters of a direction.
    pub(crate) fn direction(&self, direction: Direction) -> &DirectionMetrics {
        &self.directions[direction]
    }

    /// Sums over all directions and families, for the history.
    pub(crate) fn reading(&self) -> Reading {
        let mut reading = Reading::default();
        for (direction, family) in Direction::ALL.into_iter().flat_map(|d| Family::ALL.map(|f| (d, f))) {
            let totals = self.totals(direction, family);
            reading.to_server += totals.upstream.to_server.get();
            reading.to_client += totals.upstream.to_client.get();
            reading.opened += totals.opened.get();
            match direction {
                Direction::Inbound => reading.inbound += totals.active.get(),
                Direction::Outbound => reading.outbound += totals.active.get(),
            }
        }
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::accept::AcceptErrorKind;

    #[test]
    fn every_series_is_there_from_the_start() {
        let page = Metrics::default().registry.text();
        assert!(page.ends_with("# EOF\n"));
        // Series come in no particular order.
        let mut lines: Vec<_> = page.lines().collect();
        lines.sort_unstable();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn every_variant_has_its_own_counter() {
        let metrics = Metrics::default();
        for direction in Direction::ALL {
            let of = metrics.direction(direction);
            for reason in CloseReason::ALL {
                assert_eq!(of.closed(reason).inc(), 0, "{reason}");
            }
            for guard in Guard::ALL {
                assert_eq!(of.loop_rejected(guard).inc(), 0);
            }
            for kind in AcceptErrorKind::ALL {
                assert_eq!(metrics.accept[direction].errors[kind].inc(), 0);
            }
        }
        for direction in Direction::ALL {
            for family in Family::ALL {
                assert_eq!(metrics.totals(direction, family).opened.inc(), 0, "{direction} {family:?}");
            }
        }
    }
}
