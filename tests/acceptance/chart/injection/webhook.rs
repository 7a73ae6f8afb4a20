// SPDX-License-Identifier: Apache-2.0
//! The webhook's entries: which pods the API server asks about, and what becomes of them as the release goes.

use std::fs;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{Chart, KUBERNETES, NAMESPACE, Rendered, strings};
use serde_json::{Value, json};

use crate::chart::{choices, with_webhook as rendered};

const OWN: &str = "culvert.dev/inject";
const KUMA: &str = "kuma.io/sidecar-injection";
const NAME: &str = "kubernetes.io/metadata.name";

/// Values of a label; the empty one stands for no label.
const VALUES: [&str; 4] = ["", "enabled", "disabled", "enabeld"];
/// The same of Kuma's, which has two spellings.
const KUMA_VALUES: [&str; 6] = ["", "enabled", "true", "disabled", "false", "enabeld"];

/// Labels of these values, without the empty ones.
fn labels(own: &str, kuma: &str) -> Value {
    let mut labels = json!({});
    for (key, value) in [(OWN, own), (KUMA, kuma)] {
        if !value.is_empty() {
            labels[key] = value.into();
        }
    }
    labels
}

/// A selector as Kubernetes reads it: labels.Requirement.Matches.
fn selects(selector: &Value, labels: &Value) -> Result<bool> {
    ensure!(selector.as_object().is_some_and(|keys| keys.len() == 1), "more than expressions: {selector}");
    for expression in selector["matchExpressions"].as_array().context("no expressions")? {
        let value = &labels[expression["key"].as_str().context("no key")?];
        let named = expression["values"].as_array().is_some_and(|values| values.contains(value));
        let meets = match expression["operator"].as_str() {
            Some("Exists") => !value.is_null(),
            Some("DoesNotExist") => value.is_null(),
            Some("In") => named,
            Some("NotIn") => !named,
            other => anyhow::bail!("{other:?} is not read here"),
        };
        if !meets {
            return Ok(false);
        }
    }
    Ok(true)
}

fn configuration(values: &Value) -> Result<Value> {
    configuration_of(&rendered(values)?)
}

/// The webhook of the release, which is no hook's.
fn configuration_of(rendered: &Rendered) -> Result<Value> {
    let of_release = |document: &&Value| {
        document["kind"] == "MutatingWebhookConfiguration"
            && document["metadata"]["annotations"]["helm.sh/hook"].is_null()
    };
    let mut found = rendered.documents.iter().filter(of_release);
    let configuration = found.next().context("no webhook")?.clone();
    ensure!(found.next().is_none(), "a second one");
    Ok(configuration)
}

/// Names of the entries by which the API server asks about a pod.
fn asked<'a>(configuration: &'a Value, namespace: &Value, pod: &Value) -> Result<Vec<&'a str>> {
    let mut names = Vec::new();
    for entry in configuration["webhooks"].as_array().context("no entries")? {
        if selects(&entry["namespaceSelector"], namespace)? && selects(&entry["objectSelector"], pod)? {
            names.push(entry["name"].as_str().context("no name")?);
        }
    }
    Ok(names)
}

/// The rule for people: the pod's own label decides, culvert's before Kuma's, and its namespace's where it has none.
fn asks(pod: (&str, &str), namespace: (&str, &str)) -> bool {
    let label = [pod.0, pod.1, namespace.0, namespace.1].into_iter().find(|value| !value.is_empty());
    label.is_some_and(|value| !["disabled", "false"].contains(&value))
}

/// Every combination of labels on pod and namespace.
fn every_combination(mut each: impl FnMut((&str, &str), (&str, &str)) -> Result<()>) -> Result<usize> {
    let mut seen = 0;
    for pod in VALUES {
        for pod_kuma in KUMA_VALUES {
            for namespace in VALUES {
                for namespace_kuma in KUMA_VALUES {
                    each((pod, pod_kuma), (namespace, namespace_kuma))?;
                    seen += 1;
                }
            }
        }
    }
    Ok(seen)
}

#[test]
fn exactly_the_pods_that_ask_reach_the_injector_and_each_once() -> Result<()> {
    let configuration = configuration(&json!({}))?;
    let seen = every_combination(|pod, namespace| {
        let mut of_namespace = labels(namespace.0, namespace.1);
        of_namespace[NAME] = "shop".into();
        let asked = asked(&configuration, &of_namespace, &labels(pod.0, pod.1))?;
        let expected = usize::from(asks(pod, namespace));
        ensure!(asked.len() == expected, "pod {pod:?} in {namespace:?}: {asked:?}, not {expected}");
        Ok(())
    })?;
    assert_eq!(seen, 576);
    Ok(())
}

#[test]
fn without_kumas_label_it_counts_for_nothing() -> Result<()> {
    let configuration = configuration(&json!({ "injector": { "kumaLabel": false } }))?;
    every_combination(|pod, namespace| {
        let mut of_namespace = labels(namespace.0, namespace.1);
        of_namespace[NAME] = "shop".into();
        let asked = asked(&configuration, &of_namespace, &labels(pod.0, pod.1))?;
        let expected = usize::from(asks((pod.0, ""), (namespace.0, "")));
        ensure!(asked.len() == expected, "pod {pod:?} in {namespace:?}: {asked:?}, not {expected}");
        Ok(())
    })?;
    assert!(!configuration.to_string().contains("kuma"), "{configuration}");
    Ok(())
}

/// Both injectors would put a sidecar into each of Kuma's pods.
#[test]
fn kumas_label_is_left_to_kuma_where_it_is_there() -> Result<()> {
    for (value, beside, expected) in [
        (json!("auto"), "kuma.io/v1alpha1", false),
        (json!("auto"), "example.com/v1", true),
        (json!(true), "kuma.io/v1alpha1", true),
        (json!(false), "example.com/v1", false),
    ] {
        let values = json!({ "injector": { "mode": "webhook", "kumaLabel": value } });
        let rendered = Chart::here()?.render_beside(beside, &values, KUBERNETES[KUBERNETES.len() - 1])?;
        let configuration = configuration_of(&rendered)?;
        let labelled = json!({ NAME: "shop", KUMA: "enabled" });
        let asked = asked(&configuration, &labelled, &json!({}))?;
        assert_eq!(asked.len(), usize::from(expected), "{value} beside {beside}: {asked:?}");
        // A pod that asks by culvert's label reaches the server with Kuma's too.
        let server = &rendered.one("Deployment", "-injector")?["spec"]["template"]["spec"]["containers"][0];
        let option = if expected { "--kuma-label=on" } else { "--kuma-label=off" };
        ensure!(strings(&server["args"]).contains(&option), "{value} beside {beside}: {}", server["args"]);
    }
    Ok(())
}

#[test]
fn no_label_reaches_the_injector_from_a_namespace_that_is_left_out() -> Result<()> {
    let configuration = configuration(&json!({
        "injector": { "excludeNamespaces": ["infra"] }, "entry": { "excludeNamespaces": ["storage"] } }))?;
    let left_out = ["kube-system", "kube-public", "kube-node-lease", NAMESPACE, "storage", "infra"];
    for name in left_out {
        every_combination(|pod, namespace| {
            let mut of_namespace = labels(namespace.0, namespace.1);
            of_namespace[NAME] = name.into();
            let asked = asked(&configuration, &of_namespace, &labels(pod.0, pod.1))?;
            ensure!(asked.is_empty(), "{name}: {asked:?}");
            Ok(())
        })?;
    }
    // The server's own list is the same: a pod that reaches it in another way is skipped.
    let rendered = rendered(&json!({
        "injector": { "excludeNamespaces": ["infra"] }, "entry": { "excludeNamespaces": ["storage"] } }))?;
    let container = &rendered.one("Deployment", "-injector")?["spec"]["template"]["spec"]["containers"][0];
    let of_server: Vec<&str> = strings(&container["args"])
        .into_iter()
        .filter_map(|argument| argument.strip_prefix("--exclude-namespace="))
        .collect();
    assert_eq!(of_server, left_out);
    Ok(())
}

#[test]
fn each_entry_fails_closed_in_time_and_at_creation_only() -> Result<()> {
    let configuration = configuration(&json!({}))?;
    let entries = configuration["webhooks"].as_array().context("no entries")?;
    assert_eq!(entries.len(), 4);
    for entry in entries {
        for (field, expected) in [
            ("failurePolicy", json!("Fail")),
            ("reinvocationPolicy", json!("IfNeeded")),
            // Events are written, and none for a dry run.
            ("sideEffects", json!("NoneOnDryRun")),
            ("timeoutSeconds", json!(5)),
            ("admissionReviewVersions", json!(["v1"])),
            ("matchPolicy", json!("Equivalent")),
            (
                "rules",
                json!([{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                         "resources": ["pods"], "scope": "Namespaced" }]),
            ),
            (
                "clientConfig",
                json!({ "service": { "name": "culvert-injector", "namespace": NAMESPACE, "path": "/inject",
                                     "port": 443 } }),
            ),
        ] {
            assert_eq!(entry[field], expected, "{field} of {entry}");
        }
        // Kubernetes asks for a name of three parts.
        let name = entry["name"].as_str().context("no name")?;
        assert!(name.split('.').count() >= 3 && name.ends_with(".culvert.dev"), "{name}");
        let conditions = entry["matchConditions"].as_array().context("no conditions")?;
        let expressions: Vec<&str> =
            conditions.iter().filter_map(|condition| condition["expression"].as_str()).collect();
        assert_eq!(
            expressions,
            [
                "!has(object.spec.hostNetwork) || !object.spec.hostNetwork",
                "!has(object.metadata.annotations) || !('kubernetes.io/config.mirror' in object.metadata.annotations)"
            ]
        );
    }
    Ok(())
}

/// What the chart does not name belongs to another writer: helm's merge and the API server's leave it as it is. A name for it,
/// an empty one too, would take the injector's away at each upgrade, or end in a conflict.
#[test]
fn an_upgrade_leaves_the_injectors_ca_bundle_as_it_is() -> Result<()> {
    for (name, values) in choices()? {
        for document in rendered(&values)?.documents {
            ensure!(!document.to_string().contains("caBundle"), "{name}: {document}");
        }
    }
    let configuration = configuration(&json!({}))?;
    // AKS writes into the selectors of others' webhooks, unless told so.
    assert_eq!(configuration["metadata"]["annotations"], json!({ "admissions.enforcer/disabled": "true" }));
    Ok(())
}

/// These give another result at each rendering, or one without a cluster and another with it.
#[test]
fn no_template_asks_for_chance_time_or_the_cluster() -> Result<()> {
    const CHANGING: [&str; 5] = ["lookup", "now", "date", "uuidv4", "htpasswd"];
    let changes =
        |word: &&str| CHANGING.contains(word) || word.starts_with("gen") || word.starts_with("rand");
    let mut folders = vec![Chart::folder().join("templates")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = fs::read_to_string(&path)?;
            for action in text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")) {
                if action.0.trim_start_matches('-').trim_start().starts_with("/*") {
                    continue;
                }
                let found = action.0.split(|c: char| c.is_whitespace() || "()|".contains(c)).find(changes);
                ensure!(found.is_none(), "{}: {{{{{}}}}}", path.display(), action.0);
            }
        }
    }
    ensure!(files > 10, "only {files} files");
    Ok(())
}

/// Helm deletes the object of a hook's name before it makes the hook's own.
#[test]
fn the_webhook_goes_before_anything_else_and_the_certificate_after_all() -> Result<()> {
    let values = [json!({}), json!({ "uninstall": { "enabled": false } })];
    for values in values {
        let rendered = rendered(&values)?;
        let real = configuration(&values)?;
        let hooks: Vec<&Value> = rendered
            .documents
            .iter()
            .filter(|document| !document["metadata"]["annotations"]["helm.sh/hook"].is_null())
            .collect();
        let weight = |hook: &Value| -> Option<i32> {
            hook["metadata"]["annotations"]["helm.sh/hook-weight"].as_str()?.parse().ok()
        };
        let first = hooks
            .iter()
            .filter(|hook| hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete")
            .min_by_key(|hook| weight(hook))
            .context("no hook")?;
        assert_eq!(first["kind"], "MutatingWebhookConfiguration");
        assert_eq!(first["metadata"]["name"], real["metadata"]["name"]);
        assert_eq!(first["webhooks"], json!([]));
        let deletes = &first["metadata"]["annotations"]["helm.sh/hook-delete-policy"];
        assert_eq!(deletes, "before-hook-creation,hook-succeeded");
        let next = hooks.iter().filter_map(|hook| weight(hook)).filter(|next| Some(*next) != weight(first));
        assert!(next.min().is_none_or(|next| weight(first) < Some(next)), "others go with it");

        let secret = rendered.one("Secret", "-injector")?;
        assert_eq!(secret["metadata"]["annotations"]["helm.sh/hook"], "post-delete");
        let deletes = &secret["metadata"]["annotations"]["helm.sh/hook-delete-policy"];
        assert_eq!(deletes, "before-hook-creation,hook-succeeded");
        assert!(secret.get("data").is_none(), "{secret}");
    }
    Ok(())
}

#[test]
fn the_page_names_each_case_of_the_labels() -> Result<()> {
    let page = Chart::file("README.md")?;
    let (_, section) = page.split_once("\n## Who gets a sidecar\n").context("no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| pod "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    ensure!(rows.len() == 6, "{rows:?}");
    // A cell in words, as the values that it stands for.
    let values = |cell: &str| -> Result<Vec<&str>> {
        Ok(match cell {
            "any" => VALUES.to_vec(),
            "none" => vec![""],
            "another value" => vec!["enabeld"],
            "`disabled`, or no label" => vec!["disabled", ""],
            "`enabled`" => vec!["enabled"],
            "`disabled`" => vec!["disabled"],
            other => anyhow::bail!("{other:?} is not read here"),
        })
    };
    let mut seen = Vec::new();
    for row in rows {
        let [pod, namespace, says] = row[..] else { anyhow::bail!("{row:?}") };
        for pod in values(pod)? {
            for namespace in values(namespace)? {
                let is_asked = asks((pod, ""), (namespace, ""));
                assert_eq!(says.contains("not even asked"), !is_asked, "{pod:?} in {namespace:?}: {says}");
                let decided = if pod.is_empty() { namespace } else { pod };
                assert_eq!(
                    says.starts_with("gets"),
                    decided == "enabled",
                    "{pod:?} in {namespace:?}: {says}"
                );
                seen.push((pod, namespace));
            }
        }
    }
    seen.sort_unstable();
    let all = seen.len();
    seen.dedup();
    assert_eq!((all, seen.len()), (16, 16), "a case stands twice, or is missing");
    Ok(())
}
