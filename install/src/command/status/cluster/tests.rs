// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::gather::{Cluster, Lease, Pods, RawPod, judged};
use super::*;
use crate::inject::{KumaLabel, Namespace, Settings, Shape};

fn settings() -> Settings {
    Settings {
        image: String::new(),
        shape: Shape::Native,
        excluded: vec!["ci".to_owned()],
        kuma_label: KumaLabel::On,
        node: culvert_cni::pod::Settings::default(),
        control: None,
    }
}

fn namespaces() -> BTreeMap<String, Namespace> {
    let asking = |name: &str| {
        let labels = [("culvert.dev/inject".to_owned(), "enabled".to_owned())].into();
        (name.to_owned(), Namespace { name: Some(name.to_owned()), labels, ..Namespace::default() })
    };
    [asking("shop"), asking("ci"), ("plain".to_owned(), Namespace::default())].into()
}

fn pod(namespace: &str, name: &str, change: impl FnOnce(&mut Value)) -> RawPod {
    let mut pod = json!({
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "containers": [{ "name": "app", "image": "app:1", "ports": [{ "containerPort": 8080 }] }] },
        "status": { "phase": "Running" },
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn gathered(pods: Vec<RawPod>) -> Pods {
    let mut all = Pods::default();
    pods.into_iter().for_each(|pod| all.take(pod, &namespaces(), &settings()));
    all
}

/// Owner, pods, those with a sidecar, those that lack one.
fn row(pods: Vec<RawPod>) -> Option<(String, usize, usize, usize)> {
    let status = judged(Cluster { pods: gathered(pods), ..Cluster::default() });
    let one = status.workloads.into_iter().next()?;
    Some((format!("{}/{}", one.kind, one.name), one.pods, one.with_sidecar, one.missing))
}

#[test]
fn a_pod_lacks_a_sidecar_where_the_injector_would_put_one_in() {
    let labels = |labels: Value| move |pod: &mut Value| pod["metadata"]["labels"] = labels;
    let plain = |_: &mut Value| {};
    for (name, one, lacks) in [
        ("by its namespace", pod("shop", "a", plain), true),
        ("by its label", pod("plain", "a", labels(json!({ "culvert.dev/inject": "enabled" }))), true),
        ("by Kuma's label", pod("plain", "a", labels(json!({ "kuma.io/sidecar-injection": "true" }))), true),
        ("a value that means nothing", pod("shop", "a", labels(json!({ "culvert.dev/inject": "on" }))), true),
        ("it asks for none", pod("shop", "a", labels(json!({ "culvert.dev/inject": "disabled" }))), false),
        ("nobody asks", pod("plain", "a", plain), false),
        ("an unknown namespace", pod("new", "a", plain), false),
        ("left out", pod("ci", "a", plain), false),
        ("of the node's network", pod("shop", "a", |pod| pod["spec"]["hostNetwork"] = true.into()), false),
        ("of Windows", pod("shop", "a", |pod| pod["spec"]["os"] = json!({ "name": "windows" })), false),
        ("ended", pod("shop", "a", |pod| pod["status"]["phase"] = "Succeeded".into()), false),
        (
            "of another mesh",
            pod("shop", "a", |pod| pod["spec"]["initContainers"] = json!([{ "name": "istio-proxy" }])),
            false,
        ),
    ] {
        assert_eq!(row(vec![one]), lacks.then(|| ("Pod/a".to_owned(), 1, 0, 1)), "{name}");
    }
}

#[test]
fn pods_are_told_by_their_owners() {
    let owned = |name: &str, kind: &str, owner: &str, hash: Option<&str>, sidecar: bool| {
        pod("shop", name, |pod| {
            pod["metadata"]["ownerReferences"] = json!([{ "kind": "Other", "name": "x" }, { "kind": kind, "name": owner, "controller": true }]);
            if let Some(hash) = hash {
                pod["metadata"]["labels"] = json!({ "pod-template-hash": hash });
            }
            if sidecar {
                pod["spec"]["initContainers"] = json!([{ "name": "culvert-sidecar", "image": "culvert:1" }]);
            }
        })
    };
    let rollout = vec![
        owned("a", "ReplicaSet", "web-5d8f", Some("5d8f"), true),
        owned("b", "ReplicaSet", "web-77aa", Some("77aa"), false),
    ];
    assert_eq!(row(rollout), Some(("Deployment/web".to_owned(), 2, 1, 1)));
    let alone = vec![owned("a", "ReplicaSet", "web-5d8f", None, false)];
    assert_eq!(row(alone), Some(("ReplicaSet/web-5d8f".to_owned(), 1, 0, 1)));
    let job = vec![owned("a", "Job", "report-2", None, true)];
    assert_eq!(row(job), Some(("Job/report-2".to_owned(), 1, 1, 0)));
    // Its documents are files of its own: which mode holds is not the cluster's to say.
    let status =
        judged(Cluster { pods: gathered(vec![owned("a", "Job", "r", None, true)]), ..Cluster::default() });
    assert_eq!((&status.workloads[0].mesh, status.workloads[0].mtls), (&None, None));
}

#[test]
fn the_reason_is_the_label() {
    let status = judged(Cluster { pods: gathered(vec![pod("shop", "a", |_| {})]), ..Cluster::default() });
    let reason = status.workloads[0].reason.as_deref();
    assert_eq!(reason, Some("label culvert.dev/inject: enabled of the namespace"));
    let wrong = pod("shop", "a", |pod| pod["metadata"]["labels"] = json!({ "culvert.dev/inject": "on" }));
    let status = judged(Cluster { pods: gathered(vec![wrong]), ..Cluster::default() });
    let reason = status.workloads[0].reason.as_deref().unwrap();
    assert!(reason.starts_with("the injector would refuse it: label culvert.dev/inject"), "{reason}");
}

fn workload(name: &str, missing: usize) -> Workload {
    Workload {
        namespace: "shop".to_owned(),
        kind: "Deployment".to_owned(),
        name: name.to_owned(),
        mesh: (missing == 0).then(|| "default".to_owned()),
        mtls: (missing == 0).then_some("STRICT"),
        pods: 3,
        with_sidecar: 3 - missing,
        missing,
        sidecars: if missing < 3 { vec!["culvert:0.1.0".to_owned()] } else { Vec::new() },
        reason: (missing > 0).then(|| "label culvert.dev/inject: enabled of the namespace".to_owned()),
    }
}

fn status() -> ClusterStatus {
    ClusterStatus {
        version: "0.0.0".to_owned(),
        api_server: "10.96.0.1:443".to_owned(),
        well: false,
        controller: Some(Controller {
            namespace: "culvert-system".to_owned(),
            holder: Some("culvert-controller-0".to_owned()),
            renewed: Some("2026-11-29T12:00:00.000000Z".to_owned()),
            replicas: vec![
                Replica { pod: "culvert-controller-0".to_owned(), ready: true },
                Replica { pod: "culvert-controller-1".to_owned(), ready: false },
            ],
        }),
        meshes: vec![MeshRow { name: "default".to_owned(), mtls: "STRICT" }],
        workloads: vec![workload("db", 3), workload("recommendations", 0), workload("web", 1)],
        others: 4,
        invalid_documents: vec![Invalid {
            kind: "MeshPassthrough",
            namespace: "shop".to_owned(),
            name: "p".to_owned(),
            errors: vec![
                "spec.default.passthroughMode: found \"Some\u{1b}[2J\"; allowed: All, None".to_owned(),
            ],
        }],
        problems: vec![
            "cannot read Lease culvert-system/culvert-controller: the API server does not answer in time"
                .to_owned(),
        ],
    }
}

#[test]
fn a_cluster_in_both_formats() {
    insta::assert_snapshot!("text", render::text(&status(), Colour::Plain));
    insta::assert_snapshot!("json", render::json(&status()));
    let well = ClusterStatus {
        well: true,
        controller: None,
        workloads: vec![workload("web", 0)],
        meshes: Vec::new(),
        invalid_documents: Vec::new(),
        problems: Vec::new(),
        ..status()
    };
    insta::assert_snapshot!("well", render::text(&well, Colour::Plain));
}

#[test]
fn colour_changes_nothing_else() {
    let painted = render::text(&status(), Colour::Terminal);
    let lines: Vec<&str> = painted.lines().filter(|line| line.contains("\u{1b}[31m")).collect();
    assert_eq!(lines.len(), 4, "two workloads, a document and a problem: {lines:?}");
    let plain = painted.replace("\u{1b}[31m", "").replace("\u{1b}[0m", "");
    assert_eq!(plain, render::text(&status(), Colour::Plain));
}

#[test]
fn a_lease_that_was_given_back_has_no_holder() {
    let spec = json!({ "holderIdentity": "", "renewTime": "2026-11-29T12:00:00.000000Z" });
    let replica = pod("mesh", "c-0", |pod| {
        pod["metadata"]["labels"] =
            json!({ "app.kubernetes.io/name": "culvert", "app.kubernetes.io/component": "controller" });
    });
    let lease = Some(Lease::read(&spec));
    let status = judged(Cluster { pods: gathered(vec![replica]), lease, ..Cluster::default() });
    let controller = status.controller.unwrap();
    assert_eq!((controller.holder, controller.replicas[0].ready), (None, false));
}

#[test]
fn a_controller_that_does_nothing_and_sidecars_that_do_not_know_it_are_problems() {
    let controller = |ready: bool| {
        pod("mesh", "culvert-controller-0", |pod| {
            pod["metadata"]["labels"] =
                json!({ "app.kubernetes.io/name": "culvert", "app.kubernetes.io/component": "controller" });
            pod["status"]["conditions"] =
                json!([{ "type": "Ready", "status": if ready { "True" } else { "False" } }]);
        })
    };
    let sidecar = |name: &str, args: Value| {
        pod("shop", name, |pod| {
            let own = json!({ "name": "culvert-sidecar", "image": "culvert:1", "args": args });
            pod["spec"]["initContainers"] = json!([own]);
        })
    };
    let told = || sidecar("told", json!(["--control=https://x"]));
    let told_of = |pods: Vec<RawPod>, lease: Option<Lease>| {
        judged(Cluster { pods: gathered(pods), lease, ..Cluster::default() }).problems
    };
    let no_mesh = "pods of a mesh without a Mesh document, which let nothing in: shop/Pod/told";
    for (name, pods, lease, expected) in [
        ("it is well", vec![controller(true), told()], None, vec![no_mesh]),
        (
            "none is ready",
            vec![controller(false)],
            None,
            vec!["no replica of the controller in mesh is ready: "],
        ),
        (
            "none writes",
            vec![controller(true)],
            Some(Lease::default()),
            vec!["no replica of the controller in mesh writes: "],
        ),
        (
            "not restarted",
            vec![controller(true), sidecar("old", json!([]))],
            None,
            vec!["sidecars that know no controller, until they are restarted: shop/Pod/old"],
        ),
        ("no controller", vec![sidecar("old", json!([]))], None, vec![]),
    ] {
        let found = told_of(pods, lease);
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{name}: {found}");
        }
    }
}
