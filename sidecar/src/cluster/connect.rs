// SPDX-License-Identifier: Apache-2.0
//! From a cluster to a connected server: endpoints in turn, each to be dialled and, as a mesh member or as its document wants
//! it, to speak TLS.
//!
//! An endpoint that fails in either is followed by the next. No byte of the client was sent by then, and none of a server
//! was passed on. While others are left, an endpoint has a share of the time only:
//!
//! | | all attempts together | one, while others are left | comes last for others after |
//! |---|---|---|---|
//! | dial | connect timeout | 2 s, half of what is left at most | 500 ms |
//! | TLS | 10 s | 5 s, half of what is left at most | 2 s |
//!
//! A trial of an ejected endpoint has the shorter time of the last column, as it delays a connection that others would serve.
//!
//! Nothing here knows the client's connection, nor who counts: each step is reported as an [`Event`]. Dropping the future
//! of [`connect`] at any point closes what it dialled and gives its permits back.

use crate::cluster::balance::Order;
use crate::cluster::endpoint::{Behind, Endpoint, InUse, Standing, Turn};
use crate::cluster::origination::Origination;
use crate::cluster::outsider::Outsider;
use crate::cluster::registry::Cluster;
use crate::cluster::stream::Stream;
use crate::net::addrs::{ClientAddr, DialAddr, OrigDst, is_link_local};
use crate::net::dial::{self, DialError};
use crate::net::limit::{Claim, Permit};
use crate::net::own_sockets::{OwnSocket, OwnSockets, Returned};
use crate::observe::close_reason::CloseReason;
use crate::plan::{self, Member};
use crate::tls::TlsError;
use crate::tls::handshake::{self, Shaken};
use culvert_mesh::model::spiffe::SpiffeId;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The reason why a cluster could not be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the cluster {cluster} has as many {what} as its circuit breaker allows{}", .claim.limited())]
    Full { cluster: Arc<str>, what: Breaker, claim: Claim },
    #[error(
        "no Dataplane document offers {0}, or none that is ready and passes its active checks (see /clusters)"
    )]
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
    /// The endpoint failed: another may do better, and may be tried at once.
    Elsewhere,
    /// The cluster has no place or no endpoint now, or this host or sidecar lacks something: trying again at once adds load
    /// and changes nothing.
    Later,
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

    /// Returns true if no answer came in time.
    pub(crate) fn is_timeout(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_timeout(),
            Self::Tls(error) => matches!(error, TlsError::TimedOut(_)),
            Self::Full { .. } | Self::NoEndpoint(_) => false,
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Dial(error) if error.is_ours() => Retry::Later,
            Self::Tls(error) if error.is_ours() => Retry::Later,
            Self::Dial(_) | Self::Tls(_) => Retry::Elsewhere,
            Self::Full { .. } | Self::NoEndpoint(_) => Retry::Later,
        }
    }
}

/// A step of [`connect`], for the counters of its caller.
#[derive(Debug)]
pub(crate) enum Event<'e> {
    /// The address that was dialled last failed.
    Failed(&'e ConnectError),
    /// With that its endpoint comes after all others of the cluster.
    Ejected,
    /// The next address is dialled.
    Retrying(DialAddr),
    /// The cluster's limit on retries does not allow to dial an endpoint that is ejected.
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
    /// The connection among those of its endpoint, where they are counted.
    pub(crate) in_use: Option<InUse>,
    /// The endpoint, where its answers may eject it.
    pub(crate) judged: Option<Arc<Endpoint>>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt<'a> {
    addr: DialAddr,
    source: Option<IpAddr>,
    /// The endpoint to eject when it fails.
    endpoint: Option<(&'a Arc<Endpoint>, Standing)>,
    known: Known<'a>,
}

/// The server at an address, as far as documents know it.
#[derive(Clone, Copy, Debug)]
enum Known<'a> {
    /// Not at all, or as this pod's application: there is no TLS to it.
    Nothing,
    /// As a mesh member.
    Member(&'a Member),
    /// As a server outside of the mesh.
    Outsider(&'a Outsider),
}

/// The addresses that one connection may dial, the first of them chosen, and its place among connects under way.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    cluster: &'a Cluster,
    pending: Permit,
    first: Attempt<'a>,
    others: Option<Order<'a>>,
}

impl<'a> Attempts<'a> {
    /// Takes a place among the cluster's connects under way, and chooses the first address. `original` and its `member`
    /// count where the cluster dials the original destination, the client's address where a policy hashes it.
    pub(crate) fn begin(
        cluster: &'a Cluster,
        original: OrigDst,
        member: Option<&'a Member>,
        (claim, client): (Claim, ClientAddr),
    ) -> Result<Self, ConnectError> {
        let name = || Arc::clone(&cluster.state.name);
        let pending = cluster.state.limits.pending.try_acquire_for(claim);
        let pending =
            pending.ok_or_else(|| ConnectError::Full { cluster: name(), what: Breaker::Pending, claim })?;
        let once = |addr, source, known| Attempt { addr: DialAddr::new(addr), source, endpoint: None, known };
        let (first, others) = match &cluster.plan.upstream {
            plan::Discovery::OriginalDst { source } => {
                // The rules let the sidecar's connections to link-local addresses through from any source, and the hop's
                // could not be answered on that link.
                let source = source.filter(|_| !is_link_local(original.get().ip()));
                (once(original.get(), source, member.map_or(Known::Nothing, Known::Member)), None)
            }
            plan::Discovery::Application { address, source } => {
                (once(*address, *source, Known::Nothing), None)
            }
            plan::Discovery::Endpoints(_) | plan::Discovery::External(_) => {
                let mut order = cluster.order(client.get().ip());
                let first = order.next().ok_or_else(|| ConnectError::NoEndpoint(name()))?;
                (Attempt::at(first), Some(order))
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
        self,
        (sockets, returned): (&Arc<OwnSockets>, Returned),
    ) -> Result<(TcpStream, Option<OwnSocket>), DialError> {
        if let Some(path) = self.socket() {
            return Ok((dial::dial_socket(path).await?, None));
        }
        match self.source {
            Some(_) => Ok((dial::dial(self.addr, self.source, None).await?, None)),
            None => {
                dial::dial_noted(self.addr, sockets, returned).await.map(|(tcp, noted)| (tcp, Some(noted)))
            }
        }
    }

    fn at(Turn { endpoint, standing }: Turn<'a>) -> Self {
        let known = match &endpoint.behind {
            Behind::Member(member) => Known::Member(member),
            Behind::Outsider(outsider) => Known::Outsider(outsider),
        };
        let addr = DialAddr::new(endpoint.address);
        Self { addr, source: None, endpoint: Some((endpoint, standing)), known }
    }

    /// Returns the Unix socket that the address stands for.
    fn socket(&self) -> Option<&'a Arc<Path>> {
        match self.known {
            Known::Outsider(outsider) => outsider.host.socket(),
            Known::Nothing | Known::Member(_) => None,
        }
    }

    /// Returns the error of a dial whose time is over.
    fn timed_out(&self) -> DialError {
        match self.socket() {
            Some(path) => {
                DialError::Socket { path: Arc::clone(path), source: io::ErrorKind::TimedOut.into() }
            }
            None => DialError::TimedOut { addr: self.addr },
        }
    }

    fn is(&self, wanted: Standing) -> bool {
        self.endpoint.is_some_and(|(_, standing)| standing == wanted)
    }
}

/// The time that the attempts of one connection may take for one of the two phases.
struct Budget {
    /// `None` leaves it to the kernel.
    left: Option<Duration>,
    patience: Patience,
}

/// The time for one endpoint, while others are left.
#[derive(Clone, Copy)]
struct Patience {
    most: Duration,
    /// Without an answer by then, the endpoint comes last for other connections, so that they need not wait too.
    suspect: Duration,
}

/// One retransmission of a SYN comes after a second; its answer is awaited too.
const DIAL: Patience = Patience { most: Duration::from_secs(2), suspect: Duration::from_millis(500) };
/// A server with few CPUs may need seconds for the handshakes of a burst.
const HANDSHAKE: Patience = Patience { most: Duration::from_secs(5), suspect: Duration::from_secs(2) };

impl Budget {
    /// The time for an attempt; all that is left for the last one.
    fn share(&self, attempt: &Attempt<'_>, has_more: bool) -> Option<Duration> {
        if !has_more {
            return self.left;
        }
        let Patience { most, suspect } = self.patience;
        let most = if attempt.is(Standing::Trial) { suspect } else { most };
        Some(self.left.map_or(most, |left| most.min(left / 2)))
    }

    /// Does the work of an attempt within its share. `None` if the time was over.
    async fn spend<T>(
        &mut self,
        cluster: &Cluster,
        attempt: &Attempt<'_>,
        share: Option<Duration>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let started = Instant::now();
        let done = match attempt.endpoint {
            Some((endpoint, _)) => {
                self.watch(share, work, || cluster.suspect(endpoint, self.patience.most)).await
            }
            None => limited(share, work).await,
        };
        self.left = self.left.map(|left| left.saturating_sub(started.elapsed()));
        done
    }

    /// Does the work, and reports it when it is slow. One timer at a time: most work is done before the first.
    async fn watch<T>(
        &self,
        share: Option<Duration>,
        work: impl Future<Output = T>,
        slow: impl FnOnce(),
    ) -> Option<T> {
        let mut work = pin!(work);
        let suspect = self.patience.suspect;
        let early = share.map_or(suspect, |share| share.min(suspect));
        if let Ok(done) = tokio::time::timeout(early, &mut work).await {
            return Some(done);
        }
        slow();
        limited(share.map(|share| share - early), work).await
    }
}

async fn limited<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

/// The attempts of one connection.
struct Attempting<'a> {
    cluster: &'a Cluster,
    origination: Origination<'a>,
    /// Where sockets are noted, and how often the client's call came back.
    noting: (&'a Arc<OwnSockets>, Returned),
    /// Held while an endpoint is dialled.
    pending: Option<Permit>,
    dial: Budget,
    handshake: Budget,
}

impl<'a> Attempting<'a> {
    /// Makes one attempt. `more` is true if others are left after it.
    async fn attempt(
        &mut self,
        attempt: Attempt<'a>,
        more: bool,
        report: &mut impl FnMut(Event<'_>),
    ) -> Result<Upstream, ConnectError> {
        let started = Instant::now();
        let share = self.dial.share(&attempt, more);
        let dialled = self.dial.spend(self.cluster, &attempt, share, attempt.dial(self.noting)).await;
        let (mut tcp, noted) = dialled.unwrap_or_else(|| Err(attempt.timed_out()))?;
        self.pending = None;
        report(Event::Connected(started.elapsed()));
        let share = self.handshake.share(&attempt, more).unwrap_or(handshake::DEADLINE);
        // Boxed, so that a connection without TLS does not carry the room of a handshake. It ends by the same limit itself,
        // and counts.
        let (stream, peer) = match attempt.known {
            Known::Member(member) if self.origination.mesh => {
                let shaking = self.origination.handshake(&mut tcp, attempt.addr, member, share);
                let shaken = self.shake(&attempt, share, Box::pin(shaking)).await?;
                let peer = Some(shaken.peer.id().clone());
                (Stream::Tls(shaken.over(tcp).into()), peer)
            }
            Known::Outsider(Outsider { tls: Some(tls), .. }) => {
                let shaking = self.origination.handshake_outside(&mut tcp, attempt.addr, tls, share);
                let shaken = self.shake(&attempt, share, Box::pin(shaking)).await?;
                (Stream::Tls(shaken.over(tcp).into()), None)
            }
            Known::Nothing | Known::Member(_) | Known::Outsider(_) => (Stream::Plain(tcp), None),
        };
        Ok(Upstream { noted, stream, peer, in_use: None, judged: None })
    }

    /// Awaits a handshake within its share.
    async fn shake<P>(
        &mut self,
        attempt: &Attempt<'_>,
        share: Duration,
        shaking: impl Future<Output = Result<Shaken<P>, TlsError>>,
    ) -> Result<Shaken<P>, TlsError> {
        let shaken = self.handshake.spend(self.cluster, attempt, Some(share), shaking).await;
        shaken.unwrap_or(Err(TlsError::TimedOut(share)))
    }
}

/// Connects to one address after the other, until a server is ready for the client's bytes or no address is left.
///
/// Not an async function, whose future would hold the arguments twice.
pub(crate) fn connect<'a>(
    attempts: Attempts<'a>,
    origination: Origination<'a>,
    noting: (&'a Arc<OwnSockets>, Returned),
    mut report: impl FnMut(Event<'_>) + 'a,
) -> impl Future<Output = Result<Upstream, ConnectError>> {
    let Attempts { cluster, pending, first: mut attempt, mut others } = attempts;
    let dial = Budget { left: cluster.plan.connect_timeout, patience: DIAL };
    let handshake = Budget { left: Some(handshake::DEADLINE), patience: HANDSHAKE };
    let mut attempting = Attempting { cluster, origination, noting, pending: Some(pending), dial, handshake };
    async move {
        // Held while ejected endpoints are tried.
        let mut retry = None;
        loop {
            let more = others.as_ref().is_some_and(Order::has_more);
            // Counted while it is being made: connections of a burst must not all choose the same endpoint.
            let in_use = attempt.endpoint.and_then(|(endpoint, _)| cluster.in_use(endpoint));
            let error = match attempting.attempt(attempt, more, &mut report).await {
                Ok(upstream) => {
                    if let Some((endpoint, standing)) = attempt.endpoint {
                        cluster.succeeded(endpoint, standing);
                    }
                    let judged = attempt.endpoint.filter(|_| cluster.judges_answers());
                    let judged = judged.map(|(endpoint, _)| Arc::clone(endpoint));
                    return Ok(Upstream { in_use, judged, ..upstream });
                }
                Err(error) => error,
            };
            let elsewhere = error.retry() == Retry::Elsewhere;
            if elsewhere || matches!(error, ConnectError::Dial(_)) {
                report(Event::Failed(&error));
            }
            if !elsewhere {
                return Err(error);
            }
            if let Some((endpoint, standing)) = attempt.endpoint
                && cluster.failed(endpoint, standing)
            {
                report(Event::Ejected);
            }
            let Some(next) = others.as_mut().and_then(Iterator::next) else { return Err(error) };
            attempt = Attempt::at(next);
            // An endpoint in service is tried in any case: to refuse that would lose a connection for nothing. Where all have
            // failed, the limit keeps each connection from becoming as many dials as there are endpoints.
            if attempt.is(Standing::LastResort) && retry.is_none() {
                retry = cluster.state.limits.retries.try_acquire();
                if retry.is_none() {
                    report(Event::RetryRefused);
                    return Err(error);
                }
            }
            if attempting.pending.is_none() {
                attempting.pending = cluster.state.limits.pending.try_acquire();
            }
            report(Event::Retrying(attempt.addr));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(standing: Option<Standing>) -> Attempt<'static> {
        let endpoint: &'static Arc<Endpoint> = Box::leak(Box::new(Arc::new(Endpoint {
            address: "192.0.2.1:80".parse().unwrap(),
            behind: Behind::Member(Arc::new(Member {
                dataplane: "d".into(),
                tags: Arc::default(),
                ids: None,
            })),
            ejection: Arc::default(),
        })));
        let addr = DialAddr::new(endpoint.address);
        let endpoint = standing.map(|standing| (endpoint, standing));
        Attempt { addr, source: None, endpoint, known: Known::Nothing }
    }

    #[test]
    fn an_attempt_leaves_time_for_the_others_and_the_last_has_all_that_is_left() {
        let ms = Duration::from_millis;
        for (name, left, standing, has_more, expected) in [
            ("one of several", Some(10_000), Standing::InService, true, Some(2_000)),
            ("little is left", Some(1_000), Standing::InService, true, Some(500)),
            ("no connect timeout", None, Standing::InService, true, Some(2_000)),
            ("a trial", Some(10_000), Standing::Trial, true, Some(500)),
            ("a trial, little is left", Some(400), Standing::Trial, true, Some(200)),
            ("the last", Some(10_000), Standing::InService, false, Some(10_000)),
            ("a trial of the only one", Some(10_000), Standing::Trial, false, Some(10_000)),
            ("the last, no connect timeout", None, Standing::LastResort, false, None),
        ] {
            let budget = Budget { left: left.map(ms), patience: DIAL };
            assert_eq!(budget.share(&attempt(Some(standing)), has_more), expected.map(ms), "{name}");
        }
        let budget = Budget { left: Some(ms(10_000)), patience: DIAL };
        assert_eq!(budget.share(&attempt(None), false), Some(ms(10_000)), "an original destination");
    }
}
