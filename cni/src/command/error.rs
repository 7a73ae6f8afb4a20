// SPDX-License-Identifier: Apache-2.0
//! Errors of a verb, and the one place where they become CNI codes.

use std::io;

use crate::netns::NetnsError;
use crate::pod::DecisionError;
use crate::protocol::{Code, EnvironmentError, Failure};
use crate::redirect::RedirectError;

/// A verb that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// A variable in the environment is missing or malformed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// stdin cannot be read to its end.
    #[error("cannot read the configuration from stdin: {0}")]
    Stdin(io::Error),
    /// No decision about the pod is possible.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// The network namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The rules cannot be applied or read.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let code = match &error {
            CommandError::Environment(_) => Code::Environment,
            CommandError::Stdin(_) => Code::Io,
            CommandError::Decision(DecisionError::Settings(_)) => Code::Config,
            CommandError::Decision(DecisionError::Unknown(_)) => Code::TryAgain,
            CommandError::Netns(NetnsError::TimedOut { .. } | NetnsError::Thread(_)) => Code::TryAgain,
            CommandError::Netns(
                NetnsError::Open { .. }
                | NetnsError::NotANamespace(_)
                | NetnsError::Host(_)
                | NetnsError::Enter { .. },
            ) => Code::Netns,
            CommandError::Redirect(_) => Code::Rules,
        };
        Self::new(code, error.to_string())
    }
}
