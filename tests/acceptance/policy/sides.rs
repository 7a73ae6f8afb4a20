// SPDX-License-Identifier: Apache-2.0
//! Both sides: `culvert-install inject --file`, and the expressions of the chart's policies in a CEL evaluator.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::chart::{Chart, NAMESPACE, Rendered, repository, yaml};
use culvert_tests::process::binaries::Binaries;
use serde_json::{Value, json};

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    Skipped,
    /// The reasons, joined.
    Refused(String),
    Injected(Value),
}

/// A pod's namespace.
#[derive(Debug, Clone)]
pub(super) struct Namespace {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl Namespace {
    /// A namespace that asks for sidecars.
    pub(super) fn enabled() -> Self {
        let labels = [("culvert.dev/inject".to_owned(), "enabled".to_owned())].into();
        Self { name: "shop".to_owned(), labels, annotations: BTreeMap::new() }
    }

    /// The same with what is given.
    pub(super) fn of(given: &Value) -> Self {
        let map = |key: &str| {
            let pairs = given[key].as_object()?.iter();
            Some(
                pairs
                    .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                    .collect(),
            )
        };
        let Self { name, labels, annotations } = Self::enabled();
        Self {
            name: given["name"].as_str().map_or(name, str::to_owned),
            labels: map("labels").unwrap_or(labels),
            annotations: map("annotations").unwrap_or(annotations),
        }
    }

    fn object(&self) -> Value {
        let mut labels = self.labels.clone();
        labels.insert("kubernetes.io/metadata.name".to_owned(), self.name.clone());
        let mut metadata = json!({ "labels": labels });
        // As the API server passes it on: what is empty is absent.
        if !self.annotations.is_empty() {
            metadata["annotations"] = json!(self.annotations);
        }
        json!({ "metadata": metadata })
    }
}

/// The chart's values beside what both sides are given.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub sidecar: &'static str,
    /// Kuma's label counts.
    pub kuma_label: bool,
    pub redirect: Value,
    pub locked: Value,
    /// The cluster has a controller.
    pub controlled: bool,
    /// Source of its pods' identities.
    pub identity: &'static str,
}

/// Trust domain of the controller.
const TRUST_DOMAIN: &str = "mesh.example";

impl Settings {
    pub(super) fn of(sidecar: &'static str) -> Self {
        let (redirect, locked) = (json!({}), json!([]));
        Self { sidecar, kuma_label: true, redirect, locked, controlled: false, identity: "stream" }
    }

    /// The same with a controller.
    pub(super) fn controlled(sidecar: &'static str) -> Self {
        Self { controlled: true, ..Self::of(sidecar) }
    }

    pub(super) fn values(&self) -> Value {
        json!({
            "image": { "repository": "registry.example.com/culvert", "tag": "0.1.0" },
            "injector": {
                "mode": "policy", "sidecar": self.sidecar, "kumaLabel": self.kuma_label,
                "excludeNamespaces": ["excluded"],
            },
            "entry": { "redirect": self.redirect, "locked": self.locked },
            "identity": { "mode": self.identity },
            "controller": { "enabled": self.controlled, "trustDomain": TRUST_DOMAIN },
        })
    }
}

/// Renders the policies and their bindings.
pub(super) fn policies(settings: &Settings) -> Result<Vec<Value>> {
    let Rendered { documents, .. } = Chart::here()?.render(&settings.values(), "1.36")?;
    // The hooks of `helm uninstall` are named alike, and bind nothing.
    let is_policy = |document: &Value| {
        document["kind"].as_str().is_some_and(|kind| kind.contains("AdmissionPolicy"))
            && document["metadata"]["annotations"]["helm.sh/hook"].is_null()
    };
    Ok(documents.into_iter().filter(is_policy).collect())
}

/// Runs the evaluator with this question, and returns its answer.
pub(super) fn evaluate(question: &Value) -> Result<Value> {
    let folder = repository().join("tests/acceptance/policy");
    let tools = Command::new(folder.join("tools")).output()?;
    ensure!(tools.status.success(), "{}", String::from_utf8_lossy(&tools.stderr));
    let mut python = Command::new("python3")
        .arg(folder.join("evaluate.py"))
        .env("PYTHONPATH", String::from_utf8(tools.stdout)?.trim_end())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = python.stdin.take().context("no standard input")?;
    // Its question is read whole before it answers; one that ends early says why on its standard error.
    let written = input.write_all(question.to_string().as_bytes());
    drop(input);
    let said = python.wait_with_output()?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    written?;
    serde_json::from_slice(&said.stdout).context("the evaluator's answer")
}

/// Sends pods through the policies.
pub(super) fn by_policy(settings: &Settings, pods: &[(Value, Namespace)]) -> Result<Vec<Outcome>> {
    let pods: Vec<_> =
        pods.iter().map(|(pod, namespace)| json!({ "pod": pod, "namespace": namespace.object() })).collect();
    let answers = evaluate(&json!({ "documents": policies(settings)?, "pods": pods }))?;
    let answers = answers.as_array().context("no list of answers")?;
    ensure!(answers.len() == pods.len(), "{} answers for {} pods", answers.len(), pods.len());
    let outcomes = answers.iter().zip(&pods);
    outcomes
        .map(|(answer, asked)| outcome(answer, &asked["pod"]).with_context(|| asked.to_string()))
        .collect()
}

fn has_sidecar(pod: &Value) -> bool {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    lists.flatten().any(|container| container["name"] == "culvert-sidecar")
}

fn outcome(answer: &Value, asked: &Value) -> Result<Outcome> {
    if let Some(message) = answer["refused"].as_str() {
        ensure!(answer.get("changed").is_none(), "refused after a change: {message}");
        return Ok(Outcome::Refused(message.strip_prefix("culvert: ").context("no prefix")?.to_owned()));
    }
    if answer["skipped"] == true {
        return Ok(Outcome::Skipped);
    }
    let pod = answer.get("injected").context("an unknown answer")?;
    ensure!(answer["again"] == *pod, "a second run changes {pod}\nto {}", answer["again"]);
    let bare = answer["bare"].as_str();
    // A pod of a second call has its sidecar.
    ensure!(
        has_sidecar(asked) || bare.is_some_and(|words| words.contains("asks for a sidecar, and has none")),
        "let through without a sidecar: {bare:?}"
    );
    Ok(Outcome::Injected(plain(pod)?))
}

/// Sends a pod through `culvert-install inject --file`.
pub(super) fn by_program(
    folder: &Path,
    settings: &Settings,
    pod: &Value,
    namespace: &Namespace,
) -> Result<Outcome> {
    let file = folder.join("pod.yaml");
    // A request names the namespace of its pod.
    let mut asked = pod.clone();
    asked["metadata"]["namespace"] = namespace.name.as_str().into();
    std::fs::write(&file, asked.to_string())?;
    let conflist = folder.join("10-net.conflist");
    let entry = json!({ "type": "culvert-cni", "redirect": settings.redirect, "locked": settings.locked });
    std::fs::write(&conflist, json!({ "name": "net", "plugins": [entry] }).to_string())?;
    let mut command = Command::new(&Binaries::built()?.install);
    command.args(["inject", "--image", "registry.example.com/culvert:0.1.0", "--sidecar", settings.sidecar]);
    command.args(["--kuma-label", if settings.kuma_label { "on" } else { "off" }]);
    command.arg("--file").arg(file).arg("--conflist").arg(conflist);
    if settings.controlled {
        command.arg(format!("--control=https://culvert-controller.{NAMESPACE}.svc:15012"));
        command.arg(format!("--trust-domain={TRUST_DOMAIN}"));
        command.arg(format!("--identity={}", settings.identity));
    }
    command.args(["--exclude-namespace", NAMESPACE, "--exclude-namespace", "excluded"]);
    // The option has a default, which asks for a sidecar: there is always another label.
    command.arg("--namespace-label").arg(format!("kubernetes.io/metadata.name={}", namespace.name));
    for (key, value) in &namespace.labels {
        command.arg("--namespace-label").arg(format!("{key}={value}"));
    }
    for (key, value) in &namespace.annotations {
        command.arg("--namespace-annotation").arg(format!("{key}={value}"));
    }
    let said = command.output()?;
    let [out, err] = [said.stdout, said.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let line = |kind: &str| {
        let line =
            err.lines().find_map(|line| line.strip_prefix(&format!("culvert-install: {kind}: Pod ")))?;
        Some(line.split_once(": ")?.1.to_owned())
    };
    match (said.status.code(), line("refused"), line("skipped")) {
        (Some(1), Some(words), _) => Ok(Outcome::Refused(words)),
        (Some(0), None, Some(_)) => Ok(Outcome::Skipped),
        (Some(0), None, None) => {
            let mut after = yaml(&out)?;
            match pod["metadata"].get("namespace") {
                Some(namespace) => after["metadata"]["namespace"] = namespace.clone(),
                None => {
                    _ = after["metadata"].as_object_mut().and_then(|metadata| metadata.remove("namespace"))
                }
            }
            // A second call that changes nothing.
            Ok(if after == *pod { Outcome::Skipped } else { Outcome::Injected(plain(&after)?) })
        }
        _ => bail!("{}: {out}{err}", said.status),
    }
}

/// A pod in a form that can be compared: the option with the probes is JSON, in any order.
fn plain(pod: &Value) -> Result<Value> {
    let mut pod = pod.clone();
    for list in ["initContainers", "containers"] {
        let list = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten() {
            let args = container.get_mut("args").and_then(Value::as_array_mut);
            for arg in args.into_iter().flatten() {
                if let Some(probes) = arg.as_str().and_then(|arg| arg.strip_prefix("--app-probes=")) {
                    *arg = serde_json::from_str(probes).with_context(|| probes.to_owned())?;
                }
            }
        }
    }
    Ok(pod)
}
