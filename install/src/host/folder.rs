// SPDX-License-Identifier: Apache-2.0
//! The folder of configurations: its files, the runtime's choice among them, and the files of ours that must go.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::layout::Layout;
use super::plugins::Plugins;
use crate::conflist::effective::{self, Binary, Choice};
use crate::conflist::stand_in;
use crate::conflist::{Invalid, Loaded, MAX_BYTES, text_of};
use crate::system::lossless::read_lossless;

/// Suffix of a single plugin's file that an earlier release renamed away. No runtime loads a file of this name.
pub(crate) const SET_ASIDE: &str = ".culvert-original";

/// The files of the folder that a runtime would load, and the first that an earlier release set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    files: Vec<Loaded>,
    set_aside: Option<String>,
    /// Answers of the files' plugins; empty for a runtime that asks none.
    binaries: BTreeMap<String, Binary>,
}

impl Folder {
    /// Reads the folder. A link is followed as on the node, not as in this process's own root. A folder is skipped even if its
    /// name ends in `.conflist`, as by libcni.
    pub(crate) fn read(layout: &Layout, plugins: &Plugins) -> io::Result<Self> {
        let entries = fs::read_dir(layout.at(&layout.conf_dir))?.flatten();
        let files = entries.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut names: Vec<_> = files.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        let set_aside = names.iter().find(|name| name.ends_with(SET_ASIDE)).cloned();
        names.retain(|name| effective::is_loaded(name));
        let files: Vec<_> = names.into_iter().filter_map(|name| load(layout, name)).collect();
        let asked = if layout.loader.asks_plugins { effective::asked(files.iter()) } else { Vec::new() };
        let binaries = asked.into_iter().map(|kind| (plugins.ask(layout, &kind), kind));
        let binaries = binaries.map(|(binary, kind)| (kind, binary)).collect();
        Ok(Self { files, set_aside, binaries })
    }

    fn binary(&self, kind: &str) -> Binary {
        self.binaries.get(kind).cloned().unwrap_or(Binary::Silent)
    }

    /// Returns the runtime's choice as the folder is.
    pub(crate) fn effective(&self, layout: &Layout) -> Choice {
        effective::effective(self.files.iter(), &layout.loader, &|kind| self.binary(kind))
    }

    /// Returns the choice that the runtime would make without our lists.
    pub(crate) fn chosen_of_neighbours(&self, layout: &Layout) -> Choice {
        let theirs = self.files.iter().filter(|(name, _)| !stand_in::is_ours(name));
        effective::effective(theirs, &layout.loader, &|kind| self.binary(kind))
    }

    /// Returns the files before `chosen` that the runtime passes over, with the reasons.
    pub(crate) fn passed_over(&self, layout: &Layout, chosen: &str) -> Vec<(String, Invalid)> {
        effective::passed_over(&self.files, &layout.loader, &|kind| self.binary(kind), chosen)
    }

    /// Returns the text of the file `name`; empty where it has none.
    pub(crate) fn text(&self, name: &str) -> &str {
        text_of(&self.files, name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.iter().any(|(there, _)| there == name)
    }

    /// Returns a list of ours that must go, given the runtime's choice without our lists.
    pub(crate) fn stale(&self, chosen: &Choice) -> Option<&str> {
        stand_in::stale(&self.files, chosen)
    }

    /// Returns a file that an earlier release renamed away.
    pub(crate) fn set_aside(&self) -> Option<&str> {
        self.set_aside.as_deref()
    }
}

/// Reads one file; `None` where it is gone since the folder was read, which an event follows.
fn load(layout: &Layout, name: String) -> Option<Loaded> {
    let path = layout.conf_dir.join(&name);
    let text = match read_lossless(&layout.at(&path), MAX_BYTES) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            layout.at(&layout.conf_dir).join(&name).symlink_metadata().ok()?;
            // A link that leads nowhere stays in the list, since the runtime fails at it.
            Err(Invalid::LeadsNowhere)
        }
        Err(error) => Err(Invalid::Unreadable(error.to_string())),
    };
    Some((name, text))
}
