// SPDX-License-Identifier: Apache-2.0
//! Schedules handshakes, so that many at once do not delay a worker's streams.
//!
//! A handshake is some 300 µs of arithmetic in two or three pieces. A thousand that arrive at once would be a thousand
//! pieces in a row before the next byte of a stream moves. So each worker does one piece, runs all other tasks that are
//! ready, then does the next. The slot is held for the arithmetic and never while waiting for a peer, so a peer that is
//! slow on purpose delays no other.

use std::sync::Arc;
use tokio::sync::Semaphore;

thread_local! {
    /// The slot of this worker; a connection stays with the worker that accepted it.
    static SLOT: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// Waits for the worker's slot, and does a piece of work. If it is cancelled while it waits, the next one moves up.
pub(super) async fn scheduled<R>(work: impl FnOnce() -> R) -> R {
    let slot = SLOT.with(Arc::clone);
    // The semaphore is never closed. If it were, the work would still have to be done.
    let _held = slot.acquire().await;
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
            tasks.spawn(async move { scheduled(|| order.lock().unwrap().push("piece")).await });
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
        let slot = SLOT.with(Arc::clone);
        let held = slot.acquire().await.unwrap();
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), scheduled(|| ())).await;
        assert!(waited.is_err());
        drop(held);
        scheduled(|| ()).await;
    }
}
