//! Members of a mesh with MeshIdentity and MeshTrust: who may call, who is believed, and a mesh that is switched on under
//! traffic. Documents alone say it; identities come from files.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use culvert_tests::server::Server;
use culvert_tests::tls::authority::Credentials;
use culvert_tests::tls::{Client, MESH, TlsServer, waits};
use culvert_tests::until::until_some;
use culvert_tests::{Authority, Family, Host, Lab, Sidecar, Wish, eventually};

use crate::documents::TRANSPARENT;
use crate::support::APP;

const SOON: Duration = Duration::from_secs(10);
const GREETING: &str = "220 hello";
/// The server's address in the mesh, and its port.
const SERVER: (&str, u16) = ("10.77.1.2", 8082);

/// A MeshIdentity for all pods, with the names that Kuma gives them.
const FOR_ALL: &str = "---
{type: MeshIdentity, name: all, spec: {selector: {dataplane: {matchLabels: {}}}, provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}}}
";
const FOR_NONE: &str = "---
{type: MeshIdentity, name: all, spec: {selector: {}, provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}}}
";
const PERMISSIVE: &str = "---\n{type: MeshTLS, name: open, spec: {rules: [{default: {mode: Permissive}}]}}\n";

/// Two pods with a sidecar each, and a third without.
///
/// ```text
///   client 10.77.1.1 ──── 10.77.1.2 server 10.77.0.2 ──── 10.77.0.1 stranger (lab.peer)
/// ```
struct World {
    lab: Lab,
    client: Host,
    /// Zones of the server and the client: each is a trust domain.
    zones: [&'static str; 2],
    /// Authorities of the two.
    authorities: [Authority; 2],
}

fn domain(zone: &str) -> String {
    format!("default.{zone}.mesh.local")
}

fn id(zone: &str, workload: &str) -> String {
    format!("spiffe://{}/workload/{workload}", domain(zone))
}

fn permission(kind: &str, value: &str) -> String {
    format!(
        "---\n{{type: MeshTrafficPermission, name: p, spec: {{rules: [{{default: {{allow: [{{spiffeID: {{type: {kind}, value: '{value}'}}}}]}}}}]}}}}\n"
    )
}

fn mesh_trust(zone: &str, authority: &Authority) -> String {
    // JSON's text is YAML's too.
    let pem = serde_json::Value::from(authority.pem());
    format!(
        "---\n{{type: MeshTrust, name: {zone}, spec: {{trustDomain: {}, caBundles: [{{type: Pem, pem: {{value: {pem}}}}}]}}}}\n",
        domain(zone)
    )
}

impl World {
    /// Both pods in one zone, with one authority.
    fn of_one_zone() -> Result<Self> {
        let world = Self::new(["east", "east"], [Authority::new("zone east")?, Authority::new("unused")?])?;
        world.issue(0, &id("east", "client"))?.write(&world.folder("client"))?;
        Ok(world)
    }

    fn new(zones: [&'static str; 2], authorities: [Authority; 2]) -> Result<Self> {
        let mut lab = Lab::new()?;
        let client = lab.another_peer()?;
        lab.peer.add_route("10.77.1.0/24", Family::V4.pod())?;
        lab.add(&[])?.expect_success();
        let onboarded = lab.invoke_for(&client, "ADD")?.redirect().env("CNI_CONTAINERID", "c11e47").run()?;
        onboarded.expect_success();
        let world = Self { lab, client, zones, authorities };
        for (name, pod) in [("server", 0), ("client", 1)] {
            world.issue(pod, &id(zones[pod], name))?.write(&world.folder(name))?;
        }
        Ok(world)
    }

    fn issue(&self, authority: usize, uri: &str) -> Result<Credentials> {
        self.authorities[authority].issue(&Wish { uris: &[uri], ..Wish::default() })
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.lab.folder().join(name)
    }

    /// Writes the documents of one pod.
    fn write(&self, pod: &str, more: &str) -> Result<()> {
        let [server, client] = self.zones;
        let labels =
            |name: &str, zone: &str| format!("labels: {{kuma.io/workload: {name}, kuma.io/zone: {zone}}}");
        let text = format!(
            "{{type: Mesh, name: default}}
---
{{type: Dataplane, name: server, {}, networking: {{address: {}, {TRANSPARENT}, inbound: [{{port: {}, tags: {{kuma.io/service: server}}}}]}}}}
---
{{type: Dataplane, name: client, {}, networking: {{address: 10.77.1.1, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: client}}}}]}}}}
{more}",
            labels("server", server), SERVER.0, SERVER.1, labels("client", client)
        );
        let folder = self.folder(&format!("mesh-{pod}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("mesh.new"), text)?;
        Ok(fs::rename(folder.join("mesh.new"), folder.join("mesh.yaml"))?)
    }

    fn write_both(&self, more: &str) -> Result<()> {
        self.write("server", more)?;
        self.write("client", more)
    }

    fn start<'w>(&'w self, name: &str, host: &'w Host, more: &[&str]) -> Result<Sidecar<'w>> {
        let folder = |name: &str| self.folder(name).display().to_string();
        let (documents, identity) = (folder(&format!("mesh-{name}")), folder(name));
        let options = ["--resources", &documents, "--dataplane", name, "--identity", &identity];
        host.sidecar().options(options).options(more).start()
    }

    fn sidecars(&self, more: &[&str]) -> Result<[Sidecar<'_>; 2]> {
        Ok([self.start("server", &self.lab.pod, more)?, self.start("client", &self.client, more)?])
    }

    fn application(&self) -> Result<Server> {
        self.lab.pod.as_uid(APP).serve(("0.0.0.0", SERVER.1), waits(GREETING))
    }

    /// An application in the client's pod.
    fn member(&self) -> io::Result<TcpStream> {
        self.client.as_uid(APP).connect(SERVER)
    }

    /// A client without a sidecar.
    fn stranger(&self) -> io::Result<TcpStream> {
        self.lab.peer.as_root().connect(SERVER)
    }

    /// A client without a sidecar that shows these credentials as a member would.
    fn shows(&self, credentials: &Credentials) -> Result<impl Read + Write + use<>> {
        Client::new(&[MESH], Some(credentials))?.over(self.stranger()?)
    }
}

/// Says something and hears the greeting and that back.
fn talks(mut stream: impl Read + Write) -> Result<()> {
    stream.write_all(b"ping")?;
    let mut heard = vec![0; GREETING.len() + 4];
    stream.read_exact(&mut heard)?;
    ensure!(heard == format!("{GREETING}ping").as_bytes(), "{}", String::from_utf8_lossy(&heard));
    Ok(())
}

/// Fails unless nothing is heard but the end, a reset, or an alert of TLS.
fn is_closed(connected: Result<impl Read + Write>) -> Result<()> {
    let Ok(mut stream) = connected else { return Ok(()) };
    let said = stream.write_all(b"ping").and_then(|()| stream.flush());
    match said.and_then(|()| stream.read(&mut [0; 64])) {
        Ok(n) if n > 0 => bail!("{n} bytes were heard"),
        _ => Ok(()),
    }
}

/// Returns the reasons of the connections to the server that ended.
fn reasons(sidecar: &Sidecar<'_>) -> Vec<String> {
    let to = format!("{}:{}", SERVER.0, SERVER.1);
    let log = sidecar.access_log();
    let of = log.iter().filter(|record| record["orig_dst"] == to.as_str());
    of.filter_map(|record| record["reason"].as_str().map(str::to_owned)).collect()
}

/// Waits until a sidecar closed one connection more for this reason. Records of earlier ones may come late.
fn closes_for(sidecar: &Sidecar<'_>, reason: &str, connect: impl FnOnce() -> Result<()>) -> Result<()> {
    let count = || reasons(sidecar).iter().filter(|one| *one == reason).count();
    let before = count();
    connect()?;
    let closed = until_some(SOON, || (count() > before).then_some(()));
    ensure!(closed.is_some(), "no connection was closed for {reason}: {:?}", reasons(sidecar));
    Ok(())
}

/// Writes documents of a pod and waits until they are in force.
fn reload(world: &World, pod: &str, sidecar: &Sidecar<'_>, more: &str) -> Result<()> {
    let before = sidecar.stat("config_reloaded")?;
    world.write(pod, more)?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|now| now > before), SOON);
    Ok(())
}

#[test]
fn with_a_mesh_identity_a_member_may_call_by_permission_only_and_an_outsider_by_mesh_tls() -> Result<()> {
    let world = World::of_one_zone()?;
    world.write_both(FOR_ALL)?;
    let ([server, client], application) = (world.sidecars(&[])?, world.application()?);
    let plain = || is_closed(world.stranger().map_err(Into::into));
    let refused = || is_closed(world.member().map_err(Into::into));
    closes_for(&server, "forbidden", refused).context("no permission")?;
    closes_for(&server, "plaintext", plain).context("an outsider under the default mode")?;
    let foreign =
        Authority::new("another mesh")?.issue(&Wish { uris: &[&id("east", "client")], ..Wish::default() })?;
    closes_for(&server, "tls_untrusted", || is_closed(world.shows(&foreign)))?;
    ensure!(application.accepted() == 0, "the application heard of one");
    for (kind, value, may) in [
        ("Exact", id("east", "client"), true),
        ("Exact", id("east", "another"), false),
        ("Prefix", id("east", ""), true),
        ("Prefix", id("west", ""), false),
    ] {
        reload(&world, "server", &server, &format!("{FOR_ALL}{}", permission(kind, &value)))?;
        if may {
            talks(world.member()?).with_context(|| format!("{kind} {value}"))?;
        } else {
            closes_for(&server, "forbidden", refused).with_context(|| format!("{kind} {value}"))?;
        }
    }
    ensure!(client.stat("listener_manager.outbound.ssl.handshake")? > 0);
    // MeshTLS lets the outsider in, and gives a member no permission.
    reload(&world, "server", &server, &format!("{FOR_ALL}{PERMISSIVE}"))?;
    talks(world.stranger()?).context("an outsider under Permissive")?;
    closes_for(&server, "forbidden", refused)?;
    reload(&world, "server", &server, FOR_ALL)?;
    closes_for(&server, "plaintext", plain).context("an outsider after the MeshTLS")
}

#[test]
fn a_member_is_believed_by_the_authority_of_its_own_trust_domain_in_both_directions() -> Result<()> {
    let authorities = [Authority::new("zone east")?, Authority::new("zone west")?];
    let world = World::new(["east", "west"], authorities)?;
    let trusts =
        format!("{}{}", mesh_trust("east", &world.authorities[0]), mesh_trust("west", &world.authorities[1]));
    let all = format!("{FOR_ALL}{trusts}{}", permission("Prefix", &id("west", "")));
    world.write_both(&all)?;
    let ([server, client], application) = (world.sidecars(&[])?, world.application()?);
    talks(world.member()?)?;
    talks(world.shows(&world.issue(1, &id("west", "other"))?)?).context("a member of the other zone")?;
    let heard = application.accepted();
    for (name, issuer, uri, reason) in [
        ("its own domain's name by the other authority", 1, id("east", "client"), "tls_untrusted"),
        ("the other domain's name by its own authority", 0, id("west", "client"), "tls_untrusted"),
        ("a domain without a MeshTrust", 1, id("north", "client"), "tls_untrusted"),
        ("a member of its own domain, without permission", 0, id("east", "client"), "forbidden"),
    ] {
        let shown = world.issue(issuer, &uri)?;
        closes_for(&server, reason, || is_closed(world.shows(&shown))).context(name)?;
    }
    ensure!(application.accepted() == heard, "the application heard of one");
    // Without the MeshTrust of its domain the client is a stranger.
    reload(&world, "server", &server, &all.replace(&mesh_trust("west", &world.authorities[1]), ""))?;
    closes_for(&server, "tls_untrusted", || is_closed(world.member().map_err(Into::into)))?;

    // The other direction: the server's pod as it is without its sidecar and its redirect.
    drop((server, application));
    world.lab.del()?.expect_success();
    for (name, issuer, uri, reason) in [
        ("the server's domain by the client's authority", 1, id("east", "server"), Some("tls_untrusted")),
        ("the client's domain by the server's authority", 0, id("west", "server"), Some("tls_untrusted")),
        ("the server's domain by its authority", 0, id("east", "server"), None),
    ] {
        called(&world, &client, (issuer, &uri), reason).context(name)?;
    }
    Ok(())
}

/// Calls a server that shows this identity by this authority: it answers, or the client's sidecar ends the call for a reason.
fn called(
    world: &World,
    client: &Sidecar<'_>,
    (issuer, uri): (usize, &str),
    reason: Option<&str>,
) -> Result<()> {
    let tls = TlsServer::new(&world.issue(issuer, uri)?, 0)?;
    let _server = world.lab.pod.serve(("0.0.0.0", SERVER.1), move |tcp: TcpStream| answers(&tls, tcp))?;
    match reason {
        Some(reason) => closes_for(client, reason, || is_closed(world.member().map_err(Into::into))),
        None => talks(world.member()?),
    }
}

#[test]
fn a_member_of_another_zone_does_not_answer_for_a_workload_of_this_one() -> Result<()> {
    let world = World::new(["east", "east"], [Authority::new("zone east")?, Authority::new("zone west")?])?;
    world.issue(0, &id("east", "client"))?.write(&world.folder("client"))?;
    let trusts =
        format!("{}{}", mesh_trust("east", &world.authorities[0]), mesh_trust("west", &world.authorities[1]));
    world.write("client", &format!("{FOR_ALL}{trusts}"))?;
    let client = world.start("client", &world.client, &[])?;
    // The server's pod as it is without its sidecar and its redirect.
    world.lab.del()?.expect_success();
    let (west, east) = (id("west", "server"), id("east", "server"));
    called(&world, &client, (1, &west), Some("tls_identity")).context("a member of another zone")?;
    called(&world, &client, (0, &east), None).context("a member of this zone")?;
    // A document that gives workloads of this zone the other trust domain, too.
    let of_west = FOR_ALL.replace("name: all,", "name: moved,").replace(
        "selector: {dataplane: {matchLabels: {}}}",
        "selector: {dataplane: {matchLabels: {app: moved}}}, spiffeID: {trustDomain: default.west.mesh.local}",
    );
    reload(&world, "client", &client, &format!("{FOR_ALL}{of_west}{trusts}"))?;
    called(&world, &client, (1, &west), None).context("a document says so")
}

/// Serves as an application behind a member's sidecar would.
fn answers(tls: &TlsServer, tcp: TcpStream) -> io::Result<()> {
    let mut stream = tls.over(tcp).map_err(io::Error::other)?;
    let mut heard = [0; 4];
    stream.read_exact(&mut heard)?;
    stream.write_all(&[GREETING.as_bytes(), &heard].concat())?;
    stream.flush()
}

#[test]
fn a_mesh_is_switched_on_and_made_strict_under_traffic_and_no_call_fails() -> Result<()> {
    let world = World::of_one_zone()?;
    let allowed = permission("Prefix", &id("east", ""));
    world.write_both(&format!("{PERMISSIVE}{allowed}"))?;
    // Before the MeshIdentity the trust domain is known by the option.
    let domain = domain("east");
    let [server, client] = world.sidecars(&["--trust-domain", &domain])?;
    let _application = world.application()?;
    let handshakes = || client.stat("listener_manager.outbound.ssl.handshake");
    thread::scope(|scope| -> Result<()> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (report, calls) = mpsc::channel();
        let load = scope.spawn(|| -> Result<()> {
            let (stopped, report) = (stopped, report);
            for number in 0.. {
                talks(world.member()?).with_context(|| format!("call {number}"))?;
                // The other side may have stopped.
                let _ = report.send(());
                if stopped.try_recv() != Err(TryRecvError::Empty) {
                    break;
                }
            }
            Ok(())
        });
        let step = |pod: &str, sidecar: &Sidecar<'_>, more: &str| -> Result<()> {
            reload(&world, pod, sidecar, more)?;
            while calls.try_recv().is_ok() {}
            // The first one may have begun before the change.
            for _ in 0..5 {
                calls.recv_timeout(SOON).context("the calls ended")?;
            }
            Ok(())
        };
        let switched = (|| {
            let none = format!("{PERMISSIVE}{allowed}{FOR_NONE}");
            step("server", &server, &none)?;
            step("client", &client, &none)?;
            ensure!(handshakes()? == 0, "a MeshIdentity of no pod turned TLS on");
            let on = format!("{PERMISSIVE}{allowed}{FOR_ALL}");
            step("server", &server, &on)?;
            step("client", &client, &on)?;
            ensure!(handshakes()? > 0, "the calls are plain");
            talks(world.stranger()?).context("an outsider under Permissive")?;
            let strict = format!("{allowed}{FOR_ALL}");
            step("server", &server, &strict)?;
            step("client", &client, &strict)?;
            is_closed(world.stranger().map_err(Into::into)).context("an outsider under Strict")
        })();
        drop(stop);
        load.join().map_err(|_| anyhow!("the calls panicked"))??;
        switched
    })
}
