// SPDX-License-Identifier: Apache-2.0
//! `culvert-install agent`: runs on the node until SIGTERM.

use std::path::PathBuf;
use std::sync::Arc;

use super::answer::Answer;
use super::logging::start_logging;
use crate::agent::options::AgentOptions;
use crate::agent::{self, AgentError};
use crate::cli::agent::AgentArgs;
use crate::command::answer::Exit;
use crate::conflist::{Entry, EntryError};
use crate::host::layout::{self, LayoutError};
use crate::host::paths::Paths;
use crate::kube::Client;
use crate::system::read::read_bounded;

/// The largest file of `--entry`, in bytes.
const MAX_ENTRY: u64 = 64 << 10;

/// Reasons why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The node's layout cannot be found.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The file of the entry's keys cannot be read.
    #[error("--entry {}: {source}", path.display())]
    EntryFile {
        /// Path as given.
        path: PathBuf,
        source: std::io::Error,
    },
    /// The entry is refused, for each of these reasons.
    #[error("--entry: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n--entry: "))]
    Entry(Vec<EntryError>),
    /// The agent failed at its start.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Runs the agent until SIGTERM.
pub(crate) fn run(args: &AgentArgs) -> Answer {
    match try_run(args) {
        Ok(()) => Answer::said("", Exit::Well),
        Err(refusal @ StartError::Agent(_)) => Answer::refused(&refusal, Exit::Attention),
        Err(refusal) => Answer::refused(&refusal, Exit::Usage),
    }
}

fn try_run(args: &AgentArgs) -> Result<(), StartError> {
    let AgentArgs {
        paths,
        mode,
        position,
        entry,
        repair,
        node_name,
        hold_until_ready,
        status_address,
        service_account,
    } = args;
    let paths = Paths::from(paths.clone());
    let layout = layout::discover(&paths)?;
    let settings = entry
        .as_ref()
        .map(|path| {
            read_bounded(path, MAX_ENTRY)
                .map_err(|source| StartError::EntryFile { path: path.clone(), source })
        })
        .transpose()?;
    let entry = Entry::new(&paths.state_dir, settings.as_deref()).map_err(StartError::Entry)?;
    let options = AgentOptions {
        paths,
        mode: *mode,
        position: position.clone(),
        entry,
        repair: *repair,
        node_name: node_name.clone(),
        api_server: Client::in_cluster(service_account, |name| std::env::var(name).ok()).map(Arc::new),
        hold_until_ready: hold_until_ready.clone(),
        status_address: *status_address,
    };
    start_logging();
    Ok(agent::run(options, layout)?)
}
