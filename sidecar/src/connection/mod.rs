// SPDX-License-Identifier: Apache-2.0
//! The life of one connection, top to bottom:
//!
//! accepted → original destination → guards → route → (TLS) → permits → connect → (TLS) → relay → one closing record.

pub(crate) mod accepted;
mod admission;
mod asked;
mod carry;
mod downstream;
mod error;
pub(crate) mod guard;
mod lookup;
pub(crate) mod metrics;
pub(crate) mod proxy;
pub(crate) mod route;
pub(crate) mod table;
mod tls;
mod trial;
mod upstream;

pub(crate) use accepted::{Accepted, Bound};

use crate::connection::carry::tcp::{self, Tcp};
use crate::connection::carry::{Carry, http};
use crate::connection::downstream::Downstream;
use crate::connection::proxy::Proxy;
use crate::net::addrs::{Direction, OrigDst};
use crate::net::original_dst::{self, Redirected};
use crate::plan::Serve;
use std::future::poll_fn;
use std::sync::Arc;

/// Serves an accepted connection to its end.
pub(crate) fn serve(proxy: Arc<Proxy>, accepted: Accepted) -> impl Future<Output = ()> {
    // Boxed, arguments and all, so that the memory that only the beginning needs is freed before the long part. The state of
    // the long part is a local of this one block: an async function would hold its arguments a second time.
    let beginning = Box::pin(establish(proxy, accepted));
    async move {
        let Some(mut carry) = beginning.await else { return };
        let end = poll_fn(|cx| carry.poll_relay(cx)).await;
        carry.end(end);
    }
}

/// From accepted to established; `None` when it ended on the way.
async fn establish(proxy: Arc<Proxy>, accepted: Accepted) -> Option<Carry> {
    let redirected = match &accepted.bound {
        None => original_dst::lookup(&accepted.stream, accepted.client, accepted.listen_port),
        // Nothing was redirected: the address of the listener is the destination.
        Some(bound) => Redirected::From(OrigDst::new(bound.address)),
    };
    // The prober's own connection came back, which proves the redirect. It goes no further.
    if accepted.direction == Direction::Inbound && proxy.capture.recognise(accepted.client, redirected) {
        return None;
    }
    begin(proxy, accepted, redirected).await
}

/// From a known destination to established: admission, then as the listener is served.
///
/// Not an async function, whose future would hold the arguments twice. Those further down are lent what lives here.
fn begin(
    proxy: Arc<Proxy>,
    mut accepted: Accepted,
    redirected: Redirected,
) -> impl Future<Output = Option<Carry>> {
    let mut downstream = Downstream::begin(proxy, &accepted, redirected);
    async move {
        let connected = match admission::admit(&mut downstream, &mut accepted, redirected).await {
            Ok(admitted) => match admitted.route.listener.plan.serve {
                Serve::Tcp => tcp::connect(&mut downstream, Some(&mut accepted.stream), admitted).await,
                // Boxed, so that a connection of TCP does not carry the room of it.
                Serve::Http | Serve::Http2 => {
                    return Box::pin(http::connect(downstream, accepted.stream, admitted)).await;
                }
            },
            Err(error) => Err(error),
        };
        match connected {
            Ok(connected) => Some(Carry::Bytes(Tcp::new(downstream, accepted.stream, connected))),
            Err(error) => {
                downstream.refuse(accepted.stream, &error);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addrs::{ClientAddr, Family};
    use crate::observe::close_reason::CloseReason;
    use crate::options::Options;
    use clap::Parser;

    use std::net::TcpListener;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    pub(super) fn proxy(arguments: &[&str]) -> Arc<Proxy> {
        let arguments = std::iter::once(&"culvert-sidecar").chain(arguments);
        Arc::new(Proxy::for_tests(Options::try_parse_from(arguments).unwrap().check().unwrap()))
    }

    /// A client's end, and the connection as it came from the listener.
    pub(super) async fn accepted(direction: Direction) -> (TcpStream, Accepted) {
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
    pub(super) fn server(proxy: &Proxy) -> (TcpListener, Redirected) {
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
        let cluster = Arc::clone(first.cluster());
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
        let counted: u64 = clusters.iter().map(|cluster| cluster.state.metrics.pending_overflow.get()).sum();
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
            let running = proxy.running.load();
            assert_eq!(running.passthrough(direction, Family::V4).metrics.overflow.get(), 1);
        }
    }

    /// The memory of an open connection: a task is as large as its largest state.
    ///
    /// Its two sockets have 24 bytes each as users build them, so that it has 360. Here they have more: checks of the debug
    /// build, and a runtime of several threads.
    #[tokio::test]
    async fn a_connections_task_is_small() {
        let config = Options::try_parse_from(["culvert-sidecar"]).unwrap().check().unwrap();
        let proxy = Arc::new(Proxy::for_tests(config));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let client = ClientAddr::new(stream.local_addr().unwrap());
        let accepted =
            Accepted { stream, client, direction: Direction::Inbound, listen_port: 15006, bound: None };
        let bytes = std::mem::size_of_val(&serve(proxy, accepted)) - 2 * size_of::<TcpStream>();
        assert!(bytes <= 312, "{bytes} bytes besides the sockets");
    }
}
