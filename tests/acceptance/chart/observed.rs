// SPDX-License-Identifier: Apache-2.0
//! What fences and watches the chart's pods: network policies, monitors, the dashboard.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::chart::{Rendered, repository, strings};
use serde_json::{Value, json};

use super::{rendered, watched, with_webhook};

/// The names of all metrics that the pages of sidecar, agent, injector and controller describe.
fn metrics() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for page in ["sidecar/METRICS.md", "install/README.md", "install/INJECTOR.md", "install/CONTROLLER.md"] {
        let text = fs::read_to_string(repository().join(page))?;
        for row in text.lines().filter_map(|line| line.strip_prefix("| `culvert_")) {
            let (name, rest) = row.split_once("` | ").context("a row without type")?;
            if rest.starts_with("histogram") {
                names.extend(["bucket", "sum", "count"].map(|part| format!("culvert_{name}_{part}")));
            } else {
                names.insert(format!("culvert_{name}"));
            }
        }
    }
    ensure!(names.len() > 50, "{names:?}");
    Ok(names)
}

/// The words of an expression that name a metric of culvert.
fn named(expression: &str) -> impl Iterator<Item = &str> {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression.split(move |c| !of_name(c)).filter(|word| word.starts_with("culvert_"))
}

fn dashboard() -> Result<(Rendered, Value)> {
    let rendered = rendered(&watched())?;
    let text =
        rendered.one("ConfigMap", "-dashboard")?["data"]["culvert.json"].as_str().context("no file")?;
    let dashboard = serde_json::from_str(text)?;
    Ok((rendered, dashboard))
}

#[test]
fn every_panel_shows_metrics_that_there_are() -> Result<()> {
    let (rendered, dashboard) = dashboard()?;
    let known = metrics()?;
    let mut used = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let panels = dashboard["panels"].as_array().context("no panels")?;
    for panel in panels {
        ensure!(ids.insert(panel["id"].as_u64().context("no id")?), "two panels of one id");
        let title = panel["title"].as_str().context("no title")?;
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().context("no targets")?;
        ensure!(
            !targets.is_empty() && panel["description"].as_str().is_some_and(|text| text.len() > 10),
            "{title}"
        );
        for target in targets {
            let expression = target["expr"].as_str().context("no expression")?;
            ensure!(expression.matches('(').count() == expression.matches(')').count(), "{expression}");
            let names: Vec<&str> = named(expression).collect();
            ensure!(!names.is_empty(), "{title}: {expression} names no metric");
            for name in names {
                ensure!(known.contains(name), "{title}: nobody has {name}");
                used.insert(name.to_owned());
            }
        }
    }
    ensure!(used.len() > 20, "only {used:?}");
    // A histogram is shown by its buckets.
    let servers = ["culvert_injector_", "culvert_controller_"];
    let of_servers = known.iter().filter(|name| servers.iter().any(|server| name.starts_with(server)));
    let hidden: Vec<_> = of_servers
        .filter(|name| {
            !used.contains(*name) && !name.ends_with("_seconds_sum") && !name.ends_with("_seconds_count")
        })
        .collect();
    ensure!(hidden.is_empty(), "of the servers no panel shows {hidden:?}");
    let variables = dashboard["templating"]["list"].as_array().context("no variables")?;
    assert_eq!(
        variables.iter().filter_map(|v| v["name"].as_str()).collect::<Vec<_>>(),
        ["datasource", "namespace"]
    );
    let metadata = &rendered.one("ConfigMap", "-dashboard")?["metadata"];
    assert_eq!(metadata["labels"]["grafana_dashboard"], "1");
    assert_eq!(metadata["annotations"], json!({ "grafana_folder": "net" }));
    Ok(())
}

#[test]
fn panels_lie_side_by_side_and_not_upon_each_other() -> Result<()> {
    let (_, dashboard) = dashboard()?;
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let at = |key: &str| panel["gridPos"][key].as_u64().context("no place");
        ensure!(at("x")? + at("w")? <= 24, "{panel}");
        for x in at("x")?..at("x")? + at("w")? {
            for y in at("y")?..at("y")? + at("h")? {
                ensure!(taken.insert((x, y)), "{}: upon another one", panel["title"]);
            }
        }
    }
    Ok(())
}

#[test]
fn a_metric_that_there_is_not_is_noticed() -> Result<()> {
    let known = metrics()?;
    let good = "histogram_quantile(0.9, rate(culvert_cni_add_seconds_bucket[5m])) + culvert_ready{a=\"b\"}";
    assert!(named(good).all(|name| known.contains(name)), "{good}");
    for wrong in ["sum(culvert_redy)", "culvert_cni_add_seconds[5m]"] {
        assert!(named(wrong).any(|name| !known.contains(name)), "{wrong}");
    }
    Ok(())
}

/// Pods of the chart that a selector of labels takes.
fn taken(rendered: &Rendered, selector: &Value) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, metadata, _) in rendered.pods() {
        let labels = &metadata["labels"];
        let mut all = true;
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            all &= labels[key] == *value;
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            ensure!(expression["operator"] == "In", "{expression} is not read here");
            let value = &labels[expression["key"].as_str().context("no key")?];
            all &= expression["values"].as_array().is_some_and(|values| values.contains(value));
        }
        if all {
            names.push(name);
        }
    }
    Ok(names)
}

/// The ports of a pod's containers by name.
fn has_port(rendered: &Rendered, pod: &str, port: &str) -> bool {
    let spec = rendered.pods().find(|(name, ..)| name == pod).map(|(_, _, spec)| spec);
    let ports = spec.and_then(|spec| spec["containers"][0]["ports"].as_array());
    ports.is_some_and(|ports| ports.iter().any(|known| known["name"] == port))
}

#[test]
fn each_pod_is_open_at_the_ports_that_others_call_and_no_others() -> Result<()> {
    let rendered = with_webhook(&watched())?;
    let mut seen = Vec::new();
    for policy in rendered.documents.iter().filter(|document| document["kind"] == "NetworkPolicy") {
        // The API server's address is in no label: a policy of egress would have to let everything out.
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]), "{policy}");
        let rules = policy["spec"]["ingress"].as_array();
        for pod in taken(&rendered, &policy["spec"]["podSelector"])? {
            let mut open = Vec::new();
            for rule in rules.into_iter().flatten() {
                for port in rule["ports"].as_array().context("all ports")? {
                    let name = port["port"].as_str().context("no name")?;
                    ensure!(has_port(&rendered, &pod, name), "{pod} has no {name}");
                    let to = match rule.get("from") {
                        None => String::new(),
                        Some(from) if *from == watched()["networkPolicy"]["metricsFrom"] => {
                            " to some".to_owned()
                        }
                        // Without a selector of namespaces they are of the own one.
                        Some(from) => {
                            assert_eq!(from.as_array().map(Vec::len), Some(1), "{from}");
                            assert_eq!(from[0].as_object().map(|one| one.len()), Some(1), "{from}");
                            format!(" to {}", taken(&rendered, &from[0]["podSelector"])?.join(" and "))
                        }
                    };
                    open.push(format!("{name}{to}"));
                }
            }
            seen.push(format!("{pod}: {}", open.join(", ")));
        }
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "DaemonSet culvert-agent: status to some",
            "DaemonSet culvert-uninstall: ",
            "Deployment culvert-controller: control, status to some, status to Deployment culvert-controller",
            "Deployment culvert-injector: webhook, status to some",
            "Job culvert-uninstall: ",
        ]
    );
    let open = super::rendered(&json!({ "networkPolicy": { "enabled": true } }))?;
    let policy = open.one("NetworkPolicy", "-agent")?;
    assert!(policy["spec"]["ingress"][0].get("from").is_none(), "no peers are all peers: {policy}");
    Ok(())
}

#[test]
fn monitors_name_ports_that_their_pods_have() -> Result<()> {
    let rendered = with_webhook(&watched())?;
    let mut seen = Vec::new();
    for monitor in rendered.documents.iter().filter(|d| d["apiVersion"] == "monitoring.coreos.com/v1") {
        let name = monitor["metadata"]["name"].as_str().context("no name")?;
        assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus", "{name}");
        let kind = monitor["kind"].as_str().context("no kind")?;
        let list = match kind {
            "PodMonitor" => &monitor["spec"]["podMetricsEndpoints"],
            "ServiceMonitor" => &monitor["spec"]["endpoints"],
            other => bail!("{other}"),
        };
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{name}");
        let endpoint = &list[0];
        assert_eq!((&endpoint["path"], &endpoint["interval"]), (&json!("/metrics"), &json!("30s")), "{name}");
        let port = endpoint["port"].as_str().context("no port")?;
        match name {
            "culvert-sidecar" => {
                // Every pod of the cluster that has the port, which the sidecar's container gives its name.
                assert_eq!(port, "culvert-status");
                assert_eq!(monitor["spec"]["selector"], json!({}));
                assert_eq!(monitor["spec"]["namespaceSelector"], json!({ "any": true }));
            }
            _ => {
                let pods = taken(&rendered, &monitor["spec"]["selector"])?;
                assert_eq!(pods.len(), 1, "{name}: {pods:?}");
                assert!(has_port(&rendered, &pods[0], port), "{name}: {port}");
            }
        }
        if kind == "ServiceMonitor" {
            let service = rendered.one("Service", name)?;
            let selector = monitor["spec"]["selector"]["matchLabels"].as_object().context("no selector")?;
            let labels = &service["metadata"]["labels"];
            assert!(selector.iter().all(|(key, value)| labels[key] == *value), "{selector:?} in {labels}");
            let ports = service["spec"]["ports"].as_array().context("no ports")?;
            assert!(ports.iter().any(|known| known["name"] == port), "{ports:?}");
        }
        seen.push(format!("{kind} {name}"));
    }
    assert_eq!(
        seen,
        [
            "PodMonitor culvert-agent",
            "PodMonitor culvert-sidecar",
            "ServiceMonitor culvert-injector",
            "ServiceMonitor culvert-controller",
        ]
    );
    Ok(())
}

#[test]
fn nothing_watches_unless_it_is_asked_for() -> Result<()> {
    let kinds: Vec<String> = rendered(&json!({}))?
        .documents
        .iter()
        .filter_map(|document| document["kind"].as_str().map(str::to_owned))
        .collect();
    for kind in ["NetworkPolicy", "PodMonitor", "ServiceMonitor"] {
        assert!(!strings(&json!(kinds)).contains(&kind), "{kinds:?}");
    }
    Ok(())
}
