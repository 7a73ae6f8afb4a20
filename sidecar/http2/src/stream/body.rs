// SPDX-License-Identifier: Apache-2.0
//! One direction of a stream: data and trailers from one side to the other.
//!
//! Credit goes back to the sender only for what the other side's send buffer took, and that takes only what its peer's windows
//! allow. So a stream holds at most its receive window and its send buffer, in each direction.

use super::held::Held;
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use std::task::{Context, Poll, ready};

/// Direction of one stream.
pub(crate) struct Body {
    from: RecvStream,
    pub(crate) to: SendStream<Bytes>,
    held: Held,
    /// Bytes of the front that the owner lets pass.
    grant: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The sender goes on.
    Open,
    /// What is held is the end of the stream.
    Last,
    /// Trailers, or an end without any, come behind what is held.
    Trailers,
    Over,
}

/// Part of a body that was handed on.
pub(crate) enum Passed<'a> {
    Bytes(usize),
    Trailers(&'a HeaderMap),
}

/// Owner of a direction's bytes.
pub(crate) trait Sink {
    /// Returns how many of the wanted bytes may be handed on now.
    fn poll_budget(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize>;

    /// Notes a part that was handed on.
    fn passed(&mut self, part: Passed<'_>);
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
        let state = if over { State::Over } else { State::Open };
        Self { from, to, held: Held::default(), grant: 0, state }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
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

    /// Hands on what there is. Nothing is sent while the receiver's socket is blocked.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, blocked: bool, mut sink: impl Sink) -> Poll<Flow> {
        let flow = loop {
            if let Err(error) = self.take_in(cx) {
                break Flow::Source(error);
            }
            if self.held.is_empty() {
                match self.state {
                    State::Open => return Poll::Pending,
                    State::Last => break finish(self.to.send_data(Bytes::new(), true)),
                    State::Trailers => match self.poll_trailers(cx, &mut sink) {
                        Poll::Ready(flow) => break flow,
                        Poll::Pending => return Poll::Pending,
                    },
                    State::Over => break Flow::Done,
                }
            }
            if blocked {
                return Poll::Pending;
            }
            match self.send(cx, &mut sink) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(flow)) => break flow,
                Poll::Ready(None) => (),
            }
        };
        self.state = State::Over;
        self.held = Held::default();
        Poll::Ready(flow)
    }

    /// Takes all data that the sender's connection has.
    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), h2::Error> {
        while self.state == State::Open {
            match self.from.poll_data(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.state = State::Trailers,
                Poll::Ready(Some(data)) => {
                    let data = data?;
                    if self.from.is_end_stream() {
                        self.state = State::Last;
                    }
                    if !data.is_empty() {
                        self.held.push(data);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends what the owner and the receiver's windows allow of the held front.
    fn send(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<Option<Flow>> {
        // The owner is asked first: what is reserved of the connection's window is no other stream's while it waits.
        if self.grant == 0 {
            self.grant = ready!(sink.poll_budget(cx, self.held.front()));
        }
        self.to.reserve_capacity(self.grant);
        if self.to.capacity() == 0 {
            match self.to.poll_capacity(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(_))) => (),
                Poll::Ready(_) => return Poll::Ready(Some(Flow::Sink)),
            }
        }
        let data = self.held.take(self.to.capacity().min(self.grant));
        self.grant -= data.len();
        let (bytes, end) = (data.len(), self.state == State::Last && self.held.is_empty());
        if self.to.send_data(data, end).is_err() {
            return Poll::Ready(Some(Flow::Sink));
        }
        sink.passed(Passed::Bytes(bytes));
        // A stream that was reset in between has nothing to give back, which is no error here.
        let _ = self.from.flow_control().release_capacity(bytes);
        Poll::Ready(end.then_some(Flow::Done))
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<Flow> {
        self.from.poll_trailers(cx).map(|trailers| match trailers {
            Ok(Some(trailers)) => {
                sink.passed(Passed::Trailers(&trailers));
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
