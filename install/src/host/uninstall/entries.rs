// SPDX-License-Identifier: Apache-2.0
//! Removal of our entry from every file of the folder of configurations.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{UninstallReport, leavings};
use crate::conflist::stand_in;
use crate::conflist::{self, Conflist, MAX_BYTES, TYPE};
use crate::host::entry::change::{edit, trigger_reload};
use crate::host::entry::{DROP_IN, aside};
use crate::host::files::{self, Replaced};
use crate::host::folder::SET_ASIDE;
use crate::host::layout::Layout;
use crate::host::state::{self, LockError};
use crate::system::lossless::read_lossless;

/// Wait for the node's lock; another culvert-install holds it for milliseconds.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two attempts at the lock.
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Attempts at a file that another program keeps writing.
const EDITS: usize = 50;

/// Removes our entry from every file of the folder, under the lock of the node. Returns the log files that the entries named.
pub(super) async fn remove_all(
    layout: &Layout,
    report: &mut UninstallReport,
) -> Result<Vec<PathBuf>, String> {
    let started = tokio::time::Instant::now();
    let _lock = loop {
        match state::lock(layout) {
            Ok(lock) => break lock,
            Err(LockError::Busy) if started.elapsed() < LOCK_WITHIN => {
                tokio::time::sleep(LOCK_AGAIN_AFTER).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    // Before the first edit, since an agent that still runs would put back what the edits remove.
    state::mark_uninstalled(layout).map_err(|error| format!("{}: {error}", layout.state_dir.display()))?;
    let folder = layout.at(&layout.conf_dir);
    let mut logs = leavings::noted_logs(layout);
    let names = match names_in(&folder) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(logs),
        Err(error) => return Err(format!("{}: {error}", layout.conf_dir.display())),
    };
    // Under the lock no other culvert-install is at work: unfinished files are of one that was killed.
    let _ = files::clear_unfinished(&folder);
    for folder in &layout.bin_dirs {
        let _ = files::clear_unfinished(&layout.at(folder));
    }
    let mut add_line = |name: &str, done: io::Result<Option<&str>>| {
        let path = layout.conf_dir.join(name);
        match done {
            Ok(Some(what)) => report.done.push(format!("{}: {what}", path.display())),
            Ok(None) => {}
            Err(error) => report.problems.push(format!("{}: {error}", path.display())),
        }
    };
    let (set_aside, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.ends_with(SET_ASIDE));
    for name in &others {
        logs.extend(log_file(&layout.at(&layout.conf_dir.join(name))));
    }
    for name in set_aside {
        add_line(name, aside::bring_back(&folder, name, None).map(Some));
    }
    for name in others {
        let is_ours = stand_in::is_ours(name);
        add_line(name, if is_ours { remove_stand_in(&folder.join(name)) } else { remove_from(layout, name) });
    }
    logs.dedup();
    if report.problems.is_empty() { Ok(logs) } else { Err(report.problems.pop().unwrap_or_default()) }
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<_> =
        fs::read_dir(folder)?.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Removes a list of ours, which stands before a neighbour's own file.
fn remove_stand_in(list: &Path) -> io::Result<Option<&'static str>> {
    let is_removed = files::remove_if_there(list)?;
    files::sync_folder_of(list)?;
    Ok(is_removed.then_some("removed: it was culvert's, and the network plugin's own file is as it was"))
}

/// Removes our entry from one name of the folder, if it is there. Files of every suffix are searched, since a
/// `.cilium_bak` may be renamed back later. In a folder our drop-in is removed.
fn remove_from(layout: &Layout, name: &str) -> io::Result<Option<&'static str>> {
    let folder = layout.at(&layout.conf_dir);
    let path = layout.at(&layout.conf_dir.join(name));
    let Ok(metadata) = fs::metadata(&path) else { return Ok(None) };
    if metadata.is_dir() {
        return remove_drop_in(&folder, &path);
    }
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Ok(None);
    }
    for _ in 0..EDITS {
        // A file that is gone holds no entry.
        let Ok(text) = read_lossless(&path, MAX_BYTES) else { return Ok(None) };
        match removal_from(&text, &originals_of(&folder.join(name))) {
            FileChange::Nothing => return Ok(None),
            FileChange::Delete(reason) => {
                files::remove_if_there(&path)?;
                files::sync_folder_of(&path)?;
                return Ok(Some(reason));
            }
            FileChange::Rewrite(without) => {
                if edit(&path, &text, &without)? == Replaced::Done {
                    if path.parent() != Some(&folder) {
                        trigger_reload(&folder)?;
                    }
                    return Ok(Some("our entry is taken out"));
                }
            }
        }
    }
    Err(io::Error::other("another program keeps writing it: stop that, then run this again"))
}

fn remove_drop_in(folder: &Path, network: &Path) -> io::Result<Option<&'static str>> {
    if !files::remove_if_there(&network.join(DROP_IN))? {
        return Ok(None);
    }
    // Succeeds only where the folder is empty, which was made for our file then.
    let _ = fs::remove_dir(network);
    trigger_reload(folder)?;
    Ok(Some("our drop-in is removed"))
}

/// Reads the single configurations that a list of this path may have been made from.
fn originals_of(list: &Path) -> Vec<String> {
    if list.extension().is_none_or(|end| end != "conflist") {
        return Vec::new();
    }
    ["conf", "json"]
        .iter()
        .filter_map(|end| read_lossless(&list.with_extension(end), MAX_BYTES).ok())
        .collect()
}

/// The change that removes our entry from a file.
#[derive(Debug, PartialEq, Eq)]
enum FileChange {
    Nothing,
    /// With the reason, for the operator.
    Delete(&'static str),
    /// With the new text.
    Rewrite(String),
}

/// Decides how our entry leaves a file with this text, which may have been made from one of `originals`.
fn removal_from(text: &str, originals: &[String]) -> FileChange {
    if !text.contains(TYPE) {
        return FileChange::Nothing;
    }
    // An earlier run was killed after it had renamed the original back.
    if originals.iter().any(|conf| conflist::unwrap(text, conf)) {
        return FileChange::Delete("removed: the file that it was made from is back");
    }
    let is_only_ours =
        || Conflist::parse(text).is_ok_and(|list| list.kinds().iter().all(|kind| *kind == TYPE));
    match conflist::remove(text) {
        Ok(Some(without)) => FileChange::Rewrite(without),
        Ok(None) if is_only_ours() => FileChange::Delete("removed: it held nothing but our entry"),
        Ok(None) | Err(_) => FileChange::Nothing,
    }
}

/// Reads the path of the plugin's log from the entry in a file.
fn log_file(path: &Path) -> Option<PathBuf> {
    let text = read_lossless(path, MAX_BYTES).ok()?;
    let list = Conflist::parse(&text).ok()?;
    let ours = list.plugins.iter().position(|plugin| plugin.kind == TYPE)?;
    let entry: serde_json::Value = serde_json::from_str(list.plugin(ours)?).ok()?;
    let log = entry.get("logFile").map_or(Some(leavings::DEFAULT_LOG), serde_json::Value::as_str)?;
    Some(PathBuf::from(log)).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conflist::{Ensured, Entry, Position};

    const CONF: &str = r#"{"cniVersion":"0.3.1","name":"n","type":"bridge"}"#;

    fn our_entry() -> Entry {
        Entry::new(Path::new("/run/culvert"), None).unwrap()
    }

    fn chained(list: &str) -> String {
        match conflist::ensure(list, &our_entry(), &Position::Last).unwrap() {
            Ensured::Needs(text) => text,
            Ensured::AsItShould => list.to_owned(),
        }
    }

    #[test]
    fn our_entry_leaves_each_kind_of_file_in_its_own_way() {
        let list = r#"{"cniVersion":"0.3.1","name":"n","plugins":[{"type":"bridge"}]}"#;
        let only_ours = r#"{"cniVersion":"0.3.1","name":"n","plugins":[{"type":"culvert-cni"}]}"#;
        let wrapped = conflist::wrap(CONF, &our_entry()).unwrap();
        let original = CONF.to_owned();
        for (name, text, originals, expected) in [
            ("without us", list.to_owned(), &[][..], FileChange::Nothing),
            ("with us", chained(list), &[], FileChange::Rewrite(list.to_owned())),
            ("no list", "culvert-cni".to_owned(), &[], FileChange::Nothing),
            (
                "only us",
                only_ours.to_owned(),
                &[],
                FileChange::Delete("removed: it held nothing but our entry"),
            ),
            (
                "made from a .conf that is back",
                wrapped,
                &[original],
                FileChange::Delete("removed: the file that it was made from is back"),
            ),
        ] {
            assert_eq!(removal_from(&text, originals), expected, "{name}");
        }
    }
}
