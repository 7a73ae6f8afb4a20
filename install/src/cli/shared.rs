// SPDX-License-Identifier: Apache-2.0
//! Options that several commands have.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use crate::host::paths::Paths;

/// Paths of the node. All but `--host-root` and `--plugin` lie below the host root.
#[derive(Debug, Clone, Args)]
pub(crate) struct PathArgs {
    /// Mount point of the node's file system
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub host_root: PathBuf,
    /// Folder of CNI configurations [default: from the runtime's own configuration, else /etc/cni/net.d]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cni_conf_dir: Option<PathBuf>,
    /// Folder of CNI plugins [default: from the runtime's own configuration, else /opt/cni/bin]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cni_bin_dir: Option<PathBuf>,
    /// Binary of the plugin to place, not below --host-root [default: culvert-cni beside culvert-install]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plugin: Option<PathBuf>,
    /// Folder of attachment records and sockets
    #[arg(long, value_name = "DIR", default_value = "/run/culvert", value_hint = ValueHint::DirPath)]
    pub state_dir: PathBuf,
    /// CRI socket of the container runtime [default: the first existing one of those that runtimes use]
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub runtime_socket: Option<PathBuf>,
}

impl From<PathArgs> for Paths {
    fn from(args: PathArgs) -> Self {
        let PathArgs { host_root, cni_conf_dir, cni_bin_dir, plugin, state_dir, runtime_socket } = args;
        Self { host_root, cni_conf_dir, cni_bin_dir, plugin, state_dir, runtime_socket }
    }
}

/// Format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Table for people
    Text,
    /// One JSON document with stable keys
    Json,
}
