// SPDX-License-Identifier: Apache-2.0
//! Connects to a server within a deadline.

use crate::net::addrs::DialAddr;
use crate::net::own_sockets::{OwnSocket, OwnSockets, Returned};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Pauses between two connects to a Unix socket whose backlog is full: a server takes the next connection within some
/// milliseconds, or is overloaded.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Reason for which a server was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The server's host answered that the port is closed.
    #[error("{addr} refused the connection: is the application listening there?")]
    Refused {
        /// Address that was dialled.
        addr: DialAddr,
    },
    /// No answer came in time.
    #[error("{addr} did not answer in time: is it up, and does a network policy let this pod reach it?")]
    TimedOut {
        /// Address that was dialled.
        addr: DialAddr,
    },
    /// The source address of the inbound hop is missing.
    #[error(
        "this pod has no address {source_ip}, from which {addr} has to be dialled: culvert-cni puts ::6 on lo"
    )]
    NoSource {
        /// Address that was dialled.
        addr: DialAddr,
        /// Source address that is missing.
        source_ip: IpAddr,
    },
    /// A Unix socket was not reached.
    #[error(
        "cannot connect to the Unix socket {}: {source}; is it in the sidecar's container, and may its uid write to it?",
        .path.display()
    )]
    Socket {
        /// Path of the socket.
        path: Arc<Path>,
        /// Error of the kernel, or the end of the time.
        source: io::Error,
    },
    /// There is no route, or the kernel did not allow the connect.
    #[error("cannot dial {addr}: {source}")]
    Failed {
        /// Address that was dialled.
        addr: DialAddr,
        /// Error of the kernel.
        source: io::Error,
    },
}

impl DialError {
    /// Returns true if this host lacks something, so that any other server would not be reached either.
    pub(crate) fn is_ours(&self) -> bool {
        let lacking = |error: &io::Error| {
            let errno = error.raw_os_error().map(Errno::from_raw);
            matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
        };
        match self {
            Self::NoSource { .. } => true,
            Self::Failed { source, .. } | Self::Socket { source, .. } => lacking(source),
            Self::Refused { .. } | Self::TimedOut { .. } => false,
        }
    }

    /// Returns true if no answer came in time.
    pub(crate) fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Socket { source, .. } => source.kind() == io::ErrorKind::TimedOut,
            Self::Refused { .. } | Self::NoSource { .. } | Self::Failed { .. } => false,
        }
    }

    fn new(addr: DialAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused { addr },
            io::ErrorKind::TimedOut => Self::TimedOut { addr },
            _ => Self::Failed { addr, source },
        }
    }
}

/// Dials `addr`, from `from` if the route names a source.
///
/// # Errors
/// If the server was not reached within `deadline`.
pub(crate) async fn dial(
    addr: DialAddr,
    from: Option<IpAddr>,
    deadline: Option<Duration>,
) -> Result<TcpStream, DialError> {
    let socket = prepare(addr, from)?;
    begin(&socket, addr)?;
    let stream = TcpStream::from_std(socket.into()).map_err(|error| DialError::new(addr, error))?;
    let answer = answered(&stream, addr);
    match deadline {
        Some(deadline) => {
            tokio::time::timeout(deadline, answer).await.unwrap_or(Err(DialError::TimedOut { addr }))?;
        }
        None => answer.await?,
    }
    Ok(stream)
}

/// Dials `addr` and notes the socket as the sidecar's own, opened for a connection that came back so often.
///
/// # Errors
/// Those of [`dial`] without a deadline.
pub(crate) async fn dial_noted(
    addr: DialAddr,
    sockets: &Arc<OwnSockets>,
    returned: Returned,
) -> Result<(TcpStream, OwnSocket), DialError> {
    let failed = |source| DialError::new(addr, source);
    let socket = prepare(addr, None)?;
    let noted = {
        let announced = sockets.announce(addr);
        begin(&socket, addr)?;
        let local = socket.local_addr().map_err(failed)?;
        let nameless = || failed(io::Error::other("the socket has no address of its own"));
        announced.note(local.as_socket().ok_or_else(nameless)?, returned)
    };
    // The stream is declared first, so that it is dropped last: a socket is forgotten before it is closed.
    let (stream, noted) = (TcpStream::from_std(socket.into()).map_err(failed)?, noted);
    answered(&stream, addr).await?;
    Ok((stream, noted))
}

/// Connects to a Unix socket. For all that follows it is a stream socket as others are, but for its missing addresses; there
/// is no reset, so that its server sees an end where others see one.
///
/// # Errors
/// If the kernel refuses. It has no deadline.
pub(crate) async fn dial_socket(path: &Arc<Path>) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Socket { path: Arc::clone(path), source };
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::UNIX, kind, None).map_err(failed)?;
    let at = SockAddr::unix(&**path).map_err(failed)?;
    let mut pause = FIRST_PAUSE;
    // While the server's backlog is full, the kernel neither waits nor tells when that ends (connect(2), EAGAIN).
    while let Err(error) = socket.connect(&at) {
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(failed(error));
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
    TcpStream::from_std(socket.into()).map_err(failed)
}

/// Sends the first packet.
fn begin(socket: &Socket, addr: DialAddr) -> Result<(), DialError> {
    match socket.connect(&addr.get().into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
            Err(DialError::new(addr, error))
        }
        _ => Ok(()),
    }
}

/// Waits until the server has answered.
async fn answered(stream: &TcpStream, addr: DialAddr) -> Result<(), DialError> {
    let failed = |source| DialError::new(addr, source);
    stream.writable().await.map_err(failed)?;
    stream.take_error().map_err(failed)?.map_or(Ok(()), |error| Err(failed(error)))
}

/// Makes a socket and sets its options before the runtime registers it, so that it is registered only once.
fn prepare(addr: DialAddr, from: Option<IpAddr>) -> Result<Socket, DialError> {
    let failed = |source| DialError::new(addr, source);
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr.get()), kind, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_tcp_nodelay(true).map_err(failed)?;
    // An urgent byte stays at its place in the stream; else it is lost on the way.
    socket.set_out_of_band_inline(true).map_err(failed)?;
    if let Some(source_ip) = from {
        // The port is chosen at connect, by the whole 4-tuple. Chosen at bind, the ports of the one source address
        // would be used up by some 28,000 connections, TIME_WAIT included.
        setsockopt(&socket, IpBindAddressNoPort, &true).map_err(|errno| failed(errno.into()))?;
        socket.bind(&SocketAddr::new(source_ip, 0).into()).map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => DialError::NoSource { addr, source_ip },
            _ => failed(error),
        })?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn addr(text: &str) -> DialAddr {
        DialAddr::new(text.parse().unwrap())
    }

    #[tokio::test]
    async fn the_inbound_hop_comes_from_its_source() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = DialAddr::new(listener.local_addr().unwrap());
        let stream = dial(at, Some("127.0.0.6".parse().unwrap()), None).await.unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
        assert_eq!(peer.ip().to_string(), "127.0.0.6");
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_refusal_says_so_at_once() {
        let free = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let error = dial(DialAddr::new(free), None, None).await.unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(&free.to_string()), "{error}");
    }

    #[tokio::test]
    async fn a_unix_socket_is_a_stream_and_one_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path: Arc<Path> = folder.path().join("app.sock").into();
        let error = dial_socket(&path).await.unwrap_err();
        assert!(matches!(error, DialError::Socket { .. }) && !error.is_timeout(), "{error}");
        assert!(error.to_string().contains("app.sock"), "{error}");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut stream = dial_socket(&path).await.unwrap();
        let (mut far, _) = listener.accept().unwrap();
        stream.write_all(b"to").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut came = String::new();
        io::Read::read_to_string(&mut far, &mut came).unwrap();
        assert_eq!(came, "to");
        io::Write::write_all(&mut far, b"from").unwrap();
        drop(far);
        came.clear();
        stream.read_to_string(&mut came).await.unwrap();
        assert_eq!(came, "from");
    }

    #[tokio::test]
    async fn a_full_backlog_of_a_unix_socket_is_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let path: Arc<Path> = folder.path().join("app.sock").into();
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&*path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let mut held = Vec::new();
        // One that is not answered at once finds the backlog full.
        while let Ok(dialled) = tokio::time::timeout(Duration::from_millis(100), dial_socket(&path)).await {
            held.push(dialled.unwrap());
        }
        let (dialled, accepted) = tokio::join!(dial_socket(&path), async { listener.accept() });
        assert!(dialled.is_ok() && accepted.is_ok());
    }

    #[tokio::test]
    async fn a_missing_source_is_named() {
        let error = dial(addr("127.0.0.1:9"), Some("192.0.2.77".parse().unwrap()), None).await.unwrap_err();
        assert!(matches!(error, DialError::NoSource { .. }), "{error}");
        assert!(matches!(error, DialError::NoSource { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_deadline_that_is_over_is_a_timeout() {
        // Full by construction: a backlog of one, and no accept.
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let at = DialAddr::new(listener.local_addr().unwrap().as_socket().unwrap());
        let mut held = Vec::new();
        let error = loop {
            match dial(at, None, Some(Duration::from_millis(50))).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, DialError::TimedOut { .. }), "{error}");
    }
}
