// SPDX-License-Identifier: Apache-2.0
//! Names of hosts → addresses, looked up again and again on a thread that pods without names do not have.
//!
//! libc does the work, by `/etc/hosts` and DNS, and blocks meanwhile. So a few threads do it, and one that hangs costs its
//! place until libc gives up. The last answer stays as long as there is no other.

use crate::metrics::{Counter, Gauge, metrics};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Most names: all of them are looked up within [`EVERY`] where one takes 50 ms.
pub(crate) const MOST_NAMES: usize = 1024;
/// Names that are looked up at once.
const AT_ONCE: usize = 8;
/// Time for a look-up: that of libc for the first answer of a nameserver.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two look-ups of a name. Kuma's control plane keeps an answer for as long.
const EVERY: Duration = Duration::from_secs(10);
/// The same for a name that has no answer yet.
const RETRY: Duration = Duration::from_secs(2);
/// Time for which new names are awaited, a little longer than the look-up of one.
const FIRST_WAIT: Duration = Duration::from_secs(6);

metrics! {
    /// Look-ups of names: those of Dataplanes' addresses, and of servers outside of the mesh.
    #[derive(Clone, Default)]
    pub(crate) struct NameMetrics {
        failed: Counter = "name_lookups_failed",
            "Look-ups of names in documents that failed; the last answer stays"
            => "names.lookup_failed";
        changed: Counter = "name_answers_changed",
            "Answers for names in documents that were the first, or other addresses than before"
            => "names.changed";
        unresolved: Gauge = "names_unresolved", "Names in documents that have no address yet" => "names.unresolved";
    }
}

/// The addresses of a name that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// One: that of a workload. It stays as long as it is among the answers.
    One,
    /// All: those of a server outside of the mesh.
    All,
}

/// The names in use, with their last answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A look-up came to an end.
    answered: Condvar,
    /// There is a new name, or no user any more.
    wake: Arc<Notify>,
    look_up: LookUp,
    metrics: NameMetrics,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<Box<str>, Entry>,
    /// The thread was started.
    runs: bool,
    /// Changes of answers so far.
    changes: u64,
    /// Those of them that [`Names::use_only`] returned.
    used: u64,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    /// The one in use comes first, the others in their order.
    addresses: Vec<IpAddr>,
    /// The first look-up came to an end.
    tried: bool,
    /// Time of the next look-up; `None` = now.
    due: Option<Instant>,
    /// The log has said that look-ups fail.
    warned: bool,
}

/// Outcome of a look-up.
type Addresses = io::Result<Vec<IpAddr>>;

/// Finds the addresses of a name, and blocks meanwhile.
#[derive(Clone)]
struct LookUp(Arc<dyn Fn(&str) -> Addresses + Send + Sync>);

impl Default for LookUp {
    fn default() -> Self {
        Self(Arc::new(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())))
    }
}

impl fmt::Debug for LookUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LookUp")
    }
}

// === impl Names ===

impl Names {
    /// Has no name yet, and no thread.
    pub(crate) fn new(metrics: NameMetrics) -> Self {
        let (state, answered, wake, look_up) =
            (Mutex::default(), Condvar::new(), Arc::default(), LookUp::default());
        Self(Arc::new(Shared { state, answered, wake, look_up, metrics }))
    }

    /// Looks up these names from now on, and no others, and returns their answers so far. Waits for the first look-up of new
    /// names, but not for long.
    pub(crate) fn use_only(&self, names: &BTreeMap<Box<str>, Wanted>) -> BTreeMap<Box<str>, Vec<IpAddr>> {
        let shared = &self.0;
        let mut state = shared.lock();
        state.names.retain(|name, _| names.contains_key(name));
        for (name, wanted) in names {
            state.names.entry(name.clone()).or_insert_with(|| Entry::new(*wanted)).wanted = *wanted;
        }
        if !names.is_empty() && !state.runs {
            match start(shared) {
                Ok(()) => state.runs = true,
                Err(error) => tracing::warn!(%error, "cannot start the thread that looks names up"),
            }
        }
        shared.wake.notify_one();
        let until = Instant::now() + FIRST_WAIT;
        while state.runs && state.names.values().any(|entry| !entry.tried) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = shared.answered.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.used = state.changes;
        shared.count(&state);
        state.names.iter().map(|(name, entry)| (name.clone(), entry.addresses.clone())).collect()
    }

    /// Returns the number of changes of answers so far.
    pub(crate) fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// Returns the number of changes of answers that [`Names::use_only`] has returned.
    pub(crate) fn used(&self) -> u64 {
        self.0.lock().used
    }
}

#[cfg(test)]
impl Names {
    /// Answers from a table; a name that is not in it fails.
    pub(crate) fn of_table(rows: &'static [(&str, &str)]) -> Self {
        let look_up = move |name: &str| {
            let found = rows.iter().filter(|(known, _)| *known == name);
            let found: Vec<IpAddr> = found.map(|(_, ip)| ip.parse().expect("an address")).collect();
            if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
        };
        let (state, answered, wake) = (Mutex::default(), Condvar::new(), Arc::default());
        let look_up = LookUp(Arc::new(look_up));
        Self(Arc::new(Shared { state, answered, wake, look_up, metrics: NameMetrics::default() }))
    }
}

// === impl Entry ===

impl Entry {
    fn new(wanted: Wanted) -> Self {
        Self { wanted, addresses: Vec::new(), tried: false, due: None, warned: false }
    }

    /// Takes an answer, and returns true if what is asked for changed with it. Servers turn the order of their answers round.
    fn take(&mut self, mut answer: Vec<IpAddr>) -> bool {
        let first = self.addresses.first().filter(|first| answer.contains(first));
        let first = first.or(answer.first()).copied();
        answer.sort_unstable();
        answer.dedup();
        answer.sort_by_key(|ip| Some(*ip) != first);
        let changed = match self.wanted {
            Wanted::One => first != self.addresses.first().copied(),
            Wanted::All => answer != self.addresses,
        };
        self.addresses = answer;
        changed
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> Vec<Box<str>> {
        let now = Instant::now();
        let state = self.lock();
        let due = state.names.iter().filter(|(_, entry)| entry.due.is_none_or(|due| due <= now));
        due.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the time until the next look-up; `None` without names.
    fn pause(&self) -> Option<Duration> {
        let now = Instant::now();
        let state = self.lock();
        let pause =
            |entry: &Entry| entry.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        state.names.values().map(pause).min()
    }

    /// Notes the outcome of a look-up.
    fn note(&self, name: &str, found: Addresses) {
        let mut state = self.lock();
        let State { names, changes, .. } = &mut *state;
        // It may be out of use by now.
        let Some(entry) = names.get_mut(name) else { return };
        entry.tried = true;
        match found.and_then(of_one_host) {
            Ok(addresses) => {
                if entry.take(addresses) {
                    *changes += 1;
                    self.metrics.changed.inc();
                }
                entry.warned = false;
                entry.due = Some(Instant::now() + EVERY);
            }
            Err(error) => {
                self.metrics.failed.inc();
                let last = entry.addresses.first().map(tracing::field::display);
                // Once, until it works again.
                if !std::mem::replace(&mut entry.warned, true) {
                    tracing::warn!(name, last, %error, "cannot look up a name in the documents; its last answer stays");
                }
                entry.due = Some(Instant::now() + if entry.addresses.is_empty() { RETRY } else { EVERY });
            }
        }
        self.count(&state);
        self.answered.notify_all();
    }

    fn count(&self, state: &State) {
        let unresolved = state.names.values().filter(|entry| entry.addresses.is_empty()).count();
        self.metrics.unresolved.set(i64::try_from(unresolved).unwrap_or(i64::MAX));
    }
}

/// Wakes the thread, which ends as it has no user any more.
impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Keeps the addresses that a host can have.
fn of_one_host(found: Vec<IpAddr>) -> Addresses {
    let found = found.into_iter().map(|ip| ip.to_canonical());
    let found: Vec<_> = found.filter(|ip| !ip.is_unspecified() && !ip.is_multicast()).collect();
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address of a host")),
        false => Ok(found),
    }
}

fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    let runtime = Builder::new_current_thread().enable_time().max_blocking_threads(AT_ONCE).build()?;
    std::thread::Builder::new().name("names".into()).spawn(move || runtime.block_on(keep(weak)))?;
    Ok(())
}

/// Looks names up when it is time, as long as there is a user.
async fn keep(weak: Weak<Shared>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Some(shared) = weak.upgrade() else { return };
        round(&shared, &places).await;
        let (pause, wake) = (shared.pause(), Arc::clone(&shared.wake));
        drop(shared);
        match pause {
            // The end of the pause and a new name both lead to another look.
            Some(pause) => _ = tokio::time::timeout(pause, wake.notified()).await,
            None => wake.notified().await,
        }
    }
}

/// Looks up all names whose time has come.
async fn round(shared: &Arc<Shared>, places: &Arc<Semaphore>) {
    let mut running = JoinSet::new();
    for name in shared.due() {
        let (shared, places) = (Arc::clone(shared), Arc::clone(places));
        running.spawn(async move {
            // Before the deadline begins: one that waits for a place is not late. No one closes the semaphore.
            let Ok(place) = places.acquire_owned().await else { return };
            let found = within_deadline(&shared.look_up, &name, place).await;
            shared.note(&name, found);
        });
    }
    while running.join_next().await.is_some() {}
}

/// Looks a name up. Its place is free once libc has come back, which may be long after the deadline: the thread is in use.
async fn within_deadline(LookUp(look_up): &LookUp, name: &str, place: OwnedSemaphorePermit) -> Addresses {
    let (look_up, name) = (Arc::clone(look_up), name.to_owned());
    let looking = tokio::task::spawn_blocking(move || {
        let _place = place;
        look_up(&name)
    });
    match tokio::time::timeout(DEADLINE, looking).await {
        Ok(found) => found.unwrap_or_else(|panicked| Err(io::Error::other(panicked))),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {DEADLINE:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> BTreeMap<Box<str>, Wanted> {
        of.iter().map(|name| ((*name).into(), Wanted::One)).collect()
    }

    #[test]
    fn names_have_their_answers_at_once_and_others_none_yet() {
        let looked = Names::of_table(&[
            ("web", "10.0.0.1"),
            ("db", "::ffff:10.0.0.2"),
            ("any", "0.0.0.0"),
            ("many", "224.0.0.1"),
        ]);
        let found = looked.use_only(&names(&["any", "db", "gone", "many", "web"]));
        let shown: Vec<_> =
            found.iter().map(|(name, ips)| (&**name, ips.first().map(ToString::to_string))).collect();
        let expected = [
            ("any", None),
            ("db", Some("10.0.0.2")),
            ("gone", None),
            ("many", None),
            ("web", Some("10.0.0.1")),
        ];
        assert_eq!(shown, expected.map(|(name, ip)| (name, ip.map(str::to_owned))));
        let metrics = &looked.0.metrics;
        assert_eq!((metrics.unresolved.get(), metrics.changed.get()), (3, 2));
        assert!(metrics.failed.get() >= 3);
        assert_eq!((looked.changes(), looked.used()), (2, 2));
        // Out of use, they are neither looked up nor counted.
        assert!(looked.use_only(&names(&[])).is_empty());
        assert_eq!((metrics.unresolved.get(), looked.0.pause()), (0, None));
    }

    #[test]
    fn an_answer_stays_while_look_ups_fail_and_while_it_is_among_the_answers() {
        let looked = Names::default();
        looked.0.lock().names.insert("web".into(), Entry::new(Wanted::One));
        let found = |of: &[&str]| Ok(of.iter().map(|ip| ip.parse().unwrap()).collect());
        let fails = || Err(io::Error::from(io::ErrorKind::TimedOut));
        for (row, (outcome, address, changes)) in [
            (fails(), None, 0),
            (found(&["10.0.0.1", "10.0.0.2"]), Some("10.0.0.1"), 1),
            (found(&["10.0.0.2", "10.0.0.1"]), Some("10.0.0.1"), 1),
            (fails(), Some("10.0.0.1"), 1),
            (found(&[]), Some("10.0.0.1"), 1),
            (found(&["10.0.0.2"]), Some("10.0.0.2"), 2),
        ]
        .into_iter()
        .enumerate()
        {
            looked.0.note("web", outcome);
            let shown = looked.0.lock().names["web"].addresses.first().map(ToString::to_string);
            assert_eq!((shown.as_deref(), looked.changes()), (address, changes), "{row}");
            let wait = looked.0.pause().unwrap();
            let most = if address.is_some() { EVERY } else { RETRY };
            assert!(wait <= most && wait > most / 2, "{row}: {wait:?}");
        }
        looked.0.note("other", fails());
        assert_eq!(looked.0.lock().names.len(), 1);
        assert_eq!(looked.0.metrics.failed.get(), 3);
    }

    #[test]
    fn of_all_addresses_each_that_comes_or_goes_is_a_change_and_their_order_is_none() {
        let mut entry = Entry::new(Wanted::All);
        let ips = |of: &[&str]| -> Vec<IpAddr> { of.iter().map(|ip| ip.parse().unwrap()).collect() };
        for (answer, changed, kept) in [
            (&["10.0.0.2", "10.0.0.1"][..], true, &["10.0.0.2", "10.0.0.1"][..]),
            (&["10.0.0.1", "10.0.0.2"], false, &["10.0.0.2", "10.0.0.1"]),
            (&["10.0.0.1", "10.0.0.2", "10.0.0.1"], false, &["10.0.0.2", "10.0.0.1"]),
            (&["10.0.0.3", "10.0.0.2", "10.0.0.1"], true, &["10.0.0.2", "10.0.0.1", "10.0.0.3"]),
            (&["10.0.0.3", "10.0.0.1"], true, &["10.0.0.3", "10.0.0.1"]),
            (&["10.0.0.3"], true, &["10.0.0.3"]),
        ] {
            assert_eq!(entry.take(ips(answer)), changed, "{answer:?}");
            assert_eq!(entry.addresses, ips(kept), "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_hangs_has_a_deadline() {
        let (done, hangs) = std::sync::mpsc::channel::<()>();
        let hangs = Mutex::new(hangs);
        let look_up = LookUp(Arc::new(move |_| {
            let _ = hangs.lock().unwrap().recv();
            Ok(Vec::new())
        }));
        let start = tokio::time::Instant::now();
        // A blocking thread keeps tokio's clock from going on by itself.
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let looking = within_deadline(&look_up, "web", place);
        let (found, ()) = tokio::join!(looking, tokio::time::advance(DEADLINE));
        assert_eq!(found.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), DEADLINE);
        assert_eq!(places.available_permits(), 0, "its thread is in use");
        drop(done);
        drop(places.acquire().await.unwrap());
    }
}
