// SPDX-License-Identifier: Apache-2.0
//! The server's sockets on loopback, and the loops that serve them.

use crate::dns::watch::Serving;
use crate::dns::{Dns, tcp, udp};
use crate::net::accept::{AcceptErrorKind, accept_loop};
use crate::net::addrs::{ClientAddr, Direction};
use crate::net::bind::{self, ListenError};
use crate::observe::readiness::Readiness;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Addresses that the rules redirect queries to. On the wildcard an answer would leave with another source.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Open sockets.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    datagrams: Vec<StdSocket>,
    streams: Vec<StdListener>,
}

/// Opens the port of both families. One that the pod does not have is left out.
///
/// # Errors
/// Every address that cannot be had.
pub(crate) fn bind(port: u16, option: &'static str) -> Result<Sockets, Vec<ListenError>> {
    let (mut sockets, mut errors) = (Sockets::default(), Vec::new());
    for address in LOOPBACK.map(|ip| SocketAddr::new(ip, port)) {
        match bind::bind_datagrams(address, option)
            .and_then(|socket| Ok((socket, bind::bind(address, option)?)))
        {
            Ok((datagrams, streams)) => {
                sockets.datagrams.push(datagrams);
                sockets.streams.push(streams);
            }
            Err(error) if address.is_ipv6() && error.is_absent() => {
                tracing::debug!(%address, "no IPv6 on loopback, DNS is served over IPv4 alone");
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(sockets) } else { Err(errors) }
}

/// Keeps the server going. Dropped, it closes the TCP ports.
#[derive(Debug)]
#[must_use = "dropping it closes the ports"]
pub(crate) struct RunningDns {
    _closing: watch::Sender<bool>,
}

/// Serves on all workers.
///
/// # Errors
/// The kernel's, for a file too many.
pub(crate) fn serve(
    dns: &Arc<Dns>,
    sockets: Sockets,
    workers: &[Handle],
    readiness: &Readiness,
    failed: impl Fn(AcceptErrorKind) + Clone + Send + 'static,
) -> io::Result<RunningDns> {
    let closing = watch::Sender::new(false);
    for worker in workers {
        // The worker's epoll, not the main thread's.
        let _entered = worker.enter();
        for socket in &sockets.datagrams {
            let socket = UdpSocket::from_std(socket.try_clone()?)?;
            worker.spawn(udp::serve(Arc::clone(dns), socket, Serving::new(readiness.clone())));
        }
        for listener in &sockets.streams {
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            let dns = Arc::clone(dns);
            let serve = move |stream: TcpStream, client: ClientAddr| {
                // One too many is closed at once: the client asks again.
                if let Some(permit) = dns.connections.try_acquire() {
                    tokio::spawn(tcp::serve(Arc::clone(&dns), stream, client.get(), permit));
                }
            };
            let (closing, failed) = (closing.subscribe(), failed.clone());
            worker.spawn(accept_loop(listener, Direction::Outbound, closing, failed, serve));
        }
    }
    Ok(RunningDns { _closing: closing })
}
