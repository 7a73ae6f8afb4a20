//! `resolve` and the admin's page of names: what a name leads to, with the health of its endpoints; and the routes of a pod that
//! decide about addresses of names.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{Server, speaks_first};
use culvert_tests::{Family, Lab, Sidecar, eventually};
use serde_json::Value;

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::APP;

/// Two pods of `web`: a server is at the first, and none at the second.
const ALIVE: &str = "192.0.2.20";
const DEAD: &str = "192.0.2.30";

fn documents(more: &str) -> String {
    let web = |name: &str, address: &str| {
        format!(
            "---\n{{type: Dataplane, name: {name}, networking: {{address: {address}, inbound: [{{port: 8000, tags: {{kuma.io/service: web}}}}]}}}}\n"
        )
    };
    format!(
        "{{type: Mesh, name: default}}\n---\n{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}]}}}}\n{}{}{more}",
        web("web-1", ALIVE),
        web("web-2", DEAD)
    )
}

struct World {
    lab: Lab,
    file: PathBuf,
    _server: Server,
}

impl World {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        lab.add(&[])?.expect_success();
        lab.peer.add_local_route("192.0.2.0/24")?;
        fs::create_dir(lab.folder().join("mesh"))?;
        let file = lab.folder().join("mesh/mesh.yaml");
        fs::write(&file, documents(""))?;
        let _server = lab.peer.serve(format!("{ALIVE}:8000").as_str(), speaks_first("web"))?;
        Ok(Self { lab, file, _server })
    }

    fn options(&self) -> [String; 4] {
        let folder = self.lab.folder().join("mesh").display().to_string();
        ["--resources".into(), folder, "--dataplane".into(), "here".into()]
    }

    fn sidecar(&self, more: &[&str]) -> Result<Sidecar<'_>> {
        self.lab.pod.sidecar().options(self.options()).options(more).start()
    }

    /// Returns exit code and words of the command in the pod.
    fn command(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let command = self.lab.pod.sidecar().options(["--dataplane", "here", "resolve"]).options(arguments);
        let mut command = command.start_unready()?;
        let status = command.wait(SOON)?;
        Ok((status.code(), command.stdout().text() + &command.stderr().text()))
    }

    /// Returns the addresses of a name, by the sidecar that runs.
    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>> {
        let (code, said) = self.command(&[name, "--format", "json"])?;
        ensure!(code == Some(0), "{said}");
        let answer: Value = serde_json::from_str(&said)?;
        let all = answer["names"][0]["addresses"].as_array().context("no addresses")?;
        all.iter().map(|address| Ok(address.as_str().context("no text")?.parse()?)).collect()
    }

    fn call(&self, address: IpAddr) -> std::io::Result<()> {
        let mut stream = self.lab.pod.as_uid(APP).connect(SocketAddr::new(address, 80))?;
        std::io::Read::read_exact(&mut stream, &mut [0; 3])
    }
}

#[test]
fn a_name_is_told_with_its_endpoints_as_they_are_and_one_that_is_not_there_with_the_reason() -> Result<()> {
    let world = World::new()?;
    let sidecar = world.sidecar(&[])?;
    let (code, said) = world.command(&["web.mesh"])?;
    ensure!(code == Some(0) && said.matches("in service").count() >= 2, "{code:?} {said}");
    ensure!(sidecar.admin("/names?name=web.mesh")?.body.trim_end() == said.trim_end(), "{said}");
    // The first call that comes to the dead one goes on to the other, and the dead one is ejected.
    let four = world.addresses("web.mesh")?[0];
    for _ in 0..2 {
        world.call(four)?;
    }
    let (_, said) = world.command(&["WEB.mesh."])?;
    for part in [
        &format!("\n      {ALIVE}:8000  Dataplane web-1  in service\n"),
        &format!("\n      {DEAD}:8000  Dataplane web-2  ejected\n"),
        "\n  service    kuma.io/service web\n",
        "\n  made by    Dataplane web-1\n",
        &format!("\n  port 80, listener outbound:{four}:80\n    cluster web: 2 endpoints\n"),
        "\n  the sidecar answers no DNS (--dns-port is 0)",
    ] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    let (code, by_address) = world.command(&[&four.to_string()])?;
    ensure!(code == Some(0) && by_address == said, "{by_address}");
    let list = sidecar.admin("/names?filter=%5Eweb")?.body;
    ensure!(list.contains("  web: 2 (1 in service, 1 ejected)\n"), "{list}");

    let (code, said) = world.command(&["wep.mesh"])?;
    ensure!(code == Some(1) && said.contains("\n  names that look like it: web.mesh"), "{code:?} {said}");
    ensure!(sidecar.admin("/names?name=wep.mesh")?.status == 404);
    let (code, said) = world.command(&["no name"])?;
    ensure!(code == Some(64), "{code:?} {said}");

    // Read from the documents alone, the addresses are the same, and no health is known.
    let folder = world.file.parent().context("no folder")?.display().to_string();
    let (code, said) = world.command(&["web.mesh", &folder])?;
    ensure!(code == Some(0) && said.contains(&format!("  addresses  {four}, ")), "{code:?} {said}");
    ensure!(!said.contains("in service") && !said.contains("no DNS"), "{said}");
    Ok(())
}

#[test]
fn the_addresses_of_a_name_stay_over_reloads_and_restarts_and_are_none_of_the_pods_networks() -> Result<()> {
    let world = World::new()?;
    let sidecar = world.sidecar(&[])?;
    let first = world.addresses("web.mesh")?;
    ensure!(first.len() == 2 && first[0].is_ipv4() && first[1].is_ipv6(), "{first:?}");
    let more = "---\n{type: Dataplane, name: a, networking: {address: 192.0.2.40, inbound: [{port: 8000, tags: {kuma.io/service: a}}]}}\n";
    replace(&world.file, &documents(more))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|reloads| reloads == 1), SOON);
    ensure!(world.addresses("web.mesh")? == first && world.addresses("a.mesh").is_ok());
    drop(sidecar);
    let sidecar = world.sidecar(&[])?;
    ensure!(world.addresses("web.mesh")? == first);
    drop(sidecar);
    // A network that comes before the start has the address, and all around it.
    let IpAddr::V4(four) = first[0] else { unreachable!("checked above") };
    let [a, b, c, _] = four.octets();
    world.lab.pod.add_route(&format!("{a}.{b}.{c}.0/24"), Family::V4.peer())?;
    let _sidecar = world.sidecar(&[])?;
    let moved = world.addresses("web.mesh")?;
    let IpAddr::V4(other) = moved[0] else { unreachable!("IPv4 comes first") };
    ensure!(other.octets()[..3] != [a, b, c] && moved[1] == first[1], "{moved:?}");
    world.call(moved[0])?;
    Ok(())
}

#[test]
fn a_family_without_a_way_to_the_meshs_addresses_is_told() -> Result<()> {
    let world = World::new()?;
    let _sidecar = world.sidecar(&["--dns-port", "15053", "--verify-redirect", "ipv4"])?;
    let (_, said) = world.command(&["web.mesh"])?;
    ensure!(!said.contains("no route"), "{said}");
    world.lab.pod.set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    let (code, said) = world.command(&["web.mesh"])?;
    ensure!(code == Some(0) && said.contains("the pod has no route to the mesh's IPv6 addresses"), "{said}");
    Ok(())
}
