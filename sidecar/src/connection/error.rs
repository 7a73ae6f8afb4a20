// SPDX-License-Identifier: Apache-2.0
//! The reasons why a connection is not forwarded.

use crate::cluster::connect::ConnectError;
use crate::connection::guard::Refusal;
use crate::net::addrs::OrigDst;
use crate::net::limit::Claim;
use crate::observe::close_reason::CloseReason;
use crate::plan::listener::rate::RatePlan;
use crate::relay::http::Refusal as Rule;
use crate::tls::TlsError;
use crate::tls::asked::Nameless;
use culvert_mesh::model::spiffe::SpiffeId;

/// The reason why a connection could not be forwarded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the listener holds as many connections as the limit of open files allows{}", .0.limited())]
    ListenerFull(Claim),
    #[error("a MeshRateLimit lets the inbound take so many connections: {0}")]
    RateLimited(RatePlan),
    /// The mesh lets connections leave only for what documents name.
    #[error(
        "the mesh lets nothing leave for {0}, which no document names: write a Dataplane or a match of a MeshPassthrough for it, or let all leave by passthroughMode All"
    )]
    Denied(OrigDst),
    /// The name that the client asks for is none of those that a MeshPassthrough lets out.
    #[error(
        "the mesh lets nothing leave for {name:?} at {original}: no match of a MeshPassthrough has the name and port"
    )]
    Unmatched { original: OrigDst, name: String },
    /// Only a name could let the connection out, and the client says none.
    #[error("the mesh lets connections leave for {original} by the server's name only, and the client {why}")]
    Nameless { original: OrigDst, why: Nameless },
    /// mTLS is STRICT, and the controller did not tell who is there.
    #[error(
        "the controller did not say within 1 s who is at {0}, and mTLS is STRICT: a member must not be called without TLS; is the controller (--control) there?"
    )]
    Unanswered(OrigDst),
    /// A reload took the listener out between accept and here.
    #[error("the listener was taken away while the connection came in")]
    NoListener,
    /// mTLS is STRICT, and no inbound names the port.
    #[error(
        "no inbound of this pod's Dataplane names {0}, and the mesh's mTLS is STRICT: add it to networking.inbound"
    )]
    NotInbound(OrigDst),
    /// The client's TLS, or what came in place of it.
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no MeshTrafficPermission lets {0} call this pod")]
    Forbidden(SpiffeId),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The table stopped the connection before it was established.
    #[error("stopped while connecting")]
    Stopped(CloseReason),
}

impl ForwardError {
    /// The reason in the closing record and in metrics.
    pub(crate) fn reason(&self) -> CloseReason {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::ListenerFull(_) | Self::RateLimited(_) => CloseReason::Limit,
            Self::Denied(_) | Self::Unmatched { .. } | Self::Nameless { .. } => CloseReason::Denied,
            Self::Unanswered(_) => CloseReason::Unanswered,
            Self::NoListener => CloseReason::NoEndpoint,
            Self::NotInbound(_) => CloseReason::NotInbound,
            Self::Tls(error) => error.reason(),
            Self::Forbidden(_) => CloseReason::Forbidden,
            Self::Connect(error) => error.reason(),
            Self::Stopped(reason) => *reason,
        }
    }

    /// Returns the rule by which requests are answered in place of a server; `None` where the connection is refused.
    pub(crate) fn answer(&self) -> Option<Rule> {
        match self {
            Self::Connect(ConnectError::Full { .. }) => Some(Rule::Overloaded),
            Self::Connect(ConnectError::NoEndpoint(_)) => Some(Rule::NoEndpoint),
            Self::Connect(ConnectError::Dial(_) | ConnectError::Tls(_)) => Some(Rule::Unreachable),
            _ => None,
        }
    }
}
