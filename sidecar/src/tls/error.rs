// SPDX-License-Identifier: Apache-2.0
//! Reasons for which a connection did not become TLS: between mesh members, or with a server outside of the mesh.

use super::certificate::CertificateFault;
use crate::observe::close_reason::CloseReason;
use crate::plan::tls::trust::TrustDomains;
use culvert_mesh::model::spiffe::SpiffeId;
use rustls::{CertificateError, Error};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Failure of a handshake, or of the wait for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// Bytes that are not TLS, under STRICT.
    #[error(
        "the client speaks plain bytes, and the mesh's mTLS is STRICT: is it in the mesh? PERMISSIVE lets it through"
    )]
    Plaintext,
    /// TLS that is not the mesh's, under STRICT.
    #[error(
        "the client speaks TLS of its own (without ALPN kuma), and the mesh's mTLS is STRICT: is it in the mesh? \
         PERMISSIVE lets it through"
    )]
    OwnTls,
    /// No whole ClientHello came in time.
    #[error("the client sent no whole ClientHello within {} s", .0.as_secs())]
    Silent(Duration),
    /// The client closed before its ClientHello.
    #[error("the client closed before it sent a whole ClientHello")]
    Gone,
    /// The client reset the connection before its ClientHello.
    #[error("the connection to the client failed before it sent a whole ClientHello: {0}")]
    Lost(io::Error),
    /// The handshake did not end before its deadline.
    #[error("the TLS handshake did not end within {0:?}")]
    TimedOut(Duration),
    /// Too many handshakes are in progress.
    #[error(
        "{0} TLS handshakes are in progress, which is the limit, and no peer has more of them than this one"
    )]
    TooMany(usize),
    /// Another peer got the place.
    #[error(
        "the TLS handshake gave its place to another peer's: {0} are in progress, and this peer had most"
    )]
    GaveWay(usize),
    /// The sidecar has no identity.
    #[error("this sidecar has no identity (--identity), so it cannot speak TLS: see /certs")]
    NoIdentity,
    /// The peer closed during the handshake.
    #[error("the peer closed during the TLS handshake")]
    Cut,
    /// The socket failed during the handshake.
    #[error("the connection failed during the TLS handshake: {0}")]
    Io(io::Error),
    /// The peer's certificate is not the right one.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// Any other failure of TLS, the verification of the certificates included.
    #[error("{}", in_words(.0))]
    Protocol(Error),
    /// The same with a server outside of the mesh.
    #[error("{}", of_server(.0))]
    Server(Error),
    /// The sidecar lacks something for TLS with a server outside of the mesh.
    #[error("TLS with this server cannot be set up: {0}")]
    NotSetUp(#[from] OutsideFault),
}

/// Reason for which TLS to a server outside of the mesh cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutsideFault {
    /// No file of authorities was found.
    #[error(
        "this image has no file of authorities (SSL_CERT_FILE is not set, and there is no \
         /etc/ssl/certs/ca-certificates.crt): give caCert in the document, or mount such a file"
    )]
    NoRoots,
    /// The file of authorities cannot be read.
    #[error("cannot read {path}, the file of authorities: {words}")]
    Unreadable {
        /// Name of the file.
        path: PathBuf,
        /// Error of the kernel, or the length of the file.
        words: Box<str>,
    },
    /// The file of authorities has none.
    #[error("{0} holds no certificate of an authority in PEM")]
    Empty(PathBuf),
    /// rustls does not take the settings. The document was checked, so this is a defect.
    #[error("its settings cannot be used: {0}")]
    Settings(Box<str>),
}

impl From<Error> for OutsideFault {
    fn from(error: Error) -> Self {
        Self::Settings(error.to_string().into())
    }
}

/// Fault of the identity in a peer's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerFault {
    /// The peer sent no certificate.
    #[error("the peer has no certificate")]
    NoCertificate,
    /// The certificate cannot be read, or has no usable name.
    #[error("the peer's certificate has no usable identity, as {0}")]
    Unusable(CertificateFault),
    /// The identity is of another trust domain.
    #[error("the peer is {id}, which is not of the trust domain {trusted}")]
    OtherTrustDomain {
        /// Identity in the certificate.
        id: SpiffeId,
        /// Trust domains that peers may be of.
        trusted: TrustDomains,
    },
    /// The server is another than the one that was dialled.
    #[error(
        "the server is {id}, but {} was dialled: does a document have the address of another pod?", either(.expected)
    )]
    OtherServer {
        /// Identity in the certificate.
        id: SpiffeId,
        /// Identities of which the one that was dialled has one.
        expected: Box<[SpiffeId]>,
    },
    /// The certificate of a resumed session is expired.
    #[error("the peer's certificate expired")]
    Expired,
}

/// Identities that an error lists.
const LISTED: usize = 5;

/// Returns the first of several identities, in words.
fn either(ids: &[SpiffeId]) -> String {
    let first: Vec<_> = ids.iter().take(LISTED).map(SpiffeId::as_str).collect();
    let more = ids.len().checked_sub(LISTED + 1).map(|more| format!(" or {} more", more + 1));
    first.join(" or ") + &more.unwrap_or_default()
}

impl TlsError {
    /// Returns true if this sidecar lacks something, so that any other peer would fail too.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::NoIdentity | Self::TooMany(_) | Self::GaveWay(_) | Self::NotSetUp(_))
    }

    /// Returns the reason in the closing record.
    pub(crate) fn reason(&self) -> CloseReason {
        match self {
            Self::Plaintext => CloseReason::Plaintext,
            Self::OwnTls => CloseReason::ForeignTls,
            Self::Silent(_) | Self::TimedOut(_) => CloseReason::TlsTimeout,
            Self::Lost(_) => CloseReason::ClientReset,
            Self::TooMany(_) | Self::GaveWay(_) => CloseReason::Limit,
            Self::NoIdentity => CloseReason::TlsNoIdentity,
            Self::Gone | Self::Cut | Self::Io(_) => CloseReason::TlsFailure,
            Self::Peer(PeerFault::Expired) => CloseReason::TlsExpired,
            Self::Peer(PeerFault::NoCertificate) => CloseReason::TlsNoCertificate,
            Self::Peer(_) => CloseReason::TlsIdentity,
            Self::Protocol(error) => of_protocol(error),
            // A member has no name, and its identity is verified by itself.
            Self::Server(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => CloseReason::TlsIdentity,
            Self::Server(error) => of_protocol(error),
            Self::NotSetUp(_) => CloseReason::TlsUntrusted,
        }
    }

    /// Returns the same failure with the words for a server outside of the mesh.
    pub(super) fn of_outside(self) -> Self {
        match self {
            Self::Protocol(error) => Self::Server(error),
            other => other,
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
                "the peer's certificate is of no authority in ca.crt or the MeshTrusts of its trust domain: is it of another mesh?".into()
            }
            other => format!("the peer's certificate is not valid: {other}"),
        },
        Error::AlertReceived(alert) => format!("the peer refused the TLS handshake: {alert:?}"),
        other => format!("the TLS handshake failed: {other}"),
    }
}

/// Words about a server outside of the mesh, where those about a member would mislead.
fn of_server(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the server's certificate is of no authority that the service's document trusts: is its caCert the right one?"
                .into()
        }
        Error::InvalidCertificate(
            fault @ (CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }),
        ) => format!("the server has another name: {fault}; serverName and subjectAltNames say the ones it may have"),
        Error::InvalidMessage(_) => format!("{error}: does the server speak TLS on this port?"),
        other => in_words(other).replace("the peer", "the server"),
    }
}
