// SPDX-License-Identifier: Apache-2.0
//! Handshakes take turns, so that a crowd of them does not keep a worker's streams waiting.
//!
//! A handshake is some 300 µs of arithmetic in two or three pieces. A thousand that arrive at once would be a thousand
//! pieces in a row before the next byte of a stream moves. So each worker does one piece, then lets everything else that
//! is ready have its go, then does the next. The turn is held for the arithmetic and never while waiting for a peer: who
//! is slow on purpose keeps nobody waiting.

use std::sync::Arc;
use tokio::sync::Semaphore;

thread_local! {
    /// Of this worker: a connection stays with the worker that accepted it.
    static TURN: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// Does a piece of work when it is its turn. Cancelled while it waits, it gives its place to the next.
pub(super) async fn in_turn<R>(work: impl FnOnce() -> R) -> R {
    let turn = TURN.with(Arc::clone);
    // The semaphore is never closed; were it, nothing would be gained by not working.
    let _mine = turn.acquire().await;
    let done = work();
    // Still holding it: everything else that is ready, and what the kernel has ready by now, comes before the next piece.
    tokio::task::yield_now().await;
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn what_else_is_ready_comes_between_two_pieces() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let order = Arc::clone(&order);
            tasks.spawn(async move { in_turn(|| order.lock().unwrap().push("piece")).await });
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
    async fn who_gives_up_waiting_is_not_waited_for() {
        let turn = TURN.with(Arc::clone);
        let held = turn.acquire().await.unwrap();
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), in_turn(|| ())).await;
        assert!(waited.is_err());
        drop(held);
        in_turn(|| ()).await;
    }
}
