//! HTTP between members: the gate stands behind TLS on both sides, and strangers are told nothing.

use std::fs;

use anyhow::Context;

use super::*;
use culvert_tests::eventually;
use culvert_tests::server::http;

use crate::http_clients::origin::{http_1, http_2_heard};
use crate::http_clients::{finishes, grpc, program};
use crate::http_ports::Heard;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Two pods whose ports speak HTTP, all of them.
fn world(mode: &str) -> Result<World> {
    with(mode, "")
}

fn with(mode: &str, more: &str) -> Result<World> {
    world_of("http", mode, more)
}

/// Two pods whose ports speak a protocol, with documents more.
fn world_of(protocol: &str, mode: &str, more: &str) -> Result<World> {
    let world = World::new(mode, more)?;
    let file = world.documents().join("mesh.yaml");
    let text = fs::read_to_string(&file)?;
    fs::write(
        file,
        text.replace(
            "kuma.io/service: server}",
            &format!("kuma.io/service: server, kuma.io/protocol: {protocol}}}"),
        ),
    )?;
    Ok(world)
}

/// Says a request and hears the whole answer, which comes in pieces.
fn ask(stream: &mut (impl Read + Write), request: &[u8]) -> Result<String> {
    stream.write_all(request)?;
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = uninterrupted(|| stream.read(&mut piece))?;
        answer.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&answer);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.and_then(|length| length.parse().ok()).is_none_or(|length: usize| body.len() >= length)
        });
        if whole || n == 0 {
            return Ok(text.into_owned());
        }
    }
}

#[test]
fn messages_pass_between_members_and_a_refusal_is_said_through_tls() -> Result<()> {
    for mode in ["STRICT", "PERMISSIVE"] {
        let world = world(mode)?;
        let (sidecar, client) = (world.server_sidecar(&[])?, world.client_sidecar()?);
        let app = world.lab.pod.as_uid(APP);
        let servers = [SPEAKS, WAITS, OWN_TLS].map(|port| app.serve(("0.0.0.0", port), http("well")));
        let _servers: Vec<_> = servers.into_iter().collect::<Result<_>>()?;
        // By the outbound both sidecars read messages; by the address the server's alone.
        for to in [("127.0.0.1", 7000), (SERVER, WAITS)] {
            let mut stream = world.client.as_uid(APP).connect(to)?;
            for _ in 0..2 {
                let answer = ask(&mut stream, GET)?;
                ensure!(answer.contains("well: GET / from"), "{mode} {to:?}: {answer}");
            }
            let answer = ask(&mut stream, b"GET /smuggled HTTP/1.1\r\n\r\n")?;
            ensure!(
                answer.starts_with("HTTP/1.1 400 ") && answer.contains("no_host: "),
                "{mode} {to:?}: {answer}"
            );
            is_closed(Ok(&mut stream)).with_context(|| format!("{mode} {to:?}"))?;
        }
        for (sidecar, direction) in [(&client, "outbound"), (&sidecar, "inbound")] {
            let line =
                format!("culvert_http_refusals_total{{direction=\"{direction}\",rule=\"no_host\"}} 1\n");
            eventually!(sidecar.metrics().is_ok_and(|page| page.contains(&line)), SOON);
        }
        eventually!(
            sidecar
                .metrics()
                .is_ok_and(|page| !page.contains("culvert_inbound_spoken_total{spoken=\"mesh_tls\"} 0\n")),
            SOON
        );
        let mut stranger = world.stranger(WAITS)?;
        match mode {
            "STRICT" => {
                stranger.write_all(GET)?;
                crate::support::assert_reset(stranger, "a stranger under STRICT");
            }
            _ => {
                ensure!(ask(&mut stranger, GET)?.contains("well: GET / from"), "a stranger under PERMISSIVE")
            }
        }
    }
    Ok(())
}

/// By both sidecars' gates, with TLS of the mesh between them.
#[test]
fn clients_in_use_get_all_their_answers_between_members() -> Result<()> {
    let world = world("STRICT")?;
    let (sidecar, client) = (world.server_sidecar(&[])?, world.client_sidecar()?);
    let app = world.lab.pod.as_uid(APP);
    let servers = [SPEAKS, WAITS, OWN_TLS].map(|port| app.serve(("0.0.0.0", port), http_1()));
    let servers: Vec<_> = servers.into_iter().collect::<Result<_>>()?;
    let (member, url) = (world.client.as_uid(APP), "http://127.0.0.1:7000/");
    for more in [&[][..], &["-H", "Connection: close"]] {
        let arguments = [&["-t1", "-c8", "-d1s", "--timeout", "30s"], more, &[url]].concat();
        let said = finishes(member, &program("wrk")?, &arguments)?;
        ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{more:?}: {said}");
    }
    let body = world.lab.folder().join("body");
    fs::write(&body, "b".repeat(20_000_000))?;
    let data = format!("@{}", body.display());
    let said =
        finishes(member, &program("curl")?, &["-sS", "--max-time", "50", "--data-binary", &data, url])?;
    ensure!(said.trim() == "ok 20000000", "{said:?}");
    ensure!(servers.iter().all(|server| server.accepted() > 0), "a server was left out");
    for (sidecar, direction) in [(&client, "outbound"), (&sidecar, "inbound")] {
        let line = format!("culvert_http_requests_total{{direction=\"{direction}\",class=\"2xx\"}} ");
        let page = sidecar.metrics()?;
        let count = page.lines().find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok());
        ensure!(count.is_some_and(|count| count > 100), "{direction}: {count:?}");
    }
    Ok(())
}

/// Permissions: the client may, or may not.
fn permission(caller: &str) -> String {
    format!(
        "---\n{{type: MeshTrafficPermission, name: p, spec: {{from: [{{targetRef: {{kind: MeshService, name: {caller}}}, \
         default: {{action: Allow}}}}]}}}}\n"
    )
}

#[test]
fn a_member_that_may_not_call_is_told_so_and_the_application_is_not() -> Result<()> {
    for mode in ["STRICT", "PERMISSIVE"] {
        let world = with(mode, &permission("somewhere-else"))?;
        let (sidecar, _client) = (world.server_sidecar(&[])?, world.client_sidecar()?);
        let app = world.lab.pod.as_uid(APP).serve(("0.0.0.0", WAITS), http("well"))?;
        let mut stream = world.member(WAITS)?;
        let answer = ask(&mut stream, GET)?;
        ensure!(
            answer.starts_with("HTTP/1.1 403 Forbidden\r\n") && answer.contains("\r\n\r\nforbidden: "),
            "{mode}: {answer}"
        );
        is_closed(Ok(&mut stream)).with_context(|| format!("{mode}: behind the answer"))?;
        // Another protocol gets no answer to be taken for the application's.
        let mut stream = world.member(WAITS)?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut heard = Vec::new();
        let end = uninterrupted(|| stream.read_to_end(&mut heard));
        let is_preface = heard.get(3) == Some(&4);
        ensure!(heard.is_empty() || is_preface, "{mode}: {end:?} {heard:?}");
        assert_eq!(app.accepted(), 0, "{mode}");
        eventually!(
            reasons(&sidecar, WAITS).iter().filter(|reason| *reason == "forbidden").count() == 2,
            SOON
        );
        let line = "culvert_http_local_answers_total{direction=\"inbound\",by=\"permission\"} ";
        let page = sidecar.metrics()?;
        ensure!(page.lines().any(|one| one.starts_with(line) && !one.ends_with(" 0")), "{mode}");
    }
    Ok(())
}

#[test]
fn an_application_hears_of_the_member_that_calls_and_of_no_other() -> Result<()> {
    let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let world = with("PERMISSIVE", &permission("client"))?;
    let (_server, _client) = (world.server_sidecar(&[])?, world.client_sidecar()?);
    let hears = std::sync::Arc::clone(&heard);
    let _app = world.lab.pod.as_uid(APP).serve(("0.0.0.0", WAITS), move |mut stream: TcpStream| {
        let mut request = vec![0; 4096];
        let n = stream.read(&mut request)?;
        hears.lock().expect("no panic").push_str(&String::from_utf8_lossy(&request[..n]));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    })?;
    let lie =
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: URI=spiffe://default/boss\r\nX-A: b\r\n\r\n";
    ensure!(ask(&mut world.member(WAITS)?, lie)?.ends_with("ok"), "a member");
    let said = std::mem::take(&mut *heard.lock().expect("no panic"));
    let line =
        said.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: ")).unwrap_or_default();
    let parts: Vec<_> = line.split(';').collect();
    let is_hash = |part: &str| {
        part.strip_prefix("Hash=")
            .is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    ensure!(
        matches!(parts[..], ["By=spiffe://default/server", hash, "URI=spiffe://default/client"] if is_hash(hash)),
        "{said}"
    );
    ensure!(!said.contains("boss") && said.contains("\r\nX-A: b\r\n"), "{said}");
    ensure!(ask(&mut world.stranger(WAITS)?, lie)?.ends_with("ok"), "a stranger");
    let said = heard.lock().expect("no panic").clone();
    assert_eq!(said, "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n");
    Ok(())
}

/// The answer that a member gets from a port by HTTP/2, with its status.
fn by_curl(world: &World, port: u16, field: &str) -> Result<String> {
    let url = format!("http://{SERVER}:{port}/");
    let arguments =
        ["-sS", "--max-time", "20", "--http2-prior-knowledge", "-w", ": %{http_code}", "-H", field, &url];
    Ok(finishes(world.client.as_uid(APP), &program("curl")?, &arguments)?.trim().to_owned())
}

#[test]
fn streams_of_a_member_that_may_not_call_are_answered_and_reach_no_application() -> Result<()> {
    let denied = "---\n{type: MeshTrafficPermission, name: closed, spec: {from: [{targetRef: {kind: Mesh}, default: {action: Deny}}]}}\n";
    for protocol in ["http", "grpc"] {
        let world = world_of(protocol, "STRICT", denied)?;
        let (sidecar, _client) = (world.server_sidecar(&[])?, world.client_sidecar()?);
        let server = world.lab.pod.as_uid(APP).serve(("0.0.0.0", WAITS), http_2_heard(&Heard::default()))?;
        let said = by_curl(&world, WAITS, "x-own: a")?;
        ensure!(said.starts_with("forbidden: ") && said.ends_with(": 403"), "{protocol}: {said}");
        let (code, message) = grpc::refusal(world.client.as_uid(APP), format!("http://{SERVER}:{WAITS}"))?;
        ensure!(code == tonic::Code::PermissionDenied, "{protocol}: {code:?} {message}");
        assert_eq!(server.accepted(), 0, "{protocol}");
        let line = "culvert_http_local_answers_total{direction=\"inbound\",by=\"permission\"} 2\n";
        eventually!(sidecar.metrics().is_ok_and(|page| page.contains(line)), SOON);
        eventually!(
            sidecar
                .access_log()
                .iter()
                .filter(|record| record["direction"] == "inbound")
                .all(|record| record["reason"] == "forbidden"),
            SOON
        );
    }
    Ok(())
}

#[test]
fn an_application_of_http_2_hears_who_calls_by_the_certificate_and_not_by_the_client() -> Result<()> {
    let world = world_of("http2", "STRICT", "")?;
    let _sidecars = (world.server_sidecar(&[])?, world.client_sidecar()?);
    let heard = Heard::default();
    let _server = world.lab.pod.as_uid(APP).serve(("0.0.0.0", WAITS), http_2_heard(&heard))?;
    let said = by_curl(&world, WAITS, "X-Forwarded-Client-Cert: URI=spiffe://default/admin")?;
    ensure!(said == "ok 0: 200", "{said}");
    let heard = String::from_utf8_lossy(&heard.lock().expect("no panic")).into_owned();
    let certificate =
        heard.lines().filter(|line| line.starts_with("x-forwarded-client-cert: ")).collect::<Vec<_>>();
    ensure!(
        matches!(certificate[..], [one] if one.ends_with(";URI=spiffe://default/client") && !one.contains("admin")),
        "{heard}"
    );
    Ok(())
}
