// SPDX-License-Identifier: Apache-2.0
//! Asks the kernel for the original destination of a redirected connection.
//!
//! "Not redirected" is an answer of its own. The call fails for a connection that conntrack never rewrote, or, once
//! conntrack tracks it, answers with the listener's own address: both mean that the client dialled the listener. The local
//! address is never used instead, as that would forward the connection to the sidecar itself.

use crate::net::addrs::{ClientAddr, Family, ListenAddr, OrigDst, is_link_local};
use crate::net::own_addresses;
use socket2::SockRef;
use std::net::{SocketAddr, SocketAddrV6};
use tokio::net::TcpStream;

/// The kernel's answer about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirected {
    /// The connection was redirected; this is its original destination.
    From(OrigDst),
    /// The client dialled the listener itself.
    Not,
}

/// Looks up the original destination of a connection that was accepted on `listen_port`.
///
/// The family is the client's: a dual-stack socket shows IPv4 peers as `::ffff:…`, and conntrack knows those by the
/// IPv4 call only.
pub(crate) fn lookup(stream: &TcpStream, client: ClientAddr, listen_port: u16) -> Redirected {
    let socket = SockRef::from(stream);
    let answer = match client.family() {
        Family::V4 => socket.original_dst_v4(),
        Family::V6 => socket.original_dst_v6(),
    };
    let original = answer.ok().and_then(|addr| addr.as_socket()).map(|addr| OrigDst::new(scoped(addr)));
    decide(original, listen_port, || stream.local_addr().ok().map(ListenAddr::new))
}

/// Gives a link-local address the scope of the interface that has it. The kernel tells the scope only where the client's
/// address is link-local too.
fn scoped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) if v6.scope_id() == 0 && is_link_local(addr.ip()) => {
            let scope = own_addresses::scope_of(*v6.ip()).unwrap_or_default();
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into()
        }
        _ => addr,
    }
}

/// Distinguishes a redirected connection from one to the listener itself.
///
/// The local address costs a system call, so it is read only if the ports are equal, which is rare.
fn decide(
    original: Option<OrigDst>,
    listen_port: u16,
    local: impl FnOnce() -> Option<ListenAddr>,
) -> Redirected {
    let Some(original) = original else { return Redirected::Not };
    if original.get().port() != listen_port {
        return Redirected::From(original);
    }
    match local() {
        Some(local) if local.get().ip() != original.get().ip() => Redirected::From(original),
        // The same address, or a broken socket without an address: neither may be forwarded.
        _ => Redirected::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_direct_dial_is_not_a_redirect() {
        for (name, original, local, expected) in [
            ("kernel knows no other destination", None, Some("10.0.0.2:15006"), false),
            ("conntrack answers the listener itself", Some("10.0.0.2:15006"), Some("10.0.0.2:15006"), false),
            ("same, mapped", Some("10.0.0.2:15006"), Some("[::ffff:10.0.0.2]:15006"), false),
            ("same, IPv6", Some("[fd00::2]:15006"), Some("[fd00::2]:15006"), false),
            ("no local address", Some("10.0.0.2:15006"), None, false),
            ("another port", Some("10.0.0.2:80"), Some("10.0.0.2:15006"), true),
            ("our port on another host", Some("192.0.2.1:15006"), Some("127.0.0.1:15006"), true),
            ("IPv6", Some("[fd00::2]:80"), Some("[::1]:15006"), true),
        ] {
            let original = original.map(|text| OrigDst::new(addr(text)));
            let got = decide(original, 15006, || local.map(|text| ListenAddr::new(addr(text))));
            let expected = match original {
                Some(original) if expected => Redirected::From(original),
                _ => Redirected::Not,
            };
            assert_eq!(got, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_connection_on_an_untouched_host_was_not_redirected() {
        for ip in ["127.0.0.1", "::1"] {
            let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let at = listener.local_addr().unwrap();
            let (_client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
            let (stream, peer) = accepted.unwrap();
            assert_eq!(lookup(&stream, ClientAddr::new(peer), at.port()), Redirected::Not, "{ip}");
        }
    }
}
