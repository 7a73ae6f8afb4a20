//! Services outside of the mesh with real traffic: by address, by name and by Unix socket, with and without TLS. The rows are
//! those that Kuma tries with its own proxies.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{Server, speaks_first};
use culvert_tests::tls::TlsServer;
use culvert_tests::tls::authority::Credentials;
use culvert_tests::{Authority, Lab, Sidecar, eventually};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_taken_and_reset};
use crate::walkthrough::{dump, of_dump, onboarded};

/// From a change of `/etc/hosts` to a plan with it: a look-up each 10 s, a look at its answer each second.
const NOTICED_WITHIN: Duration = Duration::from_secs(40);
const CLOSED: &str = "type: Mesh\nname: default\nnetworking: {outbound: {passthrough: false}}\n";

/// A pod that calls services outside of the mesh on ports of its loopback, from 7100 on.
struct World {
    lab: Lab,
    folder: PathBuf,
    /// Options beside those of the documents.
    more: Vec<String>,
    /// The file of the system's authorities.
    authorities: PathBuf,
}

impl World {
    /// `services` are documents, and `outbounds` the services that the pod calls.
    fn new(mesh: &str, services: &str, outbounds: &[&str]) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        lab.peer.add_local_route("192.0.2.0/24")?;
        let world = Self { lab, folder, more: Vec::new(), authorities: PathBuf::new() };
        fs::write(world.folder.join("mesh.yaml"), mesh)?;
        world.write(services)?;
        let outbound = |(service, port): (&&str, u16)| format!("{{port: {port}, {service}}}");
        let outbounds: Vec<_> = outbounds.iter().zip(7100..).map(outbound).collect();
        fs::write(
            world.folder.join("here.yaml"),
            format!(
                "{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}], outbound: [{}]}}}}\n",
                outbounds.join(", ")
            ),
        )?;
        Ok(world)
    }

    fn write(&self, services: &str) -> Result<()> {
        replace(&self.folder.join("services.yaml"), services)
    }

    fn sidecar(&self, hosts: &str) -> Result<Sidecar<'_>> {
        let etc = self.lab.hosts(&format!("10.77.0.2 here.test\n{hosts}"))?;
        let options =
            ["--resources", &self.folder.display().to_string(), "--dataplane", "here"].map(str::to_owned);
        let settings = self.lab.pod.sidecar().etc(&etc).options(options).options(&self.more);
        settings.env("SSL_CERT_FILE", &self.authorities).start()
    }

    fn serve(&self, at: &str, words: &str) -> Result<Server> {
        self.lab.peer.serve(at, speaks_first(words))
    }

    /// A server with TLS that says whether its client showed a certificate.
    fn serve_tls(&self, at: &str, credentials: &Credentials) -> Result<Server> {
        let tls = TlsServer::outside(credentials)?;
        self.lab.peer.serve(at, move |stream: TcpStream| {
            let mut stream = tls.over(stream).map_err(io::Error::other)?;
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            let words: &[u8] = if stream.conn.peer_certificates().is_some() { b"own" } else { b"tls" };
            stream.write_all(words)?;
            stream.conn.send_close_notify();
            stream.flush()
        })
    }

    /// The first three bytes that an outbound's server says.
    fn call(&self, port: u16) -> io::Result<String> {
        let mut said = [0; 3];
        self.lab.pod.as_uid(APP).connect(format!("127.0.0.1:{port}").as_str())?.read_exact(&mut said)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

/// A certificate that is its own authority, as Kuma's tests have them.
fn certificate(name: &str) -> Result<Credentials> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok(Credentials { certificate: pem.clone(), key: key.serialize_pem(), authorities: pem })
}

/// An authority in PEM, and a certificate of it.
fn issued(name: &str) -> Result<(String, Credentials)> {
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "an authority");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate()?;
    let pem = root.self_signed(&root_key)?.pem();
    let key = KeyPair::generate()?;
    let issuer = Issuer::new(root, root_key);
    let certificate = CertificateParams::new([name.to_owned()])?.signed_by(&key, &issuer)?.pem();
    Ok((pem.clone(), Credentials { certificate, key: key.serialize_pem(), authorities: pem }))
}

fn inline(pem: &str) -> String {
    format!("{{inlineString: {}}}", serde_json::Value::from(pem))
}

fn external(name: &str, endpoints: &str, tls: &str) -> String {
    let tls = if tls.is_empty() { String::new() } else { format!(", tls: {{enabled: true, {tls}}}") };
    format!(
        "---\n{{type: MeshExternalService, name: {name}, spec: {{match: {{type: HostnameGenerator, port: 80, protocol: tcp}}, endpoints: [{endpoints}]{tls}}}}}\n"
    )
}

fn verified(ca: &Credentials, rest: &str) -> String {
    format!("verification: {{caCert: {}{rest}}}", inline(&ca.authorities))
}

/// The outbound of a MeshExternalService.
macro_rules! to {
    ($name:literal) => {
        concat!("backendRef: {kind: MeshExternalService, name: ", $name, ", port: 80}")
    };
}

#[test]
fn each_service_leads_to_its_own_server_where_passthrough_is_off() -> Result<()> {
    let services = external("one", "{address: 192.0.2.20, port: 80}", "")
        + &external("two", "{address: two.test, port: 81}", "")
        + &external("gone", "{address: gone.test, port: 81}", "");
    let world = World::new(CLOSED, &services, &[to!("one"), to!("two"), to!("gone")])?;
    let _servers = [world.serve("192.0.2.20:80", "one")?, world.serve("192.0.2.30:81", "two")?];
    let sidecar = world.sidecar("192.0.2.30 two.test\n")?;
    for _ in 0..3 {
        assert_eq!((world.call(7100)?, world.call(7101)?), ("one".into(), "two".into()));
    }
    // Their addresses are not opened by that, and a name without one costs nobody else.
    assert_taken_and_reset(world.lab.pod.as_uid(APP).connect("192.0.2.20:80"), "passthrough is off");
    assert_taken_and_reset(world.lab.pod.as_uid(APP).connect("127.0.0.1:7102"), "no address yet");
    let closed = sidecar.access(SOON, |record| (record["reason"] == "no_endpoint").then_some(()));
    closed.context("no record of the call without an endpoint")?;
    assert_eq!(sidecar.stat("names.unresolved")?, 1);
    Ok(())
}

#[test]
fn a_wrong_authority_refuses_each_call_and_the_right_one_lets_all_pass() -> Result<()> {
    let (server, other) = (certificate("ext.test")?, certificate("ext.test")?);
    let endpoint = "{address: ext.test, port: 443}";
    let wrong = external("out", endpoint, &verified(&other, ""));
    let world = World::new(CLOSED, &wrong, &[to!("out")])?;
    let _server = world.serve_tls("192.0.2.20:443", &server)?;
    let sidecar = world.sidecar("192.0.2.20 ext.test\n")?;
    for _ in 0..5 {
        assert_taken_and_reset(world.lab.pod.as_uid(APP).connect("127.0.0.1:7100"), "the wrong authority");
    }
    let refused = sidecar
        .access(SOON, |record| (record["reason"] == "tls_untrusted").then(|| record["error"].to_string()));
    let words = refused.context("no record of the refusal")?;
    assert!(words.contains("is its caCert the right one?"), "{words}");
    assert!(sidecar.metrics()?.contains("culvert_external_tls_handshakes_total{result=\"failed\"} 5\n"));
    // Each of these is right, and sends what the application says inside TLS.
    for tls in [
        verified(&server, ""),
        format!("version: {{min: TLS13}}, {}", verified(&server, "")),
        verified(&server, ", serverName: ext.test"),
        verified(&server, ", serverName: other.test, subjectAltNames: [{value: ext.test}]"),
        verified(&server, ", serverName: other.test, mode: SkipSAN"),
        verified(&other, ", serverName: other.test, mode: SkipCA"),
        "verification: {mode: SkipAll}".to_owned(),
    ] {
        let before = sidecar.stat("config_reloaded")?;
        world.write(&external("out", endpoint, &tls))?;
        eventually!(sidecar.stat("config_reloaded").is_ok_and(|now| now > before), SOON);
        for _ in 0..3 {
            ensure!(world.call(7100).is_ok_and(|said| said == "tls"), "{tls}");
        }
    }
    let failed = "culvert_external_tls_handshakes_total{result=\"failed\"} 5\n";
    assert!(sidecar.metrics()?.contains(failed), "no more have failed");
    // Another name than the server's.
    let before = sidecar.stat("config_reloaded")?;
    world.write(&external("out", endpoint, &verified(&server, ", serverName: other.test")))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|now| now > before), SOON);
    assert_taken_and_reset(world.lab.pod.as_uid(APP).connect("127.0.0.1:7100"), "another name");
    let refused = sidecar.access(SOON, |record| (record["reason"] == "tls_identity").then_some(()));
    refused.context("no record of the other name")?;
    Ok(())
}

#[test]
fn the_older_kind_speaks_tls_and_each_port_of_a_host_is_its_own() -> Result<()> {
    let (server, other) = (certificate("ext.test")?, certificate("ext.test")?);
    let older = |service: &str, port: u16, rest: &str| {
        format!(
            "---\n{{type: ExternalService, name: {service}-doc, tags: {{kuma.io/service: {service}}}, networking: {{address: 'ext.test:{port}'{rest}}}}}\n"
        )
    };
    let tls = |ca: &Credentials| format!(", tls: {{enabled: true, caCert: {}}}", inline(&ca.authorities));
    let services = older("good", 443, &tls(&server))
        + &older("bad", 443, &tls(&other))
        + &older("plain", 80, "")
        + &older("unverified", 443, ", tls: {enabled: true}");
    let outbounds =
        ["good", "bad", "plain", "unverified"].map(|name| format!("tags: {{kuma.io/service: {name}}}"));
    let world = World::new(CLOSED, &services, &outbounds.each_ref().map(String::as_str))?;
    let _servers = (world.serve_tls("192.0.2.20:443", &server)?, world.serve("192.0.2.20:80", "http")?);
    let sidecar = world.sidecar("192.0.2.20 ext.test\n")?;
    assert_eq!(
        (world.call(7100)?, world.call(7102)?, world.call(7103)?),
        ("tls".into(), "htt".into(), "tls".into())
    );
    assert_taken_and_reset(world.lab.pod.as_uid(APP).connect("127.0.0.1:7101"), "the wrong authority");
    let warned = |line: &str| line.contains("server's certificate is not verified").then_some(());
    sidecar.stderr().wait_for(SOON, warned).context("no warning")?;
    Ok(())
}

#[test]
fn an_endpoint_that_speaks_no_tls_is_followed_by_one_that_does() -> Result<()> {
    let server = certificate("ext.test")?;
    let endpoints = "{address: 192.0.2.20, port: 443}, {address: 192.0.2.30, port: 443}";
    let tls = verified(&server, ", serverName: ext.test");
    let world = World::new(CLOSED, &external("out", endpoints, &tls), &[to!("out")])?;
    let plain = world.serve("192.0.2.20:443", "220 not TLS")?;
    let _server = world.serve_tls("192.0.2.30:443", &server)?;
    let sidecar = world.sidecar("")?;
    for _ in 0..10 {
        assert_eq!(world.call(7100)?, "tls");
    }
    assert!(plain.accepted() >= 1, "it was tried");
    let clusters = sidecar.admin("/clusters")?.body;
    assert!(clusters.contains("::192.0.2.20:443::health_flags::/failed_outlier_check"), "{clusters}");
    assert!(clusters.contains("::192.0.2.30:443::health_flags::healthy"), "{clusters}");
    Ok(())
}

#[test]
fn the_systems_authorities_are_those_of_a_file_and_without_one_no_call_passes() -> Result<()> {
    let server = certificate("ext.test")?;
    let services = external("out", "{address: ext.test, port: 443}", "verification: {mode: Secured}");
    let mut world = World::new(CLOSED, &services, &[to!("out")])?;
    let _server = world.serve_tls("192.0.2.20:443", &server)?;
    {
        let sidecar = world.sidecar("192.0.2.20 ext.test\n")?;
        let warned = |line: &str| line.contains("this image has no file of authorities").then_some(());
        sidecar.stderr().wait_for(SOON, warned).context("no warning")?;
        assert_taken_and_reset(world.lab.pod.as_uid(APP).connect("127.0.0.1:7100"), "no authorities");
        let refused = sidecar.access(SOON, |record| (record["reason"] == "tls_untrusted").then_some(()));
        refused.context("no record of the refusal")?;
    }
    world.authorities = world.lab.folder().join("authorities.pem");
    // The authority signs the server: one that is the server itself would need caCert.
    let (authority, signed) = issued("ext.test")?;
    fs::write(&world.authorities, authority)?;
    let _other = world.serve_tls("192.0.2.30:443", &signed)?;
    let _sidecar = world.sidecar("192.0.2.30 ext.test\n")?;
    assert_eq!(world.call(7100)?, "tls");
    Ok(())
}

#[test]
fn nothing_of_the_mesh_is_shown_to_the_outside() -> Result<()> {
    let server = certificate("ext.test")?;
    let strict = "type: Mesh\nname: default\nmtls: {enabledBackend: ca, backends: [{name: ca, type: provided, mode: STRICT}]}\n";
    let client = Authority::new("clients")?.service("a-client")?;
    let pair = format!(", clientCert: {}, clientKey: {}", inline(&client.certificate), inline(&client.key));
    let named = ", serverName: ext.test";
    let services = external("tls", "{address: 192.0.2.20, port: 443}", &verified(&server, named))
        + &external("own", "{address: 192.0.2.20, port: 443}", &verified(&server, &format!("{named}{pair}")))
        + &external("plain", "{address: 192.0.2.20, port: 80}", "");
    let mut world = World::new(strict, &services, &[to!("tls"), to!("own"), to!("plain")])?;
    let identity = world.lab.folder().join("identity");
    Authority::new("mesh default")?.service("here")?.write(&identity)?;
    world.more = vec!["--identity".into(), identity.display().to_string()];
    let _servers = (world.serve_tls("192.0.2.20:443", &server)?, world.serve("192.0.2.20:80", "plain")?);
    let sidecar = world.sidecar("")?;
    assert_eq!(
        (world.call(7100)?, world.call(7101)?, world.call(7102)?),
        ("tls".into(), "own".into(), "pla".into())
    );
    assert_eq!(sidecar.stat("listener_manager.outbound.ssl.handshake")?, 0, "none of the mesh");
    let dump = sidecar.admin("/config_dump")?.body;
    assert!(dump.contains("[redacted]") && !dump.contains("BEGIN"), "{dump}");
    Ok(())
}

/// Echoes each connection of a Unix socket.
fn echo_at(listener: UnixListener) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || -> io::Result<()> {
                let (mut from, mut to) = (stream.try_clone()?, stream);
                io::copy(&mut from, &mut to)?;
                to.shutdown(Shutdown::Write)
            });
        }
    });
}

#[test]
fn a_unix_socket_takes_bytes_of_any_number_in_both_directions() -> Result<()> {
    let sockets = tempfile::tempdir()?;
    fs::set_permissions(sockets.path(), fs::Permissions::from_mode(0o755))?;
    let path = sockets.path().join("app.sock");
    let at = format!("{{address: 'unix://{}'}}", path.display());
    let world = World::new(CLOSED, &external("out", &at, ""), &[to!("out")])?;
    let sidecar = world.sidecar("")?;
    assert_taken_and_reset(world.lab.pod.as_uid(APP).connect("127.0.0.1:7100"), "there is no socket yet");
    let record = sidecar.access(SOON, |record| {
        (record["reason"] == "connect_unreachable").then(|| record["error"].to_string())
    });
    assert!(record.as_ref().is_some_and(|words| words.contains("app.sock")), "{record:?}");
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    echo_at(listener);
    // Enough to be spliced.
    for length in [1, 100_000, 16 << 20] {
        let bytes: Vec<u8> = (0..length).map(|n: usize| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let mut stream = world.lab.pod.as_uid(APP).connect("127.0.0.1:7100")?;
        let mut sending = stream.try_clone()?;
        let sent = bytes.clone();
        let sends = thread::spawn(move || -> io::Result<()> {
            sending.write_all(&sent)?;
            sending.shutdown(Shutdown::Write)
        });
        let mut came = Vec::new();
        stream.read_to_end(&mut came)?;
        sends.join().expect("no panic")?;
        ensure!(came == bytes, "{length}: {} came back", came.len());
    }
    let clusters = sidecar.admin("/clusters")?.body;
    assert!(clusters.contains(&format!("::{}::cx_total::", path.display())), "{clusters}");
    Ok(())
}

#[test]
fn calls_follow_a_name_to_all_of_its_addresses_and_away_from_them() -> Result<()> {
    let world = World::new(CLOSED, &external("out", "{address: ext.test, port: 81}", ""), &[to!("out")])?;
    let servers = [("192.0.2.20:81", "one"), ("192.0.2.30:81", "two"), ("192.0.2.40:81", "six")];
    let _servers =
        servers.map(|(at, words)| world.serve(at, words)).into_iter().collect::<Result<Vec<_>>>()?;
    let sidecar = world.sidecar("192.0.2.20 ext.test\n192.0.2.30 ext.test\n")?;
    let said = || (0..4).map(|_| world.call(7100)).collect::<io::Result<std::collections::BTreeSet<_>>>();
    assert_eq!(said()?.into_iter().collect::<Vec<_>>(), ["one", "two"]);
    let cluster = |sidecar: &Sidecar<'_>| -> Result<serde_json::Value> {
        let dump = dump(sidecar)?;
        let listener = of_dump(&dump, "outbound:127.0.0.1:7100").context("no listener")?;
        let name = &listener["filter_chains"][0]["filters"][0]["typed_config"]["cluster"];
        of_dump(&dump, name.as_str().unwrap_or_default()).context("no cluster")
    };
    assert_eq!(cluster(&sidecar)?["type"], "STRICT_DNS");
    // No document changes.
    world.lab.hosts("10.77.0.2 here.test\n192.0.2.30 ext.test\n192.0.2.40 ext.test\n")?;
    eventually!(said().is_ok_and(|said| said.iter().map(String::as_str).eq(["six", "two"])), NOTICED_WITHIN);
    assert_eq!(sidecar.stat("config_reloaded")?, 0, "no document changed");
    // Without an answer the last one stays.
    world.lab.hosts("10.77.0.2 here.test\n")?;
    eventually!(sidecar.stat("names.lookup_failed").is_ok_and(|failed| failed >= 1), NOTICED_WITHIN);
    assert_eq!(said()?.len(), 2);
    Ok(())
}
