//! `inspect` and the admin's page of that name: which document decides what, and what lost.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Lab, Sidecar, eventually};
use serde_json::Value;

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::walkthrough::{dump, of_dump, onboarded, with_documents};

const WIDE: &str = "{type: MeshTimeout, name: wide, spec: {to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 20m, connectionTimeout: 7s}}]}}\n";

/// A pod with mTLS, an inbound and an outbound, and policies about it.
fn world() -> Result<(Lab, PathBuf)> {
    let (lab, folder) = onboarded()?;
    let text = format!(
        "{{type: Mesh, name: default, mtls: {{enabledBackend: ca, backends: [{{name: ca, mode: PERMISSIVE}}]}}}}
---
{{type: Dataplane, name: here, labels: {{app: here}}, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 8080, tags: {{kuma.io/service: here}}}}],
  outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}
---
{{type: Dataplane, name: web, networking: {{address: 192.0.2.10, inbound: [{{port: 82, tags: {{kuma.io/service: web}}}}]}}}}
---
{{type: MeshTrafficPermission, name: shop, spec: {{rules: [{{default: {{allow: [{{spiffeID: {{type: Exact, value: 'spiffe://default/shop'}}}}]}}}}]}}}}
---
{{type: MeshPassthrough, name: out, spec: {{default: {{appendMatch: [{{type: IP, value: 192.0.2.20}}]}}}}}}
---
{{type: MeshProxyPatch, name: patch, spec: {{default: {{appendModifications: [
  {{cluster: {{operation: Patch, match: {{name: web}}, jsonPatches: [{{op: replace, path: /connectTimeout, value: 3s}}]}}}}]}}}}}}
---
{{type: MeshTimeout, name: tried, labels: {{kuma.io/effect: shadow}}, spec: {{to: [{{targetRef: {{kind: MeshService, name: web}}, default: {{idleTimeout: 5m}}}}]}}}}
"
    );
    fs::write(folder.join("mesh.yaml"), text)?;
    fs::write(folder.join("wide.yaml"), WIDE)?;
    Ok((lab, folder))
}

fn start<'l>(lab: &'l Lab, folder: &std::path::Path) -> Result<Sidecar<'l>> {
    // The mesh's mTLS waits for an identity, and inspects without one.
    let folder = folder.display().to_string();
    let sidecar = lab.pod.sidecar().options(["--resources", &folder, "--dataplane", "here"]);
    let sidecar = sidecar.start_unready()?;
    eventually!(sidecar.admin("/help").is_ok(), SOON);
    Ok(sidecar)
}

/// What the command says.
fn command(lab: &Lab, folder: &std::path::Path, more: &[&str]) -> Result<String> {
    let folder = folder.display().to_string();
    let command =
        lab.pod.sidecar().options(["--dataplane", "here", "inspect"]).options(more).options([&folder]);
    let mut command = command.start_unready()?;
    ensure!(command.wait(SOON)?.code() == Some(0), "{}", command.stderr().text());
    Ok(command.stdout().text())
}

#[test]
fn the_admins_page_says_the_same_as_the_command_and_follows_the_documents() -> Result<()> {
    let (lab, folder) = world()?;
    let sidecar = start(&lab, &folder)?;
    let said = command(&lab, &folder, &[])?;
    ensure!(sidecar.admin("/inspect")?.body.trim_end() == said.trim_end(), "{said}");
    for part in [
        "\nlistener outbound:127.0.0.1:7100\n",
        "MeshTimeout wide (",
        "MeshProxyPatch patch (",
        "MeshPassthrough out (",
        "\non trial (kuma.io/effect: shadow), not in force\n",
        "listener outbound:127.0.0.1:7100, idle timeout: is 1200s by MeshTimeout wide",
        "would be 300s by MeshTimeout tried",
    ] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    let caller = "spiffe://default/shop";
    let said = command(&lab, &folder, &["--caller", caller])?;
    ensure!(
        sidecar.admin(&format!("/inspect?caller={caller}"))?.body.trim_end() == said.trim_end(),
        "{said}"
    );
    ensure!(said.contains("  spiffe://default/shop: may call, by 1\n"), "{said}");

    // What it says is what is in force.
    let page: Value = serde_json::from_str(&sidecar.admin("/inspect?format=json")?.body)?;
    let timeout = |page: &Value| {
        let all = page["decisions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["subject"] == "cluster web" && one["field"] == "connect timeout")
    };
    let decision = timeout(&page).context("no decision")?;
    ensure!(decision["value"] == "3s" && decision["lost"][0]["value"] == "7s", "{decision}");
    let cluster = of_dump(&dump(&sidecar)?, "web").context("no cluster")?;
    ensure!(cluster["connect_timeout"] == "3s", "{cluster}");

    // A change is on the page at once, with a note until it is in force.
    replace(&folder.join("wide.yaml"), &WIDE.replace("20m", "25m"))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|reloads| reloads == 1), SOON);
    let page = sidecar.admin("/inspect")?.body;
    let is_there = page.lines().any(|line| line.contains(" 1500s ") && line.contains("  MeshTimeout wide"));
    ensure!(is_there && !page.contains("not in force yet"), "{page}");

    replace(&folder.join("wide.yaml"), "{type: MeshTimeout, name: wide, spec: {}}\n")?;
    eventually!(sidecar.stat("config_reload_failed").is_ok_and(|failed| failed == 1), SOON);
    let answer = sidecar.admin("/inspect")?;
    ensure!(answer.status == 409 && answer.body.contains("MeshTimeout wide"), "{answer:?}");
    for wrong in ["/inspect?caller=web", "/inspect?format=xml", "/inspect?filter=x"] {
        ensure!(sidecar.admin(wrong)?.status == 400, "{wrong}");
    }
    ensure!(sidecar.admin_post("/inspect")?.status == 405);
    Ok(())
}

#[test]
fn without_documents_the_page_names_options_and_defaults() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let sidecar = with_documents(&lab, &folder, &["--idle-timeout", "5m"])?;
    let page = sidecar.admin("/inspect")?.body;
    for part in
        ["mesh \"default\", any pod\n", "outbound:passthrough:ipv4\n", "  300s", "--idle-timeout", "default"]
    {
        ensure!(page.contains(part), "{part}: {page}");
    }
    let overview = sidecar.admin("/")?.body;
    ensure!(overview.contains("href=\"/inspect\""), "no link on the page for people");
    Ok(())
}

/// Policies of the kinds that choose, check and limit, in force and on trial.
const KINDS: &str = "
{type: MeshLoadBalancingStrategy, name: choice, spec: {to: [{targetRef: {kind: Mesh}, default: {loadBalancer: {type: LeastRequest}}}]}}
---
{type: MeshHealthCheck, name: checks, spec: {to: [{targetRef: {kind: Mesh}, default: {interval: 7s, tcp: {}}}]}}
---
{type: MeshRateLimit, name: rate, spec: {rules: [{default: {local: {tcp: {connectionRate: {num: 9, interval: 10s}}}}}]}}
---
{type: MeshMetric, name: metrics, spec: {default: {backends: [{type: Prometheus, prometheus: {port: 5671}}]}}}
---
{type: MeshLoadBalancingStrategy, name: choice-early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, to: [{targetRef: {kind: Mesh}, default: {loadBalancer: {type: Random}}}]}}
---
{type: MeshHealthCheck, name: checks-early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, to: [{targetRef: {kind: Mesh}, default: {tcp: {disabled: true}}}]}}
---
{type: MeshRateLimit, name: rate-early, labels: {kuma.io/effect: shadow}, spec: {targetRef: {kind: Dataplane, name: here}, rules: [{default: {local: {tcp: {connectionRate: {num: 2, interval: 10s}}}}}]}}
";

#[test]
fn each_kind_that_decides_is_shown_with_its_value_and_on_trial() -> Result<()> {
    let (lab, folder) = world()?;
    fs::write(folder.join("kinds.yaml"), KINDS)?;
    let sidecar = start(&lab, &folder)?;
    let said = command(&lab, &folder, &["--caller", "spiffe://other/shop"])?;
    ensure!(
        sidecar.admin("/inspect?caller=spiffe://other/shop")?.body.trim_end() == said.trim_end(),
        "{said}"
    );
    let line = |words: &[&str]| said.lines().any(|line| words.iter().all(|word| line.contains(word)));
    for words in [
        &["  load balancing ", "LeastRequest ", "MeshLoadBalancingStrategy choice ("][..],
        &["  check interval ", "7s ", "MeshHealthCheck checks ("],
        &["  rate of connections ", "9 in 10s ", "MeshRateLimit rate ("],
        &["  ports ", "5671/metrics ", "MeshMetric metrics ("],
        &[
            "cluster web, load balancing: is LeastRequest",
            "would be Random by MeshLoadBalancingStrategy choice-early (",
        ],
        &["cluster web, active check: is by TCP", "would be none by MeshHealthCheck checks-early ("],
        &[
            "listener inbound:10.77.0.2:8080, rate of connections: is 9 in 10s",
            "would be 2 in 10s by MeshRateLimit rate-early (",
        ],
        &[
            "spiffe://other/shop: is refused, by TLS: it is of the trust domain other, and this pod believes default",
        ],
    ] {
        ensure!(line(words), "{words:?}: {said}");
    }
    ensure!(said.contains("\nport 5671, of metrics\n"), "{said}");
    Ok(())
}
