// SPDX-License-Identifier: Apache-2.0
//! Listening sockets, with the options that accepted connections inherit.

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::borrow::Cow;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Connections that the kernel may complete before they are accepted; it takes fewer where `net.core.somaxconn` is lower.
/// std and tokio ask for 128, which a burst of connections overflows within a millisecond.
const BACKLOG: i32 = 4096;

/// Memory for datagrams that wait, so that a burst of 1,000 queries is not lost: the kernel counts some 800 bytes for each, and
/// gives less where `net.core.rmem_max` is lower.
const DATAGRAM_BYTES: usize = 2 << 20;

/// Keepalive probes before the kernel gives up (`net.ipv4.tcp_keepalive_probes`, 9 by default), spread over the idle time
/// once more.
const KEEPALIVE_PROBES: u32 = 9;

/// An address on which the sidecar could not listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({option}): {source}; {hint}")]
pub struct ListenError {
    address: SocketAddr,
    option: Cow<'static, str>,
    hint: &'static str,
    source: io::Error,
}

impl ListenError {
    fn new(address: SocketAddr, option: Cow<'static, str>, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "stop the program that holds this port, or choose another port",
            io::ErrorKind::PermissionDenied => {
                "the sidecar has no privileges; choose a port from 1024 on (or above net.ipv4.ip_unprivileged_port_start)"
            }
            io::ErrorKind::AddrNotAvailable => "this pod has no such address; choose one that it has",
            _ => "choose another address",
        };
        Self { address, option, hint, source }
    }

    /// Returns true if the host does not have the address, or its family.
    pub(crate) fn is_absent(&self) -> bool {
        let errno = self.source.raw_os_error().map(Errno::from_raw);
        matches!(errno, Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT))
    }
}

/// Returns the keepalive parameters for an idle time, in whole seconds and at least one.
pub(crate) fn keepalive(after: Duration) -> TcpKeepalive {
    let least = Duration::from_secs(1);
    TcpKeepalive::new().with_time(after.max(least)).with_interval((after / KEEPALIVE_PROBES).max(least))
}

/// Opens a listener for redirected connections of both families; of IPv4 alone if the kernel has no IPv6.
///
/// Accepted sockets inherit its options, `keepalive` among them, so these cost nothing per connection.
///
/// # Errors
/// If the port cannot be opened.
pub(crate) fn bind_proxy(
    port: u16,
    option: &'static str,
    keepalive: Option<Duration>,
) -> Result<std::net::TcpListener, ListenError> {
    bind_for_relay(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), option, keepalive)
}

/// Opens a listener whose connections are relayed; accepted sockets inherit its options, too.
///
/// # Errors
/// If the address cannot be opened.
pub(crate) fn bind_for_relay(
    address: SocketAddr,
    option: impl Into<Cow<'static, str>>,
    keepalive: Option<Duration>,
) -> Result<std::net::TcpListener, ListenError> {
    let option = option.into();
    let listener = bind(address, option.clone())?;
    if let Some(after) = keepalive {
        SockRef::from(&listener)
            .set_tcp_keepalive(&self::keepalive(after))
            .map_err(|source| ListenError::new(address, option, source))?;
    }
    Ok(listener)
}

/// Opens a listener. The IPv6 wildcard serves IPv4 too, and becomes the IPv4 wildcard if the kernel has no IPv6.
///
/// # Errors
/// If the address cannot be opened.
pub(crate) fn bind(
    address: SocketAddr,
    option: impl Into<Cow<'static, str>>,
) -> Result<std::net::TcpListener, ListenError> {
    let bound = culvert_serve::bind_with(address, BACKLOG, |socket| {
        socket.set_tcp_nodelay(true)?;
        // An urgent byte stays where it stands in the stream; else a reader that does not ask for it loses it.
        socket.set_out_of_band_inline(true)
    });
    bound.map_err(|error| ListenError::new(error.address, option.into(), error.source))
}

/// Opens a socket for datagrams, with a port that no other socket shares.
///
/// # Errors
/// If the address cannot be opened.
pub(crate) fn bind_datagrams(
    address: SocketAddr,
    option: impl Into<Cow<'static, str>>,
) -> Result<UdpSocket, ListenError> {
    let open = || -> io::Result<UdpSocket> {
        let kind = Type::DGRAM.nonblocking();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
        socket.set_recv_buffer_size(DATAGRAM_BYTES)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    open().map_err(|source| ListenError::new(address, option.into(), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_what_to_do() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "--admin-address").unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "--admin-address").unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {address} (--admin-address): ")), "{error}");
        assert!(error.ends_with("stop the program that holds this port, or choose another port"), "{error}");
    }

    #[test]
    fn the_wildcard_takes_both_families() {
        let listener = bind_proxy(0, "--inbound-port", None).unwrap();
        let port = listener.local_addr().unwrap().port();
        for ip in ["127.0.0.1", "::1"] {
            std::net::TcpStream::connect((ip, port)).unwrap_or_else(|error| panic!("{ip}: {error}"));
        }
    }

    #[test]
    fn accepted_connections_inherit_their_options() {
        let listener = bind_proxy(0, "--inbound-port", Some(Duration::from_secs(180))).unwrap();
        let at = ("127.0.0.1", listener.local_addr().unwrap().port());
        let _client = std::net::TcpStream::connect(at).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert!(socket.out_of_band_inline().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(180));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(20));
    }
}
