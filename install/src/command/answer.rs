// SPDX-License-Identifier: Apache-2.0
//! The answer of a command to its caller.

use std::process::ExitCode;

/// Output and exit code of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub out: String,
    pub err: String,
    pub exit: Exit,
}

impl Answer {
    /// An answer on stdout.
    pub(crate) fn said(out: impl Into<String>, exit: Exit) -> Self {
        Self { out: out.into(), err: String::new(), exit }
    }

    /// An error on stderr.
    pub(crate) fn refused(error: &impl std::fmt::Display, exit: Exit) -> Self {
        Self { out: String::new(), err: format!("culvert-install: {error}\n"), exit }
    }

    /// Adds `lines` to stderr, each with the word `kind` in front.
    pub(crate) fn with(mut self, kind: &str, lines: &[String]) -> Self {
        self.err.extend(lines.iter().map(|line| format!("culvert-install: {kind}: {line}\n")));
        self
    }
}

/// End of a run, as an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well: 0.
    Well,
    /// The command ran, and the node needs attention: 1.
    Attention,
    /// The command line is wrong: 64, `EX_USAGE` of sysexits.
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

/// Colour of the text output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Stdout is a terminal.
    Terminal,
    /// Stdout is a file or a pipe, or `NO_COLOR` is set.
    Plain,
}
