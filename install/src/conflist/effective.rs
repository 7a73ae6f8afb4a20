// SPDX-License-Identifier: Apache-2.0
//! Choice of the file that the runtime uses from its folder.

use super::document::{Conf, Conflist, Invalid};

/// Endings that runtimes load. Any other file is ignored, even if it holds a configuration.
const LOADED: [&str; 3] = ["conf", "conflist", "json"];
/// The version that libcni asks a plugin for where a file names none.
const UNNAMED_VERSION: &str = "0.1.0";

/// Rule by which a runtime reads its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loader {
    /// The treatment of a file that does not load.
    pub invalid: InvalidFile,
    /// True if a file is valid only where each of its plugins is in the folders of plugins and speaks its version.
    pub asks_plugins: bool,
    /// The only network that the runtime attaches pods to, if its configuration names one.
    pub network: Option<String>,
    /// Number of files whose networks each pod is attached to.
    pub networks: usize,
}

/// A runtime's treatment of a file that does not load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InvalidFile {
    /// The end: no other is loaded, and the configuration in memory stays until the runtime's next start.
    Stops,
    /// Nothing: the next one counts.
    PassedOver,
}

impl Loader {
    /// containerd (go-cni): the first `max_conf_num` names, without a look at the plugins. 0 is all.
    pub(crate) const fn containerd(max_conf_num: usize) -> Self {
        let networks = if max_conf_num == 0 { usize::MAX } else { max_conf_num };
        Self { invalid: InvalidFile::Stops, asks_plugins: false, network: None, networks }
    }

    /// CRI-O (ocicni): the first name that is valid, or the first of `cni_default_network`.
    pub(crate) const fn crio(network: Option<String>) -> Self {
        Self { invalid: InvalidFile::PassedOver, asks_plugins: true, network, networks: 1 }
    }
}

/// Answer of a plugin's binary to VERSION.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Binary {
    /// It is in none of the folders.
    Missing,
    /// It speaks these versions.
    Speaks(Vec<String>),
    /// It cannot be asked from here. The runtime, which can, is taken to be content.
    Silent,
}

/// Result of a runtime's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    File {
        name: String,
        /// List or single plugin.
        kind: Kind,
    },
    /// The folder has no configuration, or none of the network that the runtime wants.
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

/// The parts of a file that the choice depends on.
struct Parts {
    network: String,
    version: Option<String>,
    kinds: Vec<String>,
}

fn parts(text: &Result<String, Invalid>, kind: Kind) -> Result<Parts, Invalid> {
    let text = text.as_ref().map_err(Clone::clone)?;
    Ok(match kind {
        Kind::List => {
            let list = Conflist::parse(text)?;
            let kinds = list.kinds().into_iter().map(str::to_owned).collect();
            Parts { version: list.chosen_version(), network: list.name, kinds }
        }
        Kind::Single => {
            let Conf { name: network, cni_version: version, kind, .. } = Conf::parse(text)?;
            Parts { network, version, kinds: vec![kind] }
        }
    })
}

/// Types of the plugins that the runtime would ask, each once.
pub(crate) fn asked<'a>(files: impl Iterator<Item = &'a Loaded>) -> Vec<String> {
    let parts = files.filter_map(|(name, text)| parts(text, kind(name)?).ok());
    let mut kinds: Vec<_> = parts.flat_map(|parts| parts.kinds).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// Checks one file as the runtime does. `Ok(false)` is a file of another network than the one it wants.
fn check(
    name: &str,
    text: &Result<String, Invalid>,
    kind: Kind,
    loader: &Loader,
    binary: &dyn Fn(&str) -> Binary,
) -> Result<bool, Invalid> {
    let Parts { mut network, version, kinds } = parts(text, kind)?;
    if network.is_empty() {
        match loader.invalid {
            // It is loaded, and then no pod can be attached to it.
            InvalidFile::Stops => return Err(Invalid::Missing("name")),
            // ocicni gives it the name of its file.
            InvalidFile::PassedOver => name.clone_into(&mut network),
        }
    }
    if loader.asks_plugins {
        let version = version.filter(|version| !version.is_empty()).unwrap_or(UNNAMED_VERSION.to_owned());
        for kind in kinds {
            match binary(&kind) {
                Binary::Missing => return Err(Invalid::NoPlugin(kind)),
                Binary::Speaks(versions) if !versions.contains(&version) => {
                    return Err(Invalid::PluginVersion { kind, version, speaks: versions.join(", ") });
                }
                Binary::Speaks(_) | Binary::Silent => {}
            }
        }
    }
    Ok(loader.network.as_ref().is_none_or(|wanted| *wanted == network))
}

/// Chooses among `files`, which may be in any order. `binary` tells what the folders of plugins hold; it is called only for
/// a runtime that asks them.
pub(crate) fn effective<'a>(
    files: impl Iterator<Item = &'a Loaded>,
    loader: &Loader,
    binary: &dyn Fn(&str) -> Binary,
) -> Choice {
    let mut sorted: Vec<_> = files.filter_map(|(name, text)| Some((name, text, kind(name)?))).collect();
    // Go compares strings by bytes, and so does Rust.
    sorted.sort_unstable_by_key(|(name, ..)| *name);
    let (mut broken, mut first) = (None, None);
    let mut seen = 0;
    for (name, text, kind) in sorted {
        if seen == loader.networks {
            break;
        }
        match check(name, text, kind, loader, binary) {
            Ok(true) => {
                seen += 1;
                first.get_or_insert(Choice::File { name: name.clone(), kind });
            }
            Ok(false) => {}
            Err(problem) => {
                let choice = Choice::Broken { name: name.clone(), problem };
                if loader.invalid == InvalidFile::Stops {
                    return choice;
                }
                broken.get_or_insert(choice);
            }
        }
    }
    first.or(broken).unwrap_or(Choice::Empty)
}

/// Returns the files before `chosen` that the runtime passes over, with the reasons.
pub(crate) fn passed_over(
    files: &[Loaded],
    loader: &Loader,
    binary: &dyn Fn(&str) -> Binary,
    chosen: &str,
) -> Vec<(String, Invalid)> {
    let before = files.iter().filter(|(name, _)| name.as_str() < chosen);
    let problems = before.filter_map(|(name, text)| {
        let problem = check(name, text, kind(name)?, loader, binary).err()?;
        Some((name.clone(), problem))
    });
    problems.collect()
}
