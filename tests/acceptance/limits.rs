// SPDX-License-Identifier: Apache-2.0
//! Times and limits that MeshTimeout, MeshCircuitBreaker and MeshRetry set, on real connections.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::echo;
use culvert_tests::{Family, Lab, Sidecar, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_taken_and_reset};
use crate::walkthrough::{dump, of_dump, onboarded, talks, with_documents};

/// The outbound to `web`.
const CALL: &str = "127.0.0.1:7100";

/// A pod with two inbounds that calls `web`, whose endpoints are ports of the peer.
fn documents(ports: &[u16], policies: &str) -> String {
    let inbound = |(port, name): (u16, &str)| {
        format!("{{port: {port}, name: {name}, tags: {{kuma.io/service: here}}}}")
    };
    let inbounds = [(9000, "slow"), (9001, "quick")].map(inbound).join(", ");
    let web: Vec<_> =
        ports.iter().map(|port| format!("{{port: {port}, tags: {{kuma.io/service: web}}}}")).collect();
    format!(
        "{{type: Mesh, name: default}}\n---\n{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{inbounds}], outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}\n---\n{{type: Dataplane, name: web, networking: {{address: 192.0.2.10, inbound: [{}]}}}}\n{policies}",
        web.join(", ")
    )
}

fn to_web(kind: &str, conf: &str) -> String {
    format!(
        "---\n{{type: {kind}, name: p, spec: {{to: [{{targetRef: {{kind: MeshService, name: web}}, default: {{{conf}}}}}]}}}}\n"
    )
}

/// A lab with these documents.
fn world(text: &str) -> Result<(Lab, PathBuf)> {
    let (lab, folder) = onboarded()?;
    fs::write(folder.join("mesh.yaml"), text)?;
    Ok((lab, folder))
}

fn start<'l>(lab: &'l Lab, folder: &std::path::Path) -> Result<Sidecar<'l>> {
    with_documents(lab, folder, &["--dataplane", "here"])
}

fn call(lab: &Lab) -> Result<TcpStream> {
    let stream = lab.pod.as_uid(APP).connect(CALL)?;
    talks(stream.try_clone()?)?;
    Ok(stream)
}

/// Waits until the sidecar ends a connection that says nothing.
fn is_ended(mut stream: TcpStream) -> Result<()> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => anyhow::bail!("not ended: {other:?}"),
    }
}

#[test]
fn a_mesh_timeout_ends_idle_calls_to_its_destination_and_no_other_connection() -> Result<()> {
    let (lab, folder) =
        world(&documents(&[82], &to_web("MeshTimeout", "connectionTimeout: 3s, idleTimeout: 1s")))?;
    let (_web, _other) = (lab.peer.serve("192.0.2.10:82", echo())?, lab.peer.serve("192.0.2.10:83", echo())?);
    let sidecar = start(&lab, &folder)?;
    let passing = lab.pod.as_uid(APP).connect("192.0.2.10:83")?;
    talks(passing.try_clone()?)?;
    is_ended(call(&lab)?)?;
    // Counted once the client's connection is reset.
    eventually!(sidecar.stat("cluster.web.upstream_cx_idle_timeout").is_ok_and(|n| n == 1), SOON);
    ensure!(sidecar.stat("cluster.outbound_passthrough_ipv4.upstream_cx_idle_timeout")? == 0);
    talks(passing).context("a connection that goes by its address")?;
    let dump = dump(&sidecar)?;
    let listener = of_dump(&dump, "outbound:127.0.0.1:7100").context("no listener")?;
    let filter = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    ensure!(filter["idle_timeout"] == "1s" && filter["max_connect_attempts"] == 5, "{filter}");
    ensure!(of_dump(&dump, "web").context("no cluster")?["connect_timeout"] == "3s");
    ensure!(of_dump(&dump, "localhost:9000").context("no application")?["connect_timeout"] == "10s");
    Ok(())
}

#[test]
fn a_mesh_timeout_for_one_of_two_inbounds_ends_idle_connections_of_that_one() -> Result<()> {
    let policy = "---\n{type: MeshTimeout, name: p, spec: {targetRef: {kind: Dataplane, name: here, sectionName: quick}, rules: [{default: {idleTimeout: 1s}}]}}\n";
    let (lab, folder) = world(&documents(&[82], policy))?;
    let pod = Family::V4.pod();
    let application = lab.pod.as_uid(APP);
    let (_slow, _quick) = (application.serve((pod, 9000), echo())?, application.serve((pod, 9001), echo())?);
    let sidecar = start(&lab, &folder)?;
    let (slow, quick) = (lab.peer.connect((pod, 9000))?, lab.peer.connect((pod, 9001))?);
    talks(slow.try_clone()?)?;
    talks(quick.try_clone()?)?;
    is_ended(quick)?;
    eventually!(sidecar.stat("cluster.localhost_9001.upstream_cx_idle_timeout").is_ok_and(|n| n == 1), SOON);
    ensure!(sidecar.stat("cluster.localhost_9000.upstream_cx_idle_timeout")? == 0);
    talks(slow)
}

#[test]
fn a_breaker_of_one_connection_resets_the_second() -> Result<()> {
    let limit = "connectionLimits: {maxConnections: 1}";
    let inbound =
        format!("---\n{{type: MeshCircuitBreaker, name: i, spec: {{rules: [{{default: {{{limit}}}}}]}}}}\n");
    let (lab, folder) = world(&documents(&[82], &(to_web("MeshCircuitBreaker", limit) + &inbound)))?;
    let pod = Family::V4.pod();
    let (_web, _application) =
        (lab.peer.serve("192.0.2.10:82", echo())?, lab.pod.as_uid(APP).serve((pod, 9000), echo())?);
    let sidecar = start(&lab, &folder)?;
    let first = call(&lab)?;
    assert_taken_and_reset(lab.pod.as_uid(APP).connect(CALL), "the second call");
    ensure!(sidecar.stat("cluster.web.upstream_cx_overflow")? == 1);
    drop(first);
    eventually!(call(&lab).is_ok(), SOON);
    let first = lab.peer.connect((pod, 9000))?;
    talks(first.try_clone()?)?;
    assert_taken_and_reset(lab.peer.connect((pod, 9000)), "the second caller");
    ensure!(sidecar.stat("cluster.localhost_9000.upstream_cx_overflow")? == 1);
    talks(first)
}

/// Calls whose first endpoint may refuse: of six, two begin with each of the three endpoints.
#[test]
fn a_retry_policy_says_how_many_endpoints_a_call_tries() -> Result<()> {
    for (attempts, loses) in [(1, true), (3, false)] {
        let policy = to_web("MeshRetry", &format!("tcp: {{maxConnectAttempt: {attempts}}}"));
        let (lab, folder) = world(&documents(&[82, 85, 86], &policy))?;
        let _web = lab.peer.serve("192.0.2.10:82", echo())?;
        let sidecar = start(&lab, &folder)?;
        let lost = (0..6).filter(|_| call(&lab).is_err()).count();
        let retries = sidecar.stat("cluster.web.upstream_rq_retry")?;
        ensure!((lost > 0) == loses, "{attempts} attempts: {lost} lost");
        ensure!((retries == 0) == loses, "{attempts} attempts: {retries} retries");
    }
    Ok(())
}

#[test]
fn an_endpoint_is_ejected_after_as_many_failures_as_the_policy_says_and_comes_back() -> Result<()> {
    let detection = "outlierDetection: {baseEjectionTime: 1s, detectors: {totalFailures: {consecutive: 3}}}";
    let (lab, folder) = world(&documents(&[82, 85], &to_web("MeshCircuitBreaker", detection)))?;
    let _web = lab.peer.serve("192.0.2.10:82", echo())?;
    let sidecar = start(&lab, &folder)?;
    let ejections = || sidecar.stat("cluster.web.outlier_detection.ejections_enforced_total");
    // The endpoints take turns, so every second call fails at the second one first.
    for calls in 1..=6 {
        call(&lab)?;
        ensure!(sidecar.stat("cluster.web.upstream_cx_connect_fail")? == calls / 2);
        ensure!(ejections()? == u64::from(calls == 6), "after {calls} calls");
    }
    let flags = || -> Result<bool> {
        Ok(sidecar
            .admin("/clusters")?
            .body
            .contains("web::192.0.2.10:85::health_flags::/failed_outlier_check"))
    };
    ensure!(flags()?, "{}", sidecar.admin("/clusters")?.body);
    let dump = dump(&sidecar)?;
    let cluster = of_dump(&dump, "web").context("no cluster")?;
    ensure!(cluster["outlier_detection"]["consecutive_5xx"] == 3, "{cluster}");
    ensure!(cluster["outlier_detection"]["base_ejection_time"] == "1s", "{cluster}");
    let mended = lab.peer.serve("192.0.2.10:85", echo())?;
    eventually!(call(&lab).is_ok() && mended.accepted() > 0, SOON);
    ensure!(!flags()?);
    Ok(())
}

#[test]
fn a_change_of_times_and_limits_is_for_new_connections_and_keeps_open_ones() -> Result<()> {
    let (lab, folder) = world(&documents(&[82], ""))?;
    let file = folder.join("mesh.yaml");
    let _web = lab.peer.serve("192.0.2.10:82", echo())?;
    let sidecar = start(&lab, &folder)?;
    let open = call(&lab)?;
    replace(&file, &documents(&[82], &to_web("MeshTimeout", "idleTimeout: 1s")))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    is_ended(call(&lab)?)?;
    talks(open.try_clone()?).context("it began without an idle timeout")?;
    replace(
        &file,
        &documents(&[82], &to_web("MeshCircuitBreaker", "connectionLimits: {maxConnections: 1}")),
    )?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 2), SOON);
    assert_taken_and_reset(lab.pod.as_uid(APP).connect(CALL), "the open one has the only place");
    talks(open.try_clone()?).context("it was open before the limit")?;
    drop(open);
    eventually!(call(&lab).is_ok(), SOON);
    Ok(())
}
