// SPDX-License-Identifier: Apache-2.0
//! Destinations that the controller was asked about, and the connections and queries that wait for an answer.
//!
//! Workers look up and ask; the main thread hands questions to the stream and answers back. The least recently used ones are
//! given up. Addresses and names have a table each, so that a pod that asks for names without an end keeps its connections.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Time for an answer. In a cluster it takes some milliseconds; after this the destination counts as one that no document
/// names.
pub(super) const DEADLINE: Duration = Duration::from_secs(1);
/// Share of the destinations that is given up at once: looking for the oldest takes a look at all.
const GIVEN_UP_AT_ONCE: usize = 32;

const ASKED: u8 = 0;
const ANSWERED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// A destination.
#[derive(Debug)]
struct Entry {
    state: AtomicU8,
    asked: Instant,
    /// Milliseconds since the start of the table.
    used: AtomicU64,
    told: Notify,
}

/// Result of asking about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An answer is in force.
    Came,
    /// None came in time.
    Late,
}

/// Questions and resignations that the stream has not sent.
#[derive(Debug)]
pub(super) struct News<K> {
    pub(super) asked: Vec<K>,
    pub(super) given_up: Vec<K>,
}

/// A question or resignation that was not handed to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Asked,
    /// Asked for again before the stream heard that it was given up.
    AskedAgain,
    GivenUp,
}

/// All destinations of a kind.
#[derive(Debug)]
pub(super) struct Destinations<K> {
    /// Those that are followed at a time at most.
    most: usize,
    /// The zero of the times of use.
    start: Instant,
    entries: RwLock<HashMap<K, Arc<Entry>>>,
    /// What the stream has not been handed: at most as many as destinations known here or by the stream.
    news: Mutex<HashMap<K, Pending>>,
    /// Told when there are news.
    wake: Arc<Notify>,
}

impl<K: Clone + Eq + Hash + Ord> Destinations<K> {
    pub(super) fn new(most: usize, wake: Arc<Notify>) -> Self {
        Self { most, start: Instant::now(), entries: RwLock::default(), news: Mutex::default(), wake }
    }

    /// Returns true if the answer is known, and notes the use.
    pub(super) fn knows(&self, at: &K) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get(at) else { return false };
        entry.used.store(self.now(), Relaxed);
        entry.state.load(SeqCst) == ANSWERED
    }

    /// Asks, unless another connection has, and waits for the answer until the question is too old.
    pub(super) async fn ask(&self, at: K) -> Answer {
        let entry = self.entry(at);
        let told = entry.told.notified();
        let mut told = std::pin::pin!(told);
        // Before the look at the state, so that an answer between the two is not missed.
        told.as_mut().enable();
        if entry.state.load(SeqCst) == ASKED {
            let _ = tokio::time::timeout_at(entry.asked + DEADLINE, told).await;
        }
        if entry.state.load(SeqCst) == ANSWERED { Answer::Came } else { Answer::Late }
    }

    fn entry(&self, at: K) -> Arc<Entry> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        if let Some(entry) = entries.get(&at) {
            entry.used.store(now, Relaxed);
            return Arc::clone(entry);
        }
        let mut given_up = Vec::new();
        if entries.len() >= self.most {
            let at_once = self.most / GIVEN_UP_AT_ONCE;
            let mut by_use: Vec<_> =
                entries.iter().map(|(at, entry)| (entry.used.load(Relaxed), at.clone())).collect();
            by_use.select_nth_unstable(at_once);
            by_use.truncate(at_once);
            given_up.extend(by_use.into_iter().map(|(_, at)| at));
        }
        for old in &given_up {
            if let Some(entry) = entries.remove(old) {
                entry.tell(GIVEN_UP);
            }
        }
        let (state, used) = (AtomicU8::new(ASKED), AtomicU64::new(now));
        let entry = Arc::new(Entry { state, asked: Instant::now(), used, told: Notify::new() });
        entries.insert(at.clone(), Arc::clone(&entry));
        let mut news = self.news();
        for old in given_up {
            // A question that nobody heard needs no resignation.
            match news.get(&old) {
                Some(Pending::Asked) => _ = news.remove(&old),
                _ => _ = news.insert(old, Pending::GivenUp),
            }
        }
        let is_followed = news.get(&at) == Some(&Pending::GivenUp);
        news.insert(at, if is_followed { Pending::AskedAgain } else { Pending::Asked });
        drop((news, entries));
        self.wake.notify_one();
        entry
    }

    /// Takes the questions and resignations.
    pub(super) fn take_news(&self) -> News<K> {
        let mut news = News { asked: Vec::new(), given_up: Vec::new() };
        for (at, pending) in std::mem::take(&mut *self.news()) {
            match pending {
                Pending::Asked | Pending::AskedAgain => news.asked.push(at),
                Pending::GivenUp => news.given_up.push(at),
            }
        }
        news
    }

    /// Lets connections to these destinations go on, and returns how long each was waited for.
    pub(super) fn answer(&self, answered: impl IntoIterator<Item = K>) -> Vec<Duration> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut waits = Vec::new();
        for entry in answered.into_iter().filter_map(|at| entries.get(&at)) {
            if entry.tell(ANSWERED) == ASKED {
                waits.push(entry.asked.elapsed());
            }
        }
        waits
    }

    /// Returns the number of destinations.
    pub(super) fn len(&self) -> usize {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn news(&self) -> MutexGuard<'_, HashMap<K, Pending>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Notes the state for waiting connections, and returns the one before.
    fn tell(&self, state: u8) -> u8 {
        let before = self.state.swap(state, SeqCst);
        self.told.notify_waiters();
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    const MOST: usize = 4096;
    const GIVEN_UP: usize = MOST / GIVEN_UP_AT_ONCE;

    fn table() -> Destinations<SocketAddr> {
        Destinations::new(MOST, Arc::default())
    }

    fn at(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (number / 256) as u8, (number % 256) as u8], 80))
    }

    #[tokio::test(start_paused = true)]
    async fn many_connections_share_one_question_and_its_answer() {
        let table = Arc::new(table());
        let waiting: Vec<_> = (0..500)
            .map(|_| {
                let table = Arc::clone(&table);
                tokio::spawn(async move { table.ask(at(1)).await })
            })
            .collect();
        table.wake.notified().await;
        tokio::task::yield_now().await;
        assert_eq!(table.take_news().asked, [at(1)]);
        assert!(!table.knows(&at(1)));
        assert_eq!(table.answer([at(1), at(2)]).len(), 1);
        for one in waiting {
            assert_eq!(one.await.unwrap(), Answer::Came);
        }
        assert!(table.knows(&at(1)));
        assert!(table.take_news().asked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_the_questions_so_that_only_the_first_ones_wait() {
        let table = table();
        let start = Instant::now();
        assert_eq!(table.ask(at(1)).await, Answer::Late);
        assert_eq!(start.elapsed(), DEADLINE);
        assert_eq!(table.ask(at(1)).await, Answer::Late);
        assert_eq!(start.elapsed(), DEADLINE, "the question is as old as it may be");
        table.answer([at(1)]);
        assert_eq!(table.ask(at(1)).await, Answer::Came);
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_are_given_up_at_the_bound() {
        let table = table();
        for number in 0..MOST {
            drop(table.entry(at(number)));
        }
        table.answer((0..MOST).map(at));
        table.take_news();
        tokio::time::advance(Duration::from_secs(1)).await;
        // Used again: those that were asked first.
        assert!((0..GIVEN_UP).all(|number| table.knows(&at(number))));
        drop(table.entry(at(MOST)));
        let News { asked, given_up } = table.take_news();
        assert_eq!((asked, given_up.len()), (vec![at(MOST)], GIVEN_UP));
        assert!((0..GIVEN_UP).all(|number| table.knows(&at(number))));
        assert!(given_up.iter().all(|one| !table.knows(one)));
        assert!(table.len() <= MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_given_up_before_it_is_sent_is_not_sent() {
        let table = table();
        for number in 0..=MOST {
            drop(table.entry(at(number)));
        }
        let News { asked, given_up } = table.take_news();
        assert_eq!((asked.len(), given_up.len()), (MOST + 1 - GIVEN_UP, 0), "nobody heard of them");
        // One that the stream follows, is given up and asked for again, is given up in the end.
        table.answer((0..=MOST).map(at));
        let second = || tokio::time::advance(Duration::from_secs(1));
        let fill = |from: usize| (from..from + MOST).for_each(|number| drop(table.entry(at(number))));
        second().await;
        fill(10_000);
        second().await;
        drop(table.entry(asked[0]));
        second().await;
        fill(20_000);
        assert!(table.take_news().given_up.contains(&asked[0]));
    }
}
