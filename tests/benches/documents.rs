//! Five thousand Dataplane documents: `cargo bench -p culvert-tests --bench documents`.
//!
//! The time that the built sidecar needs from files to a plan (`validate`, as a whole process), with all of them in one file and
//! with a file for each; and what a reload of them costs a connection that is open: its slowest round trips, beside those of
//! the same seconds without a reload.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::process::binaries::Binaries;
use culvert_tests::server::echo;
use culvert_tests::until::until_some;
use culvert_tests::{Lab, Sidecar, process::lab_exec};

const DOCUMENTS: u32 = 5000;
const ROUNDS: usize = 7;
/// The limit that the product promises for that many.
const PROMISED: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // This program becomes the sidecar, in the pod and under its uid.
    if let Err(code) = lab_exec::play_if_asked() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("documents: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Without their Mesh documents are an error.
const MESH: &str = "{type: Mesh, name: default}\n";

fn document(number: u32, port: u16) -> String {
    let address = Ipv4Addr::from(0x0a00_0001 + number);
    let service = number % 50;
    format!(
        "type: Dataplane\nmesh: default\nname: web-{number}\nnetworking:\n  address: {address}\n  inbound:\n  - port: {port}\n    servicePort: 80\n    \
         tags:\n      kuma.io/service: web-{service}\n      kuma.io/protocol: http\n      version: v1\n"
    )
}

fn all(port: u16) -> String {
    (0..DOCUMENTS).fold(MESH.to_owned(), |mut text, number| {
        let _ = writeln!(text, "---\n{}", document(number, port));
        text
    })
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}

fn validate(path: &Path) -> Result<Duration> {
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let output = Command::new(&Binaries::built()?.sidecar).arg("validate").arg(path).output()?;
        took.push(start.elapsed());
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(median(took))
}

/// Round trips for a while: how many, their median and the slowest.
fn round_trips(stream: &mut TcpStream, until: impl Fn() -> bool) -> Result<(usize, Duration, Duration)> {
    let mut took = Vec::new();
    while !until() {
        let start = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        took.push(start.elapsed());
    }
    let slowest = took.iter().max().copied().context("no round trip")?;
    Ok((took.len(), median(took), slowest))
}

fn reloaded(sidecar: &Sidecar<'_>, times: u64) -> Result<()> {
    let there = || sidecar.stat("config_reloaded").is_ok_and(|now| now >= times).then_some(());
    until_some(Duration::from_secs(20), there).context("the change was not put in force")
}

fn run() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.folder().join("all.yaml");
    fs::write(&file, all(8080))?;
    let folder = lab.folder().join("each");
    fs::create_dir(&folder)?;
    fs::write(folder.join("mesh.yaml"), MESH)?;
    for number in 0..DOCUMENTS {
        fs::write(folder.join(format!("web-{number}.yaml")), document(number, 8080))?;
    }
    println!("{DOCUMENTS} Dataplane documents, medians of {ROUNDS}:");
    for (name, path) in [("one file", &file), ("a file each", &folder)] {
        let took = validate(path)?;
        println!("  {name:<12} {took:>10.1?} (promised: {PROMISED:?})");
        ensure!(took < PROMISED, "{name}: {took:?}");
    }

    lab.add(&[])?.expect_success();
    let path = file.display().to_string();
    let sidecar = lab.pod.sidecar().options(["--resources", &path]).start()?;
    let _server = lab.peer.serve("192.0.2.10:80", echo())?;
    let mut stream = lab.pod.as_uid(1000).connect("192.0.2.10:80")?;
    stream.set_nodelay(true)?;
    let (quiet_until, lasting) = (Instant::now(), Duration::from_secs(4));
    let (count, middle, slowest) = round_trips(&mut stream, || quiet_until.elapsed() > lasting)?;
    println!(
        "an open connection, {lasting:?} without a reload: {count} round trips, median {middle:.0?}, slowest {slowest:.1?}"
    );
    let start = Instant::now();
    let (changed, next) = (all(8081), file.with_extension("next"));
    fs::write(&next, changed)?;
    fs::rename(&next, &file)?;
    let (count, middle, slowest) = round_trips(&mut stream, || start.elapsed() > lasting)?;
    reloaded(&sidecar, 1)?;
    println!(
        "                    {lasting:?} with a reload:    {count} round trips, median {middle:.0?}, slowest {slowest:.1?}"
    );
    Ok(())
}
