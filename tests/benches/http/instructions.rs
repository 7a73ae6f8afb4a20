//! User instructions a request of two sidecars whose port speaks TCP, as callgrind counts them.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::pod::bench::contender::{find, listens};
use culvert_tests::pod::bench::figures::{median, short};
use culvert_tests::pod::sidecar;
use culvert_tests::process::{Process, describe, lab_exec};
use culvert_tests::until::until_some;
use culvert_tests::{Family, Lab, http, pod::bench};
use rustix::process::Signal;

use super::INBOUND;
use super::contender::{Protocol, options};
use super::servers::{SMALL, Servers};

/// Requests of the two runs; their difference is free of start and end.
const FEW: u32 = 500;
const MANY: u32 = 5500;
/// The start of a program that is fifty times slower than it is.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// More is a change of the TCP path.
const MOST: f64 = 1.01;

/// Compares two programs in interleaved rounds.
pub(crate) fn compare(binaries: &[PathBuf; 2], rounds: usize) -> Result<()> {
    let valgrind = valgrind()?;
    let lab = bench::lab()?;
    lab.add(&[])?.expect_success();
    let _servers = Servers::start(&lab)?;
    let mut options = options(&lab, Protocol::Tcp)?;
    // The count of a thread that waits for another depends on the machine's mood.
    options.retain(|option| option != "--concurrency=2");
    // The server of the bench is an application for which a sidecar would wait.
    options.extend(["--concurrency=1", "--drain-delay=0s", "--drain-time=1s"].map(str::to_owned));
    let mut each = [Vec::new(), Vec::new()];
    for round in 1..=rounds {
        for (number, (binary, of)) in binaries.iter().zip(&mut each).enumerate() {
            // valgrind opens it with the sidecar's uid, which may not look below `/root`.
            let copy = lab.folder().join(format!("sidecar-{number}"));
            fs::copy(binary, &copy).with_context(|| binary.display().to_string())?;
            let run = |requests| count(&lab, &valgrind, &copy, &options, requests);
            let a_request = (run(MANY)? - run(FEW)?) / f64::from(MANY - FEW);
            println!("round {round}: {}: {} instructions a request", binary.display(), short(a_request));
            of.push(a_request);
        }
    }
    let [before, after] = each.map(|of| median(&of));
    let ratio = after / before;
    println!("median: {} and {}, ratio {ratio:.4} (≤ {MOST})", short(before), short(after));
    ensure!(ratio <= MOST, "the TCP path executes {:.1} % more instructions", (ratio - 1.0) * 100.0);
    Ok(())
}

/// Debian's `valgrind` is a script, and a script cannot be executed by its file alone.
fn valgrind() -> Result<PathBuf> {
    let found = find("valgrind.bin").or_else(|| find("valgrind"));
    found.context("no valgrind: install it, or name it by CULVERT_BENCH_VALGRIND")
}

/// Instructions of a whole run with so many requests on one connection.
fn count(lab: &Lab, valgrind: &Path, binary: &Path, options: &[String], requests: u32) -> Result<f64> {
    let mut command = lab_exec::command(lab.pod.namespace(), sidecar::UID, None, valgrind)?;
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(binary)
        .args(options)
        .env_clear();
    let mut process = Process::start(command)?;
    let ready = || listens(&lab.pod, INBOUND).ok().filter(|listens| *listens);
    until_some(READY_WITHIN, ready).with_context(|| process.stderr().text())?;
    lab.peer.as_root().run(|| -> Result<()> {
        let stream = TcpStream::connect_timeout(&(Family::V4.pod(), SMALL).into(), READY_WITHIN)?;
        stream.set_read_timeout(Some(READY_WITHIN))?;
        for _ in 0..requests {
            let answer = http::exchange(&stream, b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")?;
            ensure!(answer.status == 200, "{answer:?}");
        }
        Ok(())
    })?;
    process.signal(Signal::TERM)?;
    let status = process.wait(READY_WITHIN)?;
    let said = process.stderr().text();
    let collected = said.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok());
    collected.with_context(|| format!("callgrind counted nothing: {}: {said}", describe(status)))
}
