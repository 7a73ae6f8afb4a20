// SPDX-License-Identifier: Apache-2.0
//! A machine for a container runtime, made of namespaces.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::init;
use super::leftovers::Traces;
use super::record::{BIN, Call, Recorder};
use crate::family::Family;
use crate::lab::host::Host;
use crate::process::binaries::Binaries;
use crate::process::{Process, describe, ends_within};

/// From the start of the first process to its word that all is mounted; and from its death to that of all others.
const BEGINS_AND_ENDS_WITHIN: Duration = Duration::from_secs(20);

/// The folder of Debian's package containernetworking-plugins.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";
/// Those that conflists here name, and what they and runtimes call on the way.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// A machine of its own for a container runtime: network, mounts, processes, a folder, a cgroup.
///
/// ```text
///   outside                      node
///   eth0 10.77.0.1  fd77::1 ──── eth0 10.77.0.2  fd77::2
///   lo   192.0.2.10 2001:db8::10
/// ```
/// The node's default routes lead outside. All of it ends with this value, after a panic too.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: the cgroup and the folder can go once no process is left.
    init: Init,
    /// The namespace of the runtime, which plugins take for the host's.
    pub node: Host,
    /// A neighbour of the node; also answers for the outside addresses.
    pub outside: Host,
    recorder: Recorder,
    cgroup: Cgroup,
    folder: TempDir,
}

impl World {
    /// A world with the reference plugins and ours, each behind a recorder.
    pub fn new() -> Result<Self> {
        Self::with(|folder, reference| {
            let mut plugins = vec![Binaries::built()?.cni.clone()];
            plugins.extend_from_slice(reference);
            Recorder::install(folder, &plugins)
        })
    }

    /// A world with the reference plugins alone, as a node before culvert comes. Their calls are not recorded.
    pub fn bare() -> Result<Self> {
        Self::with(Recorder::none)
    }

    fn with(install: impl FnOnce(&Path, &[PathBuf]) -> Result<Recorder>) -> Result<Self> {
        let (node, outside) = (Host::new("node")?, Host::new("outside")?);
        node.wire("eth0", &outside, "eth0")?;
        for (host, interface, cidr) in [
            (&node, "eth0", "10.77.0.2/24"),
            (&node, "eth0", "fd77::2/64"),
            (&outside, "eth0", "10.77.0.1/24"),
            (&outside, "eth0", "fd77::1/64"),
            (&outside, "lo", "192.0.2.10/32"),
            (&outside, "lo", "2001:db8::10/128"),
        ] {
            host.add_address(interface, cidr)?;
        }
        for family in Family::BOTH {
            node.add_route("default", family.peer())?;
        }
        let folder = tempfile::Builder::new().prefix("culvert-runtime-").tempdir()?;
        // A container's process, which is not root, passes through here.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let mut plugins = Vec::new();
        for name in PLUGINS {
            let plugin = Path::new(REFERENCE_PLUGINS).join(name);
            if !plugin.is_file() {
                let package =
                    "install Debian's package containernetworking-plugins, or run tests/run, which does";
                bail!("{} is missing: {package}", plugin.display());
            }
            plugins.push(plugin);
        }
        let recorder = install(folder.path(), &plugins)?;
        let cgroup =
            Cgroup { name: folder.path().file_name().context("no folder")?.to_string_lossy().into_owned() };
        Ok(Self { init: Init::start(&node)?, node, outside, recorder, cgroup, folder })
    }

    /// The node's address on its cable.
    pub fn node_address(family: Family) -> IpAddr {
        family.pod()
    }

    /// Returns the path through which this world's files can be opened from outside, its mounts and its `/proc` among them.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init.pid))
    }

    /// A folder for this world's files; it goes with the world.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder that runtimes take plugins from.
    pub fn plugins(&self) -> PathBuf {
        self.folder().join(BIN)
    }

    /// The cgroup below which containers belong.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.cgroup.name)
    }

    /// Returns the calls of plugins so far.
    pub fn calls(&self) -> Result<Vec<Call>> {
        self.recorder.calls()
    }

    /// Returns the calls of our plugin so far.
    pub fn own_calls(&self) -> Result<Vec<Call>> {
        Ok(self.calls()?.into_iter().filter(|call| call.plugin == "culvert-cni").collect())
    }

    /// Our plugin's log so far.
    pub fn plugin_log(&self) -> String {
        fs::read_to_string(super::network::log_file(self.folder())).unwrap_or_default()
    }

    /// The lines of our plugin's log in which all of these stand.
    pub fn logged(&self, words: &[&str]) -> Vec<String> {
        let log = self.plugin_log();
        log.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
    }

    /// The names of our plugin's records.
    pub fn records(&self) -> Result<Vec<String>> {
        names(&super::network::state_dir(self.folder()))
    }

    /// The addresses that host-local has given away.
    pub fn addresses_in_use(&self) -> Result<Vec<IpAddr>> {
        let names = names(&super::network::addresses(self.folder()).join(super::network::NETWORK))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Opens what has this path in the world. A link there, such as `/var/run`, leads on in the world.
    pub(crate) fn open(&self, path: &str) -> Result<File> {
        let root = File::open(format!("/proc/{}/root", self.init.pid))?;
        let (flags, inside) = (OFlags::RDONLY | OFlags::CLOEXEC, ResolveFlags::IN_ROOT);
        let file = openat2(root, path, flags, Mode::empty(), inside)
            .with_context(|| format!("cannot open {path} of the world"))?;
        Ok(file.into())
    }

    /// Returns the traces that must be gone once the world is.
    pub fn traces(&self) -> Result<Traces> {
        Traces::of(self.init.pid, self.folder(), &self.cgroup.name)
    }

    /// A command that runs in the world, with Debian's usual PATH for its whole environment.
    pub(crate) fn command(&self, name: &str) -> Result<Command> {
        self.command_at(&program(name)?)
    }

    /// The same for the program at `path`.
    pub(crate) fn command_at(&self, path: &Path) -> Result<Command> {
        let mut command = Command::new(program("nsenter")?);
        command
            .args(["--target", &self.init.pid.to_string(), "--net", "--mount", "--pid", "--"])
            .arg(path)
            .env_clear()
            .env("PATH", PATH);
        Ok(command)
    }

    /// Starts a program that runs until it gets a signal. What it prints goes to the file `<name>.log`.
    pub(crate) fn start(&self, name: &str, mut command: Command) -> Result<Running> {
        let log = self.folder().join(format!("{name}.log"));
        let file = File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Running { child, log })
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, mut command: Command, within: Duration) -> Result<Ran> {
        // Files: a process that keeps a pipe open beyond the program's end would keep its reader waiting.
        let (stdout, stderr) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
        command.stdin(Stdio::null()).stdout(stdout.reopen()?).stderr(stderr.reopen()?);
        let mut running = Running { child: command.spawn()?, log: stderr.path().into() };
        if !ends_within(&running.child, within)? {
            bail!("{command:?}: still running after {within:?}");
        }
        let status = running.child.wait()?;
        let read = |file: &tempfile::NamedTempFile| -> Result<String> {
            Ok(String::from_utf8_lossy(&fs::read(file.path())?).into_owned())
        };
        Ok(Ran { status, stdout: read(&stdout)?, stderr: read(&stderr)? })
    }
}

/// Prints the calls of plugins by runtimes, and the log of ours.
impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for call in self.calls().unwrap_or_default() {
            writeln!(f, "{call}")?;
        }
        f.write_str(&self.plugin_log())
    }
}

/// Everything that runtimes look for by name.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program of the machine. One that is missing is a test that fails.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    env::split_paths(OsStr::new(PATH))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("{name} is missing: tests/run installs the Debian package that has it"))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// The first process of a world. Dropped, it ends and takes along every other.
#[derive(Debug)]
struct Init {
    holder: Process,
    pid: u32,
}

impl Init {
    fn start(node: &Host) -> Result<Self> {
        let mut command = Command::new(crate::process::lab_exec::beside_current_program(init::NAME)?);
        command.arg(node.namespace().path()).arg(std::process::id().to_string());
        let holder = Process::start(command)?;
        let pid = holder.stdout().wait_for(BEGINS_AND_ENDS_WITHIN, |line| line.parse().ok());
        let ready =
            holder.stdout().wait_for(BEGINS_AND_ENDS_WITHIN, |line| (line == init::READY).then_some(()));
        match pid.zip(ready) {
            Some((pid, ())) => Ok(Self { holder, pid }),
            None => bail!("no world: {}", holder.stderr().text()),
        }
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // The holder reaps it only after the kernel has killed and reaped all others in its process namespace.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.holder.wait(BEGINS_AND_ENDS_WITHIN);
    }
}

/// A cgroup in every hierarchy, made by the runtime. Dropped, it is removed; no process may be left in it.
#[derive(Debug)]
struct Cgroup {
    name: String,
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for hierarchy in super::leftovers::cgroup_hierarchies().unwrap_or_default() {
            remove_cgroup(&hierarchy.join(&self.name));
        }
    }
}

/// From the leaves to the root; its files are the kernel's and go with it.
fn remove_cgroup(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path());
    }
    let _ = fs::remove_dir(folder);
}

/// A program that runs on. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Returns its exit status once it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<String>> {
        let status = self.child.try_wait()?;
        Ok(status.map(|status| format!("{}\n{}", describe(status), self.log())))
    }

    /// Its standard output and standard error, together.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output of a program that went well.
    pub fn succeeded(self) -> Result<String> {
        let Self { status, stdout, stderr } = self;
        if !status.success() {
            bail!("{}: {stdout}{stderr}", describe(status));
        }
        Ok(stdout)
    }
}
