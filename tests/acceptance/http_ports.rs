//! Ports of HTTP: messages reach the application as they were sent, or not at all, and each refusal is said.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{Behaviour, Server, echo};
use culvert_tests::{Actor, Family, Lab, Sidecar, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_reset};
use crate::walkthrough::{onboarded, with_documents};

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A way through the sidecar to a port of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the pod's inbound.
    Inbound,
    /// By the pod's outbound, to a service of which all endpoints speak HTTP.
    Outbound,
}

impl Way {
    pub(crate) const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// The address that a client calls.
    pub(crate) fn called(self, family: Family) -> SocketAddr {
        match (self, family) {
            (Self::Inbound, _) => (family.pod(), 8080).into(),
            (Self::Outbound, Family::V4) => ([240, 0, 0, 1], 80).into(),
            (Self::Outbound, Family::V6) => ([0xfd00, 0xfd00, 0, 0, 0, 0, 0, 1], 80).into(),
        }
    }
}

/// Bytes that an origin heard, all connections together.
pub(crate) type Heard = Arc<Mutex<Vec<u8>>>;

/// A pod with a port of HTTP, and a service outside that speaks HTTP.
pub(crate) struct World {
    pub lab: Lab,
    pub family: Family,
    pub folder: PathBuf,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        Self::of(Family::V4)
    }

    pub(crate) fn of(family: Family) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        let world = Self { lab, family, folder };
        world.speaks("http")?;
        Ok(world)
    }

    /// Exchanges the documents: the port and the service have this protocol.
    pub(crate) fn speaks(&self, protocol: &str) -> Result<()> {
        let (here, outside) = (self.family.pod(), self.family.outside());
        let called = Way::Outbound.called(self.family).ip();
        let text = format!(
            "{{type: Mesh, name: default}}
---
{{type: Dataplane, name: here, networking: {{address: '{here}', {TRANSPARENT},
  inbound: [{{port: 8080, tags: {{kuma.io/service: here, kuma.io/protocol: {protocol}}}}}],
  outbound: [{{port: 80, address: '{called}', tags: {{kuma.io/service: web}}}}]}}}}
---
{{type: Dataplane, name: web-1, networking: {{address: '{outside}', inbound: [{{port: 8080, tags: {{kuma.io/service: web, kuma.io/protocol: {protocol}}}}}]}}}}
"
        );
        replace(&self.folder.join("mesh.yaml"), &text)
    }

    pub(crate) fn sidecar(&self, more: &[&str]) -> Result<Sidecar<'_>> {
        with_documents(&self.lab, &self.folder, &[&["--dataplane", "here"], more].concat())
    }

    pub(crate) fn client(&self, way: Way) -> Actor<'_> {
        match way {
            Way::Inbound => self.lab.peer.as_root(),
            Way::Outbound => self.lab.pod.as_uid(APP),
        }
    }

    /// The place of a server: a host with a uid, and an address there.
    pub(crate) fn place(&self, way: Way) -> (Actor<'_>, SocketAddr) {
        match way {
            Way::Inbound => (self.lab.pod.as_uid(APP), (self.family.pod(), 8080).into()),
            Way::Outbound => (self.lab.peer.as_root(), (self.family.outside(), 8080).into()),
        }
    }

    pub(crate) fn serve(&self, way: Way, behaviour: impl Behaviour) -> Result<Server> {
        let (actor, at) = self.place(way);
        actor.serve(at, behaviour)
    }

    pub(crate) fn connect(&self, way: Way) -> Result<TcpStream> {
        self.client(way).connect(way.called(self.family)).with_context(|| format!("{way:?}"))
    }

    pub(crate) fn url(&self, way: Way) -> String {
        format!("http://{}/", way.called(self.family))
    }

    pub(crate) fn curl(&self, way: Way, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20"]).args(arguments);
        let Output { status, stdout, stderr } = self.client(way).run(|| command.output())?;
        ensure!(status.success(), "{way:?} {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }
}

/// An origin that notes all bytes: answers each request, takes a body by length, and turns into an echo by Upgrade.
pub(crate) fn origin(heard: &Heard) -> impl Behaviour + use<> {
    let heard = Arc::clone(heard);
    move |stream| {
        let mut answers = stream.try_clone()?;
        let mut requests = BufReader::new(stream);
        loop {
            let (mut head, mut length, mut upgrades) = (String::new(), 0, false);
            loop {
                let from = head.len();
                if requests.read_line(&mut head)? == 0 {
                    return Ok(());
                }
                let line = head[from..].to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().map_err(io::Error::other)?;
                }
                upgrades |= line.starts_with("upgrade:");
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            if head.contains("100-continue") {
                answers.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            requests.read_exact(&mut body)?;
            heard.lock().expect("no panic").extend([head.as_bytes(), &body].concat());
            if upgrades {
                answers.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")?;
                let early = requests.buffer().to_vec();
                answers.write_all(&early)?;
                return echo()(answers);
            }
            if head.starts_with("GET /closes ") {
                answers.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nup to the end")?;
                return Ok(());
            }
            write!(answers, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
        }
    }
}

pub(crate) fn hears(stream: &mut TcpStream, expected: &str) -> Result<()> {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).with_context(|| format!("instead of {expected:?}"))?;
    ensure!(got == expected.as_bytes(), "{:?} instead of {expected:?}", String::from_utf8_lossy(&got));
    Ok(())
}

/// Reads up to FIN.
pub(crate) fn rest(stream: &mut TcpStream) -> Result<String> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(String::from_utf8_lossy(&rest).into_owned())
}

/// Waits until a counter of messages has a value.
pub(crate) fn counts(sidecar: &Sidecar<'_>, series: &str, way: Way, label: &str, count: u64) -> Result<()> {
    let line = format!("culvert_http_{series}_total{{direction=\"{}\",{label}}} {count}\n", way.name());
    eventually!(sidecar.metrics().is_ok_and(|page| page.contains(&line)), SOON);
    Ok(())
}

#[test]
fn curl_gets_its_answers_on_kept_connections_and_on_closed_ones() -> Result<()> {
    let world = World::new()?;
    let sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        let heard = Heard::default();
        let server = world.serve(way, origin(&heard))?;
        let url = world.url(way);
        let out = world.curl(way, &[&url, &url, &url])?;
        assert_eq!(out, "okokok", "{way:?}");
        assert_eq!(server.accepted(), 1, "{way:?}: one connection was kept");
        assert_eq!(world.curl(way, &["--http1.0", &url])?, "ok");
        assert_eq!(world.curl(way, &[&format!("{url}closes")])?, "up to the end");
        let body = "b".repeat(30_000_000);
        let file = world.lab.folder().join("body");
        fs::write(&file, &body)?;
        let data = format!("@{}", file.display());
        // 30 MB are spliced; curl asks for 100 first.
        assert_eq!(world.curl(way, &["--data-binary", &data, "-H", "Expect: 100-continue", &url])?, "ok");
        let heard = String::from_utf8_lossy(&heard.lock().expect("no panic")).into_owned();
        assert!(heard.ends_with(&body) && heard.contains(" HTTP/1.0\r\n"), "{way:?}");
        assert!(
            !heard.contains("x-request-id") && !heard.contains("x-forwarded"),
            "{way:?}: nothing is added"
        );
        counts(&sidecar, "requests", way, "class=\"2xx\"", 6)?;
    }
    let spliced = |line: &str| line.starts_with("culvert_splice_started_total ") && !line.ends_with(" 0");
    let page = sidecar.metrics()?;
    ensure!(page.lines().any(spliced), "{page}");
    Ok(())
}

#[test]
fn pipelined_requests_an_upgrade_and_half_close_pass_byte_for_byte() -> Result<()> {
    let world = World::new()?;
    let sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        let heard = Heard::default();
        let _server = world.serve(way, origin(&heard))?;
        let mut client = world.connect(way)?;
        let odd =
            "POST /a/../b//c%2F HTTP/1.1\r\nhOsT: a\r\nX-A:  1 \r\nx-a: 2\r\nContent-Length: 3\r\n\r\nxyz";
        client.write_all([GET, odd, GET].concat().as_bytes())?;
        hears(&mut client, &OK.repeat(3))?;
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        client.write_all([upgrade, "early\0"].concat().as_bytes())?;
        hears(&mut client, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nearly\0")?;
        client.write_all(b"GET no HTTP\n")?;
        hears(&mut client, "GET no HTTP\n")?;
        client.shutdown(Shutdown::Write)?;
        assert_eq!(rest(&mut client)?, "");
        assert_eq!(
            String::from_utf8_lossy(&heard.lock().expect("no panic")),
            [GET, odd, GET, upgrade].concat()
        );
        counts(&sidecar, "requests", way, "class=\"1xx\"", 1)?;
        // A client may send FIN behind its request and wait.
        let mut client = world.connect(way)?;
        client.write_all(b"GET /closes HTTP/1.1\r\nHost: a\r\n\r\n")?;
        client.shutdown(Shutdown::Write)?;
        assert_eq!(rest(&mut client)?, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nup to the end");
    }
    let all_well = |record: &serde_json::Value| (record["reason"] != "ok").then(|| record.clone());
    let ended = sidecar.access_log().iter().find_map(all_well);
    assert_eq!(ended, None);
    Ok(())
}

#[test]
fn what_is_refused_reaches_no_application_and_is_said() -> Result<()> {
    let world = World::new()?;
    let sidecar = world.sidecar(&["--log-level", "debug"])?;
    for way in Way::ALL {
        let heard = Heard::default();
        let server = world.serve(way, origin(&heard))?;
        for (request, status, rule) in [
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
                400,
                "length_and_chunked",
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "two_hosts"),
            ("GET / HTTP/1.1\nHost: a\n\n", 400, "bare_lf"),
            ("\u{16}\u{3}\u{1}\0", 400, "control_byte"),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n", 417, "expectation"),
        ] {
            let mut client = world.connect(way)?;
            client.write_all(request.as_bytes())?;
            let answer = rest(&mut client)?;
            let is_it = answer.starts_with(&format!("HTTP/1.1 {status} "))
                && answer.contains(&format!("\r\n\r\n{rule}: "));
            ensure!(is_it, "{way:?} {request:?}: {answer:?}");
            counts(&sidecar, "refusals", way, &format!("rule=\"{rule}\""), 1)?;
        }
        // A scan of ports, and a head that never ends.
        drop(world.connect(way)?);
        let mut client = world.connect(way)?;
        client.write_all(&[&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 61 * 1024]].concat())?;
        let answer = rest(&mut client)?;
        ensure!(answer.starts_with("HTTP/1.1 431 "), "{way:?}: {answer:?}");
        assert_eq!(server.accepted(), 0, "{way:?}");
        // Behind a request that was let through the server is not told of the next.
        let mut client = world.connect(way)?;
        client.write_all([GET, "GET /smuggled HTTP/1.1\r\n\r\n"].concat().as_bytes())?;
        let answer = rest(&mut client)?;
        ensure!(answer.starts_with(&format!("{OK}HTTP/1.1 400 ")), "{way:?}: {answer:?}");
        assert_eq!(String::from_utf8_lossy(&heard.lock().expect("no panic")), GET);
    }
    let record = sidecar.access(SOON, |record| (record["reason"] == "http_request").then(|| record.clone()));
    let record = record.context("no record of a refusal")?;
    ensure!(
        record["error"].as_str().is_some_and(|error| error.starts_with("length_and_chunked: ")),
        "{record}"
    );
    let said = sidecar.stderr().text();
    ensure!(said.contains("a message was refused") && said.contains("two_hosts"), "{said}");
    Ok(())
}

#[test]
fn without_a_server_the_client_gets_a_503_and_from_one_that_speaks_no_http_a_502() -> Result<()> {
    let world = World::new()?;
    let sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        let mut client = world.connect(way)?;
        client.write_all(GET.as_bytes())?;
        let answer = rest(&mut client)?;
        ensure!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("unreachable: "),
            "{way:?}: {answer:?}"
        );
        let refused = |record: &serde_json::Value| {
            (record["reason"] == "connect_refused" && record["direction"] == way.name()).then_some(())
        };
        sidecar.access(SOON, refused).context("no record")?;
        let _server = world.serve(way, |mut stream: TcpStream| {
            stream.read_exact(&mut [0; GET.len()])?;
            stream.write_all(b"-ERR unknown command 'GET'\r\n")?;
            stream.read_to_end(&mut Vec::new()).map(|_| ())
        })?;
        let mut client = world.connect(way)?;
        client.write_all(GET.as_bytes())?;
        let answer = rest(&mut client)?;
        ensure!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains("status_line: "),
            "{way:?}: {answer:?}"
        );
    }
    Ok(())
}

#[test]
fn a_server_that_resets_is_a_reset() -> Result<()> {
    let world = World::new()?;
    let _sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        let _server = world.serve(way, culvert_tests::server::resets_after_a_byte())?;
        let mut client = world.connect(way)?;
        client.write_all(GET.as_bytes())?;
        assert_reset(client, &format!("{way:?}"));
    }
    Ok(())
}
