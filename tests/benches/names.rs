//! Thousands of services with names: `cargo bench -p culvert-tests --bench names`.
//!
//! The time from documents to a plan with 5,000 services of 20,000 endpoints, what a change of one endpoint costs the workers
//! (CPU time of their threads, and the round trips of a connection that is open), and the memory of 10,000 names.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::server::echo;
use culvert_tests::until::until_some;
use culvert_tests::{Lab, Sidecar, process::lab_exec};

const SERVICES: u32 = 5_000;
const ENDPOINTS: u32 = 20_000;
const NAMES: u32 = 10_000;
const ROUNDS: u64 = 5;
/// The bounds that the product promises: for compiling, for the workers at a change, and for the memory of the names.
const COMPILED_WITHIN: Duration = Duration::from_millis(500);
const WORKERS_WITHIN: Duration = Duration::from_millis(1);
const MOST_MEMORY: u64 = 6 << 20;
/// Longest wait for a reload of so many documents, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    // This program becomes the sidecar, in the pod and under its uid.
    if let Err(code) = lab_exec::play_if_asked() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("names: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A mesh with this pod and so many services and endpoints. With names its Dataplane is one of a redirected pod. The first
/// endpoint has this port.
fn documents(services: u32, endpoints: u32, names: bool, port: u16) -> String {
    let redirect = "transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}, ";
    let redirect = if names { redirect } else { "" };
    let mut text = format!(
        "{{type: Mesh, name: default}}\n---\n{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {redirect}inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}]}}}}\n"
    );
    for number in 0..endpoints {
        let [_, a, b, c] = (0x0040_0000 + number).to_be_bytes();
        let port = if number == 0 { port } else { 8080 };
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "---\ntype: Dataplane\nmesh: default\nname: web-{number}\nnetworking:\n  address: 10.{a}.{b}.{c}\n  inbound:\n  - port: {port}\n    \
             tags: {{kuma.io/service: web-{}, version: v1}}\n",
            number % services
        );
    }
    text
}

fn start<'l>(lab: &'l Lab, file: &Path) -> Result<Sidecar<'l>> {
    let path = file.display().to_string();
    let options = ["--resources", &path, "--dataplane", "here", "--log-level", "debug", "--concurrency", "2"];
    let mut sidecar = lab.pod.sidecar().options(options).start_unready()?;
    until_some(PATIENCE, || sidecar.wait_ready().ok()).context("it is not ready")?;
    Ok(sidecar)
}

/// The times of reading and of compiling that the log tells, from the `nth` line on that tells them.
fn told(sidecar: &Sidecar<'_>, nth: usize) -> Result<(Duration, Duration)> {
    let number = |line: &str, name: &str| -> Option<Duration> {
        let digits = line.split_once(&format!("{name}="))?.1;
        let digits = digits.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Duration::from_micros(digits.parse().ok()?))
    };
    let line = |line: &str| Some((number(line, "read_us")?, number(line, "compiled_us")?));
    let lines = || sidecar.stderr().lines().iter().filter_map(|text| line(text)).nth(nth);
    until_some(PATIENCE, lines).context("the log tells no time")
}

/// CPU time of the threads of the data path so far.
fn workers(sidecar: &Sidecar<'_>) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{}/task", sidecar.pid()))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == "worker" {
            let times = fs::read_to_string(task.join("schedstat"))?;
            nanoseconds += times.split(' ').next().context("no time")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Memory of the process that no file backs.
fn anonymous(sidecar: &Sidecar<'_>) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", sidecar.pid()))?;
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("no Pss_Anon")?.trim().parse::<u64>()? << 10)
}

fn replace(file: &Path, text: &str) -> Result<()> {
    let next = file.with_extension("next");
    fs::write(&next, text)?;
    Ok(fs::rename(&next, file)?)
}

/// Waits for so many changes, by the log: an answer of the admin about all services would cost the workers more.
fn reloaded(sidecar: &Sidecar<'_>, times: u64) -> Result<()> {
    let is_one = |line: &String| line.contains("changed documents are in force");
    let all = || sidecar.stderr().lines().iter().filter(|line| is_one(line)).count() as u64;
    until_some(PATIENCE, || (all() >= times).then_some(())).context("the change was not put in force")
}

/// The slowest round trip until a condition holds.
fn slowest(stream: &mut TcpStream, until: impl Fn() -> bool) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    while !until() {
        let start = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        slowest = slowest.max(start.elapsed());
    }
    Ok(slowest)
}

fn run() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let file = lab.folder().join("mesh.yaml");
    let _server = lab.peer.serve("192.0.2.10:80", echo())?;
    // All figures come before the first broken promise ends it.
    let (compiled, cost) = changes(&lab, &file)?;
    let more = memory(&lab, &file)?;
    ensure!(compiled < COMPILED_WITHIN, "compiled in {compiled:?}");
    ensure!(cost < WORKERS_WITHIN, "{cost:?} of the workers");
    ensure!(more <= MOST_MEMORY, "{more} bytes");
    Ok(())
}

/// The workers' share of a CPU while nothing happens: each wakes some times a second.
fn idle(sidecar: &Sidecar<'_>) -> Result<f64> {
    let (before, start) = (workers(sidecar)?, Instant::now());
    // Nothing is awaited: the time alone has to pass.
    let _ = until_some(Duration::from_secs(5), || None::<()>);
    Ok(workers(sidecar)?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64())
}

/// Returns the medians of the time to compile and of the CPU time of the workers at a change.
fn changes(lab: &Lab, file: &Path) -> Result<(Duration, Duration)> {
    fs::write(file, documents(SERVICES, ENDPOINTS, true, 8080))?;
    let sidecar = start(lab, file)?;
    let names = sidecar.admin("/names?filter=%5Eweb-")?.body;
    println!("{SERVICES} services, {ENDPOINTS} endpoints; {}", names.lines().next().unwrap_or_default());
    let (read, compiled) = told(&sidecar, 0)?;
    println!("  at the start: read in {read:.0?}, compiled in {compiled:.0?}");
    let spent_idle = idle(&sidecar)?;
    let (mut compiles, mut costs) = (vec![compiled], Vec::new());
    for round in 1..=ROUNDS {
        let (before, start) = (workers(&sidecar)?, Instant::now());
        replace(file, &documents(SERVICES, ENDPOINTS, true, 8080 + u16::try_from(round)?))?;
        reloaded(&sidecar, round)?;
        let spent = workers(&sidecar)?.saturating_sub(before);
        costs.push(spent.saturating_sub(start.elapsed().mul_f64(spent_idle)));
        compiles.push(told(&sidecar, usize::try_from(round)?)?.1);
    }
    compiles.sort();
    costs.sort();
    let (compiled, cost) = (compiles[compiles.len() / 2], costs[costs.len() / 2]);
    println!(
        "  {ROUNDS} changes of an endpoint: compiled in {compiles:.0?} (promised of the median: {COMPILED_WITHIN:?})"
    );
    println!(
        "  CPU of both workers beside {:.2} ms a second without a change: {costs:.1?} (promised of the median: {WORKERS_WITHIN:?})",
        spent_idle * 1e3
    );
    let mut stream = lab.pod.as_uid(1000).connect("192.0.2.10:80")?;
    stream.set_nodelay(true)?;
    let (quiet_until, lasting) = (Instant::now(), Duration::from_secs(4));
    let quiet = slowest(&mut stream, || quiet_until.elapsed() > lasting)?;
    replace(file, &documents(SERVICES, ENDPOINTS, true, 9080))?;
    let start = Instant::now();
    let busy = slowest(&mut stream, || start.elapsed() > lasting)?;
    reloaded(&sidecar, ROUNDS + 1)?;
    println!("  slowest round trip of a connection in {lasting:?}: {quiet:.1?}, with a change {busy:.1?}");
    Ok((compiled, cost))
}

/// Returns the bytes that names take.
fn memory(lab: &Lab, file: &Path) -> Result<u64> {
    let mut used = Vec::new();
    for names in [false, true] {
        fs::write(file, documents(NAMES, NAMES, names, 8080))?;
        let sidecar = start(lab, file)?;
        used.push(anonymous(&sidecar)?);
    }
    let more = used[1].saturating_sub(used[0]);
    println!(
        "{NAMES} names: {:.1} MiB, without names {:.1} MiB, {:.1} MiB more (promised: {:.0} MiB)",
        mib(used[1]),
        mib(used[0]),
        mib(more),
        mib(MOST_MEMORY)
    );
    Ok(more)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
