// SPDX-License-Identifier: Apache-2.0
//! A node with a real containerd that culvert comes to and leaves again: `culvert-install` in a world, and sandboxes by
//! the hundred.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::conflist;
use super::containerd::{CONFIGURATIONS, Containerd, SOCKET};
use super::cri::{
    Cri, Empty, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxId, PodSandboxMetadata,
    PodSandboxStatusRequest, PodSandboxStatusResponse, RunPodSandboxRequest,
};
use super::network;
use super::world::{Ran, World};
use crate::api_server::ApiServer;
use crate::http;
use crate::kernel::netns::Namespace;
use crate::lab::host::Host;
use crate::mounted::{has_entry, peak_memory};
use crate::process::Process;
use crate::process::binaries::Binaries;
use crate::until::until_some;

/// The node's name in its cluster.
pub const NODE: &str = "worker-1";
/// Becomes the program that its arguments name, once `/proc/sys` cannot be written to and only these capabilities are left.
const CONTAINER: &str = "\
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
if ( echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse ) 2> /dev/null; then echo '/proc/sys is not read-only' >&2; exit 1; fi
exec setpriv --no-new-privs --bounding-set -all,+sys_admin,+net_admin,+sys_ptrace \"$@\"
";
/// The file name of the primary's list.
pub const PRIMARY: &str = "10-lab.conflist";
/// The agent's status address; the world's network is its own.
const STATUS: &str = "127.0.0.1:15090";
/// From the agent's start to an entry in its place, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// From SIGTERM to the agent's end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// `uninstall` waits for quiet, up to a minute.
const UNINSTALLED_WITHIN: Duration = Duration::from_secs(90);

/// As in a pod of this cluster.
fn in_cluster(command: &mut Command, cluster: &ApiServer) {
    command.args(["--node-name", NODE, "--service-account"]).arg(cluster.service_account());
    command.env("KUBERNETES_SERVICE_HOST", cluster.address().ip().to_string());
    command.env("KUBERNETES_SERVICE_PORT", cluster.address().port().to_string());
}

/// A containerd whose network is bridge → portmap, and nothing of culvert's.
#[derive(Debug)]
pub struct Node {
    containerd: Containerd,
    primary: String,
    entry: PathBuf,
}

impl AsRef<World> for Node {
    fn as_ref(&self) -> &World {
        self.containerd.as_ref()
    }
}

impl Node {
    /// A node whose primary wrote its list in this cniVersion.
    pub fn start(cni_version: &str) -> Result<Self> {
        let world = World::bare()?;
        let primary = format!("{:#}\n", conflist::primary(&world, cni_version));
        // What the plugin writes stays in the world.
        let entry = world.folder().join("entry.json");
        fs::write(&entry, serde_json::json!({ "logFile": network::log_file(world.folder()) }).to_string())?;
        let containerd = Containerd::launch(world, PRIMARY, &primary)?;
        Ok(Self { containerd, primary, entry })
    }

    /// The world that it is in.
    pub fn world(&self) -> &World {
        self.containerd.as_ref()
    }

    /// Reads the list that the primary plugin wrote.
    pub fn primary(&self) -> &str {
        &self.primary
    }

    /// The folder of network configurations.
    pub fn configurations(&self) -> PathBuf {
        self.world().folder().join(CONFIGURATIONS)
    }

    /// The file name of the primary's list.
    pub fn conflist(&self) -> PathBuf {
        self.configurations().join(PRIMARY)
    }

    /// The plugin, where it is placed.
    pub fn plugin(&self) -> PathBuf {
        self.world().plugins().join("culvert-cni")
    }

    /// Returns the folder of the agent's state.
    pub fn state(&self) -> PathBuf {
        self.world().folder().join("culvert")
    }

    /// Returns true if the runtime's file names the plugin, as a whole list.
    pub fn has_entry(&self) -> bool {
        has_entry(&self.conflist())
    }

    fn paths(&self, command: &mut Command, socket: &Path) {
        command.arg("--cni-conf-dir").arg(self.configurations());
        command.arg("--cni-bin-dir").arg(self.world().plugins());
        command.arg("--state-dir").arg(self.state());
        command.arg("--runtime-socket").arg(socket);
    }

    /// The runtime's own socket.
    pub fn socket(&self) -> PathBuf {
        self.world().folder().join(SOCKET)
    }

    /// As after a power cut, but for the disk; ours in memory goes too.
    pub fn cut_power(&self) -> Result<()> {
        self.containerd.cut_power()?;
        if self.state().exists() {
            fs::remove_dir_all(self.state())?;
        }
        Ok(())
    }

    /// Starts containerd after that.
    pub fn start_again(&self) -> Result<()> {
        self.containerd.start_again()
    }

    /// Starts the agent, with further options.
    pub fn agent(&self, options: &[&str]) -> Result<Agent<'_>> {
        self.agent_of(&self.socket(), None, options)
    }

    /// Starts the agent as in a pod of a cluster with this API server.
    pub fn agent_in(&self, cluster: &ApiServer, options: &[&str]) -> Result<Agent<'_>> {
        self.agent_of(&self.socket(), Some(cluster), options)
    }

    /// Starts the agent with this socket of a runtime, whether one listens or not.
    pub fn agent_of(
        &self,
        socket: &Path,
        cluster: Option<&ApiServer>,
        options: &[&str],
    ) -> Result<Agent<'_>> {
        let mut command = self.agent_command(&Binaries::built()?.cni, socket)?;
        if let Some(cluster) = cluster {
            in_cluster(&mut command, cluster);
        }
        command.args(options);
        Ok(Agent { node: self, process: Process::start(command)? })
    }

    /// Starts an agent that places this plugin.
    pub fn agent_with(&self, plugin: &Path, options: &[&str]) -> Result<Agent<'_>> {
        let mut command = self.agent_command(plugin, &self.socket())?;
        command.args(options);
        Ok(Agent { node: self, process: Process::start(command)? })
    }

    /// Starts the agent as where no program of iptables is, such as in the chart's image, in a pod of this cluster.
    pub fn agent_without_iptables(&self, cluster: &ApiServer) -> Result<Agent<'_>> {
        let mut command = self.world().command("unshare")?;
        command.args(["--mount", "sh", "-euc", "mount -t tmpfs none /usr/sbin; exec \"$@\"", "sh"]);
        command.arg(&Binaries::built()?.install);
        self.agent_arguments(&mut command, &Binaries::built()?.cni, &self.socket());
        in_cluster(&mut command, cluster);
        Ok(Agent { node: self, process: Process::start(command)? })
    }

    fn agent_command(&self, plugin: &Path, socket: &Path) -> Result<Command> {
        let mut command = self.world().command_at(&Binaries::built()?.install)?;
        self.agent_arguments(&mut command, plugin, socket);
        Ok(command)
    }

    fn agent_arguments(&self, command: &mut Command, plugin: &Path, socket: &Path) {
        command.arg("agent").arg("--plugin").arg(plugin);
        self.paths(command, socket);
        command.args(["--status-address", STATUS, "--entry"]).arg(&self.entry);
    }

    /// Starts the agent as in a container of the chart: network, mounts and processes of its own, `/proc/sys` read-only, the
    /// node's files mounted elsewhere, and no capability but those that its page lists.
    pub fn agent_in_a_container(&self) -> Result<Process> {
        let binaries = Binaries::built()?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--", "sh", "-euc", CONTAINER, "sh"]).arg(&binaries.install);
        command.arg("agent").arg("--plugin").arg(&binaries.cni).arg("--host-root").arg(self.world().root());
        self.paths(&mut command, &self.socket());
        command.args(["--status-address", ":15090", "--entry"]).arg(&self.entry);
        Process::start(command)
    }

    /// An API server that only this node's processes reach.
    pub fn cluster(&self) -> Result<ApiServer> {
        ApiServer::start(self.world().node.listen(("127.0.0.1", 6443))?)
    }

    /// Runs a command of `culvert-install` that takes the paths of the node.
    pub fn run(&self, name: &str, options: &[&str]) -> Result<Ran> {
        self.run_at(&self.socket(), name, options)
    }

    /// The same where the runtime cannot be asked.
    pub fn run_without_runtime(&self, name: &str, options: &[&str]) -> Result<Ran> {
        self.run_at(&self.world().folder().join("no.sock"), name, options)
    }

    fn run_at(&self, socket: &Path, name: &str, options: &[&str]) -> Result<Ran> {
        let mut command = self.world().command_at(&Binaries::built()?.install)?;
        command.arg(name);
        self.paths(&mut command, socket);
        command.args(options);
        self.world().run(command, UNINSTALLED_WITHIN)
    }

    /// A DEL of our plugin as CRI-O calls it, which ends a sandbox by the list that it was made with.
    pub fn delete_by_plugin(&self, id: &str) -> Result<()> {
        let configuration = self.world().folder().join("del.json");
        let stdin = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": network::NETWORK,
            "type": "culvert-cni",
            "logFile": network::log_file(self.world().folder()),
            "stateDir": self.state().join("attachments"),
        });
        fs::write(&configuration, stdin.to_string())?;
        let mut command = self.world().command("sh")?;
        command.args(["-c", "exec \"$0\" < \"$1\""]).arg(self.plugin()).arg(configuration);
        command.env("CNI_COMMAND", "DEL").env("CNI_CONTAINERID", id).env("CNI_IFNAME", "eth0");
        self.world().run(command, ENDS_WITHIN)?.succeeded().map(drop)
    }

    /// A client of the runtime's; one for each thread.
    pub fn client(&self) -> Result<NodeClient<'_>> {
        Ok(NodeClient { node: self, cri: Cri::new(&self.world().folder().join(SOCKET))? })
    }
}

/// A client of a node's runtime.
#[derive(Debug)]
pub struct NodeClient<'a> {
    node: &'a Node,
    cri: Cri,
}

impl<'a> NodeClient<'a> {
    /// Runs a sandbox that is onboarded.
    pub fn run(&self, name: &str) -> Result<Sandbox<'a, '_>> {
        self.run_with(name, &[("culvert.dev/redirect", "enabled")])
    }

    /// Runs a sandbox with these annotations.
    pub fn run_with(&self, name: &str, annotations: &[(&str, &str)]) -> Result<Sandbox<'a, '_>> {
        self.run_by("", name, annotations)
    }

    /// Runs a sandbox by the handler of a RuntimeClass; `""` is the default, `kata-lab` another.
    pub fn run_by(&self, handler: &str, name: &str, annotations: &[(&str, &str)]) -> Result<Sandbox<'a, '_>> {
        let world = self.node.world();
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: world.folder().join("logs").join(name).to_string_lossy().into_owned(),
            port_mappings: Vec::new(),
            annotations: annotations
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: world.cgroup() }),
        };
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let PodSandboxId { pod_sandbox_id: id } =
            self.cri.call("RunPodSandbox", request).with_context(|| format!("{name} could not be made"))?;
        Ok(Sandbox { client: self, id })
    }
}

impl NodeClient<'_> {
    /// Ends a sandbox, and removes what is left of it.
    pub fn end(&self, id: &str) -> Result<()> {
        let request = || PodSandboxId { pod_sandbox_id: id.to_owned() };
        let Empty {} = self.cri.call("StopPodSandbox", request()).context("it could not be stopped")?;
        let Empty {} = self.cri.call("RemovePodSandbox", request()).context("it could not be removed")?;
        Ok(())
    }
}

/// A sandbox that runs.
#[derive(Debug)]
pub struct Sandbox<'a, 'b> {
    client: &'b NodeClient<'a>,
    id: String,
}

impl Sandbox<'_, '_> {
    /// The runtime's id for it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its end by the client's word only: the sandbox of an earlier life of the node.
    pub fn forget(self) -> String {
        self.id
    }

    /// Opens its network namespace by the path that plugins got.
    pub fn host(&self) -> Result<Host> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        let status: PodSandboxStatusResponse = self.client.cri.call("PodSandboxStatus", request)?;
        let info: Value = serde_json::from_str(status.info.get("info").context("no info")?)?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().context("no namespaces")?;
        let network = namespaces.iter().find(|namespace| namespace["type"] == "network");
        let path = network.and_then(|network| network["path"].as_str()).context("no network namespace")?;
        let file = self.client.node.world().open(path)?;
        Ok(Host::existing(Namespace::existing(self.id.clone(), file)))
    }

    /// Returns true if our rules are in its namespace.
    pub fn is_covered(&self) -> Result<bool> {
        Ok(self.host()?.ruleset()?.tables.iter().any(|table| table == "inet culvert"))
    }

    /// Ends it, and removes what is left of it.
    pub fn end(self) -> Result<()> {
        self.client.end(&self.id)
    }
}

/// An agent that runs in a node. Dropped, it is killed.
#[derive(Debug)]
pub struct Agent<'a> {
    node: &'a Node,
    process: Process,
}

impl<'a> Agent<'a> {
    /// The same agent once the entry is effective.
    pub fn ready(mut self) -> Result<Self> {
        let ready = until_some(READY_WITHIN, || match self.process.ended() {
            Ok(Some(_)) => Some(false),
            _ => self.get("/ready").is_ok_and(|answer| answer.status == 200).then_some(true),
        });
        if ready == Some(true) {
            return Ok(self);
        }
        let said = self.get("/ready").map(|answer| answer.body).unwrap_or_default();
        bail!("the agent did not become ready: {said}\n{}", self.process.stderr().text())
    }

    /// Asks its status port.
    pub fn get(&self, path: &str) -> Result<http::Response> {
        http::get(self.node.world().node.connect(STATUS)?, path)
    }

    /// The value of one of its metrics; 0 where it has not been counted yet.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics")?.body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map(str::parse).transpose()?.unwrap_or_default())
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        self.process.stderr().text()
    }

    /// The most memory that it had resident so far, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        peak_memory(self.pid()?)
    }

    /// nsenter keeps waiting for the program that it became another process for.
    fn pid(&self) -> Result<u32> {
        let outer = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        Ok(children.split_whitespace().next().map(str::parse).transpose()?.unwrap_or(outer))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid =
            i32::try_from(self.pid()?).ok().and_then(rustix::process::Pid::from_raw).context("no pid")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// SIGTERM, and what it logged.
    pub fn terminate(mut self) -> Result<String> {
        self.signal(Signal::TERM)?;
        let status = self.process.wait(ENDS_WITHIN)?;
        let log = self.process.stderr().text();
        if !status.success() {
            bail!("the agent ended with {status}\n{log}");
        }
        Ok(log)
    }

    /// Kills it without a chance to clean up.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.process.wait(ENDS_WITHIN).map(drop)
    }
}

/// nsenter would go, and what it started stay.
impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.signal(Signal::KILL);
    }
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names: Vec<_> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}
