// SPDX-License-Identifier: Apache-2.0
//! Books of one request. They are closed once, by the end of the request or by being dropped.

use super::body::Source;
use crate::link::Link;
use crate::reply::{Reply, Request as Form};
use crate::rules::{Exchange, How, Outcome, Peer};
use crate::settings::PREMATURE;
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use tokio::time::Instant;

/// End of a request before or in place of the server's response.
pub(super) enum Stop {
    Answer(Reply, How),
    Reset(Reason, How),
    /// The client's stream is over already.
    Left(How),
}

/// Owner's part in a request, and what happened to it so far.
pub(crate) struct Books<E: Exchange> {
    pub(crate) exchange: E,
    pub(crate) outcome: Outcome,
    pub(crate) link: Arc<Link>,
    seat: Option<usize>,
    sweep: u32,
    closed: bool,
}

impl<E: Exchange> Books<E> {
    pub(crate) fn new(exchange: E, link: Arc<Link>) -> Self {
        let now = Instant::now();
        let outcome = Outcome {
            how: How::Dropped,
            status: None,
            grpc_status: None,
            received: 0,
            sent: 0,
            began: now,
            forwarded: None,
            responded: None,
            ended: now,
        };
        link.streams.fetch_add(1, Relaxed);
        let sweep = link.flags.sweep.load(Relaxed);
        Self { exchange, outcome, link, seat: None, sweep, closed: false }
    }

    /// Takes its seat for this poll. Returns the answer if the owner swept and finds the request overdue.
    pub(super) fn attend(&mut self, cx: &Context<'_>) -> Option<Reply> {
        if self.seat.is_none() {
            self.seat = Some(self.link.sit(cx.waker()));
        }
        let sweep = self.link.flags.sweep.load(Relaxed);
        if sweep == self.sweep {
            return None;
        }
        self.sweep = sweep;
        self.exchange.overdue()
    }

    /// Returns true, and notes that the stream waits, while a side's socket takes no bytes.
    pub(super) fn is_blocked(&self, side: Peer) -> bool {
        let blocked = self.link.side(side).blocked.load(Relaxed);
        if blocked && let Some(seat) = self.seat {
            self.link.wait(seat);
        }
        blocked
    }

    /// Takes what the client sent of its request; the owner hears once that this is all of it.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>, request: &mut Source) {
        // An error stays, and is looked at where the stream's end is.
        let _ = request.take_in(cx);
        self.received(request);
    }

    pub(super) fn received(&mut self, request: &mut Source) {
        if request.take_whole() {
            self.exchange.received();
        }
    }

    pub(super) fn forwarded(&mut self) {
        self.link.flags.used.store(true, Relaxed);
        self.outcome.forwarded = Some(Instant::now());
    }

    /// Ends the client's stream in place of the server's response.
    pub(super) fn stop(&mut self, stop: Stop, respond: &mut SendResponse<Bytes>, form: &Form) -> How {
        match stop {
            Stop::Left(how) => how,
            Stop::Reset(reason, how) => {
                respond.send_reset(reason);
                how
            }
            Stop::Answer(reply, how) => {
                self.answer(&reply, respond, form);
                how
            }
        }
    }

    /// Answers the client.
    ///
    /// What it still sends is not read: the crate resets the stream with NO_ERROR behind the answer.
    fn answer(&mut self, reply: &Reply, respond: &mut SendResponse<Bytes>, form: &Form) {
        self.exchange.answered(reply);
        let (response, body) = reply.render(form);
        self.outcome.status = Some(reply.status);
        // The client may have left in between, and then nothing can be said to it.
        if let Ok(mut stream) = respond.send_response(response, body.is_empty())
            && !body.is_empty()
        {
            self.outcome.sent += body.len() as u64;
            let _ = stream.send_data(body, true);
        }
    }

    /// Closes the books.
    pub(super) fn end(&mut self, how: How) {
        if how == How::Complete {
            self.link.completed();
        } else if self.outcome.forwarded.is_some()
            && matches!(how, How::ClientReset(_))
            && self.outcome.began.elapsed() < PREMATURE
        {
            self.link.client_reset();
        }
        self.close(how);
    }

    fn close(&mut self, how: How) {
        self.outcome.how = how;
        self.outcome.ended = Instant::now();
        self.closed = true;
        self.exchange.ended(&self.outcome);
    }
}

impl<E: Exchange> Drop for Books<E> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat {
            self.link.rise(seat);
        }
        self.link.streams.fetch_sub(1, Relaxed);
        if !self.closed {
            let gone = self.link.flags.client_gone.load(Relaxed);
            self.close(if gone { How::ClientGone } else { How::Dropped });
        }
    }
}
