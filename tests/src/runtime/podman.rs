// SPDX-License-Identifier: Apache-2.0
//! podman with its CNI networks: a runtime without pods, which passes no annotations.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::conflist;
use super::image;
use super::network;
use super::record::Call;
use super::world::{Ran, World};
use crate::kernel::netns::Namespace;
use crate::lab::host::Host;

/// A container takes half a second; this is for a machine that does much else.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// A machine may allow no more than this, and podman insists on its own defaults otherwise.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];

/// A podman with the network bridge → portmap → culvert-cni. Dropped, its world ends with all containers.
#[derive(Debug)]
pub struct Podman {
    world: World,
    settings: PathBuf,
}

impl Podman {
    /// A podman whose network is written in this cniVersion; `entry` holds further keys of our entry.
    pub fn new(cni_version: &str, entry: &Value) -> Result<Self> {
        let world = World::new()?;
        let folder = world.folder();
        let network = folder.join("net.d");
        fs::create_dir(&network)?;
        let chain = conflist::chain(&world, cni_version, entry);
        fs::write(network.join("10-lab.conflist"), chain.to_string())?;
        let settings = folder.join("containers.conf");
        fs::write(
            &settings,
            format!(
                r#"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}"]
network_config_dir = "{network}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
"#,
                plugins = world.plugins().display(),
                network = network.display(),
            ),
        )?;
        let image = image::build(folder)?;
        let podman = Self { world, settings };
        let load = podman.podman(&["load", "--quiet", "--input", &image.to_string_lossy()])?;
        load.succeeded().context("the image was not loaded")?;
        Ok(podman)
    }

    /// Runs a container in the background.
    pub fn run(&self, name: &str, command: &[&str]) -> Result<Ran> {
        let cgroup = self.world.cgroup();
        let mut arguments = vec!["run", "--detach", "--pull", "never", "--name", name];
        arguments.extend(["--network", network::NETWORK, "--cgroup-parent", &cgroup]);
        arguments.extend(LIMITS);
        arguments.push(image::NAME);
        arguments.extend(command);
        self.podman(&arguments)
    }

    /// Runs a program beside the container's own.
    pub fn exec(&self, name: &str, command: &[&str]) -> Result<Ran> {
        self.podman(&[&["exec", name], command].concat())
    }

    /// Ends and removes a container.
    pub fn remove(&self, name: &str) -> Result<Ran> {
        self.podman(&["rm", "--force", "--time", "0", name])
    }

    /// The network namespace that a plugin was called for.
    pub fn host(&self, call: &Call) -> Result<Host> {
        let netns = self.world.open(call.variable("CNI_NETNS"))?;
        Ok(Host::existing(Namespace::existing("container", netns)))
    }

    fn podman(&self, arguments: &[&str]) -> Result<Ran> {
        let folder = self.world.folder();
        let mut command = self.world.command("podman")?;
        command.env("CONTAINERS_CONF", &self.settings).env("HOME", folder);
        for (option, name) in [("--root", "root"), ("--runroot", "runroot"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(folder.join(name));
        }
        command.args(["--storage-driver", "vfs"]).args(arguments);
        self.world.run(command, ENDS_WITHIN)
    }
}

impl AsRef<World> for Podman {
    fn as_ref(&self) -> &World {
        &self.world
    }
}
