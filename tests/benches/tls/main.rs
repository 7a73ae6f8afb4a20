//! TLS between workloads against Envoy's, on the lab: `cargo bench -p culvert-tests --bench tls`.
//!
//! ```text
//! terminating:  a member outside ──TLS─▶ proxy ─▶ application in the pod
//! originating:  application in the pod ─▶ proxy ──TLS─▶ a member outside
//! ```
//! The proxy is the built sidecar with a STRICT mesh, then Envoy with the same settings (TLS 1.3, AES-128-GCM, certificates
//! of both sides required, one ticket), each under the sidecar's uid with two threads, through the rules of the built plugin.
//! Envoy is found in PATH or named by `CULVERT_BENCH_ENVOY`; without it the sidecar is measured alone.
//! `CULVERT_BENCH_OTHERS` (as PATH) names other builds of the sidecar to be measured in the same run, `CULVERT_BENCH_ROUNDS` (3) and
//! `CULVERT_BENCH_SECONDS` (2, per load) change how long it takes; with `CULVERT_BENCH_ONLY` only loads are run whose name
//! contains it (`handshakes`, `one stream to the server`).
//!
//! Client, proxy and server share the machine, so a proxy's cost is its CPU time, and connections per second
//! are those of all three together. The figures of one run hold against each other only.

mod contender;
mod load;
mod servers;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_tests::pod::bench::contender::{Contender, Running, listens};
use culvert_tests::pod::bench::figures::median;
use culvert_tests::{Authority, Lab, pod::bench, process::lab_exec};

use load::{Load, Side};
use servers::Port;

/// Idle connections that are opened to see what one costs.
const IDLE: usize = 1000;
/// Where inbound connections are redirected to; a contender listens here last.
const INBOUND: u16 = 15006;

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

/// The measurements of a round, in the order of the report.
type Measured = Vec<(String, f64)>;

fn run() -> Result<()> {
    let (rounds, secs) = bench::rounds_and_time()?;
    let lab = bench::lab()?;
    let authority = Authority::new("mesh default")?;
    authority.service("server")?.write(&lab.folder().join("identity"))?;
    let load = Load::new(&authority.service("client")?)?;
    servers::start(&lab.pod, &lab.peer, &authority.service("member")?)?;
    let contenders = contender::all(&lab)?;
    let names: Vec<_> = contenders.iter().map(Contender::name).collect();
    println!("{rounds} rounds of {secs:?} a load: {}", names.join(", "));

    let mut results: Vec<Vec<Measured>> = vec![Vec::new(); contenders.len()];
    for round in 1..=rounds {
        for (contender, of) in contenders.iter().zip(&mut results) {
            lab.add(&[])?.expect_success();
            let running = contender.start(&lab, |pod| listens(pod, INBOUND))?;
            let bench = Bench { lab: &lab, load: &load, running, secs };
            let measured = bench.measure().with_context(|| contender.name().to_owned())?;
            drop(bench);
            lab.del()?.expect_success();
            let values: Vec<_> = measured.iter().map(|(_, value)| format!("{value:.1}")).collect();
            println!("round {round}: {:<8} {}", contender.name(), values.join(" "));
            of.push(measured);
        }
    }
    report(&names, &results);
    Ok(())
}

/// A contender that is running, with its process and ports.
struct Bench<'a> {
    lab: &'a Lab,
    load: &'a Load,
    running: Running,
    secs: Duration,
}

impl Bench<'_> {
    fn measure(&self) -> Result<Measured> {
        let (load, secs) = (self.load, self.secs);
        let only = env::var("CULVERT_BENCH_ONLY").ok();
        let wanted = |name: &str| only.as_deref().is_none_or(|only| name.contains(only));
        let mut all = Measured::new();
        for (side, name) in [(Side::Terminates, "terminating"), (Side::Originates, "originating")] {
            for (port, to) in [(Port::Up, "to the server"), (Port::Down, "to the client")] {
                for (streams, many) in [(2, "two streams"), (1, "one stream")] {
                    let name = format!("{name}, {many} {to}");
                    if wanted(&name) {
                        self.bulk(side, port, streams, &name, &mut all)?;
                    }
                }
            }
            for (port, kind) in [(Port::Small, "full"), (Port::Again, "resumed")] {
                let name = format!("{name}, {kind} handshakes");
                if wanted(&name) {
                    self.handshakes(side, port, &name, &mut all)?;
                }
            }
            let name = format!("{name}, beside a crowd");
            if wanted(&name) {
                let waits = self.on(side, || load.beside_a_crowd(side, secs))?;
                let mut add = |what: &str, value| all.push((format!("{name}: {what}"), value));
                add("median wait, ms", waits.median.as_secs_f64() * 1e3);
                add("p99 wait, ms", waits.p99.as_secs_f64() * 1e3);
                add("longest wait, ms", waits.longest.as_secs_f64() * 1e3);
                add("handshakes per second", waits.handshakes as f64 / secs.as_secs_f64());
            }
        }
        if wanted("terminating, idle connection") {
            let before = self.running.pss_bytes()?;
            let held = self.lab.peer.as_root().run(|| load.idle(IDLE))?;
            let each = (self.running.pss_bytes()? - before) / 1024.0 / IDLE as f64;
            all.push(("terminating, idle connection: KiB".into(), each));
            drop(held);
        }
        Ok(all)
    }

    /// The host that the clients of a side run on.
    fn on<R: Send>(&self, side: Side, work: impl FnOnce() -> R + Send) -> R {
        match side {
            Side::Terminates => self.lab.peer.as_root().run(work),
            Side::Originates => self.lab.pod.as_uid(1000).run(work),
        }
    }

    fn bulk(&self, side: Side, port: Port, streams: usize, name: &str, all: &mut Measured) -> Result<()> {
        let before = self.running.cpu_seconds()?;
        let (load, secs) = (self.load, self.secs);
        let gigabits = self.on(side, || load.bulk(side, port, streams, secs))?;
        let cpu = (self.running.cpu_seconds()? - before) * 1e3 / gigabits;
        all.push((format!("{name}: CPU ms per Gbit"), cpu));
        all.push((format!("{name}: Gbit/s"), gigabits / self.secs.as_secs_f64()));
        Ok(())
    }

    fn handshakes(&self, side: Side, port: Port, name: &str, all: &mut Measured) -> Result<()> {
        let before = self.running.cpu_seconds()?;
        let (load, secs) = (self.load, self.secs);
        let done = self.on(side, || load.handshakes(side, port, secs))? as f64;
        all.push((format!("{name}: CPU us each"), (self.running.cpu_seconds()? - before) * 1e6 / done));
        all.push((format!("{name}: per second"), done / self.secs.as_secs_f64()));
        Ok(())
    }
}

/// Medians, and those of the first contender as shares of each other's.
fn report(names: &[&str], results: &[Vec<Measured>]) {
    print!("\n{:<52}", "medians");
    names.iter().for_each(|name| print!("{name:>10}"));
    names.iter().skip(1).for_each(|name| print!("{:>10}", format!("/{name}")));
    println!();
    let measures = results.first().and_then(|rounds| rounds.first()).map_or(0, Vec::len);
    for at in 0..measures {
        print!("{:<52}", results[0][0][at].0);
        let of = |rounds: &Vec<Measured>| median(&rounds.iter().map(|round| round[at].1).collect::<Vec<_>>());
        let medians: Vec<f64> = results.iter().map(of).collect();
        medians.iter().for_each(|median| print!("{median:>10.2}"));
        medians.iter().skip(1).for_each(|other| print!("{:>10.2}", medians[0] / other));
        println!();
    }
}
