// SPDX-License-Identifier: Apache-2.0
//! Counts of scrapes by a MeshMetric's port.

use crate::metrics::{By, Counter, labels, metrics};
use std::fmt;

/// Reason for which an application's metrics are missing in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ScrapeFailure {
    /// The address is not one of this pod.
    NotThisPod,
    /// It was not reached.
    Unreachable,
    /// It did not answer in time.
    Late,
    /// It answered with another status than 200.
    Status,
    /// Its answer is no HTTP, or breaks off.
    Broken,
    /// Its answer is too large.
    TooLarge,
    /// Its answer is not Prometheus' text.
    Malformed,
}

impl ScrapeFailure {
    /// All reasons, for tables.
    pub(crate) const ALL: [Self; 7] = [
        Self::NotThisPod,
        Self::Unreachable,
        Self::Late,
        Self::Status,
        Self::Broken,
        Self::TooLarge,
        Self::Malformed,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotThisPod => "not_this_pod",
            Self::Unreachable => "unreachable",
            Self::Late => "late",
            Self::Status => "status",
            Self::Broken => "broken",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }
}

impl fmt::Display for ScrapeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotThisPod => "its address is not one of this pod",
            Self::Unreachable => "it does not listen there",
            Self::Late => "it did not answer in time",
            Self::Status => "it answered with another status than 200",
            Self::Broken => "its answer is no HTTP, or breaks off",
            Self::TooLarge => "its answer is too large",
            Self::Malformed => "its answer is not Prometheus' text format",
        })
    }
}

labels! { ScrapeFailure: "reason" }

metrics! {
    /// Scrapes by a MeshMetric's port.
    #[derive(Clone, Default)]
    pub(crate) struct ScrapeMetrics {
        failures: By<ScrapeFailure> = "application_scrape_failures",
            "Applications whose metrics are missing in an answer of a MeshMetric's port, by reason"
            => "mesh_metric.application_failures";
        refused: Counter = "scrapes_refused",
            "Requests that a MeshMetric's port refused because they did not come by the inbound port"
            => "mesh_metric.refused";
        busy: Counter = "scrapes_busy",
            "Requests that a MeshMetric's port turned away because as many as it takes were being answered"
            => "mesh_metric.busy";
    }
}
