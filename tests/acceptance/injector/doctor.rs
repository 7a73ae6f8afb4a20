// SPDX-License-Identifier: Apache-2.0
//! `doctor --cluster` as a program: each hop of a pod's way to its sidecar, broken in turn.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use culvert_tests::process::binaries::Binaries;
use serde_json::{Value, json};

use super::{CONFIGURATION, Cluster, SECRET, pod};

const PODS: &str = "/api/v1/namespaces/shop/pods";

fn doctor(cluster: &Cluster, options: &[&str]) -> Result<Output> {
    let mut command = Command::new(&Binaries::built()?.install);
    command
        .args(["doctor", "--cluster"])
        .args(options)
        .arg("--service-account")
        .arg(cluster.server.service_account())
        .env_clear()
        .env("KUBERNETES_SERVICE_HOST", cluster.server.address().ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", cluster.server.address().port().to_string());
    Ok(command.output()?)
}

/// The report, and the checks that need attention, as `name status`.
fn report(cluster: &Cluster, options: &[&str]) -> Result<(Value, Vec<String>)> {
    let output = doctor(cluster, &[options, &["--output", "json"]].concat())?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    assert_eq!(report["well"], output.status.code() == Some(0), "{report}");
    let checks = report["checks"].as_array().context("checks")?;
    let wrong = checks
        .iter()
        .filter(|check| !["ok", "absent"].contains(&check["status"].as_str().unwrap_or_default()));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let wrong = wrong.map(|check| format!("{} {}", text(&check["name"]), text(&check["status"]))).collect();
    Ok((report, wrong))
}

#[test]
fn each_hop_of_a_pods_way_to_its_sidecar_is_named_where_it_fails() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let injected = cluster.admitted(&injector, &pod())?;
    cluster.server.answer_posts(PODS, 201, injected);
    let (well, wrong) = report(&cluster, &[])?;
    ensure!(wrong.is_empty(), "{well}");
    let names: Vec<_> =
        well["checks"].as_array().context("checks")?.iter().map(|check| &check["name"]).collect();
    assert_eq!(names, ["apiserver", "webhook", "ca-bundle", "namespace", "dry-run", "sidecar"]);
    let asked = cluster.server.asked();
    ensure!(asked.iter().any(|asked| asked.path == format!("{PODS}?dryRun=All")), "{asked:?}");
    ensure!(!asked.iter().any(|asked| asked.path == PODS), "a pod was made: {asked:?}");
    let text = String::from_utf8(doctor(&cluster, &["--namespace", "shop"])?.stdout)?;
    ensure!(text.contains("All is well: labelled pods get their sidecar."), "{text}");

    let wrong = |options: &[&str]| Ok::<_, anyhow::Error>(report(&cluster, options)?.1);
    assert_eq!(wrong(&["--namespace", "plain"])?, ["namespace missing"]);
    assert_eq!(wrong(&["--namespace", "nowhere"])?, ["namespace missing"]);
    cluster.server.answer_posts(PODS, 201, pod());
    assert_eq!(wrong(&[])?, ["sidecar missing"]);
    let call = "Internal error occurred: failed calling webhook \"pods.inject.culvert.dev\": context deadline exceeded";
    cluster.server.answer_posts(PODS, 500, status(500, call));
    let (said, failed) = report(&cluster, &[])?;
    assert_eq!(failed, ["dry-run missing"]);
    ensure!(
        said.to_string().contains("context deadline exceeded") && said.to_string().contains("10250"),
        "{said}"
    );
    cluster.server.answer_posts(
        PODS,
        403,
        status(403, "pods is forbidden: User \"x\" cannot create resource"),
    );
    assert_eq!(wrong(&[])?, ["dry-run unknown"]);
    drop(injector);

    // The configuration's bundle: of another, empty; then no configuration; then a policy.
    let right = cluster.server.object_at(CONFIGURATION).context("the configuration")?;
    let bundles = |bundle: Value| {
        let mut changed = right.clone();
        changed["webhooks"][1]["clientConfig"]["caBundle"] = bundle;
        cluster.server.object(CONFIGURATION, changed);
    };
    cluster.server.answer_posts(PODS, 201, cluster_pod());
    let of_another = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==";
    for bundle in [json!(""), json!("bm9uZQ=="), Value::Null, json!(of_another)] {
        bundles(bundle.clone());
        assert_eq!(wrong(&[])?, ["ca-bundle missing"], "{bundle}");
    }
    cluster.server.object(CONFIGURATION, right.clone());
    assert_eq!(wrong(&["--secret", "another"])?, ["ca-bundle missing"]);
    cluster.server.delete_object(SECRET);
    assert_eq!(wrong(&[])?, ["ca-bundle missing"]);
    cluster.server.delete_object(CONFIGURATION);
    assert_eq!(wrong(&[])?, ["webhook missing"]);
    let policy = CONFIGURATION.replace("mutatingwebhookconfigurations", "mutatingadmissionpolicies");
    cluster.server.object(&policy, json!({ "metadata": { "name": "culvert-injector" } }));
    ensure!(wrong(&[])?.is_empty());
    cluster.server.rotate_token(false)?;
    assert_eq!(wrong(&[])?, ["apiserver unknown"]);
    cluster.server.away(true);
    assert_eq!(wrong(&[])?, ["apiserver missing"]);
    Ok(())
}

fn status(code: u16, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message })
}

/// Its port and its log are not what is wrong.
#[test]
fn advice_about_the_injector_is_for_its_own_webhooks_only() -> Result<()> {
    let cluster = Cluster::new()?;
    for (webhook, expected, is_ours) in [
        ("pods.inject.culvert.dev", "dry-run missing", true),
        ("mutate.example.com", "dry-run degraded", false),
    ] {
        let call = format!(
            "Internal error occurred: failed calling webhook \"{webhook}\": context deadline exceeded"
        );
        cluster.server.answer_posts(PODS, 500, status(500, &call));
        let (said, wrong) = report(&cluster, &[])?;
        ensure!(wrong.contains(&expected.to_owned()), "{webhook}: {wrong:?}");
        assert_eq!(said.to_string().contains("10250"), is_ours, "{said}");
    }
    Ok(())
}

/// The API server would create its pod, and nobody would put a sidecar in: advice about selectors would be wrong.
#[test]
fn a_namespace_that_is_excluded_is_not_tried() -> Result<()> {
    let cluster = Cluster::new()?;
    // Before `shop` in their order.
    cluster.server.namespace("ci", &[("culvert.dev/inject", "enabled")], &[]);
    cluster.server.answer_posts(PODS, 201, cluster_pod());
    cluster.server.answer_posts(&PODS.replace("shop", "ci"), 201, cluster_pod());
    let namespace = |report: &Value| -> Result<Value> {
        let mut checks = report["checks"].as_array().context("checks")?.iter();
        Ok(checks.find(|check| check["name"] == "namespace").context("no check of the namespace")?.clone())
    };
    assert_eq!(namespace(&report(&cluster, &[])?.0)?["found"], "ci");
    let names = |names: Value| {
        json!({ "matchExpressions": [
        { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": names }] })
    };
    let excluding = |excluded: Value| {
        let mut configuration = super::configuration();
        for webhook in 0..2 {
            configuration["webhooks"][webhook]["namespaceSelector"] = names(excluded.clone());
        }
        cluster.server.object(CONFIGURATION, configuration);
    };
    excluding(json!(["kube-system", "ci"]));
    assert_eq!(namespace(&report(&cluster, &[])?.0)?["found"], "shop");
    let (said, wrong) = report(&cluster, &["--namespace", "ci"])?;
    ensure!(wrong.contains(&"namespace missing".to_owned()), "{wrong:?}");
    assert_eq!(namespace(&said)?["found"], "namespace ci is excluded");
    excluding(json!(["ci", "shop"]));
    let said = namespace(&report(&cluster, &[])?.0)?;
    ensure!(
        said["action"].as_str().is_some_and(|words| words.contains("injector.excludeNamespaces")),
        "{said}"
    );
    // The same of policies.
    cluster.server.delete_object(CONFIGURATION);
    let policy = CONFIGURATION.replace("mutatingwebhookconfigurations", "mutatingadmissionpolicies");
    let constraints = json!({ "namespaceSelector": names(json!(["ci"])) });
    cluster.server.object(&policy, json!({ "spec": { "matchConstraints": constraints } }));
    assert_eq!(namespace(&report(&cluster, &[])?.0)?["found"], "shop");
    Ok(())
}

fn cluster_pod() -> Value {
    let mut pod = pod();
    pod["spec"]["initContainers"] = json!([{ "name": "culvert-sidecar" }]);
    pod
}

#[test]
fn outside_of_a_pod_it_says_so() -> Result<()> {
    let output =
        Command::new(&Binaries::built()?.install).args(["doctor", "--cluster"]).env_clear().output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(64) && said.contains("KUBERNETES_SERVICE_HOST"), "{said}");
    Ok(())
}
