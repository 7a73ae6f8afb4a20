// SPDX-License-Identifier: Apache-2.0
//! From a cluster to a connected server: endpoints in turn, each within its deadline, then TLS.
//!
//! Nothing here knows the client's connection, nor who counts: each step is reported as an [`Event`]. Dropping the future
//! of [`connect`] at any point closes what it dialled and gives its permits back.

use crate::cluster::endpoint::{Endpoint, Turns};
use crate::cluster::origination::Origination;
use crate::cluster::registry::Cluster;
use crate::cluster::stream::Stream;
use crate::net::addrs::{DialAddr, OrigDst};
use crate::net::dial::{self, DialError};
use crate::net::limit::{Claim, Permit};
use crate::net::own_sockets::{OwnSocket, OwnSockets};
use crate::observe::close_reason::CloseReason;
use crate::plan::{self, Member};
use crate::tls::TlsError;
use culvert_mesh::model::spiffe::SpiffeId;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The reason why a cluster could not be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the cluster {cluster} has as many {what} as its circuit breaker allows{}", .claim.limited())]
    Full { cluster: Arc<str>, what: Breaker, claim: Claim },
    #[error("no Dataplane document offers {0}, or none that is ready")]
    NoEndpoint(Arc<str>),
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server was reached, and the handshake with it failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A limit of a cluster that can refuse a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaker {
    Connections,
    Pending,
}

/// The use of trying again after a [`ConnectError`]. No byte of the client was sent in any of these cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Another endpoint may do better, and may be tried at once.
    Elsewhere,
    /// The cluster has no place or no endpoint now: trying again at once adds load and changes nothing.
    Later,
    /// The server is not who it should be, or this pod has no identity: trying again could hide an attack.
    Never,
}

impl fmt::Display for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "connections",
            Self::Pending => "connects under way",
        })
    }
}

impl ConnectError {
    /// The reason in closing records and metrics.
    pub(crate) fn reason(&self) -> CloseReason {
        match self {
            Self::Full { .. } => CloseReason::Limit,
            Self::NoEndpoint(_) => CloseReason::NoEndpoint,
            Self::Dial(error) => error.into(),
            Self::Tls(error) => error.reason(),
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Dial(_) => Retry::Elsewhere,
            Self::Full { .. } | Self::NoEndpoint(_) => Retry::Later,
            Self::Tls(_) => Retry::Never,
        }
    }
}

/// A step of [`connect`], for the counters of its caller.
#[derive(Debug)]
pub(crate) enum Event<'e> {
    /// The address that was dialled last could not be reached.
    Failed(&'e DialError),
    /// The next address is dialled.
    Retrying(DialAddr),
    /// The cluster's limit on retries does not allow to dial the next address.
    RetryRefused,
    /// The server was reached after this time; TLS, if any, comes now. The place among connects under way is free again.
    Connected(Duration),
}

/// A connected server, ready for the client's bytes.
pub(crate) struct Upstream {
    /// Dropped before the stream; see [`OwnSocket`].
    pub(crate) noted: Option<OwnSocket>,
    pub(crate) stream: Stream,
    /// The mesh member that answered the TLS handshake.
    pub(crate) peer: Option<SpiffeId>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt<'a> {
    addr: DialAddr,
    source: Option<IpAddr>,
    /// The endpoint to eject when it cannot be reached.
    endpoint: Option<&'a Endpoint>,
    /// The mesh member that lives at the address; TLS is for these only.
    member: Option<&'a Member>,
}

/// The addresses that one connection may dial, the first of them chosen, and its place among connects under way.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    cluster: &'a Cluster,
    pending: Permit,
    first: Attempt<'a>,
    others: Option<Turns<'a>>,
}

impl<'a> Attempts<'a> {
    /// Takes a place among the cluster's connects under way, and chooses the first address. `original` and its `member`
    /// count where the cluster dials the original destination.
    pub(crate) fn begin(
        cluster: &'a Cluster,
        original: OrigDst,
        member: Option<&'a Member>,
        claim: Claim,
    ) -> Result<Self, ConnectError> {
        let name = || Arc::clone(&cluster.state.name);
        let pending = cluster.state.limits.pending.try_acquire_for(claim);
        let pending =
            pending.ok_or_else(|| ConnectError::Full { cluster: name(), what: Breaker::Pending, claim })?;
        let once =
            |addr, source, member| Attempt { addr: DialAddr::new(addr), source, endpoint: None, member };
        let (first, others) = match &cluster.plan.upstream {
            plan::Discovery::OriginalDst { source } => (once(original.get(), *source, member), None),
            plan::Discovery::Application { address, source } => (once(*address, *source, None), None),
            plan::Discovery::Endpoints(_) => {
                let mut turns = cluster.turns();
                let first = turns.next().ok_or_else(|| ConnectError::NoEndpoint(name()))?;
                (Attempt::at(first), Some(turns))
            }
        };
        Ok(Self { cluster, pending, first, others })
    }

    /// The address that [`connect`] dials first.
    pub(crate) fn first(&self) -> DialAddr {
        self.first.addr
    }
}

impl<'a> Attempt<'a> {
    /// Dials. The inbound hop needs no note: its source tells it from all other connections.
    async fn dial(
        &self,
        deadline: Option<Duration>,
        sockets: &Arc<OwnSockets>,
    ) -> Result<(TcpStream, Option<OwnSocket>), DialError> {
        match self.source {
            Some(_) => Ok((dial::dial(self.addr, self.source, deadline).await?, None)),
            None => {
                dial::dial_noted(self.addr, deadline, sockets).await.map(|(tcp, noted)| (tcp, Some(noted)))
            }
        }
    }

    fn at(endpoint: &'a Endpoint) -> Self {
        let (addr, member) = (DialAddr::new(endpoint.address), Some(&*endpoint.member));
        Self { addr, source: None, endpoint: Some(endpoint), member }
    }
}

/// Dials until a server answers or no address is left, then speaks TLS with a mesh member if `origination` is given.
///
/// Not an async function, whose future would hold the arguments twice.
pub(crate) fn connect<'a>(
    attempts: Attempts<'a>,
    origination: Option<Origination<'a>>,
    sockets: &'a Arc<OwnSockets>,
    mut report: impl FnMut(Event<'_>) + 'a,
) -> impl Future<Output = Result<Upstream, ConnectError>> {
    let Attempts { cluster, pending, first: mut attempt, others } = attempts;
    let mut others = others.into_iter().flatten();
    async move {
        // Held while a second or later endpoint is dialled.
        let mut retry = None;
        let (mut tcp, noted, took) = loop {
            let started = Instant::now();
            let error = match attempt.dial(cluster.plan.connect_timeout, sockets).await {
                Ok((tcp, noted)) => break (tcp, noted, started.elapsed()),
                Err(error) => error,
            };
            report(Event::Failed(&error));
            let error = ConnectError::from(error);
            if let Some(endpoint) = attempt.endpoint {
                cluster.eject(endpoint);
            }
            let next = if error.retry() == Retry::Elsewhere { others.next() } else { None };
            let Some(next) = next else { return Err(error) };
            if retry.is_none() {
                retry = cluster.state.limits.retries.try_acquire();
            }
            if retry.is_none() {
                report(Event::RetryRefused);
                return Err(error);
            }
            attempt = Attempt::at(next);
            report(Event::Retrying(attempt.addr));
        };
        if let Some(endpoint) = attempt.endpoint {
            endpoint.ejection.end();
        }
        drop((pending, retry));
        report(Event::Connected(took));
        let Some((origination, member)) = origination.zip(attempt.member) else {
            return Ok(Upstream { noted, stream: Stream::Plain(tcp), peer: None });
        };
        // Boxed, so that a connection without TLS does not carry the room of a handshake.
        let shaken = Box::pin(origination.handshake(&mut tcp, attempt.addr, member)).await?;
        let peer = Some(shaken.peer.id().clone());
        Ok(Upstream { noted, stream: Stream::Tls(shaken.over(tcp).into()), peer })
    }
}
