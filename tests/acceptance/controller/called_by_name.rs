// SPDX-License-Identifier: Apache-2.0
//! Names of services that a pod's sidecar is asked for, and that no document says until then.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use culvert_tests::family::Family;
use culvert_tests::server::{UdpEcho, speaks_first};
use culvert_tests::{Sidecar, eventually};
use rustix::process::Signal;
use serde_json::json;

use super::traffic::{ONE, SERVICE, World};
use super::{Controller, SOON};
use crate::mesh_names::{A, NXDOMAIN, addresses, knows_nothing, query};
use crate::support::APP;

const DNS: u16 = 15053;
/// Names of the Service `db` in `shop` as its pods are tagged, and as the generator of the test has them.
const TAGGED: [&str; 2] = ["db_shop_svc_80.mesh", "db.shop.svc.80.mesh"];
const GENERATED: &str = "db.shop.in.mesh";

/// A cluster with a generator of names, and a DNS server outside that knows nothing.
struct Names {
    world: World,
    _outside: UdpEcho,
}

impl Names {
    fn new() -> Result<Self> {
        let world = World::new(json!({}))?;
        world.cluster.server.serve("kuma.io/v1alpha1", "hostnamegenerators", "HostnameGenerator", true);
        world.cluster.document(
            "hostnamegenerators",
            &json!({
                "apiVersion": "kuma.io/v1alpha1", "kind": "HostnameGenerator",
                "metadata": { "name": "in-mesh", "namespace": "mesh" },
                "spec": { "selector": { "meshService": {} },
                          "template": "{{ .DisplayName }}.{{ .Namespace }}.in.mesh" },
            }),
        );
        let resolv_conf = world.lab.folder().join("resolv.conf");
        fs::write(resolv_conf, format!("nameserver {}\n", Family::V4.peer()))?;
        let outside = UdpEcho::answering(world.lab.peer.udp((Family::V4.peer(), 53))?, knows_nothing)?;
        Ok(Self { world, _outside: outside })
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        let resolv_conf = self.world.lab.folder().join("resolv.conf");
        let options = [format!("--dns-port={DNS}"), format!("--resolv-conf={}", resolv_conf.display())];
        self.world.sidecar_with(&options)
    }

    /// The code and the IPv4 addresses of an answer.
    fn resolve(&self, name: &str) -> Result<(u8, Vec<IpAddr>)> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, DNS));
        let (answer, _) = self.world.lab.pod.as_uid(APP).ask_udp(to, &query(name, A))?;
        Ok((answer[3] & 0xf, addresses(&answer)))
    }

    /// The first byte of the server behind a name.
    fn call(&self, name: &str) -> Option<char> {
        let (_, addresses) = self.resolve(name).ok()?;
        self.world.call(&SocketAddr::new(*addresses.first()?, 80).to_string())
    }

    fn asked(&self, controller: &Controller) -> Result<f64> {
        let stream = self.world.lab.peer.connect(controller.status)?;
        controller.metric_by(stream, "culvert_controller_lookup_seconds_count")
    }
}

/// True for an address that the sidecar gives a name.
fn in_range(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[0] >= 240)
}

#[test]
fn a_name_that_nobody_asked_for_is_found_and_called() -> Result<()> {
    let names = Names::new()?;
    let controller = names.world.controller()?;
    let sidecar = names.sidecar()?;
    for name in TAGGED {
        let (code, found) = names.resolve(name)?;
        ensure!(code == 0 && found.len() == 1 && found.iter().all(in_range), "{name}: {code} {found:?}");
        ensure!(names.call(name) == Some('1'), "{name}: {}", sidecar.stderr().text());
    }
    let service: SocketAddr = SERVICE.parse()?;
    assert_eq!(names.resolve(GENERATED)?, (0, vec![service.ip()]));
    let asked = names.asked(&controller)?;
    assert_eq!(names.call(GENERATED), Some('1'), "at the Service's own address");
    assert_eq!(names.asked(&controller)?, asked, "the name said where its calls go");
    assert_eq!(names.resolve("www.example.test")?.0, NXDOMAIN);
    assert_eq!(names.asked(&controller)?, asked, "no name of the mesh");
    // The cluster changes, and calls by the name follow.
    names.world.cluster.endpoints("shop", "db", &[("db-2", true)]);
    for name in [GENERATED, TAGGED[0]] {
        eventually!(names.call(name) == Some('2'), SOON);
    }
    // It is seen with the others, and says where it leads.
    let page = sidecar.admin(&format!("/names?name={GENERATED}"))?.body;
    ensure!(page.contains(SERVICE) && page.contains("HostnameGenerator in-mesh"), "{page}");
    Ok(())
}

#[test]
fn a_name_without_a_service_is_the_servers_to_answer_until_there_is_one() -> Result<()> {
    let mut names = Names::new()?;
    let late = names.world.lab.peer.serve("192.0.2.50:8080", speaks_first("l"))?;
    names.world.servers.push(late);
    let mut controller = names.world.controller()?;
    let sidecar = names.sidecar()?;
    assert_eq!(names.resolve("late.shop.in.mesh")?, (NXDOMAIN, vec![]));
    names.world.cluster.member("shop", "late-1", "192.0.2.50", "late");
    names.world.cluster.service_of("tcp", ("shop", "late"), "198.51.100.7", &[("late-1", true)]);
    eventually!(names.call("late.shop.in.mesh") == Some('l'), SOON);
    // Without a controller what is known stays, and a name that is not known is answered by the servers, in time.
    assert_eq!(names.call(GENERATED), Some('1'));
    controller.process.signal(Signal::KILL)?;
    controller.process.wait(SOON)?;
    assert_eq!(names.call(GENERATED), Some('1'));
    let (code, _) = names.resolve(TAGGED[0])?;
    ensure!(code == NXDOMAIN, "{code}: {}", sidecar.stderr().text());
    // Back, it answers what was asked while it was away.
    let _again = names.world.controller()?;
    eventually!(names.call(TAGGED[0]) == Some('1'), SOON);
    Ok(())
}

#[test]
fn a_headless_service_has_an_address_by_its_name() -> Result<()> {
    let names = Names::new()?;
    let _controller = names.world.controller()?;
    let sidecar = names.sidecar()?;
    names.world.cluster.service_of("tcp", ("shop", "db"), "None", &[("db-1", true)]);
    eventually!(
        names.resolve(GENERATED).is_ok_and(|(code, found)| code == 0 && found.iter().all(in_range)),
        SOON
    );
    ensure!(names.call(GENERATED) == Some('1'), "{}", sidecar.stderr().text());
    assert_eq!(names.world.call(ONE), Some('1'), "and its pods have theirs");
    Ok(())
}
