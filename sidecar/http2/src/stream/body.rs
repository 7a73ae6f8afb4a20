// SPDX-License-Identifier: Apache-2.0
//! One direction of a stream: data and trailers from one side to the other.
//!
//! Credit goes back to the sender only for what the other side's send buffer took, and that takes only what its peer's windows
//! allow. So a stream holds at most its receive window and its send buffer, in each direction.

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use std::task::{Context, Poll, ready};

/// Direction of one stream.
pub(crate) struct Body {
    from: RecvStream,
    pub(crate) to: SendStream<Bytes>,
    /// Data that waits for the other side's window.
    held: Bytes,
    /// The held data is the end of the stream.
    last: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Over,
}

/// Part of a body that was handed on.
pub(crate) enum Passed<'a> {
    Bytes(usize),
    Trailers(&'a HeaderMap),
}

/// End of a direction.
pub(crate) enum Flow {
    /// All was handed on, with the end of the stream.
    Done,
    /// The sender's stream failed.
    Source(h2::Error),
    /// The receiver's stream takes no more.
    Sink,
}

impl Body {
    pub(crate) fn new(from: RecvStream, to: SendStream<Bytes>, over: bool) -> Self {
        Self {
            from,
            to,
            held: Bytes::new(),
            last: false,
            state: if over { State::Over } else { State::Data },
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Gives the direction up; what is held is dropped.
    pub(crate) fn stop(&mut self) {
        self.state = State::Over;
        self.held = Bytes::new();
    }

    /// Returns true if the sender's stream failed by its own doing. What it sent before is dropped.
    pub(crate) fn was_left_by_sender(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match self.from.poll_data(cx) {
                Poll::Ready(Some(Ok(_))) => (),
                Poll::Ready(Some(Err(error))) => return error.is_remote(),
                Poll::Ready(None) | Poll::Pending => return true,
            }
        }
    }

    /// Hands on what there is, or nothing while the receiver's socket is blocked.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        blocked: bool,
        mut passed: impl FnMut(Passed<'_>),
    ) -> Poll<Flow> {
        let flow = ready!(self.poll_on(cx, blocked, &mut passed));
        self.stop();
        Poll::Ready(flow)
    }

    fn poll_on(
        &mut self,
        cx: &mut Context<'_>,
        blocked: bool,
        passed: &mut impl FnMut(Passed<'_>),
    ) -> Poll<Flow> {
        loop {
            if self.state == State::Trailers {
                return self.poll_trailers(cx, passed);
            }
            if self.held.is_empty() {
                match ready!(self.from.poll_data(cx)) {
                    Some(Ok(data)) => self.held = data,
                    Some(Err(error)) => return Poll::Ready(Flow::Source(error)),
                    None => {
                        self.state = State::Trailers;
                        continue;
                    }
                }
                self.last = self.from.is_end_stream();
                if self.held.is_empty() {
                    // An empty frame without the end has no meaning, and the crate shows none.
                    if self.last {
                        return Poll::Ready(finish(self.to.send_data(Bytes::new(), true)));
                    }
                    continue;
                }
                self.to.reserve_capacity(self.held.len());
            }
            if blocked {
                return Poll::Pending;
            }
            if self.to.capacity() == 0 && !matches!(ready!(self.to.poll_capacity(cx)), Some(Ok(_))) {
                return Poll::Ready(Flow::Sink);
            }
            let chunk = self.held.split_to(self.to.capacity().min(self.held.len()));
            let (bytes, end) = (chunk.len(), self.last && self.held.is_empty());
            if self.to.send_data(chunk, end).is_err() {
                return Poll::Ready(Flow::Sink);
            }
            passed(Passed::Bytes(bytes));
            // A stream that was reset in between has nothing to give back, which is no error here.
            let _ = self.from.flow_control().release_capacity(bytes);
            if end {
                return Poll::Ready(Flow::Done);
            }
        }
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>, passed: &mut impl FnMut(Passed<'_>)) -> Poll<Flow> {
        Poll::Ready(match ready!(self.from.poll_trailers(cx)) {
            Ok(Some(trailers)) => {
                passed(Passed::Trailers(&trailers));
                finish(self.to.send_trailers(trailers))
            }
            Ok(None) => finish(self.to.send_data(Bytes::new(), true)),
            Err(error) => Flow::Source(error),
        })
    }
}

fn finish(sent: Result<(), h2::Error>) -> Flow {
    match sent {
        Ok(()) => Flow::Done,
        Err(_) => Flow::Sink,
    }
}
