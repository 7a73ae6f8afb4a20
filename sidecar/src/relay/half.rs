// SPDX-License-Identifier: Apache-2.0
//! One direction of a relay: read into the scratch buffer, write at once, keep only what was not taken.
//!
//! While nothing is kept, an idle half owns nothing. While something is, nothing is read, so that a slow reader slows
//! its writer down and costs us at most one scratch buffer.
//!
//! A stream that proved to be bulk goes through a pipe. Small messages would lose by that (two system calls more, 15 to
//! 20 %), so the proof is strict. At each pause the pipe goes back; the proof stands as long as there is much between two
//! pauses.

use super::pipes::{Fallback, Pipe, Pipes};
use super::{Endpoint, SCRATCH_BYTES};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// Reads and writes per wake-up, for a sink that takes little at a time.
const ROUNDS: usize = 16;

/// After so many bytes per wake-up a bulk stream gives way. A mebibyte takes some 200 µs, so it cannot starve the small
/// ones on its thread; the pipe may add what it holds.
const TURN_BYTES: u64 = 1024 * 1024;

/// What proves that a stream is bulk: so many bytes, and so many full reads in a row. Below, a pipe costs more than it
/// saves.
const BULK_BYTES: u32 = 1024 * 1024;
const BULK_FULL_READS: u8 = 4;

/// The same of a stream that TLS goes over: what counts for a full read.
const LONG_READ: usize = SCRATCH_BYTES / 4 * 3;

/// What is to come between two pauses, or the stream has to prove again that it is bulk.
const BULK_BETWEEN_PAUSES: u32 = SCRATCH_BYTES as u32;

/// What a wake-up came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Waiting, or taking turns.
    Pending,
    /// The source's FIN was passed on just now.
    JustFinished,
    /// Over since an earlier wake-up.
    Finished,
    /// The source died; all that it had said was passed on.
    SourceFailed(io::Error),
    /// The source died; the sink has yet to take what it had said.
    SourceDied(io::Error),
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

/// What a half owns.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// Bytes that the sink would not take.
    Tail(Box<Tail>),
    /// Nothing, but the sink does: it took the bytes (encrypted them) and has not got rid of them yet.
    WithinSink,
    /// The pipe that the stream is spliced through.
    Pipe(Box<Pipe>),
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Half {
    held: Held,
    state: State,
    /// Full reads in a row.
    full_reads: u8,
    /// Bytes copied since the start, or since no pipe was to be had; with a pipe, bytes since the last pause.
    run: u32,
}

/// What a half gets for one wake-up.
pub(super) struct Turn<'a> {
    pub(super) scratch: &'a mut [u8],
    /// Whether to ask the socket itself for bytes that the runtime does not know of.
    pub(super) look: bool,
    /// Whether the other direction came to an orderly end, so that with this one's the connection is closed.
    pub(super) last: bool,
    /// The number of bytes that the sink took is added here.
    pub(super) moved: &'a mut u64,
    pub(super) pipes: &'a Arc<Pipes>,
}

impl Half {
    /// Moves what can be moved.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Endpoint,
        sink: &mut impl Endpoint,
        mut turn: Turn<'_>,
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
                    // The rest of its words is tried again once the whole knows of the death.
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

    /// Ends at once; what was kept is gone.
    pub(super) fn abandon(&mut self) {
        *self = Self { state: State::Over, ..Self::default() };
    }

    /// Goes on to the end of what the dead source has said.
    pub(super) fn hear_last_words(&mut self) {
        match self.state {
            State::Copying => self.state = State::LastWords,
            // It had said FIN, so nothing more will come, but the sink may have to take the rest of what it said. The end
            // of that is no FIN any more: the source is read again, and is at its end.
            State::ShuttingDown if matches!(self.held, Held::Nothing) => self.state = State::Over,
            State::ShuttingDown => self.state = State::LastWords,
            State::LastWords | State::Over => {}
        }
    }

    /// Whether a read is what it waits for.
    pub(super) fn reads(&self) -> bool {
        let keeps = match &self.held {
            Held::Nothing => false,
            Held::Tail(_) | Held::WithinSink => true,
            Held::Pipe(pipe) => !pipe.is_empty(),
        };
        matches!(self.state, State::Copying | State::LastWords) && !keeps
    }

    /// Whether its bytes bypass us.
    pub(super) fn splices(&self) -> bool {
        matches!(self.held, Held::Pipe(_))
    }

    /// Whether nothing more will come.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn round(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Endpoint,
        sink: &mut impl Endpoint,
        turn: &mut Turn<'_>,
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
                    // It takes all that it is given, and keeps it. A slow one is given less.
                    self.full_reads = 0;
                }
                ready!(flushed).map_err(Step::SinkFailed)?;
                self.held = Held::Nothing;
            }
            Held::Pipe(_) => return self.splice(cx, source, sink, turn),
        }
        if matches!(self.state, State::ShuttingDown) {
            // Where both sides have said all, the close that follows at once is this FIN, and saves a system call.
            if !(turn.last && sink.splices()) {
                ready!(Pin::new(sink).poll_shutdown(cx)).map_err(Step::SinkFailed)?;
            }
            self.state = State::Over;
            return Poll::Ready(Ok(()));
        }
        let splices = source.splices() && sink.splices();
        // To look around means to read: the kernel does not splice an urgent byte.
        if splices && self.is_bulk() && !turn.look {
            match turn.pipes.take() {
                Some(pipe) => {
                    self.held = Held::Pipe(Box::new(pipe));
                    self.run = 0;
                    return self.splice(cx, source, sink, turn);
                }
                // The pool is asked again after another mebibyte.
                None => (self.run, self.full_reads) = (0, 0),
            }
        }
        let room = if !splices && self.is_bulk() { turn.scratch.len() } else { SCRATCH_BYTES };
        let heard = ready!(hear(source, cx, turn, room)).map_err(Step::SourceFailed)?;
        let Heard { bytes, full, then } = heard;
        if matches!(then, Then::Fin) {
            match self.state {
                // Of what a dead source said, the end is no FIN; it is read again once all before it was taken.
                State::LastWords if bytes > 0 => {}
                State::LastWords => self.state = State::Over,
                _ => self.state = State::ShuttingDown,
            }
        }
        if bytes == 0 {
            return Poll::Ready(Ok(()));
        }
        let said = &turn.scratch[..bytes];
        // A FIN that follows at once travels in the same packet.
        let last = matches!(then, Then::Fin) && matches!(self.state, State::ShuttingDown);
        let written =
            if last { sink.poll_write_last(cx, said) } else { Pin::new(&mut *sink).poll_write(cx, said) };
        let taken = match taken(written) {
            Poll::Ready(taken) => taken?,
            // The sink wakes us when it takes more; until then the bytes are ours.
            Poll::Pending => 0,
        };
        *turn.moved += taken as u64;
        if taken < bytes {
            self.held = Held::Tail(Box::new(Tail { bytes: turn.scratch[taken..bytes].into(), written: 0 }));
        } else if !sink.splices() {
            // A socket holds nothing back; what is more than a socket is asked.
            self.held = Held::WithinSink;
        }
        match then {
            Then::Death(error) if taken == bytes && sink.splices() => {
                return Poll::Ready(Err(Step::SourceFailed(error)));
            }
            Then::Death(error) => return Poll::Ready(Err(Step::SourceDied(error))),
            Then::Fin | Then::Unknown => {}
        }
        self.run = self.run.saturating_add(bytes as u32);
        // What passes through TLS comes in records, which fill no buffer to the last byte; and a sink that takes less is no
        // reason to keep more for it.
        let full = if splices { full } else { bytes >= LONG_READ && taken == bytes };
        self.full_reads = if full { self.full_reads.saturating_add(1) } else { 0 };
        Poll::Ready(Ok(()))
    }

    fn is_bulk(&self) -> bool {
        self.run >= BULK_BYTES && self.full_reads >= BULK_FULL_READS && matches!(self.state, State::Copying)
    }

    /// Fills the pipe when it is empty, and empties it into the sink.
    fn splice(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Endpoint,
        sink: &mut impl Endpoint,
        turn: &mut Turn<'_>,
    ) -> Poll<Result<(), Step>> {
        let Held::Pipe(pipe) = &mut self.held else { return Poll::Ready(Ok(())) };
        if !pipe.is_empty() {
            return self.empty_pipe(cx, sink, turn);
        }
        let filled = match source.splice_into(pipe) {
            Ok(n @ 1..) => {
                self.run = self.run.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
                return self.empty_pipe(cx, sink, turn);
            }
            other => other,
        };
        // Whatever it was, no pipe is held while there is nothing to put into it.
        self.held = Held::Nothing;
        let enough = self.run >= BULK_BETWEEN_PAUSES;
        self.run = BULK_BYTES;
        match filled {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if enough {
                    return source.poll_readable(cx).map_err(Step::SourceFailed);
                }
            }
            // The end, or an urgent byte in front of it: only a read can tell. The socket itself is to be asked, as the
            // runtime may take it for empty.
            Ok(_) => turn.look = true,
            Err(error) if is_refusal(&error) => {
                self.run = 0;
                turn.pipes.fell_back(Fallback::Refused);
            }
            // Heard here, it would not be heard again.
            Err(error) => return Poll::Ready(Err(Step::SourceFailed(error))),
        }
        self.full_reads = 0;
        Poll::Ready(Ok(()))
    }

    fn empty_pipe(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl Endpoint,
        turn: &mut Turn<'_>,
    ) -> Poll<Result<(), Step>> {
        let Held::Pipe(pipe) = &mut self.held else { return Poll::Ready(Ok(())) };
        let n = ready!(taken(sink.poll_splice_from(cx, pipe)))?;
        *turn.moved += n as u64;
        if !matches!(self.state, State::Copying) && pipe.is_empty() {
            self.held = Held::Nothing;
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether the kernel will not splice, rather than the connection having failed.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, OutOfMemory, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | OutOfMemory | PermissionDenied | Unsupported)
}

/// What a source said, in the scratch buffer.
struct Heard {
    bytes: usize,
    /// Whether it filled the buffer at once.
    full: bool,
    then: Then,
}

/// What a source said next.
enum Then {
    /// Nothing that is known of.
    Unknown,
    /// FIN.
    Fin,
    /// It died, and will not say so again.
    Death(io::Error),
}

/// Reads, and reads on where the runtime knows that there is more: that the source is closed, as a rule, which came with
/// the last bytes. Where it does not, this asks nobody and costs nothing.
fn hear(
    source: &mut impl Endpoint,
    cx: &mut Context<'_>,
    turn: &mut Turn<'_>,
    room: usize,
) -> Poll<io::Result<Heard>> {
    let bytes = ready!(read(source, cx, turn, room))?;
    let full = bytes == room;
    let heard = |bytes, then| Poll::Ready(Ok(Heard { bytes, full, then }));
    if bytes == 0 {
        return heard(0, Then::Fin);
    }
    // What is more than a socket may have more than fits behind what is left of the buffer.
    if full || turn.look || !source.splices() {
        return heard(bytes, Then::Unknown);
    }
    match poll_read(source, cx, &mut turn.scratch[bytes..room]) {
        Poll::Pending => heard(bytes, Then::Unknown),
        Poll::Ready(Ok(0)) => heard(bytes, Then::Fin),
        Poll::Ready(Ok(more)) => heard(bytes + more, Then::Unknown),
        Poll::Ready(Err(error)) => heard(bytes, Then::Death(error)),
    }
}

/// Reads; while it looks around, first what the runtime may not know of.
fn read(
    source: &mut impl Endpoint,
    cx: &mut Context<'_>,
    turn: &mut Turn<'_>,
    room: usize,
) -> Poll<io::Result<usize>> {
    let scratch = &mut turn.scratch[..room];
    if turn.look {
        match source.read_now(scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => turn.look = false,
            done => return Poll::Ready(done),
        }
    }
    poll_read(source, cx, scratch)
}

fn poll_read(source: &mut impl Endpoint, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(Pin::new(source).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// What a write came to.
fn taken(written: Poll<io::Result<usize>>) -> Poll<Result<usize, Step>> {
    match ready!(written) {
        Ok(0) => Poll::Ready(Err(Step::SinkFailed(io::ErrorKind::WriteZero.into()))),
        Ok(n) => Poll::Ready(Ok(n)),
        Err(error) => Poll::Ready(Err(Step::SinkFailed(error))),
    }
}
