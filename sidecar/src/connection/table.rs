// SPDX-License-Identifier: Apache-2.0
//! The open connections: the rows of `/connections`, and the handle by which a connection is stopped from outside.
//!
//! A connection has no timer of its own. It notes the table's clock, a number, whenever bytes move; the clock goes on with
//! each sweep, and a sweep looks at all connections to find those that were idle for too long.

use crate::cluster::registry::ClusterState;
use crate::connection::accepted::ConnectionInfo;
use crate::net::addrs::{DialAddr, Direction};
use crate::net::own_sockets::OwnSocket;
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

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub(crate) enum ConnectionState {
    /// A server is being dialled.
    Connecting,
    /// Bytes flow both ways.
    Relaying,
    /// The client sent FIN; bytes flow to it.
    HalfClosedByClient,
    /// The server sent FIN; bytes flow to it.
    HalfClosedByServer,
}

impl ConnectionState {
    const ALL: [Self; 4] =
        [Self::Connecting, Self::Relaying, Self::HalfClosedByClient, Self::HalfClosedByServer];
}

/// One open connection, as every thread may see it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) info: ConnectionInfo,
    /// The cluster whose limits and statistics count.
    pub(crate) cluster: Arc<ClusterState>,
    /// The time for which it may move no byte, in milliseconds; 0 = for ever.
    idle_timeout: u64,
    /// The address that was dialled last. Written by the connection's task.
    dial: Mutex<DialAddr>,
    /// The socket to the server, noted as the sidecar's own. Here and not in the task, which would grow by 16 bytes.
    own_socket: Mutex<Option<OwnSocket>>,
    /// Written by the connection's task alone, read by the admin pages and the sweep.
    progress: Progress,
    /// Written by the sweep, drain and other threads that want something of the connection; read by its task.
    control: Control,
    /// The protocol and the peer. Written once, by the connection's task.
    known: OnceLock<Arc<Known>>,
}

#[derive(Debug)]
struct Progress {
    to_server: AtomicU64,
    to_client: AtomicU64,
    /// The table's clock when bytes moved last.
    last_moved: AtomicU64,
    /// The time at which the task is to look at its limits of time, in milliseconds of [`Table::due_at`]; 0 = never.
    due: AtomicU64,
    state: AtomicU8,
    splices_to_server: AtomicBool,
    splices_to_client: AtomicBool,
    /// A side is not being read, because of backpressure or after its FIN, so that its reset would go unnoticed.
    unread: AtomicBool,
}

#[derive(Debug, Default)]
struct Control {
    /// The code of the reason to stop; 0 = none.
    stop: AtomicU8,
    /// The relay is to ask both sockets for errors and bytes, once.
    check: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Entry {
    /// The address that was dialled last.
    pub(crate) fn dial(&self) -> DialAddr {
        *lock(&self.dial)
    }

    /// Notes that the next endpoint is dialled.
    pub(crate) fn set_dial(&self, dial: DialAddr) {
        *lock(&self.dial) = dial;
    }

    /// Keeps the note of the socket to the server, or forgets it: before the socket is closed.
    pub(crate) fn set_own_socket(&self, noted: Option<OwnSocket>) {
        *lock(&self.own_socket) = noted;
    }

    /// The protocol and the peer; not known where mTLS is off.
    pub(crate) fn known(&self) -> Option<&Known> {
        self.known.get().map(|known| &**known)
    }

    pub(crate) fn set_known(&self, known: Arc<Known>) {
        // Called at most once per connection.
        let _ = self.known.set(known);
    }

    /// Bytes so far: from the client to the server, and back.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.progress.to_server.load(Relaxed), self.progress.to_client.load(Relaxed))
    }

    pub(crate) fn state(&self) -> ConnectionState {
        let code = self.progress.state.load(Relaxed);
        ConnectionState::ALL
            .into_iter()
            .find(|state| *state as u8 == code)
            .unwrap_or(ConnectionState::Connecting)
    }

    pub(crate) fn set_state(&self, state: ConnectionState) {
        self.progress.state.store(state as u8, Relaxed);
    }

    /// Counts bytes. Only the connection's own task does, so no atomic addition is needed.
    pub(crate) fn add_bytes(&self, to_server: u64, to_client: u64) {
        self.progress.to_server.store(self.progress.to_server.load(Relaxed) + to_server, Relaxed);
        self.progress.to_client.store(self.progress.to_client.load(Relaxed) + to_client, Relaxed);
    }

    /// The way in which its bytes are moved.
    pub(crate) fn mode(&self) -> Mode {
        Mode {
            splices_to_server: self.progress.splices_to_server.load(Relaxed),
            splices_to_client: self.progress.splices_to_client.load(Relaxed),
        }
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.progress.splices_to_server.store(mode.splices_to_server, Relaxed);
        self.progress.splices_to_client.store(mode.splices_to_client, Relaxed);
    }

    /// Notes whether a side of it is not being read; as long as that is so, the sweep asks for a check at each tick.
    pub(crate) fn set_unread(&self, unread: bool) {
        self.progress.unread.store(unread, Relaxed);
    }

    /// Asks for a wake-up at the first sweep after this time; `None` = for none.
    pub(crate) fn set_due(&self, due: Option<u64>) {
        self.progress.due.store(due.unwrap_or(0), Relaxed);
    }

    /// Takes the sweep's request to check both sockets, if there is one.
    pub(crate) fn take_check(&self) -> bool {
        self.control.check.load(Relaxed) && self.control.check.swap(false, Relaxed)
    }

    /// Stops the connection, unless it was stopped before.
    pub(crate) fn stop(&self, reason: CloseReason) {
        if self.control.stop.compare_exchange(0, reason.code(), Relaxed, Relaxed).is_ok() {
            self.wake();
        }
    }

    /// Returns the reason to stop, once there is one. `registered` is the task's own copy of the waker that it left here, so
    /// that the lock is taken when the task moves and not at each wake-up.
    pub(crate) fn poll_stop(
        &self,
        cx: &mut Context<'_>,
        registered: &mut Option<Waker>,
    ) -> Poll<CloseReason> {
        if !registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let waker = cx.waker().clone();
            *lock(&self.control.waker) = Some(waker.clone());
            *registered = Some(waker);
        }
        match CloseReason::from_code(self.control.stop.load(Relaxed)) {
            Some(reason) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*lock(&self.control.waker) {
            waker.wake_by_ref();
        }
    }
}

/// A panic elsewhere leaves these locks' contents whole: each holds one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time at which the table was made.
#[derive(Debug)]
struct Began(Instant);

impl Default for Began {
    fn default() -> Self {
        Self(Instant::now())
    }
}

/// All open connections. The limits of listeners and clusters bound its size.
#[derive(Debug, Default)]
pub(crate) struct Table {
    next_id: AtomicU64,
    /// Milliseconds, as of the last sweep; no two sweeps have the same.
    clock: AtomicU64,
    /// The begin of the times at which connections are to be woken.
    began: Began,
    open: Mutex<BTreeMap<u64, Arc<Entry>>>,
    /// Inbound connections are to end in good order, as far as their protocol has a way to say so.
    drains_inbound: AtomicBool,
    emptied: Notify,
}

impl Table {
    /// Enters a connection that begins to dial `dial`. `idle_timeout` is the time for which it may move no byte.
    pub(crate) fn enter(
        &self,
        info: ConnectionInfo,
        cluster: Arc<ClusterState>,
        dial: DialAddr,
        idle_timeout: Option<Duration>,
    ) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            info,
            cluster,
            // A timeout of less than a millisecond is not the absence of one.
            idle_timeout: idle_timeout.map_or(0, |timeout| millis(timeout).max(1)),
            dial: Mutex::new(dial),
            own_socket: Mutex::default(),
            progress: Progress {
                to_server: AtomicU64::new(0),
                to_client: AtomicU64::new(0),
                last_moved: AtomicU64::new(self.clock.load(Relaxed)),
                due: AtomicU64::new(0),
                state: AtomicU8::new(ConnectionState::Connecting as u8),
                splices_to_server: AtomicBool::new(false),
                splices_to_client: AtomicBool::new(false),
                unread: AtomicBool::new(false),
            },
            control: Control::default(),
            known: OnceLock::new(),
        });
        lock(&self.open).insert(info.id, Arc::clone(&entry));
        entry
    }

    /// Returns the next id.
    pub(crate) fn take_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed) + 1
    }

    /// Takes a connection out.
    pub(crate) fn leave(&self, entry: &Entry) {
        let mut open = lock(&self.open);
        open.remove(&entry.info.id);
        if open.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Notes that bytes moved.
    pub(crate) fn touch(&self, entry: &Entry) {
        entry.progress.last_moved.store(self.clock.load(Relaxed), Relaxed);
    }

    /// Returns a time as [`Entry::set_due`] takes it.
    pub(crate) fn due_at(&self, at: Instant) -> u64 {
        // Rounded up: a task that is woken early would find nothing to do, and not be woken again.
        millis(at.saturating_duration_since(self.began.0)).saturating_add(1)
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.open).len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until none is open.
    pub(crate) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            // Enabled before the table is looked at, so that a notification in between is not missed.
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Returns the open connections, oldest first.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Entry>> {
        lock(&self.open).values().cloned().collect()
    }

    /// Returns the `most` newest, newest first.
    pub(crate) fn newest(&self, most: usize) -> Vec<Arc<Entry>> {
        lock(&self.open).values().rev().take(most).cloned().collect()
    }

    /// Asks inbound connections to end in good order. The application's own calls go on: it ends them itself.
    pub(crate) fn drain_inbound(&self) {
        self.drains_inbound.store(true, Relaxed);
        for entry in self.snapshot().iter().filter(|entry| entry.info.direction == Direction::Inbound) {
            entry.wake();
        }
    }

    /// Returns true once the connections of a direction are to end in good order.
    pub(crate) fn is_draining(&self, direction: Direction) -> bool {
        direction == Direction::Inbound && self.drains_inbound.load(Relaxed)
    }

    pub(crate) fn stop_all(&self, reason: CloseReason) {
        for entry in self.snapshot() {
            entry.stop(reason);
        }
    }

    /// Sets the clock to `now`; stops connections that were idle for too long, and asks those for a check that have an unread
    /// side, or that were busy and have been quiet for a whole tick.
    fn sweep(&self, now: u64, before_last: u64) {
        let last = self.clock.swap(now, Relaxed);
        let wall = millis(self.began.0.elapsed());
        for entry in lock(&self.open).values() {
            let moved = entry.progress.last_moved.load(Relaxed);
            // As of the clock before: bytes that moved since then were noted with that time too.
            let idle = last.saturating_sub(moved);
            let limit = entry.idle_timeout;
            if limit != 0 && idle >= limit && entry.state() != ConnectionState::Connecting {
                entry.stop(CloseReason::IdleTimeout);
            } else if entry.progress.unread.load(Relaxed) || moved == before_last {
                entry.control.check.store(true, Relaxed);
                entry.wake();
            } else if (1..=wall).contains(&entry.progress.due.load(Relaxed)) {
                entry.wake();
            }
        }
    }

    /// Sweeps for ever. `shortest` returns the shortest idle timeout that a new connection may get.
    pub(crate) async fn keep_swept(&self, shortest: impl Fn() -> Option<Duration>) {
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
    use crate::cluster::registry::{Registry, plan_without_documents};
    use crate::net::addrs::{ClientAddr, OrigDst};
    use crate::net::limit::Claim;

    fn entry(table: &Table, idle_timeout: Option<Duration>) -> Arc<Entry> {
        let orig_dst = OrigDst::new("192.0.2.1:80".parse().unwrap());
        let running = Registry::default().open(plan_without_documents());
        let info = ConnectionInfo {
            id: table.take_id(),
            direction: Direction::Outbound,
            client: ClientAddr::new("10.0.0.2:4000".parse().unwrap()),
            orig_dst: Some(orig_dst),
            opened: Instant::now(),
            claim: Claim::Full,
        };
        let cluster = Arc::clone(&running.clusters[0].state);
        let entry = table.enter(info, cluster, DialAddr::new(orig_dst.get()), idle_timeout);
        entry.set_state(ConnectionState::Relaying);
        entry
    }

    fn stopped(entry: &Entry) -> Option<CloseReason> {
        CloseReason::from_code(entry.control.stop.load(Relaxed))
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
