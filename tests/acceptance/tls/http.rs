//! HTTP between members: the gate stands behind TLS on both sides, and strangers are told nothing.

use std::fs;

use anyhow::Context;

use super::*;
use culvert_tests::eventually;
use culvert_tests::server::http;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Two pods whose ports speak HTTP, all of them.
fn world(mode: &str) -> Result<World> {
    let world = World::new(mode, "")?;
    let file = world.documents().join("mesh.yaml");
    let text = fs::read_to_string(&file)?;
    fs::write(
        file,
        text.replace("kuma.io/service: server}", "kuma.io/service: server, kuma.io/protocol: http}"),
    )?;
    Ok(world)
}

fn ask(stream: &mut (impl Read + Write), request: &[u8]) -> Result<String> {
    stream.write_all(request)?;
    let mut answer = vec![0; 4096];
    let n = uninterrupted(|| stream.read(&mut answer))?;
    answer.truncate(n);
    Ok(String::from_utf8_lossy(&answer).into_owned())
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
