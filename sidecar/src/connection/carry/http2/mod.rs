// SPDX-License-Identifier: Apache-2.0
//! A connection served as HTTP/2: a session from the client's preface on, and a server once a request asks for one.

mod begin;
mod counted;
mod ends;
mod heads;
mod owner;

pub(super) use begin::{Preface, connect};

use super::session::Session;
use crate::connection::tls;
use crate::observe::close_reason::CloseReason;
use crate::observe::traffic_log::HttpTraffic;
use crate::relay::http::{Http2Rule, HttpMetrics};
use crate::relay::{End, Watch};
use counted::Tally;
use culvert_http2::{Cause, Failure, Handle};
use owner::Shared;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// A session between a client and, once a request asked for it, a server. It owns both sides.
struct Running {
    relay: Pin<Box<dyn Future<Output = culvert_http2::End> + Send>>,
    handle: Handle,
    shared: Arc<Shared>,
    tally: Arc<Tally>,
    /// The time at which no more requests are taken.
    old: Option<Instant>,
    /// True if the client's side is TLS, whose end says if it was cut off.
    is_tls: bool,
    /// True once the client was told that the sidecar drains.
    drains: bool,
}

/// A connection with its session. Fields are dropped in this order, as those of [`super::tcp::Tcp`] are.
pub(crate) struct Http2 {
    running: Running,
    session: Session,
    ended: Option<Cause>,
}

/// An end of a session that is not in order.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("http2_frames: the client broke HTTP/2: {0}")]
    Frames(culvert_http2::Reason),
    #[error("http2_reset_flood: the client reset too many streams in a second")]
    ResetFlood,
    #[error("http2_control_flood: the client sent too many frames of control in a second")]
    ControlFlood,
    #[error("http2_server_frames: the server broke HTTP/2")]
    ServerFrames,
    #[error("no_answer: the server's connection ended while requests were under way")]
    NoAnswer,
    #[error("the client's connection failed: {0}")]
    Client(io::Error),
}

// === impl Ended ===

impl Ended {
    /// Returns the rule that the client broke.
    fn rule(&self) -> Option<Http2Rule> {
        match self {
            Self::Frames(_) => Some(Http2Rule::Frames),
            Self::ResetFlood => Some(Http2Rule::ResetFlood),
            Self::ControlFlood => Some(Http2Rule::ControlFlood),
            Self::ServerFrames | Self::NoAnswer | Self::Client(_) => None,
        }
    }

    fn of(cause: Cause, failure: Option<Failure>) -> Option<Self> {
        Some(match cause {
            // Its preface was read before.
            Cause::Preface => Self::Frames(culvert_http2::Reason::PROTOCOL_ERROR),
            Cause::Client(culvert_http2::Reason::NO_ERROR) => return None,
            Cause::Client(reason) => Self::Frames(reason),
            Cause::ResetFlood => Self::ResetFlood,
            Cause::ControlFlood => Self::ControlFlood,
            Cause::Io(kind) => Self::Client(kind.into()),
            // The client said the last word; what its server did to a stream before is no matter of the connection.
            Cause::Closed => return None,
            Cause::ServerGone => match failure? {
                Failure::Died => Self::NoAnswer,
                Failure::Protocol => Self::ServerFrames,
                Failure::Edits => return None,
            },
        })
    }

    fn reason(&self, is_tls: bool) -> CloseReason {
        match self {
            Self::Frames(_) | Self::ResetFlood | Self::ControlFlood => CloseReason::HttpRequest,
            Self::ServerFrames => CloseReason::HttpResponse,
            Self::NoAnswer => CloseReason::ServerReset,
            Self::Client(error) if is_tls => tls::reason_of(error, CloseReason::ClientReset),
            Self::Client(_) => CloseReason::ClientReset,
        }
    }
}

// === impl Running ===

impl Running {
    /// Goes on with the session.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        if self.shared.take_due() {
            self.handle.sweep();
        }
        if self.old.is_some_and(|old| old <= Instant::now()) {
            self.old = None;
            self.handle.drain();
        }
        self.relay.as_mut().poll(cx).map(|end| end.cause)
    }

    /// Tells the client that the sidecar drains.
    fn drain(&mut self) {
        if !self.drains {
            self.drains = true;
            self.handle.drain();
        }
    }

    /// Returns the time at which it is to be polled, if nothing else leads to it.
    fn due(&self) -> Option<Instant> {
        self.shared.due().into_iter().chain(self.old).min()
    }

    fn metrics(&self) -> &HttpMetrics {
        self.shared.metrics()
    }

    /// Closes both sides, and returns the requests that ended, for the log.
    fn close(self, reason: CloseReason) -> Vec<HttpTraffic> {
        let Self { relay, shared, .. } = self;
        shared.closes(reason);
        drop(relay);
        shared.take_ended()
    }

    /// Returns the reason of an end, which is counted, and the error behind it.
    fn outcome(&self, cause: Cause) -> (CloseReason, Option<Ended>) {
        let ended = Ended::of(cause, self.shared.failure());
        if let Some(rule) = ended.as_ref().and_then(Ended::rule) {
            self.metrics().refused(rule);
        }
        (ended.as_ref().map_or(CloseReason::Ok, |ended| ended.reason(self.is_tls)), ended)
    }
}

// === impl Http2 ===

impl Http2 {
    fn new(running: Running, session: Session) -> Self {
        Self { running, session, ended: None }
    }

    /// Relays until the connection is over.
    pub(super) fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End<CloseReason>> {
        let Self { running, session, ended } = self;
        if let Poll::Ready(stop) = session.poll_stop(cx) {
            return Poll::Ready(End::Stopped(stop));
        }
        // Both sockets are read all the time: there is nothing more to check.
        session.check_due();
        if session.is_draining() {
            running.drain();
        }
        let polled = running.poll(cx);
        if let Some(moved) = running.tally.take() {
            session.moved(moved);
        }
        session.log_requests(running.shared.take_ended());
        match polled {
            Poll::Ready(cause) => {
                *ended = Some(cause);
                Poll::Ready(End::Closed)
            }
            Poll::Pending => {
                session.set_due(running.due());
                Poll::Pending
            }
        }
    }

    /// Closes both sides and writes the closing record.
    pub(super) fn end(self, end: End<CloseReason>) {
        let Self { running, mut session, ended } = self;
        let (reason, error) = match end {
            End::Stopped(reason) => {
                running.tally.cut();
                (reason, None)
            }
            End::Closed | End::Died(..) => running.outcome(ended.unwrap_or(Cause::Closed)),
        };
        session.log_requests(running.close(reason));
        session.end((), reason, error.as_ref().map(|error| error as &dyn Error));
    }

    #[cfg(test)]
    pub(super) fn cluster(&self) -> &Arc<crate::cluster::registry::ClusterState> {
        self.session.cluster()
    }
}

#[cfg(test)]
mod tests;
