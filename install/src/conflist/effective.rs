// SPDX-License-Identifier: Apache-2.0
//! Which of a folder's files the runtime uses.

use super::document::{Conf, Conflist, Invalid};

/// Endings that runtimes load; any other is ignored, however much it looks like a configuration.
const LOADED: [&str; 3] = ["conf", "conflist", "json"];

/// How a runtime goes through its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loader {
    /// containerd: the first in order; where that is invalid, none is loaded and the one in memory stays.
    FirstOrNone,
    /// CRI-O: the first that is valid, or the first of this name where its configuration asks for one.
    FirstValid {
        /// `cni_default_network`.
        network: Option<String>,
    },
}

/// What the runtime makes of its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This file.
    File {
        /// Its name in the folder.
        name: String,
        /// Whether it is a list.
        kind: Kind,
    },
    /// None, since there is none.
    Empty,
    /// None, since this one cannot be loaded; with containerd the configuration in memory stays.
    Broken {
        /// Its name in the folder.
        name: String,
        /// What is wrong with it.
        problem: Invalid,
    },
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A list of plugins.
    List,
    /// One plugin.
    Single,
}

/// Whether a runtime would load a file of this name.
pub(crate) fn is_loaded(name: &str) -> bool {
    kind(name).is_some()
}

/// What a runtime takes a file of this name for.
pub(crate) fn kind(name: &str) -> Option<Kind> {
    let (_, ending) = name.rsplit_once('.')?;
    match ending {
        "conflist" => Some(Kind::List),
        ending if LOADED.contains(&ending) => Some(Kind::Single),
        _ => None,
    }
}

/// A file of the folder: its name, and its text or why there is none.
pub(crate) type Loaded = (String, Result<String, Invalid>);

/// The text of the file `name` among `files`.
pub(crate) fn text_of<'a>(files: &'a [Loaded], name: &str) -> &'a str {
    let text = files.iter().find(|(there, _)| there == name).map(|(_, text)| text.as_deref());
    text.and_then(Result::ok).unwrap_or_default()
}

/// The choice among `files`, in any order.
pub(crate) fn effective(files: &[Loaded], loader: &Loader) -> Choice {
    let mut sorted: Vec<_> =
        files.iter().filter_map(|(name, text)| Some((name, text, kind(name)?))).collect();
    // Go's order of strings is that of their bytes, as Rust's is.
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
