// SPDX-License-Identifier: Apache-2.0
//! `culvert-install uninstall`: removes the entry and the plugin from this node.

use super::answer::Answer;
use crate::cli::agent::UninstallArgs;
use crate::command::answer::Exit;
use crate::host::layout;
use crate::host::uninstall::{Removal, UninstallReport, uninstall};

pub(crate) fn run(args: &UninstallArgs) -> Answer {
    let UninstallArgs { paths, now } = args;
    let layout = match layout::discover(&paths.clone().into()) {
        Ok(layout) => layout,
        Err(refusal) => return Answer::refused(&refusal, Exit::Usage),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Answer::refused(&error, Exit::Attention),
    };
    let removal = if *now { Removal::Now } else { Removal::AfterLastPod };
    let UninstallReport { done, problems } = runtime.block_on(uninstall(&layout, removal));
    let exit = if problems.is_empty() { Exit::Well } else { Exit::Attention };
    let out: String = done.iter().map(|line| format!("{line}\n")).collect();
    Answer::said(out, exit).with("not done", &problems)
}
