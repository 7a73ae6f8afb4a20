// SPDX-License-Identifier: Apache-2.0
//! Policies on trial (`kuma.io/effect: shadow`): counted on real connections, and not in force.

use std::fs;

use anyhow::{Result, ensure};
use culvert_tests::server::echo;
use culvert_tests::{Family, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_taken_and_reset};
use crate::walkthrough::{onboarded, talks, with_documents};

/// The outbound to `web`.
const CALL: &str = "127.0.0.1:7100";
const OUTSIDE: &str = "192.0.2.20:80";

const RATE: &str = "local_rate_limit.tcp_rate_limit.shadow_rate_limited";
const LIMIT: &str = "circuit_breakers.shadow_overflow";
const ROUTE: &str = "tcp_route.shadow_changed";
const DENIED: &str = "passthrough.shadow_denied";
const LET_OUT: &str = "passthrough.shadow_allowed";

/// The pod `here`, which `db` and `web` are called by, with a way out as the mode of a MeshPassthrough says.
fn documents(effect: &str, mode: &str, on_trial: &str) -> String {
    let labels = format!("labels: {{kuma.io/effect: {effect}}}, ");
    let pod = |name: &str, port: u16| {
        format!(
            "---\n{{type: Dataplane, name: {name}, networking: {{address: 192.0.2.10, inbound: [{{port: {port}, tags: {{kuma.io/service: {name}}}}}]}}}}\n"
        )
    };
    format!(
        "{{type: Mesh, name: default}}
---
{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}],
  outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}
{}{}---
{{type: MeshRateLimit, name: rate, {labels}spec: {{rules: [{{default: {{local: {{tcp: {{connectionRate: {{num: 1, interval: 1h}}}}}}}}}}]}}}}
---
{{type: MeshCircuitBreaker, name: limit, {labels}spec: {{to: [{{targetRef: {{kind: MeshService, name: web}}, default: {{connectionLimits: {{maxConnections: 1}}}}}}]}}}}
---
{{type: MeshTCPRoute, name: route, {labels}spec: {{to: [{{targetRef: {{kind: MeshService, name: web}}, rules: [{{default: {{backendRefs: [
  {{kind: MeshService, name: web}}, {{kind: MeshService, name: db}}]}}}}]}}]}}}}
---
{{type: MeshPassthrough, name: out, spec: {{default: {{passthroughMode: {mode}}}}}}}
---
{{type: MeshPassthrough, name: early, {labels}spec: {{default: {{passthroughMode: {on_trial}}}}}}}
",
        pod("web", 82),
        pod("db", 83),
    )
}

#[test]
fn what_policies_on_trial_would_do_is_counted_and_not_done() -> Result<()> {
    let (lab, folder) = onboarded()?;
    lab.peer.add_local_route("192.0.2.0/24")?;
    let file = folder.join("mesh.yaml");
    fs::write(&file, documents("shadow", "All", "None"))?;
    let pod = Family::V4.pod();
    let _application = lab.pod.as_uid(APP).serve((pod, 9000), echo())?;
    let _web = lab.peer.serve("192.0.2.10:82", echo())?;
    let _outside = lab.peer.serve(OUTSIDE, echo())?;
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "here"])?;
    for _ in 0..3 {
        talks(lab.peer.connect((pod, 9000))?)?;
    }
    let open: Vec<_> = (0..3).map(|_| lab.pod.as_uid(APP).connect(CALL)).collect::<Result<_, _>>()?;
    open.iter().try_for_each(|one| talks(one.try_clone()?))?;
    talks(lab.pod.as_uid(APP).connect(OUTSIDE)?)?;
    for (stat, count) in [(RATE, 2), (LIMIT, 2), (ROUTE, 3), (DENIED, 1), (LET_OUT, 0)] {
        eventually!(sidecar.stat(stat).is_ok_and(|n| n == count), SOON);
    }
    let metrics = sidecar.metrics()?;
    for series in [
        "culvert_rate_shadow_limited_total 2\n",
        "culvert_connection_shadow_overflow_total 2\n",
        "culvert_route_shadow_changed_total 3\n",
        "culvert_passthrough_shadow_denied_total 1\n",
    ] {
        ensure!(metrics.contains(series), "{series}: {metrics}");
    }
    drop(open);

    // The other way about: a closed mesh with a policy on trial that opens it.
    replace(&file, &documents("shadow", "None", "All"))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    assert_taken_and_reset(lab.pod.as_uid(APP).connect(OUTSIDE), "the mesh is closed");
    eventually!(sidecar.stat(LET_OUT).is_ok_and(|n| n == 1), SOON);
    ensure!(sidecar.stat(DENIED)? == 1, "nothing more");
    Ok(())
}
