// SPDX-License-Identifier: Apache-2.0
//! The Helm chart as a user's helm renders it, and the schemas of Kubernetes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// Every version of Kubernetes that the chart promises.
pub const KUBERNETES: [&str; 10] =
    ["1.28", "1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"];

/// The namespace that charts are rendered for.
pub const NAMESPACE: &str = "culvert-system";

/// The root folder of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// helm and the schemas.
#[derive(Debug)]
pub struct Chart {
    tools: PathBuf,
}

impl Chart {
    /// The chart of this repository. The first call of a process fetches the tools where they are not there yet.
    pub fn here() -> Result<&'static Self> {
        static TOOLS: OnceLock<Result<Chart, String>> = OnceLock::new();
        TOOLS
            .get_or_init(|| {
                let script = repository().join("tests/chart-tools");
                let printed = output(Command::new(script)).map_err(|e| format!("{e:#}"))?;
                Ok(Chart { tools: printed.trim_end().into() })
            })
            .as_ref()
            .map_err(|e| anyhow!("{e}"))
    }

    /// The chart's folder.
    pub fn folder() -> PathBuf {
        repository().join("charts/culvert")
    }

    /// A file of it.
    pub fn file(name: &str) -> Result<String> {
        let path = Self::folder().join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// The files of values for kinds of clusters, each under its name.
    pub fn value_files() -> Result<Vec<(String, Value)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(Self::folder())? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let of_cluster = name.strip_prefix("values-").and_then(|name| name.strip_suffix(".yaml"));
            if let Some(cluster) = of_cluster {
                found.push((cluster.to_owned(), yaml(&fs::read_to_string(&path)?).context(name.to_owned())?));
            }
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    /// Runs helm's own lint with these values, warnings counted as errors.
    pub fn lint(&self, values: &Value) -> Result<()> {
        let (_folder, values) = file_of(values)?;
        let mut helm = self.helm();
        helm.args(["lint", "--strict", "--values"]).arg(values).arg(Self::folder());
        output(helm).map(drop)
    }

    /// Renders the objects that helm would send to a cluster of this version.
    pub fn render(&self, values: &Value, kubernetes: &str) -> Result<Rendered> {
        self.render_as("culvert", NAMESPACE, values, kubernetes)
    }

    /// The same for a release of this name in this namespace.
    pub fn render_as(
        &self,
        release: &str,
        namespace: &str,
        values: &Value,
        kubernetes: &str,
    ) -> Result<Rendered> {
        self.template(&[release, "--namespace", namespace], values, kubernetes)
    }

    /// The same for a cluster that has these further versions of API groups.
    pub fn render_beside(&self, apis: &str, values: &Value, kubernetes: &str) -> Result<Rendered> {
        self.template(&["culvert", "--namespace", NAMESPACE, "--api-versions", apis], values, kubernetes)
    }

    /// The same for a cluster of exactly this version, as its vendor writes it.
    pub fn render_at(&self, version: &str, values: &Value) -> Result<Rendered> {
        self.template_at(&["culvert", "--namespace", NAMESPACE], values, version)
    }

    fn template(&self, arguments: &[&str], values: &Value, kubernetes: &str) -> Result<Rendered> {
        self.template_at(arguments, values, &format!("{kubernetes}.0"))
    }

    fn template_at(&self, arguments: &[&str], values: &Value, version: &str) -> Result<Rendered> {
        let (_folder, values) = file_of(values)?;
        let mut helm = self.helm();
        helm.arg("template")
            .args(arguments)
            .args(["--kube-version", version, "--values"])
            .arg(values)
            .arg(Self::folder());
        Rendered::parse(output(helm)?)
    }

    /// Renders the notes that helm prints after an installation.
    pub fn notes(&self, values: &Value) -> Result<String> {
        let (_folder, values) = file_of(values)?;
        let mut helm = self.helm();
        helm.args(["install", "culvert", "--namespace", NAMESPACE, "--dry-run=client", "--values"]);
        helm.arg(values).arg(Self::folder());
        let said = output(helm)?;
        let (_, notes) = said.split_once("NOTES:").with_context(|| said.clone())?;
        Ok(notes.to_owned())
    }

    fn helm(&self) -> Command {
        let mut helm = Command::new(self.tools.join("helm"));
        // Nothing of the user's own helm takes part, and nothing of it is written.
        helm.env_clear().env("HOME", self.tools.join("no-home"));
        helm
    }

    /// Fails unless the strict schemas of this version accept every document of these files.
    pub fn validate(&self, kubernetes: &str, files: &[PathBuf]) -> Result<()> {
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", self.tools.join("python"))
            .args(["-m", "kubernetes_validate", "--strict", "--no-warn", "-k", kubernetes])
            .args(files);
        let said = output(command).with_context(|| format!("Kubernetes {kubernetes}"))?;
        // It passes over what it cannot name.
        let passed = said.matches("INFO ").count();
        let documents = files
            .iter()
            .map(|file| Ok(Rendered::parse(fs::read_to_string(file)?)?.documents.len()))
            .sum::<Result<usize>>()?;
        ensure!(
            passed == documents,
            "Kubernetes {kubernetes}: {passed} of {documents} documents passed\n{said}"
        );
        Ok(())
    }
}

/// A file's YAML documents, in their order.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// As they were written, comments too.
    pub text: String,
    /// The parsed documents, in the file's order.
    pub documents: Vec<Value>,
}

impl Rendered {
    /// Reads them; empty ones are left out.
    pub fn parse(text: String) -> Result<Self> {
        let all: Vec<Value> = serde_saphyr::from_multiple(&text).with_context(|| text.clone())?;
        Ok(Self { documents: all.into_iter().filter(|document| !document.is_null()).collect(), text })
    }

    /// Every pod, and template of one, with its labels: the object's kind and name, metadata and spec.
    pub fn pods(&self) -> impl Iterator<Item = (String, &Value, &Value)> {
        self.documents.iter().filter_map(|document| {
            let pod = if document["kind"] == "Pod" { document } else { &document["spec"]["template"] };
            let name = format!("{} {}", document["kind"], document["metadata"]["name"]).replace('"', "");
            pod["spec"].is_object().then(|| (name, &pod["metadata"], &pod["spec"]))
        })
    }

    /// The only document of this kind whose name ends so.
    pub fn one(&self, kind: &str, name: &str) -> Result<&Value> {
        let fits = |document: &&Value| {
            document["kind"] == kind
                && document["metadata"]["name"].as_str().is_some_and(|found| found.ends_with(name))
        };
        let mut found = self.documents.iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => bail!("no {kind} …{name} in\n{}", self.text),
            _ => bail!("several {kind} …{name} in\n{}", self.text),
        }
    }
}

/// One YAML document.
pub fn yaml(text: &str) -> Result<Value> {
    serde_saphyr::from_str(text).with_context(|| text.to_owned())
}

/// Strings of a list.
pub fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// JSON is YAML.
fn file_of(values: &Value) -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("values.json");
    fs::write(&file, values.to_string())?;
    Ok((folder, file))
}

/// Standard output of a program that went well.
fn output(mut command: Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(status.success(), "{status}: {stdout}{stderr}");
    Ok(stdout)
}
