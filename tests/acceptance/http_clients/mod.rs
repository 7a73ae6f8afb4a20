//! Clients of HTTP as they are in use, through the sidecar on both ways and over both families: each gets its answers, and no
//! server loses a request.

pub(crate) mod browser;
mod curl;
mod drain;
pub(crate) mod grpc;
mod loads;
mod node;
pub(crate) mod origin;
mod race;
mod reload;
mod scripts;
mod websocket;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::process::{Process, describe, lab_exec};
use culvert_tests::{Actor, Family};

use crate::http_ports::{Way, World};
use crate::support::APP;

/// The longest that a client may take, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Each way in each family, with a world of its own for the family.
fn everywhere(mut check: impl FnMut(&World, Way) -> Result<()>) -> Result<()> {
    for family in Family::BOTH {
        let world = World::of(family)?;
        let _sidecar = world.sidecar(&[])?;
        for way in Way::ALL {
            check(&world, way).with_context(|| format!("{way:?}, {family}"))?;
        }
    }
    Ok(())
}

/// A program of PATH.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no {name} in PATH: tests/run installs it"))
}

/// Starts a program where an actor is, as an application.
fn start<S: AsRef<str>>(actor: Actor<'_>, program: &Path, arguments: &[S]) -> Result<Process> {
    let mut command = lab_exec::command(actor.host().namespace(), APP, None, program)?;
    command.args(arguments.iter().map(AsRef::as_ref)).env_clear();
    Process::start(command)
}

/// Runs a client to its good end, and returns all it said.
pub(crate) fn finishes<S: AsRef<str>>(actor: Actor<'_>, program: &Path, arguments: &[S]) -> Result<String> {
    let mut process = start(actor, program, arguments)?;
    let ended = process.wait(PATIENCE);
    let said = format!("{}\n{}", process.stdout().text(), process.stderr().text());
    let status = ended.with_context(|| format!("{} said {said}", program.display()))?;
    ensure!(status.success(), "{}: {}: {said}", program.display(), describe(status));
    Ok(said)
}
