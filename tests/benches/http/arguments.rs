//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::load::Load;

/// The loads of a run, how often and how long.
#[derive(Debug)]
pub(crate) struct Plan {
    pub loads: Vec<Load>,
    pub rounds: usize,
    pub lasting: Duration,
}

/// The kind of a run.
#[derive(Debug)]
pub(crate) enum Arguments {
    Loads(Plan),
    Instructions { binaries: [PathBuf; 2], rounds: usize },
}

impl Arguments {
    /// Reads them; cargo adds `--bench`.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let (mut rounds, mut seconds, mut names) = (3, 2, Vec::new());
        for argument in arguments.filter(|argument| argument != "--bench") {
            let number =
                |text: &str| text.parse::<u64>().with_context(|| format!("{argument}: not a number"));
            if let Some(text) = argument.strip_prefix("rounds=") {
                rounds = number(text)?.max(1);
            } else if let Some(text) = argument.strip_prefix("seconds=") {
                seconds = number(text)?.max(1);
            } else {
                names.push(argument);
            }
        }
        let rounds = usize::try_from(rounds)?;
        if names.first().is_some_and(|name| name == "instructions") {
            let Ok([_, a, b]) = <[String; 3]>::try_from(names) else {
                bail!("`instructions` takes two programs: the sidecar before and after a change");
            };
            return Ok(Self::Instructions { binaries: [a.into(), b.into()], rounds });
        }
        let loads =
            Load::all().into_iter().filter(|load| names.is_empty() || names.iter().any(|n| n == load.name));
        let loads: Vec<_> = loads.collect();
        let unknown = names.iter().find(|name| loads.iter().all(|load| load.name != **name));
        let known = || Load::all().iter().map(|load| load.name).collect::<Vec<_>>().join(", ");
        ensure!(unknown.is_none(), "no load {}: {}", unknown.map_or("", String::as_str), known());
        Ok(Self::Loads(Plan { loads, rounds, lasting: Duration::from_secs(seconds) }))
    }
}
