//! The loads: wrk, h2load, and connections that idle.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::pod::bench::contender::{Running, find};
use culvert_tests::pod::bench::figures::{busy_seconds, own_seconds};
use culvert_tests::process::{Process, describe, lab_exec};
use culvert_tests::{Family, Lab, http};

use super::report::Sample;
use super::servers::{BODIES, HTTP_2, SINK, SMALL, Servers};

/// The time of a client beyond its load, for its start and its end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections that idle after a request each.
const IDLE: usize = 2000;
const CLIENT: u32 = 1000;

/// A load by its name on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub name: &'static str,
    pub what: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// So many connections that ask for a path.
    Get {
        connections: usize,
        path: &'static str,
    },
    /// As many that say `close` each time.
    Close {
        connections: usize,
    },
    /// So many that send a body.
    Post {
        connections: usize,
        body: usize,
    },
    /// HTTP/2 without TLS.
    Streams {
        connections: usize,
        streams: usize,
    },
    Idle,
}

impl Load {
    /// All of them, in the order of a run.
    pub(crate) fn all() -> Vec<Self> {
        let [(kb1, size1), (kb100, size100), (mb10, size10)] = BODIES;
        let get = |connections, path| Kind::Get { connections, path };
        let post = |connections, body| Kind::Post { connections, body };
        [
            ("keep-32", "keep-alive, 32 connections", get(32, "")),
            ("keep-256", "keep-alive, 256 connections", get(256, "")),
            ("close", "a connection a request, 32 at a time", Kind::Close { connections: 32 }),
            ("down-1k", "1 KB down, 32 connections", get(32, kb1)),
            ("up-1k", "1 KB up, 32 connections", post(32, size1)),
            ("down-100k", "100 KB down, 32 connections", get(32, kb100)),
            ("up-100k", "100 KB up, 32 connections", post(32, size100)),
            ("down-10m", "10 MB down, 8 connections", get(8, mb10)),
            ("up-10m", "10 MB up, 8 connections", post(8, size10)),
            (
                "h2c",
                "HTTP/2 without TLS, 10 connections of 100 streams",
                Kind::Streams { connections: 10, streams: 100 },
            ),
            ("idle", "2,000 idle connections after a request each", Kind::Idle),
        ]
        .map(|(name, what, kind)| Self { name, what, kind })
        .into()
    }

    pub(crate) fn is_http_2(&self) -> bool {
        matches!(self.kind, Kind::Streams { .. })
    }

    /// Returns false for a contender that cannot serve it: nginx speaks no HTTP/2 to a server.
    pub(crate) fn suits(&self, contender: &str) -> bool {
        !(self.is_http_2() && contender == "nginx")
    }

    /// Puts it on a contender and measures.
    pub(crate) fn put_on(
        &self,
        lab: &Lab,
        servers: &Servers,
        on: &Running,
        lasting: Duration,
    ) -> Result<Sample> {
        if let Kind::Idle = self.kind {
            return idle(lab, on);
        }
        let ours = || {
            Ok::<_, anyhow::Error>((
                on.cpu_seconds()?,
                servers.cpu_seconds()? + own_seconds()?,
                busy_seconds()?,
            ))
        };
        let (contender, known, busy) = ours()?;
        let start = Instant::now();
        let told = match self.kind {
            Kind::Streams { connections, streams } => h2load(lab, connections, streams, lasting)?,
            _ => wrk(lab, self.kind, lasting)?,
        };
        let lasted = start.elapsed().as_secs_f64();
        let (contender_now, known_now, busy_now) = ours()?;
        ensure!(told.requests > 0, "no request was answered");
        let cpu = contender_now - contender;
        let processors = std::thread::available_parallelism()?.get() as f64;
        let others = (busy_now - busy - cpu - (known_now - known)) / (lasted * processors);
        Ok(Sample {
            per_second: told.requests as f64 / told.seconds,
            cpu_us: cpu * 1e6 / told.requests as f64,
            p99_ms: told.p99_ms,
            mib: on.pss_bytes()? / 1024.0 / 1024.0,
            idle_kib: f64::NAN,
            failed: told.failed as f64,
            others: 100.0 * others.max(0.0),
        })
    }
}

/// The client's account.
#[derive(Debug)]
struct Told {
    requests: u64,
    seconds: f64,
    p99_ms: f64,
    failed: u64,
}

/// Runs a client beside the pod, to its end.
fn client(lab: &Lab, program: &str, arguments: &[String], within: Duration) -> Result<String> {
    let path = find(program).with_context(|| format!("no {program}"))?;
    let mut command = lab_exec::command(lab.peer.namespace(), CLIENT, None, &path)?;
    command.args(arguments).env_clear();
    let mut process = Process::start(command)?;
    let status = process.wait(within).with_context(|| program.to_owned())?;
    let said = format!("{}\n{}", process.stdout().text(), process.stderr().text());
    ensure!(status.success(), "{program}: {}: {said}", describe(status));
    Ok(said)
}

fn wrk(lab: &Lab, kind: Kind, lasting: Duration) -> Result<Told> {
    let (connections, port, path, setup) = match kind {
        Kind::Get { connections, path } => (connections, SMALL, path, String::new()),
        Kind::Close { connections } => {
            (connections, SMALL, "", "wrk.headers['Connection'] = 'close'".to_owned())
        }
        Kind::Post { connections, body } => {
            (connections, SINK, "up", format!("wrk.method = 'POST' wrk.body = string.rep('x', {body})"))
        }
        Kind::Streams { .. } | Kind::Idle => unreachable!("no load of wrk"),
    };
    let script = lab.folder().join("wrk.lua");
    fs::write(&script, format!("{setup}\n{WRK}"))?;
    let arguments = [
        "-t1".to_owned(),
        format!("-c{connections}"),
        format!("-d{}s", lasting.as_secs()),
        "--timeout=10s".into(),
        "-s".into(),
        script.display().to_string(),
        format!("http://{}:{port}/{path}", Family::V4.pod()),
    ];
    let said = client(lab, "wrk", &arguments, lasting + PATIENCE)?;
    let line = said.lines().find_map(|line| line.strip_prefix("told "));
    let numbers: Vec<u64> = line.unwrap_or_default().split(' ').filter_map(|n| n.parse().ok()).collect();
    let [requests, micros, failed, p99] = numbers[..] else { anyhow::bail!("wrk said {said}") };
    Ok(Told { requests, seconds: micros as f64 / 1e6, p99_ms: p99 as f64 / 1e3, failed })
}

/// Ends with a line for us: requests, microseconds, failures, p99 in microseconds.
const WRK: &str = r#"
function done(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format("told %d %d %d %d\n", summary.requests, summary.duration, failed, latency:percentile(99)))
end
"#;

fn h2load(lab: &Lab, connections: usize, streams: usize, lasting: Duration) -> Result<Told> {
    let log = lab.folder().join("log").join("h2load");
    let folder = super::servers::writable(lab, "log", CLIENT)?;
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let arguments = [
        "-t1".to_owned(),
        format!("-c{connections}"),
        format!("-m{streams}"),
        format!("-D{}", lasting.as_secs()),
        format!("--log-file={}", folder.join("h2load").display()),
        format!("http://{}:{HTTP_2}/", Family::V4.pod()),
    ];
    let said = client(lab, "h2load", &arguments, lasting + PATIENCE)?;
    let (mut times, failed) = answers(&log)?;
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied().with_context(|| format!("no answer: {said}"))?;
    Ok(Told {
        requests: times.len() as u64,
        seconds: lasting.as_secs_f64(),
        p99_ms: p99 as f64 / 1e3,
        failed,
    })
}

/// Reads the log of h2load: a line of start, status and microseconds for each request.
fn answers(log: &Path) -> Result<(Vec<u64>, u64)> {
    let (mut times, mut failed) = (Vec::new(), 0);
    for line in fs::read_to_string(log)?.lines() {
        let mut fields = line.split('\t').skip(1);
        match (fields.next(), fields.next().and_then(|time| time.parse().ok())) {
            (Some("200"), Some(time)) => times.push(time),
            _ => failed += 1,
        }
    }
    Ok((times, failed))
}

fn idle(lab: &Lab, on: &Running) -> Result<Sample> {
    let before = on.pss_bytes()?;
    let held = lab.peer.as_uid(CLIENT).run(|| -> Result<Vec<TcpStream>> {
        let asks_once = |_| {
            let stream = TcpStream::connect_timeout(&(Family::V4.pod(), SMALL).into(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let answer = http::exchange(&stream, b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(stream)
        };
        (0..IDLE).map(asks_once).collect()
    })?;
    let after = on.pss_bytes()?;
    drop(held);
    Ok(Sample {
        idle_kib: (after - before) / 1024.0 / IDLE as f64,
        mib: after / 1024.0 / 1024.0,
        ..Sample::nothing()
    })
}
