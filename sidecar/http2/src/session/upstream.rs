// SPDX-License-Identifier: Apache-2.0
//! The server's connection: made when the first request asks for it, given up when the server says so.

use crate::link::{Link, Server};
use crate::reply::Reply;
use crate::rules::{Failure, Peer};
use crate::settings::Settings;
use crate::watched::Watched;
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::server;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// Connection to the server with its handle for requests.
pub(crate) type Connected<S> = (SendRequest<Bytes>, Connection<Watched<S>, Bytes>);

pub(crate) struct Upstream<S, D> {
    state: State<S, D>,
    /// Streams that were allowed so far, by the server's settings and our own bound.
    allowed: usize,
    connect: Extended,
}

enum State<S, D> {
    Away(Pin<Box<D>>),
    /// Behind a pointer: a session without a request must not be as large as one with a server.
    Open(Box<Connection<Watched<S>, Bytes>>),
    Over,
}

/// Extended CONNECT (RFC 8441): offered to the client once the server offers it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extended {
    Unknown,
    Supported,
    Offered,
}

/// Dials, and sends the preface.
pub(crate) async fn connect<S, D>(dial: D, link: Arc<Link>) -> Result<Connected<S>, Reply>
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = Result<S, Reply>>,
{
    let stream = dial.await?;
    let builder = builder(&link.settings);
    let watched = Watched::new(stream, Bytes::new(), Peer::Server, link);
    builder.handshake(watched).await.map_err(|_| Failure::Died.reply())
}

fn builder(settings: &Settings) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .max_header_list_size(settings.header_list)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buffer_size(settings.send_buffer)
        // As on the client's side: a client that leaves many responses in their middle must not end the server's connection.
        .max_local_error_reset_streams(None)
        // The first request goes at once, others wait for the server's own limit: a guess above it costs refused streams.
        .initial_max_send_streams(1);
    builder
}

impl<S, D> Upstream<S, D>
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = Result<Connected<S>, Reply>>,
{
    pub(crate) fn new(dial: D) -> Self {
        Self { state: State::Away(Box::pin(dial)), allowed: 0, connect: Extended::Unknown }
    }

    /// Goes on; true if the client must be told that no more requests are taken.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, link: &Link) -> bool {
        if let State::Away(dial) = &mut self.state {
            if !link.flags.wanted.load(Relaxed) {
                return false;
            }
            match dial.as_mut().poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(Err(reply)) => {
                    self.state = State::Over;
                    link.set_upstream(Server::Failed(reply));
                    return true;
                }
                Poll::Ready(Ok((sender, connection))) => {
                    self.state = State::Open(Box::new(connection));
                    link.set_upstream(Server::Ready(sender));
                }
            }
        }
        let State::Open(connection) = &mut self.state else { return true };
        let end = match Pin::new(&mut **connection).poll(cx) {
            // A server that floods is cut: the crate's client has no way to send it a GOAWAY with a code.
            Poll::Pending if link.server.flooded.load(Relaxed) => Failure::Protocol,
            Poll::Pending => return self.look_at_settings(cx, link),
            Poll::Ready(Err(error)) if error.is_library() => Failure::Protocol,
            Poll::Ready(_) => Failure::Died,
        };
        self.state = State::Over;
        // A connection that served requests may close when it is idle; one that served none is no use to repeat on.
        let served = link.flags.used.load(Relaxed) || matches!(link.upstream(), Server::Leaving);
        link.set_upstream(if served { Server::Leaving } else { Server::Broken(end) });
        true
    }

    /// Follows the server's limit of streams, and looks for its GOAWAY; true after one.
    fn look_at_settings(&mut self, cx: &mut Context<'_>, link: &Link) -> bool {
        let Server::Ready(mut sender) = link.upstream() else { return true };
        if matches!(sender.poll_ready(cx), Poll::Ready(Err(_))) {
            link.set_upstream(Server::Leaving);
            return true;
        }
        let limit = sender.current_max_send_streams().min(link.settings.streams as usize);
        if limit > self.allowed {
            link.slots.add_permits(limit - self.allowed);
            self.allowed = limit;
        } else if limit < self.allowed {
            // Slots in use are taken back at a later look, when they are free.
            self.allowed -= link.slots.forget_permits(self.allowed - limit);
        }
        if self.connect == Extended::Unknown && sender.is_extended_connect_protocol_enabled() {
            self.connect = Extended::Supported;
        }
        false
    }

    pub(crate) fn offer_extended_connect<C>(&mut self, client: &mut server::Connection<Watched<C>, Bytes>)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        // It fails while the client owes an answer to the settings before, and is tried again.
        if self.connect == Extended::Supported && client.enable_connect_protocol().is_ok() {
            self.connect = Extended::Offered;
        }
    }

    pub(crate) fn into_connection(self) -> Option<Box<Connection<Watched<S>, Bytes>>> {
        match self.state {
            State::Open(connection) => Some(connection),
            State::Away(_) | State::Over => None,
        }
    }
}
