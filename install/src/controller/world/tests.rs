// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};

use super::*;

fn pod(name: &str, ip: &str, change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": "u", "generateName": "web-5d8f-",
            "labels": { "app": "web", "pod-template-hash": "5d8f" },
        },
        "spec": {
            "serviceAccountName": "web", "nodeName": "node-1",
            "containers": [{ "name": "app", "ports": [
                { "name": "http", "containerPort": 8080 }, { "containerPort": 53, "protocol": "UDP" },
            ] }],
            "initContainers": [{ "name": "culvert-sidecar", "image": "culvert:1", "args": ["--control=https://x"], "ports": [{ "containerPort": 15020 }] }],
        },
        "status": { "phase": "Running", "podIPs": [{ "ip": ip }, { "ip": "fd00::1" }],
                    "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    change(&mut pod);
    Pod::read(serde_json::from_value(pod).unwrap()).unwrap()
}

fn service(name: &str, ip: &str) -> Service {
    let service = json!({
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "clusterIP": ip, "clusterIPs": [ip], "selector": { "app": "web" },
                  "ports": [{ "port": 80, "targetPort": "http" }, { "port": 53, "protocol": "UDP" }] },
    });
    Service::read(serde_json::from_value(service).unwrap()).unwrap()
}

fn slice(service: &str, pods: &[(&str, bool)]) -> Slice {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(name, ready)| {
            json!({ "addresses": ["10.0.0.1"], "conditions": { "ready": ready },
                    "targetRef": { "kind": "Pod", "namespace": "shop", "name": name } })
        })
        .collect();
    let metadata = json!({ "name": format!("{service}-x"), "namespace": "shop",
                           "labels": { "kubernetes.io/service-name": service } });
    let data = json!({ "endpoints": endpoints, "ports": [{ "port": 8080 }] });
    Slice::read(&serde_json::from_value(metadata).unwrap(), data).unwrap()
}

fn touched(addresses: &[&str], services: &[&str], pods: &[&str]) -> Touched {
    Touched {
        services: services.iter().map(|name| Words::of(name, &BTreeMap::new())).collect(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        pods: pods.iter().map(|name| Key::new("shop", name)).collect(),
        documents: false,
    }
}

#[test]
fn parts_of_a_pod() {
    let read = pod("web-5d8f-x1", "10.0.0.1", |_| {});
    assert_eq!((&*read.workload, &*read.account, &*read.node), ("web", "web", "node-1"));
    assert_eq!(read.ports, [ContainerPort { name: Some("http".into()), port: 8080 }]);
    assert_eq!((read.sidecar.as_deref(), read.addresses.len(), read.is_ready), (Some("culvert:1"), 2, true));
    let ended = pod("web", "10.0.0.1", |pod| pod["status"]["phase"] = "Failed".into());
    assert_eq!((ended.life, ended.addresses), (Life::Ended, Vec::new()), "its address may be another's");
    let bare = pod("web", "10.0.0.1", |pod| {
        pod["spec"]["initContainers"] = json!([]);
        pod["metadata"]["generateName"] = Value::Null;
    });
    assert_eq!((bare.is_onboarded(), &*bare.workload), (false, "web"));
    let old = pod("web", "10.0.0.1", |pod| pod["spec"]["initContainers"][0]["args"] = json!([]));
    assert!(!old.is_onboarded(), "a sidecar without a controller has no identity by it");
    let host = json!({ "metadata": { "name": "x" }, "spec": { "hostNetwork": true, "containers": [] } });
    assert_eq!(Pod::read(serde_json::from_value(host).unwrap()), None);
}

#[test]
fn services_and_slices_that_say_nothing_are_left_out() {
    let read = service("web", "10.96.0.1");
    assert_eq!((read.ports.len(), read.addresses.len()), (1, 1));
    assert!(service("web", "None").addresses.is_empty());
    let external = json!({
        "metadata": { "name": "x" },
        "spec": { "type": "ExternalName", "externalName": "example.com", "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    });
    assert_eq!(Service::read(serde_json::from_value(external).unwrap()), None, "another name of a host");
    let bare = json!({ "metadata": { "name": "x" }, "spec": { "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] } });
    assert_eq!(Service::read(serde_json::from_value(bare).unwrap()), None, "it selects nothing");
    let metadata: kube::core::ObjectMeta =
        serde_json::from_value(json!({ "name": "x", "labels": {} })).unwrap();
    assert_eq!(Slice::read(&metadata, json!({})), None);
}

#[test]
fn a_change_concerns_addresses_and_pods_and_no_others() {
    let mut world = World::default();
    world.put(Put::Service(service("web", "10.96.0.1")));
    let first = world.put(Put::Pod(pod("a", "10.0.0.1", |_| {})));
    assert_eq!(first, touched(&["10.0.0.1", "fd00::1"], &[], &["a"]));
    assert!(world.put(Put::Pod(pod("a", "10.0.0.1", |_| {}))).is_nothing(), "the same again");
    // Something that is not kept.
    let heartbeat = pod("a", "10.0.0.1", |pod| pod["status"]["hostIP"] = "192.0.2.1".into());
    assert!(world.put(Put::Pod(heartbeat)).is_nothing());
    let joined = world.put(Put::Slice(slice("web", &[("a", true)])));
    assert_eq!(joined, touched(&["10.96.0.1", "10.0.0.1", "fd00::1"], &["web"], &["a"]));
    // Readiness of an endpoint is the Service's matter alone.
    assert_eq!(world.put(Put::Slice(slice("web", &[("a", false)]))), touched(&["10.96.0.1"], &["web"], &[]));
    assert!(world.put(Put::Slice(slice("web", &[("a", false)]))).is_nothing());
    let web = Key::new("shop", "web");
    let (behind, others) = world.behind(&web);
    assert_eq!((behind.len(), behind[0].1, others), (1, false, 0));
    assert_eq!(world.services_of(&Key::new("shop", "a")).count(), 1);
    // The pod's own change reaches the Service's callers.
    let not_ready = pod("a", "10.0.0.1", |pod| pod["status"]["conditions"] = json!([]));
    assert_eq!(
        world.put(Put::Pod(not_ready)),
        touched(&["10.96.0.1", "10.0.0.1", "fd00::1"], &["web"], &["a"])
    );
    let gone = world.remove(Of::Services, &Key::new("shop", "web"));
    assert_eq!(gone, touched(&["10.96.0.1", "10.0.0.1", "fd00::1"], &["web"], &["a"]));
    assert!(world.service_at("10.96.0.1".parse().unwrap()).is_none());
    world.remove(Of::Slices, &Key::new("shop", "web-x"));
    world.remove(Of::Pods, &Key::new("shop", "a"));
    assert!(world.pods.is_empty() && world.of_address.is_empty() && world.kinds.is_empty());
    assert!(world.services.is_empty());
    assert!(world.keys(Of::Slices).is_empty());
}

#[test]
fn a_change_of_a_headless_service_concerns_those_who_ask_for_its_name() {
    let mut world = World::default();
    let web = service("web", "None");
    assert_eq!(world.put(Put::Service(web.clone())), touched(&[], &["web"], &[]));
    assert!(world.put(Put::Service(web.clone())).is_nothing());
    world.put(Put::Pod(pod("a", "10.0.0.1", |_| {})));
    let joined = world.put(Put::Slice(slice("web", &[("a", true)])));
    assert_eq!(joined, touched(&["10.0.0.1", "fd00::1"], &["web"], &["a"]));
    // Labels are words, too, and those that it had concern the same names once more.
    let labels = BTreeMap::from([("app".to_owned(), "front".to_owned())]);
    let words = Words::of("web", &labels);
    let relabelled = world.put(Put::Service(Service { labels, words: words.clone(), ..web.clone() }));
    assert_eq!(relabelled.services, [web.words, words.clone()].into());
    assert_eq!(world.remove(Of::Services, &Key::new("shop", "web")).services, [words].into());
    assert!(world.services.is_empty());
}

#[test]
fn services_that_a_name_could_mean() {
    let mut world = World::default();
    let mut put = |namespace: &str, name: &str, labels: &[&str]| {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|value| (format!("label-{value}"), (*value).to_owned())).collect();
        let (key, words) = (Key::new(namespace, name), Words::of(name, &labels));
        world.put(Put::Service(Service { key, labels, words, ..service("x", "10.96.0.1") }));
    };
    put("shop", "web", &["Web", "1.2"]);
    put("shop", "api", &["web", "blue"]);
    put("bank", "web", &[]);
    put("bank", "front", &["web", "blue"]);
    put("bank", "shop", &["shop"]);
    put("bank", "db-0", &["db_0"]);
    // A chart's release with the name of its namespace.
    put("store", "cart", &["store"]);
    put("store", "list", &["store"]);
    for (name, expected) in [
        ("web.bank.svc.mesh.local", &["bank/web", "bank/front", "shop/web", "shop/api"][..]),
        ("web.shop.mesh", &["shop/web", "shop/api", "bank/shop", "bank/web", "bank/front"]),
        ("web_bank_svc_80.mesh", &["bank/web", "bank/front", "shop/web", "shop/api"]),
        ("mesh.web_bank_svc_80", &["bank/web", "bank/front", "shop/web", "shop/api"]),
        ("blue", &["bank/front", "shop/api"]),
        ("db_0.mesh", &["bank/db-0"]),
        ("db-0", &["bank/db-0"]),
        ("bank.mesh", &[]),
        ("cart.store.mesh", &["store/cart"]),
        ("store.mesh", &["store/cart", "store/list"]),
        ("web-1.mesh", &[]),
        ("1.2", &[]),
    ] {
        let found: Vec<String> =
            world.services_named(&Host::read(name).unwrap(), 64).map(|one| one.key.to_string()).collect();
        assert_eq!(found, expected, "{name}");
    }
    let some: Vec<String> = world
        .services_named(&Host::read("web.shop.mesh").unwrap(), 2)
        .map(|one| one.key.to_string())
        .collect();
    assert_eq!(some, ["shop/web", "shop/api"], "the likelier ones");
    world.remove(Of::Services, &Key::new("bank", "front"));
    assert_eq!(world.services_named(&Host::read("blue").unwrap(), 64).count(), 1);
}

#[test]
fn an_address_that_another_pod_has_by_now_stays_its() {
    let mut world = World::default();
    world.put(Put::Pod(pod("old", "10.0.0.1", |_| {})));
    world.put(Put::Pod(pod("new", "10.0.0.1", |_| {})));
    world.remove(Of::Pods, &Key::new("shop", "old"));
    assert_eq!(world.pod_at("10.0.0.1".parse().unwrap()).unwrap().key, Key::new("shop", "new"));
}

#[test]
fn namespaces_that_are_onboarded() {
    let mut world = World::default();
    let label = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    for (name, labels) in [
        ("one", label("culvert.dev/inject", "enabled")),
        ("two", label("kuma.io/sidecar-injection", "true")),
        ("three", label("culvert.dev/inject", "disabled")),
        ("shop", BTreeMap::new()),
    ] {
        world.put(Put::Namespace(name.into(), labels));
    }
    assert_eq!(world.onboarded_namespaces(), ["one", "two"].into());
    world.put(Put::Pod(pod("a", "10.0.0.1", |_| {})));
    assert_eq!(world.onboarded_namespaces(), ["one", "shop", "two"].into(), "a pod with a sidecar is enough");
}

#[test]
fn an_invalid_change_of_a_document_leaves_the_last_good_one() {
    let kind = culvert_mesh::kinds::Kind::ALL.iter().position(|kind| kind.name() == "Mesh").unwrap();
    let document = |generation: i64, passthrough: Value| {
        let mesh = json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh",
            "metadata": { "name": "default", "managedFields": [{}], "annotations": { "a": "b" } },
            "spec": { "networking": { "outbound": { "passthrough": passthrough } } },
        });
        let key = Key::new("", "default");
        Put::Document(Box::new(MeshDocument::read(kind, key, generation, &mesh)))
    };
    let mut world = World::default();
    assert!(world.put(document(1, json!(false))).documents);
    assert!(world.put(document(1, json!(false))).is_nothing());
    assert!(world.put(document(2, json!("maybe"))).is_nothing(), "it changes nothing that holds");
    let current = world.documents.current().next().unwrap();
    let refused = current.read.as_ref().unwrap_err();
    assert!(refused.0[0].contains("maybe"), "{refused:?}");
    let text = &world.documents.mesh("default").unwrap().text;
    assert!(
        text.contains("false") && !text.contains("managedFields") && !text.contains("annotations"),
        "{text}"
    );
    assert!(world.remove(Of::Documents(kind), &Key::new("", "default")).documents);
}

#[test]
fn a_replica_more_or_less_is_no_other_caller() {
    let mut world = World::default();
    world.put(Put::Service(service("web", "10.96.0.1")));
    let changes = |world: &mut World, put: Put| {
        let before = world.callers_version();
        world.put(put);
        world.callers_version() - before
    };
    assert_eq!(changes(&mut world, Put::Pod(pod("a", "10.0.0.1", |_| {}))), 1, "the first of its kind");
    assert_eq!(changes(&mut world, Put::Slice(slice("web", &[("a", true)]))), 1, "it is a service now");
    assert_eq!(changes(&mut world, Put::Pod(pod("b", "10.0.0.2", |_| {}))), 0);
    assert_eq!(changes(&mut world, Put::Slice(slice("web", &[("a", true), ("b", true)]))), 0);
    assert_eq!(
        changes(&mut world, Put::Slice(slice("web", &[("b", true)]))),
        0,
        "the other one stands for both"
    );
    assert_eq!(changes(&mut world, Put::Slice(slice("web", &[]))), 1, "no service any more");
    let plain = pod("b", "10.0.0.2", |pod| pod["spec"]["initContainers"] = json!([]));
    assert_eq!(changes(&mut world, Put::Pod(plain)), 0, "one of the kind has its sidecar still");
    let other = pod("a", "10.0.0.1", |pod| pod["spec"]["serviceAccountName"] = "other".into());
    assert_eq!(changes(&mut world, Put::Pod(other)), 1, "another account");
}

#[test]
fn pods_of_one_account_with_services_of_their_own_are_not_alike() {
    let mut world = World::default();
    for name in ["db-0", "db-1", "db-2"] {
        world.put(Put::Service(service(name, "10.96.0.1")));
        let own =
            |pod: &mut Value| pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] = name.into();
        world.put(Put::Pod(pod(name, "10.0.0.1", own)));
    }
    let kinds = |world: &World| {
        let mut names: Vec<_> = world.one_pod_of_each_kind().map(|pod| pod.key.name().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(kinds(&world), ["db-0"], "without Services they are alike");
    let before = world.callers_version();
    world.put(Put::Slice(slice("db-0", &[("db-0", true)])));
    world.put(Put::Slice(slice("db-1", &[("db-1", true)])));
    assert_eq!(
        (kinds(&world), world.callers_version() - before),
        (vec!["db-0".to_owned(), "db-1".into()], 2)
    );
    world.remove(Of::Pods, &Key::new("shop", "db-1"));
    assert_eq!(kinds(&world), ["db-0"]);
    world.remove(Of::Services, &Key::new("shop", "db-0"));
    assert_eq!(kinds(&world).len(), 1, "no Service is left of it");
    world.remove(Of::Pods, &Key::new("shop", "db-0"));
    world.remove(Of::Pods, &Key::new("shop", "db-2"));
    assert!(kinds(&world).is_empty() && world.kinds.is_empty() && world.services_of_pod.is_empty());
}
