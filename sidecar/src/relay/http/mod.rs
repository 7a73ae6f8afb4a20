// SPDX-License-Identifier: Apache-2.0
//! HTTP/1 as a gate of the relay: the books of [`culvert_http`], and the bytes that wait for a decision of theirs.
//!
//! ```text
//! read ─▶ kept bytes in front ─▶ steps of the exchange ─▶ pass │ drop │ keep: part of a head, or a client that is held
//! ```
//! Heads are read where they lie in the scratch buffer, and passed on as they were received. An idle connection keeps nothing.

mod as_gate;
mod lane;
mod metrics;
mod preface;
mod rules;

pub(crate) use metrics::{Class, Http2Rule, HttpMetrics, Local, Rule};
pub(crate) use preface::{Preface, preface};
pub(crate) use rules::{Decision, Rules};

use super::Side;
use super::gate::Gate;
use culvert_http::edit::edited;
use culvert_http::{Exchange, RequestHead, ResponseHead, Step, Verdict, Words};
use lane::{Fin, Lane};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use culvert_http::Refusal;
/// Bytes behind a local answer that are read and dropped, so that the answer arrives.
pub(crate) use culvert_http::reply::{LINGER, LINGER_BYTES};

/// Gate of a connection whose messages are HTTP/1.
#[derive(Debug)]
pub(crate) struct HttpGate<R> {
    exchange: Exchange,
    rules: R,
    /// Answers to declined requests, in the order of these.
    declined: VecDeque<Words>,
    /// The time at which a request that waits is tried again.
    delayed: Option<Instant>,
    /// The time at which more of a response may pass.
    throttled: Option<Instant>,
    client: Lane,
    server: Lane,
    /// Counted in: the connection's direction.
    metrics: Arc<HttpMetrics>,
    /// The rule that ends the connection, now or once requests are answered, and the side that broke it.
    refused: Option<(Refusal, Side)>,
    end: End,
    /// True once the client's FIN was seen.
    client_fin: bool,
    /// True if a response that had begun was cut.
    cut: bool,
    stirred: bool,
}

/// End of the connection, once the exchange has said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// Both sides have said all.
    Over,
    /// A message was refused.
    Refused,
}

/// A step of either side.
enum Next {
    More,
    Hold,
    Forward(usize),
    Drop(usize),
    /// Forward these bytes in place of so many.
    Replace(usize, Vec<u8>),
}

/// Result of all steps that some bytes allow.
struct Taken {
    /// Bytes at the front that pass.
    forward: usize,
    /// Bytes that pass behind them.
    behind: Vec<u8>,
    /// Place of the first byte that waits.
    rest: usize,
    holds: bool,
}

// === impl HttpGate ===

impl<R: Rules> HttpGate<R> {
    pub(crate) fn new(metrics: Arc<HttpMetrics>, rules: R) -> Self {
        Self {
            exchange: Exchange::default(),
            rules,
            declined: VecDeque::new(),
            delayed: None,
            throttled: None,
            client: Lane::default(),
            server: Lane::default(),
            metrics,
            refused: None,
            end: End::Open,
            client_fin: false,
            cut: false,
            stirred: false,
        }
    }

    /// Takes bytes of a client for which there is no server yet. Those that pass are ready for it.
    pub(crate) fn offer(&mut self, bytes: &mut [u8]) {
        let forward = self.pass(Side::Client, bytes);
        self.client.put_ready_before(&bytes[..forward]);
    }

    /// Returns the rules.
    pub(crate) fn rules(&self) -> &R {
        &self.rules
    }

    /// Returns true from the first byte of a request to the end of its head.
    ///
    /// A head that is whole and has to wait is not the client's delay.
    pub(crate) fn is_in_request_head(&self) -> bool {
        self.exchange.is_in_request_head() && !self.client.holds && self.exchange.refused().is_none()
    }

    /// Returns the rules, for another use.
    pub(crate) fn into_rules(self) -> R {
        self.rules
    }

    /// Returns the rules.
    pub(crate) fn rules_mut(&mut self) -> &mut R {
        &mut self.rules
    }

    /// Returns the time at which [`Self::go_on`] is due: a side waits for it.
    pub(crate) fn waits_until(&self) -> Option<Instant> {
        let delayed = self.delayed.filter(|_| self.client.holds);
        let throttled = self.throttled.filter(|_| self.server.holds);
        delayed.into_iter().chain(throttled).min()
    }

    /// Tries the sides again that waited for a time. The relay is to be polled then.
    pub(crate) fn go_on(&mut self, now: Instant) {
        if self.delayed.is_some_and(|at| at <= now) {
            self.delayed = None;
            self.retry(Side::Client);
            self.settle(Side::Client);
        }
        if self.throttled.is_some_and(|at| at <= now) {
            self.throttled = None;
            self.retry(Side::Server);
            self.settle(Side::Server);
        }
    }

    /// Ends the connection by a limit of time, with an answer where none has begun.
    pub(crate) fn is_late(&mut self, rule: Refusal) {
        let by = match rule {
            Refusal::HeaderTimeout if self.is_in_request_head() => {
                self.exchange.head_is_late();
                Side::Client
            }
            Refusal::HeaderTimeout => return,
            _ if self.exchange.under_way() > 0 => {
                self.cut = self.exchange.is_in_response();
                self.exchange.fail(rule);
                Side::Server
            }
            _ => return,
        };
        self.settle(by);
    }

    /// Returns true if a limit of time ended a response that had begun: its end must not look like one in good order.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    /// Ends the connection at the next border between two messages.
    pub(crate) fn finish(&mut self) {
        self.exchange.finish();
        self.settle(Side::Server);
    }

    /// Returns true once a request passed: a server is to be dialled.
    pub(crate) fn asks(&self) -> bool {
        !self.client.is_ready_empty()
    }

    /// Answers the first request, as there is no server.
    pub(crate) fn fail(&mut self, rule: Refusal) {
        self.exchange.fail(rule);
        self.settle(Side::Server);
    }

    /// Returns true if the gate ended the connection.
    pub(crate) fn is_over(&self) -> bool {
        self.end != End::Open
    }

    /// Returns the rule that ended the connection, and the side that broke it.
    pub(crate) fn refused(&self) -> Option<(Refusal, Side)> {
        self.refused.filter(|_| self.end == End::Refused)
    }

    /// Returns true if the server has part of an exchange: its close must not look like an end in good order.
    pub(crate) fn leaves_server_waiting(&self) -> bool {
        self.end == End::Refused && self.exchange.under_way() > 0
    }

    /// Returns true if the client is to be read on for a moment before its socket is closed.
    pub(crate) fn is_to_linger(&self) -> bool {
        self.is_over() && !self.client_fin
    }

    /// Returns true if no bytes are kept.
    #[cfg(test)]
    pub(super) fn owns_nothing(&self) -> bool {
        self.client.is_empty() && self.server.is_empty()
    }

    /// Takes all steps that the bytes allow, and moves those that pass to the front.
    fn run(&mut self, from: Side, bytes: &mut [u8]) -> Taken {
        let (mut forward, mut at) = (0, 0);
        let mut behind = Vec::new();
        loop {
            let holds = match self.step(from, &bytes[at..]) {
                Next::More => false,
                Next::Hold => true,
                Next::Drop(n) => {
                    at += n;
                    continue;
                }
                Next::Replace(n, head) => {
                    behind.extend(head);
                    at += n;
                    continue;
                }
                Next::Forward(n) => {
                    if !behind.is_empty() {
                        behind.extend_from_slice(&bytes[at..at + n]);
                        at += n;
                    } else {
                        if forward < at {
                            bytes.copy_within(at..at + n, forward);
                        }
                        (forward, at) = (forward + n, at + n);
                    }
                    if from == Side::Server {
                        self.count_under_way();
                        self.retry_held_client();
                    }
                    continue;
                }
            };
            return Taken { forward, behind, rest: at, holds };
        }
    }

    fn step(&mut self, from: Side, bytes: &[u8]) -> Next {
        match from {
            Side::Client => match self.exchange.client(bytes) {
                Step::More => Next::More,
                Step::Hold => Next::Hold,
                Step::Forward(n) => {
                    self.rules.body(from, n as u64);
                    Next::Forward(n)
                }
                Step::Drop(n) => Next::Drop(n),
                Step::Head(head) => self.decide(&head),
            },
            Side::Server => match self.allowed(bytes).map(|bytes| self.exchange.server(bytes)) {
                None => Next::Hold,
                Some(step) => self.serve(step),
            },
        }
    }

    fn serve(&mut self, step: Step<ResponseHead<'_>>) -> Next {
        match step {
            Step::More => Next::More,
            Step::Hold => Next::Hold,
            Step::Forward(n) => {
                self.rules.body(Side::Server, n as u64);
                Next::Forward(n)
            }
            Step::Drop(n) => Next::Drop(n),
            Step::Head(head) => {
                self.metrics.answered(head.status);
                self.rules.response(&head);
                // A client that is not told would send its next request on this connection, and lose it.
                let says = self.exchange.ends_unsaid(&head);
                self.exchange.admit_response(&head);
                let length = head.bytes.len();
                if !says {
                    return Next::Forward(length);
                }
                let lines = &head.bytes[..length - 2];
                Next::Replace(length, [lines, b"connection: close\r\n\r\n"].concat())
            }
        }
    }

    /// Lets the rules decide about a request.
    fn decide(&mut self, head: &RequestHead<'_>) -> Next {
        match self.rules.request(head) {
            Decision::Pass => {
                let mut bytes = Vec::new();
                match edited(head, self.rules.edits(), &mut bytes) {
                    None => {
                        self.exchange.admit_request(head);
                        Next::Forward(head.bytes.len())
                    }
                    Some(new) => {
                        self.exchange.admit_request(&new);
                        Next::Replace(head.bytes.len(), bytes)
                    }
                }
            }
            Decision::Answer(words) => {
                self.exchange.decline_request(head);
                if words.last {
                    self.exchange.finish();
                }
                self.declined.push_back(words);
                Next::Drop(head.bytes.len())
            }
            Decision::Wait(until) => {
                self.delayed = Some(until);
                Next::Hold
            }
        }
    }

    /// Says the answers to declined requests whose turn it is. What waited for them goes on, the client once they are taken.
    fn answer_declined(&mut self) {
        loop {
            let mut said = false;
            while let Verdict::Reply { body, keeps } = self.exchange.verdict() {
                let Some(words) = self.declined.pop_front() else { return };
                self.metrics.answered(words.status);
                let mut bytes = Vec::new();
                words.write(&mut bytes, body, keeps);
                self.server.put_ready(&bytes);
                self.exchange.replied();
                self.count_under_way();
                said = true;
            }
            if !said {
                return;
            }
            self.retry(Side::Server);
        }
    }

    /// Tells the rules how many requests are under way.
    fn count_under_way(&mut self) {
        self.rules.under_way(self.exchange.under_way(), self.exchange.is_request_whole());
    }

    /// Returns the bytes of the server that may be looked at now; `None` if they have to wait.
    fn allowed<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        if bytes.is_empty() || !self.rules.is_limited() || !self.exchange.is_in_response() {
            return Some(bytes);
        }
        match self.rules.take_budget(bytes.len()) {
            Ok(most) => Some(&bytes[..bytes.len().min(most)]),
            Err(until) => {
                self.throttled = Some(until);
                None
            }
        }
    }

    /// Tries a held client again: its next request belongs before the server's next bytes, which may be the answer.
    fn retry_held_client(&mut self) {
        // Answers that wait are its backpressure: without it a client that reads none could fill the memory with them.
        if self.client.holds && self.delayed.is_none() && self.server.is_ready_empty() {
            self.retry(Side::Client);
        }
    }

    /// Tries the bytes of a held side again.
    fn retry(&mut self, side: Side) {
        if !self.lane(side).holds {
            return;
        }
        let (ready, mut waiting) = self.lane_mut(side).take();
        let Taken { forward, behind, rest, holds } = self.run(side, &mut waiting);
        let lane = self.lane_mut(side);
        lane.put_back(ready, [&waiting[..forward], &behind], &waiting[rest..]);
        lane.holds = holds;
        let fin = !holds && lane.fin == Fin::Waits;
        if fin {
            lane.forget();
            lane.fin = Fin::Due;
        }
        self.stirred |= forward > 0 || !behind.is_empty() || !holds;
        match side {
            Side::Client if fin => self.exchange.client_fin(),
            Side::Server if fin => self.exchange.server_fin(),
            _ => {}
        }
        self.note_refusal(side);
    }

    fn note_refusal(&mut self, from: Side) {
        let rule = self.exchange.refused();
        if rule != self.refused.map(|(rule, _)| rule) {
            self.refused = rule.map(|rule| (rule, from));
        }
    }

    /// Looks for the end of the connection behind a step of this side.
    fn settle(&mut self, from: Side) {
        if self.is_over() {
            return;
        }
        self.note_refusal(from);
        self.answer_declined();
        self.count_under_way();
        self.end = match self.exchange.verdict() {
            Verdict::Go | Verdict::Reply { .. } => return,
            Verdict::Over => {
                self.client.fin = Fin::Due;
                End::Over
            }
            Verdict::Answer(reply) => {
                self.metrics.answered(reply.status);
                self.metrics.refused(reply.rule);
                self.rules.refused(reply.rule, Some(reply.status));
                let mut bytes = Vec::with_capacity(culvert_http::reply::MAX_REPLY);
                reply.write(&mut bytes);
                self.server.forget();
                self.server.put_ready(&bytes);
                End::Refused
            }
            Verdict::Close(rule) => {
                self.metrics.refused(rule);
                self.rules.refused(rule, None);
                self.server.forget();
                End::Refused
            }
        };
        self.client.forget();
        self.server.fin = Fin::Due;
        self.stirred = true;
    }

    fn lane(&self, side: Side) -> &Lane {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    fn lane_mut(&mut self, side: Side) -> &mut Lane {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}
