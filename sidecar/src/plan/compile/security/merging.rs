// SPDX-License-Identifier: Apache-2.0
//! Several permissions about one port, as Kuma merges them, and policies on trial beside those in force.

use super::tests::{HERE, STRICT, TWO, config, plan, read};
use super::*;
use crate::plan::compile::compile;
use crate::plan::tls::permissions::{Peer, Verdict};

/// A permission by `from`: its name, its pods, and callers with the action for each.
fn permission(name: &str, target: &str, from: &[(&str, &str)]) -> String {
    let item = |(caller, action): &(&str, &str)| {
        format!("{{targetRef: {{{caller}}}, default: {{action: {action}}}}}")
    };
    let from = from.iter().map(item).collect::<Vec<_>>().join(", ");
    format!(
        "{{type: MeshTrafficPermission, name: {name}, spec: {{targetRef: {{{target}}}, from: [{from}]}}}}\n---\n"
    )
}

/// The verdict about a member of a service, with these permissions.
fn verdict(service: &str, documents: &str) -> Verdict {
    let plan = plan(&format!("{STRICT}{documents}"));
    let peer = Peer { ids: [format!("spiffe://default/{service}").parse().unwrap()].into(), tags: [].into() };
    plan.mtls.unwrap().inbounds[&HERE].permissions.decide(&peer, true)
}

#[test]
fn the_last_item_that_fits_a_caller_decides_as_in_kuma() {
    use Verdict::{Allowed, Denied, ShadowDenied};
    const WIDE: &str = "kind: Mesh";
    const NARROW: &str = "kind: MeshSubset, tags: {version: '1'}";
    const ALL: &str = "kind: Mesh";
    const CLIENT: &str = "kind: MeshService, name: client";
    for (name, documents, client, other) in [
        ("allow, then deny all", permission("p", WIDE, &[(CLIENT, "Allow"), (ALL, "Deny")]), Denied, Denied),
        (
            "deny, then allow all",
            permission("p", WIDE, &[(CLIENT, "Deny"), (ALL, "Allow")]),
            Allowed,
            Allowed,
        ),
        ("deny all, then allow", permission("p", WIDE, &[(ALL, "Deny"), (CLIENT, "Allow")]), Allowed, Denied),
        ("allow all, then deny", permission("p", WIDE, &[(ALL, "Allow"), (CLIENT, "Deny")]), Denied, Allowed),
        ("twice", permission("p", WIDE, &[(CLIENT, "Deny"), (CLIENT, "Allow")]), Allowed, Denied),
        (
            "a trial at the end",
            permission("p", WIDE, &[(CLIENT, "Allow"), (ALL, "AllowWithShadowDeny")]),
            ShadowDenied,
            ShadowDenied,
        ),
        (
            "of namesakes' targets the first by name",
            permission("demo-app", WIDE, &[(ALL, "Deny")])
                + &permission("demo-app-a", WIDE, &[(CLIENT, "Allow")]),
            Denied,
            Denied,
        ),
        (
            "the same, the other way round",
            permission("demo-app-a", WIDE, &[(ALL, "Deny")])
                + &permission("demo-app", WIDE, &[(CLIENT, "Allow")]),
            Allowed,
            Denied,
        ),
        (
            "a narrow denial of all",
            permission("a", WIDE, &[(CLIENT, "Allow")]) + &permission("b", NARROW, &[(ALL, "Deny")]),
            Denied,
            Denied,
        ),
        (
            "a narrow permission of all",
            permission("a", WIDE, &[(CLIENT, "Deny")]) + &permission("b", NARROW, &[(ALL, "Allow")]),
            Allowed,
            Allowed,
        ),
        (
            "a narrow one about another caller",
            permission("a", WIDE, &[(CLIENT, "Allow")])
                + &permission("b", NARROW, &[("kind: MeshService, name: x", "Deny")]),
            Allowed,
            Denied,
        ),
    ] {
        assert_eq!((verdict("client", &documents), verdict("other", &documents)), (client, other), "{name}");
    }
}

#[test]
fn of_the_older_kind_the_most_specific_holds_alone_and_gives_way_to_the_newer() {
    use Verdict::{Allowed, Denied};
    let older = |name: &str, callers: &[&str], service: &str| {
        let callers = callers.iter().map(|caller| format!("{{match: {{kuma.io/service: '{caller}'}}}}"));
        let callers = callers.collect::<Vec<_>>().join(", ");
        format!(
            "{{type: TrafficPermission, name: {name}, sources: [{callers}], destinations: [{{match: {{kuma.io/service: '{service}'}}}}]}}\n---\n"
        )
    };
    let all = older("all", &["*"], "*");
    for (name, documents, client, other) in [
        ("everyone", all.clone(), Allowed, Allowed),
        ("two callers", older("p", &["client", "x"], "here"), Allowed, Denied),
        ("the more specific", all.clone() + &older("p", &["client"], "here"), Allowed, Denied),
        ("another service", older("p", &["client"], "there"), Allowed, Allowed),
        (
            "the newer kind",
            all + &permission("p", "kind: Mesh", &[("kind: MeshService, name: client", "Deny")]),
            Denied,
            Denied,
        ),
    ] {
        assert_eq!((verdict("client", &documents), verdict("other", &documents)), (client, other), "{name}");
    }
    let wrong = "{type: TrafficPermission, name: p, sources: [], destinations: [{match: {}}, {}]}";
    let errors = read(wrong).unwrap_err();
    let fields = [
        "sources: found an empty list",
        "destinations[0].match: found no tags",
        "destinations[1].match: found nothing",
    ];
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(fields.iter().all(|field| errors.iter().any(|error| error.contains(field))), "{errors:#?}");
}

#[test]
fn a_policy_on_trial_is_judged_beside_those_in_force() {
    let shadow = |document: String| document.replace(", spec:", ", labels: {kuma.io/effect: shadow}, spec:");
    let allow = permission("a", "kind: Mesh", &[("kind: Mesh", "Allow")]);
    let deny = permission("b", "kind: MeshSubset, tags: {version: '1'}", &[("kind: Mesh", "Deny")]);
    let of = |documents: &str| {
        let plan = plan(&format!("{STRICT}{documents}"));
        let warned = plan.warnings.iter().filter(|one| one.contains("is on trial")).count();
        (plan.mtls.unwrap().inbounds.remove(&HERE).unwrap(), warned)
    };
    let (gate, warned) = of(&format!("{allow}{}", shadow(deny.clone())));
    assert_eq!((&gate, warned), (&Gate { shadow: gate.shadow.clone(), ..of(&allow).0 }, 1));
    assert_eq!(gate.shadow.unwrap().permissions, of(&format!("{allow}{deny}")).0.permissions);
    // Alone it restricts nobody yet.
    let (gate, _) = of(&shadow(deny));
    assert!(!gate.permissions.restricted && gate.shadow.unwrap().permissions.restricted);
    let tls = "{type: MeshTLS, name: t, spec: {rules: [{default: {mode: Permissive}}]}}\n---\n".to_owned();
    let (gate, _) = of(&shadow(tls.clone()));
    assert_eq!((gate.mode, gate.shadow.unwrap().mode), (TlsMode::Strict, TlsMode::Permissive));
    // One that changes nothing has no shadow; another word is no trial.
    let same = allow.replace("name: a", "name: c");
    assert_eq!(of(&format!("{allow}{}", shadow(tls.replace("Permissive", "Strict")))).0.shadow, None);
    assert_eq!(of(&format!("{allow}{}", shadow(same).replace("shadow", "none"))).1, 0);
}

#[test]
fn ports_that_no_permission_is_about_are_told() {
    let told = |documents: &str| {
        let config = config();
        let documents = format!("{STRICT}{}{documents}", TWO);
        let plan = compile(&config, &read(&documents).unwrap()).unwrap();
        plan.warnings.into_iter().find(|one| one.starts_with("no MeshTrafficPermission is about "))
    };
    let one = permission("p", "kind: Dataplane, sectionName: api", &[("kind: Mesh", "Allow")]);
    for (documents, ports) in [("", "10.0.0.2:80, 10.0.0.2:81"), (&one, "10.0.0.2:81")] {
        let begins = format!("no MeshTrafficPermission is about {ports}: every member");
        assert!(told(documents).unwrap().starts_with(&begins), "{:?}", told(documents));
    }
    assert_eq!(told(&permission("p", "kind: Mesh", &[("kind: Mesh", "Allow")])), None);
}
