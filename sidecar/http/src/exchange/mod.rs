// SPDX-License-Identifier: Apache-2.0
//! One connection: its requests and responses in order, what each side may do next, and how it ends.
//!
//! ```text
//! bytes of the client ─▶ client() ─▶ Head ─ owner decides ─▶ admit_request()  ─▶ head to the server
//!                            │                        └─────▶ decline_request() ─▶ Reply in its turn
//!                            └─────▶ Forward, Drop, More, Hold
//! bytes of the server ─▶ server() ─▶ Head ─ owner notes ───▶ admit_response() ─▶ head to the client
//!                            └─────▶ Forward, Drop, More, Hold
//! after each step        verdict() ─▶ Go, Reply, Answer, Close, Over
//! ```
//! A side's buffer is given from its first byte that is neither forwarded nor dropped. The owner takes steps until it is told
//! [`Step::More`] or [`Step::Hold`]. After each step of the server it tries a client that was held: the next request belongs
//! before the server's next bytes, which are its answer then, and unasked otherwise.

mod body;
mod client;
mod queue;
mod server;

pub use queue::MAX_PIPELINED;

use crate::framing::Framing;
use crate::head::ResponseHead;
use crate::refusal::Refusal;
use crate::reply::Reply;
use body::Reading;
use queue::Queue;

/// Most empty lines in front of a request. RFC 9112 asks for one at least; old clients send one behind a body.
pub const MAX_EMPTY_LINES: u8 = 8;

/// Next thing to do with the bytes at the front of a side's buffer.
#[derive(Clone, Debug)]
pub enum Step<H> {
    /// Keep the bytes and read more: they are part of a head, or there are none.
    More,
    /// Keep the bytes and read no more: the other side has to speak first.
    Hold,
    /// Forward so many, at least one, as they are.
    Forward(usize),
    /// Forget so many, at least one.
    Drop(usize),
    /// All of these bytes are a head. Nothing changes until it is admitted, so that filters may decide in between.
    Head(H),
}

/// State of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection goes on.
    Go,
    /// Send the owner's answer to a declined request, and call [`Exchange::replied`].
    Reply {
        /// False for HEAD.
        body: bool,
        /// False if the answer has to say `connection: close`.
        keeps: bool,
    },
    /// Send the answer and FIN to the client, and linger.
    ///
    /// The server gets nothing more; it is closed before lingering. See [`crate::reply`].
    Answer(Reply),
    /// Close both sides behind what was forwarded, and linger at the client. A response has begun, or the server was silent, so
    /// no answer can be said.
    Close(Refusal),
    /// Both sides have said that nothing more comes. A server that does not close by itself is closed after a while.
    Over,
}

/// Books of one connection. It owns no memory, so an idle connection costs no more than these bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exchange {
    client: Client,
    server: Reading,
    /// Requests that were admitted or declined and whose responses are not complete.
    queue: Queue,
    switching: Switching,
    closing: Closing,
    end: Option<Ending>,
}

/// State of the client's side.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    reading: Reading,
    /// True while the client waits for 100 with its body.
    expecting: bool,
    /// True if no request follows the one that is under way.
    last: bool,
    /// Empty lines in front of the next request so far.
    empty_lines: u8,
    /// Bytes that were dropped at the connection's end.
    dropped: u32,
}

/// Change to another protocol. The request that asks for it is the last that is admitted until it is answered, and no byte
/// behind it passes: they are the other protocol's, or a request, and the server alone knows which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Switching {
    #[default]
    No,
    Asked,
    Agreed,
}

/// Point at which the connection ends in good order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Closing {
    /// None yet.
    #[default]
    No,
    /// The end of the last response to a request that began: the owner wants no more of them.
    BehindAll,
    /// The end of the response that is under way: what was asked behind it stays without an answer.
    BehindResponse,
    /// The end of the body that the client is sending: its response is complete.
    BehindBody,
}

/// End of the connection, once it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Local answer, due when at most so many requests wait.
    ///
    /// Nor may part of a response have been forwarded.
    Answer(Reply, usize),
    /// Close behind the response that is under way.
    CloseBehind(Refusal),
    Close(Refusal),
    Over,
}

// === impl Exchange ===

impl Exchange {
    /// Returns the state of the connection.
    pub fn verdict(&self) -> Verdict {
        match self.end {
            Some(Ending::Answer(reply, _)) if self.is_answer_due() => Verdict::Answer(reply),
            Some(Ending::Close(rule)) => Verdict::Close(rule),
            Some(Ending::Over) => Verdict::Over,
            None | Some(Ending::Answer(..) | Ending::CloseBehind(_)) => match self.queue.front() {
                Some(asked) if asked.is_declined() => {
                    Verdict::Reply { body: !asked.is_head(), keeps: asked.keeps() && !self.is_last() }
                }
                _ => Verdict::Go,
            },
        }
    }

    /// Notes that the declined request of [`Verdict::Reply`] was answered.
    pub fn replied(&mut self) {
        let Some(asked) = self.queue.front().filter(|asked| asked.is_declined()) else { return };
        let ends = !asked.keeps() || self.is_last();
        self.queue.pop();
        if ends {
            self.end_by(Ending::Over);
        }
    }

    /// Returns true if the connection ends behind the response that is due.
    fn is_last(&self) -> bool {
        self.closing == Closing::BehindAll && self.client.last && self.queue.len() == 1
    }

    /// Returns the rule that ends the connection, at once or when its turn comes.
    pub fn refused(&self) -> Option<Refusal> {
        match self.end? {
            Ending::Answer(reply, _) => Some(reply.rule),
            Ending::CloseBehind(rule) | Ending::Close(rule) => Some(rule),
            Ending::Over => None,
        }
    }

    /// Returns the number of requests whose responses are not complete.
    pub fn under_way(&self) -> usize {
        self.queue.len()
    }

    /// Returns true between two messages, where the connection can end and nothing is lost.
    pub fn is_at_border(&self) -> bool {
        let at_heads = self.client.reading.is_at_head() && self.server.is_at_head();
        self.queue.is_empty() && at_heads && !self.client.reading.is_within_head()
    }

    /// Returns true from the end of a response's head to the end of the response.
    pub fn is_in_response(&self) -> bool {
        !self.server.is_at_head()
    }

    /// Returns true from the end of a request to the end of the next one's head.
    pub fn is_request_whole(&self) -> bool {
        self.client.reading.is_at_head()
    }

    /// Returns true if the owner ends the connection behind the response with this head, and neither the head nor that of its
    /// request says so.
    pub fn ends_unsaid(&self, head: &ResponseHead<'_>) -> bool {
        let asked = self.queue.front().is_some_and(|asked| asked.keeps());
        let ends = !head.is_interim() && head.framing != Framing::Tunnel;
        self.is_last() && asked && head.keeps && ends
    }

    /// Returns true from the first byte of a request to the end of its head.
    pub fn is_in_request_head(&self) -> bool {
        self.client.reading.is_within_head()
    }

    /// Refuses a request whose head takes too long. Those before it are answered first.
    pub fn head_is_late(&mut self) {
        self.end_by(Ending::Answer(Reply::to_request(Refusal::HeaderTimeout), 0));
    }

    /// Ends the connection behind the answers to all requests that began. One that comes later gets none.
    ///
    /// A tunnel goes on.
    pub fn finish(&mut self) {
        if self.is_at_border() {
            return self.end_by(Ending::Over);
        }
        if self.switching == Switching::Agreed || self.closing != Closing::No {
            return;
        }
        let is_answered = self.queue.is_empty() && !self.client.reading.is_at_head();
        self.closing = if is_answered { Closing::BehindBody } else { Closing::BehindAll };
        self.client.last |= !self.client.reading.is_within_head();
    }

    /// Answers the first request locally, as its server cannot be reached or is late.
    pub fn fail(&mut self, rule: Refusal) {
        let body = self.queue.front().is_none_or(|asked| !asked.is_head());
        let reply = Reply { rule, status: rule.status(), body };
        self.end_by(if self.server.is_at_head() {
            Ending::Answer(reply, self.queue.len())
        } else {
            Ending::Close(rule)
        });
    }

    /// Ends the connection, unless it is at its end.
    fn end_by(&mut self, ending: Ending) {
        if !matches!(self.end, Some(Ending::Close(_) | Ending::Over)) && !self.is_answer_due() {
            self.end = Some(ending);
        }
    }

    fn is_answer_due(&self) -> bool {
        matches!(self.end, Some(Ending::Answer(_, behind)) if self.queue.len() <= behind)
            && self.server.is_at_head()
    }
}

/// Forwards all bytes of a tunnel.
fn tunnel<H>(bytes: &[u8]) -> Step<H> {
    if bytes.is_empty() { Step::More } else { Step::Forward(bytes.len()) }
}

#[cfg(test)]
mod tests;
