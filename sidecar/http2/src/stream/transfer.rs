// SPDX-License-Identifier: Apache-2.0
//! Both directions of a request that was sent: informational responses, the response, bodies, trailers, resets.
//!
//! The directions end independently. A server may answer early and take no more of the request's body: its answer is still
//! handed on as a whole, and the client's stream is reset with NO_ERROR behind it.

use super::body::{Body, Flow, Source};
use super::books::{Books, Stop};
use super::ledger::Ledger;
use crate::reply::{Request as Form, reported_grpc_status};
use crate::rules::{Exchange, Failure, How, Peer};
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Response, StatusCode};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep};

/// Request under way between both sides.
pub(crate) struct Transfer {
    /// From client to server.
    up: Body,
    /// From server to client, once the response began.
    down: Option<Body>,
    response: ResponseFuture,
    respond: SendResponse<Bytes>,
    form: Form,
    interim: u32,
    /// Made for a response that waits for its budget.
    wait: Option<Pin<Box<Sleep>>>,
}

/// Failure on the server's side, as the client is told.
enum Fault {
    /// The server reset its stream.
    Reset(Reason),
    /// The server's GOAWAY says that the request was not looked at.
    Refused,
    Failure(Failure),
}

impl Fault {
    fn of(error: &h2::Error, flooded: bool) -> Self {
        match error.reason() {
            Some(reason) if error.is_remote() && error.is_reset() => Self::Reset(reason),
            // The crate fails a stream by the server's GOAWAY only if its number is above the last one that the server took.
            Some(_) if error.is_remote() => Self::Refused,
            Some(_) => Self::Failure(Failure::Protocol),
            None if flooded => Self::Failure(Failure::Protocol),
            None => Self::Failure(Failure::Died),
        }
    }
}

impl Transfer {
    pub(super) fn new(up: Body, response: ResponseFuture, respond: SendResponse<Bytes>, form: Form) -> Self {
        Self { up, down: None, response, respond, form, interim: 0, wait: None }
    }

    pub(super) fn poll<E: Exchange>(&mut self, cx: &mut Context<'_>, books: &mut Books<E>) -> Poll<How> {
        let overdue = books.attend(cx);
        if let Some(how) = self.left(cx) {
            return Poll::Ready(how);
        }
        if let Some(reply) = overdue {
            self.up.to.send_reset(Reason::CANCEL);
            return Poll::Ready(self.fail(books, Stop::Answer(reply, How::Overdue), Reason::CANCEL));
        }
        if let Some(how) = self.poll_up(cx, books) {
            return Poll::Ready(how);
        }
        if self.down.is_none()
            && let Some(how) = self.poll_response(cx, books)
        {
            return Poll::Ready(how);
        }
        self.poll_down(cx, books)
    }

    /// Looks if the client reset its stream, and resets the server's with the same code.
    fn left(&mut self, cx: &mut Context<'_>) -> Option<How> {
        let reset = match &mut self.down {
            Some(down) => down.to.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        let Poll::Ready(reset) = reset else { return None };
        let Ok(reason) = reset else {
            self.up.to.send_reset(Reason::CANCEL);
            return Some(How::ClientGone);
        };
        // A stream that the crate reset, because the client broke a rule, is the client's fault: the server's code is neutral.
        let own = self.up.was_left_by_sender(cx);
        self.up.to.send_reset(if own { reason } else { Reason::CANCEL });
        // Clients of gRPC end the rest of a request so when they have the whole response.
        let whole = self.down.as_ref().is_some_and(Body::is_over);
        Some(if whole { How::Complete } else { How::ClientReset(reason) })
    }

    fn poll_up<E: Exchange>(&mut self, cx: &mut Context<'_>, books: &mut Books<E>) -> Option<How> {
        if self.up.is_over() {
            return None;
        }
        let blocked = books.is_blocked(Peer::Server);
        let flow = self.up.poll(cx, blocked, Ledger { books, from: Peer::Client, wait: &mut None });
        books.received(&mut self.up.source);
        match flow {
            // What the server says in its response, or by a reset, is looked at next.
            Poll::Pending | Poll::Ready(Flow::Done | Flow::Sink) => None,
            Poll::Ready(Flow::Source(error)) => {
                let reason = error.reason().filter(|_| error.is_remote()).unwrap_or(Reason::CANCEL);
                self.up.to.send_reset(reason);
                Some(error.reason().map_or(How::ClientGone, How::ClientReset))
            }
        }
    }

    /// Hands on informational responses and the head of the response.
    fn poll_response<E: Exchange>(&mut self, cx: &mut Context<'_>, books: &mut Books<E>) -> Option<How> {
        while let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            let Ok(interim) = interim else { break };
            self.interim += 1;
            // Switching protocols does not exist in HTTP/2.
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS
                || self.interim > books.link.settings.interim
            {
                self.up.to.send_reset(Reason::PROTOCOL_ERROR);
                return Some(self.failed(books, Failure::Protocol));
            }
            // A client that has left is seen at the next poll.
            if self.respond.send_informational(interim).is_ok() {
                books.exchange.moved(Peer::Server, 0);
            }
        }
        match Pin::new(&mut self.response).poll(cx) {
            Poll::Pending => None,
            Poll::Ready(Ok(response)) => self.begin(response, books),
            Poll::Ready(Err(error)) => Some(self.fault(books, &error)),
        }
    }

    fn begin<E: Exchange>(&mut self, response: Response<RecvStream>, books: &mut Books<E>) -> Option<How> {
        let (head, body) = response.into_parts();
        books.outcome.status = Some(head.status);
        books.outcome.grpc_status = reported_grpc_status(&head.headers);
        books.outcome.responded = Some(Instant::now());
        books.exchange.responded(&head);
        let over = body.is_end_stream();
        match self.respond.send_response(Response::from_parts(head, ()), over) {
            Ok(to) => {
                self.down = Some(Body::new(Source::new(body), to));
                books.exchange.moved(Peer::Server, 0);
                None
            }
            Err(_) => {
                self.up.to.send_reset(Reason::CANCEL);
                Some(How::ClientGone)
            }
        }
    }

    fn poll_down<E: Exchange>(&mut self, cx: &mut Context<'_>, books: &mut Books<E>) -> Poll<How> {
        let Some(down) = &mut self.down else { return Poll::Pending };
        if !down.is_over() {
            let blocked = books.is_blocked(Peer::Client);
            let ledger = Ledger { books, from: Peer::Server, wait: &mut self.wait };
            match std::task::ready!(down.poll(cx, blocked, ledger)) {
                Flow::Done => (),
                Flow::Source(error) => return Poll::Ready(self.fault(books, &error)),
                Flow::Sink => {
                    let how = self.left(cx).unwrap_or_else(|| self.failed(books, Failure::Protocol));
                    return Poll::Ready(how);
                }
            }
        }
        // A server may reset the rest of the request behind its answer, while the client is silent.
        if self.up.is_over() || self.up.to.poll_reset(cx).is_ready() {
            return Poll::Ready(How::Complete);
        }
        Poll::Pending
    }

    /// Tells the client how the server's stream ended.
    fn fault<E: Exchange>(&mut self, books: &mut Books<E>, error: &h2::Error) -> How {
        match Fault::of(error, books.link.server.flooded.load(Relaxed)) {
            Fault::Reset(reason) => self.fail(books, Stop::Reset(reason, How::ServerReset(reason)), reason),
            Fault::Refused => {
                self.fail(books, Stop::Reset(Reason::REFUSED_STREAM, How::Refused), Reason::REFUSED_STREAM)
            }
            Fault::Failure(failure) => self.failed(books, failure),
        }
    }

    fn failed<E: Exchange>(&mut self, books: &mut Books<E>, failure: Failure) -> How {
        if self.down.is_some() {
            return self.fail(books, Stop::Left(How::Failed(failure)), Reason::INTERNAL_ERROR);
        }
        let reply = books.exchange.failed(failure);
        self.fail(books, Stop::Answer(reply, How::Failed(failure)), Reason::INTERNAL_ERROR)
    }

    /// Ends the client's stream: as asked for before the response, by a reset after its head.
    fn fail<E: Exchange>(&mut self, books: &mut Books<E>, stop: Stop, reason: Reason) -> How {
        match &mut self.down {
            None => books.stop(stop, &mut self.respond, &self.form),
            Some(down) => {
                down.to.send_reset(reason);
                match stop {
                    Stop::Answer(_, how) | Stop::Reset(_, how) | Stop::Left(how) => how,
                }
            }
        }
    }
}
