// SPDX-License-Identifier: Apache-2.0
//! One end of a connection: a socket, or TLS over one.

use crate::relay::RelayStream;
use crate::relay::pipes::Pipe;
use crate::tls::TlsStream;
use crate::tls::handshake::Shaken;
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One end of a connection. As large as a socket: the TLS session is on the heap.
pub(crate) enum Stream {
    Plain(TcpStream),
    /// TLS with a mesh member.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Puts the session that was agreed on, if there is one, over its socket.
    pub(crate) fn of(tcp: TcpStream, session: Option<Box<Shaken>>) -> Self {
        match session {
            Some(shaken) => Self::Tls(shaken.over(tcp).into()),
            None => Self::Plain(tcp),
        }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }

    /// Makes the coming close a reset: the peer must not take it for an orderly end.
    pub(crate) fn reset(&self) {
        if let Err(error) = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection will end in FIN where a reset was due");
        }
    }
}

macro_rules! either {
    ($self:expr, $one:ident => $call:expr) => {
        match $self {
            Stream::Plain($one) => $call,
            Stream::Tls($one) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(&mut *self, one => Pin::new(one).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(&mut *self, one => Pin::new(one).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut *self, one => Pin::new(one).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, one => one.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, one => Pin::new(one).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, one => Pin::new(one).poll_shutdown(cx))
    }
}

impl RelayStream for Stream {
    fn pending_error(&self) -> Option<io::Error> {
        either!(self, one => one.pending_error())
    }

    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, one => one.read_now(buffer))
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, one => one.poll_write_last(cx, bytes))
    }

    fn keep_alive(&self, after: Duration) {
        either!(self, one => one.keep_alive(after));
    }

    fn splices(&self) -> bool {
        either!(self, one => one.splices())
    }

    fn splice_into(&self, pipe: &mut Pipe, most: u64) -> io::Result<usize> {
        either!(self, one => one.splice_into(pipe, most))
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, one => one.poll_readable(cx))
    }

    fn poll_splice_from(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        either!(self, one => one.poll_splice_from(cx, pipe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TLS costs a plain connection nothing.
    #[test]
    fn it_is_as_large_as_a_socket() {
        assert_eq!(size_of::<Stream>(), size_of::<TcpStream>());
    }
}
