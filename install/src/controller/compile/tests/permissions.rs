// SPDX-License-Identifier: Apache-2.0
//! Permissions by tags as permissions by account, and the words about those that cannot hold as they were written.

use super::*;
use crate::controller::compile::{Reach, reach};

fn everyone() -> Value {
    json!({ "spiffeID": { "type": "Prefix", "value": "spiffe://cluster.local/" } })
}

fn from(rows: &[(&str, &str)]) -> Value {
    let target = |app: &str| match app {
        "*" => json!({ "kind": "Mesh" }),
        app => json!({ "kind": "MeshSubset", "tags": { "app": app } }),
    };
    let items =
        rows.iter().map(|(app, action)| json!({ "targetRef": target(app), "default": { "action": action } }));
    json!({ "from": items.collect::<Vec<_>>() })
}

/// A TrafficPermission by the label `app` of callers, to pods with a label `app`.
fn older(world: &mut World, name: &str, callers: &[&str], called: &str) {
    let tags = |app: &str| match app {
        "*" => json!({ "match": { "kuma.io/service": "*" } }),
        app => json!({ "match": { "app": app } }),
    };
    let sources: Vec<Value> = callers.iter().map(|app| tags(app)).collect();
    put_document(
        world,
        "TrafficPermission",
        name,
        json!({ "sources": sources, "destinations": [tags(called)] }),
    );
}

#[test]
fn the_older_kind_is_sent_by_account_and_the_most_specific_holds_alone() {
    for (name, permissions, expected) in [
        ("everyone", &[("all", &["*"][..], "*")][..], json!({ "allow": [everyone()] })),
        ("one account", &[("p", &["web"], "db")], json!({ "allow": [exact("web")] })),
        ("a part of an account", &[("p", &["cron"], "db")], none()),
        (
            "all parts of an account, by several sources",
            &[("p", &["cron", "report", "web"], "db")],
            json!({ "allow": [exact("batch"), exact("web")] }),
        ),
        (
            "the more specific holds alone",
            &[("all", &["*"], "*"), ("p", &["web"], "db")],
            json!({ "allow": [exact("web")] }),
        ),
        ("nobody has the tags", &[("p", &["x"], "db")], none()),
    ] {
        let mut world = world();
        for (name, callers, called) in permissions {
            older(&mut world, name, callers, called);
        }
        assert_eq!(lists(&world, "db"), expected, "{name}");
        let sent = sent(&world, "db");
        assert!(!sent.iter().any(|one| one.starts_with("TrafficPermission/")), "{name}: {sent:?}");
    }
    // Of a service that it is not about, nothing is sent.
    let mut world = world();
    older(&mut world, "p", &["web"], "db");
    assert_eq!(sent(&world, "web"), ["Dataplane/shop/web"]);
}

/// Names of the documents about a pod.
fn sent(world: &World, pod: &str) -> Vec<String> {
    about(world, pod).into_iter().map(|one| one.name).collect()
}

#[test]
fn the_newer_kind_replaces_the_older_one_and_an_identity_passes_it_over() {
    let mut world = world();
    older(&mut world, "all", &["*"], "*");
    put_document(&mut world, "MeshTrafficPermission", "p", from(&[("web", "Allow")]));
    assert_eq!(lists(&world, "db"), json!({ "allow": [exact("web")] }));
    let mut world = super::world();
    older(&mut world, "all", &["*"], "*");
    let rules = json!({ "rules": [{ "default": { "allow": [exact("web")] } }] });
    put_document(&mut world, "MeshTrafficPermission", "p", rules);
    assert_eq!(sent(&world, "db"), ["MeshTrafficPermission/shop/p", "Dataplane/shop/db"]);
    // Sidecars with a MeshIdentity know no older kind. By accounts it would open them.
    let provider = json!({ "type": "Bundled", "bundled": { "autogenerate": { "enabled": true } } });
    for (spec, is_passed_over) in [
        (json!({ "selector": { "dataplane": { "matchLabels": {} } }, "provider": provider }), true),
        (
            json!({ "selector": { "dataplane": { "matchLabels": { "app": "web" } } }, "provider": provider }),
            false,
        ),
        (json!({ "selector": { "dataplane": { "matchLabels": {} } } }), false),
    ] {
        let mut world = super::world();
        older(&mut world, "all", &["*"], "*");
        put_document(&mut world, "MeshIdentity", "identity", spec.clone());
        let by_accounts = sent(&world, "db").iter().any(|one| one == "MeshTrafficPermission/culvert-callers");
        assert_eq!(by_accounts, !is_passed_over, "{spec}");
    }
}

#[test]
fn a_denial_by_tags_holds_against_a_permission_by_identity() {
    let allow = json!({ "rules": [{ "default": { "allow": [everyone()] } }] });
    for (name, items, expected) in [
        ("one", from(&[("web", "Deny")]), json!({ "deny": [exact("web")] })),
        ("a part of an account", from(&[("cron", "Deny")]), json!({ "deny": [exact("batch")] })),
        ("everyone", from(&[("*", "Deny")]), json!({ "deny": [everyone()] })),
        (
            "all but one",
            from(&[("*", "Deny"), ("web", "Allow")]),
            json!({ "allow": [exact("web")], "deny": [exact("batch"), exact("db")] }),
        ),
    ] {
        let mut world = world();
        put_document(&mut world, "MeshTrafficPermission", "a", allow.clone());
        put_document(&mut world, "MeshTrafficPermission", "b", items);
        assert_eq!(lists(&world, "db"), expected, "{name}");
    }
}

#[test]
fn a_permission_on_trial_goes_as_it_is() {
    let mut world = world();
    put_document(&mut world, "MeshTrafficPermission", "p", from(&[("web", "Allow")]));
    let place = Kind::ALL.iter().position(|one| one.name() == "MeshTrafficPermission").unwrap();
    let trial = json!({
        "apiVersion": "kuma.io/v1alpha1", "kind": "MeshTrafficPermission",
        "metadata": { "name": "trial", "namespace": "shop",
                      "labels": { "kuma.io/mesh": "default", "kuma.io/effect": "shadow" } },
        "spec": from(&[("*", "Deny")]),
    });
    let trial = MeshDocument::read(place, Key::new("shop", "trial"), 1, &trial);
    let document = std::sync::Arc::clone(&trial.read.as_ref().unwrap().document);
    world.put(Put::Document(Box::new(trial)));
    assert_eq!(lists(&world, "db"), json!({ "allow": [exact("web")] }));
    assert!(sent(&world, "db").contains(&"MeshTrafficPermission/shop/trial".to_owned()));
    assert_eq!(reach(&accounts(&Callers::default(), &world), &document), None);
}

#[test]
fn a_caller_without_ports_has_the_tags_of_its_labels() {
    let mut world = world();
    let job = json!({
        "metadata": { "name": "job-x1", "namespace": "shop", "generateName": "job-", "labels": { "app": "job" } },
        "spec": { "serviceAccountName": "job", "containers": [{ "name": "culvert-sidecar", "args": ["--control=https://x"] }] },
        "status": { "podIP": "10.0.9.9" },
    });
    world.put(Put::Pod(Pod::read(serde_json::from_value(job).unwrap()).unwrap()));
    put_document(&mut world, "MeshTrafficPermission", "p", from(&[("job", "Allow")]));
    assert_eq!(lists(&world, "db"), json!({ "allow": [exact("job")] }));
    let service = json!({ "kind": "MeshService", "name": "job_shop_svc" });
    let items = json!({ "from": [{ "targetRef": service, "default": { "action": "Allow" } }] });
    put_document(&mut world, "MeshTrafficPermission", "p", items);
    assert_eq!(lists(&world, "db"), json!({ "allow": [exact("job")] }));
}

/// Words about a permission.
fn words(world: &World, kind: &str, name: &str) -> Option<Reach> {
    let callers = accounts(&Callers::default(), world);
    let mut all = world.documents.current().filter_map(|one| one.read.as_ref().ok());
    let good = all.find(|good| good.document.kind().name() == kind && good.document.name == name).unwrap();
    reach(&callers, &good.document)
}

#[test]
fn a_choice_of_a_part_of_an_account_is_told() {
    let part = |text: &str| {
        Some(Reach::Part(format!(
            "certificates name accounts, and some accounts also run pods that this does not choose: {text}. A permission does \
             not hold for such an account, and a denial holds for all of its pods: give the pods that differ an account of \
             their own"
        )))
    };
    for (name, rows, expected) in [
        ("whole accounts", from(&[("web", "Allow")]), Some(Reach::Whole)),
        (
            "a permission",
            from(&[("web", "Allow"), ("cron", "Allow")]),
            part("shop/batch (from[1], Allow: not pod shop/report)"),
        ),
        (
            "a denial",
            from(&[("*", "Allow"), ("cron", "Deny")]),
            part("shop/batch (from[1], Deny: not pod shop/report)"),
        ),
        ("one that changes nothing", from(&[("*", "Allow"), ("cron", "Allow")]), Some(Reach::Whole)),
        ("one that is undone", from(&[("cron", "Deny"), ("*", "Allow")]), Some(Reach::Whole)),
        ("nobody", from(&[("x", "Allow")]), Some(Reach::Whole)),
    ] {
        let mut world = world();
        put_document(&mut world, "MeshTrafficPermission", "p", rows);
        assert_eq!(words(&world, "MeshTrafficPermission", "p"), expected, "{name}");
    }
    let mut world = world();
    older(&mut world, "part", &["cron"], "db");
    older(&mut world, "whole", &["cron", "report"], "db");
    assert_eq!(words(&world, "TrafficPermission", "part"), part("shop/batch (sources: not pod shop/report)"));
    assert_eq!(words(&world, "TrafficPermission", "whole"), Some(Reach::Whole));
    let rules = json!({ "rules": [{ "default": { "allow": [exact("web")] } }] });
    put_document(&mut world, "MeshTrafficPermission", "by-id", rules);
    assert_eq!(words(&world, "MeshTrafficPermission", "by-id"), None);
}

#[test]
fn ten_accounts_are_named_and_the_others_counted() {
    let mut world = World::default();
    for n in 10..23 {
        let labels = |app: &str| json!({ "app": app, "n": n.to_string() });
        put_pod(&mut world, &format!("cron-{n}"), labels("cron"), &format!("batch-{n}"));
        put_pod(&mut world, &format!("report-{n}"), labels("report"), &format!("batch-{n}"));
    }
    put_document(&mut world, "MeshTrafficPermission", "p", from(&[("cron", "Allow")]));
    let Some(Reach::Part(words)) = words(&world, "MeshTrafficPermission", "p") else { panic!("it is whole") };
    assert!(words.contains("shop/batch-19 (") && !words.contains("shop/batch-20"), "{words}");
    assert!(words.contains(" and 3 more accounts."), "{words}");
}
