// SPDX-License-Identifier: Apache-2.0
//! State that the streams of a session, its two connections and the owner's handle share.
//!
//! All of it is used by the one task of the session, but for the handle: locks and atomics are there so that the task may move.

use crate::reply::Reply;
use crate::rules::{Failure, Peer};
use crate::settings::{Rate, Settings};
use bytes::Bytes;
use h2::client::SendRequest;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use tokio::sync::Semaphore;

/// One side's connection as its streams see it.
#[derive(Debug)]
pub(crate) struct Side {
    /// Its socket takes no bytes.
    ///
    /// Streams that send to it wait, or each would fill a send buffer of its own.
    pub(crate) blocked: AtomicBool,
    /// It took bytes that it still holds, as TLS does, and takes no more before they are gone.
    pub(crate) unflushed: AtomicBool,
    /// All that the h2 crate had for the peer was written when the round began.
    pub(crate) drained: AtomicBool,
    /// The peer sent too many frames of control, or too many that came late.
    pub(crate) flooded: AtomicBool,
    /// Bytes that may still be read in this round; without rounds, as many as there are.
    pub(crate) share: AtomicUsize,
}

impl Side {
    const fn new() -> Self {
        Self {
            blocked: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            flooded: AtomicBool::new(false),
            share: AtomicUsize::new(usize::MAX),
        }
    }

    /// Begins a round in which as many bytes may be read.
    pub(crate) fn begin_round(&self, share: usize) {
        self.share.store(share, Relaxed);
        // Each look at a connection writes until its socket takes no more, so one that takes bytes has them all.
        self.drained.store(!self.blocked.load(Relaxed) && !self.unflushed.load(Relaxed), Relaxed);
    }

    /// True if there may be more to read than the share of this round.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.share.load(Relaxed) == 0
    }
}

/// Server's connection as its streams see it.
#[derive(Clone)]
pub(crate) enum Server {
    /// Not asked for, or being connected.
    Away,
    /// Takes requests.
    Ready(SendRequest<Bytes>),
    /// Takes no more requests: they are refused, and safe to repeat.
    Leaving,
    /// Could not be reached; the answer to each request.
    Failed(Reply),
    /// Ended before a request went to it.
    Broken(Failure),
}

pub(crate) struct Link {
    pub(crate) settings: Settings,
    pub(crate) client: Side,
    pub(crate) server: Side,
    /// Streams that the server still takes: none before it is connected.
    ///
    /// Closed when it takes no more.
    pub(crate) slots: Arc<Semaphore>,
    upstream: Mutex<Server>,
    /// What the task has to do.
    pub(crate) flags: Flags,
    /// Streams under way.
    pub(crate) streams: AtomicUsize,
    resets: Mutex<Rate>,
    session: Mutex<Option<Waker>>,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
pub(crate) struct Flags {
    /// A stream wants the server.
    pub(crate) wanted: AtomicBool,
    /// A request went to the server.
    pub(crate) used: AtomicBool,
    /// The task is polled.
    pub(crate) inside: AtomicBool,
    /// Something is to be done in another round.
    pub(crate) again: AtomicBool,
    /// The owner drains.
    pub(crate) draining: AtomicBool,
    /// The client reset too many streams.
    pub(crate) reset_too_often: AtomicBool,
    /// The client's connection ended.
    pub(crate) client_gone: AtomicBool,
    /// Number of the owner's last sweep.
    pub(crate) sweep: AtomicU32,
}

/// Wakers of the streams, to wake many of them.
#[derive(Default)]
struct Seats {
    seats: Vec<Seat>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Seat {
    waker: Option<Waker>,
    /// It found a socket blocked.
    waits: bool,
}

/// Takes a lock also after a panic of another holder: the state is a plain value at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            client: Side::new(),
            server: Side::new(),
            slots: Arc::new(Semaphore::new(0)),
            upstream: Mutex::new(Server::Away),
            flags: Flags::default(),
            streams: AtomicUsize::new(0),
            resets: Mutex::new(Rate::of_resets(&settings)),
            session: Mutex::new(None),
            seats: Mutex::default(),
        }
    }

    pub(crate) fn side(&self, peer: Peer) -> &Side {
        match peer {
            Peer::Client => &self.client,
            Peer::Server => &self.server,
        }
    }

    pub(crate) fn upstream(&self) -> Server {
        lock(&self.upstream).clone()
    }

    /// Notes what became of the server; one that takes no requests lets those that wait for it go.
    pub(crate) fn set_upstream(&self, server: Server) {
        let closed = !matches!(server, Server::Away | Server::Ready(_));
        *lock(&self.upstream) = server;
        if closed {
            self.slots.close();
        }
    }

    /// Notes an early reset by the client of a stream that had reached the server.
    pub(crate) fn client_reset(&self) {
        if !lock(&self.resets).spend(1) {
            self.flags.reset_too_often.store(true, Relaxed);
            self.wake_session();
        }
    }

    /// Notes a stream that ended well.
    pub(crate) fn completed(&self) {
        lock(&self.resets).earn(1);
    }

    /// Notes the waker of the session's task.
    pub(crate) fn attend(&self, waker: &Waker) {
        let mut session = lock(&self.session);
        if !session.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *session = Some(waker.clone());
        }
    }

    /// Leads to another round: of the poll that is going on, or of the task's next one.
    pub(crate) fn wake_session(&self) {
        self.flags.again.store(true, SeqCst);
        if !self.flags.inside.load(SeqCst)
            && let Some(waker) = &*lock(&self.session)
        {
            waker.wake_by_ref();
        }
    }

    /// Lets go what would hold the task and the connections as long as a handle lives.
    fn release(&self) {
        self.set_upstream(Server::Leaving);
        *lock(&self.session) = None;
    }

    /// Notes the waker of a stream for its whole life: the set of streams gives each one that never changes.
    pub(crate) fn sit(&self, waker: &Waker) -> usize {
        let mut seats = lock(&self.seats);
        let number = seats.free.pop().unwrap_or_else(|| {
            seats.seats.push(Seat::default());
            seats.seats.len() - 1
        });
        seats.seats[number] = Seat { waker: Some(waker.clone()), waits: false };
        number
    }

    pub(crate) fn rise(&self, seat: usize) {
        let mut seats = lock(&self.seats);
        seats.seats[seat] = Seat::default();
        seats.free.push(seat);
    }

    /// Notes that a stream waits for a blocked socket.
    pub(crate) fn wait(&self, seat: usize) {
        lock(&self.seats).seats[seat].waits = true;
    }

    /// Wakes the streams that wait for a blocked socket.
    pub(crate) fn unblock(&self) {
        for seat in &mut lock(&self.seats).seats {
            if std::mem::take(&mut seat.waits)
                && let Some(waker) = &seat.waker
            {
                waker.wake_by_ref();
            }
        }
    }

    pub(crate) fn wake_streams(&self) {
        for waker in lock(&self.seats).seats.iter().filter_map(|seat| seat.waker.as_ref()) {
            waker.wake_by_ref();
        }
    }
}

/// Waker of the connections and of the set of streams.
///
/// A stream that sends wakes its connection, which is looked at in the next round of the same poll; the task need not be woken.
impl Wake for Link {
    fn wake(self: Arc<Self>) {
        self.wake_session();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_session();
    }
}

/// Life of a session's future: at its end the link lets go what it holds.
pub(crate) struct Life(pub(crate) Arc<Link>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Owner's handle of a running session, from any task.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Link>);

impl Handle {
    /// Sends GOAWAY to the client; the session ends with its requests.
    pub fn drain(&self) {
        self.0.flags.draining.store(true, Relaxed);
        self.0.wake_session();
    }

    /// Asks each request if it is [overdue](crate::Exchange::overdue).
    pub fn sweep(&self) {
        self.0.flags.sweep.fetch_add(1, Relaxed);
        self.0.wake_streams();
        self.0.wake_session();
    }

    /// Returns the number of requests under way.
    pub fn streams(&self) -> usize {
        self.0.streams.load(Relaxed)
    }
}
