// SPDX-License-Identifier: Apache-2.0
//! The accept loop. It survives every error, and ends only at shutdown.

use super::backoff::Backoff;
use crate::metrics::{By, labels, metrics};
use crate::net::addrs::{ClientAddr, Direction};
use crate::net::throttle::Throttle;
use nix::errno::Errno;
use std::io;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// First wait when no files or no memory are left. Without one the loop spins: the connection that could not be accepted
/// is still in the queue.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Longest wait: a second, so that a file that becomes free is used soon.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Period with one log line at most: a peer can cause these errors, and must not fill the log with them.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Cause of a failed accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AcceptErrorKind {
    /// No file left, in this process or on the node.
    Files,
    /// No kernel memory left.
    Memory,
    /// The peer closed before its connection was accepted.
    Aborted,
    /// Another error of the kernel.
    Other,
}

impl AcceptErrorKind {
    pub(crate) const ALL: [Self; 4] = [Self::Files, Self::Memory, Self::Aborted, Self::Other];

    /// Value of the metric's label.
    pub(crate) fn name(self) -> &'static str {
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

labels! { AcceptErrorKind: "kind" }

metrics! {
    /// Failures of one direction's accept loops.
    pub(crate) struct AcceptMetrics {
        errors: By<AcceptErrorKind> = "accept_errors", "Failures of accept";
    }
}

/// Accepts connections and hands each to `serve`, until `closing` is true or its sender is dropped. Connections that are in
/// the kernel's queue by then are still served; the port is closed on return. `failed` is called for each failed accept.
pub(crate) async fn accept_loop(
    listener: TcpListener,
    direction: Direction,
    mut closing: watch::Receiver<bool>,
    failed: impl Fn(AcceptErrorKind),
    serve: impl Fn(TcpStream, ClientAddr),
) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let throttle = Throttle::new(LOG_EVERY);
    loop {
        let accepted = tokio::select! {
            // A busy listener must not delay its own closing.
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.reset();
                serve(stream, ClientAddr::new(peer));
            }
            Err(error) => {
                let kind = AcceptErrorKind::of(&error);
                failed(kind);
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
    // A peer whose handshake ended before the port closes has a connection, and must not get a reset. The queue is read
    // past the runtime, which may not have been notified of the last ones.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            serve(stream, ClientAddr::new(peer));
        }
    }
}
