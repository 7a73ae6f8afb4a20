// SPDX-License-Identifier: Apache-2.0
//! Records the calls of a runtime: a program in a plugin's place that notes the call and becomes the plugin.
//!
//! ```text
//! FOLDER/bin/bridge ─▶ FOLDER/lab-record       started under the plugin's path, by which it knows the rest
//! FOLDER/recorded/bridge                       the plugin, which it becomes: same process, same environment
//! FOLDER/calls                                 a line of JSON for each call, in the order of their beginnings
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

/// Its name beside the program that runs the tests.
const NAME: &str = "lab-record";
const CALLS: &str = "calls";
const PLUGINS: &str = "recorded";

/// The folder that runtimes take plugins from.
pub(crate) const BIN: &str = "bin";

/// The helper's `main`. Returns only if something went wrong.
pub fn play() -> ExitCode {
    let Err(error) = become_plugin();
    // What a runtime shows its user.
    println!("{}", json!({ "cniVersion": "1.0.0", "code": 999, "msg": format!("{NAME}: {error:#}") }));
    ExitCode::FAILURE
}

fn become_plugin() -> Result<Infallible> {
    let this: PathBuf = env::args_os().next().context("started without a name")?.into();
    let (folder, plugin) = this
        .parent()
        .and_then(Path::parent)
        .zip(this.file_name())
        .ok_or_else(|| anyhow!("started as {}, not by a path", this.display()))?;

    let mut stdin = Vec::new();
    std::io::stdin().read_to_end(&mut stdin)?;
    let environment: BTreeMap<String, String> = env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with("CNI_"))?;
            Some((name, value.to_string_lossy().into_owned()))
        })
        .collect();
    let mut line = json!({
        "plugin": plugin.to_string_lossy(),
        "environment": environment,
        "stdin": String::from_utf8_lossy(&stdin),
    })
    .to_string();
    line.push('\n');
    // One write: plugins of many pods run at once.
    OpenOptions::new().append(true).create(true).open(folder.join(CALLS))?.write_all(line.as_bytes())?;

    let mut again = tempfile::tempfile()?;
    again.write_all(&stdin)?;
    again.rewind()?;
    let real = folder.join(PLUGINS).join(plugin);
    Err(Command::new(&real).stdin(again).exec()).with_context(|| format!("cannot become {}", real.display()))
}

/// The plugins of a world, each behind a recorder.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
}

impl Recorder {
    /// Puts plugins, by the paths of their programs, behind recorders in `folder`.
    pub(crate) fn install(folder: &Path, plugins: &[PathBuf]) -> Result<Self> {
        let this = folder.join(NAME);
        fs::copy(crate::process::lab_exec::beside_current_program(NAME)?, &this)?;
        fs::create_dir(folder.join(BIN))?;
        fs::create_dir(folder.join(PLUGINS))?;
        for plugin in plugins {
            let name = plugin.file_name().with_context(|| format!("{}: no file", plugin.display()))?;
            // A copy: where it comes from may be hidden in the world.
            fs::copy(plugin, folder.join(PLUGINS).join(name))
                .with_context(|| format!("cannot copy {}", plugin.display()))?;
            symlink(&this, folder.join(BIN).join(name))?;
        }
        Ok(Self { folder: folder.into() })
    }

    /// Puts plugins themselves into `folder`: nothing is recorded.
    pub(crate) fn none(folder: &Path, plugins: &[PathBuf]) -> Result<Self> {
        fs::create_dir(folder.join(BIN))?;
        for plugin in plugins {
            let name = plugin.file_name().with_context(|| format!("{}: no file", plugin.display()))?;
            symlink(plugin, folder.join(BIN).join(name))?;
        }
        Ok(Self { folder: folder.into() })
    }

    /// All calls so far.
    pub fn calls(&self) -> Result<Vec<Call>> {
        let text = match fs::read_to_string(self.folder.join(CALLS)) {
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            other => other?,
        };
        text.lines().map(Call::parse).collect()
    }
}

/// One call of a plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The plugin's type, as the conflist names it.
    pub plugin: String,
    /// Every variable whose name begins with `CNI_`.
    pub environment: BTreeMap<String, String>,
    /// The configuration; `null` where nothing came.
    pub config: Value,
}

impl Call {
    fn parse(line: &str) -> Result<Self> {
        let call: Value = serde_json::from_str(line).with_context(|| format!("no call: {line}"))?;
        let environment = call["environment"].as_object().into_iter().flatten();
        let stdin = call["stdin"].as_str().unwrap_or_default();
        Ok(Self {
            plugin: call["plugin"].as_str().unwrap_or_default().to_owned(),
            environment: environment
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            config: if stdin.is_empty() { Value::Null } else { serde_json::from_str(stdin)? },
        })
    }

    /// A variable; empty where it was not set.
    pub fn variable(&self, name: &str) -> &str {
        self.environment.get(name).map_or("", String::as_str)
    }

    /// `ADD`, `DEL`, `VERSION`.
    pub fn verb(&self) -> &str {
        self.variable("CNI_COMMAND")
    }

    /// A part of `CNI_ARGS`.
    pub fn argument(&self, name: &str) -> Option<&str> {
        let arguments = self.variable("CNI_ARGS").split(';');
        arguments
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(found, value)| (found == name).then_some(value))
    }
}

/// A row of a table: who was called, for what, with what.
impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let there = |value: &Value| if value.is_null() { "-" } else { "yes" };
        let runtime = &self.config["runtimeConfig"];
        write!(
            f,
            "{:<12} {:<8} {:<8} netns={:<6} ifname={:<10} pod={:<10} cniVersion={:<6} prevResult={:<4} runtimeConfig={}",
            self.plugin,
            self.verb(),
            self.variable("CNI_CONTAINERID").chars().take(8).collect::<String>(),
            if self.variable("CNI_NETNS").is_empty() { "empty" } else { "given" },
            self.variable("CNI_IFNAME"),
            self.argument("K8S_POD_NAME").unwrap_or("-"),
            self.config["cniVersion"].as_str().unwrap_or("-"),
            there(&self.config["prevResult"]),
            if runtime.is_null() { "-".to_owned() } else { runtime.to_string() },
        )
    }
}
