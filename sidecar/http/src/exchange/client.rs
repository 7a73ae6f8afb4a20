// SPDX-License-Identifier: Apache-2.0
//! Client's side of a connection.

use super::body::Reading;
use super::{Closing, Ending, Exchange, MAX_EMPTY_LINES, Step, Switching, tunnel};
use crate::chunks::Then;
use crate::framing::Framing;
use crate::head::{Kind, RequestHead};
use crate::refusal::Refusal;
use crate::reply::{LINGER_BYTES, Reply};

impl Exchange {
    /// Takes a step with the client's bytes.
    pub fn client<'b>(&mut self, bytes: &'b [u8]) -> Step<RequestHead<'b>> {
        if self.is_deaf() {
            return self.turn_away(bytes.len());
        }
        match &mut self.client.reading {
            Reading::Tunnel => tunnel(bytes),
            Reading::Head(_) => self.client_head(bytes),
            Reading::Body(_) if bytes.is_empty() => Step::More,
            Reading::Body(body) => {
                let passed = body.pass(bytes);
                self.client.expecting &= passed.forward == 0;
                match passed.then {
                    Then::More => {}
                    Then::Done => self.end_body(),
                    Then::Refused(rule) => self.refuse_body(rule),
                }
                if passed.forward > 0 { Step::Forward(passed.forward) } else { self.turn_away(bytes.len()) }
            }
        }
    }

    fn client_head<'b>(&mut self, bytes: &'b [u8]) -> Step<RequestHead<'b>> {
        match self.switching {
            Switching::No => {}
            Switching::Asked => return Step::Hold,
            Switching::Agreed => {
                self.client.reading = Reading::Tunnel;
                return tunnel(bytes);
            }
        }
        if self.queue.is_full() {
            return Step::Hold;
        }
        let Reading::Head(scan) = &mut self.client.reading else { return Step::More };
        if !scan.began() {
            match bytes {
                [] | [b'\r'] => return Step::More,
                // It is not forwarded: some servers count it as a request.
                [b'\r', b'\n', ..] if self.client.empty_lines < MAX_EMPTY_LINES => {
                    self.client.empty_lines += 1;
                    return Step::Drop(2);
                }
                [b'\r', b'\n', ..] => return self.refuse_head(Refusal::EmptyLines, bytes),
                _ => {}
            }
        }
        match scan.end(bytes, Kind::Request) {
            Ok(None) => Step::More,
            Ok(Some(length)) => match RequestHead::read(&bytes[..length]) {
                Ok(head) => Step::Head(head),
                Err(rule) => self.refuse_head(rule, bytes),
            },
            Err(rule) => self.refuse_head(rule, bytes),
        }
    }

    /// Notes that the head is forwarded.
    pub fn admit_request(&mut self, head: &RequestHead<'_>) {
        let asked = head.asked();
        self.queue.push(asked);
        if asked.may_switch() {
            self.switching = Switching::Asked;
        }
        self.client.reading = Reading::behind_head(head.framing);
        self.client.expecting = head.expects;
        self.client.last = !head.keeps || self.closing != Closing::No;
        self.client.empty_lines = 0;
    }

    /// Notes that the owner answers the request itself, once [`Exchange::verdict`] says that it is its turn.
    ///
    /// The connection goes on if nothing is to come that depends on the answer: a body, or another protocol.
    pub fn decline_request(&mut self, head: &RequestHead<'_>) {
        let asked = head.asked();
        let keeps = head.keeps && head.framing == Framing::None && !asked.may_switch();
        self.queue.push(asked.declined(keeps));
        self.client.reading = Reading::default();
        self.client.last = !keeps || self.closing != Closing::No;
        self.client.empty_lines = 0;
    }

    /// Notes the client's FIN.
    ///
    /// It is due once a step says [`Step::More`] to all that came before. The server gets it too: a client may half-close and
    /// wait.
    pub fn client_fin(&mut self) {
        if !self.is_deaf() && self.client.reading.is_within_head() {
            self.end_by(Ending::Answer(Reply::to_request(Refusal::CutHead), 0));
        }
    }

    /// Returns how many of the client's next bytes may pass without a step.
    pub fn client_unseen(&self) -> u64 {
        if self.is_deaf() {
            return 0;
        }
        match self.client.reading {
            Reading::Head(_) if self.switching == Switching::Agreed => u64::MAX,
            reading => reading.unseen(),
        }
    }

    /// Counts bytes of the client that passed without a step: at most [`Self::client_unseen`].
    pub fn client_skip(&mut self, bytes: u64) {
        if let Reading::Body(body) = &mut self.client.reading {
            self.client.expecting &= bytes == 0;
            if body.skip(bytes) == Then::Done {
                self.end_body();
            }
        }
    }

    /// Ends a body that is complete.
    fn end_body(&mut self) {
        self.client.reading = Reading::default();
        if self.closing == Closing::BehindBody {
            self.end_by(Ending::Over);
        }
    }

    /// Returns true if nothing more is forwarded to the server.
    fn is_deaf(&self) -> bool {
        self.end.is_some()
            || (self.client.last && self.client.reading.is_at_head() && self.switching == Switching::No)
    }

    /// Keeps bytes until the connection ends, then drops them.
    ///
    /// As many as lingering reads: a client that is not read may lose its answer to a reset.
    fn turn_away<H>(&mut self, bytes: usize) -> Step<H> {
        if bytes == 0 {
            return Step::More;
        }
        if !self.is_ended() {
            return Step::Hold;
        }
        let dropped = bytes.min(LINGER_BYTES - self.client.dropped as usize);
        self.client.dropped += dropped as u32;
        if dropped > 0 { Step::Drop(dropped) } else { Step::Hold }
    }

    fn refuse_head<H>(&mut self, rule: Refusal, bytes: &[u8]) -> Step<H> {
        let reply = Reply { body: !bytes.starts_with(b"HEAD "), ..Reply::to_request(rule) };
        // The requests before are answered first.
        self.end_by(Ending::Answer(reply, 0));
        self.turn_away(bytes.len())
    }

    /// Refuses a request whose head was forwarded.
    fn refuse_body(&mut self, rule: Refusal) {
        let body = self.queue.last().is_none_or(|asked| !asked.is_head());
        let reply = Reply { body, ..Reply::to_request(rule) };
        self.end_by(match self.queue.len() {
            // It was answered early.
            0 => Ending::Close(rule),
            1 if !self.server.is_at_head() => Ending::CloseBehind(rule),
            _ => Ending::Answer(reply, 1),
        });
    }
}
