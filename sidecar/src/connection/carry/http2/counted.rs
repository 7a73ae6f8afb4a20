// SPDX-License-Identifier: Apache-2.0
//! A side of a session, whose written bytes are counted: the session owns it, so the connection cannot ask it.

use crate::cluster::stream::Stream;
use crate::net::own_sockets::OwnSocket;
use crate::relay::{Moved, Side};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that both sides took, and the way in which they end. One task uses it; atomics are there so that it may move.
#[derive(Debug, Default)]
pub(super) struct Tally {
    to_server: AtomicU64,
    to_client: AtomicU64,
    /// The sides end by a reset.
    cut: AtomicBool,
}

/// A side of a session.
pub(super) struct Counted {
    /// The note of the sidecar's own socket. Dropped before the socket: see [`OwnSocket`].
    noted: Option<OwnSocket>,
    stream: Stream,
    side: Side,
    tally: Arc<Tally>,
}

// === impl Tally ===

impl Tally {
    /// Takes the bytes that moved since the last call.
    pub(super) fn take(&self) -> Option<Moved> {
        let (to_server, to_client) = (self.to_server.swap(0, Relaxed), self.to_client.swap(0, Relaxed));
        (to_server != 0 || to_client != 0).then_some(Moved { to_server, to_client })
    }

    /// Makes the coming close of both sides a reset.
    pub(super) fn cut(&self) {
        self.cut.store(true, Relaxed);
    }
}

// === impl Counted ===

impl Counted {
    pub(super) fn client(stream: Stream, tally: &Arc<Tally>) -> Self {
        Self { noted: None, stream, side: Side::Client, tally: Arc::clone(tally) }
    }

    pub(super) fn server(stream: Stream, noted: Option<OwnSocket>, tally: &Arc<Tally>) -> Self {
        Self { noted, stream, side: Side::Server, tally: Arc::clone(tally) }
    }
}

impl Counted {
    fn count(&self, written: usize) -> usize {
        let counter = match self.side {
            Side::Client => &self.tally.to_client,
            Side::Server => &self.tally.to_server,
        };
        counter.fetch_add(written as u64, Relaxed);
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        Poll::Ready(Ok(self.count(written)))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        Poll::Ready(Ok(self.count(written)))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.noted = None;
        if self.tally.cut.load(Relaxed) {
            self.stream.reset();
        }
    }
}
