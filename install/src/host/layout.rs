// SPDX-License-Identifier: Apache-2.0
//! Where things are on this node: as the command line says, and else as the runtime's own configuration does.

use std::io;
use std::path::{Path, PathBuf};

use super::paths::Paths;
use super::root::HostRoot;
use super::runtimes::{self, Found};
use crate::conflist::{Loader, TYPE};

/// Where things are. All paths but `plugin` are as the node calls them: [`Layout::at`] opens them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Where the node's file system is mounted.
    pub root: HostRoot,
    /// The runtime's name and where that was read; for people.
    pub runtime: String,
    /// The folder of CNI configurations.
    pub conf_dir: PathBuf,
    /// How the runtime goes through it.
    pub loader: Loader,
    /// The folders of plugins, in the order in which the runtime looks.
    pub bin_dirs: Vec<PathBuf>,
    /// Our folder of records and sockets.
    pub state_dir: PathBuf,
    /// The runtime's CRI socket, if there is one.
    pub runtime_socket: Option<PathBuf>,
    /// The binary to place, here.
    pub plugin: PathBuf,
    /// What could not be read on the way; for people.
    pub complaints: Vec<String>,
}

/// Why nothing can be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    /// No node there.
    #[error("--host-root {}: {source}; mount the node's file system there, or leave the option out on the node itself", path.display())]
    HostRoot {
        /// As given.
        path: PathBuf,
        /// The file system's word.
        source: io::Error,
    },
    /// A path that is not the node's.
    #[error("{option} {}: it must be an absolute path, as the node calls it", path.display())]
    Relative {
        /// Which.
        option: &'static str,
        /// As given.
        path: PathBuf,
    },
}

/// Looks at the node.
pub(crate) fn discover(paths: &Paths) -> Result<Layout, LayoutError> {
    let Paths { host_root, cni_conf_dir, cni_bin_dir, plugin, state_dir, runtime_socket } = paths;
    host_root.read_dir().map_err(|source| LayoutError::HostRoot { path: host_root.clone(), source })?;
    for (option, path) in [
        ("--cni-conf-dir", cni_conf_dir.as_ref()),
        ("--cni-bin-dir", cni_bin_dir.as_ref()),
        ("--state-dir", Some(state_dir)),
        ("--runtime-socket", runtime_socket.as_ref()),
    ] {
        if let Some(path) = path.filter(|path| !path.is_absolute()) {
            return Err(LayoutError::Relative { option, path: path.clone() });
        }
    }
    let root = HostRoot::new(host_root);
    let Found { name, conf_dir, bin_dirs, loader, socket, complaints } =
        runtimes::find(&root, runtime_socket.as_deref());
    Ok(Layout {
        runtime: name,
        conf_dir: cni_conf_dir.clone().unwrap_or(conf_dir),
        loader,
        bin_dirs: cni_bin_dir.clone().map_or(bin_dirs, |folder| vec![folder]),
        state_dir: state_dir.clone(),
        runtime_socket: runtime_socket.clone().or(socket),
        plugin: plugin.clone().unwrap_or_else(beside),
        complaints,
        root,
    })
}

/// The plugin beside this program.
fn beside() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    this.parent().unwrap_or(Path::new("/")).join(TYPE)
}

impl Layout {
    /// Where the node's `path` is to be opened.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        self.root.at(path)
    }

    /// The folder of the attachments' records, as the node calls it.
    pub(crate) fn attachments(&self) -> PathBuf {
        self.state_dir.join("attachments")
    }

    /// The agent's socket for the plugin, as the node calls it.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.state_dir.join("agent.sock")
    }
}
