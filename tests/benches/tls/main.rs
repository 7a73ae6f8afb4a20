//! TLS between workloads against Envoy's, on the lab: `cargo bench -p culvert-tests --bench tls`.
//!
//! A client outside the pod that speaks TLS as a mesh member does, a server in the pod that speaks none; between them the
//! built sidecar with a STRICT mesh, then Envoy with the same settings (TLS 1.3, AES-128-GCM, client certificates
//! required, one ticket), each under the sidecar's uid with two threads, through the rules of the built plugin. Envoy is
//! found in PATH or named by `CULVERT_BENCH_ENVOY`; without it the sidecar is measured alone. `CULVERT_BENCH_ROUNDS` (3) and
//! `CULVERT_BENCH_SECONDS` (2, per load) change how long it takes.
//!
//! Client, proxy and server share the machine, so what a proxy costs is told by its CPU time, and connections per second
//! are those of all three together. The figures of one run hold against each other only.

mod contender;
mod load;

use std::collections::BTreeMap;
use std::env;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_tests::{Authority, Lab, lab_exec};

use contender::Contender;
use load::{Load, Servers};

/// Idle connections that are opened to see what one costs.
const IDLE: usize = 1000;

/// What is measured, with its unit; whether less is better, it says itself.
const MEASURES: [&str; 9] = [
    "to the application: CPU ms per Gbit",
    "to the application: Gbit/s",
    "to the client: CPU ms per Gbit",
    "to the client: Gbit/s",
    "full handshakes: CPU us each",
    "full handshakes: per second",
    "resumed handshakes: CPU us each",
    "resumed handshakes: per second",
    "idle connection: KiB",
];

fn main() -> ExitCode {
    // This program becomes each contender, in the pod and under its uid.
    if let Err(code) = lab_exec::play_if_asked() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tls: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}: not a number")),
        Err(_) => Ok(default),
    }
}

type Results = BTreeMap<&'static str, [Vec<f64>; MEASURES.len()]>;

fn run() -> Result<()> {
    let rounds = setting("CULVERT_BENCH_ROUNDS", 3)?.max(1);
    let secs = Duration::from_secs(setting("CULVERT_BENCH_SECONDS", 2)?.max(1));
    let lab = Lab::new()?;
    for host in [&lab.pod, &lab.peer] {
        host.set_sysctl("net.ipv4.ip_local_port_range", "16000 65535")?;
        host.set_sysctl("net.ipv4.tcp_tw_reuse", "1")?;
    }
    let authority = Authority::new("mesh default")?;
    authority.service("server")?.write(&lab.folder().join("identity"))?;
    let load = Load::new(&authority.service("client")?)?;
    let _servers = Servers::start(&lab.pod)?;
    let contenders = Contender::all(&lab)?;
    let names: Vec<_> = contenders.iter().map(Contender::name).collect();
    println!("{rounds} rounds of {secs:?} a load: {}", names.join(", "));
    let mut results = Results::new();
    for round in 1..=rounds {
        for contender in &contenders {
            let of = results.entry(contender.name()).or_default();
            let measured = measure(&lab, &load, contender, secs).with_context(|| contender.name())?;
            for (all, one) in of.iter_mut().zip(measured) {
                all.push(one);
            }
            println!("round {round}: {}", contender.name());
        }
    }
    report(&names, &results);
    Ok(())
}

fn measure(lab: &Lab, load: &Load, contender: &Contender, secs: Duration) -> Result<[f64; MEASURES.len()]> {
    let running = contender.start(lab)?;
    let client = lab.peer.as_root();
    let mut measured = [f64::NAN; MEASURES.len()];
    for (at, work) in [(0, load::UP), (2, load::DOWN)] {
        let before = running.cpu_seconds()?;
        let gigabits = client.run(|| load.bulk(work, secs))?;
        measured[at] = (running.cpu_seconds()? - before) * 1e3 / gigabits;
        measured[at + 1] = gigabits / secs.as_secs_f64();
    }
    for (at, resumed) in [(4, false), (6, true)] {
        let before = running.cpu_seconds()?;
        let done = client.run(|| load.handshakes(resumed, secs))? as f64;
        measured[at] = (running.cpu_seconds()? - before) * 1e6 / done;
        measured[at + 1] = done / secs.as_secs_f64();
    }
    let before = running.pss_bytes()?;
    let held = client.run(|| load.idle(IDLE))?;
    measured[8] = (running.pss_bytes()? - before) / 1024.0 / IDLE as f64;
    drop((held, running));
    contender.clear(lab)?;
    Ok(measured)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(names: &[&'static str], results: &Results) {
    print!("\n{:<42}", "medians");
    names.iter().for_each(|name| print!("{name:>12}"));
    println!("{:>12}", if names.len() > 1 { "ratio" } else { "" });
    for (at, measure) in MEASURES.into_iter().enumerate() {
        print!("{measure:<42}");
        let medians: Vec<f64> = names.iter().map(|name| median(&results[name][at])).collect();
        medians.iter().for_each(|median| print!("{median:>12.1}"));
        if let [culvert, peer] = medians[..] {
            print!("{:>12.2}", culvert / peer);
        }
        println!();
    }
}
