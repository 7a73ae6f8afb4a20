//! MeshPassthrough: what may leave the mesh, by address and by the name that the client asks for.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{Server, echo, http, speaks_first};
use culvert_tests::tls::{Client, own_tls};
use culvert_tests::{Lab, Sidecar, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_taken_and_reset, read_all};
use crate::walkthrough::{dump, of_dump, onboarded, talks, with_documents};

/// Servers outside of the mesh.
const EXT: &str = "192.0.2.10";
const ANOTHER: &str = "192.0.2.20";
const THIRD: &str = "192.0.2.30";

/// A pod with a Dataplane, and a policy about it.
struct World {
    lab: Lab,
    folder: PathBuf,
}

impl World {
    fn new() -> Result<Self> {
        let (lab, folder) = onboarded()?;
        lab.peer.add_local_route("192.0.2.0/24")?;
        let here = format!(
            "{{type: Dataplane, name: here, labels: {{app: here}}, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 8080, tags: {{kuma.io/service: here}}}}]}}}}\n"
        );
        fs::write(folder.join("here.yaml"), here)?;
        Ok(Self { lab, folder })
    }

    /// Exchanges the policy; the sidecar, if there is one, sees it as one change.
    fn policy(&self, mode: &str, matches: &[&str]) -> Result<()> {
        let matches: String = matches.iter().map(|one| format!("\n    - {{{one}}}")).collect();
        let matches = if matches.is_empty() { " []" } else { &matches };
        let text = format!(
            "apiVersion: kuma.io/v1alpha1
kind: MeshPassthrough
metadata: {{name: out, namespace: kong-mesh-system, labels: {{kuma.io/mesh: default}}}}
spec:
  targetRef: {{kind: Dataplane, labels: {{app: here}}}}
  default:
    passthroughMode: {mode}
    appendMatch:{matches}
"
        );
        replace(&self.folder.join("out.yaml"), &text)
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        with_documents(&self.lab, &self.folder, &["--dataplane", "here"])
    }

    fn serve(&self, at: &str, words: &str) -> Result<Server> {
        self.lab.peer.serve(at, http(words))
    }

    fn connect(&self, to: &str) -> io::Result<TcpStream> {
        self.lab.pod.as_uid(APP).connect(to)
    }

    /// Says these bytes and no more, and returns the whole answer.
    fn say(&self, to: &str, bytes: &[u8]) -> io::Result<String> {
        let mut stream = self.connect(to)?;
        stream.write_all(bytes)?;
        stream.shutdown(Shutdown::Write)?;
        read_all(stream)
    }

    fn get(&self, to: &str, host: &str) -> io::Result<String> {
        self.say(to, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
    }
}

#[track_caller]
fn assert_served(answer: io::Result<String>, words: &str) {
    match answer {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") && answer.contains(words) => {}
        other => panic!("expected an answer of {words}, got {other:?}"),
    }
}

/// A reset may come while the client still writes.
#[track_caller]
fn assert_refused(answer: io::Result<String>, what: &str) {
    const KINDS: [ErrorKind; 3] =
        [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::NotConnected];
    match answer {
        Err(error) if KINDS.contains(&error.kind()) => {}
        other => panic!("{what}: expected a reset, got {other:?}"),
    }
}

#[test]
fn matched_lets_out_a_domain_by_http_and_an_address_and_nothing_else() -> Result<()> {
    let world = World::new()?;
    world.policy(
        "Matched",
        &[
            "type: Domain, value: ext.test, port: 80, protocol: http",
            "type: IP, value: 192.0.2.20, port: 80, protocol: http",
            "type: CIDR, value: '2001:db8::/32', port: 80, protocol: http",
        ],
    )?;
    let ext = world.serve("192.0.2.10:80", "ext")?;
    let _another = world.serve("192.0.2.20:80", "another")?;
    let third = world.serve("192.0.2.30:80", "third")?;
    let _ext6 = world.serve("[2001:db8::10]:80", "six")?;
    let sidecar = world.sidecar()?;
    for host in ["ext.test", "ext.test:80", "EXT.Test"] {
        assert_served(world.get("192.0.2.10:80", host), "ext");
    }
    // The name counts, not the address that the client found for it.
    assert_served(world.get("192.0.2.30:80", "ext.test"), "third");
    assert_served(world.get("192.0.2.20:80", ANOTHER), "another");
    assert_served(world.get("[2001:db8::10]:80", "any.test"), "six");
    let taken = (ext.accepted(), third.accepted());
    assert_refused(world.get("192.0.2.30:80", THIRD), "a third address");
    assert_refused(world.get("192.0.2.10:80", "other.test"), "another domain");
    assert_refused(world.get("192.0.2.10:80", "sub.ext.test"), "a domain below");
    assert_refused(world.get("192.0.2.10:80", "ext.test:81"), "another port");
    let two = b"GET / HTTP/1.1\r\nHost: ext.test\r\nHost: other.test\r\n\r\n";
    assert_refused(world.say("192.0.2.10:80", two), "two hosts");
    assert_taken_and_reset(world.connect("192.0.2.10:81"), "a port without a match");
    assert_eq!((ext.accepted(), third.accepted()), taken, "no server was reached");
    eventually!(sidecar.stat("listener_manager.outbound.closed.denied").is_ok_and(|n| n == 6), SOON);
    assert_eq!(sidecar.stat("tcp.outbound_passthrough_ipv4.downstream_cx_no_route")?, 6);
    assert_eq!(sidecar.stat("cluster.meshpassthrough_http_ext_test_80.upstream_cx_total")?, 4);
    assert_eq!(sidecar.stat("cluster.meshpassthrough_http_192_0_2_20_80.upstream_cx_total")?, 1);
    assert_eq!(sidecar.stat("cluster.meshpassthrough_http_2001_db8___32_80.upstream_cx_total")?, 1);
    let error = |part: &str| {
        sidecar.access(SOON, |record| record["error"].as_str().filter(|error| error.contains(part)).map(drop))
    };
    for part in [
        "\"other.test\" at 192.0.2.10:80",
        "several hosts",
        "as an address",
        "192.0.2.10:81, which no document names",
    ] {
        error(part).with_context(|| format!("no record with {part}"))?;
    }
    let dump = dump(&sidecar)?;
    assert!(of_dump(&dump, "meshpassthrough_http_ext.test_80").is_some(), "{dump}");
    Ok(())
}

#[test]
fn a_domain_by_tls_goes_by_the_name_in_the_client_hello() -> Result<()> {
    let world = World::new()?;
    world.policy(
        "Matched",
        &[
            "type: Domain, value: server.test, port: 443, protocol: tls",
            "type: Domain, value: '*.below.test', protocol: tls",
        ],
    )?;
    let server = world.lab.peer.serve("192.0.2.10:443", own_tls("hello")?)?;
    let sidecar = world.sidecar()?;
    let client = Client::new(&[b"h2"], None)?;
    let greeted = |name: &str| -> Result<()> {
        let mut stream = client.asking(world.connect("192.0.2.10:443")?, name)?;
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting)?;
        ensure!(greeting == *b"hello", "{greeting:?}");
        Ok(())
    };
    for name in ["server.test", "SERVER.test", "a.below.test", "a.b.below.test"] {
        greeted(name).context(name.to_owned())?;
    }
    let accepted = server.accepted();
    for name in ["other.test", "below.test", "server.test.evil.test", "192.0.2.10"] {
        assert!(greeted(name).is_err(), "{name}");
    }
    assert_refused(world.get("192.0.2.10:443", "server.test"), "the name by HTTP");
    assert_eq!(server.accepted(), accepted, "the server was not reached");
    // The same hello in two records, and both as slowly as a client can.
    let hello = client.hello()?;
    let (head, body) = hello.split_at(5);
    let record = |bytes: &[u8]| -> Result<Vec<u8>> {
        Ok([&head[..3], &u16::try_from(bytes.len())?.to_be_bytes(), bytes].concat())
    };
    let records = [record(&body[..50])?, record(&body[50..])?].concat();
    let mut stream = world.connect("192.0.2.10:443")?;
    stream.set_nodelay(true)?;
    for byte in &records {
        stream.write_all(std::slice::from_ref(byte))?;
    }
    let mut answer = [0; 3];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, [22, 3, 3], "the server's hello");
    assert_eq!(sidecar.stat("cluster.meshpassthrough_tls_server_test_443.upstream_cx_total")?, 3);
    assert_eq!(sidecar.stat("cluster.meshpassthrough_tls___below_test__.upstream_cx_total")?, 2);
    Ok(())
}

#[test]
fn a_server_that_speaks_first_is_not_delayed_by_domains_on_its_port() -> Result<()> {
    let world = World::new()?;
    world.policy(
        "Matched",
        &[
            "type: IP, value: 192.0.2.20, port: 3306, protocol: mysql",
            "type: CIDR, value: 192.0.2.30/32, protocol: tcp",
            "type: Domain, value: '*.test', port: 3306, protocol: tls",
            "type: Domain, value: db.test, port: 3306, protocol: http",
        ],
    )?;
    let _servers = [
        world.lab.peer.serve("192.0.2.20:3306", speaks_first("hello"))?,
        world.lab.peer.serve("192.0.2.30:3306", speaks_first("hello"))?,
        world.lab.peer.serve("192.0.2.10:3306", speaks_first("hello"))?,
    ];
    let sidecar = world.sidecar()?;
    // A client that is silent is refused where a name is looked for, so the greeting proves that none is.
    for to in ["192.0.2.20:3306", "192.0.2.30:3306"] {
        for _ in 0..20 {
            let mut stream = world.connect(to)?;
            let mut greeting = [0; 5];
            stream.read_exact(&mut greeting).context(to)?;
            assert_eq!(&greeting, b"hello");
        }
    }
    assert_taken_and_reset(world.connect("192.0.2.10:3306"), "silent, and let out by a name only");
    let silent = |error: &str| error.contains("did not say it within 1 s");
    let record =
        sidecar.access(SOON, |record| record["error"].as_str().filter(|error| silent(error)).map(drop));
    record.context("no record of the silent client")
}

#[test]
fn hostile_first_bytes_are_refused_and_leave_nothing_behind() -> Result<()> {
    let world = World::new()?;
    world.policy(
        "Matched",
        &[
            "type: Domain, value: '*.test', port: 80, protocol: tls",
            "type: Domain, value: ext.test, port: 80, protocol: http",
        ],
    )?;
    let server = world.serve("192.0.2.10:80", "ext")?;
    let sidecar = world.sidecar()?;
    let mut seed: u64 = 7;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    for number in 0..1_000 {
        let mut bytes: Vec<u8> = (0..usize::from(random()) + 1).map(|_| random()).collect();
        // A third begins as TLS, a third as HTTP.
        let start: &[u8] = [&b""[..], &[22, 3, 1, 0], b"GET / HTTP/1.1\r\n"][number % 3];
        bytes.splice(0..0, start.iter().copied());
        assert_refused(world.say("192.0.2.10:80", &bytes), &format!("{number}: {bytes:?}"));
    }
    let long = format!("GET / HTTP/1.1\r\nHost: ext.test\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    assert_refused(world.say("192.0.2.10:80", long.as_bytes()), "a head of 64 KiB");
    assert_eq!(server.accepted(), 0);
    assert_served(world.get("192.0.2.10:80", "ext.test"), "ext");
    eventually!(sidecar.stat("listener_manager.outbound.closed.denied").is_ok_and(|n| n == 1_001), SOON);
    Ok(())
}

#[test]
fn a_change_of_the_mode_holds_for_new_connections_and_open_ones_are_kept() -> Result<()> {
    let world = World::new()?;
    let matches =
        ["type: IP, value: 192.0.2.20, port: 80", "type: Domain, value: ext.test, port: 80, protocol: http"];
    world.policy("Matched", &matches)?;
    let _servers = [
        world.lab.peer.serve((EXT, 80), echo())?,
        world.lab.peer.serve((ANOTHER, 80), echo())?,
        world.lab.peer.serve((THIRD, 80), echo())?,
    ];
    let sidecar = world.sidecar()?;
    let third_is = |open: bool, what: &str| -> Result<()> {
        if open {
            return talks(world.connect("192.0.2.30:80")?);
        }
        assert_refused(world.get("192.0.2.30:80", "other.test"), what);
        Ok(())
    };
    let mut by_name = world.connect("192.0.2.10:80")?;
    let head = b"GET / HTTP/1.1\r\nHost: ext.test\r\n\r\n";
    by_name.write_all(head)?;
    by_name.read_exact(&mut vec![0; head.len()])?;
    let by_address = world.connect("192.0.2.20:80")?;
    talks(by_address.try_clone()?)?;
    third_is(false, "Matched")?;
    let mut reloads = 0;
    let mut opened = 0;
    for (mode, open, opens) in
        [("All", true, 1), ("Matched", false, 0), ("None", false, 0), ("Matched", false, 1), ("All", true, 1)]
    {
        world.policy(mode, &matches)?;
        (reloads, opened) = (reloads + 1, opened + opens);
        eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == reloads), SOON);
        third_is(open, mode)?;
        if mode == "None" {
            assert_taken_and_reset(world.connect("192.0.2.20:80"), "None");
        } else {
            talks(world.connect("192.0.2.20:80")?).context(mode)?;
        }
        talks(by_name.try_clone()?).with_context(|| format!("let out by name, after {mode}"))?;
        talks(by_address.try_clone()?).with_context(|| format!("let out by address, after {mode}"))?;
        assert_eq!(sidecar.stat("config_reload_opened")?, opened, "{mode}");
    }
    Ok(())
}

#[test]
fn before_all_is_left_the_matches_show_which_destinations_stay_open() -> Result<()> {
    let world = World::new()?;
    world.policy(
        "All",
        &[
            "type: CIDR, value: 192.0.2.16/28, port: 80",
            "type: Domain, value: '*.test', port: 443, protocol: tls",
        ],
    )?;
    let sidecar = world.sidecar()?;
    let destinations = ["192.0.2.20:80", "192.0.2.10:443", "192.0.2.10:80"];
    let mut servers = Vec::new();
    for at in destinations {
        servers.push(world.lab.peer.serve(at, echo())?);
        talks(world.connect(at)?)?;
    }
    let lines = sidecar.admin("/clusters")?.body;
    let named = ["MeshPassthrough out: tcp 192.0.2.16/28 port 80", "MeshPassthrough by name", "no document"];
    for (at, named) in destinations.iter().zip(named) {
        let line = format!("outbound:passthrough:ipv4::{at}::named_by::{named}\n");
        assert!(lines.contains(&line), "{line}{lines}");
    }
    assert!(!lines.contains("meshpassthrough_"), "{lines}");
    Ok(())
}
