// SPDX-License-Identifier: Apache-2.0
//! The plugin's binary in the node's folder of plugins: placed whole, proved before it counts, and put back when it goes.
//!
//! ```text
//! .culvert-cni.PID.culvert-unfinished ──VERSION, STATUS──▶ culvert-cni      the old one works until the rename
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use culvert_cni::retired;
use nix::sys::statvfs::{FsFlags, statvfs};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::files::{self, Stamp, Unfinished};
use super::layout::Layout;
use super::state;
use crate::conflist::{Entry, TYPE};

/// The largest binary that is placed, in bytes; ours is below 4 MiB.
const MAX_BINARY: u64 = 64 << 20;
/// A plugin answers VERSION in 1 ms and STATUS in 3 ms; this is for a node that is just starting everything.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Another thread that starts a program may hold the file that was just written open for a moment: then it is busy.
const BUSY_TRIES: u32 = 20;
/// Between two such tries.
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// What a binary is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

/// The binary on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// As the node calls it.
    pub path: PathBuf,
    /// What it is.
    pub identity: Identity,
    /// Whether this call put it there.
    pub is_new: bool,
}

/// Why there is no working binary of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BinaryError {
    /// The binary to place cannot be read.
    #[error("the plugin to place, {}: {source}; name it by --plugin", path.display())]
    Source {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No folder for it.
    #[error("none of the runtime's plugin folders is there: {}", list(.0))]
    NoFolder(Vec<PathBuf>),
    /// It cannot be written.
    #[error("{}: {source}{}", path.display(), if *read_only { "; the file system is mounted read-only: name a folder by --cni-bin-dir that is not, and that the runtime takes plugins from" } else { "" })]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
        /// Whether the whole file system is read-only.
        read_only: bool,
    },
    /// Programs may not be run from there.
    #[error("{} is mounted noexec: no plugin can run from it; name another folder by --cni-bin-dir that the runtime takes plugins from", .0.display())]
    NoExec(PathBuf),
    /// Another one of ours is at work on the node.
    #[error("the plugin cannot be placed now: {0}")]
    Busy(String),
    /// The new one does not work here.
    #[error("the plugin {} does not answer {verb} on this node, so it was not placed{}: {problem}", plugin.display(), if *kept { " and the one that was there stays" } else { "" })]
    Proof {
        /// The binary to place.
        plugin: PathBuf,
        /// What it was asked.
        verb: &'static str,
        /// What it said.
        problem: String,
        /// Whether there was one already.
        kept: bool,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// What is remembered of the last look, so that the next one reads no file that nobody touched.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    source: Option<(Stamp, Identity)>,
    placed: Option<(PathBuf, Stamp, Identity)>,
}

/// Makes sure that the binary is in the node's folder, whole, executable, and not retired.
pub(crate) async fn ensure(
    layout: &Layout,
    entry: &Entry,
    memory: &mut Memory,
) -> Result<Placed, BinaryError> {
    let source_error = |source| BinaryError::Source { path: layout.plugin.clone(), source };
    let stamp = fs::metadata(&layout.plugin).map(|metadata| Stamp::of(&metadata)).map_err(source_error)?;
    let known =
        memory.source.as_ref().filter(|(known, _)| *known == stamp).map(|(_, identity)| identity.clone());
    let identity = match known {
        Some(identity) => identity,
        None => identify(&layout.plugin).map_err(source_error)?,
    };
    memory.source = Some((stamp, identity.clone()));

    let folder = folder(layout)?;
    let (here, on_node) = (layout.at(&folder).join(TYPE), folder.join(TYPE));
    // After an uninstall that left its stub: the same file, which works again once the note beside it is gone.
    let is_retired = retired::note_of(&here).exists();
    if let Ok(metadata) = fs::metadata(&here) {
        let stamp = Stamp::of(&metadata);
        let same = match &memory.placed {
            Some((path, known, found)) if (path, known) == (&here, &stamp) => *found == identity,
            _ => {
                metadata.is_file()
                    && metadata.mode() & 0o111 == 0o111
                    && identify(&here).is_ok_and(|found| found == identity)
            }
        };
        if same && !is_retired {
            memory.placed = Some((here, stamp, identity.clone()));
            return Ok(Placed { path: on_node, identity, is_new: false });
        }
    }
    place(layout, entry, &folder, &here).await?;
    if let Ok(metadata) = fs::metadata(&here) {
        memory.placed = Some((here, Stamp::of(&metadata), identity.clone()));
    }
    Ok(Placed { path: on_node, identity, is_new: true })
}

/// The first folder that is there and can be written.
fn folder(layout: &Layout) -> Result<PathBuf, BinaryError> {
    let there: Vec<_> = layout.bin_dirs.iter().filter(|folder| layout.at(folder).is_dir()).collect();
    let flags =
        |folder: &Path| statvfs(&layout.at(folder)).map(|stat| stat.flags()).unwrap_or(FsFlags::empty());
    let fit = there.iter().find(|folder| !flags(folder).intersects(FsFlags::ST_RDONLY | FsFlags::ST_NOEXEC));
    match (fit, there.first()) {
        (Some(folder), _) => Ok((**folder).clone()),
        (None, None) => Err(BinaryError::NoFolder(layout.bin_dirs.clone())),
        (None, Some(folder)) if flags(folder).contains(FsFlags::ST_RDONLY) => Err(BinaryError::Write {
            path: (*folder).clone(),
            source: io::ErrorKind::ReadOnlyFilesystem.into(),
            read_only: true,
        }),
        (None, Some(folder)) => Err(BinaryError::NoExec((*folder).clone())),
    }
}

async fn place(layout: &Layout, ours: &Entry, folder: &Path, here: &Path) -> Result<(), BinaryError> {
    let folder = folder.to_owned();
    let write_error = move |source: io::Error| BinaryError::Write {
        path: folder.clone(),
        read_only: source.kind() == io::ErrorKind::ReadOnlyFilesystem,
        source,
    };
    let (source, target) = (layout.plugin.clone(), here.to_owned());
    let staged = tokio::task::spawn_blocking(move || {
        let bytes = fs::read(&source)?;
        Unfinished::write(&target, &bytes, None, 0o755)
    });
    let staged = staged.await.map_err(io::Error::other).and_then(|written| written).map_err(&write_error)?;
    let kept = here.exists();
    let refused = |verb, problem| BinaryError::Proof { plugin: layout.plugin.clone(), verb, problem, kept };
    prove(staged.temporary(), ours).await.map_err(|(verb, problem)| refused(verb, problem))?;
    let (layout, here) = (layout.clone(), here.to_owned());
    let committed = tokio::task::spawn_blocking(move || {
        let _lock = state::lock(&layout).map_err(|error| BinaryError::Busy(error.to_string()))?;
        if state::is_uninstalled(&layout) {
            return Err(BinaryError::Busy("uninstall is at work".to_owned()));
        }
        staged.replace().map_err(&write_error)?;
        // It redirects again.
        files::remove_if_there(&retired::note_of(&here)).map(drop).map_err(write_error)
    });
    committed.await.unwrap_or_else(|error| Err(BinaryError::Busy(error.to_string())))
}

/// Asks the binary what a runtime would ask it, with our entry: a node that cannot carry it must not get it.
async fn prove(binary: &Path, entry: &Entry) -> Result<(), (&'static str, String)> {
    for verb in ["VERSION", "STATUS"] {
        let answer = ask(binary, verb, &entry.as_configuration()).await.map_err(|problem| (verb, problem))?;
        if verb == "VERSION" && !answer.contains("supportedVersions") {
            return Err((verb, format!("its answer is {answer:?}")));
        }
    }
    Ok(())
}

async fn ask(binary: &Path, verb: &str, stdin: &str) -> Result<String, String> {
    let asked = async {
        let mut child = start(binary, verb).await?;
        if let Some(mut pipe) = child.stdin.take() {
            // One that has answered already reads no more.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
        Ok(output) => output.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no answer within {} s", ANSWERS_WITHIN.as_secs())),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{}: {}", output.status, said.trim())) }
}

async fn start(binary: &Path, verb: &str) -> io::Result<tokio::process::Child> {
    let mut tries = 0;
    loop {
        let started = Command::new(binary)
            .env_clear()
            .env("CNI_COMMAND", verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        match started {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(BUSY_WAIT).await;
            }
            other => return other,
        }
    }
}

/// What the file at `path` is.
pub(crate) fn identify(path: &Path) -> io::Result<Identity> {
    let size = fs::metadata(path)?.len();
    if size > MAX_BINARY {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_BINARY} bytes")));
    }
    let bytes = fs::read(path)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let sha256 = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Identity { sha256, size: bytes.len() as u64 })
}

/// Whether everybody may run it.
pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 == 0o111)
}
