// SPDX-License-Identifier: Apache-2.0
//! The namespace that is tried: the given one, or the first that asks for sidecars and is not left out.

use serde_json::{Value, json};

use crate::inject::{Decision, KumaLabel, Namespace, Settings, Shape, concerns_namespace, decide};
use crate::kube::Client;
use crate::kube::http::{ApiError, Call, encoded};

/// Namespaces a page; each with its labels is some 500 bytes.
const PAGE: usize = 500;
const OWN: &str = "culvert.dev/inject";
const KUMA: &str = "kuma.io/sidecar-injection";

/// Reasons why no namespace is tried.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untried {
    #[error("no namespace has the label culvert.dev/inject: enabled")]
    NoneAsks,
    #[error("each namespace with the label culvert.dev/inject: enabled gets no sidecars: {0}")]
    NoneGets(String),
    /// The given namespace asks for none, or is left out.
    #[error("{0}")]
    AsksNot(String),
    #[error("the API server was not asked")]
    NotReached,
    #[error("{0}")]
    Unread(ApiError),
}

/// The part of the decision that the cluster's objects tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Namespaces that API servers never ask the injector about.
    pub excluded: Vec<String>,
    pub kuma_label: KumaLabel,
}

impl Default for Rules {
    /// Of an injector whose objects cannot be read.
    fn default() -> Self {
        Self { excluded: Vec::new(), kuma_label: KumaLabel::On }
    }
}

impl Rules {
    /// Those of the injector's webhooks.
    pub(crate) fn of_webhooks<'a>(webhooks: impl Iterator<Item = &'a Value> + Clone) -> Self {
        let mut excluded: Option<Vec<String>> = None;
        for webhook in webhooks.clone() {
            let of_this = left_out(&webhook["namespaceSelector"]);
            excluded = Some(match excluded {
                None => of_this,
                // One webhook that is asked about it is enough.
                Some(all) => all.into_iter().filter(|name| of_this.contains(name)).collect(),
            });
        }
        let reads = |webhook: &Value| {
            ["namespaceSelector", "objectSelector"]
                .iter()
                .any(|of| expressions(&webhook[of], KUMA).any(|_| true))
        };
        let kuma_label = if webhooks.clone().any(reads) { KumaLabel::On } else { KumaLabel::Off };
        Self { excluded: excluded.unwrap_or_default(), kuma_label }
    }

    /// Those of the injector's policy.
    pub(crate) fn of_policy(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let mut variables = spec["variables"].as_array().into_iter().flatten();
        let is_off =
            variables.any(|variable| variable["name"] == "kumaLabel" && variable["expression"] == "false");
        Self {
            excluded: left_out(&spec["matchConstraints"]["namespaceSelector"]),
            kuma_label: if is_off { KumaLabel::Off } else { KumaLabel::On },
        }
    }
}

/// Expressions of a label selector about one key.
fn expressions<'a>(selector: &'a Value, key: &'a str) -> impl Iterator<Item = &'a Value> {
    let all = selector["matchExpressions"].as_array().into_iter().flatten();
    all.filter(move |expression| expression["key"] == key)
}

/// The names of namespaces that a selector leaves out.
fn left_out(selector: &Value) -> Vec<String> {
    let named = expressions(selector, "kubernetes.io/metadata.name");
    let not_in = named.filter(|expression| expression["operator"] == "NotIn");
    let values = not_in.filter_map(|expression| expression["values"].as_array()).flatten();
    values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// Chooses the namespace.
pub(super) async fn namespace(
    client: &Client,
    given: Option<&str>,
    rules: &Rules,
) -> Result<String, Untried> {
    if let Some(name) = given {
        let path = format!("/api/v1/namespaces/{}", encoded(name));
        let namespace: Value = client.json(Call::get(&path)).await.map_err(Untried::Unread)?;
        return asks(&namespace, rules).map(|()| name.to_owned()).map_err(Untried::AsksNot);
    }
    let mut excluded = None;
    // By the label, as a cluster may have more namespaces than a page.
    let labels: &[&str] = if rules.kuma_label == KumaLabel::On { &[OWN, KUMA] } else { &[OWN] };
    for label in labels {
        let path = format!("/api/v1/namespaces?limit={PAGE}&labelSelector={}", encoded(label));
        let list: Value = client.json(Call::get(&path)).await.map_err(Untried::Unread)?;
        for namespace in list["items"].as_array().into_iter().flatten() {
            let Some(name) = namespace["metadata"]["name"].as_str() else { continue };
            match asks(namespace, rules) {
                Ok(()) => return Ok(name.to_owned()),
                Err(reason) if asks(namespace, &Rules { excluded: Vec::new(), ..rules.clone() }).is_ok() => {
                    excluded = excluded.or(Some(reason));
                }
                Err(_) => {}
            }
        }
    }
    Err(excluded.map_or(Untried::NoneAsks, Untried::NoneGets))
}

/// Decides about a plain pod of a namespace as the injector does; the error is its reason.
pub(super) fn asks(namespace: &Value, rules: &Rules) -> Result<(), String> {
    let metadata = &namespace["metadata"];
    let of = |names: &Value| {
        let all = names.as_object().into_iter().flatten();
        let ours = all.filter(|(name, _)| concerns_namespace(name));
        ours.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    };
    let namespace = Namespace {
        name: metadata["name"].as_str().map(str::to_owned),
        labels: of(&metadata["labels"]),
        annotations: of(&metadata["annotations"]),
    };
    let settings = Settings {
        image: String::new(),
        shape: Shape::Native,
        excluded: rules.excluded.clone(),
        kuma_label: rules.kuma_label,
        node: culvert_cni::pod::Settings::default(),
        control: None,
    };
    match decide(&pod(), &namespace, &settings) {
        Decision::Injected(_) => Ok(()),
        Decision::Skipped(skipped) => Err(skipped.to_string()),
        Decision::Refused(refusal) => Err(refusal.to_string()),
    }
}

/// A pod that every namespace takes, whatever its Pod Security, quota or limits ask for.
pub(super) fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "culvert-doctor-", "labels": { "app.kubernetes.io/name": "culvert-doctor" } },
        "spec": {
            "containers": [{
                "name": "app", "image": "registry.k8s.io/pause:3.10",
                "resources": { "requests": { "cpu": "1m", "memory": "1Mi" }, "limits": { "cpu": "10m", "memory": "8Mi" } },
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "runAsNonRoot": true,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
            }],
        },
    })
}
