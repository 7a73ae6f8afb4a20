// SPDX-License-Identifier: Apache-2.0
//! Leaving a node: entry first, then the binary, so that at no time a configuration names a plugin that is not there.
//!
//! ```text
//! note for the agent ─▶ entry out of every file ─▶ the runtime has read that ─▶ the binary retires
//!                                  nobody needs it: it goes │ pods need it: it stays, and goes with the last of them
//! ```
//! Each step finds done what an earlier run did: killed anywhere, a second run finishes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use culvert_cni::retired::{self, Note, RESULTS};

use super::entry::{self, DROP_IN, SET_ASIDE};
use super::files::{self, Replaced, Unfinished};
use super::layout::Layout;
use super::reload::{self, Loaded};
use super::state::{self, LockError};
use crate::conflist::{self, Conflist, MAX_BYTES, TYPE};
use crate::system::read::read_bounded;

/// How long another culvert-install may hold the node's files; an edit takes milliseconds.
const TURN_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How long the runtime may take to read its folder again; containerd does at once.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// A chain that began before the runtime read its folder still calls us. So long after the last call there is none: a
/// chain of plugins takes half a second.
const QUIET: Duration = Duration::from_secs(5);
/// So long at most is waited for quiet.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// The plugin's log where its entry does not say.
const DEFAULT_LOG: &str = "/var/log/culvert/cni.log";
/// How often a file is tried that somebody else keeps writing.
const EDITS: usize = 50;

/// Whether pods that need the plugin once more are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stub {
    /// The plugin stays for them.
    Stays,
    /// It goes at once.
    Goes,
}

/// What was done, a line each, and what could not be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// For a person.
    pub done: Vec<String>,
    /// What is still there, and why.
    pub problems: Vec<String>,
}

/// Takes entry and plugin off the node.
pub(crate) async fn leave(layout: &Layout, stub: Stub) -> Left {
    let mut left = Left::default();
    let logs = match take_out(layout, &mut left).await {
        Ok(logs) => logs,
        Err(problem) => {
            left.problems.push(problem);
            return left;
        }
    };
    // A note alone is what an earlier run left that was killed behind the binary.
    let is_there = |path: &PathBuf| layout.at(path).exists() || retired::note_of(&layout.at(path)).exists();
    let binaries: Vec<_> = layout.bin_dirs.iter().map(|folder| folder.join(TYPE)).filter(is_there).collect();
    if binaries.is_empty() {
        clear_state(layout, &logs, &mut left);
        if left.done.is_empty() && left.problems.is_empty() {
            left.done.push("nothing of culvert was on this node".to_owned());
        }
        return left;
    }
    let loaded = if stub == Stub::Goes {
        Loaded::Unknown
    } else {
        reload::await_without_us(layout, READ_WITHIN).await
    };
    let note = note(layout, &logs);
    for binary in &binaries {
        if let Err(error) = retire(&layout.at(binary), &note) {
            left.problems.push(format!("{}: {error}", binary.display()));
        }
    }
    if !left.problems.is_empty() {
        return left;
    }
    if stub == Stub::Stays {
        await_quiet(layout, &logs).await;
    }
    let here = on_this_side(layout, &note);
    let needing = match (stub, loaded) {
        // It tears down by what it has loaded, which no longer names us.
        (Stub::Goes, _) | (_, Loaded::WithoutUs) => Ok(Vec::new()),
        // A node that is mounted in parts only may have pods that cannot be seen from here.
        (Stub::Stays, Loaded::Unknown) if layout.root.path() != Path::new("/") && !here.results.is_dir() => {
            Err(io::ErrorKind::NotFound.into())
        }
        (Stub::Stays, Loaded::Unknown) => here.needing(),
    };
    let is_configured = stub == Stub::Stays && here.is_configured();
    match needing {
        Ok(ids) if ids.is_empty() && !is_configured => {
            for binary in &binaries {
                let gone = remove_binary(&layout.at(binary));
                match gone {
                    Ok(()) => left.done.push(format!("removed {}", binary.display())),
                    Err(error) => left.problems.push(format!("{}: {error}", binary.display())),
                }
            }
            clear_state(layout, &logs, &mut left);
        }
        Ok(ids) if !ids.is_empty() => left.done.push(format!(
            "{} stays for {} pods that were made with it: it lets new ones through untouched, and goes with the last of \
             those. Or run this again, with --now so as not to wait",
            names(&binaries),
            ids.len()
        )),
        Ok(_) => left.problems.push(format!(
            "a file in {} still names {TYPE}, so {} stays and lets pods through untouched: take the name out, then run \
             this again",
            layout.conf_dir.display(),
            names(&binaries)
        )),
        Err(error) => left.problems.push(format!(
            "{RESULTS} cannot be read, so nobody knows which pods need {}, which stays: {error}; mount it below \
             --host-root, or say --now",
            names(&binaries)
        )),
    }
    left
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Takes our entry out of every file of the folder, under the lock of the node. Where our log files are, as the entries said.
async fn take_out(layout: &Layout, left: &mut Left) -> Result<Vec<PathBuf>, String> {
    let started = tokio::time::Instant::now();
    let _lock = loop {
        match state::lock(layout) {
            Ok(lock) => break lock,
            Err(LockError::Busy) if started.elapsed() < TURN_WITHIN => {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    // Before the first edit: an agent that runs on would put back what we take out.
    state::mark_uninstalled(layout).map_err(|error| format!("{}: {error}", layout.state_dir.display()))?;
    let folder = layout.at(&layout.conf_dir);
    let mut logs = noted_logs(layout);
    let names = match names_in(&folder) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(logs),
        Err(error) => return Err(format!("{}: {error}", layout.conf_dir.display())),
    };
    // Nobody else of ours is at work: what lies unfinished is of one that was killed.
    let _ = files::clear_unfinished(&folder);
    for folder in &layout.bin_dirs {
        let _ = files::clear_unfinished(&layout.at(folder));
    }
    let mut say = |name: &str, done: io::Result<Option<&str>>| {
        let path = layout.conf_dir.join(name);
        match done {
            Ok(Some(what)) => left.done.push(format!("{}: {what}", path.display())),
            Ok(None) => {}
            Err(error) => left.problems.push(format!("{}: {error}", path.display())),
        }
    };
    let (set_aside, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.ends_with(SET_ASIDE));
    for name in &others {
        logs.extend(log_file(&layout.at(&layout.conf_dir.join(name))));
    }
    for name in set_aside {
        say(name, bring_back(&folder, name).map(Some));
    }
    for name in others {
        say(name, take_out_of(layout, name));
    }
    logs.dedup();
    if left.problems.is_empty() { Ok(logs) } else { Err(left.problems.pop().unwrap_or_default()) }
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<_> =
        fs::read_dir(folder)?.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// A `.conf` that was set aside stands where it stood, unless its place is taken or the list in its place says more by now.
fn bring_back(folder: &Path, name: &str) -> io::Result<&'static str> {
    let conf_name = name.strip_suffix(SET_ASIDE).unwrap_or(name);
    let (aside, conf) = (folder.join(name), folder.join(conf_name));
    let list = list_of(&conf);
    let original = read_bounded(&aside, MAX_BYTES)?;
    let is_ours = match fs::read_to_string(&list) {
        Ok(text) => conflist::unwrap(&text, &original),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    if conf.exists() {
        // Written anew meanwhile: theirs counts, and stands in front of a list of ours.
        files::remove_if_there(&aside)?;
        if is_ours {
            files::remove_if_there(&list)?;
        }
        files::sync_folder_of(&conf)?;
        return Ok("removed: the network plugin wrote its file anew");
    }
    if is_ours {
        // At no time is there none: the single configuration stands in front of the list.
        fs::rename(&aside, &conf)?;
        files::remove_if_there(&list)?;
        files::sync_folder_of(&conf)?;
        return Ok("is back under its name");
    }
    files::remove_if_there(&aside)?;
    files::sync_folder_of(&conf)?;
    Ok("removed: the list in its place was changed since, and stays without our entry")
}

fn list_of(conf: &Path) -> PathBuf {
    conf.with_extension("conflist")
}

/// Takes our entry out of one name of the folder, if it is there: a file whatever its ending, since a `.cilium_bak` comes
/// back some day; in a folder our drop-in.
fn take_out_of(layout: &Layout, name: &str) -> io::Result<Option<&'static str>> {
    let folder = layout.at(&layout.conf_dir);
    let path = layout.at(&layout.conf_dir.join(name));
    let Ok(metadata) = fs::metadata(&path) else { return Ok(None) };
    if metadata.is_dir() {
        let drop_in = path.join(DROP_IN);
        if !files::remove_if_there(&drop_in)? {
            return Ok(None);
        }
        // Empty again: it was made for us.
        let _ = fs::remove_dir(&path);
        entry::trigger_reload(&folder)?;
        return Ok(Some("our drop-in is removed"));
    }
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Ok(None);
    }
    for _ in 0..EDITS {
        let text = match read_bounded(&path, MAX_BYTES) {
            Ok(text) => text,
            // No text holds no entry; one that is gone neither.
            Err(_) => return Ok(None),
        };
        if !text.contains(TYPE) {
            return Ok(None);
        }
        // A list of our making whose original is back already: an earlier run was killed in between.
        for ending in ["conf", "json"] {
            let single = folder.join(name).with_extension(ending);
            if name.ends_with(".conflist")
                && fs::read_to_string(single).is_ok_and(|conf| conflist::unwrap(&text, &conf))
            {
                files::remove_if_there(&path)?;
                files::sync_folder_of(&path)?;
                return Ok(Some("removed: the file that it was made from is back"));
            }
        }
        let Ok(without) = conflist::remove(&text) else { return Ok(None) };
        let Some(without) = without else {
            return if Conflist::parse(&text).is_ok_and(|list| list.kinds().iter().all(|kind| *kind == TYPE)) {
                files::remove_if_there(&path)?;
                Ok(Some("removed: it held nothing but our entry"))
            } else {
                Ok(None)
            };
        };
        if entry::edit(&path, &text, &without)? == Replaced::Done {
            if path.parent() != Some(&folder) {
                entry::trigger_reload(&folder)?;
            }
            return Ok(Some("our entry is taken out"));
        }
    }
    Err(io::Error::other("somebody keeps writing it: stop them, then run this again"))
}

/// The log files that an earlier run found, before it took out the entries that named them.
fn noted_logs(layout: &Layout) -> Vec<PathBuf> {
    let notes = layout.bin_dirs.iter().filter_map(|folder| {
        let note = fs::read(retired::note_of(&layout.at(folder).join(TYPE))).ok()?;
        serde_json::from_slice::<Note>(&note).ok()
    });
    notes
        .flat_map(|note| note.leavings)
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect()
}

/// Where the entry in a file sends the plugin's log.
fn log_file(path: &Path) -> Option<PathBuf> {
    let text = read_bounded(path, MAX_BYTES).ok()?;
    let list = Conflist::parse(&text).ok()?;
    let ours = list.plugins.iter().position(|plugin| plugin.kind == TYPE)?;
    let entry: serde_json::Value = serde_json::from_str(list.plugin(ours)?).ok()?;
    let log = entry.get("logFile").map_or(Some(DEFAULT_LOG), serde_json::Value::as_str)?;
    Some(PathBuf::from(log)).filter(|path| path.is_absolute())
}

/// What the plugin is told that retires; all as the node calls it.
fn note(layout: &Layout, logs: &[PathBuf]) -> Note {
    let mut leavings = Vec::new();
    for log in logs {
        leavings.extend(log_files(log));
    }
    leavings.push(layout.attachments());
    Note { conf_dir: layout.conf_dir.clone(), results: RESULTS.into(), leavings }
}

/// A log, the one before it, and their folder if it is ours.
fn log_files(log: &Path) -> Vec<PathBuf> {
    let mut before = log.as_os_str().to_owned();
    before.push(".1");
    let mut files = vec![log.to_owned(), before.into()];
    files.extend(log.parent().filter(|folder| folder.ends_with("culvert")).map(Path::to_owned));
    files
}

/// The note with paths as they are opened here.
fn on_this_side(layout: &Layout, note: &Note) -> Note {
    let Note { conf_dir, results, leavings } = note;
    Note {
        conf_dir: layout.at(conf_dir),
        results: layout.at(results),
        leavings: leavings.iter().map(|path| layout.at(path)).collect(),
    }
}

fn retire(binary: &Path, note: &Note) -> io::Result<()> {
    let text = serde_json::to_vec(note)?;
    let path = retired::note_of(binary);
    if fs::read(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    Unfinished::write(&path, &text, None, 0o600)?.replace()
}

/// The binary, then its note: without it the binary would redirect again.
fn remove_binary(binary: &Path) -> io::Result<()> {
    files::remove_if_there(binary)?;
    files::remove_if_there(&retired::note_of(binary))?;
    files::sync_folder_of(binary)
}

/// Waits until the plugin has not been called for a while, which its log tells.
async fn await_quiet(layout: &Layout, logs: &[PathBuf]) {
    let started = SystemTime::now();
    let deadline = tokio::time::Instant::now() + QUIET_WITHIN;
    loop {
        let written = logs.iter().filter_map(|log| fs::metadata(layout.at(log)).ok()?.modified().ok());
        let last = written.chain([started]).max().unwrap_or(started);
        let quiet = SystemTime::now().duration_since(last).unwrap_or_default();
        if quiet >= QUIET || tokio::time::Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(QUIET.saturating_sub(quiet)).await;
    }
}

/// Removes what the plugin and the agent wrote: logs, records, sockets, and the folder for them.
fn clear_state(layout: &Layout, logs: &[PathBuf], left: &mut Left) {
    let mut paths: Vec<PathBuf> =
        logs.iter().flat_map(|log| log_files(log)).map(|path| layout.at(&path)).collect();
    let attachments = layout.at(&layout.attachments());
    if let Ok(entries) = fs::read_dir(&attachments) {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths.push(attachments);
    left.problems.extend(remove_all(layout, paths));
    sweep(layout);
}

/// Removes the state folder, unless an agent runs: its note there is what keeps that from coming back.
pub(crate) fn sweep(layout: &Layout) {
    if !state::is_agent_alive(layout) {
        let mut paths = vec![layout.at(&layout.agent_socket())];
        paths.extend(state::own_files(layout));
        paths.push(layout.at(&layout.state_dir));
        // It lies in memory: what cannot be removed ends with the next boot.
        drop(remove_all(layout, paths));
    }
}

/// Removes files, and folders that are empty by then; what cannot be, with the reason.
fn remove_all(layout: &Layout, paths: Vec<PathBuf>) -> Vec<String> {
    let mut problems = Vec::new();
    for path in paths {
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            // Busy: a folder that is mounted here, as the chart's pods have it. It is empty by now, and nobody's trouble.
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
                ) =>
            {
                problems.push(format!("{}: {error}", layout.root.on_node(&path).display()));
            }
            _ => {}
        }
    }
    problems
}
