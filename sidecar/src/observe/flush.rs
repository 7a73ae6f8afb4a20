// SPDX-License-Identifier: Apache-2.0
//! The end of a thread that writes what others hand over by a bounded queue.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Pause before the end is offered again to a queue that is full.
const OFFER_AGAIN: Duration = Duration::from_millis(5);

/// Sends `end` to the writer and waits for its answer, which comes once all earlier messages are written. Gives up after
/// `deadline`, as a pipe may have no reader any more.
pub(crate) fn write_out<T>(queue: &SyncSender<T>, end: impl FnOnce(SyncSender<()>) -> T, deadline: Duration) {
    let until = Instant::now() + deadline;
    if let Some(written) = send_end(queue, end, until) {
        wait(&written, until);
    }
}

/// Sends `end` to the writer. `None` when the queue was full for all the time.
pub(crate) fn send_end<T>(
    queue: &SyncSender<T>,
    end: impl FnOnce(SyncSender<()>) -> T,
    until: Instant,
) -> Option<Receiver<()>> {
    let (sender, written) = sync_channel(1);
    let mut end = end(sender);
    // A full queue has no place for the message that ends it, and std has no send with a deadline.
    while let Err(TrySendError::Full(back)) = queue.try_send(end) {
        end = back;
        if Instant::now() >= until {
            return None;
        }
        std::thread::park_timeout(OFFER_AGAIN);
    }
    Some(written)
}

/// Waits for the writer's answer; also over when the writer is gone.
pub(crate) fn wait(written: &Receiver<()>, until: Instant) {
    let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
}
