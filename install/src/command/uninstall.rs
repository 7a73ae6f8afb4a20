// SPDX-License-Identifier: Apache-2.0
//! `culvert-install uninstall`: takes the entry and the plugin off this node.

use super::Answer;
use crate::Exit;
use crate::cli::agent::UninstallArgs;
use crate::node::layout;
use crate::node::leave::{self, Left, Stub};

/// Goes.
pub fn run(args: &UninstallArgs) -> Answer {
    let UninstallArgs { paths, now } = args;
    let layout = match layout::discover(paths) {
        Ok(layout) => layout,
        Err(refusal) => return Answer::refused(&refusal, Exit::Usage),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Answer::refused(&error, Exit::Attention),
    };
    let stub = if *now { Stub::Goes } else { Stub::Stays };
    let Left { done, problems } = runtime.block_on(leave::leave(&layout, stub));
    let exit = if problems.is_empty() { Exit::Well } else { Exit::Attention };
    let out: String = done.iter().map(|line| format!("{line}\n")).collect();
    Answer::said(out, exit).with("not done", &problems)
}
