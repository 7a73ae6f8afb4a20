// SPDX-License-Identifier: Apache-2.0
//! The CNI plugin `culvert-cni`: see the library's documentation, and README.md beside this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Started by an earlier process of our own; a runtime gives no argument.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == culvert_cni::retired::RETIRE) {
        culvert_cni::retired::wait_and_go();
        return ExitCode::SUCCESS;
    }
    let environment = |name: &str| std::env::var(name).ok();
    let (document, status) = culvert_cni::command::run(&environment, std::io::stdin());
    culvert_cni::command::print(&document);
    ExitCode::from(status)
}
