// SPDX-License-Identifier: Apache-2.0
//! Schedules handshakes, so that many at once do not delay a worker's streams.
//!
//! A handshake is some 300 µs of arithmetic in two or three pieces. A thousand that arrive at once would be a thousand
//! pieces in a row before the next byte of a stream moves. So each worker does one piece, runs all other tasks that are
//! ready, then does the next. The slot is held for the arithmetic and never while waiting for a peer, so a peer that is
//! slow on purpose delays no other.
//!
//! Strangers queue in lanes, and of each lane only the first waits for the slot. So a flood delays a known peer by
//! [`LANES`] pieces at most, some 10 ms, and another stranger by a turn of the lanes, unless both share one.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use tokio::sync::Semaphore;

/// Lanes of strangers on each worker (stochastic fairness queueing). More would make known peers wait longer.
const LANES: u8 = 64;

/// The queue of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Directly for the slot.
    Known,
    /// Behind the strangers whose network has the same hash.
    Stranger(u8),
}

impl Lane {
    pub(super) fn of_stranger(network: IpAddr) -> Self {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let lane = KEY.hash_one(network) % u64::from(LANES);
        // The remainder is below `LANES`.
        Self::Stranger(u8::try_from(lane).unwrap_or_default())
    }
}

/// The slot of a worker, and the lanes before it: one permit each.
#[derive(Debug)]
struct Queues {
    slot: Semaphore,
    lanes: [Semaphore; LANES as usize],
}

thread_local! {
    /// Those of this worker; a connection stays with the worker that accepted it.
    static QUEUES: Arc<Queues> = Arc::new(Queues {
        slot: Semaphore::new(1),
        lanes: std::array::from_fn(|_| Semaphore::new(1)),
    });
}

/// Waits for the worker's slot, and does a piece of work. If it is cancelled while it waits, the next one moves up.
pub(super) async fn scheduled<R>(lane: Lane, work: impl FnOnce() -> R) -> R {
    let queues = QUEUES.with(Arc::clone);
    // The semaphores are never closed. If they were, the work would still have to be done.
    let _first = match lane {
        Lane::Known => None,
        Lane::Stranger(lane) => queues.lanes[usize::from(lane % LANES)].acquire().await.ok(),
    };
    let _held = queues.slot.acquire().await;
    let done = work();
    // The slot is still held: all tasks that are ready, also by new events of the kernel, run before the next piece.
    tokio::task::yield_now().await;
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn other_ready_tasks_run_between_two_pieces() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let order = Arc::clone(&order);
            tasks.spawn(async move { scheduled(Lane::Known, || order.lock().unwrap().push("piece")).await });
        }
        let stream = {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                while order.lock().unwrap().iter().filter(|one| **one == "piece").count() < 20 {
                    order.lock().unwrap().push("stream");
                    tokio::task::yield_now().await;
                }
            })
        };
        while tasks.join_next().await.is_some() {}
        stream.await.unwrap();
        let order = order.lock().unwrap();
        let in_a_row = order.split(|one| *one == "stream").map(<[_]>::len).max().unwrap();
        assert!(in_a_row <= 2, "{order:?}");
    }

    #[tokio::test]
    async fn a_cancelled_wait_does_not_block_the_next() {
        let queues = QUEUES.with(Arc::clone);
        let held = queues.slot.acquire().await.unwrap();
        for lane in [Lane::Known, Lane::Stranger(1)] {
            let waited =
                tokio::time::timeout(std::time::Duration::from_millis(1), scheduled(lane, || ())).await;
            assert!(waited.is_err());
        }
        drop(held);
        for lane in [Lane::Known, Lane::Stranger(1)] {
            scheduled(lane, || ()).await;
        }
    }

    #[tokio::test]
    async fn a_flood_of_one_lane_delays_others_by_a_piece() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        let flood = [(Lane::Stranger(1), "flood"); 50];
        for (lane, name) in flood.into_iter().chain([(Lane::Known, "known"), (Lane::Stranger(2), "other")]) {
            let order = Arc::clone(&order);
            tasks.spawn(async move { scheduled(lane, || order.lock().unwrap().push(name)).await });
        }
        while tasks.join_next().await.is_some() {}
        let order = order.lock().unwrap();
        for name in ["known", "other"] {
            let at = order.iter().position(|one| *one == name).unwrap();
            assert!(at <= 3, "{name} was served after {at} others");
        }
    }
}
