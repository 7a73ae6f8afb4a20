// SPDX-License-Identifier: Apache-2.0
//! Options that several commands have.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use crate::host::paths::Paths;

/// Where things are on the node. All but `--host-root` and `--plugin` lie below it.
#[derive(Debug, Clone, Args)]
pub(crate) struct PathArgs {
    /// Where the node's file system is mounted
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub host_root: PathBuf,
    /// The folder of CNI configurations [default: as the runtime's own configuration says, else /etc/cni/net.d]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cni_conf_dir: Option<PathBuf>,
    /// The folder of CNI plugins [default: as the runtime's own configuration says, else /opt/cni/bin]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cni_bin_dir: Option<PathBuf>,
    /// The plugin's binary to place, not below --host-root [default: culvert-cni beside culvert-install]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plugin: Option<PathBuf>,
    /// The folder of attachment records and sockets
    #[arg(long, value_name = "DIR", default_value = "/run/culvert", value_hint = ValueHint::DirPath)]
    pub state_dir: PathBuf,
    /// The container runtime's CRI socket [default: the first that is there of those that runtimes use]
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub runtime_socket: Option<PathBuf>,
}

impl From<PathArgs> for Paths {
    fn from(args: PathArgs) -> Self {
        let PathArgs { host_root, cni_conf_dir, cni_bin_dir, plugin, state_dir, runtime_socket } = args;
        Self { host_root, cni_conf_dir, cni_bin_dir, plugin, state_dir, runtime_socket }
    }
}

/// Who reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table for a person
    Text,
    /// One JSON document with stable keys
    Json,
}
