// SPDX-License-Identifier: Apache-2.0
//! The host's iptables programs, run so that nothing on the host can delay them: in a mount namespace of their own, with an
//! own `/run` (and so an own `xtables.lock`) and an empty `nsswitch.conf` (the owner match looks up names), with an empty
//! environment and a deadline.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::redirect::ruleset::Family;

/// Folders in which hosts have iptables; a runtime's PATH may be empty.
const FOLDERS: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
/// Time limit for one program. The slowest measured restore of 1,000 rules took 0.1 s.
const WITHIN: Duration = Duration::from_secs(2);
/// Limit for the part of a program's output that is read, in bytes.
const MAX_OUTPUT: usize = 4 << 20;

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
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", FOLDERS.join(":"))
        // For iptables from 1.8.6 on, if /run could not be replaced.
        .env("XTABLES_LOCKFILE", "/run/culvert-xtables.lock")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let talk = Talk::with(&mut child, input).and_then(Talk::until_it_ends);
    let Ok(Some(said)) = talk else {
        // The child is not reaped yet, so its pid cannot belong to another process.
        let _ = child.kill();
        let _ = child.wait();
        return Err(talk.err().map_or(RunError::TimedOut(program.to_owned()), start));
    };
    let status = child.wait().map_err(start)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&said.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&said.stderr);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(RunError::Failed { program: program.to_owned(), said: format!("{status}: {said}") })
}

/// A program's pipes, read and written at the same time. Not memory files: RLIMIT_FSIZE counts for these.
struct Talk<'a> {
    /// Readable once the process has ended; `None` if the kernel has no pidfds, then the end of its output counts.
    process: Option<OwnedFd>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    input: &'a [u8],
    said: Said,
}

/// The output of a program, each part cut at [`MAX_OUTPUT`].
#[derive(Default)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl<'a> Talk<'a> {
    fn with(child: &mut Child, input: &'a [u8]) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let pipes = [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd)];
        for pipe in pipes.into_iter().chain([stderr.as_ref().map(AsFd::as_fd)]).flatten() {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(Self { process, stdin, stdout, stderr, input, said: Said::default() })
    }

    /// Returns the output once the process has ended; `None` if it has not within [`WITHIN`].
    fn until_it_ends(mut self) -> io::Result<Option<Said>> {
        let deadline = Instant::now() + WITHIN;
        loop {
            self.write()?;
            let left = deadline.saturating_duration_since(Instant::now());
            let has_ended = self.wait(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            // After the end of the process, so that nothing of its output is missed.
            read(&mut self.stdout, &mut self.said.stdout)?;
            read(&mut self.stderr, &mut self.said.stderr)?;
            let is_silent = self.stdout.is_none() && self.stderr.is_none();
            if has_ended || (self.process.is_none() && is_silent) {
                return Ok(Some(self.said));
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Wait until something can be done; returns true if the process has ended.
    fn wait(&self, timeout: PollTimeout) -> bool {
        let readable = [self.process.as_ref().map(AsFd::as_fd), self.stdout.as_ref().map(AsFd::as_fd)];
        let readable = readable.into_iter().chain([self.stderr.as_ref().map(AsFd::as_fd)]).flatten();
        let writable = self.stdin.as_ref().map(AsFd::as_fd);
        let mut fds: Vec<PollFd<'_>> = readable
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .chain(writable.map(|fd| PollFd::new(fd, PollFlags::POLLOUT)))
            .collect();
        // EINTR and a timeout both lead to another look at the clock.
        let found = poll(&mut fds, timeout).unwrap_or_default();
        found > 0 && self.process.is_some() && fds.first().is_some_and(|fd| fd.any().unwrap_or_default())
    }

    /// Write as much of the input as fits into the pipe, and close it behind the last byte.
    fn write(&mut self) -> io::Result<()> {
        while let Some(stdin) = self.stdin.as_mut().filter(|_| !self.input.is_empty()) {
            match stdin.write(self.input) {
                Ok(written) => self.input = &self.input[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The program has ended, and says why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error),
            }
        }
        self.stdin = None;
        Ok(())
    }
}

/// Read all that is in the pipe; drop it at its end.
fn read(pipe: &mut Option<impl Read>, said: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 64 << 10];
    while let Some(open) = pipe {
        match open.read(&mut chunk) {
            Ok(0) => *pipe = None,
            // Beyond the limit it is read, so that the program can end, and not kept.
            Ok(read) if said.len() + read > MAX_OUTPUT => {}
            Ok(read) => said.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
