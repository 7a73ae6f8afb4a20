//! Routes that lead calls to several services or subsets by weight, with real traffic.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::server::{Server, speaks_first};
use culvert_tests::tls::TlsServer;
use culvert_tests::tls::authority::Credentials;
use culvert_tests::{Authority, Lab, Sidecar, eventually};
use serde_json::json;

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::APP;
use crate::walkthrough::{dump, of_dump, onboarded, with_documents};

/// The outbound to `backend`, whose versions 1 and 2 are ports of the peer, as `other` is.
const CALL: &str = "127.0.0.1:7100";
const V1: &str = "192.0.2.10:82";
const V2: &str = "192.0.2.10:83";
const OTHER: &str = "192.0.2.10:84";

/// The names that Kuma gives the clusters of the versions.
const CLUSTER_V1: &str = "backend-154693772bc47249";
const CLUSTER_V2: &str = "backend-5b73b3f4adf20020";

const TAGS: &str = "tags: {kuma.io/service: backend}";

fn documents(mesh: &str, outbound: &str, routes: &str) -> String {
    let pod = |name: &str, port: u16, tags: &str| {
        format!(
            "---\n{{type: Dataplane, name: {name}, networking: {{address: 192.0.2.10, inbound: [{{port: {port}, tags: {{kuma.io/service: {tags}}}}}]}}}}\n"
        )
    };
    let pods = pod("v1", 82, "backend, version: v1")
        + &pod("v2", 83, "backend, version: v2")
        + &pod("other", 84, "other");
    format!(
        "{{type: Mesh, name: default{mesh}}}\n---\n{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}], outbound: [{{port: 7100, {outbound}}}]}}}}\n{pods}{routes}"
    )
}

/// A MeshTCPRoute from `backend` to these backends.
fn route(backends: &str) -> String {
    format!(
        "---\n{{type: MeshTCPRoute, name: r, spec: {{to: [{{targetRef: {{kind: MeshService, name: backend}}, rules: [{{default: {{backendRefs: [{backends}]}}}}]}}]}}}}\n"
    )
}

fn version(version: &str, weight: u32) -> String {
    format!("{{kind: MeshServiceSubset, name: backend, tags: {{version: {version}}}, weight: {weight}}}")
}

fn service(name: &str, weight: u32) -> String {
    format!("{{kind: MeshService, name: {name}, weight: {weight}}}")
}

/// A lab with the three servers, each of which says its name first and then echoes.
struct World {
    lab: Lab,
    folder: PathBuf,
    servers: [Server; 3],
}

impl World {
    fn new(outbound: &str, routes: &str) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        let servers = [
            lab.peer.serve(V1, speaks_first("1"))?,
            lab.peer.serve(V2, speaks_first("2"))?,
            lab.peer.serve(OTHER, speaks_first("o"))?,
        ];
        fs::write(folder.join("mesh.yaml"), documents("", outbound, routes))?;
        Ok(Self { lab, folder, servers })
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        with_documents(&self.lab, &self.folder, &["--dataplane", "here"])
    }

    /// Exchanges the routes, and waits until the change is in force.
    fn reroute(&self, sidecar: &Sidecar<'_>, routes: &str, reloads: u64) -> Result<()> {
        replace(&self.folder.join("mesh.yaml"), &documents("", TAGS, routes))?;
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

    /// The servers that took this many calls, one after the other.
    fn calls(&self, number: usize) -> Result<Vec<char>> {
        let one = |_| -> Result<char> { Ok(self.call(CALL)?.context("the call was reset")?.1) };
        (0..number).map(one).collect()
    }
}

fn echoes(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    let mut echo = [0];
    stream.read_exact(&mut echo)?;
    ensure!(echo == *b"x");
    Ok(())
}

fn count(all: &[char], wanted: char) -> usize {
    all.iter().filter(|one| **one == wanted).count()
}

/// Six standard deviations of 1,000 draws at 10 % are 57: a right split fails once in 500 million runs.
#[test]
fn of_a_thousand_calls_at_90_to_10_the_subsets_have_their_shares_and_weight_0_has_none() -> Result<()> {
    let backends = [version("v1", 90), version("v2", 10), service("other", 0)].join(", ");
    let world = World::new(TAGS, &route(&backends))?;
    let sidecar = world.sidecar()?;
    let all = world.calls(1_000)?;
    let (first, second) = (count(&all, '1'), count(&all, '2'));
    ensure!(first + second == 1_000 && (43..=157).contains(&second), "{first} and {second}");
    ensure!(world.servers[2].accepted() == 0, "weight 0");
    let total = |of: &str| sidecar.stat(&format!("{of}.upstream_cx_total"));
    ensure!(total(&format!("cluster.{CLUSTER_V1}"))? == first as u64);
    ensure!(total(&format!("cluster.{CLUSTER_V2}"))? == second as u64);
    let clusters = sidecar.admin("/clusters")?.body;
    for (cluster, at, calls) in [(CLUSTER_V1, V1, first), (CLUSTER_V2, V2, second)] {
        ensure!(clusters.contains(&format!("{cluster}::{at}::cx_total::{calls}\n")), "{clusters}");
    }
    let dump = dump(&sidecar)?;
    let listener = of_dump(&dump, "outbound:127.0.0.1:7100").context("no listener")?;
    let filter = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    let weights =
        json!({"clusters": [{"name": CLUSTER_V1, "weight": 90}, {"name": CLUSTER_V2, "weight": 10}]});
    ensure!(filter["weighted_clusters"] == weights && filter.get("cluster").is_none(), "{filter}");
    ensure!(of_dump(&dump, CLUSTER_V2).is_some());
    Ok(())
}

#[test]
fn a_changed_route_is_for_new_calls_and_keeps_open_ones_and_counts_on() -> Result<()> {
    let world = World::new(TAGS, &route(&version("v1", 1)))?;
    let sidecar = world.sidecar()?;
    let (mut open, name) = world.call(CALL)?.context("the first call")?;
    ensure!(name == '1', "{name}");
    world.reroute(&sidecar, &route(&version("v2", 1)), 1)?;
    ensure!(world.calls(10)? == ['2'; 10]);
    echoes(&mut open).context("the call that was open")?;
    world.reroute(&sidecar, &route(&[version("v1", 1), version("v2", 1)].join(", ")), 2)?;
    let all = world.calls(64)?;
    let first = count(&all, '1');
    ensure!((1..64).contains(&first), "{first} of 64 at the first");
    echoes(&mut open).context("the call that was open")?;
    let total = |cluster: &str| sidecar.stat(&format!("cluster.{cluster}.upstream_cx_total"));
    ensure!(total(CLUSTER_V1)? == 1 + first as u64 && total(CLUSTER_V2)? == 10 + 64 - first as u64);
    world.reroute(&sidecar, "", 3)?;
    let all = world.calls(4)?;
    ensure!(count(&all, '1') == 2 && count(&all, '2') == 2, "without a route in turn: {all:?}");
    echoes(&mut open).context("the call that was open")
}

#[test]
fn a_mesh_tcp_route_holds_before_a_traffic_route_which_holds_again_without_it() -> Result<()> {
    let old = "---\n{type: TrafficRoute, name: old, sources: [{match: {kuma.io/service: here}}], destinations: [{match: {kuma.io/service: backend}}], conf: {split: [\
               {weight: 1, destination: {kuma.io/service: backend, version: v2}}, {weight: 0, destination: {kuma.io/service: other}}]}}\n";
    let world = World::new(TAGS, old)?;
    let sidecar = world.sidecar()?;
    ensure!(world.calls(10)? == ['2'; 10]);
    world.reroute(&sidecar, &(old.to_owned() + &route(&service("other", 1))), 1)?;
    ensure!(world.calls(10)? == ['o'; 10]);
    world.reroute(&sidecar, old, 2)?;
    ensure!(world.calls(10)? == ['2'; 10]);
    Ok(())
}

/// As with Envoy, whose calls without an endpoint go nowhere else. Of 64 calls all have one fate once in 10^19 runs.
#[test]
fn calls_that_a_backend_without_endpoints_draws_are_reset_and_the_others_are_served() -> Result<()> {
    let world = World::new(TAGS, &route(&[service("other", 1), service("nobody", 1)].join(", ")))?;
    let sidecar = world.sidecar()?;
    let mut lost = 0;
    for _ in 0..64 {
        match world.call(CALL)? {
            Some((_, name)) => ensure!(name == 'o', "{name}"),
            None => lost += 1,
        }
    }
    ensure!((1..64).contains(&lost), "{lost}");
    ensure!(sidecar.stat("cluster.nobody.upstream_cx_none_healthy")? == lost);
    ensure!(sidecar.stat("cluster.other.upstream_cx_total")? == 64 - lost);
    eventually!(sidecar.stat("listener_manager.outbound.closed.no_endpoint").is_ok_and(|n| n == lost), SOON);
    Ok(())
}

#[test]
fn an_outbound_by_reference_leads_to_the_port_of_the_service() -> Result<()> {
    let world = World::new("backendRef: {kind: MeshService, name: backend, port: 83}", "")?;
    let sidecar = world.sidecar()?;
    ensure!(world.calls(4)? == ['2'; 4]);
    ensure!(sidecar.stat("cluster.default_backend___msvc_83.upstream_cx_total")? == 4);
    Ok(())
}

/// A call that a route leads to another service expects the identity of that service, not of the one that was called.
#[test]
fn a_backend_proves_its_own_identity() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let authority = Authority::new("mesh default")?;
    let identity = lab.folder().join("identity");
    authority.service("here")?.write(&identity)?;
    let mesh = ", mtls: {enabledBackend: ca, backends: [{name: ca, type: provided, mode: STRICT}]}";
    fs::write(folder.join("mesh.yaml"), documents(mesh, TAGS, &route(&service("other", 1))))?;
    let serve = |credentials: &Credentials| -> Result<Server> {
        let tls = TlsServer::new(credentials, 0)?;
        lab.peer.serve(OTHER, move |stream: TcpStream| {
            let mut stream = tls.over(stream).map_err(std::io::Error::other)?;
            stream.write_all(b"o")?;
            stream.flush()?;
            stream.read(&mut [0]).map(drop)
        })
    };
    let identity = identity.display().to_string();
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "here", "--identity", &identity])?;
    let call = || -> std::io::Result<u8> {
        let mut name = [0];
        lab.pod.as_uid(APP).connect(CALL)?.read_exact(&mut name)?;
        Ok(name[0])
    };
    let wrong = serve(&authority.service("backend")?)?;
    ensure!(call().is_err(), "it shows the identity of the service that was called");
    ensure!(wrong.accepted() > 0, "it was asked");
    drop(wrong);
    let _right = serve(&authority.service("other")?)?;
    eventually!(call().is_ok_and(|name| name == b'o'), SOON);
    ensure!(sidecar.stat("cluster.other.upstream_cx_connect_fail")? >= 1);
    Ok(())
}
