// SPDX-License-Identifier: Apache-2.0
//! `status --cluster` as a program: workloads, sidecars, meshes, the controller, and what cannot be read.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::api_server::Fault;
use culvert_tests::process::binaries::Binaries;
use serde_json::{Value, json};

use super::{Cluster, path, pod};

/// For 10,000 pods, on a busy machine and with an API server that is not optimized.
const WITHIN: Duration = Duration::from_secs(120);
/// KiB of addresses that the program may have.
const MOST_MEMORY: usize = 256 << 10;

fn asking(cluster: &Cluster, mut command: Command, options: &[&str]) -> Result<Output> {
    command
        .args(["status", "--cluster"])
        .args(options)
        .arg("--service-account")
        .arg(cluster.server.service_account())
        .env_clear()
        .env("KUBERNETES_SERVICE_HOST", cluster.server.address().ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", cluster.server.address().port().to_string());
    Ok(command.output()?)
}

fn status(cluster: &Cluster, options: &[&str]) -> Result<Output> {
    asking(cluster, Command::new(&Binaries::built()?.install), options)
}

/// The answer as JSON, which is well if the program says so.
fn answer(cluster: &Cluster) -> Result<Value> {
    let output = status(cluster, &["--output", "json"])?;
    let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    assert_eq!(answer["well"], output.status.code() == Some(0), "{answer}");
    Ok(answer)
}

/// A cluster with the Deployment `web`, whose pod has a sidecar, and `db`, whose pods have none.
fn cluster() -> Result<Cluster> {
    let cluster = Cluster::new()?;
    for kind in [("meshes", "Mesh", false), ("meshpassthroughs", "MeshPassthrough", true)] {
        cluster.server.serve("kuma.io/v1alpha1", kind.0, kind.1, kind.2);
    }
    cluster.put("shop", "web", "1", true);
    for number in ["1", "2"] {
        cluster.put("shop", "db", number, false);
    }
    cluster.put("plain", "cron", "1", false);
    for (number, ready) in [("0", "True"), ("1", "False")] {
        let mut pod =
            pod("mesh", &format!("culvert-controller-{number}"), "10.0.9.9", "culvert-controller", false);
        pod["metadata"]["labels"] =
            json!({ "app.kubernetes.io/name": "culvert", "app.kubernetes.io/component": "controller" });
        pod["status"]["conditions"] = json!([{ "type": "Ready", "status": ready }]);
        cluster.server.put(&path("mesh", &format!("culvert-controller-{number}")), pod);
    }
    let lease = json!({ "metadata": { "name": "culvert-controller", "namespace": "mesh" },
                        "spec": { "holderIdentity": "culvert-controller-0", "renewTime": "2026-11-29T12:00:00.000000Z" } });
    cluster.server.put("/apis/coordination.k8s.io/v1/namespaces/mesh/leases/culvert-controller", lease);
    let backend = json!({ "name": "culvert", "type": "builtin", "mode": "STRICT" });
    let mesh = json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" },
                       "spec": { "mtls": { "enabledBackend": "culvert", "backends": [backend] } } });
    cluster.document("meshes", &mesh);
    cluster.passthrough("Sometimes");
    Ok(cluster)
}

impl Cluster {
    /// Puts a pod of a Deployment there.
    fn put(&self, namespace: &str, app: &str, number: &str, sidecar: bool) {
        let name = format!("{app}-5d8f-{number}");
        let mut pod = pod(namespace, &name, "10.0.0.9", app, sidecar);
        pod["metadata"]["labels"]["pod-template-hash"] = "5d8f".into();
        let owner = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-5d8f"), "controller": true });
        pod["metadata"]["ownerReferences"] = json!([owner]);
        self.server.put(&path(namespace, &name), pod);
    }

    fn passthrough(&self, mode: &str) {
        let policy = json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "MeshPassthrough",
            "metadata": { "name": "p", "namespace": "shop", "labels": { "kuma.io/mesh": "default" } },
            "spec": { "default": { "passthroughMode": mode } },
        });
        self.document("meshpassthroughs", &policy);
    }
}

#[test]
fn workloads_are_told_with_what_they_lack() -> Result<()> {
    let cluster = cluster()?;
    let told = answer(&cluster)?;
    let row = |index: usize| &told["workloads"][index];
    assert_eq!(told["workloads"].as_array().map(Vec::len), Some(2), "{told}");
    let db = row(0);
    assert_eq!(
        (&db["namespace"], &db["kind"], &db["name"]),
        (&json!("shop"), &json!("Deployment"), &json!("db"))
    );
    assert_eq!((&db["pods"], &db["with_sidecar"], &db["missing"]), (&json!(2), &json!(0), &json!(2)));
    assert!(db["reason"].as_str().is_some_and(|why| why.contains("culvert.dev/inject")), "{db}");
    let web = row(1);
    assert_eq!((&web["name"], &web["with_sidecar"], &web["missing"]), (&json!("web"), &json!(1), &json!(0)));
    assert_eq!(
        (&web["mesh"], &web["mtls"], &web["sidecars"]),
        (&json!("default"), &json!("STRICT"), &json!(["culvert:1"]))
    );
    assert_eq!(told["meshes"], json!([{ "name": "default", "mtls": "STRICT" }]));
    let controller = &told["controller"];
    assert_eq!(
        (&controller["namespace"], &controller["holder"]),
        (&json!("mesh"), &json!("culvert-controller-0"))
    );
    let replicas = json!([{ "pod": "culvert-controller-0", "ready": true }, { "pod": "culvert-controller-1", "ready": false }]);
    assert_eq!(controller["replicas"], replicas);
    let invalid = &told["invalid_documents"][0];
    assert_eq!((&invalid["kind"], &invalid["name"]), (&json!("MeshPassthrough"), &json!("p")));
    assert!(invalid["errors"][0].as_str().is_some_and(|words| words.contains("Sometimes")), "{invalid}");
    assert_eq!(told["problems"], json!([]));
    let output = status(&cluster, &[])?;
    let text = String::from_utf8(output.stdout)?;
    for expected in [
        "Deployment/db",
        "2 pods have no sidecar (label culvert.dev/inject: enabled of the namespace)",
        "invalid: MeshPassthrough shop/p",
        "1 of 2 replicas ready",
    ] {
        ensure!(text.contains(expected), "{expected} is not in {text}");
    }
    ensure!(!text.contains('\u{1b}'), "colour in a pipe: {text:?}");
    assert_eq!(output.status.code(), Some(1));
    // The workload is restarted, and the document is put right.
    for number in ["1", "2"] {
        cluster.put("shop", "db", number, true);
    }
    assert_eq!(answer(&cluster)?["workloads"][0]["with_sidecar"], 2);
    cluster.passthrough("None");
    assert_eq!(answer(&cluster)?["well"], true);
    Ok(())
}

#[test]
fn a_namespace_that_the_injector_leaves_out_lacks_nothing() -> Result<()> {
    let cluster = cluster()?;
    cluster.passthrough("None");
    let left_out = json!({ "matchExpressions": [
        { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["shop"] }] });
    let webhook = json!({ "name": "pods.inject.culvert.dev", "namespaceSelector": left_out });
    let configuration = json!({ "metadata": { "name": "culvert-injector" }, "webhooks": [webhook] });
    let at = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/culvert-injector";
    cluster.server.put(at, configuration);
    let told = answer(&cluster)?;
    assert_eq!((&told["well"], &told["others"]), (&json!(true), &json!(4)), "{told}");
    Ok(())
}

#[test]
fn a_right_that_is_missing_is_named() -> Result<()> {
    let cluster = cluster()?;
    for (part, right) in
        [("/api/v1/pods", "list pods of all namespaces"), ("/api/v1/namespaces", "list namespaces")]
    {
        cluster.server.fail_next(part, Fault::Status(403, None));
        let output = status(&cluster, &[])?;
        let complaint = String::from_utf8(output.stderr)?;
        ensure!(complaint.contains(&format!("needs the right to {right}")), "{complaint}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    }
    // Without these there is an answer, and it says what is not in it.
    for (part, right) in [
        ("/meshes?", "list meshes.kuma.io"),
        ("/leases/", "get leases culvert-controller in mesh"),
        ("/mutatingwebhookconfigurations/", "get mutatingwebhookconfigurations"),
    ] {
        cluster.server.fail_next(part, Fault::Status(403, None));
        let told = answer(&cluster)?;
        let problem = told["problems"][0].as_str().unwrap_or_default();
        ensure!(problem.contains(&format!("needs the right to {right}")), "{told}");
        assert_eq!((&told["well"], told["workloads"].as_array().map(Vec::len)), (&json!(false), Some(2)));
    }
    // An old page, an API server that is away, and a pod that is none.
    cluster.server.fail_next("/api/v1/pods", Fault::Status(410, None));
    assert_eq!(answer(&cluster)?["problems"], json!([]));
    cluster.server.away(true);
    let output = status(&cluster, &[])?;
    ensure!(String::from_utf8(output.stderr)?.contains("cannot reach the API server"));
    assert_eq!(output.status.code(), Some(1));
    let output =
        Command::new(&Binaries::built()?.install).args(["status", "--cluster"]).env_clear().output()?;
    assert_eq!(output.status.code(), Some(64));
    Ok(())
}

#[test]
fn ten_thousand_pods_are_read_by_pages() -> Result<()> {
    const PODS: usize = 10_000;
    let cluster = cluster()?;
    for number in 0..PODS {
        cluster.put("shop", &format!("app-{}", number % 1000), &number.to_string(), number % 100 != 0);
    }
    let shell = format!("ulimit -v {MOST_MEMORY}; exec \"$0\" \"$@\"");
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(shell).arg(&Binaries::built()?.install);
    let began = Instant::now();
    let output = asking(&cluster, command, &["--output", "json"])?;
    let took = began.elapsed();
    let told: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let workloads = told["workloads"].as_array().context("no workloads")?;
    let sum = |name: &str| workloads.iter().filter_map(|one| one[name].as_u64()).sum::<u64>();
    assert_eq!((workloads.len(), sum("pods"), sum("missing")), (1002, 10_003, 102));
    ensure!(took < WITHIN, "{took:?}");
    let pages = cluster.server.asked();
    let pages = pages.iter().filter(|asked| asked.path.starts_with("/api/v1/pods?limit=200"));
    assert_eq!(pages.count(), 51);
    Ok(())
}
