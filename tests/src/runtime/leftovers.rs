// SPDX-License-Identifier: Apache-2.0
//! Checks that a world leaves nothing on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::network::BRIDGE;
use crate::kernel::link::Links;
use crate::kernel::nft::Ruleset;
use crate::until::until_some;

/// The kernel ends what the last process leaves in the background.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The traces that runtimes and plugins would leave on the machine, were they not in a world. Others may use the machine meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Mounted namespaces and containers.
    pub mounts: BTreeSet<PathBuf>,
    /// Bridges with our name in the machine's own network namespace.
    pub links: BTreeSet<String>,
    /// Chains there, those of iptables among them.
    pub chains: BTreeSet<String>,
    /// The entries of the folders that they write to.
    pub files: BTreeSet<PathBuf>,
}

/// Folders that runtimes and plugins write to unless something is put over them.
const SHARED_FOLDERS: [&str; 7] = [
    "/run/containerd",
    "/run/containers",
    "/run/libpod",
    "/run/runc",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/containers",
];
/// Prefixes of the paths of containerd's and podman's network namespaces.
const NAMESPACES: [&str; 2] = ["/run/netns/cni-", "/run/netns/netns-"];

impl Machine {
    /// As it is now.
    pub fn now() -> Result<Self> {
        let of_a_runtime = |path: &PathBuf| {
            let text = path.to_string_lossy();
            NAMESPACES.iter().chain(&SHARED_FOLDERS).any(|beginning| text.starts_with(beginning))
        };
        let chains =
            Ruleset::dump()?.chains.into_iter().map(|chain| format!("{} {}", chain.table, chain.name));
        let files = SHARED_FOLDERS.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        Ok(Self {
            mounts: mounts()?.into_iter().map(|mount| mount.point).filter(of_a_runtime).collect(),
            links: Links::open()?
                .list()?
                .into_iter()
                .map(|(name, _)| name)
                .filter(|name| name == BRIDGE)
                .collect(),
            chains: chains.filter(|name| name.contains("CNI-") || name.contains("culvert")).collect(),
            files: files.flatten().map(|entry| entry.path()).collect(),
        })
    }
}

/// The traces by which a world that has not ended is found.
#[derive(Debug)]
pub struct Traces {
    processes: PathBuf,
    folder: PathBuf,
    cgroup: String,
}

impl Traces {
    pub(crate) fn of(init: u32, folder: &Path, cgroup: &str) -> Result<Self> {
        let processes = fs::read_link(format!("/proc/{init}/ns/pid"))?;
        Ok(Self { processes, folder: folder.into(), cgroup: cgroup.to_owned() })
    }

    /// Fails if something is still there.
    pub fn expect_gone(&self) -> Result<()> {
        let mut left = Vec::new();
        let gone = until_some(GONE_WITHIN, || match self.left() {
            Ok(found) => {
                left = found;
                left.is_empty().then_some(Ok(()))
            }
            Err(e) => Some(Err(e)),
        });
        gone.unwrap_or_else(|| bail!("left behind:\n{}", left.join("\n")))
    }

    /// Each thing that is still there, in words.
    fn left(&self) -> Result<Vec<String>> {
        let Self { processes, folder, cgroup } = self;
        let mut left = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            // One that has just ended cannot be read.
            let of_world = fs::read_link(entry.path().join("ns/pid")).is_ok_and(|found| found == *processes);
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if of_world || command.contains(&*folder.to_string_lossy()) {
                left.push(format!("process {}: {command}", entry.file_name().display()));
            }
        }
        if folder.exists() {
            left.push(format!("folder {}", folder.display()));
        }
        let hierarchies = cgroup_hierarchies()?.into_iter().map(|hierarchy| hierarchy.join(cgroup));
        left.extend(
            hierarchies.filter(|path| path.exists()).map(|path| format!("cgroup {}", path.display())),
        );
        let mounts = mounts()?.into_iter().filter(|mount| mount.point.starts_with(folder));
        left.extend(mounts.map(|mount| format!("mount {}", mount.point.display())));
        Ok(left)
    }
}

struct MountPoint {
    point: PathBuf,
    kind: String,
}

fn mounts() -> Result<Vec<MountPoint>> {
    let text = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        Some(MountPoint { point: fields.next()?.into(), kind: fields.next()?.to_owned() })
    };
    Ok(text.lines().filter_map(mount).collect())
}

/// Returns the mount points of cgroups: one folder, or one for each controller.
pub(crate) fn cgroup_hierarchies() -> Result<Vec<PathBuf>> {
    let of_cgroups = |mount: &MountPoint| mount.kind == "cgroup" || mount.kind == "cgroup2";
    Ok(mounts()?.into_iter().filter(of_cgroups).map(|mount| mount.point).collect())
}
