//! TLS between workloads: whom STRICT keeps out and PERMISSIVE lets in, by which reason, and what a member notices of it.

mod bulk;
mod bursts;
mod http;
mod keys;
mod members;
mod mesh_metric;
mod orders;
mod probes;
mod strangers;
mod who;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use culvert_tests::server::{Server, echo, speaks_first};
use culvert_tests::tls::{Client, own_tls, waits};
use culvert_tests::until::uninterrupted;
use culvert_tests::{Authority, Family, Host, Lab, Sidecar};

use crate::support::APP;

const SOON: Duration = Duration::from_secs(5);
const GREETING: &str = "220 hello";

/// Ports of the server's pod.
const SPEAKS: u16 = 8081;
const WAITS: u16 = 8082;
const OWN_TLS: u16 = 8083;
const UNNAMED: u16 = 8089;

/// Two pods with a sidecar each, and a third without.
///
/// ```text
///   client 10.77.1.1 ──── 10.77.1.2 server 10.77.0.2 ──── 10.77.0.1 stranger (lab.peer)
/// ```
struct World {
    lab: Lab,
    client: Host,
    authority: Authority,
}

/// The server's address in the mesh.
const SERVER: &str = "10.77.1.2";

impl World {
    fn new(mode: &str, more: &str) -> Result<Self> {
        let mut lab = Lab::new()?;
        let client = lab.another_peer()?;
        lab.peer.add_route("10.77.1.0/24", Family::V4.pod())?;
        lab.add(&[])?.expect_success();
        let onboarded = lab.invoke_for(&client, "ADD")?.redirect().env("CNI_CONTAINERID", "c11e47").run()?;
        onboarded.expect_success();
        let world = Self { lab, client, authority: Authority::new("mesh default")? };
        world.write(mode, more)?;
        world.authority.service("server")?.write(&world.identity("server"))?;
        world.authority.service("client")?.write(&world.identity("client"))?;
        Ok(world)
    }

    fn identity(&self, name: &str) -> PathBuf {
        self.lab.folder().join(name)
    }

    fn documents(&self) -> PathBuf {
        self.lab.folder().join("mesh")
    }

    fn write(&self, mode: &str, more: &str) -> Result<()> {
        let inbound = |port: u16| format!("{{port: {port}, tags: {{kuma.io/service: server}}}}");
        let transparent = "transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}";
        let text = format!(
            "{{type: Mesh, name: default, mtls: {{enabledBackend: ca, backends: [{{name: ca, type: provided, mode: {mode}}}]}}}}
---
{{type: Dataplane, name: server, labels: {{app: server, k8s.kuma.io/namespace: shop, kuma.io/zone: zone-1}}, networking: {{address: {SERVER}, {transparent}, inbound: [{}]}}}}
---
{{type: Dataplane, name: client, networking: {{address: 10.77.1.1, {transparent},
  inbound: [{{port: 9000, tags: {{kuma.io/service: client}}}}],
  outbound: [{{port: 7000, address: 127.0.0.1, tags: {{kuma.io/service: server}}}}]}}}}
{more}",
            [SPEAKS, WAITS, OWN_TLS].map(inbound).join(", ")
        );
        fs::create_dir_all(self.documents())?;
        let (file, new) = (self.documents().join("mesh.yaml"), self.documents().join("mesh.new"));
        fs::write(&new, text)?;
        Ok(fs::rename(new, file)?)
    }

    fn options(&self, name: &str) -> [String; 6] {
        [
            "--resources".into(),
            self.documents().display().to_string(),
            "--dataplane".into(),
            name.into(),
            "--identity".into(),
            self.identity(name).display().to_string(),
        ]
    }

    fn server_sidecar(&self, more: &[&str]) -> Result<Sidecar<'_>> {
        self.lab.pod.sidecar().options(self.options("server")).options(more).start()
    }

    fn client_sidecar(&self) -> Result<Sidecar<'_>> {
        self.client.sidecar().options(self.options("client")).start()
    }

    fn servers(&self) -> Result<[Server; 4]> {
        let app = self.lab.pod.as_uid(APP);
        Ok([
            app.serve(("0.0.0.0", SPEAKS), speaks_first(GREETING))?,
            app.serve(("0.0.0.0", WAITS), waits(GREETING))?,
            app.serve(("0.0.0.0", OWN_TLS), own_tls(GREETING)?)?,
            app.serve(("0.0.0.0", UNNAMED), echo())?,
        ])
    }

    /// An application in the client's pod.
    fn member(&self, port: u16) -> io::Result<TcpStream> {
        self.client.as_uid(APP).connect((SERVER, port))
    }

    /// A client without a sidecar that speaks TLS.
    fn speaks(&self, client: &Client, port: u16) -> io::Result<impl Read + Write + use<>> {
        client.over(self.stranger(port)?).map_err(io::Error::other)
    }

    /// A client without a sidecar.
    fn stranger(&self, port: u16) -> io::Result<TcpStream> {
        self.lab.peer.as_root().connect((SERVER, port))
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

/// Fails unless nothing is heard but the end, or a reset, which may come with the end of the connect already.
fn is_closed(connected: io::Result<impl Read + Write>) -> Result<()> {
    let mut stream = match connected {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
        connected => connected?,
    };
    let said = stream.write_all(b"ping").and_then(|()| stream.flush());
    match said.and_then(|()| uninterrupted(|| stream.read(&mut [0; 64]))) {
        Ok(0) => Ok(()),
        Ok(n) => bail!("{n} bytes were heard"),
        // An alert of TLS is one, too.
        Err(_) => Ok(()),
    }
}

/// The reason in the record of the last connection to a port, once there are so many.
fn reasons(sidecar: &Sidecar<'_>, port: u16) -> Vec<String> {
    let to = format!("{SERVER}:{port}");
    let log = sidecar.access_log();
    let of = log.iter().filter(|record| record["orig_dst"] == to.as_str());
    of.filter_map(|record| record["reason"].as_str().map(str::to_owned)).collect()
}
