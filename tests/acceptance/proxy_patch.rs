//! MeshProxyPatch: clusters and filters that are changed, on real connections.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::server::echo;
use culvert_tests::{Lab, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_taken_and_reset};
use crate::walkthrough::{dump, of_dump, onboarded, talks, with_documents};

/// The outbound to `web`.
const CALL: &str = "127.0.0.1:7100";

/// A policy of these changes.
fn policy(name: &str, target: &str, changes: &[&str]) -> String {
    format!(
        "---\n{{type: MeshProxyPatch, name: {name}, spec: {{targetRef: {{{target}}}, default: {{appendModifications: [{}]}}}}}}\n",
        changes.join(", ")
    )
}

/// A pod that calls `web` at the peer.
fn world() -> Result<(Lab, PathBuf)> {
    let (lab, folder) = onboarded()?;
    lab.peer.add_local_route("192.0.2.0/24")?;
    let text = format!(
        "{{type: Dataplane, name: here, labels: {{app: here}}, networking: {{address: 10.77.0.2, {TRANSPARENT}, outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}
---
{{type: Dataplane, name: web, networking: {{address: 192.0.2.10, inbound: [{{port: 82, tags: {{kuma.io/service: web}}}}]}}}}
"
    );
    fs::write(folder.join("pods.yaml"), text)?;
    Ok((lab, folder))
}

/// Waits until the sidecar ends a connection that says nothing.
fn is_ended(mut stream: TcpStream) -> Result<()> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("not ended: {other:?}"),
    }
}

#[test]
fn the_most_specific_patch_decides_the_numbers_of_a_cluster_and_its_listener() -> Result<()> {
    const FILTER: &str = "name: envoy.filters.network.tcp_proxy";
    let (lab, folder) = world()?;
    let wide = policy(
        "wide",
        "kind: Mesh",
        &[
            "{cluster: {operation: Patch, match: {name: web}, value: 'circuit_breakers: {thresholds: [{max_connections: 9, max_retries: 4}]}'}}",
            &format!(
                "{{networkFilter: {{operation: Patch, match: {{{FILTER}, listenerTags: {{kuma.io/service: web}}}}, value: 'typed_config: {{idle_timeout: 1h}}'}}}}"
            ),
        ],
    );
    let narrow = policy(
        "narrow",
        "kind: Dataplane, labels: {app: here}",
        &[
            "{cluster: {operation: Patch, match: {name: web, origin: outbound}, jsonPatches: [{op: replace, path: /circuitBreakers/thresholds/0/maxConnections, value: 1}]}}",
            &format!(
                "{{networkFilter: {{operation: Patch, match: {{{FILTER}, listenerName: 'outbound:{CALL}'}}, jsonPatches: [{{op: replace, path: /idleTimeout, value: 1s}}]}}}}"
            ),
        ],
    );
    fs::write(folder.join("patches.yaml"), format!("{narrow}{wide}"))?;
    let _web = lab.peer.serve("192.0.2.10:82", echo())?;
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "here"])?;
    let cluster = of_dump(&dump(&sidecar)?, "web").context("no cluster")?;
    let limits = &cluster["circuit_breakers"]["thresholds"][0];
    ensure!(limits["max_connections"] == 1 && limits["max_retries"] == 4, "{cluster}");
    let first = lab.pod.as_uid(APP).connect(CALL)?;
    talks(first.try_clone()?)?;
    assert_taken_and_reset(lab.pod.as_uid(APP).connect(CALL), "a second connection");
    ensure!(sidecar.stat("cluster.web.upstream_cx_overflow")? == 1);
    is_ended(first).context("the first one is idle")?;
    // Counted once the client's connection is reset.
    eventually!(sidecar.stat("cluster.web.upstream_cx_idle_timeout").is_ok_and(|n| n == 1), SOON);
    Ok(())
}

#[test]
fn a_cluster_that_is_taken_out_refuses_its_calls_and_its_way_back_is_told() -> Result<()> {
    let (lab, folder) = world()?;
    let _servers = [lab.peer.serve("192.0.2.10:82", echo())?, lab.peer.serve("192.0.2.20:80", echo())?];
    let passing = || lab.pod.as_uid(APP).connect("192.0.2.20:80");
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "here"])?;
    talks(passing()?)?;
    let open = passing()?;
    let remove =
        policy("out", "kind: Mesh", &["{cluster: {operation: Remove, match: {origin: transparent}}}"]);
    replace(&folder.join("patches.yaml"), &remove)?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|reloads| reloads == 1), SOON);
    assert_taken_and_reset(passing(), "a call by its address");
    talks(open).context("an open connection keeps its way")?;
    talks(lab.pod.as_uid(APP).connect(CALL)?).context("a call to a service")?;
    eventually!(sidecar.stat("listener_manager.outbound.closed.denied").is_ok_and(|n| n == 1), SOON);
    replace(
        &folder.join("patches.yaml"),
        &policy(
            "out",
            "kind: Mesh",
            &["{cluster: {operation: Patch, match: {name: web}, value: 'connect_timeout: 2s'}}"],
        ),
    )?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|reloads| reloads == 2), SOON);
    talks(passing()?)?;
    ensure!(sidecar.stat("config_reload_opened")? == 1, "{}", sidecar.stderr().text());
    Ok(())
}
