// SPDX-License-Identifier: Apache-2.0
//! Active checks by MeshHealthCheck and `serviceProbe`, on real servers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{Behaviour, echo};
use culvert_tests::tls::TlsServer;
use culvert_tests::{Authority, Family, Lab, Sidecar, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_taken_and_reset};
use crate::walkthrough::{dump, of_dump, onboarded, talks, with_documents};

/// The outbound to `web`.
const CALL: &str = "127.0.0.1:7100";

/// Checks that come quickly; the servers of `web` are ports of the peer.
const QUICK: &str =
    "interval: 1s, noTrafficInterval: 1s, timeout: 1s, unhealthyThreshold: 2, healthyThreshold: 1";

fn documents(mesh: &str, ports: &[u16], conf: &str) -> String {
    let web: Vec<_> =
        ports.iter().map(|port| format!("{{port: {port}, tags: {{kuma.io/service: web}}}}")).collect();
    let policy = if conf.is_empty() {
        String::new()
    } else {
        format!(
            "---\n{{type: MeshHealthCheck, name: h, spec: {{targetRef: {{kind: Mesh}}, to: [{{targetRef: {{kind: MeshService, name: web}}, default: {{{QUICK}, {conf}}}}}]}}}}\n"
        )
    };
    format!(
        "{{type: Mesh, name: default{mesh}}}\n---\n{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}, serviceProbe: {{tcp: {{}}, interval: 1s}}}}], outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}\n---\n{{type: Dataplane, name: web, networking: {{address: 192.0.2.10, inbound: [{}]}}}}\n{policy}",
        web.join(", ")
    )
}

struct World {
    lab: Lab,
    folder: PathBuf,
}

impl World {
    fn new(ports: &[u16], conf: &str) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        fs::write(folder.join("mesh.yaml"), documents("", ports, conf))?;
        Ok(Self { lab, folder })
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        with_documents(&self.lab, &self.folder, &["--dataplane", "here"])
    }

    fn change(&self, ports: &[u16], conf: &str) -> Result<()> {
        replace(&self.folder.join("mesh.yaml"), &documents("", ports, conf))
    }

    fn call(&self) -> Result<()> {
        talks(self.lab.pod.as_uid(APP).connect(CALL)?)
    }

    /// A call that finds no endpoint.
    fn is_refused(&self) {
        assert_taken_and_reset(self.lab.pod.as_uid(APP).connect(CALL), "no endpoint passes its checks");
    }
}

/// The flags of an endpoint in `/clusters`.
fn flags(sidecar: &Sidecar<'_>, endpoint: &str) -> Result<String> {
    let all = sidecar.admin("/clusters")?.body;
    let line = all.lines().find_map(|line| line.strip_prefix(&format!("{endpoint}::health_flags::")));
    line.map(str::to_owned).with_context(|| format!("no flags of {endpoint} in {all}"))
}

/// Waits for flags of an endpoint.
fn has(sidecar: &Sidecar<'_>, endpoint: &str, wanted: &str) {
    eventually!(flags(sidecar, endpoint).is_ok_and(|flags| flags == wanted), SOON);
}

const FAILED: &str = "/failed_active_hc";

/// Kuma's own case: a server that answers what it gets, and a check that expects something else.
#[test]
fn a_server_that_does_not_answer_as_expected_is_marked_and_not_called() -> Result<()> {
    const NO_PANIC: &str = "healthyPanicThreshold: 0, failTrafficOnPanic: true";
    let world = World::new(&[82], &format!("{NO_PANIC}, tcp: {{send: foo, receive: [foo]}}"))?;
    let _web = world.lab.peer.serve("192.0.2.10:82", echo())?;
    let sidecar = world.sidecar()?;
    world.call()?;
    has(&sidecar, "web::192.0.2.10:82", "healthy");
    world.change(&[82], &format!("{NO_PANIC}, tcp: {{send: foo, receive: [baz]}}"))?;
    has(&sidecar, "web::192.0.2.10:82", FAILED);
    world.is_refused();
    ensure!(sidecar.stat("cluster.web.upstream_cx_none_healthy")? == 1);
    ensure!(sidecar.stat("cluster.web.health_check.healthy")? == 0);
    ensure!(sidecar.stat("cluster.web.health_check.failure")? > 0);
    ensure!(sidecar.stat("cluster.web.health_check.success")? > 0, "before the change");
    let record = sidecar.access(SOON, |record| (record["reason"] == "no_endpoint").then(|| record.clone()));
    let record = record.context("no record of the refusal")?;
    ensure!(record["error"].as_str().is_some_and(|error| error.contains("active checks")), "{record}");
    let dump = dump(&sidecar)?;
    let cluster = of_dump(&dump, "web").context("no cluster")?;
    let check = &cluster["health_checks"][0];
    ensure!(check["tcp_health_check"]["send"]["text"] == "666f6f", "{cluster}");
    ensure!(check["tcp_health_check"]["receive"][0]["text"] == "62617a", "{cluster}");
    ensure!(cluster["common_lb_config"]["healthy_panic_threshold"]["value"] == 0.0, "{cluster}");
    world.change(&[82], &format!("{NO_PANIC}, tcp: {{send: foo, receive: [foo]}}"))?;
    has(&sidecar, "web::192.0.2.10:82", "healthy");
    world.call()
}

/// Echoes, or while it is paused takes what comes and says nothing.
fn pausable(paused: Arc<AtomicBool>) -> impl Behaviour {
    move |mut stream: TcpStream| {
        let mut buffer = [0; 64];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                _ if paused.load(Ordering::SeqCst) => {}
                n => stream.write_all(&buffer[..n])?,
            }
        }
    }
}

#[test]
fn a_server_that_pauses_gets_no_call_until_it_is_back() -> Result<()> {
    let world = World::new(&[82, 83], "tcp: {send: foo, receive: [oo]}")?;
    let paused = Arc::new(AtomicBool::new(false));
    let first = world.lab.peer.serve("192.0.2.10:82", pausable(Arc::clone(&paused)))?;
    let _second = world.lab.peer.serve("192.0.2.10:83", echo())?;
    let sidecar = world.sidecar()?;
    for endpoint in ["web::192.0.2.10:82", "web::192.0.2.10:83"] {
        has(&sidecar, endpoint, "healthy");
    }
    paused.store(true, Ordering::SeqCst);
    has(&sidecar, "web::192.0.2.10:82", FAILED);
    for _ in 0..10 {
        world.call().context("one of two endpoints answers")?;
    }
    ensure!(sidecar.stat("cluster.web.health_check.healthy")? == 1);
    // A change of something else forgets nothing.
    world.change(&[82, 83, 84], "tcp: {send: foo, receive: [oo]}")?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    ensure!(flags(&sidecar, "web::192.0.2.10:82")? == FAILED);
    world.change(&[82, 83], "tcp: {send: foo, receive: [oo]}")?;
    paused.store(false, Ordering::SeqCst);
    has(&sidecar, "web::192.0.2.10:82", "healthy");
    let before = first.accepted();
    eventually!(world.call().is_ok() && first.accepted() > before, SOON);
    Ok(())
}

#[test]
fn where_too_few_servers_pass_no_call_is_let_through_or_all_are_tried() -> Result<()> {
    let panics = |fails: bool| format!("healthyPanicThreshold: 61, failTrafficOnPanic: {fails}, tcp: {{}}");
    let ports = [82, 83, 85, 86];
    let world = World::new(&ports, &panics(true))?;
    let peer = &world.lab.peer;
    let _web = (peer.serve("192.0.2.10:82", echo())?, peer.serve("192.0.2.10:83", echo())?);
    let sidecar = world.sidecar()?;
    for port in [85, 86] {
        has(&sidecar, &format!("web::192.0.2.10:{port}"), FAILED);
    }
    world.is_refused();
    world.change(&ports, &panics(false))?;
    eventually!(world.call().is_ok(), SOON);
    world.change(&ports, &panics(true))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 2), SOON);
    world.is_refused();
    // Three of four are enough.
    let third = world.lab.peer.serve("192.0.2.10:85", echo())?;
    has(&sidecar, "web::192.0.2.10:85", "healthy");
    let retries = sidecar.stat("cluster.web.upstream_rq_retry")?;
    let before = third.accepted();
    eventually!(world.call().is_ok() && third.accepted() > before, SOON);
    for _ in 0..6 {
        world.call()?;
    }
    ensure!(sidecar.stat("cluster.web.upstream_rq_retry")? == retries, "the fourth is not even tried");
    Ok(())
}

#[test]
fn checks_of_members_go_through_tls() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let authority = Authority::new("mesh default")?;
    authority.service("here")?.write(&lab.folder().join("identity"))?;
    let mtls = ", mtls: {enabledBackend: ca, backends: [{name: ca, type: provided, mode: STRICT}]}";
    fs::write(folder.join("mesh.yaml"), documents(mtls, &[82, 83], "tcp: {}"))?;
    let member = |service: &str| -> Result<_> {
        let tls = TlsServer::new(&authority.service(service)?, 0)?;
        Ok(move |stream: TcpStream| -> std::io::Result<()> {
            let mut stream = tls.over(stream).map_err(std::io::Error::other)?;
            let mut byte = [0];
            while stream.read(&mut byte)? != 0 {
                stream.write_all(&byte)?;
            }
            Ok(())
        })
    };
    let _web = lab.peer.serve("192.0.2.10:82", member("web")?)?;
    let _other = lab.peer.serve("192.0.2.10:83", member("db")?)?;
    let identity = lab.folder().join("identity").display().to_string();
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "here", "--identity", &identity])?;
    has(&sidecar, "web::192.0.2.10:82", "healthy");
    has(&sidecar, "web::192.0.2.10:83", FAILED);
    eventually!(sidecar.stat("cluster.web.health_check.success").is_ok_and(|n| n > 0), SOON);
    ensure!(sidecar.stat("listener_manager.outbound.ssl.connection_error")? > 0);
    for _ in 0..4 {
        talks(lab.pod.as_uid(APP).connect(CALL)?).context("the member that passes")?;
    }
    ensure!(sidecar.stat("cluster.web.upstream_cx_connect_fail")? == 0, "no call went to the other");
    Ok(())
}

#[test]
fn a_service_probe_marks_an_inbound_whose_application_is_down() -> Result<()> {
    let world = World::new(&[82], "")?;
    let sidecar = world.sidecar()?;
    let application = format!("localhost:9000::{}:9000", Family::V4.pod());
    has(&sidecar, &application, FAILED);
    ensure!(sidecar.stat("cluster.localhost_9000.health_check.healthy")? == 0);
    ensure!(sidecar.status("/ready")?.status == 200, "other inbounds of the pod may be well");
    let _application = world.lab.pod.as_uid(APP).serve((Family::V4.pod(), 9000), echo())?;
    has(&sidecar, &application, "healthy");
    talks(world.lab.peer.connect((Family::V4.pod(), 9000))?)?;
    ensure!(sidecar.stat("cluster.localhost_9000.health_check.healthy")? == 1);
    Ok(())
}
