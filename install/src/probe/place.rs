// SPDX-License-Identifier: Apache-2.0
//! The network namespace that an operator names: by path, or the one that this thread is in.
//!
//! The plugin's own way in refuses its caller's namespace, since on a node that is the host's. Here the current namespace is
//! a choice: a virtual machine's, or that of the pod whose init container this is.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_cni::netns::{Netns, NetnsError, NetnsId};

use super::capabilities::{self, Lacking, Target};
use super::deadline::{Unanswered, within};

/// Rules take some 10 ms; the programs of iptables have 2 s each, and there are eight calls at most.
const LIMIT: Duration = Duration::from_secs(30);

/// Why nothing can be done there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// The path names the host's namespace, or this thread's.
    #[error("{} is the host's network namespace, or the current one: without --netns the current one is meant", .0.display())]
    Host(PathBuf),
    /// The path names no namespace.
    #[error("{0}; --netns takes a path such as /run/netns/NAME or /proc/PID/ns/net")]
    NotANamespace(NetnsError),
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(NetnsError),
    /// The current namespace does not say which it is.
    #[error("cannot read /proc/thread-self/ns/net: {0}")]
    Current(io::Error),
    /// The caller may not.
    #[error(transparent)]
    Lacking(#[from] Lacking),
    /// The work does not end.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

impl PlaceError {
    /// Whether the path is wrong, rather than the machine.
    pub(crate) const fn is_usage(&self) -> bool {
        matches!(self, Self::Host(_) | Self::NotANamespace(_))
    }
}

impl From<NetnsError> for PlaceError {
    fn from(error: NetnsError) -> Self {
        match error {
            NetnsError::Host(path) => Self::Host(path),
            error @ (NetnsError::Open { .. } | NetnsError::NotANamespace(_)) => Self::NotANamespace(error),
            other => Self::Netns(other),
        }
    }
}

/// A namespace that the caller may change.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    path: Option<PathBuf>,
    id: NetnsId,
}

impl Place {
    /// The namespace at `path`; without one, this thread's.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, PlaceError> {
        capabilities::check(if path.is_some() { Target::Other } else { Target::Current })?;
        let id = match path {
            Some(path) => {
                let id = Netns::open(path)?.id();
                id.map_err(|source| NetnsError::Open { path: path.to_owned(), source })?
            }
            None => {
                let stat = fs::metadata("/proc/thread-self/ns/net").map_err(PlaceError::Current)?;
                NetnsId { device: stat.dev(), inode: stat.ino() }
            }
        };
        Ok(Self { path: path.map(Path::to_owned), id })
    }

    /// Its identity on this machine.
    pub(crate) const fn id(&self) -> NetnsId {
        self.id
    }

    /// Whether it is the one that this thread is in.
    pub(crate) const fn is_current(&self) -> bool {
        self.path.is_none()
    }

    /// Runs `work` in it, on a thread of its own: the work may change the thread's mounts.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PlaceError> {
        match &self.path {
            Some(path) => Ok(Netns::open(path)?.enter(LIMIT, work)?),
            // A thread starts in the namespace of the one that started it.
            None => Ok(within(LIMIT, work)?),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "network namespace {}", path.display()),
            None => f.write_str("the current network namespace"),
        }
    }
}
