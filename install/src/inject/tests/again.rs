// SPDX-License-Identifier: Apache-2.0
//! A second call for a pod whose annotations are others by then.

use super::*;

#[test]
fn a_sidecar_for_other_annotations_is_refused_and_no_probe_is_lost() {
    let probed = json!({ "name": "web", "readinessProbe": { "tcpSocket": { "port": 80 } } });
    let first = injected(&pod(json!({}), probed));
    for (name, value, named) in [
        ("culvert.dev/status-port", "15099", "lacks --status-address=[::]:15099, has status port 15020"),
        ("culvert.dev/inbound-port", "1", "lacks --inbound-port=1"),
        ("culvert.dev/redirect-dns", "all", "lacks --dns-port=15053"),
        ("culvert.dev/redirect-inbound", "disabled", "lacks --verify-redirect=off"),
        ("culvert.dev/proxy-uid", "77", "runs as uid 5678"),
        ("inject.culvert.dev/dataplane", "web", "lacks --resources=/etc/culvert/mesh, lacks --dataplane=web"),
    ] {
        let mut changed = first.clone();
        changed["metadata"]["annotations"][name] = value.into();
        assert_eq!(
            refused(&changed, &labelled()),
            format!(
                "container culvert-sidecar was made for other annotations than the pod has now: it {named}. Change them where the \
                 pod has no sidecar yet, and inject that"
            )
        );
    }
    // The other way around: what the sidecar has, and nothing asks for.
    let mut changed = injected(&pod(json!({ "culvert.dev/redirect-dns": "all" }), web()));
    changed["metadata"]["annotations"]["culvert.dev/redirect-dns"] = "disabled".into();
    assert!(refused(&changed, &labelled()).contains("it has --dns-port=15053."));
}

#[test]
fn defaults_of_the_namespace_and_options_by_hand_may_differ() {
    let namespace = annotated(&[("inject.culvert.dev/dataplane", "web")]);
    let mut first = injected_by(&pod(json!({}), web()), &namespace, Shape::Native);
    first["spec"]["initContainers"][0]["args"]
        .as_array_mut()
        .unwrap()
        .push("--access-log=/dev/stdout".into());
    assert!(operations(&first).is_empty());
}

#[test]
fn annotations_that_went_come_back() {
    let mut changed = injected(&pod(json!({}), web()));
    let annotations = changed["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove("culvert.dev/redirect");
    annotations.remove("culvert.dev/proxy-uid");
    let found = operations(&changed);
    let paths: Vec<_> = found.iter().map(Operation::path).collect();
    assert_eq!(
        paths,
        ["/metadata/annotations/culvert.dev~1proxy-uid", "/metadata/annotations/culvert.dev~1redirect"]
    );
}
