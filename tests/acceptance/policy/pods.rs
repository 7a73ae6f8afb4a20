// SPDX-License-Identifier: Apache-2.0
//! The pods of manifests, in the form in which the API server passes them on.

use std::fs;

use anyhow::{Context, Result};
use culvert_tests::chart::{Rendered, repository, yaml};
use serde_json::{Map, Value, json};

use super::sides::Namespace;

/// A pod, and the outcome that its manifest promises.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub title: String,
    /// The manifest's first comment: `injected`, `skipped: …`, `refused: …` or `unchanged`.
    pub expected: String,
    pub pod: Value,
    pub namespace: Namespace,
    /// The reason why a policy may make something else of it.
    pub differs: Option<String>,
}

/// The shapes of the injector's own tests, with the number of their documents.
pub(super) fn shapes() -> Result<(usize, Vec<Shape>)> {
    let folder = repository().join("install/src/command/inject/shapes");
    let mut files = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut shapes = Vec::new();
    let mut documents = 0;
    for file in files {
        let (number, found) = shapes_of(&fs::read_to_string(file)?)?;
        documents += number;
        shapes.extend(found);
    }
    Ok((documents, shapes))
}

/// The pods of pods.yaml.
pub(super) fn others() -> Result<Vec<Shape>> {
    let text = fs::read_to_string(repository().join("tests/acceptance/policy/pods.yaml"))?;
    let of_row = |row: &Value| {
        let title = row["title"].as_str().with_context(|| format!("no title: {row}"))?.to_owned();
        let metadata = json!({ "name": "web", "labels": row["labels"], "annotations": row["annotations"] });
        let web = json!({ "containers": [{ "name": "web", "image": "web:1" }] });
        let spec = row.get("spec").unwrap_or(&web);
        let pod = decoded(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }));
        let namespace = Namespace::of(&row["namespace"]);
        let differs = row["differs"].as_str().map(str::to_owned);
        Ok(Shape { title, expected: String::new(), pod, namespace, differs })
    };
    yaml(&text)?.as_array().context("no list")?.iter().map(of_row).collect()
}

/// Shapes of one text.
fn shapes_of(text: &str) -> Result<(usize, Vec<Shape>)> {
    let mut shapes = Vec::new();
    let mut documents = 0;
    for text in text.split("---\n") {
        documents += 1;
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# ")).context("no outcome")?;
        for document in Rendered::parse(text.to_owned())?.documents {
            let mut found = Vec::new();
            within(&document, &mut found);
            shapes.extend(found.into_iter().map(|(title, pod)| {
                let name = pod["metadata"]["namespace"].as_str().unwrap_or("shop").to_owned();
                let namespace = Namespace { name, ..Namespace::enabled() };
                Shape { title, expected: expected.to_owned(), pod, namespace, differs: None }
            }));
        }
    }
    Ok((documents, shapes))
}

fn within(value: &Value, found: &mut Vec<(String, Value)>) {
    let kind = value["kind"].as_str().unwrap_or_default();
    if kind == "List" {
        value["items"].as_array().into_iter().flatten().for_each(|item| within(item, found));
        return;
    }
    if !["v1", "apps/v1", "batch/v1"].contains(&value["apiVersion"].as_str().unwrap_or_default()) {
        return;
    }
    let path = match kind {
        "Pod" => "",
        "CronJob" => "/spec/jobTemplate/spec/template",
        "Service" => return,
        _ => "/spec/template",
    };
    let Some(template) = value.pointer(path) else { return };
    let name = ["name", "generateName"].iter().find_map(|key| value["metadata"][*key].as_str());
    let name = name.unwrap_or("nameless");
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"] });
    if !pod["metadata"].is_object() {
        pod["metadata"] = json!({});
    }
    // A controller's pod has no name yet when it is admitted.
    if kind == "Pod" {
        pod["metadata"]["name"] = name.into();
    } else {
        pod["metadata"]["generateName"] = format!("{name}-").into();
    }
    found.push((format!("{kind} {name}"), decoded(pod)));
}

/// Takes away what a typed object does not keep: nulls, and empty lists, labels and annotations.
fn decoded(mut pod: Value) -> Value {
    for key in ["labels", "annotations"] {
        if pod["metadata"][key].as_object().is_some_and(Map::is_empty) {
            pod["metadata"][key] = Value::Null;
        }
    }
    without_nulls(&mut pod);
    pod
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null() && !value.as_array().is_some_and(Vec::is_empty));
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Adds what the API server's defaults add where a policy looks: an admission sees the pod with them.
pub(super) fn with_defaults(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let spec = &mut pod["spec"];
    defaults(
        spec,
        &json!({ "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
                 "enableServiceLinks": true, "schedulerName": "default-scheduler", "securityContext": {} }),
    );
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            defaults(
                container,
                &json!({ "terminationMessagePath": "/dev/termination-log", "resources": {} }),
            );
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                defaults(port, &json!({ "protocol": "TCP" }));
            }
            for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
                let Some(probe) = container.get_mut(probe) else { continue };
                defaults(
                    probe,
                    &json!({ "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 }),
                );
                handler(probe);
            }
            for hook in ["postStart", "preStop"] {
                container
                    .get_mut("lifecycle")
                    .and_then(|hooks| hooks.get_mut(hook))
                    .into_iter()
                    .for_each(handler);
            }
        }
    }
    pod
}

fn handler(handler: &mut Value) {
    if let Some(http) = handler.get_mut("httpGet") {
        defaults(http, &json!({ "path": "/", "scheme": "HTTP" }));
    }
    if let Some(grpc) = handler.get_mut("grpc") {
        defaults(grpc, &json!({ "service": "" }));
    }
}

fn defaults(value: &mut Value, defaults: &Value) {
    let (Some(value), Some(defaults)) = (value.as_object_mut(), defaults.as_object()) else { return };
    for (key, default) in defaults {
        value.entry(key.clone()).or_insert_with(|| default.clone());
    }
}
