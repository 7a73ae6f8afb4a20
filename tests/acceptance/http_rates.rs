//! Rates of requests by their callers: RateLimit, and a MeshRateLimit on trial.

use std::fs;
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use culvert_tests::Sidecar;
use culvert_tests::server::http;

use crate::http_ports::{GET, Way, World};
use crate::http_rules::ask;

/// Callers that a Dataplane says to be `friend`, `other`, and one that none does.
const FRIEND: &str = "192.0.2.11";
const OTHER: &str = "192.0.2.12";
const STRANGER: &str = "192.0.2.13";

fn member(name: &str, address: &str) -> String {
    format!(
        "{{type: Dataplane, name: {name}, networking: {{address: {address}, inbound: [{{port: 1, tags: {{kuma.io/service: {name}}}}}]}}}}\n---\n"
    )
}

/// A World whose peer has all these addresses, with a policy more.
fn with(policy: &str) -> Result<World> {
    let world = World::new()?;
    world.lab.peer.add_local_route("192.0.2.0/24")?;
    let callers = member("friend", FRIEND) + &member("other", OTHER);
    fs::write(world.folder.join("policy.yaml"), callers + policy)?;
    Ok(world)
}

fn connect(world: &World, from: &str) -> Result<TcpStream> {
    let client = world.client(Way::Inbound).from(from);
    client.connect(Way::Inbound.called(world.family)).with_context(|| format!("from {from}"))
}

/// Asks on a connection of its own, and returns the status, and the answer's head.
fn request(world: &World, from: &str) -> Result<(u16, String)> {
    let (status, head, _) = ask(&mut connect(world, from)?, GET)?;
    Ok((status, head))
}

fn stat(sidecar: &Sidecar<'_>, name: &str) -> Result<u64> {
    sidecar.stat(&format!("rate_limit.http_local_rate_limit.{name}"))
}

#[test]
fn each_caller_has_the_rate_of_its_own_source() -> Result<()> {
    let world = with(
        "{type: RateLimit, name: friends, sources: [{match: {kuma.io/service: friend}}], destinations: [{match: {kuma.io/service: here}}],
  conf: {http: {requests: 2, interval: 1h, onRateLimit: {status: 423, headers: [{key: x-limited, value: 'yes'}]}}}}
---
{type: RateLimit, name: others, sources: [{match: {kuma.io/service: other}}], destinations: [{match: {kuma.io/service: '*'}}],
  conf: {http: {requests: 3, interval: 1h}}}
---
{type: MeshRateLimit, name: newer, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 1, interval: 1h}},
  tcp: {connectionRate: {num: 1, interval: 1h}}}}}]}}
",
    )?;
    let sidecar = world.sidecar(&[])?;
    let _server = world.serve(Way::Inbound, http("well"))?;
    // In turns, so that neither has the other's tokens; and as often as the newer policy would not let them.
    for (from, expected) in [
        (FRIEND, 200),
        (OTHER, 200),
        (STRANGER, 200),
        (FRIEND, 200),
        (OTHER, 200),
        (FRIEND, 423),
        (OTHER, 200),
        (OTHER, 429),
        (FRIEND, 423),
        (STRANGER, 200),
        (STRANGER, 200),
        (STRANGER, 200),
    ] {
        let (status, head) = request(&world, from)?;
        ensure!(status == expected, "{from}: {head}, not {expected}");
        ensure!(head.contains("\r\nx-limited: yes\r\n") == (status == 423), "{from}: {head}");
    }
    // On one connection it is the same bucket, and a header makes no other caller of it.
    let mut friend = connect(&world, FRIEND)?;
    for _ in 0..2 {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nx-kuma-tags: &kuma.io/service=stranger&\r\n\r\n";
        let (status, head, body) = ask(&mut friend, request)?;
        ensure!(status == 423 && body == b"local_rate_limited", "{head}");
    }
    assert_eq!(stat(&sidecar, "ok")?, 5, "a stranger counts for no rate");
    assert_eq!(stat(&sidecar, "rate_limited")?, 5);
    Ok(())
}

#[test]
fn requests_above_a_rate_on_trial_are_counted_and_answered_by_the_server() -> Result<()> {
    let world = with(
        "{type: MeshRateLimit, name: wide, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 5, interval: 1h}}}}}]}}
---
{type: MeshRateLimit, name: early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here},
  from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 2, interval: 1h}}}}}]}}
",
    )?;
    let sidecar = world.sidecar(&[])?;
    let _server = world.serve(Way::Inbound, http("well"))?;
    for expected in [200, 200, 200, 200, 200, 429, 429] {
        let (status, head) = request(&world, FRIEND)?;
        ensure!(status == expected, "{head}");
    }
    // The last two are refused anyway.
    assert_eq!(sidecar.stat("local_rate_limit.http_rate_limit.shadow_rate_limited")?, 3);
    let metrics = sidecar.metrics()?;
    ensure!(metrics.contains("culvert_http_rate_shadow_limited_total 3\n"), "{metrics}");
    Ok(())
}
