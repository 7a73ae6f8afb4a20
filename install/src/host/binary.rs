// SPDX-License-Identifier: Apache-2.0
//! The plugin's binary in the node's folder of plugins: it is placed whole, proved before it counts, and replaced when it differs.
//!
//! ```text
//! .culvert-cni.….culvert-unfinished ──VERSION, STATUS──▶ culvert-cni      the old one works until the rename
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
/// Deadline for an answer. A plugin answers VERSION in 1 ms and STATUS in 3 ms, but later on a node that is booting.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Attempts to run the new file: another thread that starts a program may hold it open for a moment, and then it is busy.
const BUSY_TRIES: u32 = 20;
/// Pause between two such attempts.
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// The identity of a binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// In hexadecimal digits.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

/// The binary on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// As the node names it.
    pub path: PathBuf,
    pub identity: Identity,
    /// True where this call has written it.
    pub is_new: bool,
}

/// The reason why there is no working binary of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BinaryError {
    #[error("the plugin to place, {}: {source}; name it by --plugin", path.display())]
    Source { path: PathBuf, source: io::Error },
    #[error("none of the runtime's plugin folders is there: {}", list(.0))]
    NoFolder(Vec<PathBuf>),
    #[error("{}: {source}{}", path.display(), if *read_only { "; the file system is mounted read-only: name a folder by --cni-bin-dir that is not, and that the runtime takes plugins from" } else { "" })]
    Write {
        path: PathBuf,
        source: io::Error,
        /// True where the whole file system is mounted read-only.
        read_only: bool,
    },
    #[error("{} is mounted noexec: no plugin can run from it; name another folder by --cni-bin-dir that the runtime takes plugins from", .0.display())]
    NoExec(PathBuf),
    /// Another culvert-install is at work on the node; a retry is safe.
    #[error("the plugin cannot be placed now: {0}")]
    Busy(String),
    /// The new binary does not work on this node.
    #[error("the plugin {} does not answer {verb} on this node, so it was not placed{}: {problem}", plugin.display(), if *kept { " and the one that was there stays" } else { "" })]
    Proof {
        /// The binary to place.
        plugin: PathBuf,
        verb: &'static str,
        problem: String,
        /// True where an older binary stays in its place.
        kept: bool,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The identities of the last call, so that the next one reads no file whose stamp is the same.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    source: Option<(Stamp, Identity)>,
    placed: Option<(PathBuf, Stamp, Identity)>,
}

/// Places the binary in the node's folder, unless the same one is there, executable and not retired.
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
    // A retired binary is the same file; it works again once the note beside it is removed.
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

/// Finds the first plugin folder that exists and can be written.
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
        // Without the note the binary redirects again.
        files::remove_if_there(&retired::note_of(&here)).map(drop).map_err(write_error)
    });
    committed.await.unwrap_or_else(|error| Err(BinaryError::Busy(error.to_string())))
}

/// Asks the binary what a runtime would ask it, with our entry: a node that cannot run the plugin must not get it.
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
            // An error is ignored: a plugin that has answered already reads no more.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
        Ok(output) => output.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no answer within {} s", ANSWERS_WITHIN.as_secs())),
    };
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(answer) } else { Err(format!("{}: {}", output.status, answer.trim())) }
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

/// Reads the identity of the file at `path`.
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

/// Returns true for a file that every user may run.
pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 == 0o111)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conflist::Loader;
    use crate::host::root::HostRoot;

    const WORKS: &str = "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n";

    /// A node with one plugin folder, and a script as the plugin to place.
    fn node(root: &Path, plugin: &str) -> Layout {
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("plugin"), plugin).unwrap();
        Layout {
            root: HostRoot::new(root),
            runtime: String::new(),
            conf_dir: "/net.d".into(),
            loader: Loader::containerd(1),
            bin_dirs: vec!["/missing".into(), "/bin".into()],
            plugin_dirs: Vec::new(),
            state_dir: "/state".into(),
            runtime_socket: None,
            plugin: root.join("plugin"),
            handlers: Default::default(),
            complaints: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_binary_is_placed_once_and_again_after_each_damage() {
        let folder = tempfile::tempdir().unwrap();
        let layout = node(folder.path(), WORKS);
        let entry = Entry::new(Path::new("/state"), None).unwrap();
        let placed = folder.path().join("bin").join(TYPE);
        type Damage = fn(&Path);
        let damages: [(&str, Damage, bool); 6] = [
            ("missing", |_| {}, true),
            ("untouched", |_| {}, false),
            ("deleted", |path| fs::remove_file(path).unwrap(), true),
            ("another's", |path| fs::write(path, "another's").unwrap(), true),
            (
                "not executable",
                |path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap(),
                true,
            ),
            ("retired", |path| fs::write(retired::note_of(path), "{}").unwrap(), true),
        ];
        let mut memory = Memory::default();
        for (name, damage, is_new) in damages {
            damage(&placed);
            let found = ensure(&layout, &entry, &mut memory).await.unwrap();
            assert_eq!(
                (found.is_new, found.path.as_path()),
                (is_new, Path::new("/bin/culvert-cni")),
                "{name}"
            );
            assert_eq!(fs::read_to_string(&placed).unwrap(), WORKS, "{name}");
            assert!(is_executable(&placed) && !retired::note_of(&placed).exists(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_binary_that_does_not_work_is_refused_and_the_old_one_stays() {
        let entry = Entry::new(Path::new("/state"), None).unwrap();
        for (name, plugin, refusal) in [
            ("fails", "#!/bin/sh\necho broken\nexit 1\n", "does not answer VERSION"),
            ("says nothing", "#!/bin/sh\n", "does not answer VERSION"),
            (
                "cannot run here",
                "#!/bin/sh\n[ $CNI_COMMAND = VERSION ] || exit 1\necho supportedVersions\n",
                "does not answer STATUS",
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let layout = node(folder.path(), plugin);
            let placed = folder.path().join("bin").join(TYPE);
            fs::write(&placed, "the old one").unwrap();
            let error = ensure(&layout, &entry, &mut Memory::default()).await.unwrap_err().to_string();
            assert!(
                error.contains(refusal) && error.contains("the one that was there stays"),
                "{name}: {error}"
            );
            assert_eq!(fs::read_to_string(&placed).unwrap(), "the old one", "{name}");
            assert_eq!(
                fs::read_dir(folder.path().join("bin")).unwrap().count(),
                1,
                "{name}: nothing is left"
            );
        }
    }
}
