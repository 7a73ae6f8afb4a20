// SPDX-License-Identifier: Apache-2.0
//! What is counted of TLS.

use crate::net::addrs::Direction;
use crate::observe::spoken::Spoken;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Series;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt::{self, Write};

/// Upper bounds in seconds: from a resumed handshake in the pod to the deadline.
const HANDSHAKE_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0];

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handshake {
    /// With certificates.
    Full,
    /// By a session of before.
    Resumed,
    /// Not well.
    Failed,
}

impl Handshake {
    /// All, for tables.
    pub const ALL: [Self; 3] = [Self::Full, Self::Resumed, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
        }
    }
}

impl EncodeLabelValue for Spoken {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.name())
    }
}

impl EncodeLabelValue for Handshake {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SpokenLabels {
    spoken: Spoken,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    direction: Direction,
    result: Handshake,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: Direction,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    certificate: &'static str,
}

/// What was counted of connections that spoke one thing.
#[derive(Debug)]
pub struct SpokenMetrics {
    /// So far.
    pub total: Counter,
    /// Open now.
    pub active: Gauge,
}

/// Everything that is counted of TLS.
#[derive(Debug)]
pub struct TlsMetrics {
    handshakes: Vec<Counter>,
    handshake_seconds: Vec<Histogram>,
    spoken: Vec<SpokenMetrics>,
    /// When the workload's certificate ends, in seconds since 1970; 0 without one.
    pub identity_expires: Gauge,
    /// When the first authority ends, in seconds since 1970; 0 without one.
    pub authorities_expire: Gauge,
    /// Identities taken.
    pub identity_reloads: Counter,
    /// Identities not taken.
    pub identity_reload_failed: Counter,
    /// Inbound connections that a `MeshTrafficPermission` refused.
    pub denied: Counter,
    /// Those that one would refuse, if `AllowWithShadowDeny` were `Deny`.
    pub shadow_denied: Counter,
}

impl TlsMetrics {
    /// Registers every series with all its labels.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let handshakes = Series::<HandshakeLabels, Counter>::default();
        let handshake_seconds =
            Series::<DirectionLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
                Histogram::new(HANDSHAKE_BUCKETS)
            });
        let total = Series::<SpokenLabels, Counter>::default();
        let active = Series::<SpokenLabels, Gauge>::default();
        let expires = Series::<CertificateLabels, Gauge>::default();
        let of = |certificate| expires.get_or_create_owned(&CertificateLabels { certificate });
        let tls = Self {
            handshakes: Direction::ALL
                .into_iter()
                .flat_map(|direction| Handshake::ALL.map(|result| HandshakeLabels { direction, result }))
                .map(|labels| handshakes.get_or_create_owned(&labels))
                .collect(),
            handshake_seconds: Direction::ALL
                .map(|direction| handshake_seconds.get_or_create_owned(&DirectionLabels { direction }))
                .into(),
            spoken: Spoken::ALL
                .map(|spoken| SpokenMetrics {
                    total: total.get_or_create_owned(&SpokenLabels { spoken }),
                    active: active.get_or_create_owned(&SpokenLabels { spoken }),
                })
                .into(),
            identity_expires: of("identity"),
            authorities_expire: of("authorities"),
            identity_reloads: Counter::default(),
            identity_reload_failed: Counter::default(),
            denied: Counter::default(),
            shadow_denied: Counter::default(),
        };
        registry.register(
            "tls_handshakes",
            "TLS handshakes between mesh members, by how they ended",
            handshakes,
        );
        registry.register(
            "tls_handshake_duration_seconds",
            "How long successful TLS handshakes took",
            handshake_seconds,
        );
        registry.register(
            "inbound_spoken",
            "Inbound connections under STRICT or PERMISSIVE, by what they speak; when none is plain, STRICT is safe",
            total,
        );
        registry.register("inbound_spoken_active", "The same, open now", active);
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the identity's certificate ends, and the first of the authorities'; 0 without one",
            expires,
        );
        registry.register("identity_reloads", "Identities read and taken", tls.identity_reloads.clone());
        registry.register(
            "identity_reload_failed",
            "Identities read and not taken, the old one is used on",
            tls.identity_reload_failed.clone(),
        );
        registry.register(
            "permission_denied",
            "Inbound connections refused by a MeshTrafficPermission",
            tls.denied.clone(),
        );
        registry.register(
            "permission_shadow_denied",
            "Inbound connections that AllowWithShadowDeny let through",
            tls.shadow_denied.clone(),
        );
        tls
    }

    /// Handshakes of a direction that ended in one way.
    pub fn handshakes(&self, direction: Direction, result: Handshake) -> &Counter {
        &self.handshakes[direction as usize * Handshake::ALL.len() + result as usize]
    }

    /// How long those of a direction took that succeeded.
    pub fn handshake_seconds(&self, direction: Direction) -> &Histogram {
        &self.handshake_seconds[direction as usize]
    }

    /// Inbound connections that speak one thing.
    pub fn spoken(&self, spoken: Spoken) -> &SpokenMetrics {
        &self.spoken[spoken as usize]
    }
}
