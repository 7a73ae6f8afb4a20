// SPDX-License-Identifier: Apache-2.0
//! Choice of the file that the runtime uses from its folder.

use super::document::{Conf, Conflist, Invalid};

/// Endings that runtimes load. Any other file is ignored, even if it holds a configuration.
const LOADED: [&str; 3] = ["conf", "conflist", "json"];

/// Rule by which a runtime reads its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loader {
    /// containerd: the first file in order. If it is invalid, none is loaded and the configuration in memory stays.
    FirstOrNone,
    /// CRI-O: the first valid file, or the first of this network's name if its configuration names one.
    FirstValid { network: Option<String> },
}

/// Result of a runtime's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    File {
        name: String,
        /// List or single plugin.
        kind: Kind,
    },
    /// The folder has no configuration.
    Empty,
    /// This file cannot be loaded, so none is; with containerd the configuration in memory stays.
    Broken {
        name: String,
        /// Reason.
        problem: Invalid,
    },
}

/// Content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A list of plugins.
    List,
    /// One plugin.
    Single,
}

/// Returns true if a runtime would load a file of this name.
pub(crate) fn is_loaded(name: &str) -> bool {
    kind(name).is_some()
}

/// Kind that a runtime expects of a file of this name.
pub(crate) fn kind(name: &str) -> Option<Kind> {
    let (_, ending) = name.rsplit_once('.')?;
    match ending {
        "conflist" => Some(Kind::List),
        ending if LOADED.contains(&ending) => Some(Kind::Single),
        _ => None,
    }
}

/// A file of the folder: its name, and its text or the reason why it has none.
pub(crate) type Loaded = (String, Result<String, Invalid>);

/// Text of the file `name` among `files`.
pub(crate) fn text_of<'a>(files: &'a [Loaded], name: &str) -> &'a str {
    let text = files.iter().find(|(there, _)| there == name).map(|(_, text)| text.as_deref());
    text.and_then(Result::ok).unwrap_or_default()
}

/// Chooses among `files`, which may be in any order.
pub(crate) fn effective(files: &[Loaded], loader: &Loader) -> Choice {
    let mut sorted: Vec<_> =
        files.iter().filter_map(|(name, text)| Some((name, text, kind(name)?))).collect();
    // Go compares strings by bytes, and so does Rust.
    sorted.sort_unstable_by_key(|(name, ..)| *name);
    let mut broken = None;
    for (name, text, kind) in sorted {
        let network = text.as_ref().map_err(Clone::clone).and_then(|text| match kind {
            Kind::List => Conflist::parse(text).map(|list| list.name),
            Kind::Single => Conf::parse(text).map(|conf| conf.name),
        });
        let problem = match (network, loader) {
            (Ok(_), Loader::FirstOrNone | Loader::FirstValid { network: None }) => None,
            (Ok(found), Loader::FirstValid { network: Some(wanted) }) if found == *wanted => None,
            (Ok(_), Loader::FirstValid { .. }) => continue,
            (Err(problem), _) => Some(problem),
        };
        match problem {
            None => return Choice::File { name: name.clone(), kind },
            Some(problem) => {
                let choice = Choice::Broken { name: name.clone(), problem };
                if *loader == Loader::FirstOrNone {
                    return choice;
                }
                broken.get_or_insert(choice);
            }
        }
    }
    broken.unwrap_or(Choice::Empty)
}
