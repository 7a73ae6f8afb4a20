// SPDX-License-Identifier: Apache-2.0
//! A MeshMetric's port in a mesh with mTLS: it is an inbound as any other.

use std::net::TcpStream;

use anyhow::{Result, ensure};
use culvert_tests::{eventually, http};

use super::{SERVER, SOON, World, is_closed, reasons};
use crate::support::APP;

const PORT: u16 = 5670;
const POLICY: &str = "---\n{type: MeshMetric, name: metrics, spec: {default: {backends: [{type: Prometheus, prometheus: {}}]}}}\n";

fn permission(action: &str) -> String {
    format!(
        "---\n{{type: MeshTrafficPermission, name: scrapers, spec: {{from: [{{targetRef: {{kind: MeshService, name: client}}, default: {{action: {action}}}}}]}}}}\n"
    )
}

/// The first line of our metrics' types, if it is metrics.
fn scrape(stream: TcpStream) -> Result<()> {
    let answer = http::get(stream, "/metrics")?;
    ensure!(answer.status == 200 && answer.body.contains("# TYPE culvert_ready gauge"), "{answer:?}");
    Ok(())
}

#[test]
fn strict_lets_a_member_with_permission_scrape_and_no_one_else() -> Result<()> {
    let world = World::new("STRICT", &format!("{POLICY}{}", permission("Allow")))?;
    let (sidecar, _client) = (world.server_sidecar(&[])?, world.client_sidecar()?);
    scrape(world.member(PORT)?)?;
    eventually!(reasons(&sidecar, PORT) == ["ok"], SOON);
    is_closed(world.stranger(PORT))?;
    eventually!(reasons(&sidecar, PORT).last().is_some_and(|reason| reason == "plaintext"), SOON);
    // A program of the pod itself is inside already.
    scrape(world.lab.pod.as_uid(APP).connect((SERVER, PORT))?)?;
    // The status port is open to all, and has nothing of applications.
    let status = http::get(world.stranger(15020)?, "/metrics")?;
    ensure!(status.status == 200 && status.body.contains("culvert_ready"), "{status:?}");
    world.write("STRICT", &format!("{POLICY}{}", permission("Deny")))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    is_closed(world.member(PORT))?;
    eventually!(reasons(&sidecar, PORT).last().is_some_and(|reason| reason == "forbidden"), SOON);
    Ok(())
}

#[test]
fn permissive_lets_both_scrape() -> Result<()> {
    let world = World::new("PERMISSIVE", POLICY)?;
    let (sidecar, _client) = (world.server_sidecar(&[])?, world.client_sidecar()?);
    scrape(world.member(PORT)?)?;
    scrape(world.stranger(PORT)?)?;
    ensure!(sidecar.stat("listener_manager.inbound.spoken.mesh_tls.downstream_cx_total")? == 1);
    ensure!(sidecar.stat("listener_manager.inbound.spoken.plain.downstream_cx_total")? == 1);
    Ok(())
}

#[test]
fn a_port_that_is_kept_out_of_the_redirect_still_refuses_strangers_under_strict() -> Result<()> {
    let world = World::new("STRICT", POLICY)?;
    world.lab.add(&[("exclude-inbound-ports", "5670")])?.expect_success();
    let sidecar = world.server_sidecar(&[])?;
    let answer = http::get(world.stranger(PORT)?, "/metrics")?;
    ensure!(answer.status == 403 && answer.body.contains("mTLS is STRICT"), "{answer:?}");
    ensure!(sidecar.stat("mesh_metric.refused")? == 1);
    Ok(())
}
