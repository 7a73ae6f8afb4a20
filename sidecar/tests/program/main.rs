// SPDX-License-Identifier: Apache-2.0
//! The program from outside: options, environment, exit codes, and a life without any redirect. Tests that need a
//! redirected pod are in the lab of `culvert-tests`.

#![allow(
    clippy::unwrap_used,
    reason = "a test; helpers outside #[test] functions are not exempt by themselves"
)]

mod control;
mod inspect;
mod pages;
mod resolve;
mod security;
mod signals;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Longest wait of any test here; on a busy machine a start takes some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert-sidecar"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn help_and_version_are_answers_and_not_errors() {
    for flag in ["--help", "--version"] {
        let (code, stdout, stderr) = output(program().arg(flag));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{flag}");
        assert!(stdout.contains("culvert-sidecar"), "{flag}: {stdout}");
    }
}

#[test]
fn bad_usage_is_64_with_the_reason_on_stderr() {
    for (arguments, reason) in [
        (vec!["--redirekt"], "unexpected argument '--redirekt'"),
        (vec!["--outbound-port", "70000"], "invalid value '70000' for '--outbound-port <PORT>'"),
        (vec!["--identity", "/etc/tls", "--trust-domain", "A B"], "\"A B\" is no trust domain"),
        (vec!["--identity", "/etc/tls"], "--identity /etc/tls needs mesh documents"),
        (vec!["--app-probes", "[]"], "--app-probes: not a JSON object"),
        (vec!["--admin-address", "0.0.0.0:9901"], "--admin-address 0.0.0.0:9901 is not a loopback address"),
        (vec!["validate", "/no/such/mesh.yaml"], "/no/such/mesh.yaml: No such file or directory"),
        (vec!["--resources", "/no/such/folder"], "/no/such/folder: No such file or directory"),
        (vec!["--dataplane", "web"], "--dataplane web needs mesh documents"),
        (vec!["--access-log", "/no/such/folder/log"], "cannot write the access log to /no/such/folder/log"),
    ] {
        let ports = ["--inbound-port=0", "--outbound-port=0"];
        let clashes = arguments.contains(&"--outbound-port");
        let (code, stdout, stderr) =
            output(program().args(if clashes { &ports[..1] } else { &ports[..] }).args(&arguments));
        assert_eq!(code, Some(64), "{arguments:?}: {stderr}");
        assert!(stderr.contains(reason), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
    }
}

#[test]
fn the_environment_is_read_and_arguments_win() {
    let (code, _, stderr) = output(program().env("CULVERT_APP_PROBES", "x"));
    assert_eq!(code, Some(64));
    assert!(stderr.contains("--app-probes"), "{stderr}");

    let (_, _, stderr) =
        output(program().env("CULVERT_DNS_PORT", "http").args(["--dns-port", "0", "--app-probes", "x"]));
    assert!(stderr.contains("--app-probes") && !stderr.contains("--dns-port"), "{stderr}");

    let (code, _, stderr) = output(program().env("CULVERT_INBOUND_PORT", "http"));
    assert_eq!(code, Some(64));
    assert!(stderr.contains("invalid value 'http' for '--inbound-port <PORT>'"), "{stderr}");
}

/// A check of documents needs no pod; a sidecar that runs by them does.
#[test]
fn validate_takes_a_choice_of_pods_without_a_pod_and_a_start_does_not() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/permission-of-some-pods.yaml");
    let (code, said, complaint) = output(program().args(["validate", file]));
    assert_eq!(code, Some(0), "{complaint}");
    let warning = "warning: MeshTrafficPermission web chooses pods";
    assert!(said.contains(warning) || complaint.contains(warning), "{said}{complaint}");
    let (code, _, complaint) = output(program().args(["--resources", file]));
    assert_eq!(code, Some(64), "{complaint}");
    assert!(complaint.contains("spec.targetRef: found a choice of pods"), "{complaint}");
}

#[test]
fn validate_checks_documents_and_runs_nothing() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/documents");
    for (name, options, summary) in [
        (
            "mesh-passthrough.kubernetes.yaml",
            &[][..],
            "mesh \"default\": 4 listeners, 2 clusters, passthrough off",
        ),
        (
            "proxy-template-timeouts.universal.yaml",
            &[],
            "mesh \"default\": 4 listeners, 4 clusters, passthrough on",
        ),
        (
            "dataplane.universal.yaml",
            &["--dataplane=demo-app"],
            "Dataplane \"demo-app\": 5 listeners, 5 clusters",
        ),
    ] {
        let path = format!("{folder}/{name}");
        let mesh = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/mesh.yaml");
        let paths = if name.starts_with("mesh") { vec![path.as_str()] } else { vec![&path, mesh] };
        let (code, stdout, stderr) = output(program().args(options).arg("validate").args(&paths));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{name}");
        assert!(
            stdout.starts_with(&format!("{} documents are well-formed; ", paths.len()))
                && stdout.contains(summary),
            "{name}: {stdout}"
        );
    }
    // Both spellings of one thing in one folder are the same thing twice.
    let (code, _, stderr) = output(program().args(["validate", folder]));
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("found the same ProxyTemplate again, after "), "{stderr}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, stderr) = output(program().args(["--inbound-port", &port]));
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains(&format!("cannot listen on [::]:{port} (--inbound-port)")), "{stderr}");
    assert!(stderr.contains("stop the program that holds this port"), "{stderr}");
}

#[test]
fn wait_returns_when_it_is_ready_and_says_why_it_is_not() {
    let ready = Sidecar::start(&["--verify-redirect=off"]);
    let status = format!("--status-address=[::]:{}", ready.ports[STATUS]);
    let (code, stdout, stderr) =
        output(program().args([&status, "wait", "--for", "ready", "--timeout", "20s"]));
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "", ""));

    let never = Sidecar::start(&[]);
    let status = format!("127.0.0.1:{}", never.ports[STATUS]);
    let (code, _, stderr) = output(program().env("CULVERT_STATUS_ADDRESS", status).args([
        "wait",
        "--for",
        "ready",
        "--timeout",
        "2s",
    ]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("not ready after 2s") && stderr.contains("redirect"), "{stderr}");

    let (code, _, stderr) = output(program().args(["wait", "--for", "christmas"]));
    assert_eq!(code, Some(64), "{stderr}");
}

/// Opens connections until the process has no file left, and sees it come back.
#[test]
fn a_listener_without_files_waits_and_goes_on() {
    let sidecar = Sidecar::start_with_files(32, &["--verify-redirect=off"]);
    let mut hoard: Vec<_> =
        (0..40).map(|_| TcpStream::connect(("127.0.0.1", sidecar.ports[STATUS])).unwrap()).collect();
    // It takes a moment until the last file is gone: the connections of the start are closed only then.
    let until = Instant::now() + PATIENCE;
    let mut waiting = loop {
        let mut stream = TcpStream::connect(("127.0.0.1", sidecar.ports[OUTBOUND])).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // Served means refused by a guard.
        if stream.read(&mut [0]).unwrap_err().kind() == std::io::ErrorKind::WouldBlock {
            break stream;
        }
        assert!(Instant::now() < until, "it never ran out of files");
    };
    let busy = cpu_ticks(sidecar.child.id());
    waiting.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let _ = waiting.read(&mut [0]);
    let spent = cpu_ticks(sidecar.child.id()) - busy;
    assert!(spent < 30, "the loop spins: {spent} ticks of 10 ms in a second");
    hoard.clear();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let metrics = sidecar.ask(STATUS, "GET /metrics");
    let counted = metrics
        .lines()
        .find_map(|line| {
            line.strip_prefix("culvert_accept_errors_total{direction=\"outbound\",kind=\"files\"} ")
        })
        .unwrap();
    assert!(counted.parse::<u64>().unwrap() > 0, "{metrics}");
}

/// Returns a port that no other test of this program was given. It lies below the range from which the kernel takes
/// ports by itself (32768 and above), so that no connection and no listener on port 0 takes it before the sidecar does.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_768, "no port is left for this test");
        if TcpListener::bind(("::", port)).is_ok() {
            return port;
        }
    }
}

fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A running sidecar on ports of its own, which nothing is redirected to.
struct Sidecar {
    child: Child,
    ports: [u16; 4],
}

impl Sidecar {
    fn start(arguments: &[&str]) -> Self {
        Self::start_program(program, Stdio::null, arguments)
    }

    /// Starts one with a limit on open files.
    fn start_with_files(files: u32, arguments: &[&str]) -> Self {
        let limited = || {
            let mut shell = Command::new("/bin/sh");
            let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
            shell.env_clear().stdin(Stdio::null()).args(["-c", &script]);
            shell.arg(env!("CARGO_BIN_EXE_culvert-sidecar"));
            shell
        };
        Self::start_program(limited, Stdio::null, arguments)
    }

    fn start_program(program: impl Fn() -> Command, stderr: impl Fn() -> Stdio, arguments: &[&str]) -> Self {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut sidecar = Self::spawn(program(), stderr(), arguments);
            // Another program may take a port that was free a moment ago; then other ports are as good.
            while sidecar.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", sidecar.ports[STATUS])).is_ok() {
                    return sidecar;
                }
                assert!(Instant::now() < until, "the status port never opened");
                std::thread::yield_now();
            }
        }
    }

    fn spawn(mut program: Command, stderr: Stdio, arguments: &[&str]) -> Self {
        let ports = std::array::from_fn(|_| free_port());
        let [inbound, outbound, admin, status] = ports;
        let child = program
            .arg(format!("--inbound-port={inbound}"))
            .arg(format!("--outbound-port={outbound}"))
            .arg(format!("--admin-address=127.0.0.1:{admin}"))
            .arg(format!("--status-address=[::]:{status}"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { child, ports }
    }

    fn ask(&self, port: usize, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[port])).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for the end, and returns the exit code and stdout.
    fn finish(mut self) -> (Option<i32>, String) {
        let mut printed = String::new();
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_string(&mut printed).unwrap();
        }
        (self.child.wait().unwrap().code(), printed)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const INBOUND: usize = 0;
const OUTBOUND: usize = 1;
const ADMIN: usize = 2;
const STATUS: usize = 3;

#[test]
fn a_connection_to_the_listeners_themselves_is_reset_and_counted() {
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    for port in [INBOUND, OUTBOUND] {
        for ip in ["127.0.0.1", "::1"] {
            let address: SocketAddr = (ip.parse::<std::net::IpAddr>().unwrap(), sidecar.ports[port]).into();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let error = stream.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{address}");
        }
    }
    let stats = sidecar.ask(ADMIN, "GET /stats");
    assert!(stats.contains("\nloop_rejected: 4\n"), "{stats}");
    let metrics = sidecar.ask(STATUS, "GET /metrics");
    assert!(
        metrics
            .contains("\nculvert_loop_rejected_total{direction=\"outbound\",guard=\"not_redirected\"} 2\n"),
        "{metrics}"
    );
}

#[test]
fn a_log_that_is_not_read_delays_no_connection() {
    // A pipe: with 64 KiB it is full after a few hundred connections.
    let mut sidecar = Sidecar::start_program(
        program,
        Stdio::piped,
        &["--verify-redirect=off", "--log-level=debug", "--drain-delay=0", "--drain-time=0"],
    );
    for _ in 0..1000 {
        // The reset may come before connect has returned.
        let read = TcpStream::connect(("127.0.0.1", sidecar.ports[OUTBOUND])).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read(&mut [0])
        });
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    let mut log = sidecar.child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    });
    sidecar.signal("TERM");
    assert_eq!(sidecar.finish().0, Some(0));
    let log = reading.join().unwrap();
    assert!(log.contains(" INFO ready "), "{log}");
}

#[test]
fn without_a_proof_of_capture_it_is_alive_and_not_ready() {
    let sidecar = Sidecar::start(&[]);
    assert!(sidecar.ask(STATUS, "GET /live").starts_with("HTTP/1.1 200 "));
    let ready = sidecar.ask(STATUS, "GET /ready");
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.contains("redirect"), "{ready}");
    assert!(sidecar.ask(ADMIN, "GET /ready").starts_with("HTTP/1.1 503 "));
}

#[test]
fn sigterm_without_connections_ends_it_after_the_delay_with_0() {
    // Other programs of this machine hold sockets, for as long as they like.
    let sidecar = Sidecar::start(&[
        "--verify-redirect=off",
        "--drain-delay=300ms",
        "--drain-time=0",
        "--access-log=stdout",
    ]);
    assert!(sidecar.ask(STATUS, "GET /ready").starts_with("HTTP/1.1 200 "));
    drop(TcpStream::connect(("127.0.0.1", sidecar.ports[OUTBOUND])).unwrap());
    let start = Instant::now();
    sidecar.signal("TERM");
    let (code, log) = sidecar.finish();
    assert_eq!(code, Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    let record: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(record["reason"], "no_original_dst");
    assert_eq!(record["direction"], "outbound");
}

#[test]
fn a_second_sigterm_and_quitquitquit_mean_now() {
    for twice in [true, false] {
        let sidecar = Sidecar::start(&["--verify-redirect=off", "--drain-delay=1h"]);
        let start = Instant::now();
        if twice {
            sidecar.signal("TERM");
            while !sidecar.ask(STATUS, "GET /ready").starts_with("HTTP/1.1 503 ") {
                assert!(start.elapsed() < PATIENCE);
            }
            sidecar.signal("TERM");
        } else {
            assert!(sidecar.ask(ADMIN, "POST /quitquitquit").starts_with("HTTP/1.1 200 "));
        }
        assert_eq!(sidecar.finish().0, Some(0));
        assert!(start.elapsed() < PATIENCE);
    }
}

#[test]
fn the_inbound_half_drains_alone() {
    let sidecar = Sidecar::start(&["--verify-redirect=off", "--drain-delay=0", "--drain-time=0"]);
    sidecar.signal("USR2");
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", sidecar.ports[INBOUND])).is_ok() {
        assert!(Instant::now() < until, "the inbound listener never closed");
    }
    assert!(TcpStream::connect(("127.0.0.1", sidecar.ports[OUTBOUND])).is_ok());
    assert!(sidecar.ask(STATUS, "GET /ready").starts_with("HTTP/1.1 503 "));
    sidecar.signal("TERM");
    assert_eq!(sidecar.finish().0, Some(0));
}

/// The page in a browser, with nothing but the sidecar to talk to: its script parses the numbers and fills the tables.
#[test]
fn the_page_works_in_a_browser() {
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    // Something to show: refused by a guard.
    let mut stream = TcpStream::connect(("127.0.0.1", sidecar.ports[OUTBOUND])).unwrap();
    assert!(stream.read(&mut [0]).is_err());
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("http://127.0.0.1:{}/", sidecar.ports[ADMIN]))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs Debian's chromium, which tests/run installs: apt-get install chromium");
    let mut out = browser.stdout.take().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut dom = String::new();
        let _ = out.read_to_string(&mut dom);
        let _ = sender.send(dom);
    });
    let dom = receiver.recv_timeout(Duration::from_secs(60));
    let _ = browser.kill();
    let _ = browser.wait();
    let dom = dom.expect("the browser took more than a minute");
    for part in [
        "<body data-state=\"live\">",
        "<span id=\"ready\" class=\"badge good\">ready</span>",
        "outbound:passthrough:ipv4, connections",
        "0 of 1,024",
        "[::]:",
        "An outbound connection had no original destination",
        "<path d=\"M",
        "None is open.",
    ] {
        assert!(dom.contains(part), "{part} is not in the page:\n{dom}");
    }
}
