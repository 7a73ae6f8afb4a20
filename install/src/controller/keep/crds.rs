// SPDX-License-Identifier: Apache-2.0
//! Kinds of the mesh as CustomResourceDefinitions, made of the reader's own schemas.

use std::sync::Arc;
use std::time::Duration;

use culvert_mesh::kinds::Kind;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Map, Value, json};
use tokio::time::{sleep, timeout};

use crate::controller::options::Crds;
use crate::controller::shared::Shared;
use crate::controller::watch::{GROUP, VERSION, plural, written};

const MANAGER: &str = "culvert-controller";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Deadline of all writes of one try.
const WITHIN: Duration = Duration::from_secs(60);

/// Makes the kinds once this replica leads, then ends.
pub(crate) async fn make(shared: Arc<Shared>) {
    let crds = shared.settings.crds;
    if crds == Crds::Never {
        return;
    }
    let mut leads = shared.leads.subscribe();
    loop {
        let is_over = leads.wait_for(|leads| *leads).await.is_err();
        if is_over {
            return;
        }
        match timeout(WITHIN, make_all(&shared, crds)).await {
            Ok(Ok(())) => return shared.wake.notify_one(),
            Ok(Err(error)) => {
                shared.metrics.failures.inc();
                tracing::warn!(
                    "the kinds of the mesh cannot be made: {error}; tried again in {} s",
                    PAUSE.as_secs()
                );
            }
            Err(_) => {
                tracing::warn!("the API server does not answer about the kinds of the mesh; tried again")
            }
        }
        sleep(PAUSE).await;
    }
}

async fn make_all(shared: &Shared, crds: Crds) -> Result<(), kube::Error> {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions");
    let api = Api::<DynamicObject>::all_with(shared.client.clone(), &resource);
    if crds == Crds::Auto {
        let there = api.list_metadata(&ListParams::default()).await?;
        let of_group = |name: &str| name.split_once('.').is_some_and(|(_, group)| group == GROUP);
        let kumas = there.items.iter().filter(|crd| crd.metadata.name.as_deref().is_some_and(of_group));
        let is_ours = |labels: &std::collections::BTreeMap<String, String>| {
            labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER)
        };
        let mut others = kumas.filter(|crd| !crd.metadata.labels.as_ref().is_some_and(is_ours));
        if let Some(other) = others.next() {
            let name = other.metadata.name.as_deref().unwrap_or_default();
            tracing::info!(name, "the cluster has kinds of {GROUP} by another program: none are made");
            return Ok(());
        }
    }
    for kind in Kind::ALL.into_iter().filter(|kind| written(*kind)) {
        let crd = crd(kind);
        let name = format!("{}.{GROUP}", plural(kind));
        let applied = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&crd)).await;
        match applied {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 415 => {
                let object = serde_json::from_value(crd).map_err(kube::Error::SerdeError)?;
                api.create(&PostParams::default(), &object).await?;
            }
            Err(error) => return Err(error),
        }
    }
    tracing::info!("the kinds of {GROUP}/{VERSION} are there");
    Ok(())
}

/// Returns true for a kind without a namespace, as Kuma has it: Mesh and the older kinds.
pub(crate) fn is_of_cluster(kind: Kind) -> bool {
    kind == Kind::Mesh || !(kind.name().starts_with("Mesh") || kind.name() == "HostnameGenerator")
}

/// The CustomResourceDefinition of a kind.
pub(crate) fn crd(kind: Kind) -> Value {
    let (name, plural) = (kind.name(), plural(kind));
    let spec = structural(&kind.schema()["$defs"]["spec"]);
    let mesh = json!({ "type": "string" });
    let condition = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let conditions = json!({ "type": "array", "items": condition });
    let status = json!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": { "conditions": conditions },
    });
    let columns = json!([
        { "name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status" },
        { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
    ]);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{GROUP}"), "labels": { MANAGED_BY: MANAGER } },
        "spec": {
            "group": GROUP,
            "scope": if is_of_cluster(kind) { "Cluster" } else { "Namespaced" },
            "names": { "kind": name, "listKind": format!("{name}List"), "plural": plural, "singular": name.to_lowercase() },
            "versions": [{
                "name": VERSION, "served": true, "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": { "mesh": mesh, "spec": spec, "status": status },
                } },
            }],
        },
    })
}

/// Turns a schema into a structural one, as Kubernetes wants it. Where it has a choice of forms, any value is taken; and fields
/// that it does not name stay, so that the condition `Accepted` can name them: the API server would drop them in silence.
fn structural(schema: &Value) -> Value {
    let any = || json!({ "x-kubernetes-preserve-unknown-fields": true });
    let Some(kind) = schema["type"].as_str() else { return any() };
    let mut made = Map::new();
    made.insert("type".to_owned(), kind.into());
    if let Some(words) = schema["description"].as_str() {
        made.insert("description".to_owned(), words.into());
    }
    match kind {
        "object" => {
            made.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
            if let Some(properties) = schema["properties"].as_object().filter(|all| !all.is_empty()) {
                let all = properties.iter().map(|(name, of)| (name.clone(), structural(of)));
                made.insert("properties".to_owned(), all.collect::<Map<_, _>>().into());
            }
        }
        "array" => {
            let items = schema.get("items").map_or_else(any, structural);
            made.insert("items".to_owned(), items);
        }
        "string" => {
            if let Some(words) = schema["enum"].as_array().filter(|words| words.iter().all(Value::is_string))
            {
                made.insert("enum".to_owned(), words.clone().into());
            }
        }
        _ => {}
    }
    made.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of structural schemas that Kubernetes checks at once.
    fn check(kind: Kind, path: &str, schema: &Value) {
        let known =
            ["type", "description", "properties", "items", "enum", "x-kubernetes-preserve-unknown-fields"];
        let fields = schema.as_object().unwrap();
        assert!(fields.keys().all(|key| known.contains(&key.as_str())), "{} {path}: {fields:?}", kind.name());
        match schema["type"].as_str() {
            None => {
                assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{} {path}", kind.name())
            }
            Some("array") => check(kind, &format!("{path}[]"), &schema["items"]),
            Some("object") => {
                for (name, of) in schema["properties"].as_object().into_iter().flatten() {
                    check(kind, &format!("{path}.{name}"), of);
                }
            }
            Some(of) => assert!(
                ["string", "integer", "number", "boolean"].contains(&of),
                "{} {path}: {of}",
                kind.name()
            ),
        }
    }

    #[test]
    fn each_kind_is_a_structural_schema() {
        for kind in Kind::ALL.into_iter().filter(|kind| written(*kind)) {
            let crd = crd(kind);
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            check(kind, "", schema);
            assert_eq!(crd["metadata"]["name"], format!("{}.kuma.io", plural(kind)));
        }
        let passthrough = crd(Kind::ALL.into_iter().find(|kind| kind.name() == "MeshPassthrough").unwrap());
        let spec = &passthrough["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(spec["properties"]["targetRef"]["type"], "object");
        assert_eq!(passthrough["spec"]["scope"], "Namespaced");
        assert_eq!(crd(Kind::Mesh)["spec"]["scope"], "Cluster");
    }
}
