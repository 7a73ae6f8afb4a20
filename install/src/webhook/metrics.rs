// SPDX-License-Identifier: Apache-2.0
//! The injector's metrics. Every label takes one of a few values.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::system::openmetrics::openmetrics;

/// Upper bounds of an answer's time in seconds: most take a tenth of a millisecond, and an API server waits for 5 s.
const SECONDS: [f64; 10] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

/// All metrics of the injector. Every task writes them; `/metrics` reads them.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// `culvert_injector_reviews_total`: answered reviews, by outcome and reason.
    pub reviews: Family<ReviewLabels, Counter>,
    /// `culvert_injector_review_seconds`: time from a whole review to its answer.
    pub seconds: Histogram,
    /// `culvert_injector_rejected_requests_total`: requests that were no review.
    pub rejected: Family<RejectedLabels, Counter>,
    /// `culvert_injector_ready`: 1 once it has answered with everything that it needs.
    pub ready: Gauge,
    /// `culvert_injector_certificates_loaded_total`: certificates that were taken to serve with.
    pub certificates: Counter,
    /// `culvert_injector_ca_bundle_writes_total`: writes of the CAs into the webhook configuration.
    pub bundles: Counter,
    /// `culvert_injector_upkeep_failures_total`: looks at Secret and webhook configuration that failed.
    pub failures: Counter,
    /// `culvert_injector_events_dropped_total`: events that were not posted, being too many.
    pub events_dropped: Counter,
}

/// Outcome of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// The pod gets a sidecar.
    Injected,
    /// The pod has its sidecar from an earlier call, which stays as it is or is put right.
    Again,
    /// The pod stays as it is.
    Skipped,
    /// The pod is not created.
    Refused,
}

/// Reason of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Why {
    /// A label asks for it.
    Label,
    /// The second call finds nothing to do.
    Same,
    /// The second call puts right what others changed.
    Changed,
    NotAsked,
    Disabled,
    System,
    Excluded,
    Mirror,
    HostNetwork,
    Windows,
    OtherMesh,
    Present,
    /// The request is no creation of a pod.
    NoPod,
    /// The pod cannot have a sidecar as it is written.
    Pod,
    /// The pod's namespace cannot be read.
    Namespace,
    /// The decision failed by a bug.
    Bug,
}

/// Reason of a request without an answer by review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Rejected {
    /// 404, 405 or 415.
    Request,
    /// The body is no review.
    Malformed,
    TooLarge,
    /// The body did not come in time, or broke off.
    Slow,
    /// Too many requests at once.
    Busy,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReviewLabels {
    pub outcome: Outcome,
    pub reason: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RejectedLabels {
    pub reason: Rejected,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (reviews, rejected) = (Family::default(), Family::default());
        let (certificates, bundles, failures) = (Counter::default(), Counter::default(), Counter::default());
        let events_dropped = Counter::default();
        let (ready, seconds) = (Gauge::default(), Histogram::new(SECONDS));
        registry.register("culvert_injector_reviews", "Answered reviews", reviews.clone());
        registry.register(
            "culvert_injector_review_seconds",
            "Seconds from a whole review to its answer",
            seconds.clone(),
        );
        registry.register(
            "culvert_injector_rejected_requests",
            "Requests that were no review",
            rejected.clone(),
        );
        registry.register("culvert_injector_ready", "1 while it is ready", ready.clone());
        registry.register(
            "culvert_injector_certificates_loaded",
            "Certificates that were taken to serve with",
            certificates.clone(),
        );
        registry.register(
            "culvert_injector_ca_bundle_writes",
            "Writes of the CAs into the webhook configuration",
            bundles.clone(),
        );
        registry.register(
            "culvert_injector_upkeep_failures",
            "Looks at Secret and webhook configuration that failed",
            failures.clone(),
        );
        registry.register(
            "culvert_injector_events_dropped",
            "Events that were not posted, being too many",
            events_dropped.clone(),
        );
        Self { registry, reviews, seconds, rejected, ready, certificates, bundles, failures, events_dropped }
    }
}

impl Metrics {
    /// Encodes all metrics in the OpenMetrics text format.
    pub(crate) fn text(&self) -> String {
        openmetrics(&self.registry)
    }

    pub(crate) fn review(&self, outcome: Outcome, reason: Why) {
        self.reviews.get_or_create(&ReviewLabels { outcome, reason }).inc();
    }

    pub(crate) fn reject(&self, reason: Rejected) {
        self.rejected.get_or_create(&RejectedLabels { reason }).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    const OUTCOMES: [Outcome; 4] = [Outcome::Injected, Outcome::Again, Outcome::Skipped, Outcome::Refused];
    const REJECTED: [Rejected; 5] =
        [Rejected::Request, Rejected::Malformed, Rejected::TooLarge, Rejected::Slow, Rejected::Busy];

    /// The names of all families, each with its type.
    fn printed() -> BTreeSet<String> {
        let metrics = Metrics::default();
        // A family prints its type once a series was counted.
        metrics.review(Outcome::Injected, Why::Label);
        metrics.reject(Rejected::Request);
        let text = culvert_serve::metrics::text_format(&metrics.text());
        let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        families.map(str::to_owned).collect()
    }

    #[test]
    fn the_page_names_every_metric_and_label_and_no_other() {
        let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/INJECTOR.md")).unwrap();
        let (_, section) = page.split_once("\n## Metrics\n").expect("the page has a section on metrics");
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows: Vec<Vec<&str>> = section
            .lines()
            .filter_map(|line| Some(line.strip_prefix("| `culvert")?.split(" | ").collect()))
            .collect();
        let written: BTreeSet<_> =
            rows.iter().map(|row| format!("culvert{} {}", row[0].trim_end_matches('`'), row[1])).collect();
        assert_eq!(written, printed());
        let values = |name: &str| -> Vec<&str> {
            let row = rows.iter().find(|row| row[0].contains(name)).unwrap();
            row[2].split('`').skip(3).step_by(2).collect()
        };
        assert_eq!(values("reviews_total"), OUTCOMES.map(|outcome| format!("{outcome:?}")));
        assert_eq!(values("rejected"), REJECTED.map(|reason| format!("{reason:?}")));
        let whys = [
            Why::Label,
            Why::Same,
            Why::Changed,
            Why::NotAsked,
            Why::Disabled,
            Why::System,
            Why::Excluded,
            Why::Mirror,
            Why::HostNetwork,
            Why::Windows,
            Why::OtherMesh,
            Why::Present,
            Why::NoPod,
            Why::Pod,
            Why::Namespace,
            Why::Bug,
        ];
        let (_, reasons) = section.split_once("Reviews also have a `reason`.").unwrap();
        let reasons: BTreeSet<_> = reasons.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let mut all: BTreeSet<_> = whys.map(|why| format!("{why:?}")).into();
        all.extend(OUTCOMES.map(|outcome| format!("{outcome:?}")));
        assert_eq!(reasons, all);
    }
}
