// SPDX-License-Identifier: Apache-2.0
//! The controller's metrics. Every label takes one of a few values, but for the versions of sidecars.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::system::openmetrics::openmetrics;

/// Upper bounds of a look-up's time in seconds: a sidecar holds connections for it, at most 1 s.
const SECONDS: [f64; 9] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

/// All metrics of the controller. Every task writes them; `/metrics` reads them.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// `culvert_controller_sidecars`: streams, by the sidecar's image.
    sidecars: Family<ImageLabels, Gauge>,
    /// The same numbers. One lock over number and series, or a series could be removed that another thread has begun anew.
    images: Mutex<HashMap<String, i64>>,
    /// `culvert_controller_pushes_total`: responses that were sent.
    pushes: Family<SentLabels, Counter>,
    /// `culvert_controller_nacks_total`: responses that a sidecar refused.
    pub nacks: Counter,
    /// `culvert_controller_oldest_unacknowledged_seconds`: age of the oldest response that no sidecar has answered.
    pub oldest: Gauge<f64, AtomicU64>,
    /// `culvert_controller_events_dropped_total`: events that were not posted, being too many.
    pub events_dropped: Counter,
    /// `culvert_controller_lookup_seconds`: time from a look-up to its answer's way out.
    pub lookups: Histogram,
    /// `culvert_controller_signatures_total`: requests for a certificate.
    signatures: Family<SignedLabels, Counter>,
    /// `culvert_controller_refused_calls_total`: calls that were turned away.
    refused: Family<RefusedLabels, Counter>,
    /// `culvert_controller_reports_total`: reports of sidecars' connections.
    reports: Family<ReportLabels, Counter>,
    /// `culvert_controller_leader`: 1 while this replica writes.
    pub leader: Gauge,
    /// `culvert_controller_ready`: 1 while it can serve streams.
    pub ready: Gauge,
    /// `culvert_controller_invalid_documents`: mesh documents of the cluster that cannot be read.
    pub invalid: Gauge,
    /// `culvert_controller_write_failures_total`: writes to the API server that failed.
    pub failures: Counter,
    /// `culvert_controller_watch_failures_total`: watches that broke and were begun anew.
    pub watches: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ImageLabels {
    image: String,
}

/// Content of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Sent {
    /// Documents about the pod.
    Documents,
    /// Documents of destinations.
    Destinations,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SentLabels {
    about: Sent,
}

/// Outcome of a request for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// It was signed.
    Signed,
    /// It was not.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignedLabels {
    outcome: Outcome,
}

/// Outcome of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Reported {
    /// It was taken in.
    Taken,
    /// It came too soon after the one before, was too long, or its pod is gone.
    Dropped,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReportLabels {
    outcome: Reported,
}

/// Reason of a refused call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Why {
    /// There is no token, or none of a pod's.
    Token,
    /// It is for others.
    Audience,
    /// The pod is not known, or has ended.
    Pod,
    /// The pod has no sidecar.
    NotOnboarded,
    /// The pod runs by another account.
    Account,
    /// The peer has too many calls.
    Busy,
    /// The API server cannot be asked.
    Unreachable,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: Why,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("culvert_controller");
        let (sidecars, pushes, signatures, refused) =
            (Family::default(), Family::default(), Family::default(), Family::default());
        let reports = Family::default();
        let (nacks, failures, watches) = (Counter::default(), Counter::default(), Counter::default());
        let (leader, ready, invalid) = (Gauge::default(), Gauge::default(), Gauge::default());
        let lookups = Histogram::new(SECONDS);
        let (oldest, events_dropped) = (Gauge::default(), Counter::default());
        registry.register("sidecars", "Connected sidecars", Family::clone(&sidecars));
        registry.register("pushes", "Responses that were sent to sidecars", Family::clone(&pushes));
        registry.register("nacks", "Responses that a sidecar refused", nacks.clone());
        registry.register(
            "oldest_unacknowledged_seconds",
            "Age of the oldest response that its sidecar has not answered",
            oldest.clone(),
        );
        registry.register(
            "events_dropped",
            "Events that were not posted, being too many",
            events_dropped.clone(),
        );
        registry.register("lookup_seconds", "Seconds from a look-up to its answer", lookups.clone());
        registry.register("signatures", "Requests for a certificate", Family::clone(&signatures));
        registry.register("refused_calls", "Calls that were turned away", Family::clone(&refused));
        registry.register("reports", "Reports of sidecars' connections", Family::clone(&reports));
        registry.register("leader", "1 while this replica writes what is written once", leader.clone());
        registry.register("ready", "1 while it can serve sidecars", ready.clone());
        registry.register("invalid_documents", "Mesh documents that cannot be read", invalid.clone());
        registry.register("write_failures", "Writes to the API server that failed", failures.clone());
        registry.register("watch_failures", "Watches that broke and were begun anew", watches.clone());
        Self {
            registry,
            sidecars,
            images: Mutex::default(),
            pushes,
            nacks,
            oldest,
            events_dropped,
            lookups,
            signatures,
            refused,
            reports,
            leader,
            ready,
            invalid,
            failures,
            watches,
        }
    }
}

impl Metrics {
    pub(crate) fn connected(&self, image: &str, by: i64) {
        let labels = ImageLabels { image: image.to_owned() };
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let now = images.get(image).copied().unwrap_or_default() + by;
        if now == 0 {
            // Else every image of the past would stay.
            images.remove(image);
            self.sidecars.remove(&labels);
        } else {
            images.insert(labels.image.clone(), now);
            self.sidecars.get_or_create(&labels).set(now);
        }
    }

    pub(crate) fn pushed(&self, about: Sent) {
        self.pushes.get_or_create(&SentLabels { about }).inc();
    }

    pub(crate) fn signatures(&self, outcome: Outcome) {
        self.signatures.get_or_create(&SignedLabels { outcome }).inc();
    }

    pub(crate) fn reported(&self, outcome: Reported) {
        self.reports.get_or_create(&ReportLabels { outcome }).inc();
    }

    pub(crate) fn refused(&self, reason: Why) {
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
    }

    /// All metrics in OpenMetrics' text.
    pub(crate) fn text(&self) -> String {
        openmetrics(&self.registry)
    }
}
