//! A server and a client of another language, both in one script.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use culvert_tests::process::Process;

use super::{PATIENCE, finishes, start};
use crate::http_ports::{Way, World};

/// A script with the program that runs it. Its arguments are a role, and an address with a port.
#[derive(Debug)]
pub(super) struct Script {
    pub program: PathBuf,
    pub name: &'static str,
    pub text: &'static str,
}

impl Script {
    fn file(&self, world: &World) -> Result<String> {
        let file = world.lab.folder().join(self.name);
        fs::write(&file, self.text)?;
        Ok(file.display().to_string())
    }

    /// Starts the server of a role, and waits until it listens.
    pub(super) fn serve(&self, world: &World, way: Way, role: &str) -> Result<Process> {
        let (actor, at) = world.place(way);
        let arguments = [self.file(world)?, role.to_owned(), at.ip().to_string(), at.port().to_string()];
        let process = start(actor, &self.program, &arguments)?;
        let listens = process.stdout().wait_for(PATIENCE, |line| (line == "listening").then_some(()));
        listens.with_context(|| format!("{} does not listen: {}", self.name, process.stderr().text()))?;
        Ok(process)
    }

    /// Runs the client of a role, which fails where an answer is not the expected one.
    pub(super) fn ask(&self, world: &World, way: Way, role: &str) -> Result<()> {
        let arguments = [self.file(world)?, role.to_owned(), world.url(way)];
        finishes(world.client(way), &self.program, &arguments).map(|_| ())
    }
}
