// SPDX-License-Identifier: Apache-2.0
//! Command line of `status`.

use clap::Args;

use super::shared::{Output, PathArgs};

/// Text below `status --help`.
const STATUS_AFTER: &str = "\
The agent is asked by its socket in --state-dir. Where none answers, the pods are listed from the
runtime's CRI socket (else from the attachments' records) and each is looked at once, which changes
nothing.

Examples:
  culvert-install status
  culvert-install status --host-root /host --output json

Exit codes: 0 every onboarded pod is redirected, and what each pod is is known; 1 a pod needs
attention; 64 bad usage.";

/// Options of `status`.
#[derive(Debug, Args)]
#[command(after_help = STATUS_AFTER)]
pub(crate) struct StatusArgs {
    /// Paths of the node.
    #[command(flatten)]
    pub paths: PathArgs,
    /// Not built yet: the workloads of the cluster
    #[arg(long, hide = true)]
    pub cluster: bool,
    /// Format of the answer
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}
