// SPDX-License-Identifier: Apache-2.0
//! containerd with its CRI plugin, as a kubelet uses it.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::conflist;
use super::cri::{
    ContainerConfig, ContainerId, ContainerMetadata, ContainerStatusRequest, ContainerStatusResponse,
    CreateContainerRequest, Cri, Empty, ExecSyncRequest, ExecSyncResponse, ImageSpec, Int64Value,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig, PodSandboxConfig,
    PodSandboxId, PodSandboxMetadata, PodSandboxStatusResponse, PortMapping, RunPodSandboxRequest,
    StatusResponse, StopContainerRequest,
};
use super::image;
use super::kubelet;
use super::world::{Running, World};
use crate::family::Family;
use crate::kernel::netns::Namespace;
use crate::lab::host::Host;
use crate::until::until_some;

/// From its start to a network that is ready; it takes a second when the machine does nothing else.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The import of an image of a few MB.
const IMPORTED_WITHIN: Duration = Duration::from_secs(30);
/// containerd's own configuration, in the world's folder.
const CONFIG: &str = "containerd.toml";
/// The folder of network configurations, in the world's. Its parent is its own, as on a node: a pod may mount that.
pub(super) const CONFIGURATIONS: &str = "cni/net.d";
/// The only one.
const FILE: &str = "10-lab.conflist";
/// The socket, in the world's folder, with a folder of its own for the same reason.
pub(super) const SOCKET: &str = "run/containerd.sock";
/// A container whose program ends by itself, or got a signal.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// A container's state in the CRI.
const EXITED: i32 = 2;
/// A program in a container, in seconds.
const EXEC_SECONDS: i64 = 10;

/// A containerd with the network bridge → portmap → culvert-cni. Dropped, it ends with all its pods.
#[derive(Debug)]
pub struct Containerd {
    cri: Cri,
    // Its processes end with the world, before the wait for this one.
    world: World,
    process: Mutex<Running>,
}

impl Containerd {
    /// A containerd whose network is written in this cniVersion; `entry` holds further keys of our entry.
    pub fn start(cni_version: &str, entry: &Value) -> Result<Self> {
        let world = World::new()?;
        let chain = conflist::chain(&world, cni_version, entry);
        Self::launch(world, FILE, &chain.to_string())
    }

    /// A containerd on a node that culvert did not come to yet: bridge → portmap, whose calls are recorded.
    pub fn without_culvert(cni_version: &str) -> Result<Self> {
        let world = World::new()?;
        fs::remove_file(world.plugins().join("culvert-cni"))?;
        let primary = format!("{:#}\n", conflist::primary(&world, cni_version));
        Self::launch(world, FILE, &primary)
    }

    /// A containerd in this world, with one network configuration.
    pub(super) fn launch(world: World, name: &str, chain: &str) -> Result<Self> {
        let folder = world.folder();
        let network = folder.join(CONFIGURATIONS);
        let socket = folder.join(SOCKET);
        fs::create_dir_all(&network)?;
        fs::create_dir_all(socket.parent().context("no folder")?)?;
        fs::write(network.join(name), chain)?;
        fs::write(folder.join(CONFIG), configuration(folder, &socket, &network, &world.plugins()))?;
        let image = image::build(folder)?;

        let process = Mutex::new(start(&world)?);
        let node = Self { cri: Cri::new(&socket)?, world, process };
        node.wait_ready()?;
        node.import(&image)?;
        Ok(node)
    }

    /// The conflist that its network is read from.
    pub fn conflist(&self) -> PathBuf {
        self.world.folder().join(CONFIGURATIONS).join(FILE)
    }

    /// Returns the path of its CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.world.folder().join(SOCKET)
    }

    /// Takes the images of an archive, as they are named in it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let mut import = self.world.command("ctr")?;
        import.arg("--address").arg(self.socket());
        import.args(["--namespace", "k8s.io", "image", "import"]).arg(archive);
        self.world.run(import, IMPORTED_WITHIN)?.succeeded().context("the image was not imported")?;
        Ok(())
    }

    /// As after a power cut: every process is gone, and so is what was in memory; what is on the disk stays.
    pub(super) fn cut_power(&self) -> Result<()> {
        let state = self.world.folder().join("state");
        // -1 is every process in the world but its first one and the shell. Their mounts go from the innermost out.
        let script = format!(
            "kill -KILL -1; cut -d' ' -f2 /proc/mounts | grep -e '^/run/' -e '^{state}/' | sort -r | xargs -r -n1 umount -l; \
             rm -rf /run/* {state}",
            state = state.display()
        );
        let mut command = self.world.command("sh")?;
        command.args(["-c", &script]);
        self.world.run(command, READY_WITHIN)?.succeeded().map(drop)
    }

    /// Starts containerd once more.
    pub(super) fn start_again(&self) -> Result<()> {
        *self.process() = start(&self.world)?;
        self.wait_ready()
    }

    fn process(&self) -> MutexGuard<'_, Running> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_ready(&self) -> Result<()> {
        let mut last = String::from("no answer");
        let ready = until_some(READY_WITHIN, || {
            match self.process().ended() {
                Ok(None) => {}
                Ok(Some(how)) => return Some(Err(anyhow!("containerd ended: {how}"))),
                Err(e) => return Some(Err(e)),
            }
            match self.cri.call::<_, StatusResponse>("Status", Empty {}) {
                Ok(answer) => {
                    let conditions = answer.status.unwrap_or_default().conditions;
                    last = format!("{conditions:?}");
                    (!conditions.is_empty() && conditions.iter().all(|c| c.status)).then_some(Ok(()))
                }
                Err(e) => {
                    last = e.to_string();
                    None
                }
            }
        });
        ready.unwrap_or_else(|| {
            let log = self.process().log();
            bail!("containerd was not ready within {READY_WITHIN:?}; at last {last}\n{log}")
        })
    }

    /// A pod in the Kubernetes namespace `default`, before it is run.
    pub fn pod(&self, name: &str) -> PodSettings<'_> {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.world.folder().join("logs").join(name).to_string_lossy().into_owned(),
            port_mappings: Vec::new(),
            annotations: HashMap::new(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: self.world.cgroup() }),
        };
        PodSettings { node: self, config }
    }
}

fn start(world: &World) -> Result<Running> {
    let mut command = world.command("containerd")?;
    command.arg("--config").arg(world.folder().join(CONFIG));
    world.start("containerd", command)
}

impl AsRef<World> for Containerd {
    fn as_ref(&self) -> &World {
        &self.world
    }
}

/// 1.6 takes one folder of plugins. `restrict_oom_score_adj`: a machine may allow no lower one than that of the test.
/// The snapshotter `native` copies files: overlays cannot be stacked, should the temporary folder be on one.
fn configuration(folder: &Path, socket: &Path, network: &Path, plugins: &Path) -> String {
    let [root, state] = ["root", "state"].map(|name| folder.join(name));
    format!(
        r#"
version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  # A handler is told by its name: the program behind this one is runc too.
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-lab]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{network}"
"#,
        root = root.display(),
        state = state.display(),
        socket = socket.display(),
        image = image::NAME,
        plugins = plugins.display(),
        network = network.display(),
    )
}

/// A pod before it is run.
#[derive(Debug, Clone)]
pub struct PodSettings<'a> {
    node: &'a Containerd,
    config: PodSandboxConfig,
}

impl<'a> PodSettings<'a> {
    /// Adds an annotation by its whole name.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.config.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Puts the pod into another namespace of Kubernetes.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.config.metadata.get_or_insert_default().namespace = namespace.to_owned();
        self
    }

    /// Makes a port of the pod reachable at a port of the node.
    pub fn host_port(mut self, host_port: u16, container_port: u16) -> Self {
        self.config
            .port_mappings
            .push(PortMapping { container_port: container_port.into(), host_port: host_port.into() });
        self
    }

    /// Starts the sandbox, as a kubelet does first.
    pub fn run(self) -> Result<Pod<'a>> {
        let Self { node, config } = self;
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let PodSandboxId { pod_sandbox_id: id } = node.cri.call("RunPodSandbox", request)?;
        let status: PodSandboxStatusResponse =
            node.cri.call("PodSandboxStatus", PodSandboxId { pod_sandbox_id: id.clone() })?;
        let network = status.status.and_then(|status| status.network).unwrap_or_default();
        let addresses = std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
            .map(|ip| ip.parse().with_context(|| format!("no address: {ip:?}")))
            .collect::<Result<Vec<IpAddr>>>()?;
        // The path of its network namespace, as plugins got it.
        let added = node
            .world
            .calls()?
            .into_iter()
            .find(|call| call.verb() == "ADD" && call.variable("CNI_CONTAINERID") == id);
        let added = added.with_context(|| format!("no ADD for {id}"))?;
        let netns = node.world.open(added.variable("CNI_NETNS"))?;
        let name = config.hostname.clone();
        Ok(Pod { node, id, host: Host::existing(Namespace::existing(name, netns)), addresses, config })
    }
}

/// A running sandbox: a pod without its containers.
#[derive(Debug)]
pub struct Pod<'a> {
    node: &'a Containerd,
    id: String,
    host: Host,
    addresses: Vec<IpAddr>,
    config: PodSandboxConfig,
}

impl<'a> Pod<'a> {
    /// The runtime's id for it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The annotations as the capability has them: `null` where there are none.
    pub fn annotations(&self) -> Value {
        if self.config.annotations.is_empty() { Value::Null } else { json!(self.config.annotations) }
    }

    /// Opens its network namespace by the path that plugins got.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its address, as the runtime reports it to the kubelet.
    pub fn address(&self, family: Family) -> Result<IpAddr> {
        let found = self.addresses.iter().find(|address| Family::of(**address) == family);
        found.copied().with_context(|| format!("no {family} address among {:?}", self.addresses))
    }

    /// Starts a container as a user.
    pub fn container(&self, name: &str, uid: u32, command: &[&str]) -> Result<Container<'a>> {
        let user = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: uid.into() }),
            ..LinuxContainerSecurityContext::default()
        };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            image: Some(ImageSpec { image: image::NAME.to_owned() }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig { security_context: Some(user) }),
            ..ContainerConfig::default()
        };
        self.create(config)
    }

    /// Starts a container of a manifest's pod as a kubelet does. `spec` is the pod's, `name` that of the container.
    pub fn start(&self, spec: &Value, name: &str) -> Result<Container<'a>> {
        self.create(kubelet::container(spec, name, self.node.world.folder())?)
    }

    fn create(&self, config: ContainerConfig) -> Result<Container<'a>> {
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let ContainerId { container_id: id } = self.node.cri.call("CreateContainer", request)?;
        let Empty {} = self.node.cri.call("StartContainer", ContainerId { container_id: id.clone() })?;
        Ok(Container { node: self.node, id, log })
    }

    /// Ends its containers and its network.
    pub fn stop(&self) -> Result<()> {
        let Empty {} =
            self.node.cri.call("StopPodSandbox", PodSandboxId { pod_sandbox_id: self.id.clone() })?;
        Ok(())
    }

    /// Removes what is left of it.
    pub fn remove(self) -> Result<()> {
        let Empty {} = self.node.cri.call("RemovePodSandbox", PodSandboxId { pod_sandbox_id: self.id })?;
        Ok(())
    }
}

/// A container of a pod.
#[derive(Debug)]
pub struct Container<'a> {
    node: &'a Containerd,
    id: String,
    log: PathBuf,
}

/// The end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Its program's exit code; beyond 128 the signal that ended it.
    Code(i32),
}

/// The result of a program in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The exit code; `None` after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Container<'_> {
    /// Runs a program beside the container's own.
    pub fn exec(&self, command: &[&str]) -> Result<Exec> {
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: EXEC_SECONDS,
        };
        let ExecSyncResponse { stdout, stderr, exit_code } = self.node.cri.call("ExecSync", request)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Exec { code: exit_code, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Its standard output and standard error, together.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())
    }

    /// Asks it to end, and kills it after so many seconds.
    pub fn stop(&self, grace: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: self.id.clone(), timeout: grace };
        let Empty {} = self.node.cri.call("StopContainer", request)?;
        Ok(())
    }

    /// Waits until it has ended.
    pub fn wait(&self) -> Result<Exit> {
        let ended = until_some(ENDS_WITHIN, || match self.status() {
            Ok(ContainerStatusResponse { status: Some(status), .. }) if status.state == EXITED => {
                Some(Ok(Exit::Code(status.exit_code)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        ended.with_context(|| format!("it runs on: {:?}", self.log()))?
    }

    /// Reads `/proc/PID/status` of its first process.
    pub fn process_status(&self) -> Result<String> {
        let info = self.status()?.info;
        let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
        let pid = info["pid"].as_u64().with_context(|| format!("no pid in {info}"))?;
        let mut status = String::new();
        self.node.world.open(&format!("/proc/{pid}/status"))?.read_to_string(&mut status)?;
        Ok(status)
    }

    fn status(&self) -> Result<ContainerStatusResponse> {
        let request = ContainerStatusRequest { container_id: self.id.clone(), verbose: true };
        Ok(self.node.cri.call("ContainerStatus", request)?)
    }
}
