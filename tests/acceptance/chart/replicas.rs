// SPDX-License-Identifier: Apache-2.0
//! Replicas of the Deployments that the chart makes: those of injector and controller.

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::Rendered;
use serde_json::{Value, json};

/// A Deployment whose name ends so, and its only container.
pub(super) fn deployment<'a>(rendered: &'a Rendered, name: &str) -> Result<(&'a Value, &'a Value)> {
    let deployment = rendered.one("Deployment", name)?;
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().context("no pod")?;
    ensure!(containers.len() == 1, "other containers in {deployment}");
    Ok((deployment, &containers[0]))
}

/// Returns true if `matchLabels` of a selector are among these labels, and there are some.
pub(super) fn knows(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object();
    selector.is_some_and(|all| !all.is_empty() && all.iter().all(|(key, value)| labels[key] == *value))
}

/// Holds what keeps replicas of a Deployment from being away at once.
pub(super) fn never_all_away(rendered: &Rendered, name: &str) -> Result<()> {
    let (deployment, container) = deployment(rendered, name)?;
    assert_eq!(deployment["spec"]["replicas"], 2);
    let update = &deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(update, &json!({ "maxUnavailable": 0, "maxSurge": 1 }));
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/ready")] {
        assert_eq!(container[probe]["httpGet"], json!({ "path": path, "port": "status" }));
    }
    let pod = &deployment["spec"]["template"];
    let labels = &pod["metadata"]["labels"];
    assert_eq!(pod["spec"]["priorityClassName"], "system-cluster-critical");
    // Its own pods, on other hosts and in other zones where there are some; never required, for a cluster of one node.
    let affinity = &pod["spec"]["affinity"]["podAntiAffinity"];
    assert!(affinity.get("requiredDuringSchedulingIgnoredDuringExecution").is_none(), "{affinity}");
    let term = &affinity["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"];
    assert_eq!(term["topologyKey"], "kubernetes.io/hostname");
    assert!(knows(&term["labelSelector"]["matchLabels"], labels), "{term}");
    let spread = &pod["spec"]["topologySpreadConstraints"][0];
    assert_eq!(spread["whenUnsatisfiable"], "ScheduleAnyway");
    assert!(knows(&spread["labelSelector"]["matchLabels"], labels), "{spread}");
    // A drain takes one at a time, and is held up by none that does not answer.
    let budget = &rendered.one("PodDisruptionBudget", name)?["spec"];
    assert_eq!(
        (&budget["maxUnavailable"], &budget["unhealthyPodEvictionPolicy"]),
        (&json!(1), &json!("AlwaysAllow"))
    );
    assert!(knows(&budget["selector"]["matchLabels"], labels), "{budget}");
    Ok(())
}
