// SPDX-License-Identifier: Apache-2.0
//! The sidecar of a cluster with a controller.

use super::*;

const URL: &str = "https://culvert-controller.culvert-system.svc:15012";

fn controlled(shape: Shape) -> Settings {
    identified(shape, Identity::Stream)
}

fn identified(shape: Shape, identity: Identity) -> Settings {
    let control = Control { url: URL.to_owned(), trust_domain: "mesh.example".to_owned(), identity };
    Settings { control: Some(control), ..settings(shape) }
}

#[track_caller]
fn decided_by(pod: &Value, namespace: &Namespace, settings: &Settings) -> (Value, Vec<Operation>) {
    match decide(pod, namespace, settings) {
        Decision::Injected(Injected { operations, .. }) => {
            let mut pod = pod.clone();
            apply(&mut pod, &operations).expect("operations that fit");
            (pod, operations)
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn injected(pod: &Value) -> Value {
    decided_by(pod, &labelled(), &controlled(Shape::Native)).0
}

#[test]
fn it_is_of_the_mesh_that_the_pod_names() {
    let container = || json!({ "name": "web", "ports": [{ "containerPort": 80 }] });
    let of = |mesh: &str| {
        let mut pod = pod(json!({}), container());
        pod["metadata"]["labels"]["kuma.io/mesh"] = mesh.into();
        let injected = injected(&pod);
        args(&injected).iter().find(|arg| arg.starts_with("--mesh=")).map(ToString::to_string)
    };
    assert_eq!(of("other").as_deref(), Some("--mesh=other"));
    assert_eq!(of(""), None);
}

#[test]
fn it_knows_the_controller_and_its_own_pod() {
    let container = json!({ "name": "web", "ports": [{ "name": "http", "containerPort": 8080 }] });
    let pod = injected(&pod(json!({}), container));
    assert_eq!(
        args(&pod)[2..],
        [
            "--resources=/etc/culvert/mesh",
            "--trust-domain=mesh.example",
            "--control=https://culvert-controller.culvert-system.svc:15012",
            "--control-ca=/etc/culvert/mesh/ca.crt",
            "--control-token=/var/run/secrets/culvert/token",
            "--pod-ports=http:8080",
        ]
    );
    let spec = &pod["spec"];
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    assert_eq!(
        spec["initContainers"][0]["env"],
        json!([
            field("CULVERT_POD_NAME", "metadata.name"),
            field("CULVERT_POD_NAMESPACE", "metadata.namespace"),
            field("CULVERT_POD_IP", "status.podIPs"),
            field("CULVERT_SERVICE_ACCOUNT", "spec.serviceAccountName"),
            field("CULVERT_NODE_NAME", "spec.nodeName"),
            { "name": "CULVERT_POD_LABELS", "value": "/etc/culvert/pod/labels" },
        ])
    );
    let labels = json!({ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } });
    let token = json!({ "audience": "culvert.dev", "expirationSeconds": 3600, "path": "token" });
    assert_eq!(
        spec["volumes"].as_array().unwrap()[1..],
        [
            json!({ "name": "culvert-mesh", "configMap": { "name": "culvert-mesh", "defaultMode": 292, "optional": true } }),
            json!({ "name": "culvert-token", "projected": { "defaultMode": 292, "sources": [{ "serviceAccountToken": token }] } }),
            json!({ "name": "culvert-pod", "downwardAPI": { "defaultMode": 292, "items": [labels] } }),
        ]
    );
    assert_eq!(
        spec["initContainers"][0]["volumeMounts"].as_array().unwrap()[1..],
        [
            json!({ "name": "culvert-mesh", "mountPath": "/etc/culvert/mesh", "readOnly": true }),
            json!({ "name": "culvert-token", "mountPath": "/var/run/secrets/culvert", "readOnly": true }),
            json!({ "name": "culvert-pod", "mountPath": "/etc/culvert/pod", "readOnly": true }),
        ]
    );
    // The token is the sidecar's alone.
    assert!(spec["containers"][0].get("volumeMounts").is_none(), "{spec}");
}

#[test]
fn annotations_still_decide() {
    let inject = |name: &str| format!("inject.culvert.dev/{name}");
    for (annotations, of_namespace, expected) in [
        (json!({}), &[][..], &["--resources=/etc/culvert/mesh", "--trust-domain=mesh.example"][..]),
        (
            json!({ inject("dataplane"): "web.shop" }),
            &[],
            &["--resources=/etc/culvert/mesh", "--dataplane=web.shop", "--trust-domain=mesh.example"],
        ),
        (
            json!({ inject("trust-domain"): "own" }),
            &[],
            &["--resources=/etc/culvert/mesh", "--trust-domain=own"],
        ),
        (
            json!({}),
            &[("inject.culvert.dev/trust-domain", "own")],
            &["--resources=/etc/culvert/mesh", "--trust-domain=own"],
        ),
        (
            json!({ inject("trust-domain"): "" }),
            &[("inject.culvert.dev/trust-domain", "own")],
            &["--resources=/etc/culvert/mesh", "--trust-domain=mesh.example"],
        ),
        (
            json!({ inject("identity-volume"): "id" }),
            &[],
            &["--resources=/etc/culvert/mesh", "--identity=/etc/culvert/identity"],
        ),
        (
            json!({ inject("identity-volume"): "id", inject("trust-domain"): "own" }),
            &[],
            &["--resources=/etc/culvert/mesh", "--identity=/etc/culvert/identity", "--trust-domain=own"],
        ),
        // The controller's authorities are in the same ConfigMap.
        (json!({ inject("mesh-documents"): "disabled" }), &[], &["--trust-domain=mesh.example"]),
    ] {
        let mut pod = pod(annotations.clone(), web());
        pod["spec"]["volumes"] = json!([{ "name": "id", "csi": { "driver": "csi.spiffe.io" } }]);
        let (pod, _) = decided_by(&pod, &annotated(of_namespace), &controlled(Shape::Native));
        let args = &args(&pod)[2..];
        assert_eq!(args[..expected.len()], *expected, "{annotations}");
        assert_eq!(args[expected.len()], format!("--control={URL}"), "{annotations}");
        let mounts = pod["spec"]["initContainers"][0]["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().any(|mount| mount["mountPath"] == "/etc/culvert/mesh"), "{annotations}");
    }
}

#[test]
fn it_knows_the_ports_that_the_pod_declares() {
    let ports = |list: Value| json!({ "name": "web", "ports": list });
    for (container, expected) in [
        (web(), None),
        (ports(json!([])), None),
        (ports(json!([{ "containerPort": 80, "protocol": "UDP" }])), None),
        (ports(json!([{ "containerPort": 0 }, { "containerPort": 65536 }])), None),
        (
            ports(
                json!([{ "name": "http", "containerPort": 80, "protocol": "TCP" }, { "containerPort": 81 }]),
            ),
            Some("--pod-ports=http:80,81"),
        ),
        // No name of a port: the API server refuses the pod.
        (ports(json!([{ "name": "a,$(B)", "containerPort": 80 }])), Some("--pod-ports=80")),
    ] {
        let pod = injected(&pod(json!({}), container.clone()));
        let found = args(&pod).into_iter().find(|arg| arg.starts_with("--pod-ports="));
        assert_eq!(found, expected, "{container}");
    }
    let mut early = pod(json!({}), ports(json!([{ "containerPort": 80 }])));
    early["spec"]["initContainers"] =
        json!([{ "name": "early", "ports": [{ "name": "metrics", "containerPort": 9090 }] }]);
    assert!(args(&injected(&early)).contains(&"--pod-ports=metrics:9090,80"), "{early}");
    // More than the sidecar takes are not known.
    for (number, known) in [(512, true), (513, false)] {
        let many: Vec<_> = (1..=number).map(|port| json!({ "containerPort": port })).collect();
        let pod = injected(&pod(json!({}), ports(many.into())));
        assert_eq!(args(&pod).iter().any(|arg| arg.starts_with("--pod-ports=")), known, "{number}");
    }
}

#[test]
fn a_second_call_mends_the_ports_and_nothing_else() {
    for shape in [Shape::Native, Shape::Plain] {
        let container = json!({ "name": "web", "ports": [{ "containerPort": 80 }] });
        let (mut pod, _) = decided_by(&pod(json!({}), container), &labelled(), &controlled(shape));
        assert!(decided_by(&pod, &labelled(), &controlled(shape)).1.is_empty());
        let late = json!({ "name": "late", "ports": [{ "name": "late", "containerPort": 90 }] });
        pod["spec"]["containers"].as_array_mut().unwrap().push(late);
        let (pod, operations) = decided_by(&pod, &labelled(), &controlled(shape));
        assert_eq!(operations.len(), 1, "{operations:?}");
        let list = if shape == Shape::Native { "initContainers" } else { "containers" };
        let args = pod["spec"][list][0]["args"].as_array().unwrap();
        assert_eq!(args.last().unwrap(), "--pod-ports=80,late:90");
        assert!(decided_by(&pod, &labelled(), &controlled(shape)).1.is_empty());
    }
}

/// The controller may come and go between the calls, as in a manifest that was made before.
#[test]
fn a_sidecar_of_another_time_stays_as_it_is() {
    for (first, second) in [
        (controlled(Shape::Native), settings(Shape::Native)),
        (settings(Shape::Native), controlled(Shape::Native)),
    ] {
        let (pod, _) = decided_by(&pod(json!({}), web()), &labelled(), &first);
        assert!(decided_by(&pod, &labelled(), &second).1.is_empty(), "{pod}");
    }
}

#[test]
fn volumes_of_these_names_by_the_author_take_their_place() {
    let mut pod = pod(json!({}), web());
    let own = json!([{ "name": "culvert-token", "secret": { "secretName": "own" } }, { "name": "culvert-pod", "emptyDir": {} }]);
    pod["spec"]["volumes"] = own.clone();
    let pod = injected(&pod);
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let names: Vec<_> = volumes.iter().map(|volume| volume["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["culvert-token", "culvert-pod", "culvert-no-token", "culvert-mesh"]);
    assert_eq!(volumes[..2], *own.as_array().unwrap());
}

#[test]
fn the_kubelet_gives_it_an_identity_where_the_cluster_has_requests() {
    for shape in [Shape::Native, Shape::Plain] {
        let settings = identified(shape, Identity::Requests);
        let (pod, _) = decided_by(&pod(json!({}), web()), &labelled(), &settings);
        let list = if shape == Shape::Native { "initContainers" } else { "containers" };
        let sidecar = &pod["spec"][list][0];
        let args: Vec<_> = sidecar["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(
            args[2..],
            [
                "--resources=/etc/culvert/mesh",
                "--identity=/etc/culvert/identity",
                "--trust-domain=mesh.example",
                "--control=https://culvert-controller.culvert-system.svc:15012",
                "--control-ca=/etc/culvert/identity/ca.crt",
                "--control-token=/var/run/secrets/culvert/token",
            ]
        );
        let certificate = json!({
            "signerName": "culvert.dev/identity", "keyType": "ECDSAP256", "keyPath": "tls.key",
            "certificateChainPath": "tls.crt", "maxExpirationSeconds": 7_862_400,
        });
        let authorities = json!({ "name": "culvert.dev:identity:roots", "path": "ca.crt", "optional": true });
        // 0444: the files belong to root where the pod's containers have different users.
        let volume = json!({ "name": "culvert-identity", "projected": { "defaultMode": 292, "sources": [
            { "podCertificate": certificate }, { "clusterTrustBundle": authorities },
        ] } });
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        assert!(volumes.contains(&volume), "{volumes:?}");
        let mount =
            json!({ "name": "culvert-identity", "mountPath": "/etc/culvert/identity", "readOnly": true });
        assert!(sidecar["volumeMounts"].as_array().unwrap().contains(&mount), "{sidecar}");
        // The key is the sidecar's alone.
        let application = pod["spec"]["containers"].as_array().unwrap().last().unwrap();
        assert!(application.get("volumeMounts").is_none(), "{application}");
        // Whatever the injector is told later, the pod keeps what it has.
        for again in [settings, controlled(shape), identified(shape, Identity::Directory)] {
            assert!(decided_by(&pod, &labelled(), &again).1.is_empty());
        }
    }
}

#[test]
fn a_volume_that_the_pod_names_goes_before_the_clusters_identities() {
    let annotation = json!({ "inject.culvert.dev/identity-volume": "id" });
    let mut own = pod(annotation, web());
    own["spec"]["volumes"] = json!([{ "name": "id", "csi": { "driver": "spiffe.csi.cert-manager.io" } }]);
    let stream = decided_by(&own, &labelled(), &controlled(Shape::Native)).0;
    for identity in [Identity::Requests, Identity::Directory] {
        assert_eq!(decided_by(&own, &labelled(), &identified(Shape::Native, identity)).0, stream);
    }
    // Without one it would be a stranger to all others.
    let settings = identified(Shape::Native, Identity::Directory);
    let Decision::Refused(refusal) = decide(&pod(json!({}), web()), &labelled(), &settings) else {
        panic!("it is not refused")
    };
    assert!(refusal.to_string().contains("inject.culvert.dev/identity-volume must name"), "{refusal}");
}
