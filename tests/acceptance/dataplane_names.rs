//! Names in place of addresses in Dataplanes: where they lead, when that changes, and what is done without an answer.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_tests::server::{Server, speaks_first, who};
use culvert_tests::{Lab, Sidecar, eventually};

use crate::documents::{SOON, TRANSPARENT};
use crate::support::{APP, assert_taken_and_reset, seen};
use crate::walkthrough::{dump, of_dump, onboarded};

/// From a change of `/etc/hosts` to a plan with it: a look-up each 10 s, a look at its answer each second.
const NOTICED_WITHIN: Duration = Duration::from_secs(40);

const HERE: &str = "10.77.0.2 here.test\n";

/// A pod by name that calls `web`, which is a name too.
struct World {
    _servers: [Server; 2],
    lab: Lab,
    folder: PathBuf,
}

impl World {
    fn new() -> Result<Self> {
        let (lab, folder) = onboarded()?;
        lab.peer.add_local_route("192.0.2.0/24")?;
        fs::write(
            folder.join("pods.yaml"),
            format!(
                "{{type: Dataplane, name: here, networking: {{address: here.test, {TRANSPARENT}, inbound: [{{port: 8080, tags: {{kuma.io/service: here}}}}], outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}\n---\n\
                 {{type: Dataplane, name: web, networking: {{address: Web.Test, inbound: [{{port: 81, tags: {{kuma.io/service: web}}}}]}}}}\n"
            ),
        )?;
        let server = |ip: &str, words: &str| lab.peer.serve(format!("{ip}:81").as_str(), speaks_first(words));
        let servers = [server("192.0.2.20", "one")?, server("192.0.2.30", "two")?];
        Ok(Self { _servers: servers, lab, folder })
    }

    fn options(&self) -> [String; 4] {
        ["--resources".into(), self.folder.display().to_string(), "--dataplane".into(), "here".into()]
    }

    fn sidecar(&self, hosts: &str) -> Result<Sidecar<'_>> {
        let etc = self.lab.hosts(hosts)?;
        self.lab.pod.sidecar().etc(&etc).options(self.options()).start()
    }

    /// The server that answers a call to `web`.
    fn web(&self) -> std::io::Result<String> {
        let mut greeting = [0; 3];
        self.lab.pod.as_uid(APP).connect("127.0.0.1:7100")?.read_exact(&mut greeting)?;
        Ok(String::from_utf8_lossy(&greeting).into_owned())
    }
}

#[test]
fn calls_go_where_a_name_leads_and_follow_it_when_it_moves() -> Result<()> {
    let world = World::new()?;
    let sidecar = world.sidecar(&format!("{HERE}192.0.2.20 web.test\n"))?;
    assert_eq!(world.web()?, "one");
    assert_eq!((sidecar.stat("names.unresolved")?, sidecar.stat("names.changed")?), (0, 2));
    // The pod's own name: its inbound has a listener of its own, which peers reach.
    assert!(of_dump(&dump(&sidecar)?, "inbound:10.77.0.2:8080").is_some());
    let _app = world.lab.pod.as_uid(APP).serve("10.77.0.2:8080", who())?;
    assert_eq!(seen(world.lab.peer.connect("10.77.0.2:8080")?)?.ip().to_string(), "127.0.0.6");
    // It moves, and no document changes.
    world.lab.hosts(&format!("{HERE}192.0.2.30 web.test\n"))?;
    eventually!(sidecar.stat("names.changed").is_ok_and(|n| n == 3), NOTICED_WITHIN);
    eventually!(world.web().is_ok_and(|server| server == "two"), NOTICED_WITHIN);
    assert_eq!(sidecar.stat("config_reloaded")?, 0, "no document changed");
    let listed = sidecar.admin("/clusters")?.body;
    let serves = |at: &str| listed.contains(&format!("web::{at}:81::health_flags::"));
    assert!(serves("192.0.2.30") && !serves("192.0.2.20"), "{listed}");
    // Without an answer the last one stays.
    world.lab.hosts(HERE)?;
    eventually!(sidecar.stat("names.lookup_failed").is_ok_and(|n| n >= 1), NOTICED_WITHIN);
    let warned = |line: &str| (line.contains("cannot look up") && line.contains("web.test")).then_some(());
    sidecar.stderr().wait_for(SOON, warned).context("no warning")?;
    assert_eq!(world.web()?, "two");
    assert_eq!((sidecar.stat("names.changed")?, sidecar.stat("names.unresolved")?), (3, 0));
    assert_eq!(sidecar.status("/ready")?.status, 200);
    Ok(())
}

#[test]
fn a_name_without_an_address_is_no_endpoint_until_it_has_one() -> Result<()> {
    let world = World::new()?;
    let sidecar = world.sidecar(HERE)?;
    assert_eq!(sidecar.stat("names.unresolved")?, 1);
    assert!(sidecar.metrics()?.contains("\nculvert_names_unresolved 1\n"));
    let warned = |line: &str| {
        line.contains("Dataplane web: networking.address is \"web.test\", which has no address yet")
            .then_some(())
    };
    sidecar.stderr().wait_for(SOON, warned).context("no warning")?;
    assert_taken_and_reset(world.lab.pod.as_uid(APP).connect("127.0.0.1:7100"), "no endpoint");
    world.lab.hosts(&format!("{HERE}192.0.2.20 web.test\n"))?;
    eventually!(world.web().is_ok_and(|server| server == "one"), NOTICED_WITHIN);
    assert_eq!(sidecar.stat("names.unresolved")?, 0);
    Ok(())
}

#[test]
fn the_pods_own_name_is_needed_at_a_start_and_validate_asks_for_none() -> Result<()> {
    let world = World::new()?;
    let etc = world.lab.hosts("127.0.1.1 web.test\n")?;
    let mut lost = world.lab.pod.sidecar().etc(&etc).options(world.options()).start_unready()?;
    assert_eq!(lost.wait(SOON)?.code(), Some(64), "{}", lost.stderr().text());
    let said = lost.stderr().text();
    assert!(
        said.contains("(Dataplane here): networking.address: found \"here.test\", a name without an address"),
        "{said}"
    );
    let folder = world.folder.display().to_string();
    let validate = ["validate", "--dataplane", "here", &folder];
    let mut valid = world.lab.pod.sidecar().etc(&etc).options(validate).start_unready()?;
    assert_eq!(valid.wait(SOON)?.code(), Some(0), "{}", valid.stderr().text());
    let said = valid.stdout().text();
    assert!(
        said.starts_with(
            "warning: names in Dataplanes are looked up when the sidecar runs: 2, the first is here.test"
        ),
        "{said}"
    );
    // What is no name, and no address either, is told.
    fs::write(
        world.folder.join("wrong.yaml"),
        "{type: Dataplane, name: wrong, networking: {address: 10.0.0}}\n",
    )?;
    let mut wrong = world.lab.pod.sidecar().etc(&etc).options(validate).start_unready()?;
    assert_eq!(wrong.wait(SOON)?.code(), Some(64));
    let said = wrong.stderr().text();
    assert!(
        said.contains(
            "networking.address: found \"10.0.0\"; allowed: an IPv4 or IPv6 address, or the name of a host"
        ),
        "{said}"
    );
    Ok(())
}
