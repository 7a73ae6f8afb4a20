//! The controller with a large cluster: `cargo bench -p culvert-tests --bench controller`.
//!
//! Memory with 10,000 pods and 1,000 Services, the time from a change at the API server to a sidecar's stream, the time of a
//! first look-up, and the memory of a stream. API server and sidecars are this program. Then a sidecar in a redirected pod: see
//! [`sidecar`].

mod sidecar;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::api_server::{ApiServer, TokenOf};
use culvert_tests::control::{Connection, destinations};
use culvert_tests::http;
use culvert_tests::process::Process;
use culvert_tests::process::binaries::Binaries;
use culvert_tests::process::lab_exec;
use culvert_tests::until::until_some;
use serde_json::{Value, json};

const PODS: usize = 10_000;
const SERVICES: usize = 1_000;
/// Pods behind a Service.
const BEHIND: usize = PODS / SERVICES;
const LOOK_UPS: usize = 500;
const CHANGES: usize = 100;
const STREAMS: usize = 10_000;
/// One address may have 512 connections.
const STREAMS_OF_ADDRESS: usize = 500;
/// The bounds that the product promises.
const MOST_MEMORY: u64 = 200 << 20;
const CHANGED_WITHIN: Duration = Duration::from_secs(1);
const LOOKED_UP_WITHIN: Duration = Duration::from_millis(10);
const MOST_OF_A_STREAM: u64 = 40 << 10;
/// For what takes seconds, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const NAME: &str = "culvert-controller.mesh.svc";

fn main() -> ExitCode {
    if let Err(code) = lab_exec::play_if_asked() {
        return code;
    }
    // `cluster` or `sidecar` runs one half.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let is_asked = |half: &str| only.as_deref().is_none_or(|only| only == half);
    let cluster = if is_asked("cluster") { run() } else { Ok(()) };
    match cluster.and_then(|()| if is_asked("sidecar") { sidecar::run() } else { Ok(()) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ip(number: usize) -> String {
    format!("10.{}.{}.{}", 16 + number / 62_500, number / 250 % 250, number % 250 + 1)
}

/// A pod of the size that Kubernetes sends: some 4 KiB, most of which nobody needs here.
fn pod(number: usize) -> Value {
    let app = format!("app-{}", number / BEHIND);
    let environment: Vec<Value> = (0..40)
        .map(|n| json!({ "name": format!("SETTING_{n}"), "value": "a value of some length" }))
        .collect();
    json!({
        "metadata": { "name": format!("pod-{number}"), "namespace": "shop", "uid": format!("uid-{number}"),
                      "labels": { "app": app, "app.kubernetes.io/name": app, "version": "v1" } },
        "spec": {
            "serviceAccountName": app, "nodeName": format!("node-{}", number % 300),
            "containers": [{ "name": "app", "image": "example.com/app", "env": environment,
                             "ports": [{ "name": "http", "containerPort": 8080 }] }],
            "initContainers": [{ "name": "culvert-sidecar", "image": "culvert:1", "args": ["--control=https://x"] }],
        },
        "status": { "phase": "Running", "podIP": ip(number), "podIPs": [{ "ip": ip(number) }],
                    "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

fn slice(number: usize, ready: bool) -> (String, Value) {
    let endpoints: Vec<Value> = (number * BEHIND..(number + 1) * BEHIND)
        .map(|pod| {
            json!({ "addresses": [ip(pod)], "conditions": { "ready": ready || pod % BEHIND != 0 },
                    "targetRef": { "kind": "Pod", "namespace": "shop", "name": format!("pod-{pod}") } })
        })
        .collect();
    let slice = json!({
        "metadata": { "name": format!("app-{number}-x"), "namespace": "shop",
                      "labels": { "kubernetes.io/service-name": format!("app-{number}") } },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "port": 8080, "protocol": "TCP" }],
    });
    (format!("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/app-{number}-x"), slice)
}

fn service_ip(number: usize) -> String {
    format!("10.96.{}.{}", number / 250, number % 250 + 1)
}

fn cluster() -> Result<ApiServer> {
    let server = ApiServer::local()?;
    server.namespace("shop", &[("culvert.dev/inject", "enabled")], &[]);
    server.namespace("mesh", &[], &[]);
    for number in 0..PODS {
        server.put(&format!("/api/v1/namespaces/shop/pods/pod-{number}"), pod(number));
    }
    for number in 0..SERVICES {
        let service = json!({
            "metadata": { "name": format!("app-{number}"), "namespace": "shop" },
            "spec": { "clusterIP": service_ip(number), "clusterIPs": [service_ip(number)],
                      "selector": { "app": format!("app-{number}") }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        });
        server.put(&format!("/api/v1/namespaces/shop/services/app-{number}"), service);
        let (path, slice) = slice(number, true);
        server.put(&path, slice);
    }
    for number in 0..STREAMS {
        let of = TokenOf {
            namespace: "shop".to_owned(),
            pod: format!("pod-{number}"),
            pod_uid: format!("uid-{number}"),
            account: format!("app-{}", number / BEHIND),
            node: "node".to_owned(),
            audiences: vec!["culvert.dev".to_owned()],
        };
        server.register_token(&format!("token-{number}"), of);
    }
    Ok(server)
}

fn start(server: &ApiServer) -> Result<(Process, SocketAddr)> {
    let mut command = Command::new(&Binaries::built()?.install);
    command
        .args(["controller", "--service", "culvert-controller.mesh"])
        .args(["--listen", "127.0.0.1:0", "--status-address", "127.0.0.1:0", "--service-account"])
        .arg(server.service_account())
        .env_clear()
        .env("HOSTNAME", "bench")
        .env("KUBERNETES_SERVICE_HOST", server.address().ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", server.address().port().to_string());
    let process = Process::start(command)?;
    let listen = process.address_of("--listen", PATIENCE)?;
    let status = process.address_of("--status-address", PATIENCE)?;
    let ready =
        || http::get(TcpStream::connect(status).ok()?, "/ready").ok().filter(|page| page.status == 200);
    until_some(PATIENCE, ready).context("it is not ready")?;
    Ok((process, listen))
}

/// Bytes that a process has in memory, now and at most.
fn memory(process: &Process) -> Result<(u64, u64)> {
    memory_of(process.pid())
}

fn memory_of(pid: u32) -> Result<(u64, u64)> {
    Ok((status_of(pid, "VmRSS:")?, status_of(pid, "VmHWM:")?))
}

/// A field of a process's status, in bytes.
fn status_of(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("no {name} in the status"))? << 10)
}

/// The time at this place of a hundred.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

fn run() -> Result<()> {
    let server = cluster()?;
    let began = Instant::now();
    let (process, listen) = start(&server)?;
    let ready = began.elapsed();
    let (now, peak) = memory(&process)?;
    println!(
        "{PODS} pods, {SERVICES} Services: ready in {ready:.1?}, {} MiB, at most {} MiB",
        now >> 20,
        peak >> 20
    );
    let map = "/api/v1/namespaces/shop/configmaps/culvert-mesh";
    let map = until_some(PATIENCE, || server.get(map)).context("no ConfigMap")?;
    let bundle = map["data"]["ca.crt"].as_str().context("no ca.crt")?;

    let connection = Connection::open(listen, bundle, NAME)?;
    let mut stream = connection.stream(Some("token-0"))?;
    let mut times = Vec::new();
    for number in 0..LOOK_UPS {
        let at = format!("{}:80", service_ip(number));
        let began = Instant::now();
        stream.ask_destinations(&[&at])?;
        let answer = destinations(&stream.response()?)?;
        times.push(began.elapsed());
        ensure!(answer[0].1.len() == BEHIND + 1, "{answer:?}");
    }
    let (median, slow) = (percentile(&mut times, 50), percentile(&mut times, 99));
    println!("look-up of a Service with {BEHIND} pods: median {median:.2?}, p99 {slow:.2?}");

    let mut changes = Vec::new();
    for round in 0..CHANGES {
        let (path, slice) = slice(round, false);
        let began = Instant::now();
        server.put(&path, slice);
        stream.next(PATIENCE)?.context("no change")?;
        changes.push(began.elapsed());
    }
    let (change, late) = (percentile(&mut changes, 50), percentile(&mut changes, 99));
    println!("change at the API server to the stream: median {change:.2?}, p99 {late:.2?}");

    let (before, peak) = memory(&process)?;
    let source =
        |number: usize| IpAddr::from([127, 0, 1, u8::try_from(number / STREAMS_OF_ADDRESS + 1).unwrap_or(1)]);
    let connections: Vec<Connection> = (1..STREAMS)
        .map(|number| connection.another(source(number), listen, (bundle, NAME)))
        .collect::<Result<_>>()?;
    let mut streams = Vec::new();
    for (number, connection) in (1..).zip(&connections) {
        let mut stream = connection.stream(Some(&format!("token-{number}")))?;
        stream.ask_documents()?;
        stream.response()?;
        streams.push(stream);
    }
    let (after, whole) = memory(&process)?;
    let each = after.saturating_sub(before) / streams.len() as u64;
    println!("{} idle streams: {} KiB each; at most {} MiB in all", streams.len(), each >> 10, whole >> 20);

    ensure!(peak <= MOST_MEMORY, "more than {} MiB", MOST_MEMORY >> 20);
    ensure!(slow <= LOOKED_UP_WITHIN, "a look-up takes more than {LOOKED_UP_WITHIN:?}");
    ensure!(late <= CHANGED_WITHIN, "a change takes more than {CHANGED_WITHIN:?}");
    ensure!(each <= MOST_OF_A_STREAM, "a stream takes more than {} KiB", MOST_OF_A_STREAM >> 10);
    Ok(())
}
