// SPDX-License-Identifier: Apache-2.0
//! Server's side of a connection.

use super::body::{Body, Reading};
use super::{Closing, Ending, Exchange, Step, Switching, tunnel};
use crate::chunks::Then;
use crate::framing::Framing;
use crate::head::{Kind, ResponseHead};
use crate::refusal::Refusal;
use crate::reply::Reply;

impl Exchange {
    /// Takes a step with the server's bytes.
    pub fn server<'b>(&mut self, bytes: &'b [u8]) -> Step<ResponseHead<'b>> {
        // What it sends belongs behind the answer that is due.
        if !self.is_ended() && self.queue.front().is_some_and(|asked| asked.is_declined()) {
            return Step::Hold;
        }
        if bytes.is_empty() {
            return Step::More;
        }
        if self.is_ended() {
            return Step::Drop(bytes.len());
        }
        match &mut self.server {
            Reading::Tunnel => tunnel(bytes),
            Reading::Head(_) => self.server_head(bytes),
            Reading::Body(body) => {
                let passed = body.pass(bytes);
                match passed.then {
                    Then::More => {}
                    Then::Done => self.end_response(),
                    Then::Refused(rule) => self.end_by(Ending::Close(rule)),
                }
                if passed.forward > 0 { Step::Forward(passed.forward) } else { Step::Drop(bytes.len()) }
            }
        }
    }

    fn server_head<'b>(&mut self, bytes: &'b [u8]) -> Step<ResponseHead<'b>> {
        let Some(asked) = self.queue.front() else {
            self.end_by(Ending::Close(Refusal::UnaskedResponse));
            return Step::Drop(bytes.len());
        };
        let Reading::Head(scan) = &mut self.server else { return Step::More };
        let rule = match scan.end(bytes, Kind::Response) {
            Ok(None) => return Step::More,
            Ok(Some(length)) => match ResponseHead::read(&bytes[..length], asked) {
                // A client that waits for 100 may send its body next, or speak the other protocol at once.
                Ok(head) if head.framing == Framing::Tunnel && self.client.expecting => {
                    Refusal::UnaskedSwitch
                }
                Ok(head) => return Step::Head(head),
                Err(rule) => rule,
            },
            Err(rule) => rule,
        };
        self.end_by(Ending::Answer(Reply::to_response(rule, !asked.is_head()), self.queue.len()));
        Step::Drop(bytes.len())
    }

    /// Notes that the head is forwarded.
    pub fn admit_response(&mut self, head: &ResponseHead<'_>) {
        self.server = Reading::behind_head(head.framing);
        let is_for_last = self.queue.len() == 1;
        if head.is_interim() {
            self.client.expecting &= !(is_for_last && head.status == 100);
            return;
        }
        if head.framing == Framing::Tunnel {
            self.switching = Switching::Agreed;
            return;
        }
        let keeps = self.queue.front().is_some_and(|asked| asked.keeps());
        if !head.keeps || !keeps {
            self.closing = Closing::BehindResponse;
            // A request that comes now would not be answered.
            self.client.last = true;
        }
        if is_for_last {
            self.switching = Switching::No;
            if self.client.expecting {
                // Some clients send the body now, others the next request, and some servers take the one for the other.
                // So no byte passes any more, and the connection ends with this response.
                self.client.expecting = false;
                self.client.last = true;
                self.client.reading = Reading::default();
                self.closing = Closing::BehindResponse;
            }
            if let Some(Ending::Answer(reply, 1)) = self.end {
                self.end = Some(Ending::CloseBehind(reply.rule));
            }
        }
        if head.framing == Framing::None {
            self.end_response();
        }
    }

    /// Notes the server's FIN.
    ///
    /// It is due once a step says [`Step::More`] to all that came before. The client gets it too, behind what the verdict says.
    pub fn server_fin(&mut self) {
        if self.is_ended() {
            return;
        }
        let ending = match (self.server, self.queue.front()) {
            (Reading::Tunnel, _) => return,
            (Reading::Body(Body::UntilClose), _) => return self.end_response(),
            (Reading::Body(_), _) => Ending::Close(Refusal::CutBody),
            // It answered early, and may still read.
            (Reading::Head(_), None) if self.closing == Closing::BehindBody => return,
            (Reading::Head(_), None) => Ending::Over,
            (Reading::Head(scan), Some(asked)) if scan.began() => {
                Ending::Answer(Reply::to_response(Refusal::CutHead, !asked.is_head()), self.queue.len())
            }
            // Without a proxy the client would see the same, and many send the request again.
            (Reading::Head(_), Some(_)) => Ending::Close(Refusal::NoAnswer),
        };
        self.end_by(ending);
    }

    /// Returns how many of the server's next bytes may pass without a step.
    pub fn server_unseen(&self) -> u64 {
        if self.is_ended() { 0 } else { self.server.unseen() }
    }

    /// Counts bytes of the server that passed without a step: at most [`Self::server_unseen`].
    pub fn server_skip(&mut self, bytes: u64) {
        if let Reading::Body(body) = &mut self.server
            && body.skip(bytes) == Then::Done
        {
            self.end_response();
        }
    }

    /// Returns true if nothing more is forwarded to either side.
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.end, Some(Ending::Close(_) | Ending::Over)) || self.is_answer_due()
    }

    /// Ends a response that is complete.
    fn end_response(&mut self) {
        self.queue.pop();
        self.server = Reading::default();
        match (self.end, self.closing) {
            (Some(Ending::CloseBehind(rule)), _) if self.queue.is_empty() => {
                self.end = Some(Ending::Close(rule))
            }
            (_, Closing::No) => {}
            // Others wait, a request is coming, or its refusal is to be said.
            (end, Closing::BehindAll) if !self.queue.is_empty() || !self.client.last || end.is_some() => {}
            // A server that answered early may still read the body.
            (None, _) if self.queue.is_empty() && !self.client.reading.is_at_head() => {
                self.closing = Closing::BehindBody
            }
            // A client reads nothing behind such a response, so what else it sent stays without an answer.
            _ => self.end = Some(Ending::Over),
        }
    }
}
