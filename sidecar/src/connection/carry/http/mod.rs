// SPDX-License-Identifier: Apache-2.0
//! A connection served as HTTP/1: a server once a request asks for one, then messages in both directions.

mod begin;
mod first_request;
mod linger;
mod requests;

pub(in crate::connection) use begin::connect;

use super::filters::Due;
use super::session::{Session, reason_of};
use crate::cluster::stream::Stream;
use crate::observe::close_reason::CloseReason;
use crate::relay::http::{HttpGate, Refusal};
use crate::relay::{End, Relay, Side, Watch};
use linger::Linger;
use requests::Requests;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::time::{Sleep, sleep_until};

/// The gate of such a connection.
type Gate = HttpGate<Requests>;

/// A connection with its client, and with its server until the exchange is over. Fields are dropped in this order, as those of
/// [`super::tcp::Tcp`] are.
pub(crate) struct Http {
    client: Stream,
    server: Option<Stream>,
    relay: Relay<Gate>,
    /// Made for a request or response that has to wait.
    wait: Option<Pin<Box<Sleep>>>,
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

fn dynamic(error: &Option<impl Error + 'static>) -> Option<&dyn Error> {
    error.as_ref().map(|error| error as &dyn Error)
}

// === impl Refused ===

impl Refused {
    /// Returns the refusal that ended the connection, and logs it.
    fn of(gate: &Gate) -> Option<Self> {
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
    fn new(client: Stream, server: Stream, relay: Relay<Gate>, session: Session) -> Self {
        Self { client, server: Some(server), relay, wait: None, linger: None, session }
    }

    /// Relays until the connection is over.
    pub(super) fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End<CloseReason>> {
        while self.server.is_some() {
            self.keep_time();
            if self.relay.gate().is_cut() {
                return Poll::Ready(End::Stopped(CloseReason::HttpResponse));
            }
            let Self { client, server: Some(server), relay, session, .. } = self else { break };
            let polled = relay.poll(cx, client, server, session);
            let ended = relay.gate_mut().rules_mut().take_ended();
            if !ended.is_empty() {
                session.log_requests(ended);
            }
            match polled {
                Poll::Ready(end) if !matches!(end, End::Closed) || !relay.gate().is_to_linger() => {
                    return Poll::Ready(end);
                }
                Poll::Ready(_) => {
                    // Nothing more is for the server; its socket does not wait for the client.
                    if relay.gate().leaves_server_waiting() {
                        server.reset();
                    }
                    session.server_closed();
                    self.server = None;
                }
                Poll::Pending => {
                    self.note_time();
                    ready!(self.poll_wait(cx));
                }
            }
        }
        if let Poll::Ready(stop) = self.session.poll_stop(cx) {
            return Poll::Ready(End::Stopped(stop));
        }
        ready!(self.linger.get_or_insert_with(Linger::new).poll(cx, &mut self.client));
        Poll::Ready(End::Closed)
    }

    /// Waits until a request or response that waits for a time is due, and lets it go on.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.relay.gate().waits_until() else {
            self.wait = None;
            return Poll::Pending;
        };
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        if wait.deadline() != at.into() {
            wait.as_mut().reset(at.into());
        }
        ready!(wait.as_mut().poll(cx));
        self.wait = None;
        // By its own clock, which may be a little behind.
        self.relay.gate_mut().go_on(at.max(Instant::now()));
        Poll::Ready(())
    }

    /// Ends what took longer than documents allow.
    fn keep_time(&mut self) {
        let gate = self.relay.gate_mut();
        match gate.rules().due().filter(|(at, _)| *at <= Instant::now()) {
            None => {}
            Some((_, Due::Late(rule))) => gate.is_late(rule),
            Some((_, Due::Old)) => {
                gate.rules_mut().is_ending();
                gate.finish();
            }
        }
    }

    /// Notes what moved, and asks for a wake-up when the next limit is reached.
    fn note_time(&mut self) {
        let gate = self.relay.gate_mut();
        let in_head = gate.is_in_request_head();
        if let Some(times) = gate.rules_mut().times() {
            times.note_bytes(self.session.bytes(), in_head, Instant::now());
            self.session.set_due(times.due().map(|(at, _)| at));
        }
    }

    /// Closes both sides and writes the closing record.
    pub(super) fn end(self, end: End<CloseReason>) {
        let Self { client, server, mut relay, wait: _, linger: _, mut session } = self;
        let is_cut = relay.gate().is_cut();
        let refused = Refused::of(relay.gate()).filter(|_| is_cut || matches!(end, End::Closed));
        let (reason, error) = reason_of(end);
        let rules = relay.gate_mut().rules_mut();
        rules.abandon(reason);
        session.log_requests(rules.take_ended());
        let gate = relay.gate();
        if reason != CloseReason::Ok {
            client.reset();
        }
        if let Some(server) = server.as_ref()
            && (reason != CloseReason::Ok || gate.leaves_server_waiting())
        {
            server.reset();
        }
        let error = dynamic(&error).or(dynamic(&refused));
        session.end((client, server), refused.as_ref().map_or(reason, Refused::reason), error);
    }

    #[cfg(test)]
    pub(super) fn cluster(&self) -> &std::sync::Arc<crate::cluster::registry::ClusterState> {
        self.session.cluster()
    }
}
