// SPDX-License-Identifier: Apache-2.0
//! One direction of a relay: read into the scratch buffer, write at once, keep only what was not taken.
//!
//! While nothing is kept, an idle half owns nothing. While something is, nothing is read, so that a slow reader slows
//! its writer down and costs us at most one scratch buffer.
//!
//! A stream that proved to be bulk goes through a pipe. Small messages would lose by that (two system calls more, 15 to
//! 20 %), so the proof is strict. At each pause the pipe goes back; the proof stands as long as there is much between two
//! pauses. A body whose length is said proves it sooner.
//!
//! A gate looks at the bytes between read and write. It keeps those that it does not let pass yet, and says how many it need not
//! see: without a gate all of them.

use super::gate::Gate;
use super::pipes::{Fallback, Pipe, Pipes};
use super::read_ahead::{ReadAhead, Then, read_ahead};
use super::{RelayStream, SCRATCH_BYTES, Side};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Reads and writes per wake-up, for a sink that takes little at a time.
const ROUNDS: usize = 16;

/// Bytes per wake-up, after which a bulk stream yields. A mebibyte takes some 200 µs, so it cannot starve the small ones
/// on its thread; the pipe may add what it holds.
const TURN_BYTES: u64 = 1024 * 1024;

/// Proof that a stream is bulk: this many bytes, and this many full reads in a row. Below, a pipe costs more than it
/// saves.
const BULK_BYTES: u32 = 1024 * 1024;
const BULK_FULL_READS: u8 = 4;

/// Rest of a body that is bulk behind one full read, as its length is said: the splices save more than the pipe costs.
const LONG_BODY: u64 = BULK_BYTES as u64;

/// Bytes that count as a full read of a stream over TLS.
const LONG_READ: usize = SCRATCH_BYTES / 4 * 3;

/// Least bytes between two pauses of a bulk stream. With fewer, it has to prove again that it is bulk.
const BULK_BETWEEN_PAUSES: u32 = SCRATCH_BYTES as u32;

/// Result of a wake-up.
#[derive(Debug)]
pub(super) enum Step {
    /// Waits for a socket, or yields to other tasks.
    Pending,
    /// Passed on the source's FIN just now.
    JustFinished,
    /// Ended in an earlier wake-up.
    Finished,
    /// The source failed; all its bytes were passed on.
    SourceFailed(io::Error),
    /// The source failed; the sink has not taken all its bytes yet.
    SourceDied(io::Error),
    /// The sink failed: it takes no more bytes.
    SinkFailed(io::Error),
}

#[derive(Debug, Default)]
enum HalfState {
    #[default]
    Copying,
    /// The source failed, and the error is known already; bytes that it sent before are still read. Their end is no FIN,
    /// and must not look like one to the sink: a truncated answer would pass for a whole one.
    LastWords,
    /// The source sent FIN; all bytes before it were written.
    ShuttingDown,
    Over,
}

/// Bytes that the sink did not take at once, and how many of them it has taken since.
#[derive(Debug)]
struct Tail {
    bytes: Box<[u8]>,
    written: usize,
}

/// Memory that a half owns.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// Bytes that the sink did not take at once.
    Tail(Box<Tail>),
    /// None, but the sink does: it took the bytes (encrypted them) and has not sent them all yet.
    WithinSink,
    /// Pipe that the stream is spliced through.
    Pipe(Box<Pipe>),
}

impl Held {
    fn tail(bytes: Box<[u8]>) -> Self {
        Self::Tail(Box::new(Tail { bytes, written: 0 }))
    }
}

/// One direction of a relay.
#[derive(Debug, Default)]
pub(super) struct Half {
    held: Held,
    state: HalfState,
    /// Number of full reads in a row.
    full_reads: u8,
    /// True once no pipe was to be had, until there was one.
    lacks_pipe: bool,
    /// Bytes copied since the start, or since no pipe was to be had; with a pipe, bytes since the last pause.
    run: u32,
}

/// Arguments of one wake-up.
pub(super) struct Turn<'a, G> {
    /// The side that is read.
    pub(super) from: Side,
    pub(super) gate: &'a mut G,
    pub(super) scratch: &'a mut [u8],
    /// True if the socket itself is read, for bytes that the runtime does not know of.
    pub(super) check: bool,
    /// True if the other direction came to an orderly end, so that the end of this one closes the connection.
    pub(super) last: bool,
    /// Sum to which the bytes that the sink took are added.
    pub(super) moved: &'a mut u64,
    pub(super) pipes: &'a Arc<Pipes>,
}

impl Half {
    /// Moves all bytes that can be moved without waiting.
    pub(super) fn poll<G: Gate>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl RelayStream,
        sink: &mut impl RelayStream,
        mut turn: Turn<'_, G>,
    ) -> Step {
        if self.is_over() {
            return Step::Finished;
        }
        let enough = *turn.moved + TURN_BYTES;
        for _ in 0..ROUNDS {
            match self.round(cx, source, sink, &mut turn) {
                Poll::Ready(Ok(())) if self.is_over() => return Step::JustFinished,
                Poll::Ready(Ok(())) if *turn.moved >= enough => break,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(died @ Step::SourceDied(_))) => {
                    // Its last bytes are tried again once the relay has recorded the failure.
                    cx.waker().wake_by_ref();
                    return died;
                }
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

    /// Ends at once, and drops the bytes that were kept.
    pub(super) fn abandon(&mut self) {
        *self = Self { state: HalfState::Over, ..Self::default() };
    }

    /// Goes on to the end of the bytes that the failed source has sent.
    pub(super) fn drain_dead_source(&mut self) {
        match self.state {
            HalfState::Copying => self.state = HalfState::LastWords,
            // It had sent FIN, so nothing more comes, but the sink may not have all its bytes yet. Their end is no FIN any
            // more: the source is read again, and is at its end.
            HalfState::ShuttingDown if matches!(self.held, Held::Nothing) => self.state = HalfState::Over,
            HalfState::ShuttingDown => self.state = HalfState::LastWords,
            HalfState::LastWords | HalfState::Over => {}
        }
    }

    /// Returns true if the half waits for a read.
    pub(super) fn reads(&self) -> bool {
        let keeps = match &self.held {
            Held::Nothing => false,
            Held::Tail(_) | Held::WithinSink => true,
            Held::Pipe(pipe) => !pipe.is_empty(),
        };
        matches!(self.state, HalfState::Copying | HalfState::LastWords) && !keeps
    }

    /// Returns true if the bytes are spliced, not copied.
    pub(super) fn splices(&self) -> bool {
        matches!(self.held, Held::Pipe(_))
    }

    /// Returns true if no more bytes come.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, HalfState::Over)
    }

    fn round<G: Gate>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl RelayStream,
        sink: &mut impl RelayStream,
        turn: &mut Turn<'_, G>,
    ) -> Poll<Result<(), Step>> {
        match &mut self.held {
            Held::Nothing => {}
            Held::Tail(tail) => {
                let n = ready!(taken(Pin::new(sink).poll_write(cx, &tail.bytes[tail.written..])))?;
                tail.written += n;
                *turn.moved += n as u64;
                if tail.written == tail.bytes.len() {
                    self.held = Held::WithinSink;
                }
                return Poll::Ready(Ok(()));
            }
            Held::WithinSink => {
                let flushed = Pin::new(&mut *sink).poll_flush(cx);
                if flushed.is_pending() {
                    // Such a sink takes all bytes and keeps them, so a slow one is given fewer.
                    self.full_reads = 0;
                }
                ready!(flushed).map_err(Step::SinkFailed)?;
                self.held = Held::Nothing;
            }
            Held::Pipe(_) => return self.splice(cx, source, sink, turn),
        }
        if let Some(bytes) = turn.gate.take_ready(turn.from) {
            self.held = Held::tail(bytes);
            return Poll::Ready(Ok(()));
        }
        if turn.gate.take_fin(turn.from) {
            self.end_by_gate();
        }
        if matches!(self.state, HalfState::ShuttingDown) {
            // If both sides have sent FIN, the close that follows at once is this FIN, and saves a system call.
            if !(turn.last && sink.splices()) {
                ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Step::SinkFailed)?;
            }
            self.state = HalfState::Over;
        }
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        if turn.gate.holds(turn.from) {
            // The other half sets it free, and wakes the task.
            return Poll::Pending;
        }
        let splices = source.splices() && sink.splices();
        let mut room = SCRATCH_BYTES;
        if self.is_bulk(turn.gate.unseen(turn.from)) {
            if !splices {
                room = turn.scratch.len();
            } else if !turn.check {
                // A check means a read: the kernel does not splice an urgent byte.
                match turn.pipes.take() {
                    Some(pipe) => {
                        self.held = Held::Pipe(Box::new(pipe));
                        (self.run, self.lacks_pipe) = (0, false);
                        return self.splice(cx, source, sink, turn);
                    }
                    // The pool is asked again after another mebibyte.
                    None => (self.run, self.full_reads, self.lacks_pipe) = (0, 0, true),
                }
            }
        }
        let kept = turn.gate.kept(turn.from, turn.scratch);
        let read = ready!(read_ahead(source, cx, (turn.scratch, &mut turn.check), kept..room))
            .map_err(Step::SourceFailed)?;
        let ReadAhead { bytes: came, full, then } = read;
        let bytes = if came == 0 { 0 } else { turn.gate.pass(turn.from, &mut turn.scratch[..kept + came]) };
        if matches!(then, Then::Fin) {
            match self.state {
                // The end of a failed source's bytes is no FIN; it is read again once all before it was taken.
                HalfState::LastWords if came > 0 => {}
                HalfState::LastWords => self.state = HalfState::Over,
                _ if turn.gate.fin(turn.from) => self.state = HalfState::ShuttingDown,
                _ => {}
            }
        }
        let last = bytes > 0 && matches!(self.state, HalfState::Copying) && turn.gate.take_last(turn.from);
        if last {
            self.end_by_gate();
        }
        let last = last || matches!(then, Then::Fin) && matches!(self.state, HalfState::ShuttingDown);
        let taken = if bytes == 0 { 0 } else { self.write(cx, sink, turn, bytes, last)? };
        let waits = turn.gate.holds(turn.from) || turn.gate.has_ready(turn.from);
        self.run = self.run.saturating_add(came as u32);
        // What passes through TLS comes in records, which fill no buffer to the last byte; and a sink that takes less is no
        // reason to keep more for it.
        let full = came >= LONG_READ && if splices { full } else { taken == bytes };
        self.full_reads = if full { self.full_reads.saturating_add(1) } else { 0 };
        match then {
            Then::Death(error) if taken == bytes && sink.splices() && !waits => {
                Poll::Ready(Err(Step::SourceFailed(error)))
            }
            Then::Death(error) => Poll::Ready(Err(Step::SourceDied(error))),
            // Another round would do nothing but ask the runtime again.
            Then::Wait
                if !waits
                    && matches!(self.held, Held::Nothing)
                    && !matches!(self.state, HalfState::ShuttingDown) =>
            {
                if !turn.gate.take_fin(turn.from) {
                    return Poll::Pending;
                }
                self.end_by_gate();
                Poll::Ready(Ok(()))
            }
            Then::Wait | Then::Fin | Then::Unknown => Poll::Ready(Ok(())),
        }
    }

    /// Writes bytes of the scratch buffer, and keeps what is not taken. Returns the number that was.
    fn write<G: Gate>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl RelayStream,
        turn: &mut Turn<'_, G>,
        bytes: usize,
        last: bool,
    ) -> Result<usize, Step> {
        let said = &turn.scratch[..bytes];
        // A FIN that follows at once travels in the same packet.
        let written =
            if last { sink.poll_write_last(cx, said) } else { Pin::new(&mut *sink).poll_write(cx, said) };
        let taken = match taken(written) {
            Poll::Ready(taken) => taken?,
            // The sink wakes us when it takes more; until then the bytes are ours.
            Poll::Pending => 0,
        };
        *turn.moved += taken as u64;
        if taken < bytes {
            self.held = Held::tail(turn.scratch[taken..bytes].into());
        } else if !sink.splices() {
            // A plain socket holds no bytes back; an endpoint over a socket may, so it is flushed.
            self.held = Held::WithinSink;
        }
        Ok(taken)
    }

    /// Ends as the gate wants it: what follows is not passed on.
    fn end_by_gate(&mut self) {
        match self.state {
            HalfState::Copying => self.state = HalfState::ShuttingDown,
            HalfState::LastWords => self.state = HalfState::Over,
            HalfState::ShuttingDown | HalfState::Over => {}
        }
    }

    /// Returns true for a stream whose next bytes, of which so many need not be seen, are worth a pipe.
    fn is_bulk(&self, unseen: u64) -> bool {
        let copied = self.run >= BULK_BYTES;
        let proven = copied && self.full_reads >= BULK_FULL_READS && unseen >= u64::from(BULK_BETWEEN_PAUSES);
        let said =
            (LONG_BODY..u64::MAX).contains(&unseen) && self.full_reads > 0 && (copied || !self.lacks_pipe);
        matches!(self.state, HalfState::Copying) && (proven || said)
    }

    /// Fills the pipe when it is empty, and empties it into the sink.
    fn splice<G: Gate>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl RelayStream,
        sink: &mut impl RelayStream,
        turn: &mut Turn<'_, G>,
    ) -> Poll<Result<(), Step>> {
        let Held::Pipe(pipe) = &mut self.held else { return Poll::Ready(Ok(())) };
        if !pipe.is_empty() {
            return self.empty_pipe(cx, sink, turn);
        }
        let unseen = turn.gate.unseen(turn.from);
        if unseen == 0 {
            // The body ended. What follows has to be seen, and is mostly short.
            self.held = Held::Nothing;
            (self.run, self.full_reads) = (BULK_BYTES, 0);
            return Poll::Ready(Ok(()));
        }
        let filled = match source.splice_into(pipe, unseen) {
            Ok(n @ 1..) => {
                turn.gate.skip(turn.from, n as u64);
                self.run = self.run.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
                return self.empty_pipe(cx, sink, turn);
            }
            other => other,
        };
        // In every case, no pipe is held while there is nothing to put into it.
        self.held = Held::Nothing;
        let enough = self.run >= BULK_BETWEEN_PAUSES;
        self.run = BULK_BYTES;
        match filled {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if enough {
                    return source.poll_readable(cx).map_err(Step::SourceFailed);
                }
            }
            // The end, or an urgent byte in front of it: only a read tells them apart. It goes to the socket itself, as the
            // runtime may take it for empty.
            Ok(_) => turn.check = true,
            Err(error) if is_refusal(&error) => {
                self.run = 0;
                turn.pipes.fell_back(Fallback::Refused);
            }
            // Reported here, the error would not be reported again.
            Err(error) => return Poll::Ready(Err(Step::SourceFailed(error))),
        }
        self.full_reads = 0;
        Poll::Ready(Ok(()))
    }

    fn empty_pipe<G: Gate>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl RelayStream,
        turn: &mut Turn<'_, G>,
    ) -> Poll<Result<(), Step>> {
        let Held::Pipe(pipe) = &mut self.held else { return Poll::Ready(Ok(())) };
        let n = ready!(taken(sink.poll_splice_from(cx, pipe)))?;
        *turn.moved += n as u64;
        if !matches!(self.state, HalfState::Copying) && pipe.is_empty() {
            self.held = Held::Nothing;
        }
        Poll::Ready(Ok(()))
    }
}

/// Returns true if the kernel refuses to splice; other errors are the connection's.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, OutOfMemory, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | OutOfMemory | PermissionDenied | Unsupported)
}

/// Turns the result of a write into the bytes that were taken, or the step that ends the wake-up.
fn taken(written: Poll<io::Result<usize>>) -> Poll<Result<usize, Step>> {
    match ready!(written) {
        Ok(0) => Poll::Ready(Err(Step::SinkFailed(io::ErrorKind::WriteZero.into()))),
        Ok(n) => Poll::Ready(Ok(n)),
        Err(error) => Poll::Ready(Err(Step::SinkFailed(error))),
    }
}
