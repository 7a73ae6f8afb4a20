// SPDX-License-Identifier: Apache-2.0
//! One direction of a relay: read into the scratch buffer, write at once, keep only what was not taken.
//!
//! While nothing is kept, an idle half owns nothing. While something is, nothing is read, so that a slow reader slows
//! its writer down and costs us at most one scratch buffer.

use super::Endpoint;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncWrite, ReadBuf};

/// Reads and writes per wake-up. A sixteenth of a mebibyte each: a bulk stream then gives way after one mebibyte, some
/// 200 µs, and cannot starve the small ones on its thread.
const ROUNDS: usize = 16;

/// What a wake-up came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Waiting, or taking turns.
    Pending,
    /// The source's FIN was passed on just now.
    JustFinished,
    /// Over since an earlier wake-up.
    Finished,
    /// The source died.
    SourceFailed(io::Error),
    /// The sink died.
    SinkFailed(io::Error),
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Copying,
    /// The source died and the error was heard elsewhere; what it said before is still being read. The end of that is
    /// no FIN, and must not look like one to the sink: a truncated answer would pass for a whole one.
    LastWords,
    /// The source said FIN; everything before it was written.
    ShuttingDown,
    Over,
}

/// What the sink would not take, and how much of it it has taken since.
#[derive(Debug)]
struct Tail {
    bytes: Box<[u8]>,
    written: usize,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Half {
    tail: Option<Box<Tail>>,
    state: State,
}

impl Half {
    /// Moves what can be moved, and adds the number of bytes that the sink took to `moved`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Endpoint,
        sink: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
        mut look: bool,
        moved: &mut u64,
    ) -> Step {
        if self.is_over() {
            return Step::Finished;
        }
        for _ in 0..ROUNDS {
            match self.round(cx, source, sink, scratch, &mut look, moved) {
                Poll::Ready(Ok(())) if self.is_over() => return Step::JustFinished,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(failure)) => {
                    self.abandon();
                    return failure;
                }
                Poll::Pending => return Step::Pending,
            }
        }
        // There is more: to the end of the queue.
        cx.waker().wake_by_ref();
        Step::Pending
    }

    /// Ends at once; what was kept is gone.
    pub(super) fn abandon(&mut self) {
        *self = Self { tail: None, state: State::Over };
    }

    /// Goes on to the end of what the dead source has said.
    pub(super) fn hear_last_words(&mut self) {
        match self.state {
            State::Copying => self.state = State::LastWords,
            // It had said FIN, so nothing more will come.
            State::ShuttingDown => self.state = State::Over,
            State::LastWords | State::Over => {}
        }
    }

    /// Whether a read is what it waits for.
    pub(super) fn reads(&self) -> bool {
        matches!(self.state, State::Copying | State::LastWords) && self.tail.is_none()
    }

    /// Whether nothing more will come.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn round(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Endpoint,
        sink: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
        look: &mut bool,
        moved: &mut u64,
    ) -> Poll<Result<(), Step>> {
        if matches!(self.state, State::ShuttingDown) {
            ready!(Pin::new(sink).poll_shutdown(cx)).map_err(Step::SinkFailed)?;
            self.state = State::Over;
            return Poll::Ready(Ok(()));
        }
        if let Some(tail) = &mut self.tail {
            let n = ready!(write(sink, cx, &tail.bytes[tail.written..]))?;
            tail.written += n;
            *moved += n as u64;
            if tail.written == tail.bytes.len() {
                self.tail = None;
            }
            return Poll::Ready(Ok(()));
        }
        let n = ready!(read(source, cx, scratch, look)).map_err(Step::SourceFailed)?;
        let bytes = &scratch[..n];
        if bytes.is_empty() {
            self.state = match self.state {
                State::LastWords => State::Over,
                _ => State::ShuttingDown,
            };
            return Poll::Ready(Ok(()));
        }
        let taken = match write(sink, cx, bytes) {
            Poll::Ready(taken) => taken?,
            // The sink wakes us when it takes more; until then the bytes are ours.
            Poll::Pending => 0,
        };
        *moved += taken as u64;
        if taken < bytes.len() {
            self.tail = Some(Box::new(Tail { bytes: bytes[taken..].into(), written: 0 }));
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads; while it looks around, first what the runtime may not know of.
fn read(
    source: &mut impl Endpoint,
    cx: &mut Context<'_>,
    scratch: &mut [u8],
    look: &mut bool,
) -> Poll<io::Result<usize>> {
    if *look {
        match source.read_now(scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *look = false,
            done => return Poll::Ready(done),
        }
    }
    let mut buffer = ReadBuf::new(scratch);
    ready!(Pin::new(source).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

fn write(
    sink: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<Result<usize, Step>> {
    match ready!(Pin::new(sink).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Step::SinkFailed(io::ErrorKind::WriteZero.into()))),
        Ok(n) => Poll::Ready(Ok(n)),
        Err(error) => Poll::Ready(Err(Step::SinkFailed(error))),
    }
}
