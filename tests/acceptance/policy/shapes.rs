// SPDX-License-Identifier: Apache-2.0
//! Pods of every shape through both sides.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::chart::Chart;
use serde_json::{Value, json};

use super::pods::{Shape, others, shapes, with_defaults};
use super::sides::{Namespace, Outcome, Settings, by_policy, by_program};

/// Sends each pod through both sides. Returns those that differ.
pub(super) fn differing(settings: &Settings, shapes: &[Shape]) -> Result<BTreeMap<String, [Outcome; 2]>> {
    let folder = tempfile::tempdir()?;
    let asked: Vec<_> = shapes.iter().map(|shape| (shape.pod.clone(), shape.namespace.clone())).collect();
    let mut differing = BTreeMap::new();
    for (shape, policy) in shapes.iter().zip(by_policy(settings, &asked)?) {
        let Shape { title, pod, namespace, .. } = shape;
        let program = by_program(folder.path(), settings, pod, namespace).with_context(|| title.clone())?;
        if policy != program {
            differing.insert(title.clone(), [policy, program]);
        }
    }
    Ok(differing)
}

/// The pods as an admission sees them: with the API server's defaults.
fn admitted(shapes: &[Shape]) -> Vec<Shape> {
    shapes.iter().map(|shape| Shape { pod: with_defaults(&shape.pod), ..shape.clone() }).collect()
}

pub(super) fn are_equal(settings: &Settings, shapes: &[Shape]) -> Result<()> {
    let differing = differing(settings, shapes)?;
    ensure!(differing.is_empty(), "{} differ:\n{differing:#?}", differing.len());
    Ok(())
}

/// What the manifests of the injector's own tests promise, the policies keep.
#[test]
fn policies_keep_the_promise_of_each_shape() -> Result<()> {
    let (_, shapes) = shapes()?;
    let asked: Vec<_> = shapes.iter().map(|shape| (shape.pod.clone(), shape.namespace.clone())).collect();
    let mut counts = BTreeMap::new();
    for (Shape { title, expected, .. }, outcome) in
        shapes.iter().zip(by_policy(&Settings::of("native"), &asked)?)
    {
        let (kind, reason) = expected.split_once(": ").unwrap_or((expected, ""));
        let kept = match &outcome {
            Outcome::Injected(_) => kind == "injected",
            Outcome::Refused(words) => kind == "refused" && words.contains(reason),
            Outcome::Skipped => kind == "skipped",
        };
        ensure!(kept, "{title}: {expected}, and not {outcome:?}");
        *counts.entry(kind.to_owned()).or_insert(0) += 1;
    }
    ensure!(counts.len() == 3 && counts["injected"] > 40, "{counts:?}");
    Ok(())
}

/// Where a policy cannot do what the program does, it refuses, or leaves a value to the plugin, which refuses it when the pod
/// starts. The page names each of these differences.
#[test]
fn policies_differ_only_as_their_page_says() -> Result<()> {
    let page = Chart::file("POLICY.md")?;
    let different: Vec<_> = others()?.into_iter().filter(|shape| shape.differs.is_some()).collect();
    let found = differing(&Settings::of("native"), &different)?;
    for Shape { title, differs, .. } in &different {
        let differs = differs.as_deref().unwrap_or_default();
        ensure!(page.contains(differs), "{title}: POLICY.md does not tell of {differs:?}");
        match found.get(title).with_context(|| format!("{title}: both sides make the same of it"))? {
            [Outcome::Refused(_), _] => {}
            [Outcome::Injected(_), Outcome::Refused(words)] => {
                ensure!(words.contains(" must be "), "{title}: {words}")
            }
            [Outcome::Skipped, Outcome::Refused(words)] => {
                ensure!(words.contains("it is a label"), "{title}: {words}")
            }
            other => bail!("{title}: {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn policies_and_the_program_make_the_same_of_each_shape() -> Result<()> {
    let (documents, shapes) = shapes()?;
    ensure!(documents >= 72, "{documents} documents");
    are_equal(&Settings::of("native"), &shapes)?;
    are_equal(&Settings::of("native"), &admitted(&shapes))?;
    are_equal(&Settings::of("plain"), &admitted(&shapes))
}

#[test]
fn policies_and_the_program_make_the_same_of_other_pods() -> Result<()> {
    let equal: Vec<_> = others()?.into_iter().filter(|shape| shape.differs.is_none()).collect();
    are_equal(&Settings::of("native"), &equal)?;
    are_equal(&Settings::of("plain"), &admitted(&equal))
}

#[test]
fn policies_and_the_program_say_the_same_of_a_controller() -> Result<()> {
    let (_, shapes) = shapes()?;
    let equal = others()?.into_iter().filter(|shape| shape.differs.is_none());
    let all: Vec<_> = shapes.into_iter().chain(equal).collect();
    let settings = Settings::controlled("native");
    are_equal(&settings, &all)?;
    are_equal(&Settings::controlled("plain"), &admitted(&all))?;
    // That it is there at all, in each pod that is injected.
    let asked: Vec<_> = all.iter().map(|shape| (shape.pod.clone(), shape.namespace.clone())).collect();
    let mut injected = 0;
    for (outcome, (before, _)) in by_policy(&settings, &asked)?.iter().zip(&asked) {
        let Outcome::Injected(pod) = outcome else { continue };
        if before["metadata"]["annotations"]["inject.culvert.dev/decision"].is_string() {
            continue;
        }
        let lists = ["initContainers", "containers"].map(|list| &pod["spec"][list][0]);
        let sidecar =
            lists.into_iter().find(|one| one["name"] == "culvert-sidecar").context("no sidecar first")?;
        ensure!(sidecar["env"].as_array().is_some_and(|all| all.len() == 6), "{pod}");
        injected += 1;
    }
    ensure!(injected > 80, "{injected}");
    Ok(())
}

/// Identities by the kubelet, and those that only volumes of the pods bring.
#[test]
fn policies_and_the_program_say_the_same_of_identities() -> Result<()> {
    let (_, shapes) = shapes()?;
    let equal = others()?.into_iter().filter(|shape| shape.differs.is_none());
    let all: Vec<_> = shapes.into_iter().chain(equal).collect();
    let asked: Vec<_> = all.iter().map(|shape| (shape.pod.clone(), shape.namespace.clone())).collect();
    let requests = Settings { identity: "requests", ..Settings::controlled("native") };
    are_equal(&requests, &all)?;
    are_equal(&Settings { sidecar: "plain", ..requests.clone() }, &admitted(&all))?;
    let with_volume = |outcome: &Outcome| match outcome {
        Outcome::Injected(pod) => {
            let volumes = pod["spec"]["volumes"].as_array();
            volumes.is_some_and(|all| all.iter().any(|volume| volume["name"] == "culvert-identity"))
        }
        _ => false,
    };
    let number = by_policy(&requests, &asked)?.iter().filter(|outcome| with_volume(outcome)).count();
    ensure!(number > 80, "{number}");

    let directory = Settings { identity: "directory", ..Settings::controlled("native") };
    are_equal(&directory, &all)?;
    let refused = |outcome: &Outcome| matches!(outcome, Outcome::Refused(words) if words.contains("its identity: the cluster's"));
    let number = by_policy(&directory, &asked)?.iter().filter(|outcome| refused(outcome)).count();
    ensure!(number > 80, "{number}");
    Ok(())
}

/// Every pair of a pod's and a namespace's labels, and the label where it would be an annotation.
#[test]
fn policies_and_the_program_leave_kumas_label_to_kuma() -> Result<()> {
    let settings = Settings { kuma_label: false, ..Settings::of("native") };
    let shape = |title: &str, metadata: Value, namespace: Value| Shape {
        title: title.to_owned(),
        expected: String::new(),
        pod: json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": { "containers": [{ "name": "web" }] } }),
        namespace: Namespace::of(&namespace),
        differs: None,
    };
    let kuma = |value: &str| json!({ "kuma.io/sidecar-injection": value });
    let own = json!({ "culvert.dev/inject": "enabled", "kuma.io/sidecar-injection": "off" });
    let asking = [
        shape("the pod says no to Kuma", json!({ "name": "a", "labels": kuma("disabled") }), json!({})),
        shape("a value that Kuma refuses", json!({ "name": "b", "labels": kuma("on") }), json!({})),
        shape("an annotation of Kuma's", json!({ "name": "c", "annotations": kuma("enabled") }), json!({})),
        shape("a namespace of both", json!({ "name": "d" }), json!({ "labels": own })),
        shape("a pod of both", json!({ "name": "e", "labels": own }), json!({ "labels": {} })),
    ];
    let silent = [
        shape("Kuma's pod", json!({ "name": "f", "labels": kuma("enabled") }), json!({ "labels": {} })),
        shape("Kuma's namespace", json!({ "name": "g" }), json!({ "labels": kuma("enabled") })),
    ];
    let outcomes = |shapes: &[Shape], settings: &Settings| {
        let pods: Vec<_> = shapes.iter().map(|shape| (shape.pod.clone(), shape.namespace.clone())).collect();
        by_policy(settings, &pods)
    };
    for outcome in outcomes(&asking, &settings)? {
        ensure!(matches!(outcome, Outcome::Injected(_)), "{outcome:?}");
    }
    ensure!(outcomes(&silent, &settings)?.iter().all(|outcome| *outcome == Outcome::Skipped));
    are_equal(&settings, &asking)?;
    are_equal(&settings, &silent)?;
    let equal: Vec<_> = others()?.into_iter().filter(|shape| shape.differs.is_none()).collect();
    are_equal(&settings, &equal)
}

#[test]
fn policies_know_the_defaults_of_the_nodes() -> Result<()> {
    let redirect =
        json!({ "proxyUid": 1337, "redirectDns": "10.0.0.1", "statusPort": 15099, "dropInvalid": true });
    let settings =
        Settings { redirect, locked: json!(["proxyUid", "inboundPort"]), ..Settings::of("native") };
    let (_, shapes) = shapes()?;
    are_equal(&settings, &admitted(&shapes))?;
    let equal: Vec<_> = others()?.into_iter().filter(|shape| shape.differs.is_none()).collect();
    are_equal(&settings, &admitted(&equal))
}

/// What the sidecar takes at most, and one more.
#[test]
fn policies_know_the_limits_of_the_sidecar() -> Result<()> {
    let shape = |title: String, containers: Value| {
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" }, "spec": { "containers": containers } });
        Shape { title, expected: String::new(), pod, namespace: Namespace::enabled(), differs: None }
    };
    let probed =
        |title: String, probe: Value| shape(title, json!([{ "name": "web", "readinessProbe": probe }]));
    let mut shapes = Vec::new();
    for number in [2046, 2047, 2048, 2049] {
        for root in ["", "/", "/ "] {
            let path = format!("{root}{}", "x".repeat(number - root.len()));
            shapes.push(probed(
                format!("path {root:?} {number}"),
                json!({ "httpGet": { "port": 80, "path": path } }),
            ));
        }
    }
    for number in [253, 254] {
        let service = "x".repeat(number);
        shapes
            .push(probed(format!("service {number}"), json!({ "grpc": { "port": 80, "service": service } })));
    }
    for number in [32, 33] {
        let headers: Vec<_> = (0..number).map(|n| json!({ "name": format!("a{n}"), "value": "b" })).collect();
        shapes.push(probed(
            format!("headers {number}"),
            json!({ "httpGet": { "port": 80, "httpHeaders": headers } }),
        ));
    }
    for number in [64, 65] {
        let of =
            |n: usize| json!({ "name": format!("c{n}"), "livenessProbe": { "tcpSocket": { "port": 80 } } });
        shapes.push(shape(format!("probes {number}"), (0..number).map(of).collect()));
    }
    for number in [255, 256] {
        let mut domain = shape(format!("trust domain {number}"), json!([{ "name": "web" }]));
        domain.pod["metadata"]["annotations"] =
            json!({ "inject.culvert.dev/trust-domain": "x".repeat(number) });
        shapes.push(domain);
    }
    for mesh in ["", "other"] {
        let mut labelled = shape(format!("mesh {mesh:?}"), json!([{ "name": "web" }]));
        labelled.pod["metadata"]["labels"]["kuma.io/mesh"] = mesh.into();
        shapes.push(labelled);
    }
    for number in [512, 513] {
        let ports: Vec<_> = (0..number).map(|n| json!({ "containerPort": 20_000 + n })).collect();
        shapes.push(shape(format!("ports {number}"), json!([{ "name": "web", "ports": ports }])));
    }
    are_equal(&Settings::of("native"), &shapes)?;
    are_equal(&Settings::controlled("native"), &shapes)
}
