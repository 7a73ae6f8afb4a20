// SPDX-License-Identifier: Apache-2.0
//! Where things are on the node, as the operator says it.

use std::path::PathBuf;

/// Where things are on the node. All but `host_root` and `plugin` lie below `host_root`.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// Where the node's file system is mounted.
    pub host_root: PathBuf,
    /// The folder of CNI configurations; without it, the runtime's own configuration says which.
    pub cni_conf_dir: Option<PathBuf>,
    /// The folder of CNI plugins; without it, the runtime's own configuration says which.
    pub cni_bin_dir: Option<PathBuf>,
    /// The plugin's binary to place, not below `host_root`.
    pub plugin: Option<PathBuf>,
    /// The folder of attachment records and sockets.
    pub state_dir: PathBuf,
    /// The container runtime's CRI socket; without it, the first that is there of those that runtimes use.
    pub runtime_socket: Option<PathBuf>,
}
