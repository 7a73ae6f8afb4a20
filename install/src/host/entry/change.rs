// SPDX-License-Identifier: Apache-2.0
//! Changes of the folder of configurations, each under the lock of the node, so that `agent` and `uninstall` do not undo each
//! other.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::aside;
use crate::conflist::Entry;
use crate::host::files::{self, Replaced, Unfinished};
use crate::host::layout::Layout;
use crate::host::state::{self, LockError, advice};
use crate::system::lossless::bytes;

/// A change of the folder. All paths are as this process opens them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryChange {
    /// Replace the text `from` of a list by `to`.
    Edit {
        path: PathBuf,
        from: String,
        to: String,
        /// Our list before it, for a file that cannot be replaced; `None` where there is to be none.
        instead: Option<PathBuf>,
    },
    /// Write `to` to our list before the neighbour's file `theirs`, which holds `from`.
    StandIn {
        theirs: PathBuf,
        from: String,
        list: PathBuf,
        to: String,
        /// True where our list is there already, and `theirs` says something else since.
        follows: bool,
    },
    /// Write `text` to a file of ours in the network's drop-in folder.
    DropIn { path: PathBuf, text: String },
}

/// A change that takes a file of ours away, or one of an earlier release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Withdrawal {
    /// Remove our list, since the file that it stands before is gone or no longer the runtime's choice.
    StandIn { list: PathBuf },
    /// Give the file that an earlier release renamed to `name` its own name back, behind a list of ours with this entry.
    BringBack { name: String, entry: Entry },
}

impl EntryChange {
    /// Returns true where the file no longer holds the text that the change was made from.
    pub(crate) fn is_overtaken(&self) -> bool {
        match self {
            Self::Edit { path: source, from, .. } | Self::StandIn { theirs: source, from, .. } => {
                fs::read(source).is_ok_and(|there| there != *bytes(from))
            }
            Self::DropIn { .. } => false,
        }
    }

    /// Returns true for a change that follows a neighbour's own file: our entry was not taken out of anything.
    pub(crate) const fn follows(&self) -> bool {
        matches!(self, Self::StandIn { follows: true, .. })
    }
}

/// The reason why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("{}: {source}{}", path.display(), advice(source))]
    File {
        /// The file that was to be written, as the node names it.
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The thread that made it panicked.
    #[error("the change ended: {0}")]
    Ended(String),
}

impl ChangeError {
    /// The end of the thread that was to make the change.
    pub(crate) fn ended(error: &impl ToString) -> Self {
        Self::Ended(error.to_string())
    }

    fn of(layout: &Layout, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = layout.root.on_node(path);
        move |source| Self::File { path: path.clone(), source }
    }
}

/// Makes the change, unless `uninstall` ran or the file changed since the inspection.
pub(crate) fn apply(layout: &Layout, change: &EntryChange) -> Result<Replaced, ChangeError> {
    // Written before the lock is taken, since the flush to the disk may take long.
    let new = match change {
        EntryChange::Edit { path, to, .. } => {
            beside(path, path, to).map_err(ChangeError::of(layout, path))?
        }
        EntryChange::StandIn { theirs, list, to, .. } => {
            beside(list, theirs, to).map_err(ChangeError::of(layout, list))?
        }
        EntryChange::DropIn { .. } => None,
    };
    let _lock = state::lock(layout)?;
    if state::is_uninstalled(layout) {
        return Ok(Replaced::Overtaken);
    }
    match (change, new) {
        (EntryChange::Edit { path, from, to, instead }, Some(new)) => {
            let failed = ChangeError::of(layout, path);
            let replaced = match (new.replace_if(&bytes(from)), instead) {
                // A file that is mounted by itself, or that may not be changed, keeps its place. The runtime takes ours before.
                (Err(error), Some(list)) if cannot_be_replaced(&error) => {
                    let failed = ChangeError::of(layout, list);
                    let Some(new) = beside(list, path, to).map_err(&failed)? else {
                        return Ok(Replaced::Overtaken);
                    };
                    return before(path, from, new).map_err(&failed);
                }
                (replaced, _) => replaced.map_err(&failed)?,
            };
            // containerd watches the folder, not where a link of it leads.
            if replaced == Replaced::Done && path.parent() != Some(&layout.at(&layout.conf_dir)) {
                trigger_reload(&layout.at(&layout.conf_dir)).map_err(&failed)?;
            }
            Ok(replaced)
        }
        (EntryChange::StandIn { theirs, from, list, .. }, Some(new)) => {
            before(theirs, from, new).map_err(ChangeError::of(layout, list))
        }
        // The neighbour's file went after the inspection.
        (EntryChange::Edit { .. } | EntryChange::StandIn { .. }, None) => Ok(Replaced::Overtaken),
        (EntryChange::DropIn { path, text }, _) => {
            let folder = path.parent().unwrap_or(path);
            let write = || {
                DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
                Unfinished::write(path, text.as_bytes(), None, 0o600)?.replace()?;
                trigger_reload(folder.parent().unwrap_or(folder))
            };
            write().map(|()| Replaced::Done).map_err(ChangeError::of(layout, path))
        }
    }
}

/// Returns true for the error of a mount point (EBUSY) and for that of a file with the immutable attribute (EPERM).
fn cannot_be_replaced(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::PermissionDenied)
}

/// Puts our list into its place before the file `theirs`, if that still holds `from`.
fn before(theirs: &Path, from: &str, new: Unfinished) -> io::Result<Replaced> {
    if !fs::read(theirs).is_ok_and(|there| there == *bytes(from)) {
        return Ok(Replaced::Overtaken);
    }
    new.replace().map(|()| Replaced::Done)
}

/// Takes a file of ours away, unless `uninstall` ran. Returns what was done, for the log.
pub(crate) fn withdraw(layout: &Layout, withdrawal: &Withdrawal) -> Result<Option<String>, ChangeError> {
    let _lock = state::lock(layout)?;
    if state::is_uninstalled(layout) {
        return Ok(None);
    }
    match withdrawal {
        Withdrawal::StandIn { list } => {
            let failed = ChangeError::of(layout, list);
            let is_removed = files::remove_if_there(list).map_err(&failed)?;
            files::sync_folder_of(list).map_err(&failed)?;
            Ok(is_removed.then(|| {
                let list = layout.root.on_node(list);
                format!(
                    "{}: removed, since the file that it stood before is gone or not used",
                    list.display()
                )
            }))
        }
        Withdrawal::BringBack { name, entry } => {
            let path = layout.conf_dir.join(name);
            let done = aside::bring_back(&layout.at(&layout.conf_dir), name, Some(entry))
                .map_err(|source| ChangeError::File { path: path.clone(), source })?;
            Ok(Some(format!("{}: {done}", path.display())))
        }
    }
}

/// Replaces the text `from` of a file by `to`.
pub(crate) fn edit(path: &Path, from: &str, to: &str) -> io::Result<Replaced> {
    beside(path, path, to)?.map_or(Ok(Replaced::Overtaken), |new| new.replace_if(&bytes(from)))
}

/// Writes `to` beside the file, with the mode and owner of `like`; `None` where that is gone.
fn beside(path: &Path, like: &Path, to: &str) -> io::Result<Option<Unfinished>> {
    match fs::metadata(like) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        like => Unfinished::write(path, &bytes(to), Some(&like?), 0o600).map(Some),
    }
}

/// Makes containerd read its folder again, by a file that comes and goes: containerd does not watch the folders below.
pub(crate) fn trigger_reload(folder: &Path) -> io::Result<()> {
    drop(Unfinished::write(&folder.join("reload"), b"", None, 0o600)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_reported_with_its_remedy() {
        for (errno, helps) in [
            (nix::errno::Errno::EACCES, "must be root"),
            (nix::errno::Errno::EROFS, "must be root"),
            (nix::errno::Errno::ENOSPC, "make room"),
            (nix::errno::Errno::EDQUOT, "make room"),
        ] {
            let (path, source) = (PathBuf::from("/etc/cni/net.d/x"), io::Error::from(errno));
            let said = ChangeError::File { path, source }.to_string();
            assert!(said.starts_with("/etc/cni/net.d/x: ") && said.contains(helps), "{said}");
        }
    }
}
