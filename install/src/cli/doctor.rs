// SPDX-License-Identifier: Apache-2.0
//! The command line of `doctor`.

use clap::Args;

use super::shared::{Output, PathArgs};

/// What stands below `doctor --help`.
const DOCTOR_AFTER: &str = "\
Examples:
  culvert-install doctor
  culvert-install doctor --host-root /host --output json

Exit codes: 0 all is well; 1 something needs attention; 64 bad usage.";

/// Options of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_AFTER)]
pub(crate) struct DoctorArgs {
    /// Where things are on the node.
    #[command(flatten)]
    pub paths: PathArgs,
    /// For a person or for a program
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}
