// SPDX-License-Identifier: Apache-2.0
//! A network namespace for trials. It is gone when its thread ends, so nothing has to be cleaned up, even after a
//! kill.

use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::deadline::{Unanswered, within};

/// Reasons why a trial did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// The caller lacks the right.
    #[error("a network namespace of its own needs root")]
    NeedsRoot,
    /// The kernel refused.
    #[error("the kernel makes no network namespace: {}", .0.desc())]
    Refused(Errno),
    /// The trial missed its deadline.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Runs `work` on its own thread in its own network namespace. The caller's namespace stays as it is.
pub(crate) fn in_namespace<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NamespaceError> {
    within(limit, || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => Ok(work()),
        Err(Errno::EPERM) => Err(NamespaceError::NeedsRoot),
        Err(errno) => Err(NamespaceError::Refused(errno)),
    })?
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Holds with root and without: the work runs in another namespace or not at all.
    #[test]
    fn work_never_runs_in_the_callers_namespace() {
        let here = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = here();
        match in_namespace(Duration::from_secs(60), here) {
            Ok(there) => assert_ne!(there, before),
            Err(error) => assert_eq!(error, NamespaceError::NeedsRoot),
        }
        assert_eq!(here(), before);
    }
}
