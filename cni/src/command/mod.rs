// SPDX-License-Identifier: Apache-2.0
//! The verbs, one file each, and the one place where errors become CNI codes.

mod add;
mod del;
mod input;

use std::io::{self, Write};

use cni_plugin::Command;

use crate::netns::NetnsError;
use crate::pod::DecisionError;
use crate::protocol::{
    Attachment, CniVersion, Code, EnvironmentError, Failure, NetConf, Strings, Verb, error_reply,
    version_reply,
};
use crate::redirect::RedirectError;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The environment is wrong.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// stdin could not be read.
    #[error("cannot read the configuration from stdin: {0}")]
    Stdin(io::Error),
    /// The configuration is wrong; it already has its code.
    #[error("{}", .0.message)]
    Configuration(Failure),
    /// No decision about the pod.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// The namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The rules could not be applied.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// A verb of the contract that is still to come.
    #[error("{0} is not built yet in this version of culvert-cni")]
    NotBuilt(&'static str),
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let code = match &error {
            CommandError::Configuration(failure) => return failure.clone(),
            CommandError::Environment(_) => Code::Environment,
            CommandError::Stdin(_) => Code::Io,
            CommandError::Decision(DecisionError::Settings(_)) => Code::Config,
            CommandError::Decision(DecisionError::Unknown) => Code::TryAgain,
            CommandError::Netns(NetnsError::TimedOut { .. } | NetnsError::Thread(_)) => Code::TryAgain,
            CommandError::Netns(
                NetnsError::Open { .. }
                | NetnsError::NotANamespace(_)
                | NetnsError::Host(_)
                | NetnsError::Enter { .. },
            ) => Code::Netns,
            CommandError::Redirect(_) => Code::Rules,
            CommandError::NotBuilt(_) => Code::Environment,
        };
        Self::new(code, error.to_string())
    }
}

/// Carry out one invocation: the document for stdout (nothing for a DEL that went well) and the exit status.
///
/// `stdin` is read only as far as the verb needs it. A panic inside is a [`Code::Bug`].
pub fn run(env: &impl Strings, stdin: io::Stdin) -> (Vec<u8>, u8) {
    let mut version = CniVersion::NEWEST;
    let guarded = std::panic::AssertUnwindSafe(|| dispatch(env, stdin, &mut version));
    let outcome = std::panic::catch_unwind(guarded).unwrap_or_else(|_| {
        Err(Failure::new(
            Code::Bug,
            "culvert-cni panicked, a bug of ours: its stderr says where; please report it",
        ))
    });
    match outcome {
        Ok(document) => (document, 0),
        Err(failure) => (error_reply(version, &failure), 1),
    }
}

fn dispatch(env: &impl Strings, stdin: io::Stdin, version: &mut CniVersion) -> Result<Vec<u8>, Failure> {
    let verb = Verb::from_environment(env).map_err(CommandError::from)?;
    let Verb::Classic(command) = verb else { return Err(CommandError::NotBuilt(verb.as_str()).into()) };
    match command {
        Command::Version => Ok(version_reply(input::version(&stdin).unwrap_or(CniVersion::NEWEST))),
        Command::Check => Err(CommandError::NotBuilt(verb.as_str()).into()),
        Command::Add => {
            let attachment = Attachment::from_environment(env, true).map_err(CommandError::from)?;
            let bytes = input::all(&stdin).map_err(CommandError::Stdin)?;
            let conf = parse(&bytes, version)?;
            add::add(&attachment, &conf)
        }
        Command::Del => {
            let attachment = Attachment::from_environment(env, false).map_err(CommandError::from)?;
            let bytes = input::all(&stdin).map_err(CommandError::Stdin)?;
            let conf = parse(&bytes, version)?;
            del::del(&attachment, &conf);
            Ok(Vec::new())
        }
    }
}

/// Parse the configuration and remember its version, so that an error is told in it.
fn parse<'a>(bytes: &'a [u8], version: &mut CniVersion) -> Result<NetConf<'a>, Failure> {
    let conf = NetConf::parse(bytes)?;
    *version = conf.version;
    Ok(conf)
}

/// Write the document in one piece. stdout may be closed: then nobody is there to be told.
pub fn print(document: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(document).and_then(|()| stdout.flush());
}
