// SPDX-License-Identifier: Apache-2.0
//! Moves bytes between two streams like a wire would: half-close stays half-close, a reset becomes a reset.
//!
//! One [`Relay`] drives both halves from one task. It owns no buffer: bytes pass through a scratch buffer that each
//! worker thread has once, and only what the other side would not take at once is kept (see [`half`]). A stream that
//! proves to be bulk passes through a pipe instead, without being copied (see [`pipes`]). The relay knows nothing of
//! policy: the owner of the connection observes and stops it through [`Watch`].
//!
//! Between the halves stands a [`Gate`]: none for TCP ([`Open`]), or a reader of HTTP messages ([`http`]).

mod gate;
mod half;
pub(crate) mod http;
pub(crate) mod pipes;
mod read_ahead;

use crate::net::bind::keepalive;
pub(crate) use gate::{Gate, Open};
use half::{Half, Step, Turn};
use nix::libc::{MSG_MORE, MSG_NOSIGNAL};
use pipes::{Pipe, Pipes};
use socket2::SockRef;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

/// Size of a worker's scratch buffer, so of the largest read. From 8 to 64 KiB the CPU time per byte halves; beyond,
/// the buffer falls out of the second-level cache and nothing is gained.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// Scratch bytes of a bulk stream over TLS. Each write wakes its reader, which costs as much as AES over some 30 KiB: with
/// twice the buffer a stream takes 0.9 of the CPU time and moves 1.1 times as much. Beyond, nothing is gained.
pub(crate) const LONG_SCRATCH_BYTES: usize = 2 * SCRATCH_BYTES;

thread_local! {
    /// Large enough for TLS; the kernel gives memory only to the part that is used.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONG_SCRATCH_BYTES].into_boxed_slice());
}

/// Lends this worker's scratch buffer.
pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| work(&mut scratch[..SCRATCH_BYTES]))
}

/// One end of a relayed connection.
pub(crate) trait RelayStream: AsyncRead + AsyncWrite + Unpin {
    /// Takes the socket's pending error (`SO_ERROR`): the one that ended the connection and was not reported yet.
    fn pending_error(&self) -> Option<io::Error>;

    /// Reads what the kernel has, past the runtime, which may believe that there is nothing: it takes a short read for
    /// the last, but a read also stops in front of an urgent byte. An endpoint that is more than its socket says
    /// `WouldBlock`.
    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes bytes that a FIN follows at once, so that the kernel may send both in one packet.
    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }

    /// Switches TCP keepalive on, with this idle time. Called at a check, so never for a short connection: the three system
    /// calls are a tenth of what that costs.
    fn keep_alive(&self, after: Duration) {
        let _ = after;
    }

    /// Returns true if the endpoint is nothing but a socket, so that its bytes may be spliced.
    fn splices(&self) -> bool {
        false
    }

    /// Moves received bytes into an empty pipe, at most so many. 0 and errors are no proof of the stream's end, as the kernel also stops
    /// splicing in front of an urgent byte: only a read tells them apart.
    fn splice_into(&self, pipe: &mut Pipe, most: u64) -> io::Result<usize> {
        let _ = (pipe, most);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Waits until there may be bytes to splice.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Moves the bytes of a pipe to the peer.
    fn poll_splice_from(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        let _ = (cx, pipe);
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl RelayStream for TcpStream {
    fn pending_error(&self) -> Option<io::Error> {
        self.take_error().ok().flatten()
    }

    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut &*SockRef::from(self), buffer)
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        poll_write_io(self, cx, || SockRef::from(&*self).send_with_flags(bytes, MSG_MORE | MSG_NOSIGNAL))
    }

    fn keep_alive(&self, after: Duration) {
        if let Err(error) = SockRef::from(self).set_tcp_keepalive(&keepalive(after)) {
            tracing::debug!(%error, "a peer that vanishes will be noticed by the idle timeout only");
        }
    }

    fn splices(&self) -> bool {
        true
    }

    fn splice_into(&self, pipe: &mut Pipe, most: u64) -> io::Result<usize> {
        self.try_io(Interest::READABLE, || pipe.fill(self, most))
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_splice_from(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        poll_write_io(self, cx, || pipe.drain(self))
    }
}

/// Calls `write` as soon as the socket takes bytes, and again after each "would block".
fn poll_write_io(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    mut write: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        match stream.try_io(Interest::WRITABLE, &mut write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(stream.poll_write_ready(cx))?,
            done => return Poll::Ready(done),
        }
    }
}

/// Owner of a relayed connection: counts its bytes, and says when it has to stop.
pub(crate) trait Watch {
    type Stop;
    /// Returns a reason to stop at once, or registers the task to be woken when there is one. Called first on each wake-up.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<Self::Stop>;
    /// Counts the bytes of one wake-up. Called at most once per wake-up, and not when nothing moved.
    fn moved(&mut self, bytes: Moved);
    /// Records that a side sent FIN. Called once for each side.
    fn half_closed(&mut self, by: Side);
    /// Records if a side is not being read, so that its reset would go unnoticed: see [`Relay::poll`]. Called when it
    /// changes.
    fn not_read(&mut self, not_read: bool);
    /// Returns true if the sockets have to be checked now, for a reset or for bytes that the runtime does not know of.
    /// Called once per wake-up. The owner wakes the task and returns true now and then while a side is not read, and once
    /// after the connection fell silent.
    fn check_due(&mut self) -> bool;
    /// TCP keepalive idle time towards the server; `None` = off.
    fn keep_alive(&self) -> Option<Duration>;
    /// Pool of pipes for bulk streams.
    fn pipes(&self) -> &Arc<Pipes>;
    /// Records the directions that are spliced, not copied. Called when it changes.
    fn mode(&mut self, mode: Mode);
}

/// The directions that are spliced; the others are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) splices_to_server: bool,
    pub(crate) splices_to_client: bool,
}

/// Bytes that moved in one wake-up, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) to_server: u64,
    pub(crate) to_client: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The peer that opened the connection.
    Client,
    /// The peer that the sidecar dialled.
    Server,
}

/// The end of a relay.
#[derive(Debug)]
pub(crate) enum End<S> {
    /// Both sides sent FIN. An endpoint over a plain socket may get the last one by the close that is due now.
    Closed,
    /// A side failed; the caller resets the other.
    Died(Side, io::Error),
    /// The owner stopped it; the caller resets both.
    Stopped(S),
}

/// State of the two halves: a few machine words, and nothing on the heap unless a side is slow.
#[derive(Debug)]
pub(crate) struct Relay<G = Open> {
    gate: G,
    to_server: Half,
    to_client: Half,
    dead: Option<Dead>,
    not_read: bool,
    mode: Mode,
}

/// A side that takes nothing more. Its last bytes may still wait to be read (a server that answers "too large" and
/// resets), so the relay goes on in that direction, as long as the other side takes them.
#[derive(Debug)]
struct Dead {
    side: Side,
    error: io::Error,
    /// True if bytes moved since the last check of the sockets.
    progressed: bool,
}

// === impl Relay ===

impl Default for Relay {
    fn default() -> Self {
        Self::through(Open)
    }
}

impl<G: Gate> Relay<G> {
    /// Relays what the gate lets pass.
    pub(crate) fn through(gate: G) -> Self {
        Self {
            gate,
            to_server: Half::default(),
            to_client: Half::default(),
            dead: None,
            not_read: false,
            mode: Mode::default(),
        }
    }

    /// Returns the gate.
    pub(crate) fn gate(&self) -> &G {
        &self.gate
    }

    /// Returns the gate, to be told of the time. The relay is to be polled then.
    pub(crate) fn gate_mut(&mut self) -> &mut G {
        &mut self.gate
    }

    /// Moves all bytes that can be moved without waiting.
    ///
    /// A side that is not being read (it sent FIN, or the other side takes nothing more) cannot report a reset by way of
    /// a read. So the owner learns by [`Watch::not_read`] that this is the case, and the sockets themselves are checked
    /// when [`Watch::check_due`] says so.
    pub(crate) fn poll<C: RelayStream, S: RelayStream, W: Watch>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        server: &mut S,
        watch: &mut W,
    ) -> Poll<End<W::Stop>> {
        if let Poll::Ready(stop) = watch.poll_stop(cx) {
            return Poll::Ready(End::Stopped(stop));
        }
        let check = watch.check_due();
        if check && let Some(after) = watch.keep_alive() {
            // An accepted socket inherits keepalive from its listener.
            server.keep_alive(after);
        }
        let mut moved = Moved::default();
        let step = SCRATCH.with_borrow_mut(|scratch| {
            let last = self.to_client.is_over() && self.dead.is_none();
            let (gate, moved, pipes) = (&mut self.gate, &mut moved.to_server, watch.pipes());
            let turn = Turn { from: Side::Client, gate, scratch, check, last, moved, pipes };
            self.to_server.poll(cx, client, server, turn)
        });
        let first = self.apply(step, Side::Client, Side::Server, watch);
        // The step before may have found the server dead: the end of its bytes is then no FIN.
        let step = SCRATCH.with_borrow_mut(|scratch| {
            let last = self.to_server.is_over() && self.dead.is_none() && !self.gate.lingers();
            let (gate, moved, pipes) = (&mut self.gate, &mut moved.to_client, watch.pipes());
            let turn = Turn { from: Side::Server, gate, scratch, check, last, moved, pipes };
            self.to_client.poll(cx, server, client, turn)
        });
        let second = self.apply(step, Side::Server, Side::Client, watch);
        if self.gate.cuts_client() {
            // The rest of a refused message is not for the server.
            self.to_server.abandon();
        }
        if self.gate.take_stirred() {
            // There is something for the half that was polled first.
            cx.waker().wake_by_ref();
        }
        if moved != Moved::default() {
            watch.moved(moved);
            if let Some(dead) = &mut self.dead {
                dead.progressed = true;
            }
        }
        if let Some((side, error)) = first.or(second) {
            return Poll::Ready(End::Died(side, error));
        }

        let client_unread = !self.to_server.reads() || self.gate.holds(Side::Client);
        let server_unread = !self.to_client.reads() || self.gate.holds(Side::Server);
        let not_read = client_unread || server_unread || self.dead.is_some();
        if not_read && check {
            if let Some(dead) = &mut self.dead {
                if !std::mem::take(&mut dead.progressed) {
                    // The live side does not take the last bytes. Waiting longer would only delay its reset.
                    self.to_server.abandon();
                    self.to_client.abandon();
                }
            } else if let Some(error) = client.pending_error().filter(|_| client_unread) {
                self.mark_dead(Side::Client, error);
            } else if let Some(error) = server.pending_error().filter(|_| server_unread) {
                self.mark_dead(Side::Server, error);
            }
        }
        if let Some(end) = self.end() {
            return Poll::Ready(end);
        }
        if self.not_read != not_read {
            self.not_read = not_read;
            watch.not_read(not_read);
        }
        let mode =
            Mode { splices_to_server: self.to_server.splices(), splices_to_client: self.to_client.splices() };
        if self.mode != mode {
            self.mode = mode;
            watch.mode(mode);
        }
        Poll::Pending
    }

    /// Applies the step of one half to the connection. Returns the side that failed, if no more bytes come from it.
    ///
    /// Inlined, as nearly all steps are [`Step::Pending`], which is nothing to do.
    #[inline(always)]
    fn apply<W: Watch>(
        &mut self,
        step: Step,
        source: Side,
        sink: Side,
        watch: &mut W,
    ) -> Option<(Side, io::Error)> {
        match step {
            Step::Pending | Step::Finished => {}
            Step::JustFinished => watch.half_closed(source),
            // All its bytes were passed on before: reads report an error last.
            Step::SourceFailed(error) => return Some((source, error)),
            Step::SourceDied(error) => self.mark_dead(source, error),
            Step::SinkFailed(error) => self.mark_dead(sink, error),
        }
        None
    }

    /// Stops writing to a side that failed, and reads its last bytes.
    fn mark_dead(&mut self, side: Side, error: io::Error) {
        let (to_dead, from_dead) = match side {
            Side::Client => (&mut self.to_client, &mut self.to_server),
            Side::Server => (&mut self.to_server, &mut self.to_client),
        };
        to_dead.abandon();
        from_dead.drain_dead_source();
        // The closing record names the side that failed first.
        self.dead.get_or_insert(Dead { side, error, progressed: true });
    }

    fn end<S>(&mut self) -> Option<End<S>> {
        let (to_server, to_client) = (self.to_server.is_over(), self.to_client.is_over());
        let over = match self.dead.as_ref().map(|dead| dead.side) {
            None => to_server && to_client,
            // The half that reads from the dead side has come to its end.
            Some(Side::Server) => to_client,
            Some(Side::Client) => to_server,
        };
        if !over {
            return None;
        }
        Some(match self.dead.take() {
            None => End::Closed,
            Some(Dead { side, error, .. }) => End::Died(side, error),
        })
    }
}

#[cfg(test)]
mod tests;
