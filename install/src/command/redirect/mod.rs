// SPDX-License-Identifier: Apache-2.0
//! `culvert-install redirect`: the plugin's engine without a runtime.

pub(crate) mod apply;
pub(crate) mod record;
pub(crate) mod remove;
pub(crate) mod rules;
pub(crate) mod show;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use culvert_cni::redirect::RedirectError;
use culvert_cni::redirect::owner::Owner;

use crate::cli::redirect::{RedirectArgs, RedirectCommand};
use crate::command::answer::Answer;
use crate::command::answer::Exit;
use crate::command::settings;
use crate::probe::place::PlaceError;

use self::record::RecordError;

/// Owner's mark in rules that this command writes.
fn own() -> Owner {
    Owner::new("culvert-install", "redirect")
}

/// Note for every case in which the SSH port stays out.
const SSH_KEPT_OUT: &str = "port 22 stays out of the inbound redirect, so that SSH goes on: --exclude-inbound-ports says \
                            otherwise ('' for no port)";

/// Reasons why `redirect` did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedirectRefusal {
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The kernel or the engine refused.
    #[error("{error}{}", hint(error))]
    Redirect { error: RedirectError },
    /// The sockets of the namespace cannot be read.
    #[error("cannot read the sockets of {place} from /proc: {source}")]
    Sockets { place: String, source: std::io::Error },
    /// No program would accept the redirected connections.
    #[error(
        "nobody listens on {} in {place}: redirected connections would be refused. Start the sidecar first, name its ports \
         by the options, or say --force where it starts later (an init container)",
        ports.join(", ")
    )]
    NobodyListens {
        /// The ports, each with its setting.
        ports: Vec<String>,
        place: String,
    },
    /// The rules have another owner.
    #[error(
        "the redirect in {place} belongs to {owner}: it would miss it. Say --force to go on all the same"
    )]
    Anothers { owner: String, place: String },
    /// `show` cannot write this for iptables.
    #[error("closed-ports is refuse, which iptables cannot: --format nft or words")]
    NotForIptables,
}

impl From<RedirectError> for RedirectRefusal {
    fn from(error: RedirectError) -> Self {
        Self::Redirect { error }
    }
}

impl RedirectRefusal {
    /// 64 if the command line must change, 1 if the machine must.
    const fn exit(&self) -> Exit {
        match self {
            Self::Settings(refusal) => refusal.exit(),
            Self::NotForIptables => Exit::Usage,
            Self::Place(error) if error.is_usage() => Exit::Usage,
            Self::Place(_)
            | Self::Record(_)
            | Self::Redirect { .. }
            | Self::Sockets { .. }
            | Self::NobodyListens { .. }
            | Self::Anothers { .. } => Exit::Attention,
        }
    }
}

/// A hint for containers: the runtime mounts /proc/sys read-only there.
fn hint(error: &RedirectError) -> &'static str {
    match error {
        RedirectError::Sysctl(_) if is_read_only("/proc/sys") => {
            "; or in a container that may write /proc/sys (securityContext.privileged), or with these sysctls set by the \
             pod's securityContext.sysctls"
        }
        _ => "",
    }
}

fn is_read_only(path: &str) -> bool {
    use nix::sys::statvfs::{FsFlags, statvfs};
    statvfs(path).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY))
}

/// Runs one of the four verbs.
pub(crate) fn run(args: &RedirectArgs) -> Answer {
    let RedirectArgs { command } = args;
    let answer = match command {
        RedirectCommand::Show(args) => show::run(args),
        RedirectCommand::Apply(args) => apply::run(args),
        RedirectCommand::Verify(args) => verify::run(args),
        RedirectCommand::Remove(args) => remove::run(args),
    };
    answer.unwrap_or_else(|refusal| Answer::refused(&refusal, refusal.exit()))
}
