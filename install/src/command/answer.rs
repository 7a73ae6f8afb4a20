// SPDX-License-Identifier: Apache-2.0
//! What a command hands to its caller.

use std::process::ExitCode;

/// What a command has to say, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// For stdout.
    pub out: String,
    /// For stderr.
    pub err: String,
    /// The exit code.
    pub exit: Exit,
}

impl Answer {
    /// An answer without a complaint.
    pub(crate) fn said(out: impl Into<String>, exit: Exit) -> Self {
        Self { out: out.into(), err: String::new(), exit }
    }

    /// A complaint instead of an answer.
    pub(crate) fn refused(error: &impl std::fmt::Display, exit: Exit) -> Self {
        Self { out: String::new(), err: format!("culvert-install: {error}\n"), exit }
    }

    /// The same with `lines` on stderr, each with what `kind` of line it is.
    pub(crate) fn with(mut self, kind: &str, lines: &[String]) -> Self {
        self.err.extend(lines.iter().map(|line| format!("culvert-install: {kind}: {line}\n")));
        self
    }
}

/// How a run ended, as the exit codes of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well: 0.
    Well,
    /// The command ran, and something on the node needs attention: 1.
    Attention,
    /// The command line cannot be acted on: 64, `EX_USAGE` of sysexits.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Well => Self::SUCCESS,
            Exit::Attention => Self::from(1),
            Exit::Usage => Self::from(64),
        }
    }
}

/// Whether the text output may carry colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// A person looks at it.
    Terminal,
    /// A file, a pipe, or `NO_COLOR`.
    Plain,
}
