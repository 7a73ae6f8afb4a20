// SPDX-License-Identifier: Apache-2.0
//! Command line of `explain`. `settings` comes last: its options bring a heading of their own, which clap would apply
//! to all that follows.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::annotations::Settings;
use super::shared::Output;

/// Examples below `explain --help`.
const EXPLAIN_EXAMPLES: &str = "\
Examples:
  kubectl get pod web -o jsonpath='{.metadata.annotations}' | culvert-install explain --annotations /dev/stdin
  culvert-install explain --annotations web.yaml --conflist /etc/cni/net.d/10-calico.conflist
  culvert-install explain --redirect-dns all --exclude-outbound-ports 5432

Exit codes: 0 explained; 1 a file cannot be read; 64 a setting that cannot be followed, every one named.";

/// Options of `explain`.
#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub(crate) struct ExplainArgs {
    /// Conflist of the node, whose culvert-cni entry holds the defaults (`redirect`) and the `locked` keys
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub conflist: Option<PathBuf>,
    /// Format of the answer
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Settings of the pod.
    #[command(flatten)]
    pub settings: Settings,
}
