// SPDX-License-Identifier: Apache-2.0
//! Counters of the data path. Each is looked up once per connection at most: a count is one atomic addition.
//!
//! `/metrics` prints the totals of directions and families in OpenMetrics with our names. Every label there is from an enum,
//! so the number of series is fixed at compile time, however many listeners and clusters documents name; each of those has
//! counters of its own too, which the statistics print with Envoy's names.

use crate::cluster::metrics::UpstreamMetrics;
use crate::connection::guard::Guard;
use crate::net::accept::AcceptErrorKind;
use crate::net::addrs::{Direction, Family};
use crate::observe::close_reason::CloseReason;
use crate::observe::history::Reading;
use crate::relay::pipes::{Fallback, PipeMetrics};
use crate::tls::TlsMetrics;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Series;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Upper bounds in seconds: from a loopback connect to the default timeout.
const CONNECT_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// Upper bounds in seconds: from a health probe to the default idle timeout.
const DURATION_BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0, 600.0, 3600.0];

macro_rules! label_from_name {
    ($($type:ty),*) => {$(
        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(self.name())
            }
        }
    )*};
}
label_from_name!(Direction, Family, Flow, AcceptErrorKind, Fallback);

/// The direction of bytes through the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flow {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

impl Flow {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ToServer => "to_server",
            Self::ToClient => "to_client",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    direction: Direction,
    family: Family,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    direction: Direction,
    family: Family,
    flow: Flow,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloseLabels {
    direction: Direction,
    reason: CloseReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GuardLabels {
    direction: Direction,
    guard: Guard,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AcceptLabels {
    direction: Direction,
    kind: AcceptErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: Direction,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabels {
    family: Family,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FallbackLabels {
    reason: Fallback,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// Counters of all connections of a direction and family.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) opened: Counter,
    /// Connections that are open.
    pub(crate) active: Gauge,
    pub(crate) upstream: UpstreamMetrics,
    /// Durations of successful connects.
    pub(crate) connect_seconds: Histogram,
    /// Durations of forwarded connections, from accept to close.
    pub(crate) duration_seconds: Histogram,
}

/// Counters of one direction.
#[derive(Debug)]
pub(crate) struct DirectionMetrics {
    closed: Vec<Counter>,
    loop_rejected: Vec<Counter>,
    accept_errors: Vec<Counter>,
    /// Connections refused because the listener's limit was reached.
    pub(crate) listener_overflow: Counter,
}

impl DirectionMetrics {
    /// Connections closed or refused for a reason.
    pub(crate) fn closed(&self, reason: CloseReason) -> &Counter {
        &self.closed[position(&CloseReason::ALL, reason)]
    }

    /// Connections refused by a guard.
    pub(crate) fn loop_rejected(&self, guard: Guard) -> &Counter {
        &self.loop_rejected[position(&Guard::ALL, guard)]
    }

    pub(crate) fn accept_errors(&self, kind: AcceptErrorKind) -> &Counter {
        &self.accept_errors[position(&AcceptErrorKind::ALL, kind)]
    }
}

fn position<T: PartialEq>(all: &[T], one: T) -> usize {
    all.iter().position(|other| *other == one).expect("ALL lists every variant; a test holds that")
}

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// By direction and family. A connection's use of a cluster holds on to the ones that it counts in.
    totals: Vec<Arc<Totals>>,
    directions: Vec<DirectionMetrics>,
    capture_proved: Vec<Gauge>,
    /// 1 while `/ready` answers 200.
    pub(crate) ready: Gauge,
    /// Closing records that were dropped because the log could not keep up or could not be written.
    pub(crate) access_log_dropped: Counter,
    /// Lines of traffic logs that were dropped because their target could not keep up.
    pub(crate) traffic_log_dropped: Counter,
    /// Configurations that were loaded after the start.
    pub(crate) config_reloaded: Counter,
    /// Changes of the documents that could not be used.
    pub(crate) config_reload_failed: Counter,
    pub(crate) pipes: PipeMetrics,
    /// TLS between mesh members.
    pub(crate) tls: TlsMetrics,
    registry: Registry,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::register_all()
    }
}

impl Metrics {
    /// Registers every series with all its labels, so that each is there, as 0, from the start.
    fn register_all() -> Self {
        let mut registry = Registry::with_prefix("culvert");
        let opened = Series::<ClusterLabels, Counter>::default();
        let active = Series::<ClusterLabels, Gauge>::default();
        let upstream_total = Series::<ClusterLabels, Counter>::default();
        let upstream_active = Series::<ClusterLabels, Gauge>::default();
        let connect_failed = Series::<ClusterLabels, Counter>::default();
        let connect_timed_out = Series::<ClusterLabels, Counter>::default();
        let overflow = Series::<ClusterLabels, Counter>::default();
        let pending_overflow = Series::<ClusterLabels, Counter>::default();
        let retries = Series::<ClusterLabels, Counter>::default();
        let retry_overflow = Series::<ClusterLabels, Counter>::default();
        let no_endpoint = Series::<ClusterLabels, Counter>::default();
        let bytes = Series::<FlowLabels, Counter>::default();
        let closed = Series::<CloseLabels, Counter>::default();
        let loop_rejected = Series::<GuardLabels, Counter>::default();
        let accept_errors = Series::<AcceptLabels, Counter>::default();
        let listener_overflow = Series::<DirectionLabels, Counter>::default();
        let capture_proved = Series::<FamilyLabels, Gauge>::default();
        let connect_seconds =
            Series::<ClusterLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
                Histogram::new(CONNECT_BUCKETS)
            });
        let duration_seconds =
            Series::<ClusterLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
                Histogram::new(DURATION_BUCKETS)
            });
        let ready = Gauge::default();
        let access_log_dropped = Counter::default();
        let build = Series::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);

        registry.register("connections_opened", "Connections accepted", opened.clone());
        registry.register("connections_active", "Connections that are open", active.clone());
        registry.register("connections_closed", "Connections closed or refused, by reason", closed.clone());
        registry.register(
            "connection_duration_seconds",
            "How long forwarded connections lasted",
            duration_seconds.clone(),
        );
        registry.register("bytes", "Bytes forwarded", bytes.clone());
        registry.register("upstream_connections", "Connections dialled", upstream_total.clone());
        registry.register(
            "upstream_connections_active",
            "Connections to servers that are open or being made",
            upstream_active.clone(),
        );
        registry.register("connect_failures", "Connects that failed or timed out", connect_failed.clone());
        registry.register(
            "connect_timeouts",
            "Connects not answered within the connect timeout",
            connect_timed_out.clone(),
        );
        registry.register(
            "connect_duration_seconds",
            "How long successful connects took",
            connect_seconds.clone(),
        );
        registry.register(
            "connection_overflow",
            "Connections refused by --circuit-breaker-max-connections",
            overflow.clone(),
        );
        registry.register(
            "pending_overflow",
            "Connections refused by --circuit-breaker-max-pending-requests",
            pending_overflow.clone(),
        );
        registry.register("retries", "Connects to a second or later endpoint of a service", retries.clone());
        registry.register(
            "retry_overflow",
            "Such connects that --circuit-breaker-max-retries did not allow",
            retry_overflow.clone(),
        );
        registry.register("no_endpoint", "Connections to a service without endpoints", no_endpoint.clone());
        registry.register(
            "listener_overflow",
            "Connections refused because of the limit of open files",
            listener_overflow.clone(),
        );
        registry.register("loop_rejected", "Connections refused by a guard", loop_rejected.clone());
        registry.register("accept_errors", "Failures of accept", accept_errors.clone());
        registry.register("capture_proved", "Whether the redirect was proved", capture_proved.clone());
        registry.register("ready", "Whether /ready says yes", ready.clone());
        registry.register(
            "access_log_dropped",
            "Closing records that the access log could not keep up with or could not write",
            access_log_dropped.clone(),
        );
        let traffic_log_dropped = Counter::default();
        registry.register(
            "traffic_log_dropped",
            "Lines of traffic logs dropped because their target could not keep up",
            traffic_log_dropped.clone(),
        );
        let config_reloaded = Counter::default();
        registry.register(
            "config_reloaded",
            "Changed documents that were put to use",
            config_reloaded.clone(),
        );
        let config_reload_failed = Counter::default();
        registry.register(
            "config_reload_failed",
            "Changed documents that could not be used; the old configuration stays",
            config_reload_failed.clone(),
        );
        let fallbacks = Series::<FallbackLabels, Counter>::default();
        let pipes = PipeMetrics {
            started: Counter::default(),
            fallbacks: Fallback::ALL.map(|reason| fallbacks.get_or_create_owned(&FallbackLabels { reason })),
            in_use: Gauge::default(),
        };
        registry.register("splice_started", "Streams that began to be spliced", pipes.started.clone());
        registry.register("splice_fallbacks", "Bulk streams that went on being copied", fallbacks);
        registry.register("splice_pipes", "Pipes in use for bulk streams", pipes.in_use.clone());
        let tls = TlsMetrics::register(&mut registry);
        registry.register("build_info", "The running version", build);

        let totals = Direction::ALL
            .into_iter()
            .flat_map(|direction| Family::ALL.map(|family| (direction, family)))
            .map(|(direction, family)| {
                let labels = ClusterLabels { direction, family };
                let flow = |flow| bytes.get_or_create_owned(&FlowLabels { direction, family, flow });
                Arc::new(Totals {
                    opened: opened.get_or_create_owned(&labels),
                    active: active.get_or_create_owned(&labels),
                    upstream: UpstreamMetrics {
                        total: upstream_total.get_or_create_owned(&labels),
                        active: upstream_active.get_or_create_owned(&labels),
                        connect_failed: connect_failed.get_or_create_owned(&labels),
                        connect_timed_out: connect_timed_out.get_or_create_owned(&labels),
                        overflow: overflow.get_or_create_owned(&labels),
                        pending_overflow: pending_overflow.get_or_create_owned(&labels),
                        retries: retries.get_or_create_owned(&labels),
                        retry_overflow: retry_overflow.get_or_create_owned(&labels),
                        no_endpoint: no_endpoint.get_or_create_owned(&labels),
                        to_server: flow(Flow::ToServer),
                        to_client: flow(Flow::ToClient),
                        // Envoy's name only: /metrics has it as a close reason.
                        idle_timeout: Counter::default(),
                    },
                    connect_seconds: connect_seconds.get_or_create_owned(&labels),
                    duration_seconds: duration_seconds.get_or_create_owned(&labels),
                })
            })
            .collect();
        let directions = Direction::ALL
            .into_iter()
            .map(|direction| DirectionMetrics {
                closed: CloseReason::ALL
                    .map(|reason| closed.get_or_create_owned(&CloseLabels { direction, reason }))
                    .into(),
                loop_rejected: Guard::ALL
                    .map(|guard| loop_rejected.get_or_create_owned(&GuardLabels { direction, guard }))
                    .into(),
                accept_errors: AcceptErrorKind::ALL
                    .map(|kind| accept_errors.get_or_create_owned(&AcceptLabels { direction, kind }))
                    .into(),
                listener_overflow: listener_overflow.get_or_create_owned(&DirectionLabels { direction }),
            })
            .collect();
        let capture_proved =
            Family::ALL.map(|family| capture_proved.get_or_create_owned(&FamilyLabels { family })).into();
        Self {
            totals,
            directions,
            capture_proved,
            ready,
            access_log_dropped,
            traffic_log_dropped,
            config_reloaded,
            config_reload_failed,
            pipes,
            tls,
            registry,
        }
    }

    /// The counters of a direction and family.
    pub(crate) fn totals(&self, direction: Direction, family: Family) -> &Arc<Totals> {
        &self.totals[direction as usize * Family::ALL.len() + family as usize]
    }

    /// The counters of a direction.
    pub(crate) fn direction(&self, direction: Direction) -> &DirectionMetrics {
        &self.directions[direction as usize]
    }

    /// 1 once the redirect was proved in a family.
    pub(crate) fn capture_proved(&self, family: Family) -> &Gauge {
        &self.capture_proved[family as usize]
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

    /// All series as OpenMetrics text.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a String does not fail; a half-written page would be worse than an empty one.
            Err(fmt::Error) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_from_the_start() {
        let page = Metrics::default().render();
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
                assert_eq!(of.accept_errors(kind).inc(), 0);
            }
        }
        for direction in Direction::ALL {
            for family in Family::ALL {
                assert_eq!(metrics.totals(direction, family).opened.inc(), 0, "{direction} {family:?}");
            }
        }
    }
}
