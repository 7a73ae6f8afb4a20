// SPDX-License-Identifier: Apache-2.0
//! The life of one connection, top to bottom:
//!
//! accepted → original destination → guards → route → (TLS) → permits → connect → (TLS) → relay → one closing record.

mod accepted;
pub mod guard;
mod life;
pub mod metrics;
pub mod proxy;
pub mod route;
pub mod stream;
pub mod table;
mod tls;
mod upstream;

pub use accepted::{Accepted, Bound};

use crate::connection::guard::Refusal;
use crate::connection::life::{Life, Watched};
use crate::connection::proxy::Proxy;
use crate::connection::stream::Stream;
use crate::connection::table::Entry;
use crate::connection::tls::Ends;
use crate::net::addrs::{Direction, OrigDst};
use crate::net::dial::DialError;
use crate::net::original_dst::{self, Redirected};
use crate::observe::close_reason::CloseReason;
use crate::plan::Plan;
use crate::relay::{End, Relay, Side};
use crate::tls::TlsError;
use culvert_mesh::model::spiffe::SpiffeId;
use socket2::SockRef;
use std::error::Error;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// Why a connection could not be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// A guard said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The limit of a listener is reached.
    #[error("the listener holds as many connections as the limit of open files allows")]
    ListenerFull,
    /// A limit of a cluster is reached.
    #[error("the cluster {cluster} has as many {what} as its circuit breaker allows")]
    ClusterFull {
        /// Its name.
        cluster: Arc<str>,
        /// Of what.
        what: &'static str,
    },
    /// The mesh denies it.
    #[error(
        "the mesh lets nothing leave for {0}, which no document names: write a Dataplane for it, or set networking.outbound.passthrough to true"
    )]
    Denied(OrigDst),
    /// The service has no endpoint.
    #[error("no Dataplane document offers {0}, or none that is ready")]
    NoEndpoint(Arc<str>),
    /// The listener is no longer in the documents.
    #[error("the listener was taken away while the connection came in")]
    NoListener,
    /// STRICT, and a port that no inbound names.
    #[error(
        "no inbound of this pod's Dataplane names {0}, and the mesh's mTLS is STRICT: add it to networking.inbound"
    )]
    NotInbound(OrigDst),
    /// TLS, or what was to be TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A permission says no.
    #[error("no MeshTrafficPermission lets {0} call this pod")]
    Forbidden(SpiffeId),
    /// The server was not reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The sidecar stopped it while it was being connected.
    #[error("stopped while connecting")]
    Stopped(CloseReason),
}

impl ForwardError {
    /// How the closing record names it.
    pub fn reason(&self) -> CloseReason {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::ListenerFull | Self::ClusterFull { .. } => CloseReason::Limit,
            Self::Denied(_) => CloseReason::Denied,
            Self::NoEndpoint(_) | Self::NoListener => CloseReason::NoEndpoint,
            Self::NotInbound(_) => CloseReason::NotInbound,
            Self::Tls(error) => error.reason(),
            Self::Forbidden(_) => CloseReason::Forbidden,
            Self::Dial(error) => error.into(),
            Self::Stopped(reason) => *reason,
        }
    }
}

/// Serves an accepted connection to its end.
pub fn serve(proxy: Arc<Proxy>, accepted: Accepted) -> impl Future<Output = ()> {
    // Boxed, arguments and all, so that what only the beginning needs is freed before the long part. What the long part
    // needs is a local of this one block: an async function would hold its arguments a second time.
    let beginning = Box::pin(establish(proxy, accepted));
    async move {
        let Some(mut established) = beginning.await else { return };
        let end = poll_fn(|cx| established.poll_relay(cx)).await;
        established.end(end);
    }
}

/// From accepted to connected; `None` when it ended on the way.
async fn establish(proxy: Arc<Proxy>, accepted: Accepted) -> Option<Established> {
    let redirected = match &accepted.bound {
        None => original_dst::lookup(&accepted.stream, accepted.client, accepted.listen_port),
        // Nothing was redirected: it is meant for the listener that it came to.
        Some(bound) => Redirected::From(OrigDst::new(bound.address)),
    };
    // Our own, to see whether it comes back. It has done its work and goes no further.
    if accepted.direction == Direction::Inbound && proxy.capture.recognise(accepted.client, redirected) {
        return None;
    }
    begin(proxy, accepted, redirected).await
}

/// From where its destination is known.
async fn begin(proxy: Arc<Proxy>, mut accepted: Accepted, redirected: Redirected) -> Option<Established> {
    let mut life = Life::begin(proxy, &accepted, redirected);
    match forward(&mut life, &mut accepted, redirected).await {
        Ok((ends, server, entry)) => {
            let (client, server) = ends.over(accepted.stream, server);
            let watched = Watched::new(life.proxy(), entry);
            Some(Established { client, server, life, relay: Relay::default(), watched })
        }
        Err(error) => {
            reset_on_close(&accepted.stream);
            drop(accepted);
            life.end(error.reason(), Some(&error));
            None
        }
    }
}

/// Everything that can say no, and the connect.
async fn forward(
    life: &mut Life,
    accepted: &mut Accepted,
    redirected: Redirected,
) -> Result<(Ends, TcpStream, Arc<Entry>), ForwardError> {
    let proxy = life.proxy();
    let direction = accepted.direction;
    let running = proxy.running.load_full();
    let Some(permit) = proxy.limits.listener(direction).try_acquire() else {
        proxy.metrics.direction(direction).listener_overflow.inc();
        let at = Plan::passthrough_listener(direction, accepted.client.family());
        running.listeners[at].metrics.overflow.inc();
        return Err(ForwardError::ListenerFull);
    };
    life.hold(permit);

    let (original, route) = match &accepted.bound {
        None => {
            let original = guard::check(direction, redirected, &proxy.ports, |ip| proxy.own.contains(ip))
                .inspect_err(|refusal| {
                    proxy.metrics.direction(direction).loop_rejected(refusal.guard()).inc();
                })?;
            (original, route::route(&running.plan, direction, original))
        }
        // Where it goes is the document's word, whoever it is from: there is nothing to guard.
        Some(bound) => {
            let listener = running.plan.listener_named(&bound.name).ok_or(ForwardError::NoListener)?;
            (OrigDst::new(bound.address), route::of_listener(&running.plan, listener))
        }
    };
    life.came_to(&running, &route);
    let ends = tls::admit(life, &running, &route, original, &mut accepted.stream).await?;
    let (mut server, entry) = upstream::connect(life, &running, &route, original).await?;
    let ends =
        tls::agree(life, &running, (&route, &entry), ends, (&mut accepted.stream, &mut server)).await?;
    Ok((ends, server, entry))
}

/// A connection with both its sides.
struct Established {
    client: Stream,
    server: Stream,
    life: Life,
    relay: Relay,
    watched: Watched,
}

impl Established {
    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End<CloseReason>> {
        self.relay.poll(cx, &mut self.client, &mut self.server, &mut self.watched)
    }

    fn end(self, end: End<CloseReason>) {
        let Self { client, server, life, .. } = self;
        let (reason, error) = match end {
            End::Closed => (CloseReason::Ok, None),
            End::Died(side, error) => {
                let reset = match side {
                    Side::Client => CloseReason::ClientReset,
                    Side::Server => CloseReason::ServerReset,
                };
                (tls::reason_of(&error, reset), Some(error))
            }
            End::Stopped(reason) => (reason, None),
        };
        if reason != CloseReason::Ok {
            reset_on_close(client.tcp());
            reset_on_close(server.tcp());
        }
        // Before the record: whoever sees it, or an empty table, may rely on both being closed.
        drop((client, server));
        life.end(reason, error.as_ref().map(|error| error as &dyn Error));
    }
}

/// Makes the close a reset: the other side must not take it for an orderly end.
fn reset_on_close(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection will end in FIN where a reset was due");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addrs::ClientAddr;
    use crate::options::Options;
    use clap::Parser;

    use std::net::TcpListener;
    use tokio::io::AsyncReadExt;

    fn proxy(arguments: &[&str]) -> Arc<Proxy> {
        let arguments = std::iter::once(&"culvert-sidecar").chain(arguments);
        Arc::new(Proxy::for_tests(Options::try_parse_from(arguments).unwrap().check().unwrap()))
    }

    /// A client's end, and the connection as it came from the listener.
    async fn accepted(direction: Direction) -> (TcpStream, Accepted) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (dialled, accepted) = tokio::join!(dialled, listener.accept());
        let (stream, peer) = accepted.unwrap();
        let client = ClientAddr::new(peer);
        (dialled.unwrap(), Accepted { stream, client, direction, listen_port: 15001, bound: None })
    }

    /// A server of this host, by an address that no guard refuses.
    fn server(proxy: &Proxy) -> (TcpListener, Redirected) {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ip = proxy.own.current().reachable(crate::net::addrs::Family::V4).next().expect("an address");
        (listener, Redirected::From(OrigDst::new((ip, port).into())))
    }

    async fn is_reset(mut client: TcpStream) {
        let read = tokio::time::timeout(Duration::from_secs(10), client.read(&mut [0])).await;
        assert_eq!(read.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn over_the_limit_of_connections_is_reset_and_counted_and_a_place_given_back_is_used() {
        let proxy = proxy(&["--circuit-breaker-max-connections=2"]);
        let (_server, to) = server(&proxy);
        let (_client, one) = accepted(Direction::Outbound).await;
        let first = begin(Arc::clone(&proxy), one, to).await.expect("there is a place");
        let (_client, two) = accepted(Direction::Outbound).await;
        let _second = begin(Arc::clone(&proxy), two, to).await.expect("there is a second");
        let cluster = Arc::clone(&first.watched.entry().cluster);
        for refused in 1..=2 {
            let (client, three) = accepted(Direction::Outbound).await;
            assert!(begin(Arc::clone(&proxy), three, to).await.is_none());
            is_reset(client).await;
            assert_eq!(cluster.metrics.overflow.get(), refused);
        }
        let closed = proxy.metrics.direction(Direction::Outbound).closed(CloseReason::Limit).get();
        assert_eq!((closed, cluster.limits.connections.used()), (2, 2));
        drop(first);
        let (_client, four) = accepted(Direction::Outbound).await;
        assert!(begin(proxy, four, to).await.is_some());
    }

    #[tokio::test]
    async fn over_the_limit_of_connects_under_way_is_reset_and_counted() {
        let proxy = proxy(&["--circuit-breaker-max-pending-requests=0"]);
        let (_server, to) = server(&proxy);
        let (client, one) = accepted(Direction::Outbound).await;
        assert!(begin(Arc::clone(&proxy), one, to).await.is_none());
        is_reset(client).await;
        let clusters = &proxy.running.load().clusters;
        let counted: u64 = clusters.iter().map(|cluster| cluster.metrics.pending_overflow.get()).sum();
        assert_eq!(counted, 1);
    }

    #[tokio::test]
    async fn one_listeners_crowd_leaves_the_other_its_places() {
        let mut proxy = proxy(&[]);
        // Six files: one place each.
        Arc::get_mut(&mut proxy).unwrap().limits = crate::cluster::limits::Limits::new(4);
        let (_server, to) = server(&proxy);
        let mut held = Vec::new();
        for direction in Direction::ALL {
            let limit = proxy.limits.listener(direction);
            assert_eq!(limit.max(), 1, "{direction}");
            held.push(limit.try_acquire().expect("its own place"));
            let (client, one) = accepted(direction).await;
            assert!(begin(Arc::clone(&proxy), one, to).await.is_none());
            is_reset(client).await;
            assert_eq!(proxy.metrics.direction(direction).listener_overflow.get(), 1);
            let at = Plan::passthrough_listener(direction, crate::net::addrs::Family::V4);
            assert_eq!(proxy.running.load().listeners[at].metrics.overflow.get(), 1);
        }
    }

    /// What an open connection costs besides its sockets: the task is as large as its largest moment.
    #[tokio::test]
    async fn a_connections_task_is_small() {
        let config = Options::try_parse_from(["culvert-sidecar"]).unwrap().check().unwrap();
        let proxy = Arc::new(Proxy::for_tests(config));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let client = ClientAddr::new(stream.local_addr().unwrap());
        let accepted =
            Accepted { stream, client, direction: Direction::Inbound, listen_port: 15006, bound: None };
        let bytes = std::mem::size_of_val(&serve(proxy, accepted));
        assert!(bytes <= 384, "{bytes} bytes");
    }
}
