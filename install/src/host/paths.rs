// SPDX-License-Identifier: Apache-2.0
//! The paths that the operator may set.

use std::path::PathBuf;

/// The paths that the operator may set. All but `host_root` and `plugin` are below `host_root`.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// The mount point of the node's file system.
    pub host_root: PathBuf,
    /// The folder of CNI configurations; the default is that of the runtime's own configuration.
    pub cni_conf_dir: Option<PathBuf>,
    /// The folder of CNI plugins; the default is that of the runtime's own configuration.
    pub cni_bin_dir: Option<PathBuf>,
    /// The plugin's binary to place, not below `host_root`.
    pub plugin: Option<PathBuf>,
    /// The folder of attachment records and sockets.
    pub state_dir: PathBuf,
    /// The container runtime's CRI socket; the default is the first that exists of those that runtimes use.
    pub runtime_socket: Option<PathBuf>,
}
