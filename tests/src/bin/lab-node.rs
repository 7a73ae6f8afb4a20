// SPDX-License-Identifier: Apache-2.0
//! Holds the namespaces in which a container runtime runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    culvert_tests::runtime::init::play(std::env::args_os().skip(1).collect())
}
