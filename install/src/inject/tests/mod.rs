// SPDX-License-Identifier: Apache-2.0
use serde_json::json;

use super::*;

mod again;
mod control;
mod labels;
mod limits;

const IMAGE: &str = "registry.example.com/culvert:0.1.0";

fn names(pairs: &[(&str, &str)]) -> Names {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn labelled() -> Namespace {
    Namespace { labels: names(&[("culvert.dev/inject", "enabled")]), ..Namespace::default() }
}

fn annotated(pairs: &[(&str, &str)]) -> Namespace {
    Namespace { annotations: names(pairs), ..labelled() }
}

fn settings(shape: Shape) -> Settings {
    Settings {
        image: IMAGE.to_owned(),
        shape,
        excluded: Vec::new(),
        kuma_label: KumaLabel::On,
        node: NodeSettings::default(),
        control: None,
    }
}

fn pod(annotations: Value, container: Value) -> Value {
    json!({ "metadata": { "generateName": "web-", "annotations": annotations }, "spec": { "containers": [container] } })
}

fn web() -> Value {
    json!({ "name": "web", "image": "web:1" })
}

#[track_caller]
fn injected_by(pod: &Value, namespace: &Namespace, shape: Shape) -> Value {
    match decide(pod, namespace, &settings(shape)) {
        Decision::Injected(Injected { operations, .. }) => {
            let mut pod = pod.clone();
            apply(&mut pod, &operations).expect("operations that fit");
            pod
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn injected(pod: &Value) -> Value {
    injected_by(pod, &labelled(), Shape::Native)
}

#[track_caller]
fn refused(pod: &Value, namespace: &Namespace) -> String {
    match decide(pod, namespace, &settings(Shape::Native)) {
        Decision::Refused(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    }
}

fn args(pod: &Value) -> Vec<&str> {
    pod["spec"]["initContainers"][0]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap())
        .collect()
}

#[test]
fn the_uid_is_no_applications_and_in_the_namespaces_range() {
    let range = [("openshift.io/sa.scc.uid-range", "1000980000/10000")];
    for (annotations, own, of_namespace, expected) in [
        (json!({}), None, &[][..], 5678),
        (json!({}), Some(5678), &[], 5679),
        (json!({}), Some(1000), &[], 5678),
        (json!({ "culvert.dev/proxy-uid": "7" }), None, &[], 7),
        (json!({ "kuma.io/sidecar-injected": "true", "kuma.io/sidecar-uid": "8" }), None, &[], 8),
        (json!({}), None, &range, 1_000_980_001),
        (json!({}), Some(1_000_980_001), &range, 1_000_980_002),
        (json!({}), None, &[("openshift.io/sa.scc.uid-range", "7-9")], 8),
    ] {
        let mut container = web();
        if let Some(own) = own {
            container["securityContext"] = json!({ "runAsUser": own });
        }
        let given = annotations.get("kuma.io/sidecar-uid").is_some();
        let pod = injected_by(&pod(annotations, container), &annotated(of_namespace), Shape::Native);
        assert_eq!(pod["spec"]["initContainers"][0]["securityContext"]["runAsUser"], expected);
        let handed = pod["metadata"]["annotations"].get("culvert.dev/proxy-uid").is_some();
        assert_eq!(handed, !given);
    }
    for (range, named) in [
        ("x", "must be a range of uids"),
        ("5/1", "must be a range of uids"),
        ("5/0", "must be a range of uids"),
        ("4294967295/10", "must be a range of uids"),
        ("9/2", "no uid left"),
    ] {
        let container = json!({ "name": "web", "securityContext": { "runAsUser": 10 } });
        let namespace = annotated(&[("openshift.io/sa.scc.uid-range", range)]);
        let said = refused(&pod(json!({}), container), &namespace);
        assert!(said.contains(named), "{range}: {said}");
    }
}

#[test]
fn an_init_container_may_have_a_plain_sidecars_uid_to_have_a_network() {
    let mut pod = pod(json!({}), web());
    pod["spec"]["initContainers"] = json!([{ "name": "early", "securityContext": { "runAsUser": 5678 } }]);
    let plain = injected_by(&pod, &labelled(), Shape::Plain);
    assert_eq!(plain["spec"]["containers"][0]["securityContext"]["runAsUser"], 5678);
    let native = injected(&pod);
    assert_eq!(native["spec"]["initContainers"][0]["securityContext"]["runAsUser"], 5679);
}

#[test]
fn resources_come_from_the_pod_then_the_namespace() {
    let name = |name: &str| format!("inject.culvert.dev/{name}");
    for (of_pod, of_namespace, expected) in [
        (
            &[][..],
            &[][..],
            json!({ "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } }),
        ),
        (
            &[("cpu-request", "1")],
            &[("cpu-request", "2"), ("cpu-limit", "3")],
            json!({ "requests": { "cpu": "1", "memory": "32Mi" }, "limits": { "cpu": "3", "memory": "256Mi" } }),
        ),
        (
            &[("memory-limit", ""), ("cpu-request", "")],
            &[("memory-limit", "1Gi")],
            json!({ "requests": { "memory": "32Mi" } }),
        ),
        (
            &[("memory-request", "0.5Gi")],
            &[],
            json!({ "requests": { "cpu": "10m", "memory": "0.5Gi" }, "limits": { "memory": "0.5Gi" } }),
        ),
        (
            &[("memory-limit", "16M")],
            &[],
            json!({ "requests": { "cpu": "10m", "memory": "16M" }, "limits": { "memory": "16M" } }),
        ),
    ] {
        let annotations: Value = of_pod.iter().map(|(key, value)| (name(key), json!(value))).collect();
        let of_namespace: Vec<_> = of_namespace.iter().map(|(key, value)| (name(key), *value)).collect();
        let of_namespace: Vec<_> = of_namespace.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        let pod = injected_by(&pod(annotations, web()), &annotated(&of_namespace), Shape::Native);
        assert_eq!(pod["spec"]["initContainers"][0]["resources"], expected);
    }
    for (annotation, value, named) in [
        ("cpu-limit", "one", "must be an amount"),
        ("cpu-limit", ".", "must be an amount"),
        ("cpu-limit", "-1", "must be an amount"),
        ("cpu-limit", "1Pi", "must be an amount"),
        ("cpu-limit", "1.2.3", "must be an amount"),
    ] {
        let annotations: Value = [(name(annotation), json!(value))].into_iter().collect();
        let said = refused(&pod(annotations, web()), &labelled());
        assert!(said.contains(named), "{value}: {said}");
    }
    let both = json!({ "inject.culvert.dev/cpu-request": "2", "inject.culvert.dev/cpu-limit": "1000m" });
    assert!(refused(&pod(both, web()), &labelled()).contains("the request is above the limit"));
}

#[test]
fn the_sidecar_gets_what_the_annotations_say() {
    for (annotations, expected) in [
        (json!({}), &[][..]),
        (json!({ "culvert.dev/ip-family": "ipv4" }), &["--verify-redirect=ipv4"]),
        (json!({ "culvert.dev/ip-family": "ipv6" }), &["--verify-redirect=ipv6"]),
        (json!({ "culvert.dev/redirect-inbound": "disabled" }), &["--verify-redirect=off"]),
        (json!({ "culvert.dev/inbound-port": "1" }), &["--inbound-port=1"]),
        (json!({ "culvert.dev/outbound-port": "2" }), &["--outbound-port=2"]),
        (json!({ "culvert.dev/status-port": "3" }), &["--status-address=[::]:3"]),
        (json!({ "culvert.dev/redirect-dns": "all" }), &["--dns-port=15053"]),
        (json!({ "culvert.dev/redirect-dns": "10.0.0.1", "culvert.dev/dns-port": "4" }), &["--dns-port=4"]),
        (json!({ "inject.culvert.dev/mesh-documents": "enabled" }), &["--resources=/etc/culvert/mesh"]),
        (
            json!({ "inject.culvert.dev/dataplane": "web.shop" }),
            &["--resources=/etc/culvert/mesh", "--dataplane=web.shop"],
        ),
    ] {
        let pod = injected(&pod(annotations.clone(), web()));
        let mut all = vec!["--drain-delay=0s", "--drain-time=30s"];
        all.extend(expected);
        assert_eq!(args(&pod), all, "{annotations}");
    }
    let volumes = json!([{ "name": "culvert-no-token", "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } }] } },
        { "name": "culvert-mesh", "configMap": { "name": "culvert-mesh", "defaultMode": 292 } }]);
    let pod = injected(&pod(json!({ "inject.culvert.dev/mesh-documents": "enabled" }), web()));
    assert_eq!(pod["spec"]["volumes"], volumes);
}

#[test]
fn a_plain_sidecar_waits_at_its_own_status_port() {
    let pod = pod(json!({ "culvert.dev/status-port": "3", "inject.culvert.dev/sidecar": "plain" }), web());
    let pod = injected(&pod);
    assert_eq!(
        pod["spec"]["containers"][0]["lifecycle"]["postStart"]["exec"]["command"],
        json!([
            "/bin/culvert-sidecar",
            "--status-address=[::]:3",
            "wait",
            "--for",
            "ready",
            "--timeout",
            "60s"
        ])
    );
}

#[test]
fn the_application_keeps_its_time_to_end() {
    for (own, native, plain, drain) in
        [(None, 60, 45, "30s"), (Some(10), 40, 45, "30s"), (Some(120), 150, 135, "120s")]
    {
        let mut pod = pod(json!({}), web());
        if let Some(own) = own {
            pod["spec"]["terminationGracePeriodSeconds"] = json!(own);
        }
        assert_eq!(injected(&pod)["spec"]["terminationGracePeriodSeconds"], native);
        let pod = injected_by(&pod, &labelled(), Shape::Plain);
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], plain);
        assert_eq!(pod["spec"]["containers"][0]["args"][1], format!("--drain-time={drain}"));
    }
}

#[test]
fn each_handler_goes_to_the_status_port() {
    let container = |field: &str, handler: Value| json!({ "name": "web", "ports": [{ "name": "h", "containerPort": 80 }], field: handler });
    for (handler, expected) in [
        (json!({ "httpGet": { "port": 80 } }), json!({ "httpGet": { "port": 80 } })),
        (
            json!({ "httpGet": { "port": "h", "path": "a b/é", "scheme": "HTTPS", "host": "" }, "timeoutSeconds": 400 }),
            json!({ "httpGet": { "port": 80, "path": "/a%20b/%C3%A9", "scheme": "HTTPS" }, "timeoutSeconds": 300 }),
        ),
        (json!({ "tcpSocket": { "port": "h" } }), json!({ "tcpSocket": { "port": 80 } })),
        (
            json!({ "grpc": { "port": 81, "service": "s" }, "timeoutSeconds": 2 }),
            json!({ "grpc": { "port": 81, "service": "s" }, "timeoutSeconds": 2 }),
        ),
        (json!({ "grpc": { "port": 81, "service": null } }), json!({ "grpc": { "port": 81 } })),
    ] {
        for (field, end) in
            [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")]
        {
            let mut given = handler.clone();
            given["periodSeconds"] = json!(3);
            let pod = injected(&pod(json!({}), container(field, given.clone())));
            let new = &pod["spec"]["containers"][0][field];
            let path = format!("/app-health/web/{end}");
            assert_eq!(new["httpGet"], json!({ "path": path, "port": 15020 }), "{given}");
            assert_eq!(
                (&new["periodSeconds"], &new["timeoutSeconds"]),
                (&given["periodSeconds"], &given["timeoutSeconds"])
            );
            assert!(new.get("tcpSocket").is_none() && new.get("grpc").is_none(), "{new}");
            let option = args(&pod)[2].strip_prefix("--app-probes=").unwrap();
            assert_eq!(serde_json::from_str::<Value>(option).unwrap(), json!({ path: expected }), "{given}");
        }
    }
    let hooks = container(
        "lifecycle",
        json!({ "postStart": { "httpGet": { "port": "h" } }, "preStop": { "tcpSocket": { "port": 80 } } }),
    );
    let pod = injected(&pod(json!({}), hooks));
    let option = args(&pod)[2].strip_prefix("--app-probes=").unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(option).unwrap(),
        json!({ "/app-health/web/poststart": { "httpGet": { "port": 80 }, "timeoutSeconds": 300 },
                "/app-health/web/prestop": { "tcpSocket": { "port": 80 }, "timeoutSeconds": 300 } })
    );
}

#[test]
fn wrong_handlers_are_named() {
    for (handler, named) in [
        (json!({ "httpGet": { "port": "x" } }), "readinessProbe names port \"x\", and no port"),
        (json!({ "tcpSocket": {} }), "readinessProbe names port null"),
        (json!({ "tcpSocket": { "port": 70000 } }), "readinessProbe names port 70000"),
        (json!({ "tcpSocket": { "port": "0" } }), "readinessProbe names port \"0\""),
        (
            json!({ "httpGet": { "port": 1, "httpHeaders": [{ "name": "a" }] } }),
            "a header that has no name or no value",
        ),
        (
            json!({ "httpGet": { "port": 1, "httpHeaders": vec![json!({ "name": "a", "value": "" }); 33] } }),
            "33 headers",
        ),
        (json!({ "httpGet": { "port": 1, "scheme": "http" } }), "neither HTTP nor HTTPS"),
        (json!({ "httpGet": { "port": 1, "path": "a".repeat(3000) } }), "a path of more than 2048 bytes"),
    ] {
        let said = refused(&pod(json!({}), json!({ "name": "web", "readinessProbe": handler })), &labelled());
        assert!(said.contains(named), "{said}");
    }
    let probe = json!({ "tcpSocket": { "port": 1 } });
    let container = |number: usize| json!({ "name": format!("c{number}"), "readinessProbe": probe, "livenessProbe": probe });
    let many = json!({ "spec": { "containers": (0..33).map(container).collect::<Vec<_>>() } });
    assert_eq!(refused(&many, &labelled()), "66 probes and hooks; the sidecar takes 64");
}

#[test]
fn annotations_of_pod_and_namespace_are_checked_by_their_names() {
    let misspelt = [("inject.culvert.dev/cpulimit", "1")];
    for said in [
        refused(&pod(json!({}), web()), &annotated(&misspelt)),
        refused(&pod(json!({ "inject.culvert.dev/cpulimit": "1" }), web()), &labelled()),
    ] {
        assert!(said.starts_with("annotation inject.culvert.dev/cpulimit is none of sidecar, "), "{said}");
    }
    for (name, value, named) in [
        ("sidecar", "init", "must be native or plain: it is \"init\""),
        ("mesh-documents", "yes", "must be enabled or disabled: it is \"yes\""),
        ("identity-volume", "id", "must be a volume of the pod: it is \"id\""),
    ] {
        let name = format!("inject.culvert.dev/{name}");
        let said = refused(&pod(json!({ name.clone(): value }), web()), &labelled());
        assert_eq!(said, format!("annotation {name} {named}"));
    }
    // Of the API server's own reading, and a namespace's default that the pod takes away.
    let mut pod = pod(json!({ "inject.culvert.dev/mesh-documents": "", "a": null }), web());
    pod = injected_by(&pod, &annotated(&[("inject.culvert.dev/mesh-documents", "enabled")]), Shape::Native);
    assert_eq!(args(&pod), ["--drain-delay=0s", "--drain-time=30s"]);
}

#[test]
fn all_that_is_wrong_is_named_at_once() {
    let container = json!({ "name": "web", "ports": [{ "containerPort": 9901 }], "readinessProbe": { "httpGet": { "port": "x" } } });
    let said = refused(&pod(json!({ "inject.culvert.dev/cpu-limit": "x" }), container), &labelled());
    for named in ["port 9901 is one of the sidecar's", "no port of the container", "must be an amount"] {
        assert!(said.contains(named), "{said}");
    }
}

/// A later webhook puts its containers before the sidecar, and one with a probe behind it.
#[test]
fn a_second_call_mends_what_others_changed_and_nothing_else() {
    for (shape, list) in [(Shape::Native, "initContainers"), (Shape::Plain, "containers")] {
        let probed = json!({ "name": "web", "readinessProbe": { "tcpSocket": { "port": 80 } } });
        let first = injected_by(&pod(json!({}), probed), &labelled(), shape);
        assert!(operations(&first).is_empty());
        // The token that ServiceAccount's admission adds is nothing new.
        let mut more = first.clone();
        more["spec"]["volumes"].as_array_mut().unwrap().push(json!({ "name": "kube-api-access" }));
        assert!(operations(&more).is_empty());

        more["spec"][list].as_array_mut().unwrap().insert(0, json!({ "name": "vault" }));
        more["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "name": "late", "livenessProbe": { "grpc": { "port": 9 } } }));
        let found = operations(&more);
        apply(&mut more, &found).unwrap();
        assert_eq!(more["spec"][list][0]["name"], SIDECAR);
        assert_eq!(more["spec"][list][1]["name"], "vault");
        let args = more["spec"][list][0]["args"].as_array().unwrap();
        assert_eq!(
            args.last().unwrap(),
            "--app-probes={\"/app-health/late/livez\":{\"grpc\":{\"port\":9}},\"/app-health/web/readyz\":{\"tcpSocket\":{\"port\":80}}}"
        );
        assert!(operations(&more).is_empty());
    }
}

fn operations(pod: &Value) -> Vec<Operation> {
    match decide(pod, &labelled(), &settings(Shape::Native)) {
        Decision::Injected(Injected { operations, .. }) => operations,
        other => panic!("{other:?}"),
    }
}

#[test]
fn operations_are_json_patch() {
    let found = operations(&json!({ "spec": { "containers": [web()], "enableServiceLinks": true } }));
    let found: Value = serde_json::to_value(found).unwrap();
    let paths: Vec<_> =
        found.as_array().unwrap().iter().map(|one| (&one["op"], one["path"].as_str().unwrap())).collect();
    let add = json!("add");
    assert_eq!(
        paths,
        [
            (&add, "/spec/initContainers"),
            (&add, "/spec/volumes"),
            (&add, "/spec/enableServiceLinks"),
            (&add, "/spec/terminationGracePeriodSeconds"),
            (&add, "/metadata"),
        ]
    );
    let found = serde_json::to_value(operations(&pod(json!({ "a/b~c": "d" }), web()))).unwrap();
    let last = found.as_array().unwrap().last().unwrap();
    assert_eq!(last["path"], "/metadata/annotations/kubectl.kubernetes.io~1default-container");
}

#[test]
fn what_is_no_pod_is_refused_and_never_a_panic() {
    for (pod, named) in [
        (json!(null), "spec is missing"),
        (json!([]), "spec is missing"),
        (json!({ "spec": 1 }), "spec is no object"),
        (json!({ "spec": {} }), "spec.containers is empty"),
        (json!({ "spec": { "containers": {} } }), "spec.containers is no list"),
        (json!({ "spec": { "containers": [1] } }), "spec.containers is no list"),
        (json!({ "spec": { "containers": [{}], "initContainers": 1 } }), "spec.initContainers is no list"),
        (json!({ "metadata": 1, "spec": { "containers": [{}] } }), "metadata is no object"),
        (
            json!({ "metadata": { "labels": { "a": 1 } }, "spec": { "containers": [{}] } }),
            "\"a\" is 1, which is no text",
        ),
        (
            json!({ "metadata": { "annotations": [] }, "spec": { "containers": [{}] } }),
            "metadata.annotations is no object",
        ),
    ] {
        let said = refused(&pod, &labelled());
        assert!(said.contains(named), "{pod}: {said}");
    }
}
