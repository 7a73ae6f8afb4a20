// SPDX-License-Identifier: Apache-2.0
//! Reasons why connections end: one enum for the log line, the metric's label and the error types.

use crate::metrics::labels;
use crate::net::dial::DialError;
use std::fmt;

/// Reason why a connection was closed or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CloseReason {
    /// Both sides ended their stream with FIN.
    Ok = 1,
    /// The client reset the connection, or vanished.
    ClientReset,
    /// The server reset the connection, or vanished.
    ServerReset,
    /// The server refused the connection.
    ConnectRefused,
    /// The server did not answer within the connect timeout.
    ConnectTimeout,
    /// No route to the server, or the kernel refused the connect.
    ConnectUnreachable,
    /// No document names an endpoint of the service.
    NoEndpoint,
    /// Passthrough is off, and no document names the destination.
    Denied,
    /// STRICT, and the controller did not say in time who is at the destination.
    Unanswered,
    /// A guard refused the connection: forwarding it would loop or open loopback to peers.
    Loop,
    /// The connection was never redirected, so it has no destination.
    NoOriginalDst,
    /// A limit on connections or on connects in flight was reached.
    Limit,
    /// mTLS is STRICT, and no inbound of this pod's Dataplane names the port.
    NotInbound,
    /// A MeshTrafficPermission refuses the peer, or none allows it.
    Forbidden,
    /// mTLS is STRICT, and the client spoke plain bytes.
    Plaintext,
    /// mTLS is STRICT, and the client spoke TLS of its own.
    ForeignTls,
    /// The peer had no certificate.
    TlsNoCertificate,
    /// The peer's certificate is of no authority of this mesh, or does not hold for another reason.
    TlsUntrusted,
    /// The peer's certificate expired.
    TlsExpired,
    /// The peer's certificate is not valid yet: the clocks differ.
    TlsNotYetValid,
    /// The peer's certificate is of an authority of this mesh, but its identity is not the expected one.
    TlsIdentity,
    /// The peer refused the TLS handshake: its log says why.
    TlsRefused,
    /// This sidecar has no identity to speak TLS with.
    TlsNoIdentity,
    /// The client's hello, or the TLS handshake, took too long.
    TlsTimeout,
    /// TLS failed: not spoken as it should be, or cut off.
    TlsFailure,
    /// The peer's TLS stream ended without its close_notify.
    TlsTruncated,
    /// The client's HTTP broke a rule.
    HttpRequest,
    /// The server's HTTP broke a rule.
    HttpResponse,
    /// No byte moved for the idle timeout.
    IdleTimeout,
    /// The sidecar stopped before the connection ended.
    DrainTimeout,
    /// A defect of the sidecar.
    Internal,
}

impl CloseReason {
    /// All reasons, for tables and tests.
    pub const ALL: [Self; 31] = [
        Self::Ok,
        Self::ClientReset,
        Self::ServerReset,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectUnreachable,
        Self::NoEndpoint,
        Self::Denied,
        Self::Unanswered,
        Self::Loop,
        Self::NoOriginalDst,
        Self::Limit,
        Self::NotInbound,
        Self::Forbidden,
        Self::Plaintext,
        Self::ForeignTls,
        Self::TlsNoCertificate,
        Self::TlsUntrusted,
        Self::TlsExpired,
        Self::TlsNotYetValid,
        Self::TlsIdentity,
        Self::TlsRefused,
        Self::TlsNoIdentity,
        Self::TlsTimeout,
        Self::TlsFailure,
        Self::TlsTruncated,
        Self::HttpRequest,
        Self::HttpResponse,
        Self::IdleTimeout,
        Self::DrainTimeout,
        Self::Internal,
    ];

    /// Label in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientReset => "client_reset",
            Self::ServerReset => "server_reset",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectUnreachable => "connect_unreachable",
            Self::NoEndpoint => "no_endpoint",
            Self::Denied => "denied",
            Self::Unanswered => "unanswered",
            Self::Loop => "loop",
            Self::NoOriginalDst => "no_original_dst",
            Self::Limit => "limit",
            Self::NotInbound => "not_inbound",
            Self::Forbidden => "forbidden",
            Self::Plaintext => "plaintext",
            Self::ForeignTls => "foreign_tls",
            Self::TlsNoCertificate => "tls_no_certificate",
            Self::TlsUntrusted => "tls_untrusted",
            Self::TlsExpired => "tls_expired",
            Self::TlsNotYetValid => "tls_not_yet_valid",
            Self::TlsIdentity => "tls_identity",
            Self::TlsRefused => "tls_refused",
            Self::TlsNoIdentity => "tls_no_identity",
            Self::TlsTimeout => "tls_timeout",
            Self::TlsFailure => "tls_failure",
            Self::TlsTruncated => "tls_truncated",
            Self::HttpRequest => "http_request",
            Self::HttpResponse => "http_response",
            Self::IdleTimeout => "idle_timeout",
            Self::DrainTimeout => "drain_timeout",
            Self::Internal => "internal",
        }
    }

    /// Predicate of a sentence for people: "an outbound connection …".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Ok => "ended",
            Self::ClientReset => "was reset by its client",
            Self::ServerReset => "was reset by its server",
            Self::ConnectRefused => "was refused by its server",
            Self::ConnectTimeout => "got no answer from its server",
            Self::ConnectUnreachable => "could not reach its server",
            Self::NoEndpoint => "had no endpoint to go to",
            Self::Denied => "was denied by the mesh",
            Self::Unanswered => {
                "was refused because the controller did not say in time who is there, and mTLS is STRICT"
            }
            Self::Loop => "was refused by a guard",
            Self::NoOriginalDst => "had no original destination",
            Self::Limit => "was refused because a limit is reached",
            Self::NotInbound => "was refused because no inbound names its port, and mTLS is STRICT",
            Self::Forbidden => "was refused by a MeshTrafficPermission",
            Self::Plaintext => "was refused because it was plain, and mTLS is STRICT",
            Self::ForeignTls => "was refused because its TLS was not the mesh's, and mTLS is STRICT",
            Self::TlsNoCertificate => "was refused because its peer had no certificate",
            Self::TlsUntrusted => {
                "was refused because its peer's certificate is of no authority of this mesh"
            }
            Self::TlsExpired => "was refused because its peer's certificate expired",
            Self::TlsNotYetValid => "was refused because its peer's certificate is not valid yet",
            Self::TlsIdentity => "was refused because its peer is somebody else",
            Self::TlsRefused => "was refused by its peer in the TLS handshake",
            Self::TlsNoIdentity => "was refused because this sidecar has no identity",
            Self::TlsTimeout => "was refused because its TLS handshake took too long",
            Self::TlsFailure => "was ended because TLS failed",
            Self::TlsTruncated => "was reset because its TLS stream was cut off",
            Self::HttpRequest => "was ended because its client's HTTP broke a rule",
            Self::HttpResponse => "was ended because its server's HTTP broke a rule",
            Self::IdleTimeout => "was ended because it moved no byte for the idle timeout",
            Self::DrainTimeout => "was ended because the sidecar stops",
            Self::Internal => "was ended by a defect of the sidecar",
        }
    }

    /// The reason that [`Self::code`] stands for; `None` for 0 and for anything unknown.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// Number of the reason, for an atomic; never 0.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

labels! { CloseReason: "reason" }

impl From<&DialError> for CloseReason {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::Refused { .. } => Self::ConnectRefused,
            DialError::TimedOut { .. } => Self::ConnectTimeout,
            DialError::Socket { source, .. } => match source.kind() {
                std::io::ErrorKind::ConnectionRefused => Self::ConnectRefused,
                std::io::ErrorKind::TimedOut => Self::ConnectTimeout,
                _ => Self::ConnectUnreachable,
            },
            DialError::NoSource { .. } | DialError::Failed { .. } => Self::ConnectUnreachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_for_its_reason_and_zero_for_none() {
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(CloseReason::from_code(0), None);
        assert_eq!(CloseReason::from_code(255), None);
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = CloseReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), CloseReason::ALL.len());
    }
}
