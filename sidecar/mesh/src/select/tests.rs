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
  {port: 80, name: api, tags: {kuma.io/service: here, version: '1'}},
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
fn policy<P: Resource>(name: &str, namespace: &str, target: &str) -> String {
    format!(
        "---\n{{apiVersion: kuma.io/v1alpha1, kind: {}, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{targetRef: {target}}}}}\n",
        P::NAME
    )
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
    let spelt = |one: &Effective<'_, P>| match one.document.namespace.as_deref() {
        Some("x") | None => one.document.name.clone(),
        Some(namespace) => format!("{}.{namespace}", one.document.name),
    };
    effective(&documents, &[subject]).iter().map(spelt).collect()
}

/// Targets from the least to the most specific one, and some that are about other pods.
const TARGETS: [(&str, &str); 10] = [
    ("mesh", "{kind: Mesh}"),
    ("tags", "{kind: MeshSubset, tags: {version: '1'}}"),
    ("service", "{kind: MeshService, name: here}"),
    ("any", "{kind: Dataplane}"),
    ("labels", "{kind: Dataplane, labels: {app: here}}"),
    ("name", "{kind: Dataplane, name: here, namespace: shop}"),
    ("inbound", "{kind: Dataplane, sectionName: api}"),
    ("inbound-of-name", "{kind: Dataplane, name: here, namespace: shop, sectionName: '80'}"),
    ("other-service", "{kind: MeshService, name: web}"),
    ("gateways", "{kind: Mesh, proxyTypes: [Gateway]}"),
];

fn holds_for<P: FromSpec>(with_sections: bool) {
    let about: Vec<_> = TARGETS
        .iter()
        .filter(|(_, target)| with_sections || !target.contains("sectionName"))
        .map(|(name, target)| policy::<P>(name, "x", target))
        .collect();
    let expected = ["inbound-of-name", "inbound", "name", "labels", "any", "service", "tags", "mesh"];
    let expected = &expected[if with_sections { 0 } else { 2 }..];
    let backwards: String = about.iter().rev().map(String::as_str).collect();
    for (name, documents) in [("forwards", about.concat()), ("backwards", backwards)] {
        assert_eq!(order::<P>(&documents, true), expected, "{}, {name}", P::NAME);
    }
    let even: String = ["b", "c", "a"].map(|name| policy::<P>(name, "x", "{kind: Mesh}")).concat();
    assert_eq!(order::<P>(&even, false), ["a", "b", "c"], "{}: by name where even", P::NAME);
    let namesakes = policy::<P>("a", "one", "{kind: Mesh}") + &policy::<P>("a", "two", "{kind: Mesh}");
    assert_eq!(order::<P>(&namesakes, false), ["a.two", "a.one"], "{}: the later of namesakes", P::NAME);
    let specific = policy::<P>("z", "x", "{kind: MeshService, name: here}") + &even;
    assert_eq!(order::<P>(&specific, false)[0], "z", "{}: the more specific before the name", P::NAME);
}

#[test]
fn the_most_specific_policy_comes_first_in_any_order_of_documents() {
    holds_for::<MeshTls>(true);
    holds_for::<MeshTrafficPermission>(true);
    holds_for::<MeshAccessLog>(false);
}

#[test]
fn a_policy_counts_by_the_subject_that_it_is_least_specific_about() {
    let text = policy::<MeshTls>("b", "x", "{kind: MeshService, name: here}")
        + &policy::<MeshTls>("a", "x", "{kind: MeshSubset, tags: {version: '1'}}")
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
        let policies = effective::<MeshTls>(&documents, subjects);
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
