// SPDX-License-Identifier: Apache-2.0
//! The open connections: what `/connections` shows, and the handle by which a connection is stopped from outside.
//!
//! A connection has no timer of its own. It notes the table's clock, a number, whenever bytes move; the clock goes on with
//! each sweep, and a sweep looks at all connections to find those that were idle for too long.

use crate::cluster::registry::Cluster;
use crate::net::addrs::{ClientAddr, DialAddr, Direction, OrigDst};
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::Known;
use crate::relay::Mode;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The longest tick: how late a reset behind a full buffer, or bytes behind an urgent one, may be noticed, and how exact
/// an idle timeout is at least.
const LONGEST_TICK: Duration = Duration::from_secs(1);
/// The shortest: for idle timeouts of less than a second.
const SHORTEST_TICK: Duration = Duration::from_millis(20);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum State {
    /// The server is being dialled.
    Connecting,
    /// Bytes flow both ways.
    Relaying,
    /// The client said FIN; bytes flow to it.
    HalfClosedByClient,
    /// The server said FIN; bytes flow to it.
    HalfClosedByServer,
}

impl State {
    const ALL: [Self; 4] =
        [Self::Connecting, Self::Relaying, Self::HalfClosedByClient, Self::HalfClosedByServer];
}

/// One open connection.
#[derive(Debug)]
pub struct Entry {
    /// Unique in this process, ascending.
    pub id: u64,
    /// Which listener it came to.
    pub direction: Direction,
    /// Who opened it.
    pub client: ClientAddr,
    /// Where it was meant to go.
    pub orig_dst: OrigDst,
    /// Whose limits and statistics count.
    pub cluster: Arc<Cluster>,
    /// When it was accepted.
    pub opened: Instant,
    /// How long it may move no byte, in milliseconds; 0 = for ever.
    idle_timeout: u64,
    dial: Mutex<DialAddr>,
    to_server: AtomicU64,
    to_client: AtomicU64,
    last_moved: AtomicU64,
    state: AtomicU8,
    stop: AtomicU8,
    splices_to_server: AtomicBool,
    splices_to_client: AtomicBool,
    deaf: AtomicBool,
    look: AtomicBool,
    known: OnceLock<Arc<Known>>,
    waker: Mutex<Option<Waker>>,
}

/// What distinguishes a connection when it is entered.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// See [`Entry::id`].
    pub id: u64,
    /// See [`Entry::direction`].
    pub direction: Direction,
    /// See [`Entry::client`].
    pub client: ClientAddr,
    /// See [`Entry::orig_dst`].
    pub orig_dst: OrigDst,
    /// See [`Entry::dial`].
    pub dial: DialAddr,
    /// See [`Entry::cluster`].
    pub cluster: Arc<Cluster>,
    /// See [`Entry::opened`].
    pub opened: Instant,
    /// How long it may move no byte.
    pub idle_timeout: Option<Duration>,
}

impl Entry {
    /// Where it goes.
    pub fn dial(&self) -> DialAddr {
        *lock(&self.dial)
    }

    /// It goes elsewhere: to the next endpoint.
    pub(crate) fn set_dial(&self, dial: DialAddr) {
        *lock(&self.dial) = dial;
    }

    /// What it speaks, and with whom; not known where no document asks.
    pub fn known(&self) -> Option<&Known> {
        self.known.get().map(|known| &**known)
    }

    /// It is known.
    pub(crate) fn set_known(&self, known: Arc<Known>) {
        // Nothing changes what it is.
        let _ = self.known.set(known);
    }

    /// Bytes so far: from the client to the server, and back.
    pub fn bytes(&self) -> (u64, u64) {
        (self.to_server.load(Relaxed), self.to_client.load(Relaxed))
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        let code = self.state.load(Relaxed);
        State::ALL.into_iter().find(|state| *state as u8 == code).unwrap_or(State::Connecting)
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    /// Counts bytes. Only the connection's own task does, so no atomic addition is needed.
    pub(crate) fn add_bytes(&self, to_server: u64, to_client: u64) {
        self.to_server.store(self.to_server.load(Relaxed) + to_server, Relaxed);
        self.to_client.store(self.to_client.load(Relaxed) + to_client, Relaxed);
    }

    /// How its bytes are moved.
    pub fn mode(&self) -> Mode {
        Mode {
            splices_to_server: self.splices_to_server.load(Relaxed),
            splices_to_client: self.splices_to_client.load(Relaxed),
        }
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.splices_to_server.store(mode.splices_to_server, Relaxed);
        self.splices_to_client.store(mode.splices_to_client, Relaxed);
    }

    /// Whether a side of it cannot be heard; the sweep then makes it look now and then.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Relaxed);
    }

    /// Whether the sweep asked to look, once.
    pub(crate) fn take_look(&self) -> bool {
        self.look.load(Relaxed) && self.look.swap(false, Relaxed)
    }

    /// Stops the connection, unless it was stopped before.
    pub fn stop(&self, reason: CloseReason) {
        if self.stop.compare_exchange(0, reason.code(), Relaxed, Relaxed).is_ok() {
            self.wake();
        }
    }

    /// Why it is to stop, once it is. `registered` is the task's own note of the waker that it left here, so that
    /// the lock is taken when the task moves and not at each wake-up.
    pub(crate) fn poll_stop(
        &self,
        cx: &mut Context<'_>,
        registered: &mut Option<Waker>,
    ) -> Poll<CloseReason> {
        if !registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let waker = cx.waker().clone();
            *lock(&self.waker) = Some(waker.clone());
            *registered = Some(waker);
        }
        match CloseReason::from_code(self.stop.load(Relaxed)) {
            Some(reason) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake_by_ref();
        }
    }
}

/// A panic elsewhere leaves these locks' contents whole: each holds one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All open connections. The limits of listeners and clusters bound its size.
#[derive(Debug, Default)]
pub struct Table {
    next_id: AtomicU64,
    /// Milliseconds, as of the last sweep; no two sweeps have the same.
    clock: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Entry>>>,
    emptied: Notify,
}

impl Table {
    /// Enters a connection.
    pub fn enter(&self, new: NewEntry) -> Arc<Entry> {
        let NewEntry { id, direction, client, orig_dst, dial, cluster, opened, idle_timeout } = new;
        let entry = Arc::new(Entry {
            id,
            direction,
            client,
            orig_dst,
            cluster,
            opened,
            // Less than a millisecond is not none.
            idle_timeout: idle_timeout.map_or(0, |timeout| millis(timeout).max(1)),
            dial: Mutex::new(dial),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            last_moved: AtomicU64::new(self.clock.load(Relaxed)),
            state: AtomicU8::new(State::Connecting as u8),
            stop: AtomicU8::new(0),
            splices_to_server: AtomicBool::new(false),
            splices_to_client: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            look: AtomicBool::new(false),
            known: OnceLock::new(),
            waker: Mutex::new(None),
        });
        lock(&self.open).insert(entry.id, Arc::clone(&entry));
        entry
    }

    /// The next id.
    pub fn take_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed) + 1
    }

    /// Takes a connection out.
    pub fn leave(&self, entry: &Entry) {
        let mut open = lock(&self.open);
        open.remove(&entry.id);
        if open.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Notes that bytes moved.
    pub(crate) fn touch(&self, entry: &Entry) {
        entry.last_moved.store(self.clock.load(Relaxed), Relaxed);
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until none is open.
    pub async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            // Enabled before the question, so that an answer in between is not missed.
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// All that are open, oldest first.
    pub fn snapshot(&self) -> Vec<Arc<Entry>> {
        lock(&self.open).values().cloned().collect()
    }

    /// The newest, newest first.
    pub fn newest(&self, most: usize) -> Vec<Arc<Entry>> {
        lock(&self.open).values().rev().take(most).cloned().collect()
    }

    /// Stops all.
    pub fn stop_all(&self, reason: CloseReason) {
        for entry in self.snapshot() {
            entry.stop(reason);
        }
    }

    /// Sets the clock to `now`; stops what was idle for too long, and makes those look around who are deaf, or who were
    /// busy and have been quiet for a whole tick.
    fn sweep(&self, now: u64, before_last: u64) {
        let last = self.clock.swap(now, Relaxed);
        for entry in lock(&self.open).values() {
            let moved = entry.last_moved.load(Relaxed);
            // As of the clock before: what moved since then has that time too.
            let idle = last.saturating_sub(moved);
            let limit = entry.idle_timeout;
            if limit != 0 && idle >= limit && entry.state() != State::Connecting {
                entry.stop(CloseReason::IdleTimeout);
            } else if entry.deaf.load(Relaxed) || moved == before_last {
                entry.look.store(true, Relaxed);
                entry.wake();
            }
        }
    }

    /// Sweeps for ever. `shortest` tells the shortest idle timeout that a new connection may get.
    pub async fn keep_swept(&self, shortest: impl Fn() -> Option<Duration>) {
        let (mut last, mut before_last) = (0, 0);
        loop {
            let tick = tick_for(shortest());
            tokio::time::sleep(tick).await;
            // The clock goes on by what was to be slept: a sweep that comes late ends nothing early.
            let now = last + millis(tick);
            self.sweep(now, before_last);
            (before_last, last) = (last, now);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An eighth of the timeout, within bounds.
fn tick_for(idle_timeout: Option<Duration>) -> Duration {
    idle_timeout.map_or(LONGEST_TICK, |timeout| (timeout / 8).clamp(SHORTEST_TICK, LONGEST_TICK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(table: &Table, idle_timeout: Option<Duration>) -> Arc<Entry> {
        let orig_dst = OrigDst::new("192.0.2.1:80".parse().unwrap());
        let running = crate::cluster::registry::Books::default().open(crate::plan::Plan {
            clusters: vec![crate::plan::Cluster {
                name: "test".into(),
                origin: crate::plan::Origin::Transparent,
                upstream: crate::plan::Upstream::OriginalDst { source: None },
                thresholds: Default::default(),
                connect_timeout: None,
            }],
            ..Default::default()
        });
        let entry = table.enter(NewEntry {
            id: table.take_id(),
            direction: Direction::Outbound,
            client: ClientAddr::new("10.0.0.2:4000".parse().unwrap()),
            orig_dst,
            dial: DialAddr::new(orig_dst.get()),
            cluster: Arc::clone(&running.clusters[0]),
            opened: Instant::now(),
            idle_timeout,
        });
        entry.set_state(State::Relaying);
        entry
    }

    fn stopped(entry: &Entry) -> Option<CloseReason> {
        CloseReason::from_code(entry.stop.load(Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_stopped_and_a_busy_one_is_not() {
        let table = Arc::new(Table::default());
        let timeout = Duration::from_secs(4);
        let idle = entry(&table, Some(timeout));
        let busy = entry(&table, Some(timeout));
        let patient = entry(&table, Some(2 * timeout));
        let sweeping = tokio::spawn({
            let table = Arc::clone(&table);
            async move { table.keep_swept(|| Some(timeout)).await }
        });
        for _ in 0..39 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            table.touch(&busy);
            assert_eq!(stopped(&idle), None, "stopped before its time");
        }
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            table.touch(&busy);
        }
        assert_eq!(stopped(&idle), Some(CloseReason::IdleTimeout));
        assert_eq!(stopped(&busy), None);
        assert_eq!(stopped(&patient), None);
        sweeping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_timeout_nothing_is_idle_for_too_long() {
        let table = Arc::new(Table::default());
        let idle = entry(&table, None);
        let sweeping = tokio::spawn({
            let table = Arc::clone(&table);
            async move { table.keep_swept(|| None).await }
        });
        tokio::time::sleep(Duration::from_hours(100)).await;
        assert_eq!(stopped(&idle), None);
        sweeping.abort();
    }

    #[test]
    fn ticks_fit_the_timeout() {
        for (timeout, tick) in [(None, 1_000), (Some(3_600_000), 1_000), (Some(800), 100), (Some(10), 20)] {
            let got = tick_for(timeout.map(Duration::from_millis));
            assert_eq!(got, Duration::from_millis(tick), "{timeout:?}");
        }
    }

    #[test]
    fn the_first_reason_to_stop_stands() {
        let table = Table::default();
        let entry = entry(&table, None);
        entry.stop(CloseReason::IdleTimeout);
        entry.stop(CloseReason::DrainTimeout);
        assert_eq!(stopped(&entry), Some(CloseReason::IdleTimeout));
    }

    #[tokio::test]
    async fn empty_is_heard() {
        let table = Arc::new(Table::default());
        table.empty().await;
        let one = entry(&table, None);
        let waiting = tokio::spawn({
            let table = Arc::clone(&table);
            async move { table.empty().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        table.leave(&one);
        waiting.await.unwrap();
    }
}
