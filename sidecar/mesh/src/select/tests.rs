// SPDX-License-Identifier: Apache-2.0
//! The order of policies in effect, for each kind that is a policy.

use super::*;
use crate::context::Context;
use crate::document::Document;
use crate::kinds::dataplane::Dataplane;
use crate::kinds::mesh_access_log::MeshAccessLog;
use crate::kinds::mesh_tls::MeshTls;
use crate::kinds::mesh_traffic_permission::MeshTrafficPermission;
use crate::kinds::proxy_template::ProxyTemplate;
use crate::kinds::{FromSpec, Resource};
use crate::load::Loaded;
use std::path::Path;

const POD: &str = "---
kind: Dataplane
apiVersion: kuma.io/v1alpha1
metadata: {name: here, namespace: shop, labels: {app: here}}
spec: {networking: {address: 10.0.0.2, inbound: [
  {port: 80, name: api, tags: {kuma.io/service: here, version: '1', kuma.io/zone: east}},
  {port: 81, name: ops, tags: {kuma.io/service: here-ops, version: '1'}}]}}
";

fn read(text: &str) -> Vec<Document> {
    let mut loaded = Loaded::default();
    let context =
        Context { mesh: "default".into(), dataplane: Some("here.shop".into()), ..Context::default() };
    loaded.add(&context, text, Path::new("test.yaml"));
    assert_eq!(loaded.errors, []);
    loaded.found.documents
}

/// A policy as `kubectl` prints it.
fn policy<P: Resource>(name: &str, labels: &str, target: &str) -> String {
    format!(
        "---\n{{apiVersion: kuma.io/v1alpha1, kind: {}, metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}, \
         spec: {{targetRef: {target}, {}}}}}\n",
        P::NAME,
        says(P::NAME)
    )
}

/// A policy needs something to say.
fn says(kind: &str) -> &'static str {
    match kind {
        "MeshTrafficPermission" => "from: [{targetRef: {kind: Mesh}, default: {action: Allow}}]",
        "MeshAccessLog" => "rules: [{default: {backends: []}}]",
        _ => "rules: [{default: {mode: Strict}}]",
    }
}

/// Names of the policies in effect for the pod's first inbound, or for the pod.
fn order<P: FromSpec>(policies: &str, of_inbound: bool) -> Vec<String> {
    let documents = read(&format!("{policies}{POD}"));
    let documents: Vec<_> = documents.iter().collect();
    let pod = documents[documents.len() - 1];
    let dataplane = Dataplane::from_spec(&pod.spec).unwrap();
    let inbound = &dataplane.networking.inbound[0];
    let tags: Vec<_> = if of_inbound { vec![&*inbound.tags] } else { dataplane.tags().collect() };
    let subject =
        Subject { pod: Some((pod, dataplane)), tags: &tags, inbound: Some(inbound).filter(|_| of_inbound) };
    effective(&documents, &[subject]).iter().map(|one: &Effective<'_, P>| one.document.name.clone()).collect()
}

/// `targetRef`, and labels of the policy, from the least to the most specific one. Those of a row are even: Kuma's order.
const ORDER: [&[(&str, &str)]; 14] = [
    &[("{kind: Mesh}", "kuma.io/origin: global")],
    &[("{kind: Mesh}", ""), ("{kind: Mesh, proxyTypes: [Sidecar]}", "kuma.io/policy-role: system")],
    &[("{kind: Mesh}", "kuma.io/policy-role: producer")],
    &[("{kind: Mesh}", "kuma.io/policy-role: consumer")],
    &[("{kind: Mesh}", "kuma.io/policy-role: workload-owner")],
    &[("{kind: Mesh}", "kuma.io/origin: zone"), ("{kind: Mesh}", "kuma.io/origin: zone, kuma.io/zone: east")],
    &[("{kind: Mesh}", "kuma.io/origin: zone, kuma.io/policy-role: workload-owner")],
    &[("{kind: Dataplane}", ""), ("{kind: Dataplane, labels: {app: here}}", "")],
    &[
        ("{kind: Dataplane, sectionName: api}", ""),
        ("{kind: Dataplane, sectionName: '80'}", ""),
        ("{kind: Dataplane, labels: {app: here}, sectionName: api}", ""),
    ],
    &[("{kind: Dataplane, name: here, namespace: shop}", ""), ("{kind: Dataplane, name: here.shop}", "")],
    &[("{kind: Dataplane, name: here, sectionName: api}", "")],
    &[
        ("{kind: MeshSubset, tags: {version: '1'}}", ""),
        ("{kind: MeshSubset, tags: {kuma.io/service: here, version: '*'}}", ""),
        ("{kind: MeshSubset}", ""),
    ],
    &[("{kind: MeshService, name: here}", "")],
    &[("{kind: MeshServiceSubset, name: here, tags: {version: '1'}}", "")],
];

/// Policies that are about other pods.
const ELSEWHERE: [(&str, &str); 8] = [
    ("{kind: MeshService, name: web}", ""),
    ("{kind: MeshSubset, tags: {version: '2'}}", ""),
    ("{kind: Mesh, proxyTypes: [Gateway]}", ""),
    ("{kind: Dataplane, labels: {app: web}}", ""),
    ("{kind: Dataplane, name: here, namespace: bank}", ""),
    ("{kind: Dataplane, sectionName: web}", ""),
    ("{kind: Mesh}", "kuma.io/origin: zone, kuma.io/zone: west"),
    ("{kind: Mesh}", "kuma.io/policy-role: consumer, k8s.kuma.io/namespace: bank"),
];

/// Compares each pair of targets that the kind has, with both names and in both orders of documents.
fn holds_for<P: FromSpec>(has: impl Fn(&str) -> bool) {
    let has = |(target, _): &&(&str, &str)| has(target);
    for (row, less) in ORDER.iter().enumerate() {
        for (target, labels) in less.iter().filter(has) {
            for (more_row, more) in ORDER.iter().enumerate().skip(row) {
                for (more_target, more_labels) in more.iter().filter(has) {
                    for (name, more_name) in [("a", "b"), ("b", "a")] {
                        let one = policy::<P>(name, labels, target);
                        let other = policy::<P>(more_name, more_labels, more_target);
                        let first = if row == more_row { "a" } else { more_name };
                        for documents in [format!("{one}{other}"), format!("{other}{one}")] {
                            let order = order::<P>(&documents, true);
                            let what = format!("{} {target} {labels} < {more_target} {more_labels}", P::NAME);
                            assert_eq!((order.len(), order[0].as_str()), (2, first), "{what}");
                        }
                    }
                }
            }
        }
    }
    for (target, labels) in ELSEWHERE.iter().filter(has) {
        assert_eq!(
            order::<P>(&policy::<P>("a", labels, target), true),
            <[String; 0]>::default(),
            "{} {target} {labels}",
            P::NAME
        );
    }
    // A policy of a producer is for the clients of all zones.
    let producer = "kuma.io/policy-role: producer, kuma.io/origin: zone, kuma.io/zone: west";
    assert_eq!(order::<P>(&policy::<P>("a", producer, "{kind: Mesh}"), true), ["a"], "{}", P::NAME);
}

#[test]
fn policies_are_in_kumas_order_whatever_their_names_and_places() {
    holds_for::<MeshTls>(|target| !target.contains("MeshService"));
    holds_for::<MeshTrafficPermission>(|_| true);
    holds_for::<MeshAccessLog>(|target| !target.contains("sectionName"));
}

#[test]
fn even_policies_are_ordered_by_the_names_that_they_were_written_with() {
    let shown = |name: &str, shown: &str| {
        policy::<MeshTls>(name, &format!("kuma.io/display-name: {shown}"), "{kind: Mesh}")
    };
    let hashed = shown("a-x2", "z") + &shown("z-x1", "a") + &policy::<MeshTls>("m", "", "{kind: Mesh}");
    assert_eq!(order::<MeshTls>(&hashed, false), ["z-x1", "m", "a-x2"]);
    let of = |namespace| policy::<MeshTls>("a", "", "{kind: Mesh}").replace("shop", namespace);
    let documents = read(&format!("{}{}", of("one"), of("two")));
    let documents: Vec<_> = documents.iter().collect();
    let any = Subject { pod: None, tags: &[], inbound: None };
    let first = effective::<MeshTls>(&documents, &[any])[0].document;
    assert_eq!(first.namespace.as_deref(), Some("two"), "the later of namesakes");
}

#[test]
fn a_policy_counts_by_the_subject_that_it_is_least_specific_about() {
    let text = policy::<MeshTrafficPermission>("b", "", "{kind: MeshService, name: here}")
        + &policy::<MeshTrafficPermission>("a", "", "{kind: MeshSubset, tags: {version: '1'}}")
        + POD;
    let documents = read(&text);
    let documents: Vec<_> = documents.iter().collect();
    let dataplane = Dataplane::from_spec(&documents[2].spec).unwrap();
    let tags: Vec<_> = dataplane.tags().collect();
    let each: Vec<_> = tags
        .chunks(1)
        .map(|tags| Subject { pod: Some((documents[2], dataplane)), tags, inbound: None })
        .collect();
    let names = |subjects: &[Subject<'_>]| {
        let policies = effective::<MeshTrafficPermission>(&documents, subjects);
        policies.iter().map(|one| one.document.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(names(&each[..1]), ["b", "a"]);
    assert_eq!(names(&each), ["a"], "the second inbound is another service");
}

#[test]
fn a_template_is_as_specific_as_the_selector_that_says_most() {
    let template = |name: &str, selectors: &str| {
        format!(
            "---\n{{type: ProxyTemplate, name: {name}, selectors: [{selectors}], conf: {{imports: [default-proxy]}}}}\n"
        )
    };
    for (name, templates, expected) in [
        ("none fits", template("a", "{match: {kuma.io/service: web}}"), vec![]),
        (
            "a value before any value",
            template("a", "{match: {kuma.io/service: '*', version: '*'}}")
                + &template("b", "{match: {kuma.io/service: here}}"),
            vec!["b", "a"],
        ),
        (
            "the best selector counts",
            template("a", "{match: {kuma.io/service: here}}")
                + &template(
                    "b",
                    "{match: {kuma.io/service: '*'}}, {match: {kuma.io/service: here, version: '1'}}",
                ),
            vec!["b", "a"],
        ),
        (
            "by name where even",
            template("b", "{match: {kuma.io/service: here}}")
                + &template("a", "{match: {kuma.io/service: here-ops}}"),
            vec!["a", "b"],
        ),
    ] {
        assert_eq!(order::<ProxyTemplate>(&templates, false), expected, "{name}");
    }
}
