// SPDX-License-Identifier: Apache-2.0
//! The owner's part: filters over heads, and the books of each request. No sockets, no streams.

use crate::malformed::Malformed;
use crate::reply::Reply;
use h2::Reason;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, request, response};
use std::time::Duration;
use tokio::time::Instant;

/// Owner of one connection.
pub trait Rules {
    /// Its part in one request, dropped at the end: the place for a permit.
    type Exchange: Exchange;

    /// A request began.
    fn begin(&self, request: &request::Parts) -> Self::Exchange;

    /// A request was refused because of its form; no exchange begins.
    fn refused(&self, request: &request::Parts, rule: Malformed) {
        let _ = (request, rule);
    }
}

/// Owner's part in one request.
///
/// The calls come in the order of the methods, but for `received`, which a response may overtake.
pub trait Exchange {
    /// Decides about the request; asked again when the delay that it asked for is over.
    fn decide(&mut self, request: &request::Parts) -> Decision;

    /// Returns the answer to a request whose server failed before its response.
    fn failed(&mut self, failure: Failure) -> Reply {
        failure.reply()
    }

    /// A local answer goes to the client.
    fn answered(&mut self, reply: &Reply) {
        let _ = reply;
    }

    /// The client sent all of its request, trailers included: it is here, and may still wait for the server.
    ///
    /// At the earliest behind [`Decision::Pass`], once, and not if the rest of a body has no room here (the window of a stream): a
    /// server that takes no more of it ends it without this call.
    fn received(&mut self) {}

    /// The server's response began. Not called for informational ones.
    fn responded(&mut self, response: &response::Parts) {
        let _ = response;
    }

    /// Returns how many bytes of the response's body may be handed on now: at least one, at most as many as are wanted.
    ///
    /// Otherwise it returns the time at which it is asked again. Bytes that wait hold back their server, not other streams. Those
    /// that it lets pass may wait for the client's windows; it is not asked about them again.
    fn budget(&mut self, wanted: usize) -> Result<usize, Instant> {
        Ok(wanted)
    }

    /// Bytes of a body were handed on, so the stream is not idle; 0 stand for the head of a response, also an informational one,
    /// or for trailers.
    fn moved(&mut self, from: Peer, bytes: usize) {
        let _ = (from, bytes);
    }

    /// Returns the answer that ends the request if it took too long.
    ///
    /// Behind the head of a response it ends by a reset. Asked when the owner calls [`Handle::sweep`](crate::Handle::sweep); there
    /// is no timer in a request.
    fn overdue(&mut self) -> Option<Reply> {
        None
    }

    /// The request ended. Called once for each exchange, also if the session is dropped.
    fn ended(&mut self, outcome: &Outcome) {
        let _ = outcome;
    }
}

/// Decision about a request.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Goes to the server with these edits.
    Pass(Edits),
    /// Waits, then is decided about again.
    Delay(Duration),
    /// Is answered here.
    Answer(Reply),
}

/// Changes to the fields of a request. The default changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// Fields that are taken out, all of that name.
    ///
    /// A name stands for the spellings with underscores too, which CGI-like readers take for it.
    pub remove: Vec<HeaderName>,
    /// Fields that are set in place of all of that name.
    ///
    /// They must not be those that HTTP/2 forbids (`connection` and its like).
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    pub(crate) fn apply(self, fields: &mut HeaderMap) {
        for name in &self.remove {
            take_out(fields, name);
        }
        for (name, value) in self.set {
            take_out(fields, &name);
            fields.insert(name, value);
        }
    }
}

/// Takes out all fields that a reader may take for this one.
fn take_out(fields: &mut HeaderMap, name: &HeaderName) {
    let same: Vec<_> = fields.keys().filter(|known| is_same(known, name)).cloned().collect();
    for name in same {
        fields.remove(name);
    }
}

/// Compares names of fields, an underscore as a dash.
fn is_same(one: &HeaderName, other: &HeaderName) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let (one, other) = (one.as_str(), other.as_str());
    one.len() == other.len() && one.bytes().map(dashed).eq(other.bytes().map(dashed))
}

/// Side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Sends requests.
    Client,
    /// Sends responses.
    Server,
}

/// Reason for which the server did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its connection ended.
    Died,
    /// It broke HTTP/2.
    Protocol,
    /// The request could not be sent with the owner's edits.
    Edits,
}

impl Failure {
    /// Name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Died => "connection_termination",
            Self::Protocol => "protocol_error",
            Self::Edits => "edits",
        }
    }

    /// Answer that Envoy gives.
    pub fn reply(self) -> Reply {
        const DIED: &str =
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
        const PROTOCOL: &str =
            "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
        match self {
            Self::Died => Reply::new(StatusCode::SERVICE_UNAVAILABLE, DIED),
            Self::Protocol => Reply::new(StatusCode::BAD_GATEWAY, PROTOCOL),
            Self::Edits => Reply::new(StatusCode::INTERNAL_SERVER_ERROR, "a rule made the request invalid"),
        }
    }
}

/// End of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The whole response was handed to the client's connection.
    ///
    /// The server may have cut the request's body.
    Complete,
    /// The owner decided to answer.
    Answered,
    /// The owner found it overdue: answered, or reset with CANCEL.
    Overdue,
    /// The server could not be reached; answered.
    Unreachable,
    /// The server failed: answered, or reset with INTERNAL_ERROR if the response had begun.
    Failed(Failure),
    /// The server did not take it: reset with REFUSED_STREAM, safe to repeat.
    Refused,
    /// The client reset its stream; so was the server's, with the same code.
    ClientReset(Reason),
    /// The server reset its stream; so was the client's, with the same code.
    ServerReset(Reason),
    /// The client's connection ended; the server's stream is reset with CANCEL.
    ClientGone,
    /// The owner dropped the session, or the client was cut for what it sent.
    Dropped,
}

/// Books of one request.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// End of the request.
    pub how: How,
    /// Status of the response or of the local answer, if one was sent.
    pub status: Option<StatusCode>,
    /// Status of gRPC in the response's trailers or head.
    pub grpc_status: Option<u32>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// Time when the request's head was here.
    pub began: Instant,
    /// Time when the head went to the server.
    ///
    /// Delays, the connect and the server's limit of streams lie before it.
    pub forwarded: Option<Instant>,
    /// Time when the response's head was here.
    pub responded: Option<Instant>,
    /// Time of the end.
    pub ended: Instant,
}
