//! Traffic logs at a server by name; of destinations by labels and sections, of inbounds, of callers; of Kuma's older kind; and
//! the server name that a client asks for.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use culvert_tests::server::{Server, echo};
use culvert_tests::tls::{Client, MESH, own_tls};
use culvert_tests::until::until_some;
use culvert_tests::{Authority, Lab, Sidecar, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::APP;
use crate::walkthrough::{onboarded, talks};

/// From a change of `/etc/hosts` to a line at the new place: a second between two connects at most, on a busy machine.
const MOVED_WITHIN: Duration = Duration::from_secs(30);

/// A pod that calls `web`, `db` and what is outside, with servers for all of them.
struct World {
    _servers: [Server; 5],
    lab: Lab,
    folder: PathBuf,
    logs: PathBuf,
}

impl World {
    /// With a Mesh that has these fields.
    fn new(mesh: &str) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        lab.peer.add_local_route("192.0.2.0/24")?;
        let logs = lab.folder().join("logs");
        fs::create_dir(&logs)?;
        std::os::unix::fs::chown(&logs, Some(culvert_tests::pod::sidecar::UID), None)?;
        fs::write(folder.join("mesh.yaml"), format!("{{type: Mesh, name: default{mesh}}}\n"))?;
        let other = |name: &str, port: u16| {
            format!(
                "---\n{{type: Dataplane, name: {name}, networking: {{address: 192.0.2.10, inbound: [{{port: {port}, name: http, tags: {{kuma.io/service: {name}}}}}]}}}}\n"
            )
        };
        let pods = format!(
            "{{type: Dataplane, name: here, labels: {{app: here}}, networking: {{address: 10.77.0.2, {TRANSPARENT},
  inbound: [{{port: 8080, name: http, tags: {{kuma.io/service: here}}}}, {{port: 8081, name: ops, tags: {{kuma.io/service: here}}}}],
  outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}, {{port: 7101, tags: {{kuma.io/service: db}}}}]}}}}\n{}{}",
            other("web", 81),
            other("db", 82)
        );
        fs::write(folder.join("pods.yaml"), pods)?;
        let (peer, app) = (&lab.peer, lab.pod.as_uid(APP));
        let servers = [
            peer.serve("192.0.2.10:81", echo())?,
            peer.serve("192.0.2.10:82", echo())?,
            peer.serve("192.0.2.10:83", echo())?,
            app.serve("10.77.0.2:8080", echo())?,
            app.serve("10.77.0.2:8081", echo())?,
        ];
        Ok(Self { _servers: servers, lab, folder, logs })
    }

    /// Writes a policy before the sidecar starts; `LOGS` stands for the folder of logs.
    fn policy(&self, name: &str, text: &str) -> Result<()> {
        let text = text.replace("LOGS", &self.logs.display().to_string());
        Ok(fs::write(self.folder.join(format!("{name}.yaml")), text)?)
    }

    fn sidecar(&self, hosts: &str, more: &[&str]) -> Result<Sidecar<'_>> {
        let etc = self.lab.hosts(hosts)?;
        let folder = self.folder.display().to_string();
        let settings = self.lab.pod.sidecar().etc(&etc);
        settings.options(["--resources", &folder, "--dataplane", "here"]).options(more).start()
    }

    fn call(&self, to: &str) -> Result<()> {
        talks(self.lab.pod.as_uid(APP).connect(to)?)
    }

    /// The lines of a log, sorted: connections may end in another order than they began.
    fn said(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.logs.join(file)).unwrap_or_default();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

/// A place where lines arrive.
struct Collector(TcpListener);

impl Collector {
    fn at(lab: &Lab, address: &str) -> Result<Self> {
        let listener = lab.peer.listen(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// The lines of the next connection.
    fn lines(&self) -> Result<impl Iterator<Item = io::Result<String>> + use<>> {
        let accepted = until_some(SOON, || self.0.accept().ok());
        lines_of(accepted.context("no connection came")?.0)
    }
}

fn lines_of(stream: TcpStream) -> Result<impl Iterator<Item = io::Result<String>> + use<>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(BufReader::new(stream).lines())
}

/// A policy whose lines go to a server, in the format of Kuma's own tests.
fn to_server(address: &str) -> String {
    format!(
        "{{type: MeshAccessLog, name: tcp, mesh: default, spec: {{targetRef: {{kind: Mesh}}, to: [{{targetRef: {{kind: Mesh}}, default: {{backends: [\
         {{type: Tcp, tcp: {{address: '{address}', format: {{type: Plain, plain: '%START_TIME(%s)%,%KUMA_SOURCE_SERVICE%,%KUMA_DESTINATION_SERVICE%'}}}}}}]}}}}]}}}}\n"
    )
}

/// Checks a line of that format.
fn assert_line(line: &str, services: &str) -> Result<()> {
    let (second, rest) = line.split_once(',').with_context(|| line.to_owned())?;
    assert_eq!(rest, services, "{line}");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    assert!(now.abs_diff(second.parse()?) <= 60, "{line}");
    Ok(())
}

#[test]
fn a_server_by_name_gets_the_lines_and_is_found_again_where_it_has_moved() -> Result<()> {
    let world = World::new("")?;
    world.policy("log", &to_server("collector.test:9999"))?;
    let collector = Collector::at(&world.lab, "192.0.2.10:9999")?;
    let sidecar = world.sidecar("192.0.2.10 collector.test\n", &[])?;
    world.call("127.0.0.1:7100")?;
    let mut lines = collector.lines()?;
    assert_line(&lines.next().context("no line")??, "here,web")?;
    world.call("192.0.2.10:83")?;
    assert_line(&lines.next().context("no line")??, "here,external")?;
    assert_eq!(sidecar.stat("traffic_log.dropped")?, 0);
    // It moves: the next connect asks for its name again.
    let elsewhere = Collector::at(&world.lab, "192.0.2.20:9999")?;
    world.lab.hosts("192.0.2.20 collector.test\n")?;
    drop((lines, collector));
    let mut moved = None;
    eventually!(
        {
            world.call("127.0.0.1:7100").expect("a log never keeps a connection from its server");
            moved = elsewhere.0.accept().ok();
            moved.is_some()
        },
        MOVED_WITHIN
    );
    let mut lines = lines_of(moved.context("checked above")?.0)?;
    assert_line(&lines.next().context("no line")??, "here,web")
}

#[test]
fn a_name_without_an_address_costs_lines_and_no_connection() -> Result<()> {
    let world = World::new(
        ", logging: {defaultBackend: logstash, backends: [{name: logstash, type: tcp, conf: {address: 'logstash.logging:5000'}, format: '%KUMA_DESTINATION_SERVICE%'}]}",
    )?;
    let collector = Collector::at(&world.lab, "192.0.2.10:5000")?;
    let sidecar = world.sidecar("", &[])?;
    world.call("127.0.0.1:7100")?;
    eventually!(sidecar.stat("traffic_log.dropped").is_ok_and(|n| n == 1), SOON);
    let warned = |line: &str| {
        (line.contains("cannot write the traffic log") && line.contains("tcp://logstash.logging:5000"))
            .then_some(())
    };
    sidecar.stderr().wait_for(SOON, warned).context("no warning")?;
    world.lab.hosts("192.0.2.10 logstash.logging\n")?;
    let mut came = None;
    eventually!(
        {
            world.call("127.0.0.1:7101").expect("a log never keeps a connection from its server");
            came = collector.0.accept().ok();
            came.is_some()
        },
        MOVED_WITHIN
    );
    assert_eq!(lines_of(came.context("checked above")?.0)?.next().context("no line")??, "db");
    Ok(())
}

#[test]
fn destinations_are_chosen_by_labels_and_section_and_the_rest_is_logged_by_the_wider_entry() -> Result<()> {
    let world = World::new("")?;
    world.policy(
        "log",
        "type: MeshAccessLog
name: narrow
mesh: default
spec:
  targetRef: {kind: Dataplane, labels: {app: here}}
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: web}, sectionName: http}
    default:
      backends:
      - type: File
        file:
          path: LOGS/web
          format: {type: Json, json: [{key: from, value: '%KUMA_SOURCE_SERVICE%'}, {key: to, value: '%KUMA_DESTINATION_SERVICE%'}]}
  - targetRef: {kind: MeshService, name: db, sectionName: grpc}
    default: {backends: [{type: File, file: {path: LOGS/none}}]}
  - targetRef: {kind: MeshExternalService, name: web}
    default: {backends: [{type: File, file: {path: LOGS/none}}]}
  - targetRef: {kind: MeshHTTPRoute, name: web}
    default: {backends: [{type: File, file: {path: LOGS/none}}]}
---
type: MeshAccessLog
name: wide
mesh: default
spec:
  to:
  - targetRef: {kind: Mesh}
    default: {backends: [{type: File, file: {path: LOGS/rest, format: {type: Plain, plain: '%KUMA_DESTINATION_SERVICE%'}}}]}
",
    )?;
    let sidecar = world.sidecar("", &[])?;
    // By the outbound, and by the member's own address.
    for to in ["127.0.0.1:7100", "192.0.2.10:81", "127.0.0.1:7101", "192.0.2.10:83"] {
        world.call(to)?;
    }
    eventually!(world.said("web").len() == 2 && world.said("rest").len() == 2, SOON);
    assert_eq!(world.said("web"), [r#"{"from":"here","to":"web"}"#; 2]);
    assert_eq!(world.said("rest"), ["db", "external"]);
    assert_eq!(world.said("none"), [""; 0]);
    let warned = |line: &str| {
        (line.contains("MeshAccessLog narrow: without effect")
            && line.contains("to go there: to[3] (MeshHTTPRoute)"))
        .then_some(())
    };
    sidecar.stderr().wait_for(SOON, warned).context("no warning")
}

/// Speaks as a member, and ends in order.
fn member(client: &Client, tcp: TcpStream, name: &str) -> Result<()> {
    let mut stream = client.asking(tcp, name)?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

fn identity(authority: &Authority, lab: &Lab) -> Result<String> {
    let folder = lab.folder().join("identity");
    authority.service("here")?.write(&folder)?;
    Ok(folder.display().to_string())
}

fn mtls(mode: &str) -> String {
    format!(", mtls: {{enabledBackend: ca, backends: [{{name: ca, type: provided, mode: {mode}}}]}}")
}

#[test]
fn an_inbound_and_a_caller_may_have_logs_of_their_own() -> Result<()> {
    let world = World::new(&mtls("STRICT"))?;
    let authority = Authority::new("mesh default")?;
    let to_file = |file: &str| {
        format!(
            "default: {{backends: [{{type: File, file: {{path: LOGS/{file}, format: {{type: Plain, plain: '%DOWNSTREAM_LOCAL_PORT% %REQUESTED_SERVER_NAME%'}}}}}}]}}"
        )
    };
    world.policy(
        "log",
        &format!(
            "{{type: MeshAccessLog, name: callers, mesh: default, spec: {{rules: [
  {{matches: [{{spiffeID: {{type: Exact, value: spiffe://default/web}}}}], {}}},
  {{matches: [{{spiffeID: {{type: Prefix, value: 'spiffe://default/'}}}}], {}}},
  {{matches: [{{spiffeID: {{type: Exact, value: spiffe://default/other}}}}], {}}}]}}}}
---
{{type: MeshAccessLog, name: ops, mesh: default, spec: {{targetRef: {{kind: Dataplane, labels: {{app: here}}, sectionName: ops}}, rules: [{{{}}}]}}}}
",
            to_file("web"),
            to_file("members"),
            to_file("none"),
            to_file("ops")
        ),
    )?;
    let identity = identity(&authority, &world.lab)?;
    let _sidecar = world.sidecar("", &["--identity", &identity])?;
    for (service, port) in [("web", 8080), ("api", 8080), ("api", 8081)] {
        let client = Client::new(&[MESH], Some(&authority.service(service)?))?;
        member(&client, world.lab.peer.connect(("10.77.0.2", port))?, &format!("{service}.test"))?;
    }
    eventually!(["web", "members", "ops"].map(|file| world.said(file).len()) == [1, 3, 1], SOON);
    assert_eq!(world.said("web"), ["8080 web.test"]);
    assert_eq!(world.said("members"), ["8080 api.test", "8080 web.test", "8081 api.test"]);
    assert_eq!(world.said("ops"), ["8081 api.test"]);
    assert_eq!(world.said("none"), [""; 0]);
    Ok(())
}

#[test]
fn the_server_name_is_logged_where_it_is_seen() -> Result<()> {
    let world = World::new(&mtls("PERMISSIVE"))?;
    let authority = Authority::new("mesh default")?;
    let to_file = |file: &str| {
        format!(
            "default: {{backends: [{{type: File, file: {{path: LOGS/{file}, format: {{type: Plain, plain: '%REQUESTED_SERVER_NAME%'}}}}}}]}}"
        )
    };
    world.policy(
        "log",
        &format!(
            "{{type: MeshAccessLog, name: in, mesh: default, spec: {{rules: [{{{}}}]}}}}
---
{{type: MeshAccessLog, name: out, mesh: default, spec: {{to: [{{targetRef: {{kind: Mesh}}, {}}}]}}}}
---
{{type: MeshPassthrough, name: out, mesh: default, spec: {{targetRef: {{kind: Mesh}}, default: {{passthroughMode: Matched, appendMatch: [
  {{type: Domain, value: server.test, port: 443, protocol: tls}}]}}}}}}
",
            to_file("in"),
            to_file("out")
        ),
    )?;
    let identity = identity(&authority, &world.lab)?;
    let _sidecar = world.sidecar("", &["--identity", &identity])?;
    let said = |file: &str, lines: &[&str]| {
        eventually!(world.said(file).len() >= lines.len(), SOON);
        assert_eq!(world.said(file), lines);
    };
    // A plain client, a member, and TLS of the application's own.
    talks(world.lab.peer.connect("10.77.0.2:8080")?)?;
    said("in", &["-"]);
    let client = Client::new(&[MESH], Some(&authority.service("web")?))?;
    member(&client, world.lab.peer.connect("10.77.0.2:8080")?, "here.mesh")?;
    said("in", &["-", "here.mesh"]);
    let _own = world.lab.pod.as_uid(APP).serve("10.77.0.2:8443", own_tls("hello")?)?;
    let own = Client::new(&[b"h2"], None)?;
    let greeted = |tcp: TcpStream, name: &str| -> Result<()> {
        let mut stream = own.asking(tcp, name)?;
        stream.read_exact(&mut [0; 5])?;
        stream.conn.send_close_notify();
        Ok(stream.flush()?)
    };
    greeted(world.lab.peer.connect("10.77.0.2:8443")?, "own.test")?;
    said("in", &["-", "here.mesh", "own.test"]);
    // A call that its name lets out, and one that it does not.
    let _outside = world.lab.peer.serve("192.0.2.10:443", own_tls("hello")?)?;
    greeted(world.lab.pod.as_uid(APP).connect("192.0.2.10:443")?, "server.test")?;
    said("out", &["server.test"]);
    assert!(greeted(world.lab.pod.as_uid(APP).connect("192.0.2.10:443")?, "other.test").is_err());
    said("out", &["other.test", "server.test"]);
    Ok(())
}

#[test]
fn the_older_kind_chooses_a_backend_of_the_mesh_for_calls() -> Result<()> {
    let world = World::new(
        ", logging: {backends: [{name: logstash, type: tcp, conf: {address: 'logstash.logging:5000'}, format: '%KUMA_DESTINATION_SERVICE%'}, {name: other, type: file, conf: {path: /nowhere}}]}",
    )?;
    world.policy(
        "log",
        "apiVersion: kuma.io/v1alpha1
kind: TrafficLog
mesh: default
metadata: {namespace: kuma-demo, name: everything}
spec:
  sources: [{match: {kuma.io/service: '*'}}]
  destinations: [{match: {kuma.io/service: web}}]
  conf: {backend: logstash}
",
    )?;
    let collector = Collector::at(&world.lab, "192.0.2.10:5000")?;
    let sidecar = world.sidecar("192.0.2.10 logstash.logging\n", &[])?;
    for to in ["127.0.0.1:7101", "127.0.0.1:7100", "192.0.2.10:83", "127.0.0.1:7100"] {
        world.call(to)?;
    }
    let mut lines = collector.lines()?;
    for _ in 0..2 {
        assert_eq!(lines.next().context("no line")??, "web");
    }
    assert_eq!(sidecar.stat("traffic_log.dropped")?, 0);
    let policy = fs::read_to_string(world.folder.join("log.yaml"))?;
    replace(&world.folder.join("log.yaml"), &policy.replace("backend: logstash", "backend: splunk"))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    let told = |line: &str| {
        (line.contains("TrafficLog everything: its connections are not logged")
            && line.contains("\"splunk\""))
        .then_some(())
    };
    sidecar.stderr().wait_for(SOON, told).context("the backend is not told")
}
