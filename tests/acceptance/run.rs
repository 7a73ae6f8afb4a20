// SPDX-License-Identifier: Apache-2.0
//! `tests/run` itself, where every program that it calls does nothing or waits: its last line names the outcome.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_tests::eventually;
use culvert_tests::process::Process;
use rustix::process::Signal;
use tempfile::TempDir;

/// For what takes milliseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Says where it is, and stays there.
const STAYS: &str = "echo \"here: $$\"; exec sleep 600";
/// Stays even when it is asked to end.
const STAYS_ON: &str = "trap '' TERM; echo \"here: $$\"; while :; do sleep 600; done";

/// A repository with nothing but `tests/run`, and programs that succeed.
struct Stubs(TempDir);

impl Stubs {
    fn new() -> Result<Self> {
        let stubs = Self(tempfile::tempdir()?);
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::create_dir_all(stubs.0.path().join("tests"))?;
        for file in ["run", "steps"] {
            fs::copy(own.join(file), stubs.0.path().join("tests").join(file))?;
        }
        // The test's own output is what the last line counts.
        let cargo = "[[ $1 != test ]] || echo 'test result: ok. 5 passed; 1 failed; 2 ignored; 0 measured'";
        stubs.program("bin/cargo", cargo)?;
        stubs.program("bin/rustc", "echo 'host: here'")?;
        stubs.program("bin/apt-get", "exit 1")?;
        for name in ["culvert-cni", "culvert-sidecar", "culvert-install"] {
            stubs.program(&format!("target/here/release/{name}"), "")?;
        }
        for name in ["tests/chart-tools", "cni/fuzz/run", "sidecar/fuzz/run"] {
            stubs.program(name, "")?;
        }
        let run = fs::read_to_string(own.join("run"))?;
        let version =
            run.lines().find_map(|line| line.strip_prefix("DENY_VERSION=")).context("no DENY_VERSION")?;
        stubs.program(&format!("target/tools/cargo-deny-{version}/bin/cargo-deny"), "")?;
        Ok(stubs)
    }

    fn program(&self, name: &str, body: &str) -> Result<()> {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(&path, format!("#!/usr/bin/env bash\nset -e\n{body}\n"))?;
        Ok(fs::set_permissions(&path, Permissions::from_mode(0o755))?)
    }

    fn run(&self) -> Result<Process> {
        let path = format!("{}:{}", self.0.path().join("bin").display(), std::env::var("PATH")?);
        // A shell cannot trap a signal that is ignored when it starts, as in the background of another shell.
        let mut command = Command::new("env");
        command
            .arg("--default-signal")
            .arg(self.0.path().join("tests/run"))
            .env("PATH", path)
            .env("GRACE", "1")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CULVERT_BIN_DIR");
        // Cargo sets some of these for tests; `tests/run` refuses them.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO")) {
            command.env_remove(name);
        }
        Process::start(command)
    }
}

#[track_caller]
fn ends(process: &mut Process, code: i32, last: &str) -> Result<()> {
    let status = process.wait(SOON)?;
    let lines = process.stdout().lines();
    let all = format!("{}\n{}", lines.join("\n"), process.stderr().text());
    assert_eq!(status.code(), Some(code), "{all}");
    let found = lines.last().map(String::as_str).unwrap_or_default();
    let (begin, end) = last.split_once('#').context("no # for the seconds")?;
    assert!(found.starts_with(begin) && found.ends_with(end), "{last:?} is not the end of\n{all}");
    Ok(())
}

#[test]
fn a_run_to_the_end_says_that_all_steps_passed() -> Result<()> {
    let stubs = Stubs::new()?;
    ends(&mut stubs.run()?, 0, "tests/run: all 10 steps passed in # s: 5 passed, 1 failed, 2 ignored")
}

#[test]
fn a_step_that_fails_is_named_and_gives_its_exit_code() -> Result<()> {
    let stubs = Stubs::new()?;
    stubs.program("sidecar/fuzz/run", "exit 77")?;
    let last = "tests/run: FAILED at \"fuzzing, 30 s a target\" after # s: 5 passed, 1 failed, 2 ignored";
    ends(&mut stubs.run()?, 77, last)?;
    stubs.program("tests/chart-tools", "kill -KILL $$")?;
    ends(&mut stubs.run()?, 137, "tests/run: FAILED at \"tools of the chart's tests\" after # s")
}

#[test]
fn a_signal_names_the_step_it_came_in_and_ends_that_step() -> Result<()> {
    let counted = ": 5 passed, 1 failed, 2 ignored";
    for (signal, name, program, body, title, counts) in [
        (Signal::TERM, "TERM", "cni/fuzz/run", STAYS, "fuzzing, 30 s a target", counted),
        (Signal::INT, "INT", "cni/fuzz/run", STAYS, "fuzzing, 30 s a target", counted),
        (Signal::HUP, "HUP", "sidecar/fuzz/run", STAYS, "fuzzing, 30 s a target", counted),
        (Signal::TERM, "TERM", "sidecar/fuzz/run", STAYS_ON, "fuzzing, 30 s a target", counted),
        (Signal::TERM, "TERM", "tests/chart-tools", STAYS, "tools of the chart's tests", ""),
        (Signal::HUP, "HUP", "bin/cargo", STAYS, "format", ""),
    ] {
        let stubs = Stubs::new()?;
        stubs.program(program, body)?;
        let mut run = stubs.run()?;
        let here = |line: &str| line.strip_prefix("here: ").map(str::to_owned);
        let child = run.stdout().wait_for(SOON, here).with_context(|| run.stderr().text())?;
        run.signal(signal)?;
        let last = format!("tests/run: ended by SIG{name} at \"{title}\" after # s{counts}");
        ends(&mut run, 128 + signal.as_raw(), &last)?;
        eventually!(!Path::new("/proc").join(&child).exists());
    }
    Ok(())
}
