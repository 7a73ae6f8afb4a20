// SPDX-License-Identifier: Apache-2.0
mod mode;
mod named;
mod permissions;

use culvert_mesh::kinds::Kind;
use serde_json::{Value, json};

use super::*;
use crate::controller::key::Key;
use crate::controller::world::{MeshDocument, Put, Service, Slice};

fn identities() -> Identities {
    Identities {
        trust_domain: "cluster.local".to_owned(),
        authorities: Some("-----BEGIN CERTIFICATE-----".to_owned()),
    }
}

fn put_pod(world: &mut World, name: &str, labels: Value, account: &str) {
    let ip = format!("10.0.0.{}", name.bytes().map(u32::from).sum::<u32>() % 250);
    let pod = json!({
        "metadata": { "name": name, "namespace": "shop", "labels": labels },
        "spec": { "serviceAccountName": account,
                  "containers": [{ "name": "app", "ports": [{ "containerPort": 8080 }] }, { "name": "culvert-sidecar", "args": ["--control=https://x"] }] },
        "status": { "podIP": ip },
    });
    world.put(Put::Pod(Pod::read(serde_json::from_value(pod).unwrap()).unwrap()));
}

fn put_document(world: &mut World, kind: &str, name: &str, spec: Value) {
    let place = Kind::ALL.iter().position(|one| one.name() == kind).unwrap();
    let document = json!({
        "apiVersion": "kuma.io/v1alpha1", "kind": kind,
        "metadata": { "name": name, "namespace": "shop", "labels": { "kuma.io/mesh": "default" } }, "spec": spec,
    });
    let read = MeshDocument::read(place, Key::new("shop", name), 1, &document);
    assert!(read.read.is_ok(), "{:?}", read.read);
    world.put(Put::Document(Box::new(read)));
}

/// Accounts of the mesh's members.
fn accounts(callers: &Callers, world: &World) -> std::sync::Arc<Vec<Account>> {
    let known = callers.known(world, "default", world.callers_version());
    known.unwrap_or_else(|members| callers.make(&identities(), &members))
}

/// The documents about a pod.
fn about(world: &World, pod: &str) -> Vec<Named> {
    let pod = world.pod(&Key::new("shop", pod)).unwrap();
    super::about(world, &identities(), Some(&accounts(&Callers::default(), world)), pod).unwrap()
}

/// The lists of the permission that a pod is sent.
fn lists(world: &World, pod: &str) -> Value {
    let all = about(world, pod);
    let one = all.iter().find(|one| one.name == "MeshTrafficPermission/culvert-callers");
    let document: Value = serde_json::from_str(&one.unwrap().text).unwrap();
    // It is one that sidecars can read.
    let place = Kind::ALL.iter().position(|one| one.name() == "MeshTrafficPermission").unwrap();
    let read = MeshDocument::read(place, Key::new("shop", "x"), 1, &document);
    assert!(read.read.is_ok(), "{:?}", read.read);
    document["spec"]["rules"][0]["default"].clone()
}

fn exact(account: &str) -> Value {
    json!({ "spiffeID": { "type": "Exact", "value": format!("spiffe://cluster.local/ns/shop/sa/{account}") } })
}

/// Lists that let in nobody.
fn none() -> Value {
    json!({ "allow": [{ "spiffeID": { "type": "Exact", "value": "spiffe://cluster.local/none" } }] })
}

fn world() -> World {
    let mut world = World::default();
    put_pod(&mut world, "db", json!({ "app": "db" }), "db");
    put_pod(&mut world, "web", json!({ "app": "web" }), "web");
    // One account for two kinds of pods.
    put_pod(&mut world, "cron", json!({ "app": "cron" }), "batch");
    put_pod(&mut world, "report", json!({ "app": "report" }), "batch");
    world
}

#[test]
fn permissions_by_tags_become_permissions_by_account() {
    let subset = |app: &str| json!({ "kind": "MeshSubset", "tags": { "app": app } });
    let from = |target: Value, action: &str| json!({ "targetRef": target, "default": { "action": action } });
    let mesh = || json!({ "kind": "Mesh" });
    let everyone = json!({ "spiffeID": { "type": "Prefix", "value": "spiffe://cluster.local/" } });
    let rows = [
        ("one account", vec![from(subset("web"), "Allow")], json!({ "allow": [exact("web")] })),
        ("a part of an account is not allowed", vec![from(subset("cron"), "Allow")], none()),
        (
            "both parts, one by one, are not the account",
            vec![from(mesh(), "Deny"), from(subset("web"), "Allow")],
            json!({ "allow": [exact("web")] }),
        ),
        (
            "a part of an account is denied",
            vec![from(mesh(), "Allow"), from(subset("cron"), "Deny")],
            json!({ "allow": [everyone], "deny": [exact("batch")] }),
        ),
        (
            "the last that fits decides",
            vec![from(subset("web"), "Deny"), from(mesh(), "Allow")],
            json!({ "allow": [everyone] }),
        ),
        (
            "on trial",
            vec![from(subset("web"), "AllowWithShadowDeny")],
            json!({ "allowWithShadowDeny": [exact("web")] }),
        ),
        ("nobody", vec![from(mesh(), "Deny")], none()),
    ];
    for (name, from, expected) in rows {
        let mut world = world();
        put_document(&mut world, "MeshTrafficPermission", "p", json!({ "from": from }));
        assert_eq!(lists(&world, "db"), expected, "{name}");
    }
}

#[test]
fn the_more_specific_permission_decides() {
    let mut world = world();
    let from = |action: &str| json!([{ "targetRef": { "kind": "Mesh" }, "default": { "action": action } }]);
    put_document(&mut world, "MeshTrafficPermission", "all", json!({ "from": from("Allow") }));
    let db = json!({ "kind": "Dataplane", "labels": { "app": "db" } });
    put_document(&mut world, "MeshTrafficPermission", "db", json!({ "targetRef": db, "from": from("Deny") }));
    assert_eq!(lists(&world, "db"), none());
    assert_eq!(lists(&world, "web")["allow"].as_array().unwrap().len(), 1);
}

#[test]
fn permissions_by_identity_go_as_they_are() {
    let mut world = world();
    let rules = json!([{ "default": { "allow": [exact("web")] } }]);
    put_document(&mut world, "MeshTrafficPermission", "p", json!({ "rules": rules }));
    let names: Vec<String> = about(&world, "db").into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["MeshTrafficPermission/shop/p", "Dataplane/shop/db"]);
}

#[test]
fn a_new_kind_of_caller_concerns_everyone_only_where_permissions_name_callers() {
    let new = |world: &mut World| {
        let pod = json!({
            "metadata": { "name": "new", "namespace": "shop", "labels": { "app": "new" } },
            "spec": { "containers": [{ "name": "culvert-sidecar", "args": ["--control=https://x"] }] }, "status": { "podIP": "10.0.1.1" },
        });
        world.put(Put::Pod(Pod::read(serde_json::from_value(pod).unwrap()).unwrap())).documents
    };
    assert!(!new(&mut world()));
    let mut world = world();
    let from = json!([{ "targetRef": { "kind": "Mesh" }, "default": { "action": "Allow" } }]);
    put_document(&mut world, "MeshTrafficPermission", "p", json!({ "from": from }));
    assert!(new(&mut world));
}

#[test]
fn a_mesh_identity_brings_the_authorities() {
    let mut world = world();
    let pod = |world: &World| about(world, "db").into_iter().map(|one| one.name).collect::<Vec<_>>();
    assert_eq!(pod(&world), ["Dataplane/shop/db"]);
    let spec = json!({ "selector": { "dataplane": { "matchLabels": {} } }, "provider": { "type": "Bundled", "bundled": { "autogenerate": { "enabled": true } } } });
    put_document(&mut world, "MeshIdentity", "identity", spec);
    assert_eq!(pod(&world), ["MeshIdentity/shop/identity", "MeshTrust/culvert", "Dataplane/shop/db"]);
}

#[test]
fn each_dataplane_can_be_read() {
    let world = world();
    for name in ["db", "web", "cron"] {
        let own = dataplane(&world, Some(&identities()), world.pod(&Key::new("shop", name)).unwrap());
        let document = dataplane::read("default", &own.text).unwrap();
        assert_eq!(document.kind(), Kind::Dataplane, "{}", own.text);
        let account = &*world.pod(&Key::new("shop", name)).unwrap().account;
        assert_eq!(document.label(ACCOUNT), Some(account));
        let id = identities().id("shop", account);
        assert_eq!(document.spiffe_id.as_ref().map(|id| id.as_str()), Some(id.as_str()));
        // A volume of the pod's own brings a name that is not known here.
        let mut other = world.pod(&Key::new("shop", name)).unwrap().clone();
        other.has_own_identity = true;
        let own = dataplane(&world, Some(&identities()), &other);
        assert_eq!(dataplane::read("default", &own.text).unwrap().spiffe_id, None);
    }
}

#[test]
fn accounts_are_made_once_for_a_state_of_the_cluster() {
    let (mut world, callers) = (world(), Callers::default());
    let first = accounts(&callers, &world);
    let is_first = |world: &World| std::sync::Arc::ptr_eq(&first, &accounts(&callers, world));
    assert!(is_first(&world));
    assert_eq!(first.len(), 3);
    // A pod more of a known kind changes nothing, one of a new account does.
    put_pod(&mut world, "web-2", json!({ "app": "web" }), "web");
    assert!(is_first(&world));
    put_pod(&mut world, "web-3", json!({ "app": "web", "pod-template-hash": "5d8f" }), "web");
    assert!(is_first(&world), "a rollout is no new kind");
    // The world may change while they are made: these are of the state before, and made anew when they are asked for next.
    put_pod(&mut world, "new", json!({ "app": "new" }), "new");
    let older = callers.known(&world, "default", world.callers_version()).unwrap_err();
    put_pod(&mut world, "newer", json!({ "app": "newer" }), "newer");
    assert_eq!(callers.make(&identities(), &older).len(), 4);
    assert_eq!(accounts(&callers, &world).len(), 5);
    assert_eq!(callers.known(&world, "default", world.callers_version()).unwrap().len(), 5);
    assert_eq!(
        callers
            .make(&identities(), &callers.known(&world, "other", world.callers_version()).unwrap_err())
            .len(),
        0
    );
}

/// A Service `web` in front of more pods than there is a place for.
fn crowd() -> World {
    let mut world = World::default();
    let labels: serde_json::Map<String, Value> =
        (0..60).map(|n| (format!("label-{n}"), "x".repeat(60).into())).collect();
    let mut labels = Value::Object(labels);
    labels["app"] = "web".into();
    let mut endpoints = Vec::new();
    for number in 0..600 {
        let name = format!("web-{number}");
        let ip = format!("10.1.{}.{}", number / 250, number % 250 + 1);
        let pod = json!({
            "metadata": { "name": name, "namespace": "shop", "labels": labels },
            "spec": { "containers": [{ "name": "culvert-sidecar", "args": ["--control=https://x"] }] },
            "status": { "podIP": ip },
        });
        world.put(Put::Pod(Pod::read(serde_json::from_value(pod).unwrap()).unwrap()));
        endpoints.push(
            json!({ "addresses": [ip], "targetRef": { "kind": "Pod", "namespace": "shop", "name": name } }),
        );
    }
    let service = json!({
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "clusterIPs": ["10.96.0.1"], "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    });
    world.put(Put::Service(Service::read(serde_json::from_value(service).unwrap()).unwrap()));
    let metadata =
        json!({ "name": "web-x", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } });
    let data = json!({ "endpoints": endpoints, "ports": [{ "port": 80 }] });
    world.put(Put::Slice(Slice::read(&serde_json::from_value(metadata).unwrap(), data).unwrap()));
    world
}

#[test]
fn a_destination_stays_below_its_bound() {
    let world = crowd();
    let documents = destination(&world, &identities(), "default", "10.96.0.1:80".parse().unwrap());
    let bytes: usize = documents.iter().map(|one| one.text.len()).sum();
    assert!((MOST_BYTES / 2..=MOST_BYTES).contains(&bytes), "{bytes} bytes of {} documents", documents.len());
    assert!(documents.len() < 601, "not all of them fit");
}
