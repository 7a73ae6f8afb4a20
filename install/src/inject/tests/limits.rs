// SPDX-License-Identifier: Apache-2.0
//! What a sidecar would not start with is refused, and what it relies on is said to the plugin.

use super::*;

fn inject(name: &str) -> String {
    format!("inject.culvert.dev/{name}")
}

#[test]
fn a_sidecar_that_would_not_start_is_refused() {
    for (annotations, namespace, named) in [
        (
            json!({ "culvert.dev/status-port": "9901" }),
            vec![],
            "culvert.dev/status-port is 9901, the port of",
        ),
        (
            json!({ "culvert.dev/inbound-port": "9901" }),
            vec![],
            "culvert.dev/inbound-port is 9901, the port of",
        ),
        (
            json!({ "culvert.dev/outbound-port": "9901" }),
            vec![],
            "culvert.dev/outbound-port is 9901, the port of",
        ),
        (
            json!({ "culvert.dev/redirect-dns": "all", "culvert.dev/dns-port": "9901" }),
            vec![],
            "culvert.dev/dns-port is 9901, the port of",
        ),
        (
            json!({ inject("mesh-documents"): "disabled", inject("dataplane"): "web" }),
            vec![],
            "inject.culvert.dev/mesh-documents is disabled, and inject.culvert.dev/dataplane needs documents",
        ),
        (
            json!({ inject("identity-volume"): "id" }),
            vec![("inject.culvert.dev/mesh-documents", "disabled")],
            "inject.culvert.dev/identity-volume needs documents",
        ),
        (json!({ inject("trust-domain"): "a b" }), vec![], "must be lower-case letters, digits"),
        (json!({ inject("trust-domain"): "a".repeat(256) }), vec![], "must be lower-case letters, digits"),
        (json!({}), vec![("inject.culvert.dev/trust-domain", "$(X)")], "must be lower-case letters, digits"),
        (json!({ inject("dataplane"): "$(X)" }), vec![], "must be a name without $"),
    ] {
        let said = refused(&pod(annotations, web()), &annotated(&namespace));
        assert!(said.contains(named), "{said}");
    }
    // An empty value of the pod's takes a default away.
    let namespace = annotated(&[("inject.culvert.dev/dataplane", "web")]);
    let none = json!({ inject("mesh-documents"): "disabled", inject("dataplane"): "" });
    assert_eq!(args(&injected_by(&pod(none, web()), &namespace, Shape::Native)).len(), 2);
}

#[test]
fn probes_that_the_sidecar_would_not_take_are_refused() {
    let header = |name: &str, value: &str| json!({ "httpGet": { "port": 1, "httpHeaders": [{ "name": name, "value": value }] } });
    for (handler, named) in [
        (header("a", "b\nc"), "\"a\", which is no header line"),
        (header("a", "é"), "\"a\", which is no header line"),
        (header("a b", ""), "\"a b\", which is no header line"),
        (header("", ""), "\"\", which is no header line"),
        (json!({ "httpGet": { "port": 1, "httpHeaders": "a" } }), "headers that are no list"),
        (json!({ "httpGet": { "port": 1, "scheme": 1 } }), "scheme 1, which is neither HTTP nor HTTPS"),
        (json!({ "grpc": { "port": 1, "service": "s".repeat(254) } }), "a service of more than 253 bytes"),
        (json!({ "grpc": { "port": 1, "service": 7 } }), "service 7, which is no text"),
    ] {
        let said = refused(&pod(json!({}), json!({ "name": "web", "livenessProbe": handler })), &labelled());
        assert!(said.contains(named), "{said}");
    }
}

/// Kubernetes makes one dollar of two in a container's arguments, and a value of `$(NAME)`.
#[test]
fn dollars_of_a_probe_reach_the_application() {
    let probe = json!({ "httpGet": { "port": 1, "path": "/a$$b/$(HOME)", "httpHeaders": [{ "name": "a", "value": "$$" }] } });
    let pod = injected(&pod(json!({}), json!({ "name": "web", "livenessProbe": probe })));
    let option = args(&pod)[2];
    assert!(!option.contains('$'), "{option}");
    let option: Value = serde_json::from_str(option.strip_prefix("--app-probes=").unwrap()).unwrap();
    assert_eq!(option["/app-health/web/livez"], probe);
}

#[test]
fn a_container_that_waits_before_a_plain_sidecar_is_refused() {
    let asks = json!({ "tcpSocket": { "port": 1 } });
    for (field, is_refused) in [
        (json!({ "startupProbe": asks }), true),
        (json!({ "livenessProbe": asks }), true),
        (json!({ "lifecycle": { "postStart": asks } }), true),
        // Nothing waits for these before the sidecar is there.
        (json!({ "readinessProbe": asks }), false),
        (json!({ "lifecycle": { "preStop": asks } }), false),
        (json!({ "startupProbe": { "exec": { "command": ["a"] } } }), false),
    ] {
        let mut early = field.clone();
        early["name"] = "early".into();
        early["restartPolicy"] = "Always".into();
        let pod = json!({ "spec": { "initContainers": [early], "containers": [web()] } });
        match decide(&pod, &labelled(), &settings(Shape::Plain)) {
            Decision::Refused(refusal) => {
                assert!(is_refused, "{field}: {refusal}");
                assert!(refusal.to_string().starts_with("init container early: its "), "{refusal}");
            }
            Decision::Injected(_) => assert!(!is_refused, "{field}"),
            Decision::Skipped(skipped) => panic!("{skipped}"),
        }
        injected(&pod);
        // Then the kubelet asks the container itself.
        let mut direct = pod;
        direct["metadata"] = json!({ "annotations": { "culvert.dev/redirect-inbound": "disabled" } });
        injected_by(&direct, &labelled(), Shape::Plain);
    }
}

#[test]
fn ports_clash_by_their_protocol() {
    let all = json!({ "culvert.dev/redirect-dns": "all" });
    for (annotations, port, protocol, remedy) in [
        (all.clone(), 15053, "UDP", Some("set culvert.dev/dns-port")),
        (all.clone(), 15053, "TCP", Some("set culvert.dev/dns-port")),
        (json!({}), 15053, "UDP", None),
        (all.clone(), 15006, "UDP", None),
        (all.clone(), 9901, "UDP", None),
        (all, 15053, "SCTP", None),
        (json!({}), 9901, "TCP", Some("give the application another one")),
    ] {
        let container = json!({ "name": "web", "ports": [{ "containerPort": port, "protocol": protocol }] });
        match (decide(&pod(annotations, container), &labelled(), &settings(Shape::Native)), remedy) {
            (Decision::Injected(_), None) => {}
            (Decision::Refused(refusal), Some(remedy)) => {
                assert_eq!(
                    refusal.to_string().split(remedy).next(),
                    Some(format!("container web: port {port} is one of the sidecar's: ").as_str())
                );
            }
            (other, _) => panic!("{port} {protocol}: {other:?}"),
        }
    }
}

#[test]
fn labels_as_annotations_are_refused() {
    for name in ["culvert.dev/inject", "kuma.io/sidecar-injection"] {
        let as_annotation = json!({ name: "enabled" });
        let said = refused(&pod(as_annotation, web()), &labelled());
        assert_eq!(said, format!("annotation {name} of the pod: it is a label, on the pod or its namespace"));
        let namespace = Namespace { annotations: names(&[(name, "enabled")]), ..Namespace::default() };
        let said = refused(&pod(json!({}), web()), &namespace);
        assert_eq!(
            said,
            format!("annotation {name} of the namespace: it is a label, on the pod or its namespace")
        );
        // The pod's own label decides, whatever its namespace has.
        let mut own = pod(json!({}), web());
        own["metadata"]["labels"] = json!({ "culvert.dev/inject": "enabled" });
        injected_by(&own, &namespace, Shape::Native);
    }
}

/// A node's entry may have other defaults: the annotations are what its sidecar was made for.
#[test]
fn the_pod_says_all_that_its_sidecar_relies_on() {
    for (given, expected) in [
        (
            json!({}),
            json!({ "proxy-uid": "5678", "redirect-inbound": "enabled", "inbound-port": "15006", "outbound-port": "15001",
                "status-port": "15020", "ip-family": "dual", "redirect-dns": "disabled", "redirect": "enabled" }),
        ),
        (
            json!({ "culvert.dev/redirect-dns": "all", "culvert.dev/inbound-port": "1", "culvert.dev/proxy-uid": "",
                "kuma.io/transparent-proxying-ip-family-mode": "ipv4", "culvert.dev/redirect": "enabled" }),
            json!({ "proxy-uid": "5678", "redirect-inbound": "enabled", "inbound-port": "1", "outbound-port": "15001",
                "status-port": "15020", "redirect-dns": "all", "dns-port": "15053", "redirect": "enabled" }),
        ),
    ] {
        let pod = injected(&pod(given, web()));
        let annotations = pod["metadata"]["annotations"].as_object().unwrap();
        let found: Value = annotations
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("culvert.dev/")?.to_owned(), value.clone())))
            .collect();
        assert_eq!(found, expected);
        assert!(operations(&pod).is_empty());
    }
}

#[test]
fn excluded_namespaces_get_no_sidecar() {
    let excluding = Settings { excluded: vec!["ci".to_owned()], ..settings(Shape::Native) };
    for (name, expected) in [
        ("ci", Some("namespace ci is excluded")),
        ("kube-public", Some("namespace kube-public: the cluster's own pods get no sidecar")),
        ("shop", None),
    ] {
        let namespace = Namespace { name: Some(name.to_owned()), ..labelled() };
        let found = match decide(&pod(json!({}), web()), &namespace, &excluding) {
            Decision::Skipped(skipped) => Some(skipped.to_string()),
            Decision::Injected(_) => None,
            Decision::Refused(refusal) => panic!("{refusal}"),
        };
        assert_eq!(found.as_deref(), expected);
    }
}
