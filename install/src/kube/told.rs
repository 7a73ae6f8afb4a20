// SPDX-License-Identifier: Apache-2.0
//! Events at a bounded rate, each once in a while: peers that are not trusted bring them about.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::counter::Counter;

use super::events::{Event, Events, Reason, Regarding};

/// Time in which the same event is not posted again: a ReplicaSet asks for a refused pod again and again, and has many pods.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Most events that are remembered for that.
const MAX_REMEMBERED: usize = 1024;

/// Events at once: as many workloads as a namespace may have that all meet the same. client-go has 25 for each object.
const BURST: u32 = 100;
/// Time for one more event. So an hour, the life of an event in etcd, has 3,700 of them at most, of some 1 KB each: every pod that
/// reaches the port can send reviews, about owners of any name.
const ONE_EACH: Duration = Duration::from_secs(1);

/// Posts events, each once in a while, and all of them at a bounded rate.
#[derive(Debug)]
pub(crate) struct Told {
    events: Events,
    /// Events that were not posted, being too many.
    dropped: Counter,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    remembered: HashMap<(Regarding, Reason, String), Instant>,
    bucket: Bucket,
    /// Time of the last warning about a dropped event.
    warned: Option<Instant>,
}

/// Tokens for events: [`BURST`] at first, and one more for each [`ONE_EACH`] that passes.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    /// Time up to which tokens were added.
    filled: Instant,
}

impl Bucket {
    const fn full(now: Instant) -> Self {
        Self { tokens: BURST, filled: now }
    }

    /// Takes a token. Returns false if there is none.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_nanos() / ONE_EACH.as_nanos();
        let new = u32::try_from(passed).unwrap_or(u32::MAX);
        if new >= BURST - self.tokens {
            *self = Self::full(now);
        } else {
            self.tokens += new;
            // The rest of a token is not lost.
            self.filled += ONE_EACH * new;
        }
        let is_left = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        is_left
    }
}

impl Told {
    pub(crate) fn new(events: Events, dropped: Counter) -> Self {
        let bucket = Bucket::full(Instant::now());
        let state = State { remembered: HashMap::new(), bucket, warned: None };
        Self { events, dropped, state: Mutex::new(state) }
    }

    /// Posts an event, unless it was posted a while ago or others were too many.
    pub(crate) fn tell(&self, regarding: Regarding, reason: Reason, message: &str) {
        self.tell_at(regarding, reason, message, Instant::now());
    }

    fn tell_at(&self, regarding: Regarding, reason: Reason, message: &str, now: Instant) {
        let key = (regarding.clone(), reason, message.to_owned());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { remembered, bucket, warned } = &mut *state;
        if remembered.get(&key).is_some_and(|told| now.duration_since(*told) < AGAIN_AFTER) {
            return;
        }
        // Not remembered, so that the next review about it may be told. The log is bounded with the events.
        if !bucket.take(now) {
            self.dropped.inc();
            if warned.is_none_or(|last| now.duration_since(last) >= AGAIN_AFTER) {
                *warned = Some(now);
                tracing::warn!(
                    "more than {BURST} events at once and one each {} s: the others are dropped and counted",
                    ONE_EACH.as_secs()
                );
            }
            return;
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, told| now.duration_since(*told) < AGAIN_AFTER);
        }
        if remembered.len() >= MAX_REMEMBERED {
            // Told again rather than not at all.
            remembered.clear();
        }
        remembered.insert(key, now);
        drop(state);
        let Regarding { kind, namespace, name, .. } = &regarding;
        tracing::info!(about = format!("{kind} {namespace}/{name}"), reason = reason.word, "{message}");
        let event = Event { regarding, reason, message: message.to_owned(), at: SystemTime::now() };
        if !self.events.hand_in(event) {
            self.dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Reason = Reason::warning("SidecarRefused");

    /// A pod of the network that sends reviews about ever new owners.
    #[test]
    fn forged_reviews_fill_neither_etcd_nor_the_log() {
        let (events, mut queue) = Events::new();
        let dropped = Counter::default();
        let told = Told::new(events, dropped.clone());
        let start = Instant::now();
        let owner = |number: u32| Regarding::pod("shop".to_owned(), format!("forged-{number}"), None);
        let mut posted = || std::iter::from_fn(|| queue.try_recv().ok()).count();
        (0..1000).for_each(|number| told.tell_at(owner(number), REFUSED, "no", start));
        assert_eq!((posted(), dropped.get()), (100, 900));
        // One a second after that, and the rest of a second counts for the next.
        let half = Duration::from_millis(500);
        for (after, expected) in [(half, 0), (half * 2, 1), (half * 3, 0), (half * 4, 1), (half * 10, 3)] {
            (1000..1100).for_each(|number| told.tell_at(owner(number), REFUSED, "no", start + after));
            assert_eq!(posted(), expected, "{after:?}");
        }
        // What was dropped is told by its next review.
        let later = start + Duration::from_secs(3600);
        told.tell_at(owner(900), REFUSED, "no", later);
        assert_eq!(posted(), 1);
        // Never more than at first, however long it was quiet.
        (2000..3000).for_each(|number| told.tell_at(owner(number), REFUSED, "no", later));
        assert_eq!(posted(), 99);
        let before = dropped.get();
        // The same again and again is no event, and none that was dropped.
        (0..10).for_each(|_| told.tell_at(owner(900), REFUSED, "no", later));
        assert_eq!((posted(), dropped.get()), (0, before));
    }

    #[test]
    fn an_event_that_the_queue_has_no_place_for_is_counted() {
        let (events, queue) = Events::new();
        drop(queue);
        let dropped = Counter::default();
        let told = Told::new(events, dropped.clone());
        told.tell_at(
            Regarding::pod("shop".to_owned(), "web".to_owned(), None),
            REFUSED,
            "no",
            Instant::now(),
        );
        assert_eq!(dropped.get(), 1);
    }
}
