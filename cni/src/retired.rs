// SPDX-License-Identifier: Apache-2.0
//! After an uninstall: the binary stays for the pods that were made with it, lets new ones through untouched, and goes
//! with the last of those.
//!
//! CRI-O tears a pod down with the configuration that it was made with, which names us; without a binary of that name the
//! pod could never go. libcni keeps that configuration in a file per attachment, so the files say who still needs us.
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

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

/// Where libcni keeps what a pod was made with, unless its runtime says otherwise; neither containerd nor CRI-O does.
pub const RESULTS: &str = "/var/lib/cni/results";
/// The binary's argument that makes it wait for its end.
pub const RETIRE: &str = "retire";

/// What ends the note's name.
const NOTE: &str = ".retired";
/// What stands in a configuration that names us.
const NAME: &[u8] = b"\"culvert-cni\"";
/// The largest file of libcni's or of a folder of configurations that is read, in bytes.
const MAX_FILE: u64 = 8 << 20;
/// How long the rest of a chain may take to let a pod go. Afterwards its DEL comes again, and so do we.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks, should the kernel tell of no change.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a retired binary knows of its node; paths as the node calls them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The folder of configurations: as long as one names us, we are needed.
    pub conf_dir: PathBuf,
    /// libcni's folder, see [`RESULTS`].
    pub results: PathBuf,
    /// Files and folders that go with the binary, in order; a folder only if it is empty by then.
    pub leavings: Vec<PathBuf>,
}

/// The note beside `binary`.
pub fn note_of(binary: &Path) -> PathBuf {
    let mut name = OsString::from(binary);
    name.push(NOTE);
    PathBuf::from(name)
}

/// The note of this very program, if it is retired.
pub fn own_note() -> Option<(PathBuf, Note)> {
    let binary = std::env::current_exe().ok()?;
    let note = fs::read(note_of(&binary)).ok()?;
    // A damaged one is a note all the same: who wrote it wanted us to retire.
    let unknown =
        || Note { conf_dir: "/etc/cni/net.d".into(), results: RESULTS.into(), leavings: Vec::new() };
    let note = serde_json::from_slice(&note).unwrap_or_else(|_| unknown());
    Some((binary, note))
}

impl Note {
    /// The container ids of the pods that libcni will need us for.
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

    /// Whether a file in the folder of configurations names us. A folder that cannot be read may.
    pub fn is_configured(&self) -> bool {
        match fs::read_dir(&self.conf_dir) {
            Err(error) => error.kind() != io::ErrorKind::NotFound,
            Ok(entries) => entries
                .flatten()
                .filter_map(|entry| read(&entry.path()))
                .any(|bytes| bytes.windows(NAME.len()).any(|window| window == NAME)),
        }
    }

    /// Remove `binary`, its note and what goes with it. Goes on after a failure and says all.
    pub fn vanish(&self, binary: &Path) -> Vec<(PathBuf, io::Error)> {
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

/// A DEL is done: if no other pod needs us, leave a process behind that waits until libcni has forgotten this one too.
///
/// It must not be this process: a plugin of the chain may fail after us, and then we are called again.
pub fn leave_after(container_id: &str) {
    let Some((binary, note)) = own_note() else { return };
    let last = note.needing().is_ok_and(|ids| ids.iter().all(|id| id == container_id));
    if !last || note.is_configured() {
        return;
    }
    // Nobody waits for it and nobody hears it: the runtime reads our stdout to its end.
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

/// `culvert-cni retire`: go once nobody needs us, and give up after a minute.
pub fn wait_and_go() {
    let Some((binary, note)) = own_note() else { return };
    let started = Instant::now();
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
    let watch = watch.filter(|watch| watch.add_watch(&note.results, AddWatchFlags::IN_DELETE).is_ok());
    while started.elapsed() < FORGOTTEN_WITHIN {
        match note.needing() {
            Ok(ids) if ids.is_empty() => {
                // An agent may have come meanwhile and taken the note away.
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
    // Interrupted or not: then is looked.
    let _ = poll(on.as_mut_slice(), limit);
    if let Some(watch) = watch {
        let _ = watch.read_events();
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.len() <= MAX_FILE).then(|| fs::read(path).ok())?
}

/// A file of libcni's: what an attachment was made with.
#[derive(Debug, Deserialize)]
struct Cached {
    #[serde(rename = "containerId")]
    container_id: String,
    /// The list of plugins, in base64.
    config: String,
}

impl Cached {
    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    fn names_us(&self) -> bool {
        base64(&self.config).is_some_and(|config| config.windows(NAME.len()).any(|window| window == NAME))
    }
}

/// Decode RFC 4648's base64, as Go writes it.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0_u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYmFy", "foobar"),
            ("fn5+", "~~~"),
        ] {
            assert_eq!(base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(base64("a b"), None);
    }

    #[test]
    fn who_was_made_with_us_needs_us() {
        // {"plugins":[{"type":"culvert-cni"}]} and {"plugins":[{"type":"bridge"}]}
        let ours = r#"{"kind":"cniCacheV1","containerId":"a","config":"eyJwbHVnaW5zIjpbeyJ0eXBlIjoiY3VsdmVydC1jbmkifV19"}"#;
        let other = r#"{"kind":"cniCacheV1","containerId":"b","config":"eyJwbHVnaW5zIjpbeyJ0eXBlIjoiYnJpZGdlIn1dfQ=="}"#;
        assert!(Cached::parse(ours.as_bytes()).unwrap().names_us());
        assert!(!Cached::parse(other.as_bytes()).unwrap().names_us());
        assert!(Cached::parse(b"half a fi").is_none());
    }
}
