// SPDX-License-Identifier: Apache-2.0
//! gRPC's answers: status codes, and bodies that end with trailers.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Longest message of a status, in bytes.
const MAX_MESSAGE: usize = 1000;

/// Status of a call (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub code: u32,
    pub message: String,
}

impl Status {
    pub(super) const OK: Self = Self { code: 0, message: String::new() };

    pub(super) fn new(code: u32, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(STATUS, self.code.into());
        if !self.message.is_empty()
            && let Ok(message) = HeaderValue::try_from(percent_encoded(&self.message))
        {
            headers.insert(MESSAGE, message);
        }
        headers
    }
}

/// Encodes a message as gRPC wants it: space to `~` but `%` stand for themselves.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes().take(MAX_MESSAGE) {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A message in the queue of an answer; an error is its end.
pub(super) type Piece = Result<Bytes, Status>;

/// Messages that are sent as they come, then the status.
#[derive(Debug)]
pub(super) struct Messages {
    queue: mpsc::Receiver<Piece>,
    ended: bool,
}

impl Body for Messages {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match std::task::ready!(self.queue.poll_recv(cx)) {
            Some(Ok(message)) => Frame::data(message),
            end => {
                self.ended = true;
                // A sender that is gone without a word was cut off.
                let status = end.and_then(Result::err).unwrap_or(Status::new(14, "the stream was cut"));
                Frame::trailers(status.headers())
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// An answer whose messages come through a queue of this length.
pub(super) fn streaming(length: usize) -> (mpsc::Sender<Piece>, Response<Messages>) {
    let (sender, queue) = mpsc::channel(length);
    let mut response = Response::new(Messages { queue, ended: false });
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    (sender, response)
}

/// An answer of one message.
pub(super) fn whole(message: Bytes) -> Response<Messages> {
    let (sender, response) = streaming(2);
    // The queue has room for both.
    let _ = sender.try_send(Ok(message));
    let _ = sender.try_send(Err(Status::OK));
    response
}

/// An answer that is only a status.
pub(super) fn only(status: &Status) -> Response<Messages> {
    let (_, queue) = mpsc::channel(1);
    let mut response = Response::new(Messages { queue, ended: true });
    *response.status_mut() = StatusCode::OK;
    *response.headers_mut() = status.headers();
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn messages_end_with_their_status() {
        let (sender, response) = streaming(4);
        for message in ["a", "b"] {
            sender.send(Ok(Bytes::from_static(message.as_bytes()))).await.unwrap();
        }
        sender.send(Err(Status::new(7, "50 % no\n"))).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        let trailers = body.trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"7".parse().unwrap(), &"50 %25 no%0A".parse().unwrap())
        );
        assert_eq!(body.to_bytes(), "ab");
        let (sender, response) = streaming(1);
        drop(sender);
        assert_eq!(response.into_body().collect().await.unwrap().trailers().unwrap()["grpc-status"], "14");
        let alone = only(&Status::new(16, "no"));
        assert_eq!(alone.headers()["grpc-status"], "16");
        assert!(alone.into_body().collect().await.unwrap().to_bytes().is_empty());
        let whole = whole(Bytes::from_static(b"x")).into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
    }
}
