// SPDX-License-Identifier: Apache-2.0
//! A connection served as HTTP/1: a server once a request asks for one, then messages in both directions.

use super::Carry;
use super::first_request::{First, first_request, patience};
use super::linger::{Linger, say_last};
use super::session::{Session, reason_of};
use super::tcp::{self, Tcp};
use crate::cluster::connect::ConnectError;
use crate::cluster::stream::Stream;
use crate::connection::admission::Admitted;
use crate::connection::downstream::Downstream;
use crate::connection::error::ForwardError;
use crate::connection::tls;
use crate::observe::close_reason::CloseReason;
use crate::relay::http::{HttpGate, HttpMetrics, Refusal};
use crate::relay::{End, Gate, Relay, Side, Watch};
use crate::tls::handshake::Shaken;
use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// A connection with its client, and with its server until the exchange is over. Fields are dropped in this order, as those of
/// [`Tcp`] are.
pub(crate) struct Http {
    client: Stream,
    server: Option<Stream>,
    relay: Relay<HttpGate>,
    linger: Option<Linger>,
    session: Session,
}

/// A message that broke a rule.
#[derive(Debug, thiserror::Error)]
#[error("{}: {rule}", .rule.name())]
struct Refused {
    rule: Refusal,
    by: Side,
}

/// Waits for the first request and connects to a server; `None` once the connection has ended.
pub(crate) async fn connect(
    mut downstream: Downstream,
    mut client: TcpStream,
    mut admitted: Admitted,
) -> Option<Carry> {
    let metrics = Arc::clone(&downstream.shared().metrics.http[downstream.info().direction]);
    let until = Instant::now() + patience(admitted.route.listener.plan.idle_timeout);
    let recognised = timeout_at(until, recognise(&mut downstream, &mut client, &mut admitted)).await;
    let session = match recognised {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => {
            downstream.refuse(client, &error);
            return None;
        }
        Err(_) => return silent(downstream, Stream::Plain(client), &metrics).await,
    };
    let mut client = Stream::of(client, session);
    let mut gate = HttpGate::new(Arc::clone(&metrics));
    match timeout_at(until, first_request(&mut client, &mut gate)).await {
        Ok(Ok(First::Request)) => match tcp::connect(&mut downstream, None, admitted).await {
            Ok(connected) => {
                let (server, session) = connected.begin(downstream);
                let relay = Relay::through(gate);
                let http = Http { client, server: Some(server), relay, linger: None, session };
                return Some(Carry::Messages(Box::new(http)));
            }
            Err(error) => no_server(downstream, client, gate, error).await,
        },
        Ok(Ok(First::Http2(bytes))) => match tcp::connect(&mut downstream, None, admitted).await {
            Ok(connected) => {
                metrics.unseen.inc();
                return Some(Carry::Bytes(Tcp::behind(downstream, client, connected, bytes)));
            }
            Err(error) => reset(downstream, client, error.reason(), &error),
        },
        Ok(Ok(First::Refused)) => {
            say_last(&mut client, &gate.take_ready(Side::Server).unwrap_or_default()).await;
            drop(client);
            let refused = Refused::of(&gate);
            downstream.end(refused.as_ref().map_or(CloseReason::Ok, Refused::reason), dynamic(&refused));
        }
        Ok(Ok(First::Gone)) => {
            say_last(&mut client, &[]).await;
            drop(client);
            downstream.end(CloseReason::Ok, None);
        }
        Ok(Err(error)) => {
            let reason = tls::reason_of(&error, CloseReason::ClientReset);
            reset(downstream, client, reason, &error);
        }
        Err(_) => return silent(downstream, client, &metrics).await,
    }
    None
}

/// Finds out if the client speaks TLS, and answers a member's handshake. A client of HTTP speaks first, so no server is needed.
async fn recognise(
    downstream: &mut Downstream,
    client: &mut TcpStream,
    admitted: &mut Admitted,
) -> Result<Option<Box<Shaken>>, ForwardError> {
    let session = admitted.session.take();
    let running = &admitted.running;
    match tls::unknown(&running.plan, &admitted.route.listener.plan).filter(|_| session.is_none()) {
        Some(gate) => tls::recognise(downstream, client, None, running, gate).await,
        None => Ok(session),
    }
}

/// Ends a connection whose client sent no whole request in time. It is not reset: clients open spare connections.
async fn silent(downstream: Downstream, mut client: Stream, metrics: &HttpMetrics) -> Option<Carry> {
    metrics.silent.inc();
    say_last(&mut client, &[]).await;
    drop(client);
    downstream.end(CloseReason::IdleTimeout, None);
    None
}

/// Answers the first request in place of a server, or resets the client where the connection was refused, not the request.
async fn no_server(downstream: Downstream, mut client: Stream, mut gate: HttpGate, error: ForwardError) {
    let rule = match &error {
        ForwardError::Connect(ConnectError::Full { .. }) => Refusal::Overloaded,
        ForwardError::Connect(ConnectError::NoEndpoint(_)) => Refusal::NoEndpoint,
        ForwardError::Connect(ConnectError::Dial(_) | ConnectError::Tls(_)) => Refusal::Unreachable,
        _ => return reset(downstream, client, error.reason(), &error),
    };
    gate.fail(rule);
    say_last(&mut client, &gate.take_ready(Side::Server).unwrap_or_default()).await;
    drop(client);
    downstream.end(error.reason(), Some(&error));
}

fn reset(downstream: Downstream, client: Stream, reason: CloseReason, error: &dyn Error) {
    client.reset();
    drop(client);
    downstream.end(reason, Some(error));
}

fn dynamic(error: &Option<impl Error + 'static>) -> Option<&dyn Error> {
    error.as_ref().map(|error| error as &dyn Error)
}

// === impl Refused ===

impl Refused {
    /// Returns the refusal that ended the connection, and logs it.
    fn of(gate: &HttpGate) -> Option<Self> {
        let (rule, by) = gate.refused()?;
        tracing::debug!(rule = rule.name(), by = ?by, "a message was refused: {rule}");
        Some(Self { rule, by })
    }

    fn reason(&self) -> CloseReason {
        match self.by {
            Side::Client => CloseReason::HttpRequest,
            Side::Server => CloseReason::HttpResponse,
        }
    }
}

// === impl Http ===

impl Http {
    /// Relays until the connection is over.
    pub(super) fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End<CloseReason>> {
        let Self { client, server, relay, linger, session } = self;
        if let Some(to) = server {
            let end = ready!(relay.poll(cx, client, to, session));
            if !matches!(end, End::Closed) || !relay.gate().is_to_linger() {
                return Poll::Ready(end);
            }
            // Nothing more is for the server; its socket does not wait for the client.
            if relay.gate().leaves_server_waiting() {
                to.reset();
            }
            session.server_closed();
            *server = None;
        }
        if let Poll::Ready(stop) = session.poll_stop(cx) {
            return Poll::Ready(End::Stopped(stop));
        }
        ready!(linger.get_or_insert_with(Linger::new).poll(cx, client));
        Poll::Ready(End::Closed)
    }

    /// Closes both sides and writes the closing record.
    pub(super) fn end(self, end: End<CloseReason>) {
        let Self { client, server, relay, linger: _, session } = self;
        let gate = relay.gate();
        let refused = Refused::of(gate).filter(|_| matches!(end, End::Closed));
        let (reason, error) = reason_of(end);
        if reason != CloseReason::Ok {
            client.reset();
        }
        if let Some(server) = server.as_ref()
            && (reason != CloseReason::Ok || gate.leaves_server_waiting())
        {
            server.reset();
        }
        let error = dynamic(&error).or(dynamic(&refused));
        session.end(client, server, refused.as_ref().map_or(reason, Refused::reason), error);
    }

    #[cfg(test)]
    pub(super) fn cluster(&self) -> &Arc<crate::cluster::registry::ClusterState> {
        self.session.cluster()
    }
}
