// SPDX-License-Identifier: Apache-2.0
//! MeshLoadBalancingStrategy on real connections: the same server for the same address, the idle server, this zone before
//! others.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{Server, speaks_first};
use culvert_tests::{Lab, Sidecar, eventually};

use crate::documents::TRANSPARENT;
use crate::support::APP;
use crate::walkthrough::{dump, of_dump, onboarded, with_documents};

/// The first pause of an ejected endpoint is 5 s.
const RETURNS_WITHIN: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(10);

/// A server of `web`: its name, its port at the peer, its zone.
type Place = (&'static str, u16, &'static str);

/// A pod in the zone `east` that calls `web` by a strategy.
struct World {
    lab: Lab,
    folder: std::path::PathBuf,
}

impl World {
    fn new(places: &[Place], strategy: &str) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        let web = |(name, port, zone): &Place| {
            format!(
                "---\n{{type: Dataplane, name: web-{name}, networking: {{address: 192.0.2.10, inbound: [{{port: {port}, tags: {{kuma.io/service: web, kuma.io/zone: {zone}}}}}]}}}}\n"
            )
        };
        let web: String = places.iter().map(web).collect();
        let text = format!(
            "{{type: Mesh, name: default}}\n---\n{{type: Dataplane, name: here, labels: {{kuma.io/zone: east}}, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}], outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}\n{web}---\n{{type: MeshLoadBalancingStrategy, name: s, spec: {{to: [{{targetRef: {{kind: MeshService, name: web}}, default: {{{strategy}}}}}]}}}}\n"
        );
        fs::write(folder.join("mesh.yaml"), text)?;
        Ok(Self { lab, folder })
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        with_documents(&self.lab, &self.folder, &["--dataplane", "here"])
    }

    /// Starts a server, which says the letter that is its name.
    fn serve(&self, (name, port, _): Place) -> Result<Server> {
        self.lab.peer.serve(("192.0.2.10", port), speaks_first(name))
    }

    /// Calls from an address of the pod's loopback, and returns the connection with the name of the server.
    fn hold(&self, last_byte: u8) -> Result<(String, TcpStream)> {
        let source = format!("127.0.0.{last_byte}");
        let mut stream = self.lab.pod.as_uid(APP).from(source.as_str()).connect("127.0.0.1:7100")?;
        let mut name = [0];
        stream.read_exact(&mut name).with_context(|| format!("a call from {source}"))?;
        Ok((String::from_utf8_lossy(&name).into_owned(), stream))
    }

    fn call(&self, last_byte: u8) -> Result<String> {
        Ok(self.hold(last_byte)?.0)
    }

    /// The servers of calls from 20 addresses.
    fn by_source(&self) -> Result<BTreeMap<u8, String>> {
        (11..31).map(|last_byte| Ok((last_byte, self.call(last_byte)?))).collect()
    }
}

/// The value of an endpoint in `/clusters`.
fn of_endpoint(sidecar: &Sidecar<'_>, port: u16, name: &str) -> Result<String> {
    let all = sidecar.admin("/clusters")?.body;
    let start = format!("web::192.0.2.10:{port}::{name}::");
    let line = all.lines().find_map(|line| line.strip_prefix(&start));
    line.map(str::to_owned).with_context(|| format!("no {start} in {all}"))
}

#[test]
fn an_address_has_the_same_server_and_gets_it_back_after_a_failure() -> Result<()> {
    const PLACES: [Place; 4] = [("a", 82, "east"), ("b", 83, "east"), ("c", 84, "east"), ("d", 85, "east")];
    for (algorithm, policy) in [("RingHash", "RING_HASH"), ("Maglev", "MAGLEV")] {
        let strategy = format!(
            "loadBalancer: {{type: {algorithm}}}, hashPolicies: [{{type: Connection, connection: {{sourceIP: true}}}}]"
        );
        let world = World::new(&PLACES, &strategy)?;
        let mut servers: Vec<_> =
            PLACES.into_iter().map(|place| world.serve(place)).collect::<Result<_>>()?;
        let sidecar = world.sidecar()?;
        let before = world.by_source()?;
        for _ in 0..2 {
            ensure!(world.by_source()? == before, "{algorithm}");
        }
        let gone = before.values().next().context("no call")?.clone();
        let rest = before.values().filter(|server| **server != gone).count();
        ensure!(rest > 0, "{algorithm}: all have {gone}");
        let at = PLACES.iter().position(|(name, ..)| *name == gone).context("an unknown server")?;
        drop(servers.remove(at));
        // The first call that fails tries the next server, and the others go there at once; none is lost.
        let without = world.by_source()?;
        ensure!(without.values().all(|server| *server != gone), "{algorithm}: {without:?}");
        let moved = before.iter().filter(|(source, server)| without.get(source) != Some(server)).count();
        ensure!(moved == before.len() - rest, "{algorithm}: {before:?}, {without:?}");
        servers.push(world.serve(PLACES[at])?);
        eventually!(world.by_source().is_ok_and(|now| now == before), RETURNS_WITHIN);
        let dump = dump(&sidecar)?;
        let cluster = of_dump(&dump, "web").context("no cluster")?;
        ensure!(cluster["lb_policy"] == policy, "{cluster}");
        let listener = of_dump(&dump, "outbound:127.0.0.1:7100").context("no listener")?;
        let filter = &listener["filter_chains"][0]["filters"][0]["typed_config"];
        ensure!(filter["hash_policy"][0]["source_ip"].is_object(), "{filter}");
    }
    Ok(())
}

#[test]
fn a_call_goes_to_the_server_without_open_connections() -> Result<()> {
    const PLACES: [Place; 2] = [("a", 82, "east"), ("b", 83, "east")];
    let world = World::new(&PLACES, "loadBalancer: {type: LeastRequest}")?;
    let _servers: Vec<_> = PLACES.into_iter().map(|place| world.serve(place)).collect::<Result<_>>()?;
    let sidecar = world.sidecar()?;
    let mut ended = 0;
    for _ in 0..2 {
        let (busy, held) = world.hold(1)?;
        for _ in 0..10 {
            ensure!(world.call(1)? != busy, "{busy} is busy");
            ended += 1;
            // A connection counts until the sidecar has closed it too.
            eventually!(sidecar.access_log().len() == ended, SOON);
        }
        drop(held);
        ended += 1;
        eventually!(sidecar.access_log().len() == ended, SOON);
    }
    let dump = dump(&sidecar)?;
    let cluster = of_dump(&dump, "web").context("no cluster")?;
    ensure!(cluster["lb_policy"] == "LEAST_REQUEST", "{cluster}");
    ensure!(cluster["least_request_lb_config"]["choice_count"] == 2, "{cluster}");
    Ok(())
}

#[test]
fn this_zone_comes_first_and_the_next_one_takes_over_until_it_returns() -> Result<()> {
    const EAST: Place = ("e", 82, "east");
    const WEST: Place = ("w", 83, "west");
    const NORTH: Place = ("n", 84, "north");
    let strategy =
        "localityAwareness: {localZone: {}, crossZone: {failover: [{to: {type: Only, zones: [west]}}]}}";
    let world = World::new(&[EAST, WEST, NORTH], strategy)?;
    let (east, west, north) = (world.serve(EAST)?, world.serve(WEST)?, world.serve(NORTH)?);
    let sidecar = world.sidecar()?;
    let calls = || (0..10).map(|_| world.call(1)).collect::<Result<Vec<_>>>();
    ensure!(calls()? == ["e"; 10]);
    drop(east);
    ensure!(calls()? == ["w"; 10], "no call is lost");
    ensure!(of_endpoint(&sidecar, 82, "health_flags")? == "/failed_outlier_check");
    for (port, zone, priority) in [(82, "east", "0"), (83, "west", "1")] {
        ensure!(of_endpoint(&sidecar, port, "zone")? == zone);
        ensure!(of_endpoint(&sidecar, port, "priority")? == priority);
        ensure!(of_endpoint(&sidecar, port, "weight")? == "1");
    }
    let mended = world.serve(EAST)?;
    eventually!(world.call(1).is_ok_and(|server| server == "e"), RETURNS_WITHIN);
    ensure!(calls()? == ["e"; 10], "it is back");
    let cluster = of_dump(&dump(&sidecar)?, "web").context("no cluster")?;
    let assignment = &cluster["load_assignment"];
    let shown = |at: usize| {
        let group = &assignment["endpoints"][at];
        (group["locality"]["zone"].clone(), group["priority"].clone())
    };
    ensure!(shown(0) == ("east".into(), serde_json::Value::Null), "{assignment}");
    ensure!(shown(1) == ("west".into(), 1.into()), "{assignment}");
    ensure!(assignment["policy"]["overprovisioning_factor"] == 200, "{assignment}");
    drop((mended, west));
    ensure!(world.call(1).is_err(), "no zone is left");
    ensure!(north.accepted() == 0, "no rule names it");
    Ok(())
}
