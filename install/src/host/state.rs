// SPDX-License-Identifier: Apache-2.0
//! The state folder: the lock under which files of the node are changed, and the marks of `agent` and `uninstall` for each
//! other.

use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use super::files;
use super::layout::Layout;

/// Present from an `uninstall` until the next start of an agent.
const UNINSTALLED: &str = "uninstalled";
/// Locked while files of the node are changed.
const LOCK: &str = "lock";
/// Locked by every agent that runs.
const ALIVE: &str = "agent";

/// The reason why the node's lock is not held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("another culvert-install is changing this node's files")]
    Busy,
    #[error("{}: {source}{}", path.display(), advice(source))]
    File {
        /// The lock's file, as the node names it.
        path: PathBuf,
        source: io::Error,
    },
}

/// Names the remedy for an error of the file system; empty where there is none to name.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; culvert-install must be root on the node and the folder writable"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
        _ => "",
    }
}

/// Returns true after an `uninstall`, until an agent starts.
pub(crate) fn is_uninstalled(layout: &Layout) -> bool {
    layout.at(&layout.state_dir.join(UNINSTALLED)).exists()
}

/// Leaves the mark that makes running agents keep their hands off this node.
pub(super) fn mark_uninstalled(layout: &Layout) -> io::Result<()> {
    create_folder(layout)?;
    File::create(layout.at(&layout.state_dir.join(UNINSTALLED))).map(drop)
}

/// Removes the mark of an `uninstall`: an agent that starts brings culvert back.
pub(crate) fn unmark_uninstalled(layout: &Layout) -> io::Result<()> {
    files::remove_if_there(&layout.at(&layout.state_dir.join(UNINSTALLED))).map(drop)
}

/// Lists the files in the state folder that belong to this module.
pub(super) fn own_files(layout: &Layout) -> [PathBuf; 3] {
    [UNINSTALLED, LOCK, ALIVE].map(|name| layout.at(&layout.state_dir.join(name)))
}

/// Takes the shared lock that an agent holds for its whole life.
pub(crate) fn mark_alive(layout: &Layout) -> io::Result<File> {
    create_folder(layout)?;
    let path = layout.at(&layout.state_dir.join(ALIVE));
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    match file.try_lock_shared() {
        // `uninstall` tests the lock at this very moment, and releases it at once.
        Ok(()) | Err(TryLockError::WouldBlock) => Ok(file),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Returns true if the lock `alive` of an agent is still at its path, where others look for it.
pub(crate) fn is_alive_mark(layout: &Layout, alive: &File) -> bool {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let there = fs::metadata(layout.at(&layout.state_dir.join(ALIVE))).map(identity);
    there.is_ok_and(|there| alive.metadata().is_ok_and(|ours| identity(ours) == there))
}

/// Returns true while any agent of this node runs.
pub(crate) fn is_agent_alive(layout: &Layout) -> bool {
    let file = File::open(layout.at(&layout.state_dir.join(ALIVE)));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Takes the exclusive lock for changes of the node's files. The kernel releases it when the file is closed, so a killed
/// holder leaves nothing behind.
pub(crate) fn lock(layout: &Layout) -> Result<File, LockError> {
    let path = layout.state_dir.join(LOCK);
    let open = || {
        create_folder(layout)?;
        File::options().write(true).create(true).truncate(false).open(layout.at(&path))
    };
    let file = open().map_err(|source| LockError::File { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LockError::Busy),
        Err(TryLockError::Error(source)) => Err(LockError::File { path, source }),
    }
}

/// Creates the state folder with the plugin's own mode for it.
fn create_folder(layout: &Layout) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(layout.at(&layout.state_dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conflist::Loader;
    use crate::host::root::HostRoot;

    #[test]
    fn a_lock_that_cannot_be_had_is_named_as_the_node_names_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run"), "no folder").unwrap();
        let layout = Layout {
            root: HostRoot::new(folder.path()),
            runtime: String::new(),
            conf_dir: "/etc/cni/net.d".into(),
            loader: Loader::containerd(1),
            bin_dirs: Vec::new(),
            plugin_dirs: Vec::new(),
            state_dir: "/run/culvert".into(),
            runtime_socket: None,
            plugin: PathBuf::new(),
            handlers: Default::default(),
            complaints: Vec::new(),
        };
        let said = lock(&layout).expect_err("a lock in a file").to_string();
        assert!(said.starts_with("/run/culvert/lock: "), "{said}");
    }
}
