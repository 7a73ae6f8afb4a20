// SPDX-License-Identifier: Apache-2.0
//! The files of a node, mounted somewhere, without a runtime: what `culvert-install` does to them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::http;
use crate::process::Process;
use crate::process::binaries::Binaries;
use crate::until::until_some;

/// From the agent's start to an entry in its place, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// From SIGTERM to the agent's end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// `uninstall` waits for quiet, up to a minute.
const UNINSTALLED_WITHIN: Duration = Duration::from_secs(90);

/// The folder of network configurations.
pub const CONFIGURATIONS: &str = "etc/cni/net.d";
/// The folder of plugins.
pub const PLUGINS: &str = "opt/cni/bin";

/// A node's files in a temporary folder.
#[derive(Debug)]
pub struct Mounted {
    folder: TempDir,
}

/// A file as it must come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The file's name, without its folder.
    pub name: String,
    /// The bytes of the file.
    pub bytes: Vec<u8>,
    /// The file's permission bits.
    pub mode: u32,
    /// Its user and group.
    pub owner: (u32, u32),
}

impl Mounted {
    /// A node with an empty folder of configurations and one of plugins.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("culvert-node-").tempdir()?;
        for below in [CONFIGURATIONS, PLUGINS, "etc/culvert"] {
            fs::create_dir_all(folder.path().join(below))?;
        }
        let node = Self { folder };
        // What the plugin writes stays here: it is not below the node's root for itself.
        let entry = format!("{{\"logFile\":{:?}}}", node.at("cni.log"));
        fs::write(node.at("etc/culvert/entry.json"), entry)?;
        Ok(node)
    }

    /// Returns the path of a file of the node.
    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// A file in the folder of configurations.
    pub fn configuration(&self, name: &str) -> PathBuf {
        self.at(CONFIGURATIONS).join(name)
    }

    /// The plugin, where it is placed.
    pub fn plugin(&self) -> PathBuf {
        self.at(PLUGINS).join("culvert-cni")
    }

    /// All files of a folder, sorted by name.
    pub fn kept(&self, folder: &str) -> Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(self.at(folder))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            kept.push(Kept {
                name: entry.file_name().to_string_lossy().into_owned(),
                bytes: if metadata.is_file() { fs::read(entry.path())? } else { Vec::new() },
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
            });
        }
        kept.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(kept)
    }

    /// A command of `culvert-install` about this node, behind `wrapper` (such as strace) if there is one.
    pub fn command(&self, wrapper: &[&str], name: &str) -> Result<Command> {
        let binaries = Binaries::built()?;
        let mut command = match wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&binaries.install);
                command
            }
            None => Command::new(&binaries.install),
        };
        command.arg(name).arg("--host-root").arg(self.folder.path());
        command.env_remove("NODE_NAME").env_remove("KUBERNETES_SERVICE_HOST");
        Ok(command)
    }

    /// Starts the agent, with further options, behind `wrapper` if there is one.
    pub fn agent_behind(&self, wrapper: &[&str], options: &[&str]) -> Result<MountedAgent> {
        let mut command = self.command(wrapper, "agent")?;
        command.arg("--entry").arg(self.at("etc/culvert/entry.json"));
        if !options.contains(&"--plugin") {
            command.arg("--plugin").arg(&Binaries::built()?.cni);
        }
        command.args(["--status-address", "127.0.0.1:0", "--repair", "off"]).args(options);
        Ok(MountedAgent { process: Process::start(command)? })
    }

    /// Starts the agent, with further options.
    pub fn agent(&self, options: &[&str]) -> Result<MountedAgent> {
        self.agent_behind(&[], options)
    }

    /// Runs `uninstall` to its end: whether it went well, and what it printed.
    pub fn uninstall_behind(&self, wrapper: &[&str], options: &[&str]) -> Result<(bool, String)> {
        let mut command = self.command(wrapper, "uninstall")?;
        command.args(options);
        let mut process = Process::start(command)?;
        let status = process.wait(UNINSTALLED_WITHIN)?;
        Ok((status.success(), format!("{}{}", process.stdout().text(), process.stderr().text())))
    }

    /// Runs `uninstall --now`, which must go well.
    pub fn uninstall(&self) -> Result<String> {
        match self.uninstall_behind(&[], &["--now"])? {
            (true, said) => Ok(said),
            (false, said) => bail!("uninstall failed: {said}"),
        }
    }
}

/// An agent. Dropped, it is killed.
#[derive(Debug)]
pub struct MountedAgent {
    process: Process,
}

impl MountedAgent {
    /// The same agent once the entry is effective.
    pub fn ready(mut self) -> Result<Self> {
        if self.becomes_ready()? {
            return Ok(self);
        }
        let said = self.get("/ready").map(|answer| answer.body).unwrap_or_default();
        bail!("the agent did not become ready: {said}\n{}", self.log())
    }

    /// Waits until the entry is effective; `false`: it ended before.
    pub fn becomes_ready(&mut self) -> Result<bool> {
        let ready = until_some(READY_WITHIN, || match self.process.ended() {
            Ok(Some(_)) => Some(false),
            _ => self.get("/ready").is_ok_and(|answer| answer.status == 200).then_some(true),
        });
        ready.with_context(|| format!("it neither ended nor became ready\n{}", self.log()))
    }

    /// Asks its status port.
    pub fn get(&self, path: &str) -> Result<http::Response> {
        self.request("GET", path)
    }

    /// The same by another method.
    pub fn request(&self, method: &str, path: &str) -> Result<http::Response> {
        http::request(std::net::TcpStream::connect(self.status_address()?)?, method, path)
    }

    /// Returns the address of its status port.
    pub fn status_address(&self) -> Result<String> {
        let log = self.log();
        let address = log.split_whitespace().find_map(|word| word.strip_prefix("address="));
        Ok(address.context("it does not serve yet")?.to_owned())
    }

    /// The value of one of its metrics; 0 where it has not been counted yet.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics")?.body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map(str::parse).transpose()?.unwrap_or_default())
    }

    /// The most memory that it had resident so far, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        peak_memory(self.process.pid())
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        self.process.stderr().text()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// SIGTERM, and what it logged.
    pub fn terminate(mut self) -> Result<String> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(ENDS_WITHIN)?;
        if !status.success() {
            bail!("the agent ended with {status}\n{}", self.log());
        }
        Ok(self.log())
    }

    /// Waits until the entry is effective, and then lets the agent that strace started do what is left and end. Whether it
    /// came to its end; `false`: it was killed on the way.
    pub fn comes_to_its_end(mut self) -> Result<bool> {
        if !self.becomes_ready()? {
            return Ok(false);
        }
        self.signal_started(Signal::TERM);
        Ok(self.process.wait(ENDS_WITHIN)?.success())
    }

    /// Signals what strace started.
    fn signal_started(&self, signal: Signal) {
        let outer = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = kill_process(child, signal);
        }
    }
}

/// strace would go, and what it started run on.
impl Drop for MountedAgent {
    fn drop(&mut self) {
        self.signal_started(Signal::KILL);
    }
}

/// Runs a command with `--output json`: its exit code, and the one document that it printed.
pub fn json_of(mut command: Command) -> Result<(Option<i32>, serde_json::Value)> {
    let output = command.args(["--output", "json"]).output()?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), serde_json::from_slice(&output.stdout).with_context(said)?))
}

/// The most memory that a process had resident so far, in bytes.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes << 10)
}

/// Returns true if the list at `path` names the plugin.
pub fn has_entry(path: &Path) -> bool {
    let text = fs::read(path).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|list| {
        let plugins = list["plugins"].as_array();
        plugins.is_some_and(|all| all.iter().any(|plugin| plugin["type"] == "culvert-cni"))
    })
}
