// SPDX-License-Identifier: Apache-2.0
//! Real connections of a redirected pod, whose sidecar knows what the controller tells it and nothing else.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_tests::api_server::ApiServer;
use culvert_tests::process::binaries::Binaries;
use culvert_tests::process::lab_exec;
use culvert_tests::server::{Server, speaks_first};
use culvert_tests::tls::TlsServer;
use culvert_tests::tls::authority::{Authority, Wish};
use culvert_tests::{Lab, Sidecar, eventually, http};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::requests::{Kubelet, READ_WITHIN};
use super::{Cluster, Controller, SECRET, SERVER_NAME, SOON};
use crate::support::APP;
use crate::walkthrough::onboarded;

/// Port of the controller, in the peer's namespace.
const CONTROL: u16 = 7443;
/// Addresses that the peer answers for: two pods behind the Service at 198.51.100.1, and a host outside.
pub(super) const ONE: &str = "192.0.2.20:8080";
pub(super) const TWO: &str = "192.0.2.30:8080";
pub(super) const OUTSIDE: &str = "192.0.2.40:8080";
pub(super) const SERVICE: &str = "198.51.100.1:80";

/// A lab whose pod is `shop/web`, with a cluster that runs in its peer.
pub(super) struct World {
    pub(super) lab: Lab,
    pub(super) folder: PathBuf,
    pub(super) cluster: Cluster,
    pub(super) servers: Vec<Server>,
}

impl World {
    pub(super) fn new(mesh: Value) -> Result<Self> {
        let mut world = Self::without_servers(mesh)?;
        for (at, name) in [(ONE, "1"), (TWO, "2"), (OUTSIDE, "o")] {
            world.servers.push(world.lab.peer.serve(at, speaks_first(name))?);
        }
        Ok(world)
    }

    pub(super) fn without_servers(mesh: Value) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        lab.peer.add_local_route("192.0.2.0/24")?;
        let cluster = Cluster::of(ApiServer::start(lab.peer.listen("127.0.0.1:6443")?)?);
        cluster.member("shop", "web", "10.77.0.2", "web");
        cluster.member("shop", "db-1", "192.0.2.20", "db");
        cluster.member("shop", "db-2", "192.0.2.30", "db");
        // The servers speak first.
        cluster.service_of("tcp", ("shop", "db"), "198.51.100.1", &[("db-1", true)]);
        cluster.server.serve("kuma.io/v1alpha1", "meshes", "Mesh", false);
        let mut document =
            json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" } });
        document["spec"] = mesh;
        cluster.document("meshes", &document);
        Ok(Self { lab, folder, cluster, servers: Vec::new() })
    }

    /// Gives the mesh an authority of the user's.
    pub(super) fn signs(&self, authority: &Authority) {
        let data = json!({ "tls.crt": STANDARD.encode(authority.pem()), "tls.key": STANDARD.encode(authority.key()) });
        let metadata = json!({ "name": "culvert-authority", "namespace": "mesh" });
        self.cluster.server.put(SECRET, json!({ "metadata": metadata, "data": data }));
    }

    /// Puts a member's sidecar behind an address, which has an account's identity and says a name.
    pub(super) fn member(
        &mut self,
        at: &str,
        authority: &Authority,
        account: &str,
        name: &'static str,
    ) -> Result<()> {
        let uri = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let tls = TlsServer::new(&authority.issue(&Wish { uris: &[&uri], ..Wish::default() })?, 1)?;
        self.servers.push(self.lab.peer.serve(at, move |tcp: TcpStream| {
            let mut stream = tls.over(tcp).map_err(io::Error::other)?;
            stream.write_all(name.as_bytes())?;
            stream.conn.send_close_notify();
            stream.flush()
        })?);
        Ok(())
    }

    pub(super) fn controller(&self) -> Result<Controller> {
        self.controller_with(&[])
    }

    pub(super) fn controller_with(&self, more: &[&str]) -> Result<Controller> {
        let program = &Binaries::built()?.install;
        let command = lab_exec::command(self.lab.peer.namespace(), 0, None, program)?;
        let listen = format!("10.77.0.1:{CONTROL}");
        let options = [&["--crds", "never"], more].concat();
        let controller = self.cluster.started(command, &listen, "culvert-controller-0", &options)?;
        eventually!(self.cluster.map("shop").is_some(), SOON);
        Ok(controller)
    }

    /// Starts the sidecar with the authorities of the ConfigMap and the pod's token, as the injector writes it.
    pub(super) fn sidecar(&self) -> Result<Sidecar<'_>> {
        self.sidecar_with(&[])
    }

    pub(super) fn sidecar_with(&self, more: &[String]) -> Result<Sidecar<'_>> {
        let mut sidecar = self.sidecar_unready(more)?;
        sidecar.wait_ready()?;
        Ok(sidecar)
    }

    pub(super) fn sidecar_unready(&self, more: &[String]) -> Result<Sidecar<'_>> {
        let (bundle, token) = (self.folder.join("ca.crt"), self.folder.join("token"));
        fs::write(&bundle, self.cluster.bundle()?)?;
        fs::write(&token, "token-web")?;
        let option = |name: &str, value: &str| format!("--{name}={value}");
        let options = [
            option("control", &format!("https://{SERVER_NAME}:{CONTROL}")),
            option("control-ca", &bundle.to_string_lossy()),
            option("control-token", &token.to_string_lossy()),
            option("pod-name", "web"),
            option("pod-namespace", "shop"),
            option("pod-ip", "10.77.0.2"),
            option("service-account", "web"),
            option("trust-domain", "cluster.local"),
        ];
        let etc = self.lab.hosts(&format!("10.77.0.1 {SERVER_NAME}\n"))?;
        self.lab.pod.sidecar().options(options).options(more).etc(&etc).start_unready()
    }

    /// The first byte that a server at an address says; `None` where the connection is reset.
    pub(super) fn call(&self, to: &str) -> Option<char> {
        let mut stream = self.lab.pod.as_uid(APP).connect(to).ok()?;
        said(&mut stream)
    }
}

pub(super) fn said(stream: &mut TcpStream) -> Option<char> {
    let mut name = [0];
    stream.read_exact(&mut name).ok().map(|()| name[0].into())
}

#[test]
fn a_pod_calls_services_that_no_file_names_and_goes_on_without_the_controller() -> Result<()> {
    let world = World::new(json!({}))?;
    let controller = world.controller()?;
    let sidecar = world.sidecar()?;
    // Nothing routes 198.51.100.1 in the lab: only the sidecar knows what stands behind it.
    ensure!(world.call(SERVICE) == Some('1'), "{}", sidecar.stderr().text());
    assert_eq!(world.call(ONE), Some('1'));
    assert_eq!(world.call(OUTSIDE), Some('o'), "nobody of the mesh: it leaves");
    // The cluster changes, and new connections follow.
    world.cluster.endpoints("shop", "db", &[("db-2", true)]);
    eventually!(world.call(SERVICE) == Some('2'), SOON);
    let mut open = world.lab.pod.as_uid(APP).connect(SERVICE)?;
    assert_eq!(said(&mut open), Some('2'));
    // Without a controller all of that stays.
    let mut controller = controller;
    controller.process.signal(Signal::KILL)?;
    controller.process.wait(SOON)?;
    assert_eq!(world.call(SERVICE), Some('2'));
    assert_eq!(world.call(OUTSIDE), Some('o'));
    // It comes back, with another cluster than before.
    world.cluster.endpoints("shop", "db", &[("db-1", true)]);
    let _again = world.controller()?;
    eventually!(world.call(SERVICE) == Some('1'), SOON);
    Ok(())
}

#[test]
fn many_connections_to_one_unknown_destination_are_one_question() -> Result<()> {
    let world = World::new(json!({}))?;
    let controller = world.controller()?;
    let sidecar = world.sidecar()?;
    let asked = || {
        controller
            .metric_by(world.lab.peer.connect(controller.status)?, "culvert_controller_lookup_seconds_count")
    };
    let before = asked()?;
    let came = thread::scope(|scope| {
        let calls: Vec<_> = (0..50)
            .map(|_| scope.spawn(|| (0..10).filter(|_| world.call(SERVICE) == Some('1')).count()))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap_or_default()).sum::<usize>()
    });
    // On a busy machine the answer may come after the deadline of some. They are let out, to where nothing answers.
    let late = r#"culvert_control_lookups_total{result="late_let_out"} "#;
    let late = sidecar.metrics()?.lines().find_map(|line| line.strip_prefix(late)?.parse::<usize>().ok());
    let late = late.context("no such metric")?;
    ensure!(came > 0 && came + late == 500, "{came} and {late} of 500: {}", sidecar.stderr().text());
    assert_eq!(asked()? - before, 1.0);
    Ok(())
}

#[test]
fn a_closed_mesh_lets_members_be_called_and_nothing_else() -> Result<()> {
    let world = World::new(json!({ "networking": { "outbound": { "passthrough": false } } }))?;
    let _controller = world.controller()?;
    let sidecar = world.sidecar()?;
    ensure!(world.call(SERVICE) == Some('1'), "{}", sidecar.stderr().text());
    assert_eq!(world.call(ONE), Some('1'));
    assert_eq!(world.call(OUTSIDE), None);
    Ok(())
}

pub(super) fn strict() -> Value {
    let backend = json!({ "name": "culvert", "type": "builtin", "mode": "STRICT" });
    json!({ "mtls": { "enabledBackend": "culvert", "backends": [backend] } })
}

#[test]
fn a_pod_has_its_identity_from_the_controller() -> Result<()> {
    let world = World::new(strict())?;
    let _controller = world.controller()?;
    let sidecar = world.sidecar()?;
    let certs = sidecar.admin("/certs")?;
    ensure!(certs.body.contains("spiffe://cluster.local/ns/shop/sa/web"), "{certs:?}");
    // STRICT: an outsider is refused.
    let _app = world.lab.pod.serve("10.77.0.2:8080", speaks_first("a"))?;
    let mut outsider = world.lab.peer.connect("10.77.0.2:8080").context("no connection")?;
    assert_eq!(said(&mut outsider), None);
    Ok(())
}

#[test]
fn a_server_has_the_identity_of_its_pods_account_or_is_not_called() -> Result<()> {
    let mut world = World::without_servers(strict())?;
    let authority = Authority::new("the user's")?;
    world.signs(&authority);
    world.member(ONE, &authority, "db", "1")?;
    // A member of the mesh in the place of another one.
    world.member(TWO, &authority, "web", "2")?;
    world.servers.push(world.lab.peer.serve(OUTSIDE, speaks_first("o"))?);
    world.cluster.service_of("tcp", ("shop", "web"), "198.51.100.2", &[("web", true)]);
    let _controller = world.controller()?;
    let sidecar = world.sidecar()?;
    let _app = world.lab.pod.serve("10.77.0.2:8080", speaks_first("a"))?;
    let identity = |id: &str| sidecar.admin("/certs").is_ok_and(|page| page.body.contains(id));
    eventually!(identity("spiffe://cluster.local/ns/shop/sa/web"), SOON);
    // By the address of the Service and of the pod, as a headless name has it; and the pod itself, by its Service.
    ensure!(world.call(SERVICE) == Some('1'), "{}", sidecar.stderr().text());
    assert_eq!(world.call(ONE), Some('1'));
    assert_eq!(world.call("198.51.100.2:80"), Some('a'));
    world.cluster.endpoints("shop", "db", &[("db-2", true)]);
    let refused = || sidecar.access_log().iter().any(|record| record["reason"] == "tls_identity");
    eventually!(world.call(SERVICE).is_none() && refused(), SOON);
    assert_eq!(world.call(TWO), None);
    // None of the mesh is there, and the mesh is not closed.
    assert_eq!(world.call(OUTSIDE), Some('o'));
    Ok(())
}

/// The volume of a pod as the kubelet fills it, and fills it anew while connections go on.
#[test]
fn a_pod_has_its_identity_from_its_kubelet() -> Result<()> {
    let world = World::new(strict())?;
    let kubelet = Kubelet::new(&world.cluster, "v1");
    let controller = world.controller_with(&["--identity", "requests"])?;
    let volume = world.folder.join("identity");
    fs::create_dir_all(&volume)?;
    let first = kubelet.signed("first")?;
    kubelet.project(&volume, &first, 1)?;
    let sidecar = world.sidecar_with(&[format!("--identity={}", volume.display())])?;
    let certs = sidecar.admin("/certs")?.body;
    ensure!(certs.contains("spiffe://cluster.local/ns/shop/sa/web"), "{certs}");
    let _app = world.lab.pod.serve("10.77.0.2:8080", speaks_first("a"))?;
    assert_eq!(world.call(OUTSIDE), Some('o'));
    let mut open = world.lab.pod.as_uid(APP).connect(OUTSIDE)?;
    assert_eq!(said(&mut open), Some('o'));
    // The kubelet renews: a link moves, and all three files with it.
    kubelet.project(&volume, &kubelet.signed("second")?, 2)?;
    eventually!(sidecar.admin("/certs").is_ok_and(|page| page.body != certs), READ_WITHIN);
    assert_eq!(world.call(OUTSIDE), Some('o'));
    open.set_nonblocking(true)?;
    let ended = open.read(&mut [0]);
    ensure!(ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{ended:?}");
    // Nothing was asked of the stream.
    let signed = controller.process.stderr().text().matches("a certificate was signed").count();
    assert_eq!(signed, 2);
    Ok(())
}

#[test]
fn the_picture_shows_what_a_sidecar_reports() -> Result<()> {
    let mut world = World::without_servers(strict())?;
    let authority = Authority::new("the user's")?;
    world.signs(&authority);
    world.member(ONE, &authority, "db", "1")?;
    world.servers.push(world.lab.peer.serve(OUTSIDE, speaks_first("o"))?);
    let controller = world.controller()?;
    let sidecar = world.sidecar()?;
    eventually!(world.call(SERVICE) == Some('1'), SOON);
    for _ in 0..3 {
        assert_eq!(world.call(ONE), Some('1'));
        assert_eq!(world.call(OUTSIDE), Some('o'));
    }
    let _open = world.lab.pod.as_uid(APP).connect(OUTSIDE)?;
    let edge = |server: &str| -> Result<Value> {
        let page = http::get(world.lab.peer.connect(controller.status)?, "/mesh.json")?;
        let picture: Value = serde_json::from_str(&page.body)?;
        let edges = picture["edges"].as_array().context("no edges")?;
        let is_it = |edge: &&Value| edge["client"] == "workload/shop/web" && edge["server"] == server;
        edges.iter().find(is_it).cloned().context("no such edge")
    };
    let is = |server: &str, numbers: [u64; 3], security: &str| {
        edge(server).is_ok_and(|edge| {
            ["connections", "tls", "open"].map(|field| edge[field].as_u64()) == numbers.map(Some)
                && edge["security"] == security
        })
    };
    // The first call of the Service may have been refused before there was an identity.
    eventually!(
        edge("workload/shop/db-1").is_ok_and(|edge| edge["tls"].as_u64() == Some(4) && edge["open"] == 0),
        SOON
    );
    eventually!(is("outside", [3, 0, 1], "plain"), SOON);
    drop(sidecar);
    eventually!(is("outside", [3, 0, 0], "plain"), SOON);
    Ok(())
}
