// SPDX-License-Identifier: Apache-2.0
//! What culvert does on a node beside the plugin itself: `doctor` says whether a node can carry it, `explain` where the
//! connections of a pod land, and `redirect` runs the plugin's engine without a runtime.
//!
//! ```text
//!                               ┌─doctor──▶ probe::facts ──Facts─▶ diagnosis ─┐
//! arguments ──cli──▶ Command ───┤                                             ├──render──▶ stdout, stderr, exit code
//!                               └─explain, redirect──▶ settings ──Policy──▶ culvert-cni
//! ```
//!
//! Rooms, from top to bottom. A room imports only rooms with a lower number.
//!
//! | level | room | holds |
//! |---|---|---|
//! | 9 | `command` | one module a command |
//! | 8 | `cli` | the command line by clap, turned into the domain's types |
//! | 8 | `probe` | what `doctor` and `redirect` ask of a node |
//! | 7 | `agent` | the tasks of the node agent |
//! | 7 | `controller` | the tasks of the controller |
//! | 7 | `webhook` | the tasks of the admission webhook |
//! | 6 | `host` | the node's files: paths, runtimes, layout, binary, entry, uninstall |
//! | 5 | `conflist` | text edits of a list, pure |
//! | 5 | `inject` | decision about a pod's sidecar, and its operations, pure |
//! | 5 | `manifest` | text edits of manifests, pure |
//! | 5 | `cri` | client of the container runtime |
//! | 5 | `kube` | client of Kubernetes' API |
//! | 4 | `system` | bounded reads of files, times and metrics as text |

pub(crate) mod agent;
pub(crate) mod cli;
pub(crate) mod command;
pub(crate) mod conflist;
pub(crate) mod controller;
pub(crate) mod cri;
pub(crate) mod host;
pub(crate) mod inject;
pub mod kube;
pub(crate) mod manifest;
pub(crate) mod probe;
pub(crate) mod system;
pub(crate) mod webhook;

use std::ffi::OsString;
use std::io::{self, Write};

pub use crate::command::answer::{Colour, Exit};

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::command::answer::Answer;
use crate::command::{
    agent as agent_command, await_uninstall, controller as controller_command, doctor, explain,
    inject as inject_command, redirect, status, uninstall,
};

/// Where a run writes.
pub struct Streams<'a> {
    /// Answers.
    pub out: &'a mut dyn Write,
    /// Complaints.
    pub err: &'a mut dyn Write,
    /// Colour on `out`.
    pub colour: Colour,
}

/// Runs one command line, the program's name first.
pub fn run(args: impl IntoIterator<Item = OsString>, streams: Streams<'_>) -> Exit {
    let Streams { out, err, colour } = streams;
    let Answer { out: answer, err: complaint, exit } = match Cli::try_parse_from(args) {
        Ok(Cli { command: Command::Agent(args) }) => agent_command::run(&args),
        Ok(Cli { command: Command::Uninstall(args) }) => uninstall::run(&args),
        Ok(Cli { command: Command::AwaitUninstall(args) }) => await_uninstall::run(&args),
        Ok(Cli { command: Command::Controller(args) }) => controller_command::run(&args),
        Ok(Cli { command: Command::Doctor(args) }) => {
            doctor::run(&args, colour).unwrap_or_else(|refusal| Answer::refused(&refusal, Exit::Usage))
        }
        Ok(Cli { command: Command::Explain(args) }) => explain::run(&args),
        Ok(Cli { command: Command::Inject(args) }) => inject_command::run(&args),
        Ok(Cli { command: Command::Redirect(args) }) => redirect::run(&args),
        Ok(Cli { command: Command::Status(args) }) => status::run(&args, colour),
        // clap hands over `--help` and `--version` as errors that belong on stdout.
        Err(usage) if usage.use_stderr() => {
            Answer { out: String::new(), err: usage.render().to_string(), exit: Exit::Usage }
        }
        Err(help) => Answer::said(help.render().to_string(), Exit::Well),
    };
    let written = err.write_all(complaint.as_bytes()).and(out.write_all(answer.as_bytes()));
    match written.and_then(|()| out.flush()) {
        Ok(()) => exit,
        // `culvert-install doctor | head -3`: the reader has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit,
        // An answer that nobody got is no "all is well". stderr may be gone too: then the code alone says it.
        Err(error) => {
            let _ = writeln!(err, "culvert-install: cannot write the answer: {error}");
            Exit::Attention
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(args: &[&str]) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args = ["culvert-install"].iter().chain(args).map(OsString::from);
        let exit = run(args, Streams { out: &mut out, err: &mut err, colour: Colour::Plain });
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn bad_usage_is_named_on_stderr() {
        for (args, named) in [
            (&["doktor"][..], "doktor"),
            (&["doctor", "--output", "yaml"], "yaml"),
            (&["doctor", "--colour"], "--colour"),
            (&["doctor", "--host-root"], "--host-root"),
            (&["doctor", "--host-root", "/does/not/exist"], "/does/not/exist"),
            (&["doctor", "--host-root", "/dev/null"], "/dev/null"),
            (&["doctor", "--cni-conf-dir", "x"], "--cni-conf-dir x"),
            (&["agent", "--position", "before:x"], "after:TYPE"),
            (&["agent", "--hold-until-ready"], "--node-name"),
            (
                &[
                    "agent",
                    "--host-root",
                    "/does/not/exist",
                    "--node-name",
                    "x",
                    "--hold-until-ready=a=b:NoSchedule",
                ],
                "a=b:NoSchedule",
            ),
            // No node is there either: an agent that takes the empty name must not run on this machine.
            (&["agent", "--host-root", "/does/not/exist", "--node-name", ""], "--node-name"),
            (&["agent", "--entry", "/does/not/exist"], "/does/not/exist"),
            (&["uninstall", "--host-root", "/does/not/exist"], "/does/not/exist"),
            (&["await-uninstall", "--namespace", "x"], "--daemonset"),
            (&["await-uninstall", "--policies", "0s"], "from 1s"),
            (&["await-uninstall", "--policies", "5s", "--namespace", "x"], "cannot be used with"),
            (&["await-uninstall"], "--namespace"),
            (&["status", "--cluster"], "KUBERNETES_SERVICE_HOST"),
            (&["status", "--webhook", "x"], "--cluster"),
            (&["await-uninstall", "--namespace", "x", "--daemonset", "y"], "KUBERNETES_SERVICE_HOST"),
            (&[], "Usage"),
        ] {
            let (exit, out, err) = run_with(args);
            assert_eq!(exit, Exit::Usage, "{args:?}");
            assert_eq!(out, "", "{args:?}");
            assert!(err.contains(named), "{args:?}: {err}");
        }
    }

    #[test]
    fn help_and_version_are_answers() {
        assert_eq!(
            run_with(&["--version"]),
            (Exit::Well, format!("culvert-install {}\n", env!("CARGO_PKG_VERSION")), String::new())
        );
        let (exit, out, err) = run_with(&["doctor", "--help"]);
        assert_eq!((exit, err.as_str()), (Exit::Well, ""));
        assert!(out.contains("--host-root"), "{out}");
    }

    #[test]
    fn doctor_answers_with_one_json_document() {
        let (exit, out, err) = run_with(&["doctor", "--output", "json"]);
        assert_eq!(err, "");
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["well"], exit == Exit::Well, "{out}");
        let names: Vec<_> = report["checks"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(
            names,
            [
                "kernel",
                "nftables",
                "conntrack",
                "ipv6",
                "iptables",
                "runtime",
                "network",
                "plugin",
                "entry",
                "neighbour",
                "agent",
                "pods"
            ]
        );
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_that_cannot_be_written_is_not_all_well() {
        let mut err = Vec::new();
        let args = ["culvert-install", "--version"].map(OsString::from);
        let exit = run(args, Streams { out: &mut Full, err: &mut err, colour: Colour::Plain });
        assert_eq!(exit, Exit::Attention);
        assert!(String::from_utf8(err).unwrap().contains("cannot write the answer"));
    }
}
