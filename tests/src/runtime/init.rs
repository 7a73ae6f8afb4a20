// SPDX-License-Identifier: Apache-2.0
//! The first process of a world: it keeps the namespaces, takes in orphans, and takes all others with it when it ends.
//!
//! ```text
//! test ─▶ lab-node NETNS PARENT ─▶ lab-node init       PDEATHSIG on both arrows: a killed test leaves no process
//!         enters, unshares         first of the new process namespace: mounts, says "ready", reaps
//! ```
//! Two processes, since only a child comes into a new process namespace, and only there can its `/proc` be mounted.

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal::SIGCHLD};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::getppid;
use rustix::process::{Signal, set_parent_process_death_signal};

/// Its name beside the program that runs the tests.
pub(crate) const NAME: &str = "lab-node";
/// The line that the first process of a world prints once everything is mounted.
pub(crate) const READY: &str = "ready";

const AS_INIT: &str = "init";

/// Folders of the machine that runtimes write to at fixed places; in the world they are empty ones of its own.
const HIDDEN: [&str; 2] = ["/run", "/var/lib"];

/// The helper's `main`: `NETNS PARENT`. Prints the first process's id, then [`READY`].
pub fn play(arguments: Vec<OsString>) -> ExitCode {
    let ended = match arguments.as_slice() {
        [only] if only == AS_INIT => as_init(),
        [netns, parent] => hold(Path::new(netns), parent).map(|never| match never {}),
        _ => Err(anyhow!("usage: {NAME} NETNS PARENT")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn hold(netns: &Path, parent: &OsString) -> Result<Infallible> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if *parent != *getppid().to_string() {
        bail!("the test ended before its world began");
    }
    let netns = File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
    setns(netns, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .context("cannot make mount and process namespaces")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("cannot make mounts private")?;
    // Shared again, with no mount outside: as systemd has it, and as mounts want that follow those of their node.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SHARED, nothing)
        .context("cannot make mounts shared")?;
    let mut init = Command::new(env::current_exe()?).arg(AS_INIT).spawn().context("cannot start again")?;
    println!("{}", init.id());
    let status = init.wait()?;
    bail!("the first process of the world ended: {status}")
}

fn as_init() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let options = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), "/proc", Some("proc"), options | MsFlags::MS_NOEXEC, None::<&str>)
        .context("cannot mount /proc")?;
    for folder in HIDDEN {
        mount(Some("tmpfs"), folder, Some("tmpfs"), options, Some("mode=755"))
            .with_context(|| format!("cannot hide {folder}"))?;
    }
    let mut died = SigSet::empty();
    died.add(SIGCHLD);
    // Blocked before the first look, so that no death goes unnoticed between a look and the wait.
    died.thread_block()?;
    println!("{READY}");
    std::io::stdout().flush()?;
    loop {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
        died.wait()?;
    }
}
