// SPDX-License-Identifier: Apache-2.0
//! Metrics of TLS between mesh members. Envoy has its own for each listener or cluster; ours are for a direction.

use crate::metrics::{By, Counter, Gauge, Histogram, metrics};
use crate::net::addrs::Direction;
use crate::observe::spoken::Spoken;

/// Upper bounds in seconds: from a resumed handshake in the pod to the deadline.
const HANDSHAKE_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0];

/// Result of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Handshake {
    /// Certificates were exchanged.
    Full,
    /// The keys of an earlier session were used again.
    Resumed,
    Failed,
}

metrics! {
    /// Connections that speak one protocol.
    pub(crate) struct SpokenMetrics {
        total: Counter = "inbound_spoken",
            "Inbound connections under STRICT or PERMISSIVE, by what they speak; when none is plain, STRICT is safe"
            => "listener_manager.inbound.spoken.{spoken}.downstream_cx_total";
        active: Gauge = "inbound_spoken_active", "The same, open now"
            => "listener_manager.inbound.spoken.{spoken}.downstream_cx_active";
    }
}

metrics! {
    /// Handshakes of one direction.
    pub(crate) struct HandshakeMetrics {
        full: Counter = "tls_handshakes", "TLS handshakes between mesh members, by how they ended" { result: "full" }
            => "listener_manager.{direction}.ssl.handshake";
        resumed: Counter = "tls_handshakes" { result: "resumed" }
            => "listener_manager.{direction}.ssl.handshake", "listener_manager.{direction}.ssl.session_reused";
        failed: Counter = "tls_handshakes" { result: "failed" }
            => "listener_manager.{direction}.ssl.connection_error";
        seconds: Histogram = "tls_handshake_duration_seconds", "How long successful TLS handshakes took"
            buckets HANDSHAKE_BUCKETS;
    }
}

metrics! {
    /// TLS with servers outside of the mesh, of all clusters.
    pub(crate) struct OutsideTotals {
        full: Counter = "external_tls_handshakes",
            "TLS handshakes with servers outside of the mesh, by how they ended" { result: "full" };
        resumed: Counter = "external_tls_handshakes" { result: "resumed" };
        failed: Counter = "external_tls_handshakes" { result: "failed" };
    }
}

metrics! {
    /// TLS of all connections, and the identity that it uses.
    pub(crate) struct TlsMetrics {
        handshakes: By<Direction, HandshakeMetrics>;
        spoken: By<Spoken, SpokenMetrics>;
        outside: OutsideTotals;
        /// In seconds since 1970.
        identity_expires: Gauge = "certificate_expiry_timestamp_seconds",
            "When the identity's certificate ends, and the first of the authorities'; 0 without one"
            { certificate: "identity" };
        /// In seconds since 1970.
        authorities_expire: Gauge = "certificate_expiry_timestamp_seconds" { certificate: "authorities" };
        identity_reloads: Counter = "identity_reloads", "Identities read and taken";
        identity_reload_failed: Counter = "identity_reload_failed",
            "Identities read and not taken, the old one is used on";
        denied: Counter = "permission_denied", "Inbound connections refused by a MeshTrafficPermission"
            => "rbac.denied";
        shadow_denied: Counter = "permission_shadow_denied",
            "Inbound connections that AllowWithShadowDeny let through, or that a MeshTrafficPermission on trial would refuse"
            => "rbac.shadow_denied";
        shadow_allowed: Counter = "permission_shadow_allowed",
            "Inbound connections that were refused, and that a MeshTrafficPermission on trial would let in"
            => "rbac.shadow_allowed";
        shadow_not_member: Counter = "mode_shadow_denied",
            "Inbound connections without the mesh's TLS that a MeshTLS on trial would refuse"
            => "listener_manager.inbound.spoken.shadow_denied";
    }
}

impl TlsMetrics {
    /// Handshakes of a direction with this result.
    pub(crate) fn handshakes(&self, direction: Direction, result: Handshake) -> &Counter {
        let of = &self.handshakes[direction];
        match result {
            Handshake::Full => &of.full,
            Handshake::Resumed => &of.resumed,
            Handshake::Failed => &of.failed,
        }
    }

    /// Durations of the successful handshakes of a direction.
    pub(crate) fn handshake_seconds(&self, direction: Direction) -> &Histogram {
        &self.handshakes[direction].seconds
    }

    /// Inbound connections that speak this.
    pub(crate) fn spoken(&self, spoken: Spoken) -> &SpokenMetrics {
        &self.spoken[spoken]
    }
}
