// SPDX-License-Identifier: Apache-2.0
//! The same pods by the webhook and by `inject --file`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use culvert_tests::process::binaries::Binaries;
use serde_json::{Value, json};

use super::{Cluster, IMAGE, Injector, patched, review};

/// Kinds with a pod, and its place.
const KINDS: [(&str, &str); 9] = [
    ("Pod", ""),
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("ReplicationController", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
    ("PodTemplate", "/template"),
];

/// The documents of the folder of shapes, each a pod in one of its forms.
fn documents() -> Result<Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../install/src/command/inject/shapes");
    let mut documents = Vec::new();
    for file in fs::read_dir(folder)? {
        documents.extend(fs::read_to_string(file?.path())?.split("---\n").map(str::to_owned));
    }
    Ok(documents)
}

fn parsed(text: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(text)?)
}

/// The pods of a document, with the namespaces that they would be made in.
fn pods(document: &Value) -> Vec<(Value, Option<String>)> {
    let kind = document["kind"].as_str().unwrap_or_default();
    if let (Some(items), true) = (document["items"].as_array(), kind.ends_with("List")) {
        let of_item = |item: &Value| {
            let mut item = item.clone();
            if item["kind"].is_null() {
                item["kind"] = kind.trim_end_matches("List").into();
                item["apiVersion"] = document["apiVersion"].clone();
            }
            pods(&item)
        };
        return items.iter().flat_map(of_item).collect();
    }
    let is_kubernetes =
        ["v1", "apps/v1", "batch/v1"].contains(&document["apiVersion"].as_str().unwrap_or_default());
    let place = KINDS.iter().find(|(name, _)| *name == kind && is_kubernetes);
    let pod = place.and_then(|(_, place)| document.pointer(place)).cloned();
    let namespace = document["metadata"]["namespace"].as_str().map(str::to_owned);
    pod.map(|pod| (pod, namespace)).into_iter().collect()
}

/// The pod as `inject --file` writes it, or what it says on stderr.
fn by_file(folder: &Path, document: &str, options: &[&str]) -> Result<Result<Vec<Value>, String>> {
    let file = folder.join("shape.yaml");
    fs::write(&file, document)?;
    let output = Command::new(&Binaries::built()?.install)
        .args(["inject", "--image", IMAGE, "--file"])
        .arg(&file)
        .args(options)
        .output()?;
    let (text, said) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    if !output.status.success() {
        return Ok(Err(said));
    }
    Ok(Ok(pods(&parsed(&text)?).into_iter().map(|(pod, _)| pod).collect()))
}

/// Metadata and spec of a pod: what both faces decide about.
fn essence(pod: &Value) -> Value {
    let metadata = &pod["metadata"];
    json!({ "labels": metadata["labels"], "annotations": metadata["annotations"], "spec": pod["spec"] })
}

fn by_webhook(
    cluster: &Cluster,
    injector: &Injector,
    pod: &Value,
    namespace: &str,
) -> Result<Result<Value, String>> {
    let mut pod = pod.clone();
    if !pod["metadata"].is_object() {
        pod["metadata"] = json!({});
    }
    pod["metadata"]["namespace"] = namespace.into();
    let response = cluster.review(injector, &review(&pod))?;
    if response["allowed"] == true {
        return Ok(Ok(patched(&pod, &response)?));
    }
    Ok(Err(response["status"]["message"].as_str().context("a message")?.to_owned()))
}

#[test]
fn every_shape_of_a_pod_has_the_same_outcome_by_webhook_and_by_file() -> Result<()> {
    have_the_same_outcome(&[])
}

#[test]
fn every_shape_of_a_pod_has_the_same_outcome_where_a_controller_is() -> Result<()> {
    have_the_same_outcome(&[
        "--control",
        "https://culvert-controller.mesh.svc:15012",
        "--trust-domain",
        "mesh.example",
    ])
}

fn have_the_same_outcome(options: &[&str]) -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(options)?;
    let folder = tempfile::tempdir()?;
    let (mut injected, mut skipped, mut refused) = (0, 0, 0);
    for document in documents()? {
        let Ok(value) = parsed(&document) else { continue };
        let file = by_file(folder.path(), &document, options)?;
        let pods = pods(&value);
        let mut outcomes = Vec::new();
        for (pod, namespace) in &pods {
            let namespace = namespace.as_deref().unwrap_or("shop");
            cluster.server.namespace_unseen(namespace, &[("culvert.dev/inject", "enabled")]);
            outcomes.push(by_webhook(&cluster, &injector, pod, namespace)?);
        }
        match file {
            Err(said) => {
                refused += 1;
                let reasons: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
                ensure!(!reasons.is_empty(), "{document}: refused by file only: {said}");
                for reason in reasons {
                    let words = reason.trim_start_matches("culvert: ");
                    ensure!(said.contains(words), "{document}\nby webhook: {words}\nby file: {said}");
                }
            }
            Ok(after) => {
                ensure!(after.len() == outcomes.len(), "{document}");
                for ((after, outcome), (before, _)) in after.iter().zip(outcomes).zip(&pods) {
                    let by_webhook = outcome.map_err(|reason| anyhow::anyhow!("{document}: {reason}"))?;
                    assert_eq!(essence(&by_webhook), essence(after), "{document}");
                    if essence(after) == essence(before) { skipped += 1 } else { injected += 1 }
                }
            }
        }
    }
    ensure!(injected >= 30 && skipped >= 10 && refused >= 10, "{injected} {skipped} {refused}");
    Ok(())
}
