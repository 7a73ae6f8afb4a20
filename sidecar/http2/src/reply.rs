// SPDX-License-Identifier: Apache-2.0
//! Answers that the relay gives itself, plain and in gRPC's form.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use std::borrow::Cow;
use std::fmt::Write;

/// Longest text of an answer in bytes: the rest is cut.
pub const MAX_TEXT: usize = 4096;

/// Local answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status of a plain answer; gRPC's status follows from it.
    pub status: StatusCode,
    /// Body of a plain answer, `grpc-message` of gRPC's.
    pub text: Cow<'static, str>,
    /// Further fields.
    ///
    /// They must not be those that HTTP/2 forbids (`connection` and its like).
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Status of gRPC in place of the one that follows from the status.
    pub grpc_status: Option<u32>,
}

impl Reply {
    /// Answer without further fields.
    pub fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into(), fields: Vec::new(), grpc_status: None }
    }

    /// Head and body as the client of this request understands them; no body where none is due.
    pub(crate) fn render(&self, request: &Request) -> (Response<()>, Bytes) {
        let text = cut(&self.text, MAX_TEXT);
        let mut response = Response::new(());
        let fields = response.headers_mut();
        let mut body = Bytes::new();
        if request.grpc {
            let status = self.grpc_status.unwrap_or_else(|| grpc_status(self.status));
            fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            fields.insert("grpc-status", HeaderValue::from(status));
            if !text.is_empty() {
                let message = HeaderValue::try_from(percent_encoded(text))
                    .expect("what a field cannot hold is encoded");
                fields.insert("grpc-message", message);
            }
        } else {
            if !text.is_empty() {
                fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                fields.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
                if !request.head {
                    body = Bytes::copy_from_slice(text.as_bytes());
                }
            }
            *response.status_mut() = self.status;
        }
        for (name, value) in &self.fields {
            response.headers_mut().append(name, value.clone());
        }
        (response, body)
    }
}

/// Form in which a request is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    grpc: bool,
    head: bool,
}

impl Request {
    pub(crate) fn of(request: &Parts) -> Self {
        Self { grpc: is_grpc(&request.headers), head: request.method == Method::HEAD }
    }
}

/// Returns true for `application/grpc`, with a format or parameters or without.
///
/// gRPC-Web is plain HTTP here, as Envoy has it.
pub fn is_grpc(fields: &HeaderMap) -> bool {
    let Some(value) = fields.get(CONTENT_TYPE) else { return false };
    let rest = value.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Returns gRPC's status for a status of HTTP, as Envoy's local answers.
pub fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Returns the status that gRPC reports in a head or in trailers.
pub(crate) fn reported_grpc_status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Encodes as gRPC's protocol asks for `grpc-message`: all but printable ASCII, and the percent sign.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("a string takes all text"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{MAX_TEXT, Reply, Request, grpc_status, is_grpc};
    use http::header::{CONTENT_TYPE, HeaderValue};
    use http::{HeaderMap, StatusCode};

    const PLAIN: Request = Request { grpc: false, head: false };
    const GRPC: Request = Request { grpc: true, head: false };

    fn field<'a>(response: &'a http::Response<()>, name: &str) -> Option<&'a str> {
        Some(response.headers().get(name)?.to_str().expect("text"))
    }

    #[test]
    fn grpc_statuses_follow_from_http() {
        let rows = [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (500, 2),
            (418, 2),
        ];
        for (status, grpc) in rows {
            assert_eq!(grpc_status(StatusCode::from_u16(status).expect("valid")), grpc, "{status}");
        }
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("text/plain", false),
        ] {
            let fields = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&fields), grpc, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn plain_answers_have_status_and_text() {
        let mut reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE, "overflow");
        reply.fields.push(("x-envoy-overloaded".parse().expect("name"), HeaderValue::from_static("true")));
        let (response, body) = reply.render(&PLAIN);
        assert_eq!((response.status().as_u16(), &body[..]), (503, &b"overflow"[..]));
        assert_eq!(field(&response, "content-length"), Some("8"));
        assert_eq!(field(&response, "x-envoy-overloaded"), Some("true"));
        let (response, body) = reply.render(&Request { grpc: false, head: true });
        assert_eq!((field(&response, "content-length"), body.len()), (Some("8"), 0));
        let (response, body) = Reply::new(StatusCode::NOT_FOUND, "").render(&PLAIN);
        assert_eq!((response.headers().len(), body.len()), (0, 0));
        let (_, body) = Reply::new(StatusCode::NOT_FOUND, "é".repeat(MAX_TEXT)).render(&PLAIN);
        assert_eq!(body.len(), MAX_TEXT);
    }

    #[test]
    fn answers_of_grpc_have_status_200_and_no_body() {
        let (response, body) = Reply::new(StatusCode::TOO_MANY_REQUESTS, "100% é\n").render(&GRPC);
        assert_eq!((response.status().as_u16(), body.len()), (200, 0));
        assert_eq!(field(&response, "content-type"), Some("application/grpc"));
        assert_eq!(field(&response, "grpc-status"), Some("14"));
        assert_eq!(field(&response, "grpc-message"), Some("100%25 %C3%A9%0A"));
        let mut reply = Reply::new(StatusCode::TOO_MANY_REQUESTS, "");
        reply.grpc_status = Some(8);
        let (response, _) = reply.render(&GRPC);
        assert_eq!((field(&response, "grpc-status"), field(&response, "grpc-message")), (Some("8"), None));
    }
}
