// SPDX-License-Identifier: Apache-2.0
//! A network namespace to try things in, which is gone when its thread ends: nothing to clean up, also after a kill.

use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::deadline::{Unanswered, within};

/// Why nothing could be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// The caller may not.
    #[error("a network namespace of its own needs root")]
    NeedsRoot,
    /// The kernel cannot.
    #[error("the kernel makes no network namespace: {}", .0.desc())]
    Refused(Errno),
    /// What was tried in it takes too long.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Runs `work` on a thread of its own, in a network namespace of its own. The caller's stays as it is.
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

    /// Holds with root and without: either the work ran elsewhere, or it did not run.
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
