//! Where several policies meet, the one decides that decides in Kuma: seen by a member's and a stranger's connections.

use super::*;
use anyhow::Context;
use culvert_tests::eventually;

/// A `MeshTLS` with its labels and pods.
fn tls(name: &str, labels: &str, target: &str, mode: &str) -> String {
    format!(
        "---\n{{type: MeshTLS, name: {name}, labels: {{{labels}}}, spec: {{targetRef: {{{target}}}, rules: [{{default: {{mode: {mode}}}}}]}}}}\n"
    )
}

/// A `MeshTrafficPermission` with its labels and pods, and callers with the action for each.
fn permission(name: &str, labels: &str, target: &str, from: &[(&str, &str)]) -> String {
    let item = |(caller, action): &(&str, &str)| {
        format!("{{targetRef: {{{caller}}}, default: {{action: {action}}}}}")
    };
    let from = from.iter().map(item).collect::<Vec<_>>().join(", ");
    format!(
        "---\n{{type: MeshTrafficPermission, name: {name}, labels: {{{labels}}}, spec: {{targetRef: {{{target}}}, from: [{from}]}}}}\n"
    )
}

const ALL: &str = "kind: Mesh";
const CLIENT: &str = "kind: MeshService, name: client";
const SERVERS: &str = "kind: MeshSubset, tags: {kuma.io/service: server}";
const SHADOW: &str = "kuma.io/effect: shadow";

/// Documents beside a PERMISSIVE mesh, and who gets in: the member, and a stranger.
fn rows() -> Vec<(&'static str, String, bool, bool)> {
    let allow = |name, target| permission(name, "", target, &[(CLIENT, "Allow")]);
    let deny_all = |name, target| permission(name, "", target, &[(ALL, "Deny")]);
    vec![
        (
            "a subset before labels",
            tls("a", "", SERVERS, "Permissive")
                + &tls("b", "", "kind: Dataplane, labels: {app: server}", "Strict"),
            true,
            true,
        ),
        (
            "the workload's owner before the mesh's",
            tls("aaa", "", ALL, "Strict")
                + &tls(
                    "zzz",
                    "kuma.io/policy-role: workload-owner, k8s.kuma.io/namespace: shop",
                    ALL,
                    "Permissive",
                ),
            true,
            true,
        ),
        (
            "the zone before the global control plane",
            tls("aaa", "kuma.io/origin: global", ALL, "Strict")
                + &tls("zzz", "kuma.io/origin: zone, kuma.io/zone: zone-1", ALL, "Permissive"),
            true,
            true,
        ),
        ("another zone's", tls("a", "kuma.io/origin: zone, kuma.io/zone: zone-2", ALL, "Strict"), true, true),
        (
            "a name before labels and section",
            tls(
                "a",
                "",
                &format!("kind: Dataplane, labels: {{app: server}}, sectionName: '{WAITS}'"),
                "Strict",
            ) + &tls("b", "", "kind: Dataplane, name: server", "Permissive"),
            true,
            true,
        ),
        ("mode on trial", tls("a", SHADOW, ALL, "Strict"), true, true),
        ("denial on trial", permission("a", SHADOW, ALL, &[(ALL, "Deny")]), true, true),
        ("the last item", permission("p", "", ALL, &[(CLIENT, "Allow"), (ALL, "Deny")]), false, true),
        ("the last item allows", permission("p", "", ALL, &[(CLIENT, "Deny"), (ALL, "Allow")]), true, true),
        ("the first name", deny_all("demo-app", SERVERS) + &allow("demo-app-a", SERVERS), false, true),
        ("narrow pods", allow("a", ALL) + &deny_all("b", SERVERS), false, true),
        (
            "narrow pods allow",
            permission("a", "", ALL, &[(CLIENT, "Deny")]) + &permission("b", "", SERVERS, &[(ALL, "Allow")]),
            true,
            true,
        ),
        ("strict after all", tls("a", "", ALL, "Strict"), true, false),
    ]
}

#[test]
fn where_policies_meet_the_one_holds_that_holds_in_kuma() -> Result<()> {
    let world = World::new("PERMISSIVE", "")?;
    let (sidecar, _client, _servers) =
        (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    for (round, (name, documents, member, stranger)) in rows().into_iter().enumerate() {
        world.write("PERMISSIVE", &documents)?;
        eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == round as u64 + 1), SOON);
        let seen = |stream: io::Result<TcpStream>, lets_in: bool| match lets_in {
            true => talks(stream?),
            false => is_closed(stream),
        };
        seen(world.member(WAITS), member).with_context(|| format!("{name}: the member"))?;
        seen(world.stranger(WAITS), stranger).with_context(|| format!("{name}: the stranger"))?;
    }
    // What was on trial was counted, and nothing else was.
    assert_eq!(sidecar.stat("rbac.shadow_denied")?, 1);
    assert_eq!(sidecar.stat("listener_manager.inbound.spoken.shadow_denied")?, 1);
    // A permission that names no caller is an error, and not a closed door.
    for empty in
        ["spec: {}", "spec: {rules: []}", "spec: {from: []}", "spec: {rules: [{default: {deny: []}}]}"]
    {
        let failed = sidecar.stat("config_reload_failed")?;
        world.write("PERMISSIVE", &format!("---\n{{type: MeshTrafficPermission, name: p, {empty}}}\n"))?;
        eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n == failed + 1), SOON);
        talks(world.member(WAITS)?).context(empty)?;
    }
    Ok(())
}
