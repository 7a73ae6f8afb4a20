// SPDX-License-Identifier: Apache-2.0
//! The nodes on which pods of the chart run: the agent's, and those of `helm uninstall` alike.

use anyhow::{Context, Result};
use culvert_tests::chart::Rendered;
use serde_json::{Value, json};

use crate::chart::rendered;

/// Each pod of the chart, under its object's kind and the end of its name.
const PODS: [(&str, &str); 3] = [("DaemonSet", "-agent"), ("DaemonSet", "-uninstall"), ("Job", "-uninstall")];

fn pod<'a>(rendered: &'a Rendered, (kind, name): (&str, &str)) -> Result<&'a Value> {
    Ok(&rendered.one(kind, name)?["spec"]["template"]["spec"])
}

/// Returns true if a node with these labels fits the pod, as the scheduler reads selectors and required node affinity.
fn fits(pod: &Value, labels: &Value) -> Result<bool> {
    let selector = pod["nodeSelector"].as_object().context("no selector")?;
    if !selector.iter().all(|(key, value)| labels[key] == *value) {
        return Ok(false);
    }
    let required = &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let Some(terms) = required["nodeSelectorTerms"].as_array() else { return Ok(true) };
    let expression = |expression: &Value| -> Result<bool> {
        let label = &labels[expression["key"].as_str().context("no key")?];
        let named = expression["values"].as_array().is_some_and(|values| values.contains(label));
        match expression["operator"].as_str() {
            Some("In") => Ok(named),
            // A node without the label fits.
            Some("NotIn") => Ok(!named),
            other => anyhow::bail!("{other:?} is not read here"),
        }
    };
    for term in terms {
        let all = term["matchExpressions"].as_array().context("no expressions")?;
        if all.iter().map(expression).collect::<Result<Vec<_>>>()?.into_iter().all(|fits| fits) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn no_pod_of_the_chart_goes_to_a_node_that_is_none() -> Result<()> {
    let nodes = [
        ("a plain one", json!({}), true),
        ("another provider's type", json!({ "type": "worker" }), true),
        ("EKS, EC2", json!({ "eks.amazonaws.com/compute-type": "ec2" }), true),
        ("EKS, auto mode", json!({ "eks.amazonaws.com/compute-type": "auto" }), true),
        ("EKS, Fargate", json!({ "eks.amazonaws.com/compute-type": "fargate" }), false),
        ("AKS, a virtual node", json!({ "type": "virtual-kubelet", "kubernetes.io/role": "agent" }), false),
        ("both", json!({ "type": "virtual-kubelet", "eks.amazonaws.com/compute-type": "fargate" }), false),
        ("Windows", json!({ "kubernetes.io/os": "windows" }), false),
    ];
    let rendered = rendered(&json!({}))?;
    for which in PODS {
        let pod = pod(&rendered, which)?;
        for (name, labels, expected) in &nodes {
            let mut labels = labels.clone();
            if labels["kubernetes.io/os"].is_null() {
                labels["kubernetes.io/os"] = "linux".into();
            }
            assert_eq!(fits(pod, &labels)?, *expected, "{which:?} on {name}");
        }
    }
    Ok(())
}

#[test]
fn the_hook_goes_wherever_the_agent_may() -> Result<()> {
    let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["a"] }] }] } } });
    let rendered = rendered(&json!({ "agent": {
        "nodeSelector": { "pool": "apps" },
        "tolerations": [{ "key": "pool", "operator": "Exists" }],
        "affinity": affinity,
    } }))?;
    for which in PODS {
        let pod = pod(&rendered, which)?;
        assert_eq!(pod["affinity"], affinity, "{which:?}");
        if which.0 == "DaemonSet" {
            assert_eq!(
                pod["nodeSelector"],
                json!({ "kubernetes.io/os": "linux", "pool": "apps" }),
                "{which:?}"
            );
            assert_eq!(pod["tolerations"], json!([{ "key": "pool", "operator": "Exists" }]), "{which:?}");
        }
    }
    Ok(())
}

#[test]
fn an_affinity_is_added_to_and_can_be_taken_off() -> Result<()> {
    let term = json!([{ "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["a"] }] }]);
    let preferred = json!([{ "weight": 1, "preference": term[0] }]);
    let added = rendered(&json!({ "agent": { "affinity": { "nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": preferred } } } }))?;
    let without = rendered(&json!({ "agent": { "affinity": null } }))?;
    for which in PODS {
        let node = &pod(&added, which)?["affinity"]["nodeAffinity"];
        assert_eq!(node["preferredDuringSchedulingIgnoredDuringExecution"], preferred, "{which:?}");
        assert!(!fits(
            pod(&added, which)?,
            &json!({ "kubernetes.io/os": "linux", "type": "virtual-kubelet" })
        )?);
        assert!(pod(&without, which)?.get("affinity").is_none(), "{which:?}");
    }
    Ok(())
}
