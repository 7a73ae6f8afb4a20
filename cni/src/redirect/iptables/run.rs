// SPDX-License-Identifier: Apache-2.0
//! The iptables programs of the host, run so that nothing of the host can hold them up: in a mount namespace of their own
//! with an own `/run` (so an own `xtables.lock`) and an empty `nsswitch.conf` (the owner match looks names up), with an
//! empty environment and a deadline.

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

/// Where iptables lies on hosts; a runtime's PATH may be empty.
const FOLDERS: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
/// How long one program may take. The slowest measured restore of 1,000 rules took 0.1 s.
const WITHIN: Duration = Duration::from_secs(2);
/// How much of a program's output is read, in bytes.
const MAX_OUTPUT: u64 = 4 << 20;

/// A variant of the iptables programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Over nf_tables.
    Nft,
    /// Over x_tables.
    Legacy,
}

impl Variant {
    /// The engine's name.
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

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such program on this host.
    #[error("no {0} in {list}", list = FOLDERS.join(":"))]
    Missing(String),
    /// It could not be started.
    #[error("cannot run {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not end in time, and was ended.
    #[error("{} did not end within {WITHIN:?}", .0.display())]
    TimedOut(PathBuf),
    /// It failed.
    #[error("{}: {said}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// What it said, on one line.
        said: String,
    },
}

/// What a program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `…-restore`.
    Restore,
    /// `…-save`.
    Save,
}

/// The program for `tool`, named for its variant, or without if that is what the plain name is.
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
    // Hosts with only one variant may have only the plain name: its version says which it is.
    let plain = in_folders(&format!("{base}-{suffix}")).ok_or(RunError::Missing(named.clone()))?;
    let version = run(&plain, &["--version"], b"")?;
    let is_nft = version.contains("nf_tables");
    if is_nft == (variant == Variant::Nft) { Ok(plain) } else { Err(RunError::Missing(named)) }
}

fn in_folders(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

/// Shut this thread's programs off from what on the host could hold them up. Best effort: where the host forbids mounts,
/// the programs run all the same, and wait for the host's lock as long as their deadline lets them.
pub(crate) fn isolate() {
    let none: Option<&str> = None;
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        return;
    }
    // Without this our mounts would show on the host.
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

/// Run `program` with `input` on its stdin and hand back its stdout.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &[u8]) -> Result<String, RunError> {
    let start = |source| RunError::Start { program: program.to_owned(), source };
    // Files in memory rather than pipes: nobody has to read while another writes.
    let mut stdin = memory("stdin").map_err(start)?;
    stdin.write_all(input).and_then(|()| stdin.rewind()).map_err(start)?;
    let (mut stdout, mut stderr) = (memory("stdout").map_err(start)?, memory("stderr").map_err(start)?);
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", FOLDERS.join(":"))
        // For iptables 1.8.6 and newer where /run could not be ours.
        .env("XTABLES_LOCKFILE", "/run/culvert-xtables.lock")
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout.try_clone().map_err(start)?))
        .stderr(Stdio::from(stderr.try_clone().map_err(start)?))
        .spawn()
        .map_err(start)?;
    if !ends_in_time(child.id()) {
        // It is ours, and not yet waited for: its number is no other's.
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

/// Wait for the process's end, no longer than [`WITHIN`]. A process that has no pidfd is taken to have ended.
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
