// SPDX-License-Identifier: Apache-2.0
//! The verbs, one file each.

mod add;
mod budget;
mod check;
mod del;
mod error;
mod gc;
mod input;
mod report;
mod status;

use std::io::{self, Write};

use cni_plugin::Command;
use nix::sys::signal::{SigSet, Signal};

use self::error::CommandError;
use crate::protocol::{
    Attachment, CniVersion, Code, Failure, NetConf, Strings, Verb, error_reply, version_reply,
};
use crate::retired;

/// Carry out one invocation and return the document for stdout (empty after a successful DEL) and the exit status.
///
/// `stdin` is read only as far as the verb needs it. A panic inside becomes a [`Code::Bug`].
pub fn run(env: &impl Strings, stdin: io::Stdin) -> (Vec<u8>, u8) {
    survive_size_limits();
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
    // DEL comes without a network namespace if the sandbox is gone; GC and STATUS concern no attachment.
    let attachment = match verb {
        Verb::Classic(Command::Del) => Some(Attachment::from_environment(env, false)),
        Verb::Classic(_) => Some(Attachment::from_environment(env, true)),
        Verb::Gc | Verb::Status => None,
    };
    let attachment = attachment.transpose().map_err(CommandError::from)?;
    let bytes = input::all(&stdin).map_err(CommandError::Stdin)?;
    // From here on errors are written in the runtime's version.
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

/// Block SIGXFSZ, which ends a process at its first write to a file where RLIMIT_FSIZE is 0 (systemd's `LimitFSIZE=0`). The
/// write then fails, and costs a log line or a record, not the pod.
fn survive_size_limits() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // Threads inherit the mask, so this comes before the first one.
    let _ = signals.thread_block();
}

/// Write the document to stdout in one piece. An error is ignored: a closed stdout means that the runtime is gone.
pub fn print(document: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(document).and_then(|()| stdout.flush());
}
