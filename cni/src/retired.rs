// SPDX-License-Identifier: Apache-2.0
//! After an uninstall the binary stays for the pods that were created with it, passes new pods through untouched, and is
//! removed with the last of the old ones.
//!
//! CRI-O tears a pod down with the configuration that the pod was created with, which names the plugin; without a binary of
//! that name the pod could never be removed. libcni keeps that configuration in one file per attachment, so these files
//! show which pods still need the binary.
//!
//! ```text
//! culvert-install uninstall ──▶ culvert-cni.retired beside the binary: from now on ADD passes through
//! DEL of the last pod ──▶ `culvert-cni retire`, which waits until libcni has forgotten it ──▶ binary and note are removed
//! ```

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

/// Folder in which libcni keeps each attachment's configuration; neither containerd nor CRI-O changes the default.
pub const RESULTS: &str = "/var/lib/cni/results";
/// Argument that makes the binary wait until no pod needs it, and remove itself.
pub const RETIRE: &str = "retire";

/// Suffix of the note's file name, behind the binary's.
const NOTE: &str = ".retired";
/// The plugin's name as it occurs in a configuration, quotes included.
const NAME: &[u8] = b"\"culvert-cni\"";
/// Largest file that is read from libcni's folder or the folder of configurations, in bytes.
const MAX_FILE: u64 = 8 << 20;
/// Time limit for the other plugins' DEL. If it takes longer, the runtime repeats the DEL, and a new process waits.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);
/// Interval between two checks if inotify reports no change.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The note beside a retired binary: its node's paths, as seen on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// Folder of CNI configurations; while one of them names the plugin, the binary stays.
    pub conf_dir: PathBuf,
    /// libcni's folder of attachments, see [`RESULTS`].
    pub results: PathBuf,
    /// Files and folders to remove together with the binary, in order; a folder only if it is empty by then.
    pub leavings: Vec<PathBuf>,
}

/// Path of the note that retires `binary`.
pub fn note_of(binary: &Path) -> PathBuf {
    let mut name = OsString::from(binary);
    name.push(NOTE);
    PathBuf::from(name)
}

/// Returns the path of the running binary and its note, if it is retired.
pub(crate) fn own_note() -> Option<(PathBuf, Note)> {
    let binary = std::env::current_exe().ok()?;
    let note = fs::read(note_of(&binary)).ok()?;
    // A damaged note counts too: only an uninstall writes one, so this binary must not redirect any more.
    let unknown =
        || Note { conf_dir: "/etc/cni/net.d".into(), results: RESULTS.into(), leavings: Vec::new() };
    let note = serde_json::from_slice(&note).unwrap_or_else(|_| unknown());
    Some((binary, note))
}

impl Note {
    /// Returns the container ids of the pods whose DEL needs the binary.
    pub fn needing(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        let entries = match fs::read_dir(&self.results) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ids),
            other => other?,
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if let Some(cached) = read(&path).as_deref().and_then(Cached::parse)
                && cached.names_us()
            {
                ids.push(cached.container_id);
            }
        }
        Ok(ids)
    }

    /// Returns true if a file in the folder of configurations names the plugin, or if the folder cannot be read.
    pub fn is_configured(&self) -> bool {
        match fs::read_dir(&self.conf_dir) {
            Err(error) => error.kind() != io::ErrorKind::NotFound,
            Ok(entries) => entries
                .flatten()
                .filter_map(|entry| read(&entry.path()))
                .any(|bytes| bytes.windows(NAME.len()).any(|window| window == NAME)),
        }
    }

    /// Remove `binary`, its note and the leavings. Continues after a failure and returns all of them.
    pub(crate) fn vanish(&self, binary: &Path) -> Vec<(PathBuf, io::Error)> {
        let mut errors = Vec::new();
        // The note last: a binary without it would redirect again.
        for path in [binary.to_owned()].iter().chain(&self.leavings).chain([&note_of(binary)]) {
            let removed = match fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir(path),
                Ok(_) => fs::remove_file(path),
                Err(error) => Err(error),
            };
            match removed {
                Err(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    errors.push((path.clone(), error));
                }
                _ => {}
            }
        }
        errors
    }
}

/// Called after a DEL: if no other pod needs the binary, start a process that waits until libcni has removed this pod's file
/// too.
///
/// The DEL's own process must not remove the binary: if a later plugin of the chain fails, the runtime repeats the DEL.
pub(crate) fn leave_after(container_id: &str) {
    let Some((binary, note)) = own_note() else { return };
    let last = note.needing().is_ok_and(|ids| ids.iter().all(|id| id == container_id));
    if !last || note.is_configured() {
        return;
    }
    // Without the pipes of this process: the runtime reads stdout to its end, and would wait for the child too.
    let _ = Command::new(binary)
        .arg(RETIRE)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .current_dir("/")
        .spawn();
}

/// `culvert-cni retire`: remove the binary once no pod needs it; gives up after a minute.
pub fn wait_and_go() {
    let Some((binary, note)) = own_note() else { return };
    let started = Instant::now();
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
    let watch = watch.filter(|watch| watch.add_watch(&note.results, AddWatchFlags::IN_DELETE).is_ok());
    while started.elapsed() < FORGOTTEN_WITHIN {
        match note.needing() {
            Ok(ids) if ids.is_empty() => {
                // A new agent may have started meanwhile and removed the note.
                if note_of(&binary).exists() && !note.is_configured() {
                    drop(note.vanish(&binary));
                }
                return;
            }
            Ok(_) => wait(watch.as_ref()),
            Err(_) => return,
        }
    }
}

fn wait(watch: Option<&Inotify>) {
    use std::os::fd::AsFd;
    let mut on = watch.map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN));
    let limit = PollTimeout::try_from(LOOK_AGAIN_AFTER).unwrap_or(PollTimeout::MAX);
    // EINTR and a timeout both lead to another check.
    let _ = poll(on.as_mut_slice(), limit);
    if let Some(watch) = watch {
        let _ = watch.read_events();
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.len() <= MAX_FILE).then(|| fs::read(path).ok())?
}

/// A file of libcni: the configuration that an attachment was created with.
#[derive(Debug, Deserialize)]
struct Cached {
    #[serde(rename = "containerId")]
    container_id: String,
    /// The list of plugins, as base64.
    config: String,
}

impl Cached {
    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    fn names_us(&self) -> bool {
        BASE64_STANDARD
            .decode(&self.config)
            .is_ok_and(|config| config.windows(NAME.len()).any(|window| window == NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_needs_us_if_its_configuration_names_us() {
        // {"plugins":[{"type":"culvert-cni"}]} and {"plugins":[{"type":"bridge"}]}
        let ours = r#"{"kind":"cniCacheV1","containerId":"a","config":"eyJwbHVnaW5zIjpbeyJ0eXBlIjoiY3VsdmVydC1jbmkifV19"}"#;
        let other = r#"{"kind":"cniCacheV1","containerId":"b","config":"eyJwbHVnaW5zIjpbeyJ0eXBlIjoiYnJpZGdlIn1dfQ=="}"#;
        assert!(Cached::parse(ours.as_bytes()).unwrap().names_us());
        assert!(!Cached::parse(other.as_bytes()).unwrap().names_us());
        assert!(!Cached { container_id: "c".to_owned(), config: "no base64".to_owned() }.names_us());
        assert!(Cached::parse(b"half a fi").is_none());
    }
}
