// SPDX-License-Identifier: Apache-2.0
//! A deadline for calls that have none.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The call missed its deadline, panicked, or could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
pub(crate) struct Unanswered(pub Duration);

/// Runs `call` on its own thread and waits at most `limit`.
///
/// A late call runs on until it ends or the process exits, so this fits a command that is about to exit.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    let (answer, answered) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("culvert-probe".to_owned())
        .spawn(move || {
            // Fails only if the caller has given up.
            let _ = answer.send(call());
        })
        .map_err(|_| Unanswered(limit))?;
    answered.recv_timeout(limit).map_err(|_| Unanswered(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_never_ends_is_given_up() {
        let (_keep, never) = mpsc::channel::<()>();
        let limit = Duration::from_millis(20);
        assert_eq!(within(limit, move || never.recv()), Err(Unanswered(limit)));
    }

    #[test]
    fn an_answer_in_time_is_the_answer() {
        assert_eq!(within(Duration::from_secs(60), || 7), Ok(7));
    }
}
