// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::controller::world::Host;

fn put_service(world: &mut World, namespace: &str, name: &str, address: &str, label: &str) {
    let service = json!({
        "metadata": { "name": name, "namespace": namespace, "labels": { "team": label } },
        "spec": { "clusterIP": address, "clusterIPs": [address], "selector": { "app": "x" }, "ports": [{ "port": 80 }] },
    });
    world.put(Put::Service(Service::read(serde_json::from_value(service).unwrap()).unwrap()));
}

fn put_slice(world: &mut World, namespace: &str, service: &str, pods: &[(&str, bool)]) {
    let metadata = json!({ "name": format!("{service}-x"), "namespace": namespace,
                           "labels": { "kubernetes.io/service-name": service } });
    let endpoint = |(name, ready): &(&str, bool)| {
        json!({ "addresses": ["10.9.9.9"], "conditions": { "ready": ready },
                "targetRef": { "kind": "Pod", "namespace": "shop", "name": name } })
    };
    let data =
        json!({ "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(), "ports": [{ "port": 8080 }] });
    world.put(Put::Slice(Slice::read(&serde_json::from_value(metadata).unwrap(), data).unwrap()));
}

fn put_outsider(world: &mut World, name: &str) {
    let pod = json!({
        "metadata": { "name": name, "namespace": "shop" }, "spec": { "containers": [{ "name": "app" }] },
        "status": { "podIP": "10.0.9.9" },
    });
    world.put(Put::Pod(Pod::read(serde_json::from_value(pod).unwrap()).unwrap()));
}

fn of(world: &World, host: &str) -> Vec<Named> {
    named(world, &identities(), "default", &Host::read(host).unwrap())
}

fn names(documents: &[Named]) -> Vec<&str> {
    documents.iter().map(|one| one.name.as_str()).collect()
}

#[test]
fn a_name_has_the_documents_of_all_services_that_it_could_mean() {
    let mut world = world();
    for (namespace, name, address) in
        [("shop", "web", "10.96.0.1"), ("bank", "web", "10.96.0.2"), ("bank", "headless", "None")]
    {
        put_service(&mut world, namespace, name, address, "core");
    }
    put_slice(&mut world, "shop", "web", &[("web", true), ("db", false)]);
    put_slice(&mut world, "bank", "web", &[("web", true), ("cron", true)]);
    put_slice(&mut world, "bank", "headless", &[("db", true)]);
    let (shop, bank) = (
        ["MeshService/shop/web", "Dataplane/shop/web"],
        ["MeshService/bank/web", "Dataplane/shop/cron", "Dataplane/shop/web"],
    );
    let found = of(&world, "web.shop.mesh");
    assert_eq!(names(&found), ["MeshService/shop/web", "Dataplane/shop/web", bank[0], bank[1]]);
    assert_eq!(names(&of(&world, "web_bank_svc_80.mesh")), [&bank[..], &shop[..1]].concat());
    // Each is as it is at its address, whatever the port.
    let at = |ip: &str| destination(&world, &identities(), "default", format!("{ip}:80").parse().unwrap());
    assert_eq!(found[..2], at("10.96.0.1"));
    assert_eq!(found[2..], at("10.96.0.2")[..2]);
    // One without addresses is found by its name alone.
    let headless = of(&world, "headless.bank.mesh");
    assert_eq!(names(&headless), ["MeshService/bank/headless", "Dataplane/shop/db"]);
    let document: Value = serde_json::from_str(&headless[0].text).unwrap();
    assert_eq!(document["status"]["vips"], json!([]));
    let by_label = of(&world, "core");
    let services: Vec<&str> =
        names(&by_label).into_iter().filter(|name| name.starts_with("MeshService")).collect();
    assert_eq!(services, ["MeshService/bank/headless", "MeshService/bank/web", "MeshService/shop/web"]);
    assert_eq!(of(&world, "other.mesh"), []);
    let other = named(&world, &identities(), "other", &Host::read("web").unwrap());
    assert_eq!(other, [], "members of another mesh");
}

#[test]
fn a_service_that_is_onboarded_by_half_is_left_out_unless_the_mesh_is_strict() {
    let mut world = world();
    put_outsider(&mut world, "plain");
    for name in ["api", "web"] {
        put_service(&mut world, "shop", name, "None", "core");
    }
    put_slice(&mut world, "shop", "web", &[("web", true), ("plain", true)]);
    put_slice(&mut world, "shop", "api", &[("db", true)]);
    assert_eq!(names(&of(&world, "core")), ["MeshService/shop/api", "Dataplane/shop/db"]);
    let backend = json!({ "name": "culvert", "type": "builtin", "mode": "STRICT" });
    let mesh = json!({
        "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" },
        "spec": { "mtls": { "enabledBackend": "culvert", "backends": [backend] } },
    });
    let place = Kind::ALL.iter().position(|one| one.name() == "Mesh").unwrap();
    let read = MeshDocument::read(place, Key::new("", "default"), 1, &mesh);
    world.put(Put::Document(Box::new(read)));
    let expected =
        ["MeshService/shop/api", "Dataplane/shop/db", "MeshService/shop/web", "Dataplane/shop/web"];
    assert_eq!(names(&of(&world, "core")), expected);
}

#[test]
fn an_answer_has_so_many_services_and_bytes() {
    let mut world = world();
    put_outsider(&mut world, "plain");
    // Those without a member take no place of the others, as long as they are not too many.
    for number in 0..100 {
        let name = format!("svc-{number:02}");
        put_service(&mut world, "shop", &name, "None", "core");
        put_slice(&mut world, "shop", &name, &[(if number < 50 { "plain" } else { "web" }, true)]);
    }
    let found = of(&world, "core");
    let last = format!("MeshService/shop/svc-{}", MOST_LOOKED_AT - 1);
    assert_eq!(found.len(), MOST_LOOKED_AT - 50 + 1, "one Dataplane is behind all of them");
    assert_eq!(names(&found)[2..].last(), Some(&last.as_str()));
    for number in 40..50 {
        put_slice(&mut world, "shop", &format!("svc-{number}"), &[("web", true)]);
    }
    assert_eq!(of(&world, "core").len(), MOST_NAMED + 1);
    // A Service before and one behind another one that takes all bytes.
    let mut world = crowd();
    put_pod(&mut world, "db", json!({}), "db");
    for name in ["first", "x"] {
        put_service(&mut world, "shop", name, "None", "web");
        put_slice(&mut world, "shop", name, &[("db", true)]);
    }
    let found = of(&world, "web.mesh");
    let bytes: usize = found.iter().map(|one| one.text.len()).sum();
    assert!((MOST_BYTES / 2..=MOST_BYTES).contains(&bytes), "{bytes} bytes of {} documents", found.len());
    assert_eq!(names(&found)[0], "MeshService/shop/web", "its own name counts more than a label");
    assert!(found.iter().all(|one| one.name != "MeshService/shop/first"));
    let found = of(&world, "first.web.mesh");
    assert_eq!(names(&found)[..3], ["MeshService/shop/first", "Dataplane/shop/db", "MeshService/shop/web"]);
    assert!(found.len() < 603);
}
