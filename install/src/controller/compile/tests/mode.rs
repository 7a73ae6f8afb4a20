// SPDX-License-Identifier: Apache-2.0
//! The mode of mTLS that holds for a pod.

use super::*;
use crate::controller::compile::{Mode, mode};

/// A world whose Mesh has this mode of mTLS, or none.
fn of_mesh(mtls: Option<&str>) -> World {
    let mut world = world();
    let spec = match mtls {
        None => json!({}),
        Some(mode) => {
            let backend = json!({ "name": "b", "type": "builtin", "mode": mode });
            json!({ "mtls": { "enabledBackend": "b", "backends": [backend] } })
        }
    };
    let mesh = json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" }, "spec": spec });
    let place = Kind::ALL.iter().position(|one| *one == Kind::Mesh).unwrap();
    let read = MeshDocument::read(place, Key::new("", "default"), 1, &mesh);
    assert!(read.read.is_ok(), "{:?}", read.read);
    world.put(Put::Document(Box::new(read)));
    world
}

fn of(world: &World, pod: &str) -> Mode {
    mode(world, world.pod(&Key::new("shop", pod)).unwrap())
}

#[test]
fn the_mode_of_a_pod_is_its_meshs_or_that_of_a_policy() {
    assert_eq!(of(&world(), "db"), Mode::NoMesh);
    for (mesh, expected) in
        [(None, Mode::Off), (Some("STRICT"), Mode::Strict), (Some("PERMISSIVE"), Mode::Permissive)]
    {
        assert_eq!(of(&of_mesh(mesh), "db"), expected, "{mesh:?}");
    }
    let tls = |world: &mut World, mode: &str| {
        let rules = json!([{ "default": { "mode": mode } }]);
        let target = json!({ "kind": "Dataplane", "labels": { "app": "db" } });
        put_document(world, "MeshTLS", "t", json!({ "targetRef": target, "rules": rules }));
    };
    let mut permissive = of_mesh(Some("STRICT"));
    tls(&mut permissive, "Permissive");
    assert_eq!((of(&permissive, "db"), of(&permissive, "web")), (Mode::Permissive, Mode::Strict));
    let mut off = of_mesh(None);
    tls(&mut off, "Strict");
    assert_eq!(of(&off, "db"), Mode::Off, "it switches nothing on");
    // With an identity the pod is STRICT, whatever its Mesh says.
    let mut identity = of_mesh(Some("PERMISSIVE"));
    let provider = json!({ "type": "Bundled", "bundled": { "autogenerate": { "enabled": true } } });
    let spec =
        json!({ "selector": { "dataplane": { "matchLabels": { "app": "db" } } }, "provider": provider });
    put_document(&mut identity, "MeshIdentity", "identity", spec);
    assert_eq!((of(&identity, "db"), of(&identity, "web")), (Mode::Strict, Mode::Permissive));
}

#[test]
fn inbounds_may_differ() {
    let mut world = of_mesh(Some("STRICT"));
    let pod = json!({
        "metadata": { "name": "two", "namespace": "shop", "labels": { "app": "two" } },
        "spec": { "containers": [
            { "name": "app", "ports": [{ "containerPort": 8080 }, { "containerPort": 9090 }] },
            { "name": "culvert-sidecar", "args": ["--control=https://x"] } ] },
        "status": { "podIP": "10.0.7.7" },
    });
    world.put(Put::Pod(Pod::read(serde_json::from_value(pod).unwrap()).unwrap()));
    let target = json!({ "kind": "Dataplane", "labels": { "app": "two" }, "sectionName": "9090" });
    let rules = json!([{ "default": { "mode": "Permissive" } }]);
    put_document(&mut world, "MeshTLS", "t", json!({ "targetRef": target, "rules": rules }));
    assert_eq!(of(&world, "two"), Mode::Mixed);
}
