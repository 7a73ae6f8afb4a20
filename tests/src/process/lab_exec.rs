//! The helper that turns into a program under test: enters a namespace, gives every privilege away, and execs.
//!
//! It has one thread, so that what it does to itself holds for the whole process, and its parent's thread is the one
//! that started it: when that thread ends, the program is killed. Tests find it beside their own binary; a program
//! with a `main` of its own (the demo, a benchmark) plays it by calling [`play_if_asked`] first.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, fexecve, getppid, setgroups, setresgid, setresuid};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use crate::kernel::netns::Namespace;

/// First argument by which a program is asked to play the helper.
const NAME: &str = "lab-exec";

/// Set when this very program can play the helper.
static SELF: OnceLock<PathBuf> = OnceLock::new();

/// Plays the helper if this process was started as one, and notes that this program can.
///
/// # Errors
/// Fails with the step that kept the program from starting.
pub fn play_if_asked() -> Result<(), ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == NAME) {
        return Err(play(arguments.collect()));
    }
    let _ = SELF.set("/proc/self/exe".into());
    Ok(())
}

/// The helper's `main`: `NETNS UID FILES ETC PARENT PROGRAM [ARGUMENT…]`, where FILES is the limit of open files or `-`,
/// and ETC the folder that the program sees as `/etc`, or `-`. Returns only if something went wrong.
pub fn play(arguments: Vec<OsString>) -> ExitCode {
    let Err(error) = become_program(arguments);
    eprintln!("lab-exec: {error:#}");
    ExitCode::from(125)
}

/// A command that becomes `program` in `namespace` as `uid`, without any capability. Arguments and environment added
/// to it are the program's.
pub fn command(namespace: &Namespace, uid: u32, files: Option<u64>, program: &Path) -> Result<Command> {
    command_with_etc(namespace, uid, (files, None), program)
}

/// The same, for a program that sees a folder as `/etc`: its `hosts` say the names that the program finds.
pub fn command_with_etc(
    namespace: &Namespace,
    uid: u32,
    (files, etc): (Option<u64>, Option<&Path>),
    program: &Path,
) -> Result<Command> {
    let mut command = match SELF.get() {
        Some(itself) => {
            let mut command = Command::new(itself);
            command.arg(NAME);
            command
        }
        None => Command::new(beside_current_program(NAME)?),
    };
    command
        .arg(namespace.path())
        .arg(uid.to_string())
        .arg(files.map_or("-".to_owned(), |n| n.to_string()))
        .arg(etc.unwrap_or(Path::new("-")))
        .arg(std::process::id().to_string())
        .arg(program);
    Ok(command)
}

/// A program of this package. Cargo puts test binaries into `deps/`, and the package's programs one above.
pub fn beside_current_program(name: &str) -> Result<PathBuf> {
    let this = env::current_exe()?;
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("no {name} beside {}: call lab_exec::play_if_asked() in main", this.display()))
}

fn become_program(arguments: Vec<OsString>) -> Result<Infallible> {
    let mut arguments = arguments.into_iter();
    let mut next = |what: &str| arguments.next().ok_or_else(|| anyhow!("argument {what} is missing"));
    let netns = next("NETNS")?;
    let uid: u32 = number(&next("UID")?)?;
    let files = next("FILES")?;
    let etc = next("ETC")?;
    let parent: i32 = number(&next("PARENT")?)?;
    let program = next("PROGRAM")?;

    // While still root: opened here, a binary below a folder like /root can be run by any uid.
    let binary = File::open(&program).with_context(|| format!("cannot open {}", program.display()))?;
    let netns = File::open(&netns).with_context(|| format!("cannot open {}", netns.display()))?;
    setns(netns, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
    if etc != "-" {
        see_as_etc(Path::new(&etc)).with_context(|| format!("cannot mount {}", etc.display()))?;
    }
    env::set_current_dir("/")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if files != "-" {
        let wanted = number(&files)?;
        // The hard limit too, which the sidecar raises its own to.
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)?;
    }

    give_up_privileges(uid).with_context(|| format!("cannot become uid {uid} without capabilities"))?;

    // The change of uid would have cleared it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().as_raw() != parent {
        bail!("the test ended before {} began", program.display());
    }

    let text = |s: OsString| CString::new(s.into_vec()).context("an argument holds a NUL");
    let argv = std::iter::once(program).chain(arguments).map(text).collect::<Result<Vec<_>>>()?;
    let environment = env::vars_os()
        .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<Vec<_>, _>>()?;
    fexecve(&binary, &argv, &environment).context("cannot execute the program")
}

/// Mounts a folder over `/etc`, for this process alone.
fn see_as_etc(folder: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some(folder), "/etc", nothing, MsFlags::MS_BIND, nothing)?;
    Ok(())
}

fn give_up_privileges(uid: u32) -> Result<()> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know cannot be held either.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => bail!(e),
        }
    }
    clear_ambient_capability_set()?;
    setgroups(&[])?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    Ok(())
}

fn number<T: std::str::FromStr>(text: &OsString) -> Result<T> {
    text.to_str().and_then(|t| t.parse().ok()).ok_or_else(|| anyhow!("{} is no number", text.display()))
}
