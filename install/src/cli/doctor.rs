// SPDX-License-Identifier: Apache-2.0
//! Command line of `doctor`.

use clap::Args;

use super::shared::{Output, PathArgs};

/// Text below `doctor --help`.
const DOCTOR_AFTER: &str = "\
Examples:
  culvert-install doctor
  culvert-install doctor --host-root /host --output json

Exit codes: 0 all is well; 1 something needs attention; 64 bad usage.";

/// Options of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_AFTER)]
pub(crate) struct DoctorArgs {
    /// Paths of the node.
    #[command(flatten)]
    pub paths: PathArgs,
    /// Format of the answer
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}
