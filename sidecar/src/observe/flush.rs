// SPDX-License-Identifier: Apache-2.0
//! The end of a thread that writes what others hand over by a bounded queue.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Pause before the end is offered again to a queue that is full.
const RETRY: Duration = Duration::from_millis(5);

/// Sends `end` to the writer and waits for its answer, which comes once all earlier messages are written. Gives up after
/// `deadline`, as a pipe may have no reader any more.
pub(crate) fn write_out<T>(queue: &SyncSender<T>, end: impl FnOnce(SyncSender<()>) -> T, deadline: Duration) {
    let (written, heard) = sync_channel(1);
    let until = Instant::now() + deadline;
    let mut end = end(written);
    // A full queue has no place for the message that ends it, and std has no send with a deadline.
    while let Err(TrySendError::Full(back)) = queue.try_send(end) {
        end = back;
        if Instant::now() >= until {
            return;
        }
        std::thread::park_timeout(RETRY);
    }
    // Also over when the writer is gone.
    let _ = heard.recv_timeout(until.saturating_duration_since(Instant::now()));
}
