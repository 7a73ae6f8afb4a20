// SPDX-License-Identifier: Apache-2.0
//! The layout of this node: by the command line, and else by the runtime's own configuration.

use std::io;
use std::path::{Path, PathBuf};

use super::paths::Paths;
use super::root::HostRoot;
use super::runtimes::{self, Runtime};
use crate::conflist::{Loader, TYPE};
use crate::cri::sandboxes::Handlers;

/// The folders and files that matter to culvert. All paths but `plugin` are as the node names them; [`Layout::at`] gives the path
/// to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub root: HostRoot,
    /// The runtime's name with the file that gave it, for people.
    pub runtime: String,
    /// The folder of CNI configurations.
    pub conf_dir: PathBuf,
    /// The runtime's rule for the file that it uses.
    pub loader: Loader,
    /// The folders that our plugin may be placed in, in the runtime's order of search.
    pub bin_dirs: Vec<PathBuf>,
    /// The runtime's own folders of plugins, in its order of search.
    pub plugin_dirs: Vec<PathBuf>,
    /// The folder of our records and sockets.
    pub state_dir: PathBuf,
    /// The runtime's CRI socket, if there is one.
    pub runtime_socket: Option<PathBuf>,
    /// The binary to place, as this process opens it.
    pub plugin: PathBuf,
    /// The runtime's handlers whose sandboxes bypass their namespace's netfilter.
    pub handlers: Handlers,
    /// Lines about configuration that could not be read, for people.
    pub complaints: Vec<String>,
}

/// The reason why there is no layout.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("--host-root {}: {source}; mount the node's file system there, or leave the option out on the node itself", path.display())]
    HostRoot { path: PathBuf, source: io::Error },
    #[error("{option} {}: it must be an absolute path, as the node calls it", path.display())]
    Relative { option: &'static str, path: PathBuf },
}

/// Finds the layout. Reads files, and changes none.
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
    let Runtime { name, conf_dir, bin_dirs, loader, socket, handlers, complaints } =
        runtimes::find(&root, runtime_socket.as_deref());
    Ok(Layout {
        runtime: name,
        conf_dir: cni_conf_dir.clone().unwrap_or(conf_dir),
        loader,
        bin_dirs: cni_bin_dir.clone().map_or_else(|| bin_dirs.clone(), |folder| vec![folder]),
        plugin_dirs: bin_dirs.into_iter().chain(cni_bin_dir.clone()).collect(),
        state_dir: state_dir.clone(),
        runtime_socket: runtime_socket.clone().or(socket),
        plugin: plugin.clone().unwrap_or_else(beside),
        handlers,
        complaints,
        root,
    })
}

/// The path of the plugin beside this program.
fn beside() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    this.parent().unwrap_or(Path::new("/")).join(TYPE)
}

impl Layout {
    /// Returns the path by which this process opens the node's `path`.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        self.root.at(path)
    }

    /// The folder of the attachments' records, as the node names it.
    pub(crate) fn attachments(&self) -> PathBuf {
        self.state_dir.join("attachments")
    }

    /// The agent's socket for the plugin, as the node names it.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.state_dir.join("agent.sock")
    }
}
