// SPDX-License-Identifier: Apache-2.0
//! The rendered objects, and the evaluator that stands for the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{Chart, strings};
use serde_json::{Value, json};

use super::sides::{Settings, evaluate, policies};

#[test]
fn policies_are_valid_in_each_kubernetes_that_has_them() -> Result<()> {
    let chart = Chart::here()?;
    let folder = tempfile::tempdir()?;
    let redirect = json!({ "proxyUid": 1337, "dropInvalid": true, "excludeInboundPorts": "22" });
    let other = Settings { redirect, locked: json!(["proxyUid"]), ..Settings::of("plain") };
    for kubernetes in ["1.36", "1.37"] {
        let mut files = Vec::new();
        for settings in [Settings::of("auto"), other.clone(), Settings::controlled("native")] {
            let rendered = chart.render(&settings.values(), kubernetes)?;
            ensure!(
                rendered.text == chart.render(&settings.values(), kubernetes)?.text,
                "two renders differ"
            );
            let file =
                folder.path().join(format!("{}-{kubernetes}-{}.yaml", settings.sidecar, settings.controlled));
            fs::write(&file, rendered.text)?;
            files.push(file);
        }
        chart.validate(kubernetes, &files)?;
    }
    Ok(())
}

#[test]
fn policies_are_refused_where_kubernetes_has_none() -> Result<()> {
    let error = Chart::here()?.render(&Settings::of("auto").values(), "1.35").expect_err("rendered for 1.35");
    ensure!(format!("{error:#}").contains("injector.mode policy needs Kubernetes 1.36"), "{error:#}");
    let webhook = json!({ "injector": { "mode": "webhook" } });
    let off = json!({ "injector": { "mode": "policy", "enabled": false } });
    for values in [webhook, off] {
        let text = Chart::here()?.render(&values, "1.37")?.text;
        ensure!(!text.contains("AdmissionPolicy"), "policies for {values}");
    }
    Ok(())
}

/// Helm turns the keys of the chart's values into the names of annotations.
#[test]
fn policies_know_each_setting_of_the_plugin() -> Result<()> {
    let known: BTreeSet<_> = culvert_cni::pod::names().map(|(name, _)| name.to_owned()).collect();
    let value = |key: &str| match key {
        "redirectInbound" | "redirectOutbound" | "dropInvalid" | "trace" => "enabled",
        "excludeInboundCidrs" | "excludeOutboundCidrs" => "10.0.0.0/8",
        "virtualInterfaces" => "docker0:172.17.0.0/16",
        "closedPorts" => "refuse",
        "outboundUdp" => "direct",
        "redirectDns" => "all",
        "ipFamily" => "dual",
        "engine" => "auto",
        // A port, a list of them, a uid.
        _ => "1",
    };
    let redirect = culvert_cni::pod::names().map(|(_, key)| (key.to_owned(), json!(value(key)))).collect();
    let locked = culvert_cni::pod::names().map(|(_, key)| key).collect::<Vec<_>>();
    let settings =
        Settings { redirect: Value::Object(redirect), locked: json!(locked), ..Settings::of("native") };
    let documents = policies(&settings)?;
    let policy =
        documents.iter().find(|policy| policy["kind"] == "MutatingAdmissionPolicy").context("no policy")?;
    let variables = policy["spec"]["variables"].as_array().context("no variables")?;
    let expression = |name: &str| {
        let variable = variables.iter().find(|variable| variable["name"] == name)?;
        variable["expression"].as_str()
    };
    let node: BTreeMap<String, String> = serde_json::from_str(expression("node").context("no node")?)?;
    ensure!(node.keys().cloned().collect::<BTreeSet<_>>() == known, "{node:?}");
    let locked: BTreeSet<String> = serde_json::from_str(expression("locked").context("no locked")?)?;
    ensure!(locked == known, "{locked:?}");
    let settings = expression("settings").context("no settings")?;
    let names = settings.split("{'name': '").skip(1).filter_map(|rest| rest.split_once('\''));
    let names: BTreeSet<_> = names.map(|(name, _)| name.to_owned()).collect();
    ensure!(names == known, "{names:?}");
    Ok(())
}

/// No failure of a policy may concern a pod that asks for nothing, nor the cluster's own.
#[test]
fn policies_concern_only_creations_of_pods_that_ask() -> Result<()> {
    for policy in policies(&Settings::of("native"))? {
        let spec = &policy["spec"];
        if policy["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding")) {
            let namespace = spec["matchResources"]["namespaceSelector"]["matchExpressions"].as_array();
            let pod =
                spec["matchResources"]["objectSelector"]["matchExpressions"].as_array().context("no pods")?;
            let asks = |rules: &Vec<Value>| rules.iter().any(|rule| rule["operator"] == "Exists");
            ensure!(namespace.is_some_and(asks) || asks(pod), "{policy}");
            continue;
        }
        ensure!(spec["failurePolicy"] == "Fail", "{policy}");
        let constraints = &spec["matchConstraints"];
        ensure!(constraints["resourceRules"][0]["operations"] == json!(["CREATE"]), "{policy}");
        ensure!(constraints["resourceRules"][0]["resources"] == json!(["pods"]), "{policy}");
        let names = strings(&constraints["namespaceSelector"]["matchExpressions"][0]["values"]);
        for name in ["kube-system", "kube-public", "kube-node-lease", "culvert-system", "excluded"] {
            ensure!(names.contains(&name), "{name} is not left out: {names:?}");
        }
    }
    Ok(())
}

/// What Kubernetes refuses at the creation of a policy, and the evaluator's CEL would take.
#[test]
fn the_evaluator_refuses_what_kubernetes_refuses() -> Result<()> {
    let right = ["['a', 'b']", "[dyn('a'), dyn(1)]", "'%s %d'.format(['a', 1])", "variables.uid + '1'"];
    let wrong = [
        ("['a', 1]", "of mixed types"),
        ("['a', object.spec]", "of mixed types"),
        ("{'a': 1, 'b': 'c'}", "of mixed types"),
        ("object.spec.containers.map(c, {'a': 1, ?'b': optional.of('c')})", "of mixed types"),
        ("variables.no", "undeclared reference"),
        ("variables.uid + 1", "no matching overload"),
        ("namespaceObject.metadata.labels['a'] == 1", "no matching overload"),
        ("'abc'.reverse()", "reverse"),
        ("{'a': 1}.transformMap(k, v, v)", "transformMap"),
        ("cel.bind(x, 1, x)", "undeclared reference"),
        ("[[1]].flatten()", "undeclared reference"),
    ];
    let expressions: Vec<_> = right.into_iter().chain(wrong.map(|(expression, _)| expression)).collect();
    let documents = policies(&Settings::of("native"))?;
    let answers = evaluate(&json!({ "documents": documents, "pods": [], "expressions": expressions }))?;
    let answers = strings(&answers);
    ensure!(answers.len() == expressions.len(), "{answers:?}");
    let (well, said) = answers.split_at(right.len());
    ensure!(well.iter().all(|error| error.is_empty()), "{well:?}");
    for ((expression, why), said) in wrong.into_iter().zip(said) {
        ensure!(said.contains(why), "{expression}: {said:?}");
    }
    Ok(())
}

/// A test that cannot fail shows nothing: each of these changes of the expressions must be noticed.
#[test]
fn changed_expressions_make_other_pods() -> Result<()> {
    let documents = policies(&Settings::controlled("native"))?;
    let shape = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" }, "spec": {
        "initContainers": [{ "name": "a" }], "containers": [{ "name": "web", "securityContext": { "runAsUser": 5678 }, "ports": [{ "containerPort": 80 }],
        "readinessProbe": { "tcpSocket": { "port": 80 } } }] } });
    let labels = json!({ "kubernetes.io/metadata.name": "shop", "culvert.dev/inject": "enabled" });
    let pods = json!([{ "pod": shape, "namespace": { "metadata": { "labels": labels } } }]);
    let right = evaluate(&json!({ "documents": documents, "pods": pods }))?;
    let text = json!(documents).to_string();
    for (old, new) in [
        ("'/spec/containers') + '/0'", "'/spec/containers') + '/-'"),
        ("map(t, t + 1)", "map(t, t + 2)"),
        ("variables.grace + 30", "variables.grace + 10"),
        ("'runAsNonRoot': dyn(true)", "'runAsNonRoot': dyn(false)"),
        ("/app-health/' + p.name + '/readyz'", "/app-health/' + p.name + '/ready'"),
        ("op: 'remove'", "op: 'add', value: 1"),
        ("'culvert.dev/inject', 'yes': 'enabled'", "'culvert.dev/inject', 'yes': 'on'"),
        ("'--drain-time='", "'--drain='"),
        ("'expirationSeconds': dyn(3600)", "'expirationSeconds': dyn(600)"),
        ("'status.podIPs'", "'status.podIP'"),
        ("'--pod-ports='", "'--ports='"),
        ("?'optional': variables.controlled", "?'optional': variables.again"),
        ("variables.control != ''", "variables.control == ''"),
    ] {
        ensure!(text.contains(old), "{old} is not in the policies");
        let changed: Value = serde_json::from_str(&text.replace(old, new))?;
        if let Ok(answer) = evaluate(&json!({ "documents": changed, "pods": pods })) {
            ensure!(answer != right, "{old} → {new} changes nothing");
        }
    }
    Ok(())
}
