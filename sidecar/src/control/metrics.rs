// SPDX-License-Identifier: Apache-2.0
//! Metrics of the stream from the controller.

use crate::metrics::{By, Counter, Gauge, Histogram, labels, metrics};

/// Upper bounds in seconds: from a controller on the node to the deadline of a question.
const LOOK_UP_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0];

/// Result of a connection's question about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LookUp {
    /// The answer was known.
    Known,
    /// The answer came in time.
    Answered,
    /// No answer came in time, and the connection went on as to a destination that no document names.
    LateLetOut,
    /// No answer came in time, and the connection was refused.
    LateRefused,
}

impl LookUp {
    const ALL: [Self; 4] = [Self::Known, Self::Answered, Self::LateLetOut, Self::LateRefused];

    fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Answered => "answered",
            Self::LateLetOut => "late_let_out",
            Self::LateRefused => "late_refused",
        }
    }
}

labels! { LookUp: "result" }

metrics! {
    /// The stream, and what it told.
    #[derive(Clone)]
    pub(crate) struct ControlMetrics {
        connected: Gauge = "control_connected", "1 while a stream from the controller is open"
            => "control_plane.connected_state";
        failures: Counter = "control_failures", "Attempts to connect to the controller that failed, and streams that broke"
            => "control_plane.failures";
        responses: Counter = "control_responses", "Responses of the controller";
        refused: Counter = "control_responses_refused", "Responses of the controller that were refused (NACK)"
            => "control_plane.rejected";
        strays: Counter = "control_strays", "Resources of the controller that nothing asked for, or that it removed and never sent";
        documents_pod: Gauge = "control_documents", "Documents of the controller" { about: "pod" };
        documents_destinations: Gauge = "control_documents" { about: "destinations" };
        destinations: Gauge = "control_destinations", "Destinations that the controller was asked about and that are followed";
        look_ups: By<LookUp> = "control_lookups", "Connections whose destination was looked up, by result";
        look_up_seconds: Histogram = "control_lookup_duration_seconds",
            "Time until the answer about a destination was in force" buckets LOOK_UP_BUCKETS;
        reports: Counter = "control_reports", "Reports of the pod's connections to the controller";
        signed: Counter = "control_identities", "Certificates that the controller signed for this pod";
        sign_failed: Counter = "control_identities_failed", "Requests for a certificate that failed";
    }
}
