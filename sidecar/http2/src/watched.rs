// SPDX-License-Identifier: Apache-2.0
//! A connection's bytes on their way to and from the h2 crate: floods are found, a full socket is noted.

use crate::frames::{Frames, PREFACE};
use crate::late::Late;
use crate::link::{Link, Side};
use crate::rules::Peer;
use crate::settings::Rate;
use bytes::{Buf, Bytes};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Stream of one side, watched.
pub(crate) struct Watched<T> {
    io: T,
    /// Bytes that were read before the session began.
    prefix: Bytes,
    peer: Peer,
    link: Arc<Link>,
    read: Frames,
    written: Frames,
    control: Rate,
    late: Late,
}

impl<T> Watched<T> {
    pub(crate) fn new(io: T, prefix: Bytes, peer: Peer, link: Arc<Link>) -> Self {
        let (read, written) = match peer {
            Peer::Client => (PREFACE, 0),
            Peer::Server => (0, PREFACE),
        };
        let control = Rate::of_control(&link.settings);
        let (read, written) = (Frames::behind(read), Frames::behind(written));
        Self { io, prefix, peer, link, read, written, control, late: Late::new(peer) }
    }

    fn side(&self) -> &Side {
        self.link.side(self.peer)
    }

    fn count(&mut self, bytes: &[u8]) {
        let mut late = 0;
        let seen = self.read.walk(bytes, |head| late += u32::from(self.late.read(head)));
        // What comes too late is no work, and allows nothing.
        self.control.work(seen.work - late);
        if (seen.control > 0 && !self.control.spend(seen.control)) || self.late.is_flood() {
            self.side().flooded.store(true, Relaxed);
        }
    }

    /// Notes what became of a write. Streams that waited for the socket go on once it takes bytes again.
    fn wrote<'a>(&mut self, done: &Poll<io::Result<usize>>, slices: impl Iterator<Item = &'a [u8]>) {
        match done {
            Poll::Pending => self.side().blocked.store(true, Relaxed),
            Poll::Ready(Err(_)) => (),
            Poll::Ready(Ok(written)) => {
                if self.side().blocked.swap(false, Relaxed) {
                    self.link.unblock();
                }
                let mut left = *written;
                for slice in slices {
                    let part = left.min(slice.len());
                    let seen = self.written.walk(&slice[..part], |head| self.late.wrote(head));
                    self.control.work(seen.work);
                    left -= part;
                    if left == 0 {
                        break;
                    }
                }
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // No waker is left: the session looks at the flag after each poll of its connections, and ends.
        if self.side().flooded.load(Relaxed) {
            return Poll::Pending;
        }
        // The session looks at the share, too, and begins another round.
        let share = self.side().share.load(Relaxed);
        if share == 0 {
            return Poll::Pending;
        }
        if self.side().drained.swap(false, Relaxed) {
            self.late.settle();
        }
        let before = buf.filled().len();
        if self.prefix.is_empty() {
            std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        } else {
            let part = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..part]);
            self.prefix.advance(part);
        }
        let read = buf.filled().len() - before;
        self.side().share.store(share.saturating_sub(read), Relaxed);
        self.count(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(&done, std::iter::once(bytes));
        done
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(&done, bufs.iter().map(|slice| &**slice));
        done
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.io).poll_flush(cx);
        self.side().unflushed.store(done.is_pending(), Relaxed);
        done
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
