//! Members and each other: identities that change, clocks that differ, crowds, cuts, permissions; and the
//! kubelet's probes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{http, silent};
use culvert_tests::tls::authority::Credentials;
use culvert_tests::tls::{Client, MESH, own_tls};
use culvert_tests::{Authority, Sidecar, Wish, eventually};
use serde_json::Value;

use super::{OWN_TLS, SERVER, SOON, SPEAKS, WAITS, World, is_closed, reasons, talks};
use crate::support::APP;

#[test]
fn identities_change_under_load_and_no_connection_notices() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let (sidecar, client, _servers) = (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    let serial = |sidecar: &Sidecar<'_>| -> Result<String> {
        let page: Value = serde_json::from_str(&sidecar.admin("/certs")?.body)?;
        Ok(page["certificates"][0]["cert_chain"][0]["serial_number"].to_string())
    };
    let mut long = world.member(WAITS)?;
    talks(&mut long)?;
    let next = Authority::new("the mesh's next")?;
    let both = format!("{}{}", world.authority.pem(), next.pem());
    // A rotation: first all members trust both authorities, then all get an identity of the new one.
    let believing = |mut credentials: Credentials| {
        credentials.authorities = both.clone();
        credentials
    };
    thread::scope(|scope| -> Result<()> {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let load = scope.spawn(|| -> Result<usize> {
            let stopped = stopped;
            let mut done = 0;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                talks(world.member(WAITS)?).with_context(|| format!("connection {done}"))?;
                done += 1;
            }
            Ok(done)
        });
        let rotated = (|| {
            for issuer in [&world.authority, &next] {
                for (name, sidecar) in [("server", &sidecar), ("client", &client)] {
                    let before = serial(sidecar)?;
                    believing(issuer.service(name)?).write(&world.identity(name))?;
                    eventually!(serial(sidecar).is_ok_and(|now| now != before), SOON);
                }
            }
            Ok(())
        })();
        drop(stop);
        let done = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        ensure!(done > 20, "only {done} connections");
        rotated
    })?;
    long.write_all(b"still there")?;
    long.read_exact(&mut [0; 11])?;
    // A bad one is not used, and reported.
    let before = serial(&sidecar)?;
    next.issue(&Wish { uris: &["spiffe://default/server"], time: (-7200, -60) })?
        .write(&world.identity("server"))?;
    eventually!(
        sidecar.metrics().is_ok_and(|text| text.contains("culvert_identity_reload_failed_total 1")),
        SOON
    );
    assert_eq!(serial(&sidecar)?, before);
    assert_eq!(sidecar.status("/ready")?.status, 200);
    let page = sidecar.admin("/certs")?.body;
    assert!(page.contains("the new identity is not used") && !page.contains("PRIVATE"), "{page}");
    assert!(
        sidecar.stderr().text().contains("is bad, the old one is used on"),
        "{}",
        sidecar.stderr().text()
    );
    talks(world.member(WAITS)?)
}

#[test]
fn without_a_good_identity_it_does_not_become_ready_and_says_why() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let folder = world.identity("server");
    world
        .authority
        .issue(&Wish { uris: &["spiffe://default/server"], time: (-7200, -60) })?
        .write(&folder)?;
    let mut sidecar = world.lab.pod.sidecar().options(world.options("server")).start_unready()?;
    let unready = |why: &str| {
        eventually!(
            sidecar.status("/ready").is_ok_and(|reply| reply.status == 503 && reply.body.contains(why)),
            SOON
        );
    };
    unready("tls.crt expired");
    fs::remove_file(folder.join("tls.key"))?;
    unready("cannot read");
    world.authority.service("server")?.write(&folder)?;
    sidecar.wait_ready()?;
    let metrics = sidecar.metrics()?;
    let expiry = metrics.lines().find_map(|line| {
        line.strip_prefix("culvert_certificate_expiry_timestamp_seconds{certificate=\"identity\"} ")
    });
    assert!(
        expiry.is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| seconds > 1_700_000_000)),
        "{expiry:?}"
    );
    let mut without = world.client.sidecar().options(&world.options("client")[..4]).start_unready()?;
    eventually!(
        without.status("/ready").is_ok_and(|reply| reply.body.contains("--identity is not given")),
        SOON
    );
    assert!(without.is_running()?);
    Ok(())
}

#[test]
fn clocks_may_differ_a_little() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let (sidecar, _servers) = (world.server_sidecar(&[])?, world.servers()?);
    let issued =
        |seconds| world.authority.issue(&Wish { uris: &["spiffe://default/web"], time: (seconds, 3600) });
    let as_member = |credentials: Credentials| -> Result<_> {
        Ok(world.speaks(&Client::new(&[MESH], Some(&credentials))?, WAITS))
    };
    talks(as_member(issued(45)?)??)?;
    is_closed(as_member(issued(120)?)?)?;
    eventually!(reasons(&sidecar, WAITS).last().is_some_and(|reason| reason == "tls_not_yet_valid"), SOON);
    let told = sidecar.access_log().pop().context("no record")?;
    assert!(told["error"].to_string().contains("compare the clocks"), "{told}");
    Ok(())
}

#[test]
fn a_thousand_slow_handshakes_delay_no_other_client_and_time_out() -> Result<()> {
    const MANY: usize = 1000;
    let world = World::new("STRICT", "")?;
    let (sidecar, _client, _servers) =
        (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    let mut established = world.member(WAITS)?;
    talks(&mut established)?;
    let hello = Client::new(&[MESH], Some(&world.authority.service("web")?))?.hello()?;
    // Half of them never end their hello, the others never answer the server's.
    let slow: Vec<TcpStream> = (0..MANY)
        .map(|n| {
            let mut stream = world.stranger(WAITS)?;
            stream.write_all(if n % 2 == 0 { &hello } else { &hello[..hello.len() / 2] })?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let start = Instant::now();
        established.write_all(b"x")?;
        established.read_exact(&mut [0])?;
        longest = longest.max(start.elapsed());
    }
    assert!(longest < Duration::from_millis(250), "an established stream waited {longest:?}");
    let start = Instant::now();
    talks(world.member(WAITS)?)?;
    assert!(start.elapsed() < Duration::from_secs(2), "a new member waited {:?}", start.elapsed());
    eventually!(
        reasons(&sidecar, WAITS).iter().filter(|reason| *reason == "tls_timeout").count() == MANY,
        Duration::from_secs(25)
    );
    drop(slow);
    talks(world.member(WAITS)?)
}

#[test]
fn a_stream_that_is_cut_off_is_a_reset_and_no_end() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let (sidecar, app) = (world.server_sidecar(&[])?, world.lab.pod.as_uid(APP));
    let _server = app.serve(("0.0.0.0", WAITS), silent())?;
    let credentials = world.authority.service("web")?;
    let mut cut = Client::new(&[MESH], Some(&credentials))?.over(world.stranger(WAITS)?)?;
    cut.write_all(b"the first half")?;
    cut.flush()?;
    // The socket's end without the session's.
    cut.sock.shutdown(Shutdown::Write)?;
    let ended = cut.sock.read(&mut [0; 4096]).and_then(|_| cut.sock.read(&mut [0; 4096]));
    assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    eventually!(reasons(&sidecar, WAITS) == ["tls_truncated"], SOON);
    Ok(())
}

#[test]
fn permissions_admit_the_clients_that_they_name() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let (sidecar, _client, _servers) =
        (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    talks(world.member(WAITS)?)?;
    let permission = |from: &str| {
        format!(
            "---\n{{type: MeshTrafficPermission, name: p, spec: {{targetRef: {{kind: MeshService, name: server}}, {from}}}}}\n"
        )
    };
    let service = |name: &str, action: &str| {
        format!("from: [{{targetRef: {{kind: MeshService, name: {name}}}, default: {{action: {action}}}}}]")
    };
    let identity = |list: &str| {
        format!(
            "rules: [{{default: {{{list}: [{{spiffeID: {{type: Exact, value: 'spiffe://default/client'}}}}]}}}}]"
        )
    };
    for (round, (spec, lets_in)) in [
        (service("client", "Allow"), true),
        (service("client", "Deny"), false),
        (service("another", "Allow"), false),
        (service("client", "AllowWithShadowDeny"), true),
        (identity("allow"), true),
        (identity("deny"), false),
    ]
    .into_iter()
    .enumerate()
    {
        world.write("STRICT", &permission(&spec))?;
        eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == round as u64 + 1), SOON);
        match lets_in {
            true => talks(world.member(WAITS)?).with_context(|| spec.clone())?,
            false => {
                is_closed(world.member(WAITS)).with_context(|| spec.clone())?;
                eventually!(
                    reasons(&sidecar, WAITS).last().is_some_and(|reason| reason == "forbidden"),
                    SOON
                );
            }
        }
    }
    assert_eq!((sidecar.stat("rbac.denied")?, sidecar.stat("rbac.shadow_denied")?), (3, 1));
    Ok(())
}

#[test]
fn policies_choose_pods_by_labels_and_their_ports_by_name() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let (sidecar, _client, _servers) =
        (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    let more = format!(
        "---
{{type: MeshTrafficPermission, name: closed, spec: {{
  targetRef: {{kind: Dataplane, labels: {{app: server}}, sectionName: '{WAITS}'}},
  from: [{{targetRef: {{kind: Mesh}}, default: {{action: Deny}}}}]}}}}
---
{{type: MeshTrafficPermission, name: others, spec: {{
  targetRef: {{kind: Dataplane, labels: {{app: another}}}},
  from: [{{targetRef: {{kind: Mesh}}, default: {{action: Deny}}}}]}}}}
---
{{type: MeshTLS, name: open, spec: {{
  targetRef: {{kind: Dataplane, name: server, sectionName: '{SPEAKS}'}}, rules: [{{default: {{mode: Permissive}}}}]}}}}
"
    );
    world.write("STRICT", &more)?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    // One port lets no member in, the others do; one lets strangers in, the others do not.
    is_closed(world.member(WAITS))?;
    eventually!(reasons(&sidecar, WAITS) == ["forbidden"], SOON);
    talks(world.member(SPEAKS)?)?;
    talks(world.stranger(SPEAKS)?)?;
    is_closed(world.stranger(WAITS))?;
    is_closed(world.stranger(OWN_TLS))?;
    eventually!(reasons(&sidecar, WAITS) == ["forbidden", "plaintext"], SOON);
    Ok(())
}

#[test]
fn under_strict_the_kubelets_probes_reach_the_application_and_nothing_else_does() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let probes = format!(
        r#"{{"/app-health/web/readyz": {{"httpGet": {{"port": {WAITS}, "path": "/ready"}}}},
            "/app-health/web/livez": {{"tcpSocket": {{"port": {WAITS}}}}},
            "/app-health/web/startupz": {{"httpGet": {{"port": {OWN_TLS}, "scheme": "HTTPS"}}}},
            "/app-health/gone/livez": {{"tcpSocket": {{"port": 8099}}}}}}"#
    );
    let sidecar = world.server_sidecar(&["--app-probes", &probes])?;
    let app = world.lab.pod.as_uid(APP);
    let _servers = [
        app.serve(("0.0.0.0", WAITS), http("well"))?,
        app.serve(("0.0.0.0", OWN_TLS), own_tls("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?)?,
    ];
    // As the kubelet comes: from outside, to the status port.
    let ask = |path: &str| culvert_tests::http::get(world.lab.peer.connect((SERVER, 15020))?, path);
    for (path, status) in [
        ("/app-health/web/readyz", 200),
        ("/app-health/web/livez", 200),
        ("/app-health/web/startupz", 200),
        ("/app-health/gone/livez", 503),
        ("/app-health/web/other", 404),
        ("/app-health/web/readyz/../livez", 404),
        ("/app-health/", 404),
    ] {
        let reply = ask(path)?;
        assert_eq!(reply.status, status, "{path}: {}", reply.body);
    }
    is_closed(world.stranger(WAITS))?;
    assert_eq!(sidecar.status("/ready")?.status, 200);
    Ok(())
}
