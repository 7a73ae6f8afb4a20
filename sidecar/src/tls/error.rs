// SPDX-License-Identifier: Apache-2.0
//! Why a connection did not become TLS between mesh members.

use super::certificate::CertificateFault;
use crate::observe::close_reason::CloseReason;
use culvert_mesh::model::spiffe::{SpiffeId, TrustDomain};
use rustls::{CertificateError, Error};
use std::io;
use std::time::Duration;

/// Why a handshake, or the wait for it, failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// STRICT, and bytes that are not TLS.
    #[error(
        "the client speaks plain bytes, and the mesh's mTLS is STRICT: is it in the mesh? PERMISSIVE lets it through"
    )]
    Plaintext,
    /// STRICT, and TLS that is not the mesh's.
    #[error(
        "the client speaks TLS of its own (without ALPN kuma), and the mesh's mTLS is STRICT: is it in the mesh? \
         PERMISSIVE lets it through"
    )]
    OwnTls,
    /// Nobody spoke in time.
    #[error("the client sent no whole ClientHello within {} s", .0.as_secs())]
    Silent(Duration),
    /// It went away first.
    #[error("the client closed before it had said hello")]
    Gone,
    /// It reset the connection first.
    #[error("the client was lost before it had said hello: {0}")]
    Lost(io::Error),
    /// The handshake did not end in time.
    #[error("the TLS handshake did not end within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Too many at a time.
    #[error("{0} TLS handshakes are under way, which is the most")]
    TooMany(u32),
    /// There is nothing to identify oneself with.
    #[error("this sidecar has no identity (--identity), so it cannot speak TLS: see /certs")]
    NoIdentity,
    /// The peer closed in the middle of it.
    #[error("the peer closed in the middle of the TLS handshake")]
    Cut,
    /// The socket failed.
    #[error("the TLS handshake was cut off: {0}")]
    Io(io::Error),
    /// Whose certificate it is.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// Everything else that TLS may say, the chain of certificates included.
    #[error("{}", in_words(.0))]
    Protocol(Error),
}

/// Whose certificate the peer has, as far as that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// None at all.
    #[error("the peer has no certificate")]
    NoCertificate,
    /// One that cannot be used.
    #[error("the peer's certificate names nobody: {0}")]
    Unusable(CertificateFault),
    /// Somebody else's.
    #[error("the peer is {id}, which is not of the trust domain {trust_domain}")]
    OtherTrustDomain {
        /// Who it says it is.
        id: SpiffeId,
        /// Who it should be of.
        trust_domain: TrustDomain,
    },
    /// Another service's.
    #[error("the server is {id}, and {expected} was dialled: does a document name another pod's address?")]
    OtherService {
        /// Who it says it is.
        id: SpiffeId,
        /// Who it should be.
        expected: SpiffeId,
    },
    /// Over, found on a session that was resumed.
    #[error("the peer's certificate expired")]
    Expired,
}

impl TlsError {
    /// How the closing record names it.
    pub fn reason(&self) -> CloseReason {
        match self {
            Self::Plaintext => CloseReason::Plaintext,
            Self::OwnTls => CloseReason::ForeignTls,
            Self::Silent(_) | Self::TimedOut(_) => CloseReason::TlsTimeout,
            Self::Lost(_) => CloseReason::ClientReset,
            Self::TooMany(_) => CloseReason::Limit,
            Self::NoIdentity => CloseReason::TlsNoIdentity,
            Self::Gone | Self::Cut | Self::Io(_) => CloseReason::TlsFailure,
            Self::Peer(PeerFault::Expired) => CloseReason::TlsExpired,
            Self::Peer(PeerFault::NoCertificate) => CloseReason::TlsNoCertificate,
            Self::Peer(_) => CloseReason::TlsIdentity,
            Self::Protocol(error) => of_protocol(error),
        }
    }
}

fn of_protocol(error: &Error) -> CloseReason {
    match error {
        Error::NoCertificatesPresented => CloseReason::TlsNoCertificate,
        Error::InvalidCertificate(fault) => match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => CloseReason::TlsExpired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                CloseReason::TlsNotYetValid
            }
            _ => CloseReason::TlsUntrusted,
        },
        Error::AlertReceived(_) => CloseReason::TlsRefused,
        _ => CloseReason::TlsFailure,
    }
}

fn in_words(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "the peer has no certificate".into(),
        Error::InvalidCertificate(fault) => match fault {
            CertificateError::Expired => "the peer's certificate expired".into(),
            CertificateError::ExpiredContext { time, not_after } => format!(
                "the peer's certificate expired {} s ago: is it renewed, and is this node's clock right?",
                time.as_secs().saturating_sub(not_after.as_secs())
            ),
            CertificateError::NotValidYet => "the peer's certificate is not valid yet".into(),
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "the peer's certificate is not valid for another {} s: compare the clocks of the two nodes",
                not_before.as_secs().saturating_sub(time.as_secs())
            ),
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the peer's certificate is of no authority in ca.crt: is it of another mesh?".into()
            }
            other => format!("the peer's certificate does not hold: {other}"),
        },
        Error::AlertReceived(alert) => format!("the peer refused the TLS handshake: {alert:?}"),
        other => format!("the TLS handshake failed: {other}"),
    }
}
