// SPDX-License-Identifier: Apache-2.0
//! Which of webhook and policies a cluster gets, and how the policies go.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{Chart, Rendered, strings, yaml};
use serde_json::{Value, json};

use crate::chart::nodes::agent::ON_THE_NODES;
use crate::chart::rendered;

const WEBHOOK: [&str; 3] = ["Deployment", "MutatingWebhookConfiguration", "PodDisruptionBudget"];
const POLICY: [&str; 4] = [
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

fn hook(document: &Value) -> Option<&str> {
    document["metadata"]["annotations"]["helm.sh/hook"].as_str()
}

/// Those of both modes' kinds that are rendered, hooks or not.
fn injecting(rendered: &Rendered, hooks: bool) -> BTreeSet<&str> {
    let of_side = rendered.documents.iter().filter(|document| hook(document).is_some() == hooks);
    let kinds = of_side.filter_map(|document| document["kind"].as_str());
    kinds.filter(|kind| WEBHOOK.contains(kind) || POLICY.contains(kind)).collect()
}

#[test]
fn a_cluster_gets_policies_where_it_has_them_and_else_a_webhook() -> Result<()> {
    let (webhook, policy) = (BTreeSet::from(WEBHOOK), BTreeSet::from(POLICY));
    for (kubernetes, expected) in
        [("1.28", &webhook), ("1.35", &webhook), ("1.36", &policy), ("1.37", &policy)]
    {
        let rendered = Chart::here()?.render(&json!({}), kubernetes)?;
        assert_eq!(injecting(&rendered, false), *expected, "{kubernetes}");
        // What is not there must not be made to be taken away.
        let removed = injecting(&rendered, true);
        ensure!(!removed.is_empty() && removed.is_subset(expected), "{kubernetes}: {removed:?}");
        let chosen = Chart::here()?.render(&json!({ "injector": { "mode": "webhook" } }), kubernetes)?;
        assert_eq!(injecting(&chosen, false), webhook, "{kubernetes}");
    }
    Ok(())
}

#[test]
fn a_vendors_version_counts_as_the_one_that_it_is_made_of() -> Result<()> {
    for (version, expected) in [
        ("v1.35.9-gke.100", "webhook"),
        ("v1.35.9+k3s1", "webhook"),
        ("v1.36.0-alpha.1", "policy"),
        ("v1.36.1-gke.100", "policy"),
        ("v1.36.0+rke2r1", "policy"),
        ("v1.36.2-eks-0123abc", "policy"),
    ] {
        let rendered = Chart::here()?.render_at(version, &json!({}))?;
        let of_policy = injecting(&rendered, false).contains("MutatingAdmissionPolicy");
        assert_eq!(of_policy, expected == "policy", "{version}");
    }
    Ok(())
}

/// A pod that asks for a sidecar would be refused while nothing puts one in, and the validation is still there.
#[test]
fn the_validation_goes_before_the_mutation_and_both_before_anything_else() -> Result<()> {
    for values in [json!({}), json!({ "injector": { "mode": "policy", "kumaLabel": false } })] {
        let rendered = rendered(&values)?;
        let mut order = Vec::new();
        let mut removed = BTreeSet::new();
        for document in rendered.documents.iter().filter(|document| hook(document) == Some("pre-delete")) {
            let annotations = &document["metadata"]["annotations"];
            let weight: i32 = annotations["helm.sh/hook-weight"].as_str().context("no weight")?.parse()?;
            let kind = document["kind"].as_str().context("no kind")?;
            order.push((weight, kind));
            if !POLICY.contains(&kind) {
                continue;
            }
            assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded");
            // The hook's own binding is of no policy, which Kubernetes ignores.
            let name = document["spec"]["policyName"].as_str().context("no policy")?;
            let is_policy = |known: &Value| known["metadata"]["name"] == name;
            ensure!(!rendered.documents.iter().any(is_policy), "there is a policy {name}");
            removed.insert((kind, document["metadata"]["name"].as_str().context("no name")?));
        }
        order.sort_unstable();
        order.dedup();
        let kinds: Vec<&str> = order.iter().map(|(_, kind)| *kind).collect();
        let bindings = ["ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicyBinding"];
        // Helm waits for a Job before it goes on: so API servers, which look at both kinds of bindings once a second and on their
        // own, have forgotten the validation when the mutation goes.
        let wait = ["Job"];
        assert_eq!(kinds, [&bindings[..1], &wait, &bindings[1..], &ON_THE_NODES].concat());
        ensure!(order[..4].is_sorted_by(|one, next| one.0 < next.0), "{order:?}");
        let job = &rendered.one("Job", "-injector-removal")?;
        ensure!(
            job["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
                == "before-hook-creation,hook-succeeded"
        );
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false, "it asks nobody");
        let container = &pod["containers"][0];
        assert_eq!(container["command"], json!(["/bin/culvert-install", "await-uninstall"]));
        let waits = strings(&container["args"]).into_iter().find_map(|word| word.strip_prefix("--policies="));
        let seconds: u32 = waits.and_then(|time| time.strip_suffix('s')).context("no time")?.parse()?;
        ensure!((3..=10).contains(&seconds), "{seconds} s");
        // Each binding of the release, by the name under which helm deletes it.
        let of_release = rendered.documents.iter().filter(|document| hook(document).is_none());
        let named = of_release.filter_map(|document| {
            Some((document["kind"].as_str()?, document["metadata"]["name"].as_str()?))
        });
        let real: BTreeSet<_> = named.filter(|(kind, _)| bindings.contains(kind)).collect();
        assert_eq!(removed, real);
        // Left by a webhook that was there before.
        assert_eq!(hook(rendered.one("Secret", "-injector")?), Some("post-delete"));
    }
    Ok(())
}

#[test]
fn the_file_of_values_chooses_by_the_cluster() -> Result<()> {
    assert_eq!(yaml(&Chart::file("values.yaml")?)?["injector"]["mode"], "auto");
    ensure!(Chart::file("README.md")?.contains("](POLICY.md)"), "README.md leads to no POLICY.md");
    Ok(())
}
