// SPDX-License-Identifier: Apache-2.0
//! Services that documents say, called by references of the pod's Dataplane, with real traffic.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::server::{Server, speaks_first};
use culvert_tests::tls::TlsServer;
use culvert_tests::tls::authority::Credentials;
use culvert_tests::{Authority, Lab, Sidecar, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::APP;
use crate::walkthrough::{onboarded, with_documents};

/// Two pods of `backend` in two zones, and another one.
const EAST: &str = "192.0.2.10:82";
const WEST: &str = "192.0.2.20:82";
const OTHER: &str = "192.0.2.30:84";

/// The pods, which their labels alone tell apart, and the services over them.
const SERVICES: &str = "
---
{type: Dataplane, name: e, labels: {app: backend, kuma.io/zone: east}, networking: {address: 192.0.2.10, inbound: [{port: 82, name: main, tags: {kuma.io/service: x}}]}}
---
{type: Dataplane, name: w, labels: {app: backend, kuma.io/zone: west}, networking: {address: 192.0.2.20, inbound: [{port: 82, name: main, tags: {kuma.io/service: x}}]}}
---
{type: Dataplane, name: o, labels: {app: other}, networking: {address: 192.0.2.30, inbound: [{port: 84, tags: {kuma.io/service: other}}]}}
---
type: MeshService
name: backend
labels: {team: a, kuma.io/zone: east}
spec:
  selector: {dataplaneLabels: {matchLabels: {app: backend}}}
  ports: [{port: 80, targetPort: main, name: http}, {port: 81, targetPort: 82, name: spare}]
---
type: MeshService
name: backend-x2f
labels: {team: a, kuma.io/zone: west, kuma.io/display-name: backend}
spec:
  selector: {dataplaneLabels: {matchLabels: {app: backend}}}
  ports: [{port: 80, targetPort: main}]
---
type: MeshMultiZoneService
name: all
spec:
  selector: {meshService: {matchLabels: {team: a}}}
  ports: [{port: 80, name: http}]
";

/// The pod with outbounds from port 7100 on to these references.
fn here(mesh: &str, references: &[&str]) -> String {
    let outbound = |(port, to): (u16, &&str)| format!("{{port: {port}, backendRef: {{{to}}}}}");
    let outbounds: Vec<_> = (7100..).zip(references).map(outbound).collect();
    format!(
        "{{type: Mesh, name: default{mesh}}}\n---\n{{type: Dataplane, name: here, labels: {{kuma.io/zone: east}}, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}], outbound: [{}]}}}}\n",
        outbounds.join(", ")
    )
}

/// A lab with servers that say their names first, and then echo.
struct World {
    lab: Lab,
    folder: PathBuf,
    servers: Vec<Server>,
}

impl World {
    fn new(documents: &str) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        lab.peer.add_local_route("192.0.2.0/24")?;
        fs::write(folder.join("mesh.yaml"), documents)?;
        Ok(Self { lab, folder, servers: Vec::new() })
    }

    fn plain(documents: &str) -> Result<Self> {
        let mut world = Self::new(documents)?;
        for (at, name) in [(EAST, "e"), (WEST, "w"), (OTHER, "o")] {
            world.servers.push(world.lab.peer.serve(at, speaks_first(name))?);
        }
        Ok(world)
    }

    fn sidecar(&self, more: &[&str]) -> Result<Sidecar<'_>> {
        let options: Vec<_> = ["--dataplane", "here"].iter().chain(more).copied().collect();
        with_documents(&self.lab, &self.folder, &options)
    }

    fn reload(&self, sidecar: &Sidecar<'_>, documents: &str, reloads: u64) -> Result<()> {
        replace(&self.folder.join("mesh.yaml"), documents)?;
        eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == reloads), SOON);
        Ok(())
    }

    /// A call, with the name of the server that took it; `None` where it was reset.
    fn call(&self, to: &str) -> Result<Option<(TcpStream, char)>> {
        let ended = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
        let mut stream = match self.lab.pod.as_uid(APP).connect(to) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => bail!(error),
        };
        let mut name = [0];
        match stream.read_exact(&mut name) {
            Ok(()) => Ok(Some((stream, name[0].into()))),
            Err(error) if ended.contains(&error.kind()) => Ok(None),
            Err(error) => bail!(error),
        }
    }

    /// The servers that took this many calls, each once, in the order of their names.
    fn called(&self, to: &str, number: usize) -> Result<String> {
        let mut names = Vec::new();
        for _ in 0..number {
            names.push(self.call(to)?.with_context(|| format!("a call to {to} was reset"))?.1);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names.into_iter().collect())
    }
}

const BACKEND: &str = "kind: MeshService, name: backend, port: 80";
const ALL: &str = "kind: MeshMultiZoneService, name: all, port: 80";

#[test]
fn a_mesh_service_is_its_zones_pods_by_label_and_a_multi_zone_service_all_of_them() -> Result<()> {
    let by_labels = "kind: MeshService, labels: {team: a, kuma.io/zone: west}, port: 80";
    let stands_in = "kind: MeshService, name: other, port: 84";
    let references = [BACKEND, by_labels, ALL, stands_in];
    let documents = here("", &references) + SERVICES;
    let world = World::plain(&documents)?;
    let sidecar = world.sidecar(&[])?;
    for (to, servers) in
        [("127.0.0.1:7100", "e"), ("127.0.0.1:7101", "w"), ("127.0.0.1:7102", "ew"), ("127.0.0.1:7103", "o")]
    {
        ensure!(world.called(to, 10)? == servers, "{to}");
    }
    for cluster in [
        "default_backend__east_msvc_80",
        "default_backend__west_msvc_80",
        "default_all___mzsvc_80",
        "default_other__east_msvc_84",
    ] {
        ensure!(sidecar.stat(&format!("cluster.{cluster}.upstream_cx_total"))? == 10, "{cluster}");
    }
    // A pod that gets the label joins the service, and one that is not ready leaves it.
    let relabelled = documents.replace("name: o, labels: {app: other}", "name: o, labels: {app: backend}");
    let relabelled = relabelled.replace("{port: 84, tags", "{port: 84, name: main, tags");
    world.reload(&sidecar, &relabelled, 1)?;
    ensure!(world.called("127.0.0.1:7100", 10)? == "eo", "with a pod more");
    let gone = documents.replace("name: main, tags", "name: main, health: {ready: false}, tags");
    world.reload(&sidecar, &gone, 2)?;
    ensure!(world.call("127.0.0.1:7100")?.is_none(), "no pod is ready");
    ensure!(world.called("127.0.0.1:7103", 2)? == "o");
    Ok(())
}

#[test]
fn a_route_leads_from_one_kind_of_service_to_another() -> Result<()> {
    let route = |to: &str, backends: &str| {
        format!(
            "---\n{{type: MeshTCPRoute, name: r, spec: {{to: [{{targetRef: {{{to}}}, rules: [{{default: {{backendRefs: [{backends}]}}}}]}}]}}}}\n"
        )
    };
    let documents = here("", &[BACKEND, ALL]) + SERVICES;
    let world = World::plain(&documents)?;
    let sidecar = world.sidecar(&[])?;
    let cases = [
        (
            "kind: MeshService, labels: {team: a}, sectionName: http",
            "{kind: MeshService, name: other, port: 84}",
            ["o", "ew"],
        ),
        (
            "kind: MeshService, name: backend",
            "{kind: MeshMultiZoneService, name: all, port: 80}",
            ["ew", "ew"],
        ),
        (
            "kind: MeshMultiZoneService, name: all",
            "{kind: MeshService, labels: {kuma.io/zone: west, team: a}, port: 80}",
            ["e", "w"],
        ),
        (
            "kind: MeshMultiZoneService, name: all, sectionName: http",
            "{kind: MeshService, name: backend, port: 81}",
            ["e", "e"],
        ),
    ];
    for ((to, backends, servers), reloads) in cases.into_iter().zip(1..) {
        world.reload(&sidecar, &format!("{documents}{}", route(to, backends)), reloads)?;
        let found = [world.called("127.0.0.1:7100", 10)?, world.called("127.0.0.1:7101", 10)?];
        ensure!(found == servers, "{to} to {backends}: {found:?}");
    }
    Ok(())
}

#[test]
fn limits_of_one_port_of_a_mesh_service_hold_for_that_port_alone() -> Result<()> {
    let policies = "
---
type: MeshCircuitBreaker
name: one
spec:
  to:
  - targetRef: {kind: MeshService, labels: {team: a}, sectionName: http}
    default: {connectionLimits: {maxConnections: 1}}
---
type: MeshTimeout
name: idle
spec:
  to:
  - targetRef: {kind: MeshService, labels: {team: a}, sectionName: '81'}
    default: {idleTimeout: 1s}
";
    let spare = "kind: MeshService, name: backend, port: 81";
    let world = World::plain(&(here("", &[BACKEND, spare, ALL]) + SERVICES + policies))?;
    let sidecar = world.sidecar(&[])?;
    let first = world.call("127.0.0.1:7100")?.context("the first call")?;
    ensure!(world.call("127.0.0.1:7100")?.is_none(), "one more than the limit");
    let mut spares = Vec::new();
    for to in ["127.0.0.1:7101", "127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:7102"] {
        spares.push(world.call(to)?.with_context(|| format!("a call to {to}"))?.0);
    }
    let idle = |cluster: &str| sidecar.stat(&format!("cluster.{cluster}.upstream_cx_idle_timeout"));
    eventually!(idle("default_backend__east_msvc_81").is_ok_and(|n| n == 2), SOON);
    ensure!(idle("default_backend__east_msvc_80")? == 0 && idle("default_all___mzsvc_80")? == 0);
    drop((first, spares));
    Ok(())
}

/// A member behind its sidecar, which says this name.
fn member(lab: &Lab, at: &str, credentials: &Credentials, name: &'static str) -> Result<Server> {
    let tls = TlsServer::new(credentials, 0)?;
    lab.peer.serve(at, move |stream: TcpStream| {
        let mut stream = tls.over(stream).map_err(io::Error::other)?;
        stream.write_all(name.as_bytes())?;
        stream.conn.send_close_notify();
        stream.flush()
    })
}

/// As a headless Service of Kubernetes is called: DNS has the addresses of its pods.
#[test]
fn a_call_to_a_pods_own_address_goes_to_that_pod_and_to_no_server_without_its_identity() -> Result<()> {
    let mesh = ", networking: {outbound: {passthrough: false}}, mtls: {enabledBackend: ca, backends: [{name: ca, type: provided, mode: STRICT}]}";
    let world = World::new(&(here(mesh, &[BACKEND]) + SERVICES))?;
    let authority = Authority::new("mesh default")?;
    let identity = world.lab.folder().join("identity");
    authority.service("here")?.write(&identity)?;
    let _east = member(&world.lab, EAST, &authority.service("x")?, "e")?;
    let _west = member(&world.lab, WEST, &authority.service("x")?, "w")?;
    // It stands where `other` should.
    let _other = member(&world.lab, OTHER, &authority.service("x")?, "o")?;
    let identity = identity.display().to_string();
    let sidecar = world.sidecar(&["--identity", &identity])?;
    for (to, server) in [(EAST, "e"), (WEST, "w"), ("127.0.0.1:7100", "e")] {
        ensure!(world.called(to, 5)? == server, "{to}");
    }
    ensure!(world.call(OTHER)?.is_none(), "another identity than its Dataplane's");
    ensure!(sidecar.stat("cluster.direct_access.upstream_cx_total")? >= 10);
    Ok(())
}

/// The services' names have no part in it: the pod calls the addresses that a control plane wrote.
#[test]
fn reachable_backends_leave_a_way_to_those_services_and_to_no_other() -> Result<()> {
    let named = "
---
{type: MeshService, name: first, spec: {selector: {dataplaneLabels: {matchLabels: {app: backend}}}, ports: [{port: 80, targetPort: main}, {port: 81, targetPort: main}]}, status: {vips: [{ip: 241.0.0.1}]}}
---
{type: MeshService, name: second, spec: {selector: {dataplaneLabels: {matchLabels: {app: other}}}, ports: [{port: 80, targetPort: 84}]}, status: {vips: [{ip: 241.0.0.2}]}}
---
{type: HostnameGenerator, name: all, spec: {selector: {meshService: {matchLabels: {}}}, template: '{{ .DisplayName }}.meshservice.othertld'}}
";
    let closed = ", networking: {outbound: {passthrough: false}}";
    let cut = |references: &str| {
        let with = format!("15001, reachableBackends: {{refs: [{references}]}}}}");
        (here(closed, &[]) + SERVICES + named).replace("15001}", &with)
    };
    let world = World::plain(&(here(closed, &[]) + SERVICES + named))?;
    let sidecar = world.sidecar(&[])?;
    for (to, servers) in [("241.0.0.1:80", "ew"), ("241.0.0.1:81", "ew"), ("241.0.0.2:80", "o")] {
        ensure!(world.called(to, 10)? == servers, "{to}");
    }
    ensure!(world.call("241.0.0.2:81")?.is_none(), "a port that the service does not have");
    for (references, reached, reloads) in [
        ("{kind: MeshService, name: first}", [true, true, false], 1),
        (
            "{kind: MeshService, name: first, port: 81}, {kind: MeshService, name: second}",
            [false, true, true],
            2,
        ),
        ("", [false; 3], 3),
    ] {
        world.reload(&sidecar, &cut(references), reloads)?;
        for (to, reached) in ["241.0.0.1:80", "241.0.0.1:81", "241.0.0.2:80"].into_iter().zip(reached) {
            ensure!(world.call(to)?.is_some() == reached, "{references}: {to}");
        }
    }
    Ok(())
}
