// SPDX-License-Identifier: Apache-2.0
//! Answers that the relay gives itself: always the last of a connection.
//!
//! The answer to a request that is still being sent has to be read out of a socket with unread bytes; a plain close would
//! reset it and lose the answer. So the owner lingers: it sends FIN, and reads on for [`LINGER`] or [`LINGER_BYTES`].

use crate::refusal::Refusal;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// Most time between a local answer and the close. A client on a slow link gets the answer within; a longer time would let
/// clients hold connections that are of no use. nginx waits 5 s between reads and 30 s in all.
pub const LINGER: Duration = Duration::from_secs(1);

/// Most bytes that are read and dropped before the close: what fits into a client's first flight on a fast link.
pub const LINGER_BYTES: usize = 64 * 1024;

/// Largest answer in bytes.
pub const MAX_REPLY: usize = 512;

/// Local answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Rule that was broken, for logs and metrics.
    pub rule: Refusal,
    /// Status code that is sent.
    pub status: u16,
    /// False for the answer to HEAD, which has the same fields and no body.
    pub body: bool,
}

impl Reply {
    /// Answer to a request that broke a rule.
    pub const fn to_request(rule: Refusal) -> Self {
        Self { rule, status: rule.status(), body: true }
    }

    /// Answer in place of a response that broke a rule.
    pub const fn to_response(rule: Refusal, body: bool) -> Self {
        Self { rule, status: 502, body }
    }

    /// Appends the answer to the bytes for the client: at most [`MAX_REPLY`].
    pub fn write(&self, bytes: &mut Vec<u8>) {
        let reason = reason(self.status).unwrap_or("Refused");
        let name = self.rule.name();
        let text = self.rule.to_string();
        let length = name.len() + text.len() + 3;
        let head = format_args!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n",
            self.status
        );
        bytes.write_fmt(head).expect("a vector takes all bytes");
        if self.body {
            bytes.write_fmt(format_args!("{name}: {text}\n")).expect("a vector takes all bytes");
        }
    }
}

/// Local answer to a declined request, in the words of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Status code, 200 to 599.
    pub status: u16,
    /// Body: plain text.
    pub text: &'static str,
    /// True if the connection ends with it.
    pub last: bool,
    /// Further fields, none of which says where the message ends.
    pub fields: Arc<[(String, String)]>,
}

impl Words {
    /// Appends the answer to the bytes for the client. `body` is false for HEAD, and `keeps` if the connection ends.
    pub fn write(&self, bytes: &mut Vec<u8>, body: bool, keeps: bool) {
        let Self { status, text, last: _, fields } = self;
        let reason = reason(*status).unwrap_or("Unknown");
        bytes.write_fmt(format_args!("HTTP/1.1 {status} {reason}\r\n")).expect("a vector takes all bytes");
        // These end with their heads.
        let has_body = !matches!(status, 204 | 304);
        if has_body {
            let body = format_args!("content-type: text/plain\r\ncontent-length: {}\r\n", text.len());
            bytes.write_fmt(body).expect("a vector takes all bytes");
        }
        for (name, value) in fields.iter() {
            bytes.write_fmt(format_args!("{name}: {value}\r\n")).expect("a vector takes all bytes");
        }
        let close = if keeps { "" } else { "connection: close\r\n" };
        let text = if body && has_body { text } else { "" };
        bytes.write_fmt(format_args!("{close}\r\n{text}")).expect("a vector takes all bytes");
    }
}

/// Returns the reason phrase of a status (RFC 9110, section 15).
pub const fn reason(status: u16) -> Option<&'static str> {
    Some(match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{MAX_REPLY, Reply};
    use crate::refusal::Refusal;
    use std::io::Write;

    #[test]
    fn an_answer_is_a_whole_response_that_closes() {
        for rule in Refusal::ALL {
            for reply in
                [Reply::to_request(*rule), Reply::to_response(*rule, true), Reply::to_response(*rule, false)]
            {
                let mut bytes = Vec::new();
                reply.write(&mut bytes);
                assert!(bytes.len() <= MAX_REPLY, "{rule:?}: {}", bytes.len());
                let mut slots = [httparse::EMPTY_HEADER; 4];
                let mut read = httparse::Response::new(&mut slots);
                let httparse::Status::Complete(head) = read.parse(&bytes).unwrap() else {
                    panic!("{rule:?} is cut")
                };
                assert_eq!(read.code, Some(reply.status));
                let field = |name| read.headers.iter().find(|f| f.name == name).map(|f| f.value);
                assert_eq!(field("connection"), Some(&b"close"[..]));
                let length: usize =
                    std::str::from_utf8(field("content-length").unwrap()).unwrap().parse().unwrap();
                assert_eq!(bytes.len() - head, if reply.body { length } else { 0 }, "{rule:?}");
            }
        }
    }

    #[test]
    fn an_answer_names_the_rule_and_what_is_wrong() {
        let mut bytes = Vec::new();
        Reply::to_request(Refusal::TwoHosts).write(&mut bytes);
        let mut expected = Vec::new();
        expected
            .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 43\r\n")
            .unwrap();
        expected.write_all(b"connection: close\r\n\r\ntwo_hosts: the request has two Host fields\n").unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), String::from_utf8(expected).unwrap());
    }
}
