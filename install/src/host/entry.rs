// SPDX-License-Identifier: Apache-2.0
//! The plugin's entry in the folder of configurations: its state there, and the changes that bring it to the desired state.
//!
//! [`apply`] takes the lock of the node, so that `agent` and `uninstall` do not undo each other.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::files::{self, Replaced, Unfinished};
use super::layout::Layout;
use super::state::{self, LockError, advice};
use crate::conflist::effective::{self, Kind};
use crate::conflist::{self, Choice, Conflist, Ensured, Entry, Invalid, MAX_BYTES, Position, TYPE};
use crate::system::read::read_bounded;

/// The way in which the plugin gets into the runtime's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// An entry in the primary's own conflist.
    Chained,
    /// A file of ours in the folder named as the network, which libcni 1.3 and later reads (containerd 2.1, CRI-O 1.33).
    DropIn,
}

/// Suffix of a primary's `.conf` while a `.conflist` of ours stands in for it. No runtime loads a file of this name.
pub(crate) const SET_ASIDE: &str = ".culvert-original";
/// Name of our file in the drop-in folder of a network.
pub(crate) const DROP_IN: &str = "50-culvert.conf";

/// The desired state of the entry.
#[derive(Debug, Clone)]
pub(crate) struct EntrySpec {
    pub mode: Mode,
    pub position: Position,
    pub entry: Entry,
}

/// The present state of the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryState {
    /// It is as desired in the file that the runtime uses.
    Effective(UsedFile),
    /// It is missing or differs; this change brings it to the desired state.
    Needs(UsedFile, EntryChange),
    /// It cannot be there now, for this reason.
    Blocked(String),
    /// `uninstall` ran on this node.
    Uninstalled,
}

/// The file that holds the entry, or is to hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsedFile {
    /// As the node names it.
    pub path: PathBuf,
    /// The type of the chain's first plugin, by which the owner of the file is known.
    pub primary: String,
}

/// A change of one file, with the renames that belong to it. All paths are as this process opens them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryChange {
    /// Replace the text `from` of a list by `to`.
    Edit { path: PathBuf, from: String, to: String },
    /// Write `to` to `list`, then set the single configuration `conf`, which holds `from`, aside.
    Convert { conf: PathBuf, from: String, list: PathBuf, to: String },
    /// Write `text` to a file of ours in the network's drop-in folder.
    DropIn { path: PathBuf, text: String },
}

impl EntryChange {
    /// Returns true where the file no longer holds the text that the change was made from.
    pub(crate) fn is_overtaken(&self) -> bool {
        match self {
            Self::Edit { path, from, .. } => fs::read(path).is_ok_and(|bytes| bytes != from.as_bytes()),
            Self::Convert { .. } | Self::DropIn { .. } => false,
        }
    }
}

/// Reads the files of the folder that a runtime would load. A link is followed as on the node, not as in this process's own
/// root. A folder is skipped even if its name ends in `.conflist`, as by libcni.
pub(crate) fn loaded_files(layout: &Layout) -> io::Result<Vec<conflist::Loaded>> {
    let folder = layout.at(&layout.conf_dir);
    let entries = fs::read_dir(&folder)?.flatten();
    let files = entries.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = files.filter_map(|entry| entry.file_name().into_string().ok());
    let mut loaded = Vec::new();
    for name in names.filter(|name| effective::is_loaded(name)) {
        let text = match read_bounded(&layout.at(&layout.conf_dir.join(&name)), MAX_BYTES) {
            Ok(text) => Ok(text),
            // Renamed or removed since the folder was read: an event for that follows.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && folder.join(&name).symlink_metadata().is_err() =>
            {
                continue;
            }
            // A link that leads nowhere stays in the list, since the runtime fails at it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Invalid::Unreadable("it is a link that leads nowhere".to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Invalid::Unreadable("it is not UTF-8".to_owned()))
            }
            Err(error) => Err(Invalid::Unreadable(error.to_string())),
        };
        loaded.push((name, text));
    }
    Ok(loaded)
}

/// Compares the folder with the desired state. Changes nothing, except that a drop-in of ours is removed in mode `chained`, since
/// the chain would run the plugin twice.
pub(crate) fn inspect(layout: &Layout, desired: &EntrySpec) -> EntryState {
    if state::is_uninstalled(layout) {
        return EntryState::Uninstalled;
    }
    let folder = layout.at(&layout.conf_dir);
    let shown = layout.conf_dir.display();
    let files = match loaded_files(layout) {
        Ok(files) => files,
        Err(error) => return EntryState::Blocked(format!("{shown}: {error}")),
    };
    let (name, kind) = match conflist::effective(&files, &layout.loader) {
        Choice::File { name, kind } => (name, kind),
        Choice::Empty => {
            return EntryState::Blocked(format!(
                "{shown} holds no network configuration: the cluster's network plugin has not written it yet"
            ));
        }
        Choice::Broken { name, problem } => {
            return EntryState::Blocked(format!(
                "{shown}/{name} cannot be loaded, so the runtime takes no other: {problem}"
            ));
        }
    };
    let text = conflist::text_of(&files, &name).to_owned();
    let file = InUse { layout, folder: &folder, name: &name, text };
    let state = match (kind, desired.mode) {
        (Kind::List, Mode::Chained) => file.in_list(desired),
        (Kind::Single, Mode::Chained) => file.in_single(desired),
        (Kind::List, Mode::DropIn) => file.beside_list(desired),
        (Kind::Single, Mode::DropIn) => Err(format!(
            "{shown}/{name} is no list, and libcni reads drop-in folders for lists only: use --mode chained"
        )),
    };
    state.unwrap_or_else(EntryState::Blocked)
}

/// The file that the runtime uses, with its text.
struct InUse<'a> {
    layout: &'a Layout,
    folder: &'a Path,
    name: &'a str,
    text: String,
}

impl InUse<'_> {
    fn on_node(&self, name: &str) -> PathBuf {
        self.layout.conf_dir.join(name)
    }

    /// The path of the file itself. A link is followed, so that the link stays one when the file is replaced.
    fn here(&self) -> PathBuf {
        self.layout.at(&self.on_node(self.name))
    }

    fn wrong(&self, problem: &Invalid) -> String {
        format!("{}: {problem}", self.on_node(self.name).display())
    }

    fn in_list(self, desired: &EntrySpec) -> Result<EntryState, String> {
        let list = Conflist::parse(&self.text).map_err(|problem| self.wrong(&problem))?;
        let primary = list.plugins.first().map(|plugin| plugin.kind.clone()).unwrap_or_default();
        let network = list.name.clone();
        let ensured = conflist::ensure(&self.text, &desired.entry, &desired.position)
            .map_err(|problem| self.wrong(&problem))?;
        let file = UsedFile { path: self.on_node(self.name), primary };
        // Left by an agent that ran with --mode drop-in: the chain would run the plugin twice.
        let drop_in = self.folder.join(&network).join(DROP_IN);
        if drop_in.exists() {
            let _ = files::remove_if_there(&drop_in);
        }
        Ok(match ensured {
            Ensured::AsItShould => EntryState::Effective(file),
            Ensured::Needs(to) => {
                let path = self.here();
                EntryState::Needs(file, EntryChange::Edit { path, from: self.text, to })
            }
        })
    }

    fn in_single(self, desired: &EntrySpec) -> Result<EntryState, String> {
        let to = conflist::wrap(&self.text, &desired.entry).map_err(|problem| self.wrong(&problem))?;
        let stem = self.name.rsplit_once('.').map_or(self.name, |(stem, _)| stem);
        let beside = format!("{stem}.conflist");
        let list = self.folder.join(&beside);
        // A list that culvert did not make: only the operator can decide which of the two counts.
        if let Ok(there) = fs::read_to_string(&list)
            && !there.contains(TYPE)
            && !self.folder.join(format!("{}{SET_ASIDE}", self.name)).exists()
        {
            return Err(format!(
                "{} and {beside} are both there, and neither is ours: remove the one that does not count",
                self.on_node(self.name).display()
            ));
        }
        let primary = conflist::Conf::parse(&self.text).map(|conf| conf.kind).unwrap_or_default();
        let file = UsedFile { path: self.on_node(&beside), primary };
        let conf = self.folder.join(self.name);
        Ok(EntryState::Needs(file, EntryChange::Convert { conf, from: self.text, list, to }))
    }

    fn beside_list(self, desired: &EntrySpec) -> Result<EntryState, String> {
        let list = Conflist::parse(&self.text).map_err(|problem| self.wrong(&problem))?;
        list.speakable().map_err(|problem| self.wrong(&problem))?;
        if list.inlined_only {
            return Err(format!(
                "{} says loadOnlyInlinedPlugins, so no drop-in is read: use --mode chained",
                self.on_node(self.name).display()
            ));
        }
        let primary = list.plugins.first().map(|plugin| plugin.kind.clone()).unwrap_or_default();
        let (path, network) = (self.on_node(self.name), list.name.clone());
        if network.contains('/') || network == "." || network == ".." {
            return Err(format!("{}: its network {network:?} cannot be a folder's name", path.display()));
        }
        // Left by an agent that ran with --mode chained: the chain would run the plugin twice.
        if let Ok(Some(to)) = conflist::remove(&self.text) {
            let here = self.here();
            return Ok(EntryState::Needs(
                UsedFile { path, primary },
                EntryChange::Edit { path: here, from: self.text, to },
            ));
        }
        let file = UsedFile { path: path.with_file_name(&network).join(DROP_IN), primary };
        let drop_in = self.folder.join(&network).join(DROP_IN);
        if fs::read_to_string(&drop_in).is_ok_and(|text| desired.entry.is(&text)) {
            return Ok(EntryState::Effective(file));
        }
        let text = format!("{}\n", desired.entry.compact(" "));
        Ok(EntryState::Needs(file, EntryChange::DropIn { path: drop_in, text }))
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
}

/// Makes the change, unless `uninstall` ran or the file changed since the inspection.
pub(crate) fn apply(layout: &Layout, change: &EntryChange) -> Result<Replaced, ChangeError> {
    let failed = |path: &Path| {
        let path = layout.root.on_node(path);
        move |source| ChangeError::File { path, source }
    };
    // Written before the lock is taken, since the flush to the disk may take long.
    let new = match change {
        EntryChange::Edit { path, to, .. } => beside(path, to).map_err(failed(path))?,
        EntryChange::Convert { .. } | EntryChange::DropIn { .. } => None,
    };
    let _lock = state::lock(layout)?;
    if state::is_uninstalled(layout) {
        return Ok(Replaced::Overtaken);
    }
    match change {
        EntryChange::Edit { path, from, .. } => {
            let Some(new) = new else { return Ok(Replaced::Overtaken) };
            let replaced = new.replace_if(from.as_bytes()).map_err(failed(path))?;
            // containerd watches the folder, not where a link of it leads.
            if replaced == Replaced::Done && path.parent() != Some(&layout.at(&layout.conf_dir)) {
                trigger_reload(&layout.at(&layout.conf_dir)).map_err(failed(path))?;
            }
            Ok(replaced)
        }
        EntryChange::Convert { conf, from, list, to } => convert(conf, from, list, to).map_err(failed(list)),
        EntryChange::DropIn { path, text } => {
            let folder = path.parent().unwrap_or(path);
            let write = || {
                DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
                Unfinished::write(path, text.as_bytes(), None, 0o600)?.replace()?;
                trigger_reload(folder.parent().unwrap_or(folder))
            };
            write().map(|()| Replaced::Done).map_err(failed(path))
        }
    }
}

/// Replaces the text `from` of a file by `to`.
pub(super) fn edit(path: &Path, from: &str, to: &str) -> io::Result<Replaced> {
    beside(path, to)?.map_or(Ok(Replaced::Overtaken), |new| new.replace_if(from.as_bytes()))
}

/// Writes `to` beside the file, with the file's mode and owner; `None` where the file is gone.
fn beside(path: &Path, to: &str) -> io::Result<Option<Unfinished>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        like => Unfinished::write(path, to.as_bytes(), Some(&like?), 0o600).map(Some),
    }
}

/// Writes the list first, which the runtime orders behind the single configuration, and renames that one away only then. So
/// the folder is never without a configuration, and the next inspection finishes a conversion that was killed in between.
fn convert(conf: &Path, from: &str, list: &Path, to: &str) -> io::Result<Replaced> {
    let like = fs::metadata(conf)?;
    Unfinished::write(list, to.as_bytes(), Some(&like), 0o600)?.replace()?;
    if fs::read_to_string(conf).is_ok_and(|text| text != from) {
        return Ok(Replaced::Overtaken);
    }
    fs::rename(conf, set_aside(conf))?;
    files::sync_folder_of(conf)?;
    Ok(Replaced::Done)
}

/// The name of `conf` while it is set aside.
fn set_aside(conf: &Path) -> PathBuf {
    let mut name = conf.file_name().unwrap_or_default().to_owned();
    name.push(SET_ASIDE);
    conf.with_file_name(name)
}

/// Makes containerd read its folder again, by a file that comes and goes: containerd does not watch the folders below.
pub(super) fn trigger_reload(folder: &Path) -> io::Result<()> {
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
