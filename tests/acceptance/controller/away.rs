// SPDX-License-Identifier: Apache-2.0
//! Pods that start while no controller answers.

use std::fs;

use anyhow::{Context, Result, ensure};
use culvert_tests::eventually;
use culvert_tests::server::speaks_first;
use culvert_tests::tls::authority::{Authority, Wish};
use culvert_tests::tls::{Client, MESH};
use rustix::process::Signal;
use serde_json::json;

use super::SOON;
use super::traffic::{ONE, OUTSIDE, SERVICE, World, said, strict};

/// STRICT, with the mounted Mesh document and an identity that came with the pod.
#[test]
fn a_pod_is_ready_and_strict_by_what_came_with_it() -> Result<()> {
    let mut world = World::without_servers(strict())?;
    let authority = Authority::new("the user's")?;
    world.signs(&authority);
    world.member(ONE, &authority, "db", "1")?;
    world.servers.push(world.lab.peer.serve(OUTSIDE, speaks_first("o"))?);
    let mut controller = world.controller()?;
    let map = world.cluster.map("shop").context("no ConfigMap")?;
    fs::write(world.folder.join("mesh.yaml"), map["data"]["mesh.yaml"].as_str().context("no mesh.yaml")?)?;
    controller.process.signal(Signal::KILL)?;
    controller.process.wait(SOON)?;
    let own =
        authority.issue(&Wish { uris: &["spiffe://cluster.local/ns/shop/sa/web"], ..Wish::default() })?;
    let identity = world.folder.join("identity");
    own.write(&identity)?;
    let options = [
        format!("--resources={}", world.folder.join("mesh.yaml").display()),
        format!("--identity={}", identity.display()),
    ];
    // Started is ready: its start waits for that.
    let sidecar = world.sidecar_with(&options)?;
    let _app = world.lab.pod.serve("10.77.0.2:8080", speaks_first("a"))?;
    let mut outsider = world.lab.peer.connect("10.77.0.2:8080").context("no connection")?;
    assert_eq!(said(&mut outsider), None);
    let of_db =
        authority.issue(&Wish { uris: &["spiffe://cluster.local/ns/shop/sa/db"], ..Wish::default() })?;
    let member = Client::new(&[MESH], Some(&of_db))?;
    let called = || -> Result<bool> {
        let mut stream = member.over(world.lab.peer.connect("10.77.0.2:8080")?)?;
        let mut name = [0];
        std::io::Read::read_exact(&mut stream, &mut name)?;
        Ok(name == *b"a")
    };
    ensure!(called()?, "{}", sidecar.stderr().text());
    // Nobody can say who stands at an address: STRICT sends nothing there.
    assert_eq!(world.call(OUTSIDE), None);
    assert_eq!(world.call(SERVICE), None);
    // It comes back, and all is right.
    let _again = world.controller()?;
    eventually!(world.call(SERVICE) == Some('1') && world.call(OUTSIDE) == Some('o'), SOON);
    ensure!(called()?, "{}", sidecar.stderr().text());
    Ok(())
}

/// Without the Mesh document nobody knows what the mesh lets in.
#[test]
fn a_pod_without_a_mesh_document_is_not_ready_until_it_is_told() -> Result<()> {
    let world = World::without_servers(json!({}))?;
    let mut controller = world.controller()?;
    controller.process.signal(Signal::KILL)?;
    controller.process.wait(SOON)?;
    let sidecar = world.sidecar_unready(&[])?;
    let _app = world.lab.pod.serve("10.77.0.2:8080", speaks_first("a"))?;
    let ready = || sidecar.status("/ready").is_ok_and(|page| page.status == 200);
    // Its ports are open before it is ready, and refuse everybody.
    let outsider = || said(&mut world.lab.peer.connect("10.77.0.2:8080").ok()?);
    eventually!(sidecar.status("/ready").is_ok_and(|page| page.body.contains("Mesh")), SOON);
    assert_eq!(outsider(), None);
    assert!(!ready());
    let _again = world.controller()?;
    eventually!(ready(), SOON);
    assert_eq!(outsider(), Some('a'));
    Ok(())
}
