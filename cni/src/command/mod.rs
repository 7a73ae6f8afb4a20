// SPDX-License-Identifier: Apache-2.0
//! The verbs, one file each, and the one place where errors become CNI codes.

mod add;
mod check;
mod del;
mod gc;
mod input;
mod status;

use std::io::{self, Write};
use std::time::Duration;

use cni_plugin::Command;

use crate::netns::NetnsError;
use crate::pod::DecisionError;
use crate::protocol::{
    Attachment, CniVersion, Code, EnvironmentError, Failure, NetConf, Strings, Verb, error_reply,
    version_reply,
};
use crate::redirect::RedirectError;
use crate::retired;

/// How long the work in a namespace may take: the contract's 5 s for an answer, less what reading stdin may.
const WORK_WITHIN: Duration = Duration::from_secs(3);

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The environment is wrong.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// stdin could not be read.
    #[error("cannot read the configuration from stdin: {0}")]
    Stdin(io::Error),
    /// No decision about the pod.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// The namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The rules could not be applied.
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
    if let Verb::Classic(Command::Version) = verb {
        return Ok(version_reply(input::version(&stdin).unwrap_or(CniVersion::NEWEST)));
    }
    // DEL comes without a namespace where the sandbox is gone; GC and STATUS are about no attachment.
    let attachment = match verb {
        Verb::Classic(Command::Del) => Some(Attachment::from_environment(env, false)),
        Verb::Classic(_) => Some(Attachment::from_environment(env, true)),
        Verb::Gc | Verb::Status => None,
    };
    let attachment = attachment.transpose().map_err(CommandError::from)?;
    let bytes = input::all(&stdin).map_err(CommandError::Stdin)?;
    // What is wrong with the rest is told in the runtime's version, too.
    *version = NetConf::version_of(&bytes).unwrap_or(*version);
    let conf = NetConf::parse(&bytes)?;

    let is_retired = retired::own_note().is_some();
    match (verb, attachment) {
        (Verb::Classic(Command::Add), Some(attachment)) if is_retired => {
            return add::pass_through(&attachment, &conf);
        }
        (Verb::Classic(Command::Add), Some(attachment)) => return add::add(&attachment, &conf),
        (Verb::Classic(Command::Check), Some(_)) | (Verb::Status, _) if is_retired => {}
        (Verb::Classic(Command::Check), Some(attachment)) => check::check(&attachment, &conf)?,
        (Verb::Classic(Command::Del), Some(attachment)) => {
            del::del(&attachment, &conf);
            if is_retired {
                retired::leave_after(&attachment.container_id);
            }
        }
        (Verb::Gc, _) => gc::gc(&conf)?,
        (Verb::Status, _) => status::status(&conf)?,
        (Verb::Classic(_), _) => {}
    }
    Ok(Vec::new())
}

/// `namespace/name` of the pod; podman says only a name, and others say nothing.
fn pod_name(attachment: &Attachment) -> Option<String> {
    let name = attachment.args.pod_name.as_deref()?;
    Some(match attachment.args.pod_namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    })
}

/// Write the document in one piece. stdout may be closed: then nobody is there to be told.
pub fn print(document: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(document).and_then(|()| stdout.flush());
}
