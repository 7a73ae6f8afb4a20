// SPDX-License-Identifier: Apache-2.0
//! One client connection and its server connection, in one task: accept requests, connect at the first, end in order.

mod closing;
mod upstream;

use crate::late;
use crate::link::{Handle, Life, Link, Server};
use crate::malformed::Malformed;
use crate::reply::Reply;
use crate::rules::{Exchange, Peer, Rules};
use crate::settings::Settings;
use crate::stream::{self, Books};
use crate::watched::Watched;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite};
use upstream::Upstream;

/// Rounds over connections and streams in one poll of the task, before other tasks get their turn.
const ROUNDS: usize = 4;

/// Bytes that are read from each side in a round.
///
/// Streams take their data out between rounds: what the h2 crate holds of small frames stays below the number at which it ends a
/// connection, also when a backlog of them lies in the socket.
const SHARE: usize = 64 * 1024;

// A round of the smallest frames, of 9 bytes.
const _: () = assert!(SHARE / 9 < late::MOST, "one round of late frames is a flood");

/// Session that has not begun.
pub struct Session<R> {
    rules: R,
    link: Arc<Link>,
}

/// End of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Reason of the end.
    pub cause: Cause,
    /// Requests that began, refused ones included.
    pub requests: u64,
}

/// Reason of a session's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The client closed, or all requests were done after a GOAWAY.
    Closed,
    /// The same, after the server's connection ended or could not be had.
    ServerGone,
    /// The first bytes were no HTTP/2.
    Preface,
    /// The client broke HTTP/2 or flooded; GOAWAY was sent with this code.
    Client(Reason),
    /// The client's stream failed.
    Io(io::ErrorKind),
    /// Too many resets of streams that had reached the server; GOAWAY with ENHANCE_YOUR_CALM.
    ResetFlood,
    /// Too many frames of control, or on streams that were over; GOAWAY with ENHANCE_YOUR_CALM.
    ControlFlood,
}

impl Cause {
    /// Name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ServerGone => "server_gone",
            Self::Preface => "no_http2",
            Self::Client(_) => "client_protocol",
            Self::Io(_) => "client_io",
            Self::ResetFlood => "reset_flood",
            Self::ControlFlood => "control_flood",
        }
    }

    /// Returns true if the client left, and was not cut.
    const fn is_of_client(self) -> bool {
        matches!(self, Self::Closed | Self::ServerGone | Self::Io(_))
    }

    fn of(error: &h2::Error) -> Self {
        match (error.reason(), error.get_io()) {
            // The client's own GOAWAY is an end in order, as far as the relay is concerned.
            (Some(_), _) if error.is_remote() => Self::Closed,
            (Some(reason), _) => Self::Client(reason),
            (None, Some(error)) => Self::Io(error.kind()),
            (None, None) => Self::Closed,
        }
    }
}

impl<R: Rules> Session<R> {
    /// Prepares a session with its owner's rules.
    pub fn new(rules: R, settings: Settings) -> Self {
        Self { rules, link: Arc::new(Link::new(settings)) }
    }

    /// Returns the handle to drain and to sweep it.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.link))
    }

    /// Relays until both connections are over. Dropping it cuts both.
    ///
    /// `prefix` holds the bytes that were already read from the client. `dial` runs once the first request passes the rules; what
    /// it returns instead of a stream answers all requests that wait for it, and then the client gets GOAWAY.
    pub async fn relay<C, S, D>(self, client: C, prefix: Bytes, dial: D) -> End
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
        D: Future<Output = Result<S, Reply>>,
    {
        let Self { rules, link } = self;
        let _life = Life(Arc::clone(&link));
        let watched = Watched::new(client, prefix, Peer::Client, Arc::clone(&link));
        let client = match greet(watched, &link.settings).await {
            Ok(client) => client,
            Err(cause) => return End { cause, requests: 0 },
        };
        let upstream = Upstream::new(upstream::connect(dial, Arc::clone(&link)));
        let mut running = Running {
            rules,
            client,
            upstream,
            streams: FuturesUnordered::new(),
            run: stream::run,
            draining: false,
            requests: 0,
            link,
        };
        let (cause, open) = poll_fn(|cx| running.poll(cx)).await;
        let Running { client, upstream, streams, link, requests, .. } = running;
        link.flags.client_gone.store(cause.is_of_client(), Relaxed);
        // The streams reset what they have at the server.
        drop(streams);
        let client = open.then_some(client);
        closing::close(client, upstream.into_connection(), &link).await;
        End { cause, requests }
    }
}

/// Exchanges prefaces with the client.
async fn greet<C>(client: Watched<C>, settings: &Settings) -> Result<Connection<Watched<C>, Bytes>, Cause>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(settings.streams)
        .max_header_list_size(settings.header_list)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buffer_size(settings.send_buffer)
        // The crate counts over the life of a connection, and each late frame of a stream that was reset is one: a connection with
        // many early answers would end after 1,024. Those that wait for the socket are counted instead, see `late`.
        .max_local_error_reset_streams(None);
    builder.handshake(client).await.map_err(|error| match error.get_io() {
        Some(error) => Cause::Io(error.kind()),
        None => Cause::Preface,
    })
}

struct Running<C, S, D, R: Rules, F, T> {
    rules: R,
    client: Connection<Watched<C>, Bytes>,
    upstream: Upstream<S, D>,
    /// Requests under way.
    streams: FuturesUnordered<T>,
    /// Makes the future of a request.
    run: F,
    draining: bool,
    requests: u64,
    link: Arc<Link>,
}

impl<C, S, D, R, F, T> Running<C, S, D, R, F, T>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = Result<upstream::Connected<S>, Reply>>,
    R: Rules,
    R::Exchange: Exchange,
    F: Fn(Books<R::Exchange>, Request<RecvStream>, SendResponse<Bytes>) -> T,
    T: Future<Output = ()>,
{
    /// Ends with the cause, and true if the client's connection is still open for its last words.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Cause, bool)> {
        let link = Arc::clone(&self.link);
        link.attend(cx.waker());
        link.flags.inside.store(true, SeqCst);
        let waker = Waker::from(Arc::clone(&link));
        let end = self.poll_rounds(&mut Context::from_waker(&waker));
        link.flags.inside.store(false, SeqCst);
        // Looked at behind `inside`, so that what another thread asks for in between is not lost.
        if end.is_pending() && link.flags.again.swap(false, SeqCst) {
            cx.waker().wake_by_ref();
        }
        end
    }

    fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Poll<(Cause, bool)> {
        for _ in 0..ROUNDS {
            self.link.flags.again.store(false, SeqCst);
            self.link.client.begin_round(SHARE);
            self.link.server.begin_round(SHARE);
            if self.link.flags.draining.load(Relaxed) {
                self.leave();
            }
            if let Poll::Ready(cause) = self.poll_client(cx) {
                return Poll::Ready((self.named(cause), false));
            }
            if let Some(flood) = self.flood() {
                self.client.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready((flood, true));
            }
            // A GOAWAY is written by the next look at the client, and so are requests accepted that found the set full.
            let mut again = self.upstream.poll(cx, &self.link) && self.leave();
            let full = self.is_full();
            while let Poll::Ready(Some(())) = Pin::new(&mut self.streams).poll_next(cx) {}
            again |= full && !self.is_full();
            again |= self.link.client.is_exhausted() || self.link.server.is_exhausted();
            if !again && !self.link.flags.again.load(SeqCst) {
                return Poll::Pending;
            }
        }
        self.link.flags.again.store(true, SeqCst);
        Poll::Pending
    }

    fn is_full(&self) -> bool {
        self.streams.len() >= self.link.settings.streams as usize
    }

    /// Begins GOAWAY, 2^31 - 1 at first, the last stream a round trip later. True for the first call.
    fn leave(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.draining, true);
        if first {
            self.client.graceful_shutdown();
        }
        first
    }

    /// Accepts what the client sent, as far as the streams under way allow.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        self.upstream.offer_extended_connect(&mut self.client);
        // The crate counts a stream that was reset no more, and the set still holds it until its next poll.
        while !self.is_full() {
            match self.client.poll_accept(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Cause::Closed),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Cause::of(&error)),
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
            }
        }
        self.client
            .poll_closed(cx)
            .map(|closed| closed.err().map_or(Cause::Closed, |error| Cause::of(&error)))
    }

    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.requests += 1;
        let (head, body) = request.into_parts();
        if let Some(rule) = Malformed::of(&head) {
            self.rules.refused(&head, rule);
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return;
        }
        let exchange = self.rules.begin(&head);
        let books = Books::new(exchange, Arc::clone(&self.link));
        self.streams.push((self.run)(books, Request::from_parts(head, body), respond));
    }

    fn flood(&self) -> Option<Cause> {
        if self.link.client.flooded.load(Relaxed) {
            return Some(Cause::ControlFlood);
        }
        self.link.flags.reset_too_often.load(Relaxed).then_some(Cause::ResetFlood)
    }

    fn named(&self, cause: Cause) -> Cause {
        // A client that got the GOAWAY may close before the last words to it are written.
        let cut = matches!(cause, Cause::Io(_)) && self.draining && self.streams.is_empty();
        match self.link.upstream() {
            _ if cause != Cause::Closed && !cut => cause,
            Server::Away | Server::Ready(_) => Cause::Closed,
            Server::Leaving | Server::Failed(_) | Server::Broken(_) => Cause::ServerGone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Rules, Server, Session};
    use crate::rules::{Decision, Edits, Exchange};
    use crate::settings::Settings;
    use bytes::Bytes;
    use http::request::Parts;
    use std::sync::Arc;

    struct Open;

    impl Rules for Open {
        type Exchange = Open;

        fn begin(&self, _: &Parts) -> Open {
            Open
        }
    }

    impl Exchange for Open {
        fn decide(&mut self, _: &Parts) -> Decision {
            Decision::Pass(Edits::default())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_session_leaves_nothing() {
        let (near, far) = tokio::io::duplex(65_536);
        let (upstream, server) = tokio::io::duplex(65_536);
        let session = Session::new(Open, Settings::default());
        let handle = session.handle();
        let relay = tokio::spawn(session.relay(far, Bytes::new(), async { Ok(upstream) }));
        let serving = tokio::spawn(async move {
            let mut connection = h2::server::handshake(server).await.expect("a handshake");
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_response(http::Response::new(()), true).expect("the connection stands");
            }
        });
        let (mut sender, connection) = h2::client::handshake(near).await.expect("a handshake");
        let client = tokio::spawn(connection);
        let request = http::Request::get("http://web/").body(()).expect("a request");
        let (response, _) = sender.send_request(request, true).expect("the connection stands");
        drop(response.await.expect("a response"));
        // Idle, so that nothing but the end itself lets go.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        relay.abort();
        assert!(relay.await.is_err());
        assert!(matches!(handle.0.upstream(), Server::Leaving), "the handle holds no connection");
        // A pipe keeps the waker of an end that is gone, so both pipes have to go.
        drop(sender);
        let _ = client.await;
        let _ = serving.await;
        assert_eq!(Arc::strong_count(&handle.0), 1);
    }
}
