//! A pod and the world around it.

pub mod host;
pub mod wire;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::family::Family;
use crate::lab::host::Host;

/// A pod, a peer at the other end of its cable, and a node on which plugins run.
///
/// ```text
///   pod                          peer                        node
///   eth0 10.77.0.2  fd77::2 ──── eth0 10.77.0.1  fd77::1     (nothing: the plugin's own namespace)
///        fe80::2                      fe80::1
///                                lo   192.0.2.10 2001:db8::10
/// ```
/// The pod's default routes lead to the peer. In any test the machine's own namespace is not
/// touched: the plugin runs in `node`. All of it ends with this value, after a panic too.
#[derive(Debug)]
pub struct Lab {
    /// The pod, as a runtime and a primary plugin leave it.
    pub pod: Host,
    /// The pod's neighbour and gateway; also answers for the outside addresses.
    pub peer: Host,
    /// The namespace that plugins take for the host's.
    pub node: Host,
    folder: TempDir,
    further_peers: u8,
}

impl Lab {
    /// A lab with one peer.
    pub fn new() -> Result<Self> {
        let (pod, peer, node) = (Host::new("pod")?, Host::new("peer")?, Host::new("node")?);
        pod.wire("eth0", &peer, "eth0")?;
        for (host, interface, cidr) in [
            (&pod, "eth0", "10.77.0.2/24"),
            (&pod, "eth0", "fd77::2/64"),
            (&pod, "eth0", "fe80::2/64"),
            (&peer, "eth0", "10.77.0.1/24"),
            (&peer, "eth0", "fd77::1/64"),
            (&peer, "eth0", "fe80::1/64"),
            (&peer, "lo", "192.0.2.10/32"),
            (&peer, "lo", "2001:db8::10/128"),
        ] {
            host.add_address(interface, cidr)?;
        }
        for family in Family::BOTH {
            pod.add_route("default", family.peer())?;
        }
        let folder =
            tempfile::Builder::new().prefix("culvert-lab-").tempdir().context("no temporary folder")?;
        // The sidecar, which is not root, reads its documents from here.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        Ok(Self { pod, peer, node, folder, further_peers: 0 })
    }

    /// One more neighbour on an interface of its own: the n-th is `10.77.n.1` / `fd77:n::1` behind the pod's `eth<n>`,
    /// where the pod is `10.77.n.2` / `fd77:n::2`.
    pub fn another_peer(&mut self) -> Result<Host> {
        self.further_peers += 1;
        let n = self.further_peers;
        let peer = Host::new(&format!("peer{n}"))?;
        let interface = format!("eth{n}");
        self.pod.wire(&interface, &peer, "eth0")?;
        for (host, interface, last) in [(&self.pod, interface.as_str(), 2), (&peer, "eth0", 1)] {
            host.add_address(interface, &format!("10.77.{n}.{last}/24"))?;
            host.add_address(interface, &format!("fd77:{n}::{last}/64"))?;
        }
        for family in Family::BOTH {
            let gateway = match family {
                Family::V4 => format!("10.77.{n}.2"),
                Family::V6 => format!("fd77:{n}::2"),
            };
            peer.add_route("default", gateway.parse()?)?;
        }
        Ok(peer)
    }

    /// A folder that programs may see as `/etc`: they find the names of these lines of `hosts`, and no others. Called again, it
    /// exchanges the lines, which the programs notice.
    pub fn hosts(&self, lines: &str) -> Result<PathBuf> {
        let folder = self.folder().join("etc");
        fs::create_dir_all(&folder)?;
        // Without DNS, so that no test depends on a nameserver of the machine.
        fs::write(folder.join("nsswitch.conf"), "hosts: files\n")?;
        // As Debian has it: a name on several lines has several addresses.
        fs::write(folder.join("host.conf"), "multi on\n")?;
        let new = folder.join("hosts.new");
        fs::write(&new, lines)?;
        fs::rename(new, folder.join("hosts"))?;
        Ok(folder)
    }

    /// A folder for this lab's files that every uid may read; it goes with the lab.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
