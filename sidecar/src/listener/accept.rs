// SPDX-License-Identifier: Apache-2.0
//! The accept loop. It survives every error, and ends only when it is told to.

use super::backoff::Backoff;
use crate::addrs::{ClientAddr, Direction};
use crate::connection;
use crate::proxy::Proxy;
use crate::throttle::Throttle;
use nix::errno::Errno;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The first wait when there are no files or no memory left. Without one the loop spins: the connection that could not
/// be accepted is still there.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// The longest: a client notices, and a file that is freed is used soon.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A peer can cause these errors, so it may not fill the log with them.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A connection as it came from the listener.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Who opened it.
    pub client: ClientAddr,
    /// Which listener it came to.
    pub direction: Direction,
    /// That listener's port.
    pub listen_port: u16,
    /// The listener, where it was not redirected but dialled a port that a document binds.
    pub bound: Option<Bound>,
}

/// A listener that a document binds.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
}

/// Where connections come in.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// Whose traffic it is.
    pub direction: Direction,
    /// Which listener, where it is not one of the two that connections are redirected to.
    pub bound: Option<Bound>,
}

/// What went wrong with an accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AcceptErrorKind {
    /// No file left, in this process or on the node.
    Files,
    /// No kernel memory left.
    Memory,
    /// The peer was gone before we came.
    Aborted,
    /// Anything else.
    Other,
}

impl AcceptErrorKind {
    /// All kinds, for tables.
    pub const ALL: [Self; 4] = [Self::Files, Self::Memory, Self::Aborted, Self::Other];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Memory => "memory",
            Self::Aborted => "aborted",
            Self::Other => "other",
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE) => Self::Files,
            Some(Errno::ENOBUFS | Errno::ENOMEM) => Self::Memory,
            // accept(2): errors of the new connection itself, to be treated like "try again".
            Some(
                Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EINTR
                | Errno::EPERM
                | Errno::EPROTO
                | Errno::ENETDOWN
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EHOSTUNREACH
                | Errno::EOPNOTSUPP
                | Errno::ENETUNREACH,
            ) => Self::Aborted,
            _ => Self::Other,
        }
    }
}

/// Accepts connections and starts a task for each, until `closing` says otherwise (or its sender is gone). What is in
/// the kernel's queue by then is still served; the port is closed when this returns.
pub async fn accept_loop(
    listener: TcpListener,
    entrance: Entrance,
    proxy: Arc<Proxy>,
    mut closing: watch::Receiver<bool>,
) {
    let Entrance { direction, bound } = entrance;
    let listen_port = proxy.config.listen_port(direction);
    let start = |(stream, peer): (TcpStream, SocketAddr)| {
        let client = ClientAddr::new(peer);
        let accepted = Accepted { stream, client, direction, listen_port, bound: bound.clone() };
        tokio::spawn(connection::serve(Arc::clone(&proxy), accepted));
    };
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let throttle = Throttle::new(LOG_EVERY);
    loop {
        let accepted = tokio::select! {
            // A busy listener must not keep us from hearing that it is to close.
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(connection) => {
                backoff.reset();
                start(connection);
            }
            Err(error) => {
                let kind = AcceptErrorKind::of(&error);
                proxy.metrics.direction(direction).accept_errors(kind).inc();
                if kind == AcceptErrorKind::Aborted {
                    continue;
                }
                if throttle.ready() {
                    tracing::warn!(%error, %direction, "cannot accept connections; trying again until it works");
                }
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
    // Whoever finished the handshake before the port closes was promised service. Asked of the kernel itself, as the
    // runtime may not have heard of them yet.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            start((stream, peer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        for (errno, kind) in [
            (Errno::EMFILE, AcceptErrorKind::Files),
            (Errno::ENFILE, AcceptErrorKind::Files),
            (Errno::ENOBUFS, AcceptErrorKind::Memory),
            (Errno::ENOMEM, AcceptErrorKind::Memory),
            (Errno::ECONNABORTED, AcceptErrorKind::Aborted),
            (Errno::EINVAL, AcceptErrorKind::Other),
        ] {
            assert_eq!(AcceptErrorKind::of(&io::Error::from(errno)), kind, "{errno}");
        }
    }
}
