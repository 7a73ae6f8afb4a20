// SPDX-License-Identifier: Apache-2.0
//! The plugin's entry in the folder of configurations: its state there, and the changes that bring it to the desired state.
//!
//! ```text
//! folder ─▶ the runtime's choice among the neighbours' files ─▶ a list: the entry goes into it, or into a drop-in beside it
//!                                                           └─▶ a single plugin: it stays, and a list of ours before it
//! ```

pub(crate) mod aside;
pub(crate) mod change;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use self::change::{ChangeError, EntryChange, Withdrawal, apply, withdraw};
use super::files;
use super::folder::Folder;
use super::layout::Layout;
use super::plugins::Plugins;
use super::state;
use crate::conflist::effective::{InvalidFile, Kind};
use crate::conflist::stand_in::{self, StandIn};
use crate::conflist::{self, Choice, Conf, Conflist, Ensured, Entry, Invalid, Position};

/// The way in which the plugin gets into the runtime's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// An entry in the primary's own conflist.
    Chained,
    /// A file of ours in the folder named as the network, which libcni 1.3 and later reads (containerd 2.1, CRI-O 1.33).
    DropIn,
}

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
    /// A file of ours, or of an earlier release, has to go first.
    Leftover(Withdrawal),
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

/// Compares the folder with the desired state. Changes nothing, except that a drop-in of ours is removed where the chain has
/// the entry, since the plugin would run twice.
pub(crate) fn inspect(layout: &Layout, desired: &EntrySpec, plugins: &Plugins) -> EntryState {
    if state::is_uninstalled(layout) {
        return EntryState::Uninstalled;
    }
    let here = layout.at(&layout.conf_dir);
    let shown = layout.conf_dir.display();
    let folder = match Folder::read(layout, plugins) {
        Ok(folder) => folder,
        Err(error) => return EntryState::Blocked(format!("{shown}: {error}")),
    };
    if let Some(name) = folder.set_aside() {
        let (name, entry) = (name.to_owned(), desired.entry.clone());
        return EntryState::Leftover(Withdrawal::BringBack { name, entry });
    }
    let chosen = folder.chosen_of_neighbours(layout);
    if let Some(list) = folder.stale(&chosen) {
        return EntryState::Leftover(Withdrawal::StandIn { list: here.join(list) });
    }
    let (name, kind) = match chosen {
        Choice::File { name, kind } => (name, kind),
        Choice::Empty => return EntryState::Blocked(empty(layout)),
        Choice::Broken { name, problem } => {
            return EntryState::Blocked(match layout.loader.invalid {
                InvalidFile::Stops => {
                    format!("{shown}/{name} cannot be loaded, so the runtime takes no other: {problem}")
                }
                InvalidFile::PassedOver => {
                    format!("{shown} holds no file that the runtime takes; {name}: {problem}")
                }
            });
        }
    };
    let text = folder.text(&name).to_owned();
    let file = InUse { layout, folder: &folder, here: &here, name: &name, text };
    let state = match (kind, desired.mode) {
        (Kind::List, Mode::Chained) => file.in_list(desired),
        (Kind::List, Mode::DropIn) => file.beside_list(desired),
        // libcni reads drop-in folders for lists only, so a single plugin gets a list before it in either mode.
        (Kind::Single, Mode::Chained | Mode::DropIn) => file.before_single(desired),
    };
    state.unwrap_or_else(EntryState::Blocked)
}

/// Says that the runtime finds no network.
fn empty(layout: &Layout) -> String {
    let shown = layout.conf_dir.display();
    match &layout.loader.network {
        Some(network) => format!(
            "{shown} holds no configuration of the network {network:?}, which is the only one that the runtime is set to use"
        ),
        None => format!(
            "{shown} holds no network configuration: the cluster's network plugin has not written it yet"
        ),
    }
}

/// The file that the runtime would use without our lists, with its text.
struct InUse<'a> {
    layout: &'a Layout,
    folder: &'a Folder,
    /// The folder's path, as this process opens it.
    here: &'a Path,
    name: &'a str,
    text: String,
}

impl InUse<'_> {
    fn on_node(&self, name: &str) -> PathBuf {
        self.layout.conf_dir.join(name)
    }

    /// The path of the file itself. A link is followed, so that the link stays one when the file is replaced.
    fn itself(&self) -> PathBuf {
        self.layout.at(&self.on_node(self.name))
    }

    fn wrong(&self, problem: &Invalid) -> String {
        format!("{}: {problem}", self.on_node(self.name).display())
    }

    /// Removes what an agent left that ran with --mode drop-in: the chain would run the plugin twice.
    fn clear_drop_in(&self, network: &str) {
        let drop_in = self.here.join(network).join(DROP_IN);
        if drop_in.exists() {
            let _ = files::remove_if_there(&drop_in);
        }
    }

    fn in_list(self, desired: &EntrySpec) -> Result<EntryState, String> {
        let list = Conflist::parse(&self.text).map_err(|problem| self.wrong(&problem))?;
        let primary = list.plugins.first().map(|plugin| plugin.kind.clone()).unwrap_or_default();
        let network = list.name.clone();
        let ensured = conflist::ensure(&self.text, &desired.entry, &desired.position)
            .map_err(|problem| self.wrong(&problem))?;
        let file = UsedFile { path: self.on_node(self.name), primary };
        self.clear_drop_in(&network);
        let before = stand_in::name_before(self.name).unwrap_or_default();
        let (list, present) = (self.here.join(&before), self.folder.has(&before));
        Ok(match ensured {
            Ensured::AsItShould if present => EntryState::Leftover(Withdrawal::StandIn { list }),
            Ensured::AsItShould => EntryState::Effective(file),
            Ensured::Needs(to) if present => {
                self.behind_ours(UsedFile { path: self.on_node(&before), ..file }, list, to, desired)
            }
            Ensured::Needs(to) => {
                let path = self.itself();
                let instead = (self.layout.loader.networks == 1).then_some(list);
                EntryState::Needs(file, EntryChange::Edit { path, from: self.text, to, instead })
            }
        })
    }

    /// The list has no entry, and our list `list` stands before it, since it could not be replaced.
    fn behind_ours(&self, file: UsedFile, list: PathBuf, to: String, desired: &EntrySpec) -> EntryState {
        let before = file.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let present = self.folder.text(before);
        if stand_in::represents_list(present, &self.text) {
            return match conflist::ensure(present, &desired.entry, &desired.position) {
                Ok(Ensured::Needs(to)) => {
                    let from = present.to_owned();
                    EntryState::Needs(file, EntryChange::Edit { path: list, from, to, instead: None })
                }
                Ok(Ensured::AsItShould) | Err(_) => EntryState::Effective(file),
            };
        }
        let theirs = self.itself();
        if !files::is_mount_point(&theirs) {
            return EntryState::Leftover(Withdrawal::StandIn { list });
        }
        EntryState::Needs(
            file,
            EntryChange::StandIn { theirs, from: self.text.clone(), list, to, follows: true },
        )
    }

    fn before_single(self, desired: &EntrySpec) -> Result<EntryState, String> {
        if self.layout.loader.networks != 1 {
            return Err(format!(
                "{}: the runtime takes several files of the folder (max_conf_num), so with a list of culvert's before this one \
                 each pod would get its network twice: set max_conf_num to 1, or have the network plugin write a .conflist",
                self.on_node(self.name).display()
            ));
        }
        let before = stand_in::name_before(self.name).unwrap_or_default();
        let list = self.here.join(&before);
        let present = self.folder.has(&before).then(|| self.folder.text(&before));
        let checked = stand_in::check(present, &self.text, &desired.entry, &desired.position);
        let stand_in = match (checked, present) {
            (Ok(stand_in), _) => stand_in,
            // It no longer makes a network, or in a version that our plugin does not speak.
            (Err(_), Some(_)) => return Ok(EntryState::Leftover(Withdrawal::StandIn { list })),
            (Err(problem), None) => return Err(self.wrong(&problem)),
        };
        let Conf { name: network, kind: primary, .. } =
            Conf::parse(&self.text).map_err(|problem| self.wrong(&problem))?;
        let file = UsedFile { path: self.on_node(&before), primary };
        self.clear_drop_in(&network);
        let follows = present.is_some();
        Ok(match stand_in {
            StandIn::AsItShould => {
                let passed_over = self.folder.passed_over(self.layout, self.name);
                if let Some((_, problem)) = passed_over.iter().find(|(name, _)| *name == before) {
                    return Err(format!("{}: {problem}, so the runtime passes it over", file.path.display()));
                }
                EntryState::Effective(file)
            }
            StandIn::Edit(to) => {
                let from = present.unwrap_or_default().to_owned();
                EntryState::Needs(file, EntryChange::Edit { path: list, from, to, instead: None })
            }
            StandIn::Write(to) => {
                let theirs = self.itself();
                EntryState::Needs(file, EntryChange::StandIn { theirs, from: self.text, list, to, follows })
            }
        })
    }

    fn beside_list(self, desired: &EntrySpec) -> Result<EntryState, String> {
        let list = Conflist::parse(&self.text).map_err(|problem| self.wrong(&problem))?;
        list.speakable().and_then(|()| list.makes_network()).map_err(|problem| self.wrong(&problem))?;
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
        let before = stand_in::name_before(self.name).unwrap_or_default();
        if self.folder.has(&before) {
            return Ok(EntryState::Leftover(Withdrawal::StandIn { list: self.here.join(before) }));
        }
        // Left by an agent that ran with --mode chained: the chain would run the plugin twice.
        if let Ok(Some(to)) = conflist::remove(&self.text) {
            let itself = self.itself();
            return Ok(EntryState::Needs(
                UsedFile { path, primary },
                EntryChange::Edit { path: itself, from: self.text, to, instead: None },
            ));
        }
        let file = UsedFile { path: path.with_file_name(&network).join(DROP_IN), primary };
        let drop_in = self.here.join(&network).join(DROP_IN);
        if fs::read_to_string(&drop_in).is_ok_and(|text| desired.entry.is(&text)) {
            return Ok(EntryState::Effective(file));
        }
        let text = format!("{}\n", desired.entry.compact(" "));
        Ok(EntryState::Needs(file, EntryChange::DropIn { path: drop_in, text }))
    }
}
