// SPDX-License-Identifier: Apache-2.0
//! Listening sockets for pages and for connections that are relayed.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// Connections that the kernel may finish before they are accepted: std's and tokio's own number, enough for pages.
const BACKLOG: i32 = 128;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// The address; the IPv4 wildcard where the IPv6 one was asked for and the kernel has no IPv6.
    pub address: SocketAddr,
    /// Reason that the kernel gave.
    pub source: io::Error,
}

/// Listens on an address, without blocking.
///
/// The IPv6 wildcard takes IPv4 too, and becomes the IPv4 wildcard where the kernel has no IPv6.
///
/// # Errors
/// The address cannot be had. A retry helps only once another program has let go of the port.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    bind_with(address, BACKLOG, |_| Ok(()))
}

/// Listens with a backlog, and with options that are set before the first connection can come and that it inherits.
///
/// # Errors
/// Those of [`bind`], and of `options`.
pub fn bind_with(
    address: SocketAddr,
    backlog: i32,
    options: impl Fn(&Socket) -> io::Result<()>,
) -> Result<TcpListener, BindError> {
    let open = |address| open(address, backlog, &options).map_err(|source| BindError { address, source });
    match open(address) {
        Err(error) if no_ipv6(&error.source) && address.ip() == Ipv6Addr::UNSPECIFIED => {
            open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        opened => opened,
    }
}

/// Returns true for the error of a kernel that was started without IPv6, which knows no such sockets. (With
/// `disable_ipv6` it does, and the dual-stack wildcard still takes IPv4.)
fn no_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

fn open(
    address: SocketAddr,
    backlog: i32,
    options: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Or a restart would have to wait for the connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    options(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn the_wildcard_takes_both_families() {
        let listener = bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        for ip in ["127.0.0.1", "::1"] {
            TcpStream::connect((ip, port)).unwrap_or_else(|error| panic!("{ip}: {error}"));
        }
    }

    #[test]
    fn connections_inherit_the_options() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = bind_with(address, 1, |socket| socket.set_tcp_nodelay(true)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        assert!(listener.accept().unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert_eq!((error.address, error.source.kind()), (address, io::ErrorKind::AddrInUse));
    }
}
