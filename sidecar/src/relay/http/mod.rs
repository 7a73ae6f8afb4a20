// SPDX-License-Identifier: Apache-2.0
//! HTTP/1 as a gate of the relay: the books of [`culvert_http`], and the bytes that wait for a decision of theirs.
//!
//! ```text
//! read ─▶ kept bytes in front ─▶ steps of the exchange ─▶ pass │ drop │ keep: part of a head, or a client that is held
//! ```
//! Heads are read where they lie in the scratch buffer, and passed on as they were received. An idle connection keeps nothing.

mod lane;
mod metrics;
mod preface;

pub(crate) use metrics::HttpMetrics;
pub(crate) use preface::{Preface, preface};

use super::Side;
use super::gate::Gate;
use culvert_http::{Exchange, Step, Verdict};
use lane::{Fin, Lane};
use std::sync::Arc;

pub(crate) use culvert_http::Refusal;
/// Bytes behind a local answer that are read and dropped, so that the answer arrives.
pub(crate) use culvert_http::reply::{LINGER, LINGER_BYTES};

/// Gate of a connection whose messages are HTTP/1.
#[derive(Debug)]
pub(crate) struct HttpGate {
    exchange: Exchange,
    client: Lane,
    server: Lane,
    /// Counted in: the connection's direction.
    metrics: Arc<HttpMetrics>,
    /// The rule that ends the connection, now or once requests are answered, and the side that broke it.
    refused: Option<(Refusal, Side)>,
    end: End,
    /// True once the client's FIN was seen.
    client_fin: bool,
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
}

/// Result of all steps that some bytes allow.
struct Taken {
    /// Bytes at the front that pass.
    forward: usize,
    /// Place of the first byte that waits.
    rest: usize,
    holds: bool,
}

// === impl HttpGate ===

impl HttpGate {
    pub(crate) fn new(metrics: Arc<HttpMetrics>) -> Self {
        Self {
            exchange: Exchange::default(),
            client: Lane::default(),
            server: Lane::default(),
            metrics,
            refused: None,
            end: End::Open,
            client_fin: false,
            stirred: false,
        }
    }

    /// Takes bytes of a client for which there is no server yet. Those that pass are ready for it.
    pub(crate) fn offer(&mut self, bytes: &mut [u8]) {
        let forward = self.pass(Side::Client, bytes);
        self.client.put_ready(&bytes[..forward]);
    }

    /// Returns true once a request passed: a server is to be dialled.
    pub(crate) fn asks(&self) -> bool {
        self.exchange.under_way() > 0
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
        loop {
            let holds = match self.step(from, &bytes[at..]) {
                Next::More => false,
                Next::Hold => true,
                Next::Drop(n) => {
                    at += n;
                    continue;
                }
                Next::Forward(n) => {
                    if forward < at {
                        bytes.copy_within(at..at + n, forward);
                    }
                    (forward, at) = (forward + n, at + n);
                    if from == Side::Server {
                        self.free_client();
                    }
                    continue;
                }
            };
            return Taken { forward, rest: at, holds };
        }
    }

    fn step(&mut self, from: Side, bytes: &[u8]) -> Next {
        match from {
            Side::Client => match self.exchange.client(bytes) {
                Step::More => Next::More,
                Step::Hold => Next::Hold,
                Step::Forward(n) => Next::Forward(n),
                Step::Drop(n) => Next::Drop(n),
                Step::Head(head) => {
                    self.exchange.admit_request(&head);
                    Next::Forward(head.bytes.len())
                }
            },
            Side::Server => match self.exchange.server(bytes) {
                Step::More => Next::More,
                Step::Hold => Next::Hold,
                Step::Forward(n) => Next::Forward(n),
                Step::Drop(n) => Next::Drop(n),
                Step::Head(head) => {
                    self.metrics.answered(head.status);
                    self.exchange.admit_response(&head);
                    Next::Forward(head.bytes.len())
                }
            },
        }
    }

    /// Tries a held client again: its next request belongs before the server's next bytes, which may be the answer.
    fn free_client(&mut self) {
        if !self.client.holds {
            return;
        }
        let (ready, mut waiting) = self.client.take();
        let Taken { forward, rest, holds } = self.run(Side::Client, &mut waiting);
        self.client.put_back(ready, &waiting[..forward], &waiting[rest..]);
        self.client.holds = holds;
        self.stirred |= forward > 0 || !holds;
        if !holds && self.client.fin == Fin::Waits {
            self.client.forget();
            self.client.fin = Fin::Due;
            self.exchange.client_fin();
        }
        self.note_refusal(Side::Client);
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
        self.end = match self.exchange.verdict() {
            // This gate declines no request.
            Verdict::Go | Verdict::Reply { .. } => return,
            Verdict::Over => {
                self.client.fin = Fin::Due;
                End::Over
            }
            Verdict::Answer(reply) => {
                self.metrics.answered(reply.status);
                self.metrics.refused(reply.rule);
                let mut bytes = Vec::with_capacity(culvert_http::reply::MAX_REPLY);
                reply.write(&mut bytes);
                self.server.forget();
                self.server.put_ready(&bytes);
                End::Refused
            }
            Verdict::Close(rule) => {
                self.metrics.refused(rule);
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

impl Gate for HttpGate {
    fn kept(&self, from: Side, buffer: &mut [u8]) -> usize {
        self.lane(from).copy_waiting(buffer)
    }

    fn pass(&mut self, from: Side, bytes: &mut [u8]) -> usize {
        let Taken { forward, rest, holds } = self.run(from, bytes);
        let lane = self.lane_mut(from);
        lane.keep(&bytes[rest..]);
        lane.holds = holds;
        self.settle(from);
        forward
    }

    fn unseen(&self, from: Side) -> u64 {
        match from {
            _ if !self.lane(from).is_empty() => 0,
            Side::Client => self.exchange.client_unseen(),
            Side::Server => self.exchange.server_unseen(),
        }
    }

    fn skip(&mut self, from: Side, bytes: u64) {
        match from {
            Side::Client => self.exchange.client_skip(bytes),
            Side::Server => {
                self.exchange.server_skip(bytes);
                self.free_client();
            }
        }
        self.settle(from);
    }

    fn fin(&mut self, from: Side) -> bool {
        self.client_fin |= from == Side::Client;
        let lane = self.lane_mut(from);
        if lane.holds {
            lane.fin = Fin::Waits;
            return false;
        }
        lane.forget();
        match from {
            Side::Client => self.exchange.client_fin(),
            Side::Server => self.exchange.server_fin(),
        }
        self.settle(from);
        true
    }

    fn holds(&self, from: Side) -> bool {
        self.lane(from).holds
    }

    fn take_ready(&mut self, from: Side) -> Option<Box<[u8]>> {
        self.lane_mut(from).take_ready()
    }

    fn take_fin(&mut self, from: Side) -> bool {
        self.lane_mut(from).take_fin()
    }

    fn cuts_client(&self) -> bool {
        self.end == End::Refused
    }

    fn lingers(&self) -> bool {
        self.is_to_linger()
    }

    fn take_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }
}
