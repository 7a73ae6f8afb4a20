//! The clients that STRICT keeps out and PERMISSIVE lets in: mode x client x server, each by its reason, and programs of Debian's as
//! strangers.

use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::server::{http, speaks_first};
use culvert_tests::tls::authority::Credentials;
use culvert_tests::tls::{Client, MESH, own_tls};
use culvert_tests::{Authority, Host, Wish, eventually};
use serde_json::Value;

use super::{GREETING, OWN_TLS, SERVER, SOON, SPEAKS, UNNAMED, WAITS, World, is_closed, reasons, talks};
use crate::support::{APP, assert_taken_and_reset};

/// A client, and the way that it connects.
enum Who {
    Member,
    Plain,
    OwnTls,
    /// As a member's sidecar would, with these credentials.
    Shows(Credentials),
}

/// The expected result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Talks,
    /// Its bytes reach the application, which understands them or not.
    Reaches,
    Closed(&'static str),
}

#[test]
fn strict_keeps_strangers_out_and_permissive_lets_one_get_there() -> Result<()> {
    let foreign = Authority::new("another mesh")?;
    for mode in ["STRICT", "PERMISSIVE"] {
        let world = World::new(mode, "")?;
        let (sidecar, _client) = (world.server_sidecar(&[])?, world.client_sidecar()?);
        let servers = world.servers()?;
        let wish = |uris, time| world.authority.issue(&Wish { uris, time });
        let web: &[&str] = &["spiffe://default/web"];
        let strict = mode == "STRICT";
        let or = |reason, otherwise| if strict { Ends::Closed(reason) } else { otherwise };
        use Ends::{Closed, Reaches, Talks};
        for (name, who, [speaks, waits, own_tls]) in [
            ("a member", Who::Member, [Talks; 3]),
            (
                "a stranger in plain",
                Who::Plain,
                [or("plaintext", Talks), or("plaintext", Talks), or("plaintext", Reaches)],
            ),
            (
                "a stranger in TLS",
                Who::OwnTls,
                [or("foreign_tls", Reaches), or("foreign_tls", Reaches), or("foreign_tls", Talks)],
            ),
            ("a foreign mesh's", Who::Shows(foreign.service("web")?), [Closed("tls_untrusted"); 3]),
            ("one that expired", Who::Shows(wish(web, (-7200, -60))?), [Closed("tls_expired"); 3]),
            (
                "one of another trust domain",
                Who::Shows(wish(&["spiffe://other/web"], (-60, 3600))?),
                [Closed("tls_identity"); 3],
            ),
        ] {
            for (port, server, ends) in [(SPEAKS, 0, speaks), (WAITS, 1, waits), (OWN_TLS, 2, own_tls)] {
                let what = format!("{mode}: {name} to port {port}");
                let (before, known) = (servers[server].accepted(), reasons(&sidecar, port).len());
                let came = come(&world, &who, port, ends);
                came.with_context(|| what.clone())?;
                // The record of this connection, so that the next row does not take it for its own.
                eventually!(reasons(&sidecar, port).len() > known, SOON);
                if ends == Talks {
                    continue;
                }
                let reason = reasons(&sidecar, port).pop().unwrap_or_default();
                match ends {
                    Closed(expected) => assert_eq!(reason, expected, "{what}"),
                    _ => assert_eq!(servers[server].accepted(), before + 1, "{what}: {reason}"),
                }
                // Where mTLS is STRICT the application does not even hear of it.
                if strict {
                    assert_eq!(servers[server].accepted(), before, "{what}");
                }
            }
        }
        let spoken =
            |name: &str| sidecar.stat(&format!("listener_manager.inbound.spoken.{name}.downstream_cx_total"));
        let expected = if strict { [3, 0, 0] } else { [3, 3, 3] };
        assert_eq!([spoken("mesh_tls")?, spoken("own_tls")?, spoken("plain")?], expected, "{mode}");
    }
    Ok(())
}

fn come(world: &World, who: &Who, port: u16, ends: Ends) -> Result<()> {
    let own = Client::new(&[b"h2", b"http/1.1"], None)?;
    match (who, ends) {
        (Who::Member, Ends::Talks) if port == OWN_TLS => talks(own.over(world.member(port)?)?),
        (Who::Member, Ends::Talks) => talks(world.member(port)?),
        (Who::Plain, Ends::Talks) => talks(world.stranger(port)?),
        (Who::Plain, Ends::Reaches) => {
            // What a TLS server sends to a client that does not speak it: an alert.
            let mut stream = world.stranger(port)?;
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
            let mut heard = [0];
            stream.read_exact(&mut heard)?;
            ensure!(heard == [21], "{heard:?}");
            Ok(())
        }
        (Who::Plain, Ends::Closed(_)) => is_closed(world.stranger(port)),
        (Who::OwnTls, Ends::Talks) => talks(own.over(world.stranger(port)?)?),
        (Who::OwnTls, Ends::Reaches) => {
            // Untouched: the application sends back what it got.
            let (mut stream, hello) = (world.stranger(port)?, own.hello()?);
            stream.write_all(&hello)?;
            let mut heard = vec![0; GREETING.len() + hello.len()];
            stream.read_exact(&mut heard)?;
            ensure!(heard[GREETING.len()..] == hello, "other bytes");
            Ok(())
        }
        (Who::OwnTls, Ends::Closed(_)) => is_closed(world.speaks(&own, port)),
        (Who::Shows(credentials), _) => {
            is_closed(world.speaks(&Client::new(&[MESH], Some(credentials))?, port))
        }
        (Who::Member, _) => bail!("a member is always let in"),
    }
}

#[test]
fn under_strict_a_port_that_no_inbound_names_is_closed() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let (sidecar, _client, servers) = (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    assert_taken_and_reset(world.stranger(UNNAMED), "a stranger");
    let member = Client::new(&[MESH], Some(&world.authority.service("web")?))?;
    is_closed(world.speaks(&member, UNNAMED))?;
    eventually!(reasons(&sidecar, UNNAMED) == ["not_inbound", "not_inbound"], SOON);
    assert_eq!(servers[3].accepted(), 0);
    Ok(())
}

#[test]
fn only_members_are_called_by_tls() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let (sidecar, client, _servers) = (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    // By its address, and by the service's listener, which has three endpoints of which all speak.
    talks(world.member(WAITS)?)?;
    let record = sidecar.access(SOON, |one| (one["peer"] != Value::Null).then(|| one.clone()));
    let record = record.context("no record of a member")?;
    assert_eq!((&record["peer"], &record["tls"]), (&"spiffe://default/client".into(), &"mesh_tls".into()));
    for _ in 0..3 {
        let mut stream = world.client.as_uid(APP).connect("127.0.0.1:7000")?;
        stream.write_all(&Client::new(&[], None)?.hello()?)?;
        stream.read_exact(&mut [0; 8])?;
    }
    assert!(client.stat("listener_manager.outbound.ssl.handshake")? >= 4);
    assert!(client.stat("listener_manager.outbound.ssl.session_reused")? >= 1, "{:?}", client.access_log());
    Ok(())
}

#[test]
fn an_address_that_no_document_names_is_called_plainly() -> Result<()> {
    let world = World::new("PERMISSIVE", "")?;
    let (sidecar, client, _servers) = (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    let mut stream = world.member(UNNAMED)?;
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])?;
    assert_eq!(client.stat("listener_manager.outbound.ssl.handshake")?, 0);
    assert_eq!(sidecar.stat("listener_manager.inbound.spoken.plain.downstream_cx_active")?, 1);
    Ok(())
}

#[test]
fn a_member_that_speaks_no_tls_is_not_spoken_to_plainly() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let client = world.client_sidecar()?;
    // The server's pod as it is while its sidecar is not there and nothing is redirected: its application answers itself.
    world.lab.del()?.expect_success();
    let heard = world.lab.pod.serve(("0.0.0.0", WAITS), speaks_first("HTTP/1.1 400 Bad Request"))?;
    is_closed(world.member(WAITS))?;
    let reason = client.access(SOON, |one| one["reason"].as_str().map(str::to_owned));
    assert_eq!(reason.as_deref(), Some("tls_failure"));
    assert_eq!(heard.accepted(), 1);
    Ok(())
}

#[test]
fn a_server_that_speaks_first_is_heard_within_a_tenth_of_a_second_more() -> Result<()> {
    let world = World::new("PERMISSIVE", "")?;
    let (sidecar, _servers) = (world.server_sidecar(&[])?, world.servers()?);
    for _ in 0..3 {
        let start = Instant::now();
        let mut stream = world.stranger(SPEAKS)?;
        let mut heard = [0; GREETING.len()];
        stream.read_exact(&mut heard)?;
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(90), "{waited:?}: nobody waited for the client");
        assert!(waited < Duration::from_millis(400), "{waited:?}");
        // From here on nothing waits.
        let start = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        assert!(start.elapsed() < Duration::from_millis(80), "{:?}", start.elapsed());
    }
    assert_eq!(sidecar.stat("listener_manager.inbound.spoken.plain.downstream_cx_total")?, 3);
    Ok(())
}

/// A program of Debian's on a host, with this on its standard input; its exit code and what it said.
fn run(host: &Host, program: &str, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null());
    let output = host.as_root().run(|| command.output()).with_context(|| program.to_owned())?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn openssl_and_curl_are_strangers() -> Result<()> {
    for (mode, gets_there) in [("STRICT", false), ("PERMISSIVE", true)] {
        let world = World::new(mode, "")?;
        let (sidecar, app) = (world.server_sidecar(&[])?, world.lab.pod.as_uid(APP));
        let own = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
        let _servers =
            [app.serve(("0.0.0.0", WAITS), http("well"))?, app.serve(("0.0.0.0", OWN_TLS), own_tls(own)?)?];
        let connect = format!("{SERVER}:{OWN_TLS}");
        let (_, said) = run(&world.lab.peer, "openssl", &["s_client", "-connect", &connect, "-brief"])?;
        assert_eq!(said.contains("CONNECTION ESTABLISHED"), gets_there, "{mode}: {said}");
        for (url, reason) in [
            (format!("http://{SERVER}:{WAITS}/"), "plaintext"),
            (format!("https://{connect}/"), "foreign_tls"),
        ] {
            let (code, said) = run(&world.lab.peer, "curl", &["-sSk", "--max-time", "10", &url])?;
            match gets_there {
                true => assert_eq!(code, Some(0), "{mode} {url}: {said}"),
                // Reset, or an empty answer, or that in a handshake.
                false => assert!(
                    code.is_some_and(|code| [35, 52, 56].contains(&code)),
                    "{mode} {url}: {code:?} {said}"
                ),
            }
            if !gets_there {
                let port = if url.starts_with("https") { OWN_TLS } else { WAITS };
                eventually!(reasons(&sidecar, port).last().is_some_and(|last| last == reason), SOON);
            }
        }
        // With the mesh's own certificate it is a member, to openssl as to any other.
        let member = world.identity("client");
        let file = |name: &str| member.join(name).display().to_string();
        let arguments = [
            "s_client",
            "-connect",
            &connect,
            "-brief",
            "-alpn",
            "kuma",
            "-cert",
            &file("tls.crt"),
            "-key",
            &file("tls.key"),
            "-CAfile",
            &file("ca.crt"),
        ];
        let (_, said) = run(&world.lab.peer, "openssl", &arguments)?;
        assert!(
            said.contains("Verification: OK") && said.contains("TLS_AES_128_GCM_SHA256"),
            "{mode}: {said}"
        );
    }
    Ok(())
}
