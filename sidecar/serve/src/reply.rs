// SPDX-License-Identifier: Apache-2.0
//! Answers of pages, with headers against caches and guesses.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};

/// A whole answer. None is streamed: they are small, or made for one reader.
pub type Reply = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";

/// Makes an answer of a content type that browsers neither keep nor take for another type.
pub fn of_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// Makes an answer of plain text and ends its last line.
pub fn text(status: StatusCode, body: impl Into<String>) -> Reply {
    let mut body = body.into();
    body.push('\n');
    of_type(status, TEXT, body)
}

/// Answers 404 with the pages that exist.
pub fn not_found(pages: &str) -> Reply {
    text(StatusCode::NOT_FOUND, format!("there is no such page; there is {pages}"))
}

/// Answers 405 with the methods that a page takes.
pub fn wrong_method(allowed: &'static str) -> Reply {
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}"));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}
