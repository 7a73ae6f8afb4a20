// SPDX-License-Identifier: Apache-2.0
//! Command line of `await-uninstall`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::shared::time;
use crate::kube::http::SERVICE_ACCOUNT;

/// Examples below `await-uninstall --help`.
const EXAMPLES: &str = "\
Examples:
  culvert-install await-uninstall --namespace culvert-system --daemonset culvert-uninstall
  culvert-install await-uninstall --namespace culvert-system --daemonset culvert-uninstall --unreachable fail
  culvert-install await-uninstall --policies 5s

It runs in a pod whose service account may get that DaemonSet and list the pods of its namespace, as the chart's pre-delete
hook sets it up. On a single node, `culvert-install uninstall` does it all and ends when it is done.

Exit codes: 0 every node is done, but for those that may be skipped; 1 some are not, each named; 64 bad usage.";

/// Options of `await-uninstall`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AwaitUninstallArgs {
    /// Namespace of the DaemonSet
    #[arg(long, value_name = "NAME", required_unless_present = "policies")]
    pub namespace: Option<String>,
    /// DaemonSet whose pods run `culvert-install uninstall`
    #[arg(long, value_name = "NAME", required_unless_present = "policies")]
    pub daemonset: Option<String>,
    /// Wait for no nodes, but this time: until every API server has taken up that a binding of admission policies went
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["namespace", "daemonset", "timeout", "unreachable_after", "unreachable", "service_account"])]
    pub policies: Option<Duration>,
    /// Longest wait for all nodes together
    #[arg(long, value_name = "TIME", default_value = "240s", value_parser = time)]
    pub timeout: Duration,
    /// Longest wait until a node starts the work; a node that is down never does
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    pub unreachable_after: Duration,
    /// Treatment of nodes that do not start the work
    #[arg(long, value_enum, default_value_t = Unreachable::Skip)]
    pub unreachable: Unreachable,
    /// Folder with the token and the CA for the API server, whose address is in KUBERNETES_SERVICE_HOST and _PORT
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT, value_hint = ValueHint::DirPath)]
    pub service_account: PathBuf,
}

/// Treatment of nodes that do not start the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Unreachable {
    /// Name them and exit with 0
    Skip,
    /// Name them and exit with 1
    Fail,
}
