// SPDX-License-Identifier: Apache-2.0
//! Bodies of answers.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Response;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Sleep;

use super::encode::{self, Form, Refusal};
use super::path::Resource;
use super::state::Shared;

/// The body of an answer.
pub(super) enum Reply {
    Whole(Option<Bytes>),
    Watch(Watch),
    Endless,
}

/// An open watch, from the server's side.
pub(super) struct Watch {
    lines: UnboundedReceiver<Bytes>,
    /// The client's `timeoutSeconds`, after which the watch ends.
    end: Option<Pin<Box<Sleep>>>,
    /// The last bookmark before that end.
    last: Option<(Arc<Shared>, Resource, Form)>,
}

impl Watch {
    pub(super) fn new(lines: UnboundedReceiver<Bytes>, timeout: Option<u64>) -> Self {
        let end = timeout.map(|seconds| Box::pin(tokio::time::sleep(Duration::from_secs(seconds))));
        Self { lines, end, last: None }
    }

    /// Lets it end with a bookmark.
    pub(super) fn with_bookmark(mut self, shared: Arc<Shared>, resource: Resource, form: Form) -> Self {
        self.last = Some((shared, resource, form));
        self
    }

    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(line) = self.lines.poll_recv(context) {
            return Poll::Ready(line);
        }
        let Some(end) = &mut self.end else { return Poll::Pending };
        if end.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let Some((shared, resource, form)) = self.last.take() else { return Poll::Ready(None) };
        // Under the lock no change comes between the last line and the bookmark.
        let state = shared.state();
        if let Ok(line) = self.lines.try_recv() {
            drop(state);
            self.last = Some((shared, resource, form));
            return Poll::Ready(Some(line));
        }
        let bookmark = encode::event("BOOKMARK", form, &state.store.bookmark(&resource));
        drop(state);
        self.lines.close();
        self.end = None;
        Poll::Ready(Some(bookmark.into()))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Watch(watch) => watch.poll_line(context).map(|line| line.map(|line| Ok(Frame::data(line)))),
            Self::Endless => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 16 << 10]))))),
        }
    }
}

/// An answer of JSON.
pub(super) fn json(code: u16, text: String) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Some(text.into())));
    *response.status_mut() = code.try_into().expect("a status of HTTP");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) fn whole(code: u16, value: &Value) -> Response<Reply> {
    json(code, value.to_string())
}

pub(super) fn refused(refusal: &Refusal) -> Response<Reply> {
    whole(refusal.code, &refusal.status())
}

/// An open watch's answer.
pub(super) fn watch(watch: Watch) -> Response<Reply> {
    let mut response = Response::new(Reply::Watch(watch));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
