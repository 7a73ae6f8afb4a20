// SPDX-License-Identifier: Apache-2.0
//! TLS as one end of a relayed connection.
//!
//! An idle stream holds the session's keys and state and no buffer: ciphertext passes through a scratch buffer of the
//! worker, as plaintext passes through the relay's. It keeps only the beginning of a record whose rest is awaited, and
//! ciphertext that the peer does not take at once.
//!
//! The peer's close_notify is passed on as FIN, and FIN as close_notify. A FIN without it is a truncation, possibly an
//! attack on the way, so the other side gets a reset, never an orderly end.

use super::session::{MOST_KEPT, Session};
use crate::relay::{LONG_SCRATCH_BYTES, RelayStream, SCRATCH_BYTES};
use rustls::Error;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Room for a full scratch buffer after encryption: 8 records, each with a head and a tag, and a key update in front.
const ENCRYPTED_BYTES: usize = LONG_SCRATCH_BYTES + 1024;

/// Ciphertext of one read: the full records whose plaintext fills the relay's scratch buffer, each with a head of 5 bytes,
/// the type and a tag of 16. With one byte less, the last record of each read of a bulk stream would be kept and copied
/// back nearly whole: a quarter of all bytes.
const READ_BYTES: usize = SCRATCH_BYTES + SCRATCH_BYTES / RECORD_BYTES * 22;
const RECORD_BYTES: usize = 16 * 1024;

thread_local! {
    static CIPHERTEXT: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; ENCRYPTED_BYTES.max(MOST_KEPT + 1024)].into_boxed_slice());
}

/// A TLS session over its socket, after the handshake.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: Session,
    /// Error that ended the reads; returned once all plaintext before it is read.
    failed: Option<io::Error>,
    /// Error of a send that a read made; returned by the next send, or at the end of the reads.
    unsendable: Option<io::Error>,
}

impl TlsStream {
    pub(super) fn new(tcp: TcpStream, session: Session) -> Self {
        Self { tcp, session, failed: None, unsendable: None }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.session.buffered()
    }

    /// Sends the ciphertext that is queued.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.unsendable.take() {
            return Poll::Ready(Err(error));
        }
        while !self.session.unsent().is_empty() {
            match ready!(Pin::new(&mut self.tcp).poll_write(cx, self.session.unsent()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.session.was_sent(n),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once from the socket, and decrypts the complete records. Returns true if the read filled its room.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let Self { tcp, session, failed, unsendable } = self;
        CIPHERTEXT.with_borrow_mut(|scratch| {
            let kept = session.kept().len();
            scratch[..kept].copy_from_slice(session.kept());
            // Its plaintext fits into the relay's buffer, as a rule.
            let most = READ_BYTES.max(kept + 1024);
            let mut into = ReadBuf::new(&mut scratch[kept..most]);
            ready!(Pin::new(tcp).poll_read(cx, &mut into))?;
            let (came, full) = (into.filled().len(), into.remaining() == 0);
            if came == 0 {
                return Poll::Ready(Err(unsendable.take().unwrap_or_else(truncated)));
            }
            let mut too_much = Vec::new();
            let processed = session.process(&mut scratch[..kept + came], |said| {
                let (fits, rest) = said.split_at(said.len().min(buf.remaining()));
                buf.put_slice(fits);
                too_much.extend_from_slice(rest);
            });
            session.put_back(&too_much);
            *failed = processed.err().map(failure);
            Poll::Ready(Ok(full))
        })
    }
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the peer's stream ended without a close_notify: it may have been cut on the way",
    )
}

fn failure(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            buf.put_slice(&this.session.take_early(buf.remaining()));
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.failed.take() {
                return Poll::Ready(Err(error));
            }
            if this.session.peer_closed() {
                return Poll::Ready(Ok(()));
            }
            let full = ready!(this.poll_receive(cx, buf))?;
            // A second read goes into the same write, if there is room for it. Behind a close_notify only FIN follows,
            // which would be taken for a truncation.
            if full
                && buf.remaining() >= SCRATCH_BYTES
                && this.failed.is_none()
                && !this.session.peer_closed()
                && let Poll::Ready(Err(error)) = this.poll_receive(cx, buf)
            {
                this.failed = Some(error);
            }
            // Answers of the protocol, such as a key update. If the peer cannot take them, it wakes this task when it can. If
            // it failed, the bytes that it sent before are read first.
            if let Poll::Ready(Err(error)) = this.poll_send(cx) {
                this.unsendable = Some(error);
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    /// Takes at most a scratch buffer at a time, and nothing while ciphertext waits to be sent. The bytes are sent once
    /// [`AsyncWrite::poll_flush`] is ready.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.failed.is_some() {
            // The error itself is returned by the read.
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_send(cx))?;
        let plaintext = &buf[..buf.len().min(LONG_SCRATCH_BYTES)];
        if plaintext.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Self { tcp, session, .. } = this;
        CIPHERTEXT.with_borrow_mut(|scratch| {
            let n = session.encrypt(plaintext, scratch).map_err(failure)?;
            let mut ciphertext = &scratch[..n];
            // Ciphertext that goes before it is rare; then this one is queued behind it.
            while session.unsent().is_empty() && !ciphertext.is_empty() {
                match Pin::new(&mut *tcp).poll_write(cx, ciphertext)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(sent) => ciphertext = &ciphertext[sent..],
                    Poll::Pending => break,
                }
            }
            session.send_later(ciphertext);
            Poll::Ready(Ok(plaintext.len()))
        })
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    /// Sends close_notify, then FIN.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.close().map_err(failure)?;
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl RelayStream for TlsStream {
    fn pending_error(&self) -> Option<io::Error> {
        self.tcp.pending_error()
    }

    fn read_now(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn keep_alive(&self, after: Duration) {
        self.tcp.keep_alive(after);
    }
}
