// SPDX-License-Identifier: Apache-2.0
//! One module a command.

pub mod agent;
pub mod await_uninstall;
pub mod doctor;
pub mod explain;
pub mod redirect;
pub mod settings;
pub mod status;
pub mod table;
pub mod uninstall;

use crate::Exit;

/// What a command has to say, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For stdout.
    pub out: String,
    /// For stderr.
    pub err: String,
    /// The exit code.
    pub exit: Exit,
}

impl Answer {
    /// An answer without a complaint.
    pub fn said(out: impl Into<String>, exit: Exit) -> Self {
        Self { out: out.into(), err: String::new(), exit }
    }

    /// A complaint instead of an answer.
    pub fn refused(error: &impl std::fmt::Display, exit: Exit) -> Self {
        Self { out: String::new(), err: format!("culvert-install: {error}\n"), exit }
    }

    /// The same with `lines` on stderr, each with what `kind` of line it is.
    pub fn with(mut self, kind: &str, lines: &[String]) -> Self {
        self.err.extend(lines.iter().map(|line| format!("culvert-install: {kind}: {line}\n")));
        self
    }
}
