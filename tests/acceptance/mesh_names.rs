//! Names of the mesh: real connections by name, through the sidecar's DNS server, and by the addresses behind the names.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::process::{Process, lab_exec};
use culvert_tests::server::{Server, UdpEcho, speaks_first};
use culvert_tests::{Family, Lab, Sidecar, eventually};

use crate::documents::{TRANSPARENT, replace};
use crate::support::APP;

/// From a change of documents to answers by them.
const SOON: Duration = Duration::from_secs(10);

/// Types of queries, and the code for a name that does not exist.
pub(crate) const A: u16 = 1;
const AAAA: u16 = 28;
pub(crate) const NXDOMAIN: u8 = 3;
/// Bytes before the question of a message.
const HEADER: usize = 12;

pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[&[0][..], &kind.to_be_bytes(), &[0, 1]].concat());
    message
}

/// Returns the place behind a name of a message.
fn skip_name(message: &[u8], mut at: usize) -> usize {
    loop {
        match message[at] {
            0 => return at + 1,
            length if length & 0xc0 == 0xc0 => return at + 2,
            length => at += usize::from(length) + 1,
        }
    }
}

/// Returns the addresses of an answer.
pub(crate) fn addresses(message: &[u8]) -> Vec<IpAddr> {
    let mut at = skip_name(message, HEADER) + 4;
    let mut all = Vec::new();
    for _ in 0..u16::from_be_bytes([message[6], message[7]]) {
        at = skip_name(message, at) + 8;
        let length = usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
        let data = &message[at + 2..at + 2 + length];
        all.extend(<[u8; 4]>::try_from(data).map(IpAddr::from));
        all.extend(<[u8; 16]>::try_from(data).map(IpAddr::from));
        at += 2 + length;
    }
    all
}

/// A server that knows no name.
pub(crate) fn knows_nothing(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80 | NXDOMAIN;
    answer
}

fn pod(name: &str, address: IpAddr, inbound: &str) -> String {
    format!(
        "---\n{{type: Dataplane, name: {name}, labels: {{app: {name}}}, networking: {{address: '{address}', inbound: [{inbound}]}}}}\n"
    )
}

fn here(address: IpAddr, more: &str) -> String {
    format!(
        "---\n{{type: Dataplane, name: here, networking: {{address: '{address}', {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}]{more}}}}}\n"
    )
}

/// The servers of `web`: each says its number.
fn web(first: IpAddr, second: IpAddr) -> String {
    let tags = |number: u8| {
        format!("{{port: 8000, name: main, tags: {{kuma.io/service: web_shop, pod: web-{number}}}}}")
    };
    pod("web-1", first, &tags(1)) + &pod("web-2", second, &tags(2))
}

/// An onboarded pod with documents, and a DNS server outside that knows nothing.
struct World {
    lab: Lab,
    file: PathBuf,
    _outside: Vec<UdpEcho>,
}

impl World {
    fn new(prepare: impl Fn(&Lab) -> Result<()>, documents: &str) -> Result<Self> {
        let lab = Lab::new()?;
        prepare(&lab)?;
        lab.add(&[("redirect-dns", "all")])?.expect_success();
        lab.peer.add_local_route("192.0.2.0/24")?;
        fs::create_dir(lab.folder().join("mesh"))?;
        let file = lab.folder().join("mesh/mesh.yaml");
        fs::write(&file, format!("{{type: Mesh, name: default}}\n{documents}"))?;
        let servers: String = Family::BOTH.map(|family| format!("nameserver {}\n", family.peer())).concat();
        fs::write(lab.folder().join("resolv.conf"), servers)?;
        let serve = |family: Family| UdpEcho::answering(lab.peer.udp((family.peer(), 53))?, knows_nothing);
        let _outside = Family::BOTH.into_iter().map(serve).collect::<Result<_>>()?;
        Ok(Self { lab, file, _outside })
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        let path = |name: &str| self.lab.folder().join(name).display().to_string();
        let options = [
            "--resources",
            &path("mesh"),
            "--dataplane",
            "here",
            "--dns-port",
            "15053",
            "--resolv-conf",
            &path("resolv.conf"),
        ];
        self.lab.pod.sidecar().options(options).start()
    }

    fn change(&self, documents: &str) -> Result<()> {
        replace(&self.file, &format!("{{type: Mesh, name: default}}\n{documents}"))
    }

    /// Asks a server of the pod, which the sidecar stands in for.
    fn ask(&self, family: Family, name: &str, kind: u16) -> Result<Vec<u8>> {
        let (answer, _) = self.lab.pod.as_uid(APP).ask_udp((family.peer(), 53), &query(name, kind))?;
        Ok(answer)
    }

    /// Returns the addresses of a name: IPv4, then IPv6.
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        let mut all = addresses(&self.ask(Family::V4, name, A)?);
        all.extend(addresses(&self.ask(Family::V4, name, AAAA)?));
        Ok(all)
    }

    /// Returns what the server at an address says.
    fn call(&self, address: SocketAddr) -> Result<String> {
        let mut greeting = [0; 3];
        let mut stream =
            self.lab.pod.as_uid(APP).connect(address).with_context(|| format!("connect to {address}"))?;
        stream.read_exact(&mut greeting).with_context(|| format!("call to {address}"))?;
        Ok(String::from_utf8_lossy(&greeting).into_owned())
    }

    /// Returns the servers that answer calls to a name and port, by each of its addresses.
    fn servers(&self, name: &str, port: u16) -> Result<Vec<BTreeSet<String>>> {
        let addresses = self.resolve(name)?;
        ensure!(addresses.len() == 2, "{name}: {addresses:?}");
        // Endpoints take turns, so two calls reach both.
        let servers = |address: IpAddr| -> Result<BTreeSet<String>> {
            (0..4).map(|_| self.call(SocketAddr::new(address, port))).collect()
        };
        addresses.into_iter().map(servers).collect()
    }
}

fn words<const N: usize>(all: [&str; N]) -> Vec<BTreeSet<String>> {
    let one: BTreeSet<String> = all.iter().map(ToString::to_string).collect();
    vec![one.clone(), one]
}

const ONE: &str = "192.0.2.20";
const TWO: &str = "192.0.2.30";

fn serve(lab: &Lab) -> Result<[Server; 2]> {
    let one =
        |address: &str, greeting| lab.peer.serve(format!("{address}:8000").as_str(), speaks_first(greeting));
    Ok([one(ONE, "one")?, one(TWO, "two")?])
}

/// The world of most tests: two pods of `web_shop`.
fn world(documents: &str) -> Result<World> {
    let pods = web(ONE.parse()?, TWO.parse()?);
    World::new(|_| Ok(()), &format!("{}{pods}{documents}", here(Family::V4.pod(), "")))
}

#[test]
fn a_service_is_called_by_its_name_on_port_80_and_on_that_of_its_inbounds() -> Result<()> {
    let world = world("")?;
    let _servers = serve(&world.lab)?;
    let sidecar = world.sidecar()?;
    for name in ["web_shop.mesh", "web.shop.mesh", "WEB.shop.MESH"] {
        for port in [80, 8000] {
            ensure!(world.servers(name, port)? == words(["one", "two"]), "{name}:{port}");
        }
    }
    // A port that the service has not goes where it was meant to go, and that is nowhere.
    let address = world.resolve("web.shop.mesh")?[0];
    ensure!(world.call(SocketAddr::new(address, 81)).is_err());
    let listener = format!("listener.{address}_80.downstream_cx_total");
    ensure!(sidecar.stat(&listener)? == 24, "both families and all spellings are one listener's");
    Ok(())
}

#[test]
fn glibc_resolves_a_name_of_the_mesh_to_both_families() -> Result<()> {
    let world = world("")?;
    let _sidecar = world.sidecar()?;
    let program = Path::new("/usr/bin/getent");
    let mut command = lab_exec::command(world.lab.pod.namespace(), APP, None, program)?;
    command.args(["-s", "dns", "ahosts", "web.shop.mesh"]).env_clear();
    let mut process = Process::start(command)?;
    let status = process.wait(Duration::from_secs(60)).context("getent")?;
    let said = process.stdout().text();
    ensure!(status.code() == Some(0), "{said}");
    for address in world.resolve("web.shop.mesh")? {
        ensure!(said.contains(&address.to_string()), "no {address} in {said}");
    }
    Ok(())
}

const SERVICE: &str = "---
{type: MeshService, name: backend, labels: {app: backend}, spec: {selector: {dataplaneTags: {kuma.io/service: web_shop, pod: web-1}}, ports: [{port: 80, targetPort: main}]},
  status: {vips: [{ip: 10.96.0.7}]}}
---
{type: HostnameGenerator, name: own, spec: {selector: {meshService: {matchLabels: {app: backend}}}, template: '{{ .Name }}.meshservice.othertld'}}
";

#[test]
fn a_mesh_service_is_called_by_the_names_of_generators_and_by_its_cluster_ip() -> Result<()> {
    let world = world(SERVICE)?;
    let _servers = serve(&world.lab)?;
    let _sidecar = world.sidecar()?;
    for name in ["backend.meshservice.othertld", "backend.svc.mesh.local"] {
        ensure!(world.resolve(name)?[0] == "10.96.0.7".parse::<IpAddr>()?, "the address of the status");
        ensure!(world.servers(name, 80)? == words(["one"]), "{name}");
    }
    ensure!(world.call("10.96.0.7:80".parse()?)? == "one");
    Ok(())
}

const OUTBOUNDS: &str = "---
{type: VirtualOutbound, name: all, selectors: [{match: {kuma.io/service: '*'}}], conf: {host: '{{.svc}}.foo', port: '8080', parameters: [{name: svc, tagKey: kuma.io/service}]}}
---
{type: VirtualOutbound, name: each, selectors: [{match: {kuma.io/service: '*', pod: '*'}}],
  conf: {host: '{{.svc}}.{{.inst}}', port: '8080', parameters: [{name: svc, tagKey: kuma.io/service}, {name: inst, tagKey: pod}]}}
";

#[test]
fn a_virtual_outbound_leads_to_a_service_or_to_exactly_one_instance() -> Result<()> {
    let world = world(OUTBOUNDS)?;
    let _servers = serve(&world.lab)?;
    let _sidecar = world.sidecar()?;
    ensure!(world.servers("web_shop.foo", 8080)? == words(["one", "two"]));
    ensure!(world.servers("web_shop.web-1", 8080)? == words(["one"]));
    ensure!(world.servers("web_shop.web-2", 8080)? == words(["two"]));
    ensure!(world.servers("web.shop.mesh", 80)? == words(["one", "two"]), "its own name stays");
    Ok(())
}

#[test]
fn the_address_of_a_name_that_went_passes_to_no_other() -> Result<()> {
    let world = world(&pod("old", ONE.parse()?, "{port: 8000, tags: {kuma.io/service: old}}"))?;
    let _servers = serve(&world.lab)?;
    let sidecar = world.sidecar()?;
    let (old, others) = (world.resolve("old.mesh")?, world.resolve("web.shop.mesh")?);
    ensure!(old.len() == 2);
    let pods = web(ONE.parse()?, TWO.parse()?);
    // More services than one: each would take the address if it were free.
    let two: IpAddr = TWO.parse()?;
    let one = |n: usize| {
        pod(&format!("new-{n}"), two, &format!("{{port: 8000, tags: {{kuma.io/service: new-{n}}}}}"))
    };
    let new: String = (0..20).map(one).collect();
    world.change(&format!("{}{pods}{new}", here(Family::V4.pod(), "")))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    ensure!(world.servers("new-0.mesh", 80)? == words(["two"]));
    ensure!(world.ask(Family::V4, "old.mesh", A)?[3] & 0xf == NXDOMAIN, "the servers of the pod are asked");
    for n in 0..20 {
        let addresses = world.resolve(&format!("new-{n}.mesh"))?;
        ensure!(
            addresses.len() == 2 && addresses.iter().all(|address| !old.contains(address)),
            "new-{n}: {addresses:?}"
        );
    }
    ensure!(world.resolve("web.shop.mesh")? == others, "others keep theirs");
    // Back again, it has its addresses.
    let again = pod("old", ONE.parse()?, "{port: 8000, tags: {kuma.io/service: old}}");
    world.change(&format!("{}{pods}{new}{again}", here(Family::V4.pod(), "")))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 2), SOON);
    ensure!(world.resolve("old.mesh")? == old);
    ensure!(world.servers("old.mesh", 80)? == words(["one"]));
    Ok(())
}

#[test]
fn a_closed_mesh_lets_names_of_the_mesh_out_and_nothing_else() -> Result<()> {
    let world = world("")?;
    let _servers = serve(&world.lab)?;
    let text = fs::read_to_string(&world.file)?;
    let closed =
        text.replace("name: default}", "name: default, networking: {outbound: {passthrough: false}}}");
    fs::write(&world.file, closed)?;
    let _sidecar = world.sidecar()?;
    ensure!(world.servers("web.shop.mesh", 80)? == words(["one", "two"]));
    ensure!(world.call(format!("{ONE}:8001").parse()?).is_err());
    Ok(())
}

/// Takes IPv4's way to other networks away: the interface's routes go with it while it is down.
fn without_v4(lab: &Lab) -> Result<()> {
    lab.pod.set_down("eth0")?;
    lab.pod.set_up("eth0")?;
    for cidr in ["fd77::2/64", "fe80::2/64"] {
        lab.pod.add_address("eth0", cidr)?;
    }
    lab.pod.add_route("default", Family::V6.peer())
}

fn without_v6(lab: &Lab) -> Result<()> {
    lab.pod.set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")
}

#[test]
fn a_pod_of_one_family_gets_and_calls_the_addresses_of_that_family_alone() -> Result<()> {
    type Prepare = fn(&Lab) -> Result<()>;
    for (family, prepare) in [(Family::V4, without_v6 as Prepare), (Family::V6, without_v4 as Prepare)] {
        let pods = web(family.peer(), family.peer());
        let world = World::new(prepare, &format!("{}{pods}", here(family.pod(), "")))?;
        let _server = world.lab.peer.serve((family.peer(), 8000), speaks_first("one"))?;
        let _sidecar = world.sidecar()?;
        for (kind, of) in [(A, Family::V4), (AAAA, Family::V6)] {
            let answer = world.ask(family, "web.shop.mesh", kind)?;
            ensure!(answer[3] & 0xf == 0, "the name exists in a pod of {family}");
            let addresses = addresses(&answer);
            ensure!(addresses.len() == usize::from(of == family), "{addresses:?} in a pod of {family}");
            for address in addresses {
                ensure!(world.call(SocketAddr::new(address, 80))? == "one", "{address}");
            }
        }
    }
    Ok(())
}
