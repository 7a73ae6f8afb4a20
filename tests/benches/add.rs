// SPDX-License-Identifier: Apache-2.0
//! The time that the plugin takes, as a whole process, beside what else does the same: `cargo bench -p culvert-tests --bench
//! add`. Everything in one run and in turn, since machines drift; ratios of medians are what holds.

use std::fs;
use std::io::{PipeReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::kernel::netns::Namespace;
use culvert_tests::process::binaries::Binaries;

/// Timed runs of each.
const RUNS: usize = 100;
/// Pods that start at once.
const AT_ONCE: usize = 50;

/// A socket without an agent, as on a node without one.
const NOBODY: &str = "/nonexistent/agent.sock";

/// A pod with the rules of tests/rules.
const ONBOARDED: &str = r#"{"culvert.dev/redirect":"enabled","culvert.dev/exclude-inbound-ports":"22","culvert.dev/exclude-outbound-ports":"5432,6379"}"#;
const RULES: [(&str, &str); 2] = [
    ("iptables-nft-restore", include_str!("../rules/iptables-restore.v4")),
    ("ip6tables-nft-restore", include_str!("../rules/iptables-restore.v6")),
];

fn main() -> Result<()> {
    // `cargo test --benches` and `cargo bench` both run this; only the latter wants the minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let bench = Bench::new()?;
    let agent = bench.agent()?;
    let mut times: [Vec<Duration>; 7] = Default::default();
    for run in 0..RUNS {
        let ours = Namespace::new(format!("ours-{run}"))?;
        let theirs = Namespace::new(format!("theirs-{run}"))?;
        times[0].push(timed(|| bench.true_once())?);
        times[1].push(timed(|| bench.plugin(&ours, "{}", NOBODY))?);
        // Three ways to report, each first as often as the others.
        let mut ways = [(2, NOBODY), (5, ""), (6, agent.as_str())];
        ways.rotate_left(run % 3);
        for (index, socket) in ways {
            let pod = Namespace::new(format!("pod-{run}-{index}"))?;
            bench.plugin(&pod, "{}", socket)?;
            times[index].push(timed(|| bench.plugin(&pod, ONBOARDED, socket))?);
        }
        times[3].push(timed(|| bench.restore(&theirs, 0))?);
        times[4].push(timed(|| bench.restore(&theirs, 1))?);
    }
    let [bare, passed, added, v4, v6, untold, told] = times.map(median);
    let restored = v4 + v6;
    let slowest = bench.at_once()?;
    let peak = bench.peak_kib()?;
    let size = fs::metadata(&Binaries::built()?.cni)?.len().div_ceil(1024);

    println!("whole processes, medians of {RUNS}, in turn in one run\n");
    println!("  /bin/true                                 {:>9}", millis(bare));
    println!(
        "  ADD, pod not onboarded                    {:>9}   {}",
        millis(passed),
        held(passed, bare, 1.6, "/bin/true")
    );
    println!(
        "  ADD, nftables                             {:>9}   {}",
        millis(added),
        held(added, bare, 3.0, "/bin/true")
    );
    println!(
        "  the same, agentSocket off                 {:>9}   {}",
        millis(untold),
        held(untold, added, 1.1, "ADD")
    );
    println!(
        "  the same, told to an agent                {:>9}   {}",
        millis(told),
        held(told, added, 1.1, "ADD")
    );
    println!("  iptables-nft-restore, the same rules      {:>9}", millis(v4));
    println!("  ip6tables-nft-restore                     {:>9}", millis(v6));
    println!(
        "  both                                      {:>9}   ADD is {}",
        millis(restored),
        held(added, restored, 0.6, "both")
    );
    println!(
        "  {AT_ONCE} ADDs at once, the slowest              {:>9}   {}",
        millis(slowest),
        held(slowest, added, 40.0, "one ADD")
    );
    println!("  the plugin's peak memory                  {:>5} KiB   bar 6144 KiB", peak);
    println!("  its binary                                {:>5} KiB   bar 4096 KiB", size);
    println!("\nwhere the time of an ADD goes (medians of its own log, microseconds)\n");
    for (phase, median) in bench.phases()? {
        println!("  {phase:<12} {median:>6}");
    }
    Ok(())
}

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir().context("a folder for the plugin's log and records")? })
    }

    /// A listener in the node agent's place, which reads all reports for as long as the process lives.
    fn agent(&self) -> Result<String> {
        let path = self.folder.path().join("agent.sock");
        let listener = UnixListener::bind(&path)?;
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.and_then(|mut stream| stream.read_to_end(&mut Vec::new()));
            }
        });
        Ok(path.to_string_lossy().into_owned())
    }

    fn start(&self, namespace: &Namespace, annotations: &str, agent: &str, stdout: Stdio) -> Result<Child> {
        let folder = self.folder.path().display();
        let config = format!(
            r#"{{"cniVersion":"1.0.0","name":"bench","type":"culvert-cni","logFile":"{folder}/log","stateDir":"{folder}/attachments","agentSocket":"{agent}",
            "runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{annotations}}},
            "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"eth0","sandbox":"/x"}}],"ips":[{{"address":"10.0.0.2/24","interface":0}}],"dns":{{}}}}}}"#
        );
        let mut child = Command::new(&Binaries::built()?.cni)
            .env_clear()
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", namespace.name())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", namespace.path())
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn()?;
        child.stdin.take().context("stdin")?.write_all(config.as_bytes())?;
        Ok(child)
    }

    fn plugin(&self, namespace: &Namespace, annotations: &str, agent: &str) -> Result<()> {
        let status = self.start(namespace, annotations, agent, Stdio::null())?.wait()?;
        ensure!(status.success(), "ADD: {status}: {}", fs::read_to_string(self.folder.path().join("log"))?);
        Ok(())
    }

    fn true_once(&self) -> Result<()> {
        ensure!(Command::new("/bin/true").env_clear().status()?.success());
        Ok(())
    }

    fn restore(&self, namespace: &Namespace, which: usize) -> Result<()> {
        let (program, rules) = RULES[which];
        namespace.run(|| {
            let mut child = Command::new(program)
                .arg("--noflush")
                .stdin(Stdio::piped())
                .spawn()
                .with_context(|| format!("{program}: Debian's package iptables brings it"))?;
            child.stdin.take().context("stdin")?.write_all(rules.as_bytes())?;
            ensure!(child.wait()?.success(), "{program} refused the rules");
            Ok(())
        })
    }

    /// The slowest of many ADDs that start at the same moment, each in a namespace of its own.
    fn at_once(&self) -> Result<Duration> {
        let namespaces: Vec<Namespace> =
            (0..AT_ONCE).map(|pod| Namespace::new(format!("at-once-{pod}"))).collect::<Result<_>>()?;
        let start = std::sync::Barrier::new(AT_ONCE);
        std::thread::scope(|scope| {
            let pods: Vec<_> = namespaces
                .iter()
                .map(|namespace| {
                    scope.spawn(|| {
                        start.wait();
                        timed(|| self.plugin(namespace, ONBOARDED, NOBODY))
                    })
                })
                .collect();
            let mut slowest = Duration::ZERO;
            for pod in pods {
                let Ok(took) = pod.join() else { bail!("a pod's thread panicked") };
                slowest = slowest.max(took?);
            }
            Ok(slowest)
        })
    }

    /// The most memory that the plugin held: it is kept from writing its answer, at its very end, and looked at.
    fn peak_kib(&self) -> Result<u64> {
        let namespace = Namespace::new("peak")?;
        let (mut reader, mut writer) = std::io::pipe()?;
        // As many bytes as a pipe holds: any further byte has to wait.
        writer.write_all(&vec![b' '; 65_536])?;
        let mut child = self.start(&namespace, ONBOARDED, NOBODY, Stdio::from(writer))?;
        let status = Path::new("/proc").join(child.id().to_string());
        let waits = || fs::read_to_string(status.join("wchan")).is_ok_and(|at| at.contains("pipe_w"));
        culvert_tests::eventually!(waits(), Duration::from_secs(5));
        let text = fs::read_to_string(status.join("status"))?;
        let peak = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        drain(&mut reader)?;
        child.wait()?;
        peak.context("no VmHWM")
    }

    /// The medians of the phases that the plugin's log has of its ADDs.
    fn phases(&self) -> Result<Vec<(String, u128)>> {
        let log = fs::read_to_string(self.folder.path().join("log"))?;
        let mut phases: Vec<(String, Vec<u128>)> = Vec::new();
        for line in log.lines().filter(|line| line.contains("decision=redirect ")) {
            for (name, value) in line.split(' ').filter_map(|field| field.split_once("_us=")) {
                let value = value.parse()?;
                match phases.iter_mut().find(|(known, _)| known == name) {
                    Some((_, values)) => values.push(value),
                    None => phases.push((name.to_owned(), vec![value])),
                }
            }
        }
        Ok(phases.into_iter().map(|(name, values)| (name, median(values))).collect())
    }
}

fn drain(reader: &mut PipeReader) -> Result<()> {
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest)?;
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

/// The ratio to `of`, and whether it is within the bar.
fn held(time: Duration, of: Duration, bar: f64, what: &str) -> String {
    let ratio = time.as_secs_f64() / of.as_secs_f64();
    let verdict = if ratio <= bar { "ok" } else { "MISSED" };
    format!("{ratio:.2} of {what}, bar {bar}: {verdict}")
}
