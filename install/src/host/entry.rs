// SPDX-License-Identifier: Apache-2.0
//! Our entry in the folder of configurations: how it is, and how it gets as it should be.
//!
//! To look changes nothing. To change takes the lock of the node, so that `agent` and `uninstall` don't undo each other.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::files::{self, Replaced, Unfinished};
use super::layout::Layout;
use crate::conflist::effective::{self, Kind};
use crate::conflist::{self, Choice, Conflist, Ensured, Entry, Invalid, MAX_BYTES, Position, TYPE};
use crate::system::read::read_bounded;

/// How the plugin gets into the runtime's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// An entry in the primary's own conflist.
    Chained,
    /// A file of ours in the folder named as the network, which libcni 1.3 and later reads (containerd 2.1, CRI-O 1.33).
    DropIn,
}

/// What ends the name of a primary's `.conf` while a `.conflist` of ours stands in for it: no runtime loads it.
pub(crate) const SET_ASIDE: &str = ".culvert-original";
/// Our file in the drop-in folder of a network.
pub(crate) const DROP_IN: &str = "50-culvert.conf";
/// In the state folder: this node is to be left alone until an agent starts anew.
const LEFT: &str = "uninstalled";
/// In the state folder: held while files of the node are changed.
const LOCK: &str = "lock";
/// In the state folder: locked by every agent that runs.
const ALIVE: &str = "agent";

/// How the entry should be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// How it gets into the chain.
    pub mode: Mode,
    /// Where in the chain.
    pub position: Position,
    /// What it says.
    pub entry: Entry,
}

/// How the entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// As it should be.
    Effective(InFile),
    /// It would be after this.
    Needs(InFile, Change),
    /// It cannot be there now, for this reason.
    Cannot(String),
    /// `uninstall` was here.
    Left,
}

/// The file that the runtime uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InFile {
    /// As the node calls it.
    pub path: PathBuf,
    /// The first plugin of its chain: whose file it is.
    pub primary: String,
}

/// A change of one file, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// This file holds `from` and should hold `to`.
    Edit {
        /// Where it is opened.
        path: PathBuf,
        /// What it holds.
        from: String,
        /// What it should hold.
        to: String,
    },
    /// This `.conf` is set aside for a list beside it.
    Convert {
        /// Where the single configuration is opened.
        conf: PathBuf,
        /// What it holds.
        from: String,
        /// Where the list will be.
        list: PathBuf,
        /// What it will hold.
        to: String,
    },
    /// This file of ours is written beside it all.
    DropIn {
        /// Where.
        path: PathBuf,
        /// What it will hold.
        text: String,
    },
}

impl Change {
    /// Whether somebody changed the file since it was looked at.
    pub(crate) fn is_overtaken(&self) -> bool {
        match self {
            Self::Edit { path, from, .. } => fs::read(path).is_ok_and(|bytes| bytes != from.as_bytes()),
            Self::Convert { .. } | Self::DropIn { .. } => false,
        }
    }
}

/// The files of the folder that a runtime would load. A link is followed as the node does, not as whoever has mounted the
/// node; a folder is none, whatever its name: libcni passes over it.
pub(crate) fn loaded_files(layout: &Layout) -> io::Result<Vec<conflist::Loaded>> {
    let folder = layout.at(&layout.conf_dir);
    let entries = fs::read_dir(&folder)?.flatten();
    let files = entries.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = files.filter_map(|entry| entry.file_name().into_string().ok());
    let mut loaded = Vec::new();
    for name in names.filter(|name| effective::is_loaded(name)) {
        let text = match read_bounded(&layout.at(&layout.conf_dir.join(&name)), MAX_BYTES) {
            Ok(text) => Ok(text),
            // Renamed or removed since: there will be an event.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && folder.join(&name).symlink_metadata().is_err() =>
            {
                continue;
            }
            // A link that leads nowhere is there: the runtime stumbles over it.
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

/// Looks at the folder.
pub(crate) fn look(layout: &Layout, wanted: &Wanted) -> Look {
    if was_left(layout) {
        return Look::Left;
    }
    let folder = layout.at(&layout.conf_dir);
    let shown = layout.conf_dir.display();
    let files = match loaded_files(layout) {
        Ok(files) => files,
        Err(error) => return Look::Cannot(format!("{shown}: {error}")),
    };
    let (name, kind) = match conflist::effective(&files, &layout.loader) {
        Choice::File { name, kind } => (name, kind),
        Choice::Empty => {
            return Look::Cannot(format!(
                "{shown} holds no network configuration: the cluster's network plugin has not written it yet"
            ));
        }
        Choice::Broken { name, problem } => {
            return Look::Cannot(format!(
                "{shown}/{name} cannot be loaded, so the runtime takes no other: {problem}"
            ));
        }
    };
    let text = conflist::text_of(&files, &name).to_owned();
    let file = Used { layout, folder: &folder, name: &name, text };
    let looked = match (kind, wanted.mode) {
        (Kind::List, Mode::Chained) => file.in_list(wanted),
        (Kind::Single, Mode::Chained) => file.in_single(wanted),
        (Kind::List, Mode::DropIn) => file.beside_list(wanted),
        (Kind::Single, Mode::DropIn) => Err(format!(
            "{shown}/{name} is no list, and libcni reads drop-in folders for lists only: use --mode chained"
        )),
    };
    looked.unwrap_or_else(Look::Cannot)
}

/// The file that the runtime uses, and what it holds.
struct Used<'a> {
    layout: &'a Layout,
    folder: &'a Path,
    name: &'a str,
    text: String,
}

impl Used<'_> {
    fn on_node(&self, name: &str) -> PathBuf {
        self.layout.conf_dir.join(name)
    }

    /// Where the file itself is: a link is followed, so that it stays one.
    fn here(&self) -> PathBuf {
        self.layout.at(&self.on_node(self.name))
    }

    fn wrong(&self, problem: &Invalid) -> String {
        format!("{}: {problem}", self.on_node(self.name).display())
    }

    fn in_list(self, wanted: &Wanted) -> Result<Look, String> {
        let list = Conflist::parse(&self.text).map_err(|problem| self.wrong(&problem))?;
        let primary = list.plugins.first().map(|plugin| plugin.kind.clone()).unwrap_or_default();
        let network = list.name.clone();
        let ensured = conflist::ensure(&self.text, &wanted.entry, &wanted.position)
            .map_err(|problem| self.wrong(&problem))?;
        let file = InFile { path: self.on_node(self.name), primary };
        // Of an agent that ran with --mode drop-in: the chain would hold us twice.
        let drop_in = self.folder.join(&network).join(DROP_IN);
        if drop_in.exists() {
            let _ = files::remove_if_there(&drop_in);
        }
        Ok(match ensured {
            Ensured::AsItShould => Look::Effective(file),
            Ensured::Needs(to) => {
                let path = self.here();
                Look::Needs(file, Change::Edit { path, from: self.text, to })
            }
        })
    }

    fn in_single(self, wanted: &Wanted) -> Result<Look, String> {
        let to = conflist::wrap(&self.text, &wanted.entry).map_err(|problem| self.wrong(&problem))?;
        let stem = self.name.rsplit_once('.').map_or(self.name, |(stem, _)| stem);
        let beside = format!("{stem}.conflist");
        let list = self.folder.join(&beside);
        // One that is not of our making is somebody's, who must say which counts.
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
        let file = InFile { path: self.on_node(&beside), primary };
        let conf = self.folder.join(self.name);
        Ok(Look::Needs(file, Change::Convert { conf, from: self.text, list, to }))
    }

    fn beside_list(self, wanted: &Wanted) -> Result<Look, String> {
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
        // Of an agent that ran with --mode chained: the chain would hold us twice.
        if let Ok(Some(to)) = conflist::remove(&self.text) {
            let here = self.here();
            return Ok(Look::Needs(
                InFile { path, primary },
                Change::Edit { path: here, from: self.text, to },
            ));
        }
        let file = InFile { path: path.with_file_name(&network).join(DROP_IN), primary };
        let drop_in = self.folder.join(&network).join(DROP_IN);
        if fs::read_to_string(&drop_in).is_ok_and(|text| wanted.entry.is(&text)) {
            return Ok(Look::Effective(file));
        }
        let text = format!("{}\n", wanted.entry.compact(" "));
        Ok(Look::Needs(file, Change::DropIn { path: drop_in, text }))
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// The file system refuses.
    #[error("{}: {source}{}", path.display(), advice(source))]
    File {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another one of ours is at work.
    #[error("another culvert-install is changing this node's files")]
    Busy,
    /// The lock cannot be had.
    #[error("{}: {source}{}", path.display(), advice(source))]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the operator can do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; culvert-install must be root on the node and the folder writable"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
        _ => "",
    }
}

/// Makes the change, unless `uninstall` was here or somebody else changed the file since.
pub(crate) fn make(layout: &Layout, change: &Change) -> Result<Replaced, ChangeError> {
    let failed = |path: &Path| {
        let path = layout.root.on_node(path);
        move |source| ChangeError::File { path, source }
    };
    // The disk may take its time, and others their turn meanwhile.
    let new = match change {
        Change::Edit { path, to, .. } => beside(path, to).map_err(failed(path))?,
        Change::Convert { .. } | Change::DropIn { .. } => None,
    };
    let _lock = lock(layout)?;
    if was_left(layout) {
        return Ok(Replaced::Overtaken);
    }
    match change {
        Change::Edit { path, from, .. } => {
            let Some(new) = new else { return Ok(Replaced::Overtaken) };
            let replaced = new.replace_if(from.as_bytes()).map_err(failed(path))?;
            // containerd watches the folder, not where a link of it leads.
            if replaced == Replaced::Done && path.parent() != Some(&layout.at(&layout.conf_dir)) {
                stir(&layout.at(&layout.conf_dir)).map_err(failed(path))?;
            }
            Ok(replaced)
        }
        Change::Convert { conf, from, list, to } => convert(conf, from, list, to).map_err(failed(list)),
        Change::DropIn { path, text } => {
            let folder = path.parent().unwrap_or(path);
            let write = || {
                DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
                Unfinished::write(path, text.as_bytes(), None, 0o600)?.replace()?;
                stir(folder.parent().unwrap_or(folder))
            };
            write().map(|()| Replaced::Done).map_err(failed(path))
        }
    }
}

/// Puts `to` in place of `from`.
pub(super) fn edit(path: &Path, from: &str, to: &str) -> io::Result<Replaced> {
    beside(path, to)?.map_or(Ok(Replaced::Overtaken), |new| new.replace_if(from.as_bytes()))
}

/// What is to take the place of a file, written beside it with its mode and owner; none where there is no file any more.
fn beside(path: &Path, to: &str) -> io::Result<Option<Unfinished>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        like => Unfinished::write(path, to.as_bytes(), Some(&like?), 0o600).map(Some),
    }
}

/// The list first, which stands behind the single configuration in order; then that one goes out of the way. So at no time
/// is there none, and whoever is killed in between is finished by the next look.
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

/// What `conf` is called while it is set aside.
fn set_aside(conf: &Path) -> PathBuf {
    let mut name = conf.file_name().unwrap_or_default().to_owned();
    name.push(SET_ASIDE);
    conf.with_file_name(name)
}

/// Makes containerd read its folder again: it notices what is written, renamed and removed there, and nothing below it.
pub(super) fn stir(folder: &Path) -> io::Result<()> {
    drop(Unfinished::write(&folder.join("reload"), b"", None, 0o600)?);
    Ok(())
}

/// Whether `uninstall` was here since the last agent started.
pub(crate) fn was_left(layout: &Layout) -> bool {
    layout.at(&layout.state_dir.join(LEFT)).exists()
}

/// Notes that this node is to be left alone.
pub(super) fn note_left(layout: &Layout) -> io::Result<()> {
    state_folder(layout)?;
    File::create(layout.at(&layout.state_dir.join(LEFT))).map(drop)
}

/// An agent starts: the node is ours again.
pub(crate) fn come_back(layout: &Layout) -> io::Result<()> {
    files::remove_if_there(&layout.at(&layout.state_dir.join(LEFT))).map(drop)
}

/// The files of ours in the state folder that are only about changing files.
pub(super) fn own_state(layout: &Layout) -> [PathBuf; 3] {
    [LEFT, LOCK, ALIVE].map(|name| layout.at(&layout.state_dir.join(name)))
}

/// Held by an agent as long as it lives; several may.
pub(crate) fn live(layout: &Layout) -> io::Result<File> {
    state_folder(layout)?;
    let path = layout.at(&layout.state_dir.join(ALIVE));
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    match file.try_lock_shared() {
        // `uninstall` looks at it this very moment, and no longer.
        Ok(()) | Err(TryLockError::WouldBlock) => Ok(file),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether an agent lives on this node.
pub(crate) fn agent_runs(layout: &Layout) -> bool {
    let file = File::open(layout.at(&layout.state_dir.join(ALIVE)));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Held while files of the node are changed; goes with its holder, whatever becomes of it.
pub(crate) fn lock(layout: &Layout) -> Result<File, ChangeError> {
    let path = layout.state_dir.join(LOCK);
    let open = || {
        state_folder(layout)?;
        File::options().write(true).create(true).truncate(false).open(layout.at(&path))
    };
    let file = open().map_err(|source| ChangeError::Lock { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ChangeError::Busy),
        Err(TryLockError::Error(source)) => Err(ChangeError::Lock { path, source }),
    }
}

/// Makes the state folder, as the plugin would.
pub(crate) fn state_folder(layout: &Layout) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(layout.at(&layout.state_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_with_what_helps() {
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

    #[test]
    fn a_lock_that_cannot_be_had_is_named_as_the_node_names_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run"), "no folder").unwrap();
        let layout = crate::host::layout::Layout {
            root: crate::host::root::HostRoot::new(folder.path()),
            runtime: String::new(),
            conf_dir: "/etc/cni/net.d".into(),
            loader: conflist::Loader::FirstOrNone,
            bin_dirs: Vec::new(),
            state_dir: "/run/culvert".into(),
            runtime_socket: None,
            plugin: PathBuf::new(),
            complaints: Vec::new(),
        };
        let said = lock(&layout).expect_err("a lock in a file").to_string();
        assert!(said.starts_with("/run/culvert/lock: "), "{said}");
    }
}
