// SPDX-License-Identifier: Apache-2.0
//! The CNI plugin `culvert-cni`: see the library's documentation, and README.md beside this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    let (document, status) = culvert_cni::command::run(&environment, std::io::stdin());
    culvert_cni::command::print(&document);
    ExitCode::from(status)
}
