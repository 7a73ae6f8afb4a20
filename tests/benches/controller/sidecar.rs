//! The sidecar of a redirected pod, which the controller tells everything: the time of a first call to each of 1,000 Services as
//! the application sees it, the memory that these take, and five minutes without a controller.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::api_server::{ApiServer, TokenOf};
use culvert_tests::process::Process;
use culvert_tests::process::binaries::Binaries;
use culvert_tests::process::lab_exec;
use culvert_tests::until::until_some;
use culvert_tests::{Lab, Sidecar, http};
use serde_json::json;

use crate::{NAME, PATIENCE, memory_of, percentile, service_ip, status_of};

const DESTINATIONS: usize = 1_000;
/// The first of them: most pods call no more.
const FEW: usize = 100;
const PORT: u16 = 7443;
/// A pod that comes later.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 1);
/// The application's user.
const APP: u32 = 1000;
/// Time without a controller, and between calls in it.
const AWAY: Duration = Duration::from_secs(300);
const EACH: Duration = Duration::from_secs(1);
/// The bounds that the product promises.
const MOST_MEMORY: u64 = 8 << 20;
const CALLED_WITHIN: Duration = Duration::from_millis(10);
const BACK_WITHIN: Duration = Duration::from_secs(5);

fn pod_ip(number: usize) -> String {
    format!("10.200.{}.{}", number / 250, number % 250 + 1)
}

fn member(server: &ApiServer, name: &str, ip: &str, account: &str) {
    let pod = json!({
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": { "app": account } },
        "spec": { "serviceAccountName": account, "nodeName": "node",
                  "containers": [{ "name": "app", "image": "app", "ports": [{ "containerPort": 8080 }] }],
                  "initContainers": [{ "name": "culvert-sidecar", "image": "culvert:1", "args": ["--control=https://x"] }] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
                    "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    server.put(&format!("/api/v1/namespaces/shop/pods/{name}"), pod);
}

fn endpoints(server: &ApiServer, number: usize, pod: &str) {
    let slice = json!({
        "metadata": { "name": format!("app-{number}-x"), "namespace": "shop",
                      "labels": { "kubernetes.io/service-name": format!("app-{number}") } },
        "addressType": "IPv4", "ports": [{ "port": 8080, "protocol": "TCP" }],
        "endpoints": [{ "addresses": ["10.9.9.9"], "conditions": { "ready": true },
                        "targetRef": { "kind": "Pod", "namespace": "shop", "name": pod } }],
    });
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/app-{number}-x");
    server.put(&path, slice);
}

/// A cluster in which the lab's pod is `shop/here`, and each Service has one pod.
fn cluster(lab: &Lab) -> Result<ApiServer> {
    let server = ApiServer::start(lab.peer.listen("127.0.0.1:6443")?)?;
    server.namespace("shop", &[("culvert.dev/inject", "enabled")], &[]);
    server.namespace("mesh", &[], &[]);
    member(&server, "here", "10.77.0.2", "here");
    let of = TokenOf {
        namespace: "shop".to_owned(),
        pod: "here".to_owned(),
        pod_uid: "uid-here".to_owned(),
        account: "here".to_owned(),
        node: "node".to_owned(),
        audiences: vec!["culvert.dev".to_owned()],
    };
    server.register_token("token", of);
    for number in 0..DESTINATIONS {
        member(&server, &format!("pod-{number}"), &pod_ip(number), &format!("app-{number}"));
        let service = json!({
            "metadata": { "name": format!("app-{number}"), "namespace": "shop" },
            "spec": { "clusterIP": service_ip(number), "clusterIPs": [service_ip(number)],
                      "selector": { "app": format!("app-{number}") }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        });
        server.put(&format!("/api/v1/namespaces/shop/services/app-{number}"), service);
        endpoints(&server, number, &format!("pod-{number}"));
    }
    // Without mTLS: what is measured is the look-up.
    let mesh = json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" }, "spec": {} });
    server.serve("kuma.io/v1alpha1", "meshes", "Mesh", false);
    server.put("/apis/kuma.io/v1alpha1/meshes/default", mesh);
    Ok(server)
}

fn controller(lab: &Lab, server: &ApiServer) -> Result<Process> {
    let mut command: Command = lab_exec::command(lab.peer.namespace(), 0, None, &Binaries::built()?.install)?;
    command
        .args(["controller", "--service", "culvert-controller.mesh", "--crds", "never", "--status-address"])
        .args(["127.0.0.1:0", "--listen", &format!("10.77.0.1:{PORT}"), "--service-account"])
        .arg(server.service_account())
        .env_clear()
        .env("HOSTNAME", "bench")
        .env("KUBERNETES_SERVICE_HOST", server.address().ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", server.address().port().to_string());
    let process = Process::start(command)?;
    let status = process.address_of("--status-address", PATIENCE)?;
    let ready = || {
        let stream = lab.peer.connect(status).ok()?;
        http::get(stream, "/ready").ok().filter(|page| page.status == 200)
    };
    until_some(PATIENCE, ready).context("the controller is not ready")?;
    Ok(process)
}

fn sidecar<'l>(lab: &'l Lab, server: &ApiServer) -> Result<Sidecar<'l>> {
    let map = "/api/v1/namespaces/shop/configmaps/culvert-mesh";
    let map = until_some(PATIENCE, || server.get(map)).context("no ConfigMap")?;
    let (bundle, token) = (lab.folder().join("ca.crt"), lab.folder().join("token"));
    fs::write(&bundle, map["data"]["ca.crt"].as_str().context("no ca.crt")?)?;
    fs::write(&token, "token")?;
    let etc = lab.hosts(&format!("10.77.0.1 {NAME}\n"))?;
    let options = [
        format!("--control=https://{NAME}:{PORT}"),
        format!("--control-ca={}", bundle.display()),
        format!("--control-token={}", token.display()),
        "--pod-name=here".to_owned(),
        "--pod-namespace=shop".to_owned(),
        "--pod-ip=10.77.0.2".to_owned(),
        "--service-account=here".to_owned(),
        "--trust-domain=cluster.local".to_owned(),
    ];
    lab.pod.sidecar().options(options).etc(&etc).start()
}

/// Calls a Service, and returns the time from the dial to the server's first byte, and that byte.
fn call(lab: &Lab, number: usize) -> Result<(Duration, u8)> {
    let to = format!("{}:80", service_ip(number));
    lab.pod.as_uid(APP).run(|| {
        let began = Instant::now();
        let mut stream = TcpStream::connect(&to).with_context(|| to.clone())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        stream.read_exact(&mut byte).with_context(|| to.clone())?;
        Ok((began.elapsed(), byte[0]))
    })
}

pub(crate) fn run() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    lab.peer.add_local_route("10.200.0.0/16")?;
    lab.peer.add_local_route("10.201.0.0/16")?;
    // It says which of the pods was called.
    let _server = lab.peer.serve("0.0.0.0:8080", |mut stream: TcpStream| {
        let is_other = stream.local_addr()?.ip() == OTHER;
        stream.write_all(if is_other { b"2" } else { b"1" })
    })?;
    let server = cluster(&lab)?;
    let first_controller = controller(&lab, &server)?;
    let sidecar = sidecar(&lab, &server)?;
    let own = || status_of(sidecar.pid(), "RssAnon:");
    let fresh = own()?;
    let calls =
        || -> Result<Vec<Duration>> { (0..DESTINATIONS).map(|number| Ok(call(&lab, number)?.0)).collect() };
    let (mut first, mut again) = (calls()?, calls()?);
    let mut few = first[..FEW].to_vec();
    println!(
        "a first call to each of {FEW} Services: median {:.2?}, p99 {:.2?}",
        percentile(&mut few, 50),
        percentile(&mut few, 99)
    );
    let slow = percentile(&mut first, 99);
    println!(
        "a first call to each of {DESTINATIONS} Services: median {:.2?}, p99 {slow:.2?}; the next: {:.2?}, {:.2?}",
        percentile(&mut first, 50),
        percentile(&mut again, 50),
        percentile(&mut again, 99)
    );
    let ((all, peak), known) = (memory_of(sidecar.pid())?, own()?);
    println!(
        "a sidecar: {} KiB of its own at its start, {} KiB with {DESTINATIONS} destinations; with the pages of the program's \
         file, which all sidecars of a node share, {} KiB, at most {} KiB",
        fresh >> 10,
        known >> 10,
        all >> 10,
        peak >> 10
    );

    drop(first_controller);
    let (began, mut made) = (Instant::now(), 0);
    while began.elapsed() < AWAY {
        call(&lab, made % DESTINATIONS)?;
        made += 1;
        #[expect(clippy::disallowed_methods, reason = "minutes without a controller are what is measured")]
        thread::sleep(EACH);
    }
    // The cluster has changed meanwhile: a Service has another pod, at which another server answers.
    member(&server, "other", &OTHER.to_string(), "app-0");
    endpoints(&server, 0, "other");
    let _second = controller(&lab, &server)?;
    let back = Instant::now();
    until_some(PATIENCE, || call(&lab, 0).ok().filter(|(_, byte)| *byte == b'2')).context("no change")?;
    let back = back.elapsed();
    println!(
        "{made} calls in {AWAY:.0?} without a controller, none failed; all is right {back:.1?} after its return"
    );

    ensure!(slow <= CALLED_WITHIN, "a first call takes more than {CALLED_WITHIN:?}");
    ensure!(back <= BACK_WITHIN, "a change takes more than {BACK_WITHIN:?} after the controller's return");
    ensure!(known <= MOST_MEMORY, "a sidecar takes more than {} MiB of its own", MOST_MEMORY >> 20);
    Ok(())
}
