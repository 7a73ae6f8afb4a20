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

/// Sender's half of a direction.
pub(crate) struct Source {
    from: RecvStream,
    held: Held,
    state: State,
    /// The sender's end is here.
    whole: bool,
}

/// Direction of one stream.
pub(crate) struct Body {
    pub(super) source: Source,
    pub(crate) to: SendStream<Bytes>,
    /// Bytes of the front that the owner lets pass.
    grant: usize,
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

impl Source {
    pub(crate) fn new(from: RecvStream) -> Self {
        let whole = from.is_end_stream();
        let state = if whole { State::Over } else { State::Open };
        Self { from, held: Held::default(), state, whole }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Returns true for the first call behind the sender's end.
    pub(super) fn take_whole(&mut self) -> bool {
        std::mem::take(&mut self.whole)
    }

    /// Takes all data that the sender's connection has.
    pub(super) fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), h2::Error> {
        while self.state == State::Open {
            match self.from.poll_data(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => (self.state, self.whole) = (State::Trailers, true),
                Poll::Ready(Some(data)) => {
                    let data = data?;
                    if self.from.is_end_stream() {
                        (self.state, self.whole) = (State::Last, true);
                    }
                    if !data.is_empty() {
                        self.held.push(data);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Body {
    pub(crate) const fn new(source: Source, to: SendStream<Bytes>) -> Self {
        Self { source, to, grant: 0 }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.source.is_over()
    }

    /// Returns true if the sender's stream failed by its own doing. What it sent before is dropped.
    pub(crate) fn was_left_by_sender(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match self.source.from.poll_data(cx) {
                Poll::Ready(Some(Ok(_))) => (),
                Poll::Ready(Some(Err(error))) => return error.is_remote(),
                Poll::Ready(None) | Poll::Pending => return true,
            }
        }
    }

    /// Hands on what there is. Nothing is sent while the receiver's socket is blocked.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, blocked: bool, mut sink: impl Sink) -> Poll<Flow> {
        let flow = loop {
            if let Err(error) = self.source.take_in(cx) {
                break Flow::Source(error);
            }
            if self.source.held.is_empty() {
                match self.source.state {
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
        self.source.state = State::Over;
        self.source.held = Held::default();
        Poll::Ready(flow)
    }

    /// Sends what the owner and the receiver's windows allow of the held front.
    fn send(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<Option<Flow>> {
        // The owner is asked first: what is reserved of the connection's window is no other stream's while it waits.
        if self.grant == 0 {
            self.grant = ready!(sink.poll_budget(cx, self.source.held.front()));
        }
        self.to.reserve_capacity(self.grant);
        if self.to.capacity() == 0 {
            match self.to.poll_capacity(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(_))) => (),
                Poll::Ready(_) => return Poll::Ready(Some(Flow::Sink)),
            }
        }
        let data = self.source.held.take(self.to.capacity().min(self.grant));
        self.grant -= data.len();
        let (bytes, end) = (data.len(), self.source.state == State::Last && self.source.held.is_empty());
        if self.to.send_data(data, end).is_err() {
            return Poll::Ready(Some(Flow::Sink));
        }
        sink.passed(Passed::Bytes(bytes));
        // A stream that was reset in between has nothing to give back, which is no error here.
        let _ = self.source.from.flow_control().release_capacity(bytes);
        Poll::Ready(end.then_some(Flow::Done))
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<Flow> {
        self.source.from.poll_trailers(cx).map(|trailers| match trailers {
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
