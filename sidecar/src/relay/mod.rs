// SPDX-License-Identifier: Apache-2.0
//! Moves bytes between two streams like a wire would: half-close stays half-close, a reset becomes a reset.
//!
//! One [`Relay`] drives both halves from one task. It owns no buffer: bytes pass through a scratch buffer that each
//! worker thread has once, and only what the other side would not take at once is kept (see [`half`]). A stream that
//! proves to be bulk passes through a pipe instead, without being copied (see [`pipes`]). The relay knows nothing of
//! policy: whoever owns the connection watches it through [`Watch`].

mod half;
pub mod pipes;

use crate::net::bind::keepalive;
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

/// The same for a stream that TLS goes over, once it proved to be bulk. Each write wakes whoever reads it, which costs as
/// much as AES over some 30 KiB: twice as long, a stream takes 0.9 of the CPU time and moves 1.1 as much. Beyond, nothing
/// is gained.
pub(crate) const LONG_SCRATCH_BYTES: usize = 2 * SCRATCH_BYTES;

thread_local! {
    /// The kernel gives memory to the part that is used.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONG_SCRATCH_BYTES].into_boxed_slice());
}

/// Lends this worker's scratch buffer.
pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| work(&mut scratch[..SCRATCH_BYTES]))
}

/// One end of a relayed connection.
pub trait Endpoint: AsyncRead + AsyncWrite + Unpin {
    /// The error that the connection died of, if it did and nobody was told yet.
    fn pending_error(&self) -> Option<io::Error>;

    /// Reads what the kernel has, past the runtime, which may believe that there is nothing: it takes a short read for
    /// the last, but a read also stops in front of an urgent byte. An endpoint that is more than its socket says
    /// `WouldBlock`.
    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes what FIN follows at once, so that the kernel may wait for that and send both together.
    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }

    /// It has become quiet: from here on the kernel is to ask whether the peer is still there, after a silence of so
    /// long. Not before, as three system calls are a tenth of what a short connection costs.
    fn keep_alive(&self, after: Duration) {
        let _ = after;
    }

    /// Whether it is nothing but a socket, so that its bytes may bypass us.
    fn splices(&self) -> bool {
        false
    }

    /// Moves what it says into an empty pipe. 0 and any error say nothing of the stream's end but that it is to be read
    /// to find out: the kernel stops splicing in front of an urgent byte.
    fn splice_into(&self, pipe: &mut Pipe) -> io::Result<usize> {
        let _ = pipe;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Waits until there may be something to splice.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Moves what a pipe holds into it.
    fn poll_splice_from(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        let _ = (cx, pipe);
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl Endpoint for TcpStream {
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

    fn splice_into(&self, pipe: &mut Pipe) -> io::Result<usize> {
        self.try_io(Interest::READABLE, || pipe.fill(self))
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_splice_from(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        poll_write_io(self, cx, || pipe.drain(self))
    }
}

/// Does what writes to a socket as soon as it takes something.
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

/// Whoever owns a relayed connection.
pub trait Watch {
    /// Why to stop, if it is to stop at once; registers the task to be woken when that changes.
    type Stop;
    /// Asked first thing on each wake-up.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<Self::Stop>;
    /// Bytes that moved during one wake-up. Called at most once per wake-up, and not when nothing moved.
    fn moved(&mut self, bytes: Moved);
    /// Which sides said FIN. Called when it changes.
    fn half_closed(&mut self, by: Side);
    /// Whether one side is not being read, so that its reset would go unnoticed: see [`Relay::poll`]. Called when it
    /// changes.
    fn deaf(&mut self, deaf: bool);
    /// Whether to look around now, for a reset or for bytes that the runtime does not know of. Asked once per wake-up.
    /// Whoever watches wakes the task and says yes now and then while a side is deaf, and once after bytes moved and no
    /// more came.
    fn look(&mut self) -> bool;
    /// After how long a silence the kernel is to ask whether the server is still there, if at all.
    fn keep_alive(&self) -> Option<Duration>;
    /// Where pipes for bulk streams come from.
    fn pipes(&self) -> &Arc<Pipes>;
    /// Which ways the bytes are spliced rather than copied. Called when it changes.
    fn mode(&mut self, mode: Mode);
}

/// How bytes are moved each way: whether spliced, else copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// From the client to the server.
    pub splices_to_server: bool,
    /// From the server to the client.
    pub splices_to_client: bool,
}

/// Bytes that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the client to the server.
    pub to_server: u64,
    /// From the server to the client.
    pub to_client: u64,
}

/// A side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one who dialled.
    Client,
    /// The one who was dialled.
    Server,
}

/// How a relay ended.
#[derive(Debug)]
pub enum End<S> {
    /// Both sides said FIN, and one got the other's; the other gets it where it is no more than a socket by the close
    /// that is due now, else it got it too.
    Closed,
    /// A side died; the other is to be reset.
    Died(Side, io::Error),
    /// The owner said so; both are to be reset.
    Stopped(S),
}

/// The state of the two halves: a few words, and nothing on the heap unless a side is slow.
#[derive(Debug, Default)]
pub struct Relay {
    to_server: Half,
    to_client: Half,
    dead: Option<Dead>,
    deaf: bool,
    mode: Mode,
}

/// A side that takes nothing more. Its last words may still be waiting to be read (a server that answers "too large"
/// and resets), so the relay goes on in that direction, as long as the other side takes them.
#[derive(Debug)]
struct Dead {
    side: Side,
    error: io::Error,
    /// Whether anything moved since the last look.
    progressed: bool,
}

// === impl Relay ===

impl Relay {
    /// Moves what can be moved without waiting.
    ///
    /// A side that is not being read (it said FIN, or the other side takes nothing more) cannot tell us of a reset by
    /// way of a read. So this tells the owner that it is deaf, and asks the sockets themselves when the owner says so.
    pub fn poll<C: Endpoint, S: Endpoint, W: Watch>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        server: &mut S,
        watch: &mut W,
    ) -> Poll<End<W::Stop>> {
        if let Poll::Ready(stop) = watch.poll_stop(cx) {
            return Poll::Ready(End::Stopped(stop));
        }
        let look = watch.look();
        if look && let Some(after) = watch.keep_alive() {
            // What was accepted has it from its listener.
            server.keep_alive(after);
        }
        let mut moved = Moved::default();
        let step = SCRATCH.with_borrow_mut(|scratch| {
            let last = self.to_client.is_over() && self.dead.is_none();
            let turn = Turn { scratch, look, last, moved: &mut moved.to_server, pipes: watch.pipes() };
            self.to_server.poll(cx, client, server, turn)
        });
        let first = self.judge(step, Side::Client, Side::Server, watch);
        // In between, a server that died became known as dead: the end of what it said is then no FIN.
        let step = SCRATCH.with_borrow_mut(|scratch| {
            let last = self.to_server.is_over() && self.dead.is_none();
            let turn = Turn { scratch, look, last, moved: &mut moved.to_client, pipes: watch.pipes() };
            self.to_client.poll(cx, server, client, turn)
        });
        let second = self.judge(step, Side::Server, Side::Client, watch);
        if moved != Moved::default() {
            watch.moved(moved);
            if let Some(dead) = &mut self.dead {
                dead.progressed = true;
            }
        }
        if let Some((side, error)) = first.or(second) {
            return Poll::Ready(End::Died(side, error));
        }

        let client_unread = !self.to_server.reads();
        let server_unread = !self.to_client.reads();
        let deaf = client_unread || server_unread || self.dead.is_some();
        if deaf && look {
            if let Some(dead) = &mut self.dead {
                if !std::mem::take(&mut dead.progressed) {
                    // Nobody takes the last words. Waiting on would keep the reset from the side that is alive.
                    self.to_server.abandon();
                    self.to_client.abandon();
                }
            } else if let Some(error) = client.pending_error().filter(|_| client_unread) {
                self.bury(Side::Client, error);
            } else if let Some(error) = server.pending_error().filter(|_| server_unread) {
                self.bury(Side::Server, error);
            }
        }
        if let Some(end) = self.end() {
            return Poll::Ready(end);
        }
        if self.deaf != deaf {
            self.deaf = deaf;
            watch.deaf(deaf);
        }
        let mode =
            Mode { splices_to_server: self.to_server.splices(), splices_to_client: self.to_client.splices() };
        if self.mode != mode {
            self.mode = mode;
            watch.mode(mode);
        }
        Poll::Pending
    }

    /// What a half's step means for the whole; the side that died, if nothing more is to come from it.
    fn judge<W: Watch>(
        &mut self,
        step: Step,
        source: Side,
        sink: Side,
        watch: &mut W,
    ) -> Option<(Side, io::Error)> {
        match step {
            Step::Pending | Step::Finished => {}
            Step::JustFinished => watch.half_closed(source),
            // Everything that it had said was passed on before: reads report an error last.
            Step::SourceFailed(error) => return Some((source, error)),
            Step::SourceDied(error) => self.bury(source, error),
            Step::SinkFailed(error) => self.bury(sink, error),
        }
        None
    }

    /// Stops writing to a side that died.
    fn bury(&mut self, side: Side, error: io::Error) {
        let (to_dead, from_dead) = match side {
            Side::Client => (&mut self.to_client, &mut self.to_server),
            Side::Server => (&mut self.to_server, &mut self.to_client),
        };
        to_dead.abandon();
        from_dead.hear_last_words();
        // The first to die is the one to name.
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
