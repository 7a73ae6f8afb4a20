// SPDX-License-Identifier: Apache-2.0
//! Stands in for a CNI plugin: notes the call, then becomes the plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    culvert_tests::runtime::record::play()
}
