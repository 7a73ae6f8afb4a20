// SPDX-License-Identifier: Apache-2.0
//! The host's iptables programs, run so that nothing on the host can delay them: in a mount namespace of their own, with an
//! own `/run` (and so an own `xtables.lock`) and an empty `nsswitch.conf` (the owner match looks up names), with an empty
//! environment and a deadline.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::AsFd;

use crate::redirect::ruleset::Family;

/// Folders in which hosts have iptables; a runtime's PATH may be empty.
const FOLDERS: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
/// Time limit for one program. The slowest measured restore of 1,000 rules took 0.1 s.
const WITHIN: Duration = Duration::from_secs(2);
/// Limit for the part of a program's output that is read, in bytes.
const MAX_OUTPUT: u64 = 4 << 20;

/// A variant of the iptables programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The programs over nf_tables.
    Nft,
    /// The programs over x_tables.
    Legacy,
}

impl Variant {
    /// Returns the engine's name in the annotation's spelling.
    pub(crate) const fn engine(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }

    const fn infix(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// A program that failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host does not have the program.
    #[error("no {0} in {list}", list = FOLDERS.join(":"))]
    Missing(String),
    /// The program could not be started.
    #[error("cannot run {}: {source}", program.display())]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// The program did not end in time and was killed.
    #[error("{} did not end within {WITHIN:?}", .0.display())]
    TimedOut(PathBuf),
    /// The program ended with an error.
    #[error("{}: {said}", program.display())]
    Failed {
        /// Path of the program.
        program: PathBuf,
        /// Exit status and stderr, on one line.
        said: String,
    },
}

/// A program's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `…-restore`.
    Restore,
    /// `…-save`.
    Save,
}

/// Find the program for `tool`: the one named after the variant, or the plain name if it is of that variant.
pub(crate) fn find(tool: Tool, variant: Variant, family: Family) -> Result<PathBuf, RunError> {
    let base = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let suffix = match tool {
        Tool::Restore => "restore",
        Tool::Save => "save",
    };
    let named = format!("{base}-{}-{suffix}", variant.infix());
    if let Some(found) = in_folders(&named) {
        return Ok(found);
    }
    // Hosts with one variant may have only the plain name; its version shows the variant.
    let plain = in_folders(&format!("{base}-{suffix}")).ok_or(RunError::Missing(named.clone()))?;
    let version = run(&plain, &["--version"], b"")?;
    let is_nft = version.contains("nf_tables");
    if is_nft == (variant == Variant::Nft) { Ok(plain) } else { Err(RunError::Missing(named)) }
}

fn in_folders(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

/// Isolate this thread's programs from the host's files that could delay them. Best effort: if the host forbids mounts, the
/// programs run all the same, and wait for the host's lock until their deadline.
pub(crate) fn isolate() {
    let none: Option<&str> = None;
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        return;
    }
    // Without this the mounts below would appear on the host too.
    if mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).is_err() {
        return;
    }
    let _ = mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0700"),
    );
    let _ = mount(Some("/dev/null"), "/etc/nsswitch.conf", none, MsFlags::MS_BIND, none);
}

/// Run `program` with `input` on its stdin and return its stdout.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &[u8]) -> Result<String, RunError> {
    let start = |source| RunError::Start { program: program.to_owned(), source };
    // Files in memory rather than pipes, which would have to be read and written at the same time.
    let mut stdin = memory("stdin").map_err(start)?;
    stdin.write_all(input).and_then(|()| stdin.rewind()).map_err(start)?;
    let (mut stdout, mut stderr) = (memory("stdout").map_err(start)?, memory("stderr").map_err(start)?);
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", FOLDERS.join(":"))
        // For iptables from 1.8.6 on, if /run could not be replaced.
        .env("XTABLES_LOCKFILE", "/run/culvert-xtables.lock")
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout.try_clone().map_err(start)?))
        .stderr(Stdio::from(stderr.try_clone().map_err(start)?))
        .spawn()
        .map_err(start)?;
    if !ends_in_time(child.id()) {
        // The child is not reaped yet, so its pid cannot belong to another process.
        let _ = child.kill();
        let _ = child.wait();
        return Err(RunError::TimedOut(program.to_owned()));
    }
    let status = child.wait().map_err(start)?;
    if status.success() {
        return text(&mut stdout).map_err(start);
    }
    let said = text(&mut stderr).map_err(start)?;
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(RunError::Failed { program: program.to_owned(), said: format!("{status}: {said}") })
}

fn memory(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

fn text(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Wait at most [`WITHIN`] for the end of the process. A process without a pidfd counts as ended.
fn ends_in_time(id: u32) -> bool {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return true };
    let deadline = Instant::now() + WITHIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return false,
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}
