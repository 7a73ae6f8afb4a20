// SPDX-License-Identifier: Apache-2.0
//! The binary with its note, and all other files that the plugin and the agent leave on a node: logs, records, sockets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use culvert_cni::retired::{self, Note, RESULTS};

use super::UninstallReport;
use crate::conflist::TYPE;
use crate::host::files::{self, Unfinished};
use crate::host::layout::Layout;
use crate::host::state;

/// The plugin's log where its entry names none.
pub(super) const DEFAULT_LOG: &str = "/var/log/culvert/cni.log";
/// Silence of the plugin's log after which no chain runs any more that began before the runtime read its folder: a chain of
/// plugins takes half a second.
const QUIET: Duration = Duration::from_secs(5);
/// The longest wait for that silence.
const QUIET_WITHIN: Duration = Duration::from_secs(60);

/// Reads the log files that an earlier run noted, before it removed the entries that named them.
pub(super) fn noted_logs(layout: &Layout) -> Vec<PathBuf> {
    let notes = layout.bin_dirs.iter().filter_map(|folder| {
        let note = fs::read(retired::note_of(&layout.at(folder).join(TYPE))).ok()?;
        serde_json::from_slice::<Note>(&note).ok()
    });
    notes
        .flat_map(|note| note.leavings)
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect()
}

/// The note for a binary that retires. All its paths are as the node names them.
pub(super) fn note(layout: &Layout, logs: &[PathBuf]) -> Note {
    let mut leavings = Vec::new();
    for log in logs {
        leavings.extend(log_files(log));
    }
    leavings.push(layout.attachments());
    Note { conf_dir: layout.conf_dir.clone(), results: RESULTS.into(), leavings }
}

/// Lists a log, the one before it, and their folder if it is ours.
fn log_files(log: &Path) -> Vec<PathBuf> {
    let mut before = log.as_os_str().to_owned();
    before.push(".1");
    let mut files = vec![log.to_owned(), before.into()];
    files.extend(log.parent().filter(|folder| folder.ends_with("culvert")).map(Path::to_owned));
    files
}

/// Copies the note with paths as this process opens them.
pub(super) fn on_this_side(layout: &Layout, note: &Note) -> Note {
    let Note { conf_dir, results, leavings } = note;
    Note {
        conf_dir: layout.at(conf_dir),
        results: layout.at(results),
        leavings: leavings.iter().map(|path| layout.at(path)).collect(),
    }
}

/// Writes the note beside the binary, unless the same note is there.
pub(super) fn retire(binary: &Path, note: &Note) -> io::Result<()> {
    let text = serde_json::to_vec(note)?;
    let path = retired::note_of(binary);
    if fs::read(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    Unfinished::write(&path, &text, None, 0o600)?.replace()
}

/// Removes the binary before its note, since without the note the binary would redirect again.
pub(super) fn remove_binary(binary: &Path) -> io::Result<()> {
    files::remove_if_there(binary)?;
    files::remove_if_there(&retired::note_of(binary))?;
    files::sync_folder_of(binary)
}

/// Waits until the plugin's log has been silent for [`QUIET`].
pub(super) async fn await_quiet(layout: &Layout, logs: &[PathBuf]) {
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

/// Removes what the plugin and the agent wrote: logs, records, sockets, and the folders for them.
pub(super) fn clear(layout: &Layout, logs: &[PathBuf], report: &mut UninstallReport) {
    let mut paths: Vec<PathBuf> =
        logs.iter().flat_map(|log| log_files(log)).map(|path| layout.at(&path)).collect();
    let attachments = layout.at(&layout.attachments());
    if let Ok(entries) = fs::read_dir(&attachments) {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths.push(attachments);
    report.problems.extend(remove_paths(layout, paths));
    remove_state_folder(layout);
}

/// Removes the state folder, unless an agent runs: the mark in the folder keeps that agent from bringing culvert back.
pub(crate) fn remove_state_folder(layout: &Layout) {
    if !state::is_agent_alive(layout) {
        let mut paths = vec![layout.at(&layout.agent_socket())];
        paths.extend(state::own_files(layout));
        paths.push(layout.at(&layout.state_dir));
        // The folder lies in memory: what cannot be removed ends with the next boot.
        drop(remove_paths(layout, paths));
    }
}

/// Removes files, and folders that are empty by then. Returns a line for each that cannot be removed.
fn remove_paths(layout: &Layout, paths: Vec<PathBuf>) -> Vec<String> {
    let mut problems = Vec::new();
    for path in paths {
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            // Busy is a folder that is mounted here, as the chart's pods have it. It is empty by now, and does no harm.
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
