// SPDX-License-Identifier: Apache-2.0
//! The network namespace that an operator names: by path, or the current one.
//!
//! The plugin refuses its caller's namespace, since on a node that is the host's. Here the current namespace is a
//! choice: that of a virtual machine, or of the pod whose init container this is.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_cni::netns::{Netns, NetnsError, NetnsId};

use super::capabilities::{self, Lacking, Target};
use super::deadline::{Unanswered, within};

/// Rules take some 10 ms; programs of iptables have 2 s each, and there are at most eight calls.
const LIMIT: Duration = Duration::from_secs(30);

/// Reasons why nothing can be done there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// The path names the host's namespace, or this thread's.
    #[error("{} is the host's network namespace, or the current one: without --netns the current one is meant", .0.display())]
    Host(PathBuf),
    /// The path is not a namespace.
    #[error("{0}; --netns takes a path such as /run/netns/NAME or /proc/PID/ns/net")]
    NotANamespace(NetnsError),
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(NetnsError),
    /// The current namespace cannot be identified.
    #[error("cannot read /proc/thread-self/ns/net: {0}")]
    Current(io::Error),
    /// The caller lacks a right.
    #[error(transparent)]
    Lacking(#[from] Lacking),
    /// The work missed its deadline.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

impl PlaceError {
    /// Returns true if the path is wrong rather than the machine.
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
    /// Opens the namespace at `path`, or this thread's without one.
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

    /// Identity of the namespace on this machine.
    pub(crate) const fn id(&self) -> NetnsId {
        self.id
    }

    /// Returns true if it is this thread's namespace.
    pub(crate) const fn is_current(&self) -> bool {
        self.path.is_none()
    }

    /// Runs `work` in it on its own thread, since the work may change the thread's mounts.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PlaceError> {
        match &self.path {
            Some(path) => Ok(Netns::open(path)?.enter(LIMIT, work)?),
            // A thread starts in the namespace of the thread that started it.
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
