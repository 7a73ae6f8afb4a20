//! Network namespaces that belong to this process alone.
//!
//! A namespace is made by a thread that leaves the one it was born in and ends; what stays is an open file. Nothing
//! is mounted and nothing has a name in the file system, so a test that is killed leaves nothing behind: the kernel
//! removes the namespace with its last file, thread and socket.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// The message of a test that is not run as root.
pub const NEEDS_ROOT: &str = "the lab needs root: the kernel refused to make a network namespace (run it as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN)";

/// A network namespace; it lives as long as this value, a thread or a socket inside it does.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

/// The kernel's name for a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl Namespace {
    /// Makes an empty namespace. Even its `lo` is down.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let handle = thread::Builder::new()
            .name(name.clone())
            .spawn(|| -> Result<File> {
                match unshare(CloneFlags::CLONE_NEWNET) {
                    Err(Errno::EPERM) => bail!(NEEDS_ROOT),
                    other => other.context("cannot make a network namespace")?,
                }
                File::open("/proc/thread-self/ns/net").context("cannot open the new namespace")
            })?
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(Self { name, handle })
    }

    /// A namespace that another program made, by its open file.
    pub fn existing(name: impl Into<String>, handle: File) -> Self {
        Self { name: name.into(), handle }
    }

    /// The name that was given to it; threads inside carry it too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path by which any root process opens this namespace, as a runtime hands it to a plugin in `CNI_NETNS`.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd()).into()
    }

    /// Device and inode of the namespace.
    pub fn id(&self) -> Result<NamespaceId> {
        let meta = self.handle.metadata()?;
        Ok(NamespaceId { device: meta.dev(), inode: meta.ino() })
    }

    /// Runs `work` on a thread of its own inside the namespace. What `work` opens stays in the namespace, on any
    /// thread that uses it afterwards. A panic of `work` is the caller's panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET)
                    .unwrap_or_else(|e| panic!("cannot enter namespace {}: {e}", self.name));
                work()
            };
            thread::Builder::new()
                .name(self.name.clone())
                .spawn_scoped(scope, inside)
                .expect("a thread can be started")
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

/// Makes `/proc/sys` read-only for the calling thread and what it starts, as in a container without privileges.
pub fn read_only_sysctls() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some("/proc/sys"), "/proc/sys", nothing, MsFlags::MS_BIND, nothing)?;
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(nothing, "/proc/sys", nothing, again, nothing)?;
    Ok(())
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}
