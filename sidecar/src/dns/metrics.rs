// SPDX-License-Identifier: Apache-2.0
//! Metrics of the DNS server.

use crate::metrics::{By, Counter, Gauge, Histogram, labels, metrics};

/// Upper bounds in seconds: from a cache on the node to the deadline of the third server.
const UPSTREAM_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

/// Kind of the answer to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answered {
    /// Records of a name of the mesh.
    Mesh,
    /// A name of the mesh that has no record of this type.
    NoData,
    /// The answer of a server of the pod.
    Forwarded,
    /// SERVFAIL, because no server answered.
    Failed,
    /// SERVFAIL, because too many queries are in flight.
    Overflow,
    /// SERVFAIL, because the sidecar's own query came back to it.
    Loop,
    /// An error that says what is wrong with the query.
    Rejected,
    /// Nothing: no query.
    Dropped,
}

impl Answered {
    pub(crate) const ALL: [Self; 8] = [
        Self::Mesh,
        Self::NoData,
        Self::Forwarded,
        Self::Failed,
        Self::Overflow,
        Self::Loop,
        Self::Rejected,
        Self::Dropped,
    ];

    /// Value of the metric's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::NoData => "no_data",
            Self::Forwarded => "forwarded",
            Self::Failed => "failed",
            Self::Overflow => "overflow",
            Self::Loop => "loop",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
        }
    }
}

/// Outcome of a query at one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// It answered, in time or late.
    Answered,
    /// It was silent for the deadline.
    Timeout,
    /// It refused, cannot be reached, or ended the connection.
    Unreachable,
}

impl Outcome {
    pub(crate) const ALL: [Self; 3] = [Self::Answered, Self::Timeout, Self::Unreachable];

    /// Value of the metric's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
        }
    }
}

labels! { Answered: "answer", Outcome: "outcome" }

metrics! {
    /// Queries at the servers of the pod.
    #[derive(Clone)]
    pub(crate) struct DnsUpstreamMetrics {
        outcomes: By<Outcome> = "dns_upstream_queries", "DNS queries to servers of the pod, by outcome"
            => "dns.upstream.{outcome}";
        seconds: Histogram = "dns_upstream_duration_seconds", "How long servers of the pod took to answer"
            buckets UPSTREAM_BUCKETS;
        /// The same as a sum, for statistics and the page.
        micros: Counter => "dns.upstream.microseconds";
        ignored: Counter = "dns_upstream_ignored", "Messages from servers of the pod that answer no query"
            => "dns.upstream.ignored";
    }
}

metrics! {
    /// Queries of the pod.
    #[derive(Clone)]
    pub(crate) struct DnsMetrics {
        queries: By<Answered> = "dns_queries", "DNS queries, by what they were answered with"
            => "dns.queries.{answer}";
        active: Gauge = "dns_queries_active", "DNS queries that wait for a server of the pod"
            => "dns.queries_active";
        log_dropped: Counter = "dns_log_dropped",
            "Lines that the DNS log could not keep up with, could not write, or wrote to a file that was removed"
            => "dns.log_dropped";
        upstream: DnsUpstreamMetrics;
    }
}
