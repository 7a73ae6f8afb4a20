// SPDX-License-Identifier: Apache-2.0
//! Network namespaces: opened by path, identified by device and inode, entered on a thread of their own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::shown::shown;

/// Time limit for the wait until another plugin has ended its work in the namespace: a hundred times its duration.
const TURN_WITHIN: Duration = Duration::from_secs(1);

/// A network namespace that cannot be used: CNI code 8, or 11 where a retry may help.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path cannot be opened.
    #[error("cannot open the network namespace: {source}: {}", shown(path.to_string_lossy()))]
    Open {
        /// Path as the runtime passed it.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// The file at the path is no network namespace.
    #[error("the path is no network namespace: {}", shown(.0.to_string_lossy()))]
    NotANamespace(PathBuf),
    /// The path names the host's own namespace, into which rules must never be written.
    #[error(
        "the path is the host's own network namespace, where the plugin never writes rules: {}",
        shown(.0.to_string_lossy())
    )]
    Host(PathBuf),
    /// The kernel refused to let the thread enter.
    #[error(
        "cannot enter the network namespace, the plugin needs CAP_SYS_ADMIN: {errno}: {}",
        shown(path.to_string_lossy())
    )]
    Enter {
        /// Path as the runtime passed it.
        path: PathBuf,
        /// Error of the system call `setns`.
        errno: Errno,
    },
    /// The work in the namespace did not end in time.
    #[error(
        "the work in the network namespace did not end within {limit:?}: {}",
        shown(path.to_string_lossy())
    )]
    TimedOut {
        /// Path as the runtime passed it.
        path: PathBuf,
        /// Time limit of the wait.
        limit: Duration,
    },
    /// The kernel refused to start a thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A namespace's identity on this node, for as long as something keeps the namespace alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct NetnsId {
    /// Device number of the nsfs, the same for all namespaces of a kernel.
    pub device: u64,
    /// Inode number, reused after the namespace is gone.
    pub inode: u64,
}

impl NetnsId {
    /// Read the identity of the namespace at `path` without opening it. Links of /proc are followed.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = std::fs::metadata(path)?;
        Ok(Self { device: stat.dev(), inode: stat.ino() })
    }
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Open the namespace at `path`, which must not be the host's.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        Self::open_apart_from(path, None)
    }

    /// As [`Self::open`], with the host's namespace given as `host`: in a container neither the process's own namespace
    /// nor that of pid 1 is the host's.
    pub fn open_apart_from(path: &Path, host: Option<NetnsId>) -> Result<Self, NetnsError> {
        let open_error = |source| NetnsError::Open { path: path.to_owned(), source };
        // O_NONBLOCK: opening a FIFO at that path would otherwise wait for its other end.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY).bits())
            .open(path)
            .map_err(open_error)?;
        let on_nsfs = fstatfs(&file).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC);
        if !on_nsfs {
            return Err(NetnsError::NotANamespace(path.to_owned()));
        }
        let netns = Self { file, path: path.to_owned() };
        let id = netns.id().map_err(open_error)?;
        if host_namespaces().chain(host).any(|host| host == id) {
            return Err(NetnsError::Host(path.to_owned()));
        }
        Ok(netns)
    }

    /// Returns the identity of the open namespace.
    pub fn id(&self) -> io::Result<NetnsId> {
        let stat = self.file.metadata()?;
        Ok(NetnsId { device: stat.dev(), inode: stat.ino() })
    }

    /// Run `work` on a thread inside the namespace, one at a time on this node, and wait at most `limit` for its result.
    ///
    /// A panic of `work` is resumed in the caller. After a timeout the thread is not stopped.
    pub fn enter<T: Send + 'static>(
        self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetnsError> {
        let path = self.path.clone();
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                let Self { file, path } = self;
                let _lock = one_at_a_time(&file);
                let result = match setns(&file, CloneFlags::CLONE_NEWNET) {
                    Ok(()) => Ok(work()),
                    Err(Errno::EINVAL) => Err(NetnsError::NotANamespace(path)),
                    Err(errno) => Err(NetnsError::Enter { path, errno }),
                };
                // Fails after a timeout: the receiver is gone then.
                drop(sender.send(result));
            })
            .map_err(NetnsError::Thread)?;
        match receiver.recv_timeout(limit) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(NetnsError::TimedOut { path, limit }),
            Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => Err(NetnsError::TimedOut { path, limit }),
            },
        }
    }
}

/// Lock the namespace's file, so that no plugin reads back what another one is writing. The lock ends with the file, and so
/// with the process.
///
/// Best effort: any process of the pod can open its namespace's file and lock it for ever. That may cost an ADD
/// [`TURN_WITHIN`], but must not keep rules out. The kernel's own transactions hold without the lock.
fn one_at_a_time(file: &File) -> Option<File> {
    let lock = file.try_clone().ok()?;
    if lock.try_lock().is_ok() {
        return Some(lock);
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("lock".to_owned())
        .spawn(move || {
            let locked = lock.lock().is_ok();
            // Fails after TURN_WITHIN: the receiver is gone then.
            drop(sender.send(locked.then_some(lock)));
        })
        .ok()?;
    receiver.recv_timeout(TURN_WITHIN).ok().flatten()
}

/// Identities of this thread's namespace and, where it can be read, that of pid 1.
fn host_namespaces() -> impl Iterator<Item = NetnsId> {
    ["/proc/thread-self/ns/net", "/proc/1/ns/net"]
        .into_iter()
        .filter_map(|path| NetnsId::of(Path::new(path)).ok())
}
