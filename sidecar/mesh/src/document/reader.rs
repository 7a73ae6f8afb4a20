// SPDX-License-Identifier: Apache-2.0
//! Trees of values → documents.

use crate::context::Context;
use crate::document::spelling::{API_VERSION, DEFAULT_MESH, UNIVERSAL_BOOKKEEPING};
use crate::document::{
    DISPLAY_NAME, Document, DocumentError, Found, Lost, MESH, NAMESPACE, Place, SPIFFE_ID, is_named,
    left_out, topology,
};
use crate::kinds::services::ServiceStatus;
use crate::kinds::{Kind, Spec};
use crate::model::labels::Labels;
use crate::model::spiffe::{SpiffeError, SpiffeId};
use crate::read::{At, FieldWithoutEffect, Fields, Ignored, Problems, Read, describe};
use serde_json::{Map, Value};

/// Returns true for a list, as `kubectl get -o yaml` and `kumactl get -o yaml` print it: its items are documents.
pub(crate) fn is_list(value: &Value) -> bool {
    // kubectl's lists have a kind, kumactl's have none.
    let list = value.get("kind").and_then(Value::as_str).unwrap_or("List").ends_with("List");
    list && value.get("type").is_none() && value.get("items").is_some_and(Value::is_array)
}

/// Reads a document, and returns its problems.
pub(crate) fn read_document(
    context: &Context,
    value: &Value,
    place: &Place,
    found: &mut Found,
) -> Vec<DocumentError> {
    let mut problems = Problems::default();
    let documents = found.documents.len();
    let whose = read_one(context, value, place, found, &mut At::root(&mut problems));
    let kind = found.documents.get(documents).map(|document| document.kind().name());
    for FieldWithoutEffect { field, about } in problems.take_no_effect() {
        let field = field.strip_prefix("spec.").unwrap_or(&field);
        found.left_out.add(kind.unwrap_or_default(), field, about, place);
    }
    let error = |problem| DocumentError { place: place.clone(), whose: whose.clone(), problem };
    problems.into_all().into_iter().map(error).collect()
}

/// Reads one document, and returns its kind and name for errors.
fn read_one(context: &Context, value: &Value, place: &Place, found: &mut Found, at: &mut At<'_>) -> String {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kubernetes = value.get("kind").is_some() || value.get("apiVersion").is_some();
    let key = if kubernetes { "kind" } else { "type" };
    let kind_name = value.get(key).and_then(Value::as_str);
    let name = text(if kubernetes { "/metadata/name" } else { "/name" });
    let whose = [kind_name, name].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let kind = kind_name.and_then(|name| Kind::ALL.into_iter().find(|kind| kind.name() == name));
    // The newer policies name their mesh by the label, the older documents by `mesh`.
    let label = kubernetes.then(|| text("/metadata/labels/kuma.io~1mesh")).flatten();
    let mesh = match value.get("mesh").filter(|mesh| !mesh.is_null() && *mesh != "") {
        _ if kind == Some(Kind::Mesh) => name,
        // Only one mesh's documents are looked at, so a document of every mesh is taken for one of that mesh.
        _ if kind.is_some_and(Kind::is_in_every_mesh) => Some(context.mesh.as_str()),
        Some(mesh) => mesh.as_str(),
        None => Some(label.unwrap_or(DEFAULT_MESH)),
    };
    let Some(kind) = kind else {
        if let Some((name, about)) = kind_name.and_then(left_out::kind) {
            found.left_out.add(name, "", about, place);
            return whose;
        }
        match value.as_object() {
            None => at.problem(describe(value), "a mapping with type or kind"),
            Some(_) => at.field(key, |at| {
                let found = kind_name.map_or("nothing".into(), |kind| format!("{kind:?}"));
                at.problem(found, unknown_kind(kind_name));
            }),
        }
        found.lost.push(Lost { kind: None, mesh: mesh.map(Into::into), name: name.map(Into::into) });
        return whose;
    };
    let namespace = if kubernetes { text("/metadata/namespace") } else { None };
    let pod = (kind == Kind::Dataplane && mesh == Some(&context.mesh))
        .then(|| context.dataplane.as_deref().zip(name))
        .flatten()
        .filter(|(wanted, name)| is_named(name, namespace, wanted));
    let pod = pod.map(|_| context);
    let spec =
        if kubernetes { read_kubernetes(kind, value, pod, at) } else { read_universal(kind, value, pod, at) };
    let status = status(kind, value, at);
    let (Some(mesh), Some(name)) = (mesh, name) else {
        let (mesh, name) = (mesh.map(Into::into), name.map(Into::into));
        found.lost.push(Lost { kind: Some(kind), mesh, name });
        return whose;
    };
    let right = at.count() == 0;
    let mut spec = spec.filter(|_| right).unwrap_or(Spec::Wrong(kind));
    let other_pod = kind == Kind::Dataplane && pod.is_none();
    let own =
        labels(if kubernetes { &value["metadata"] } else { value }, &mut At::root(&mut Problems::default()));
    if let Spec::Dataplane(dataplane) = &mut spec {
        if other_pod {
            dataplane.keep_endpoints();
        }
        for inbound in &mut dataplane.networking.inbound {
            topology::add(own.as_ref(), &mut inbound.tags);
            inbound.tags = found.shared(&inbound.tags);
        }
    }
    let labelled = own.is_some();
    let mut labels = own.unwrap_or_default();
    // Kuma's control plane writes these labels onto each document; one from a file may not have passed through it.
    for (key, value) in [(MESH, Some(mesh)), (DISPLAY_NAME, Some(name)), (NAMESPACE, namespace)] {
        let Some(value) = value else { continue };
        if !other_pod {
            labels.0.entry(key.into()).or_insert_with(|| value.into());
        } else if labels.get(key) == Some(value) {
            // The name differs from pod to pod, and would keep the pods of a service from having the same set.
            labels.0.remove(key);
        }
    }
    let labels = if other_pod { found.shared_labels(labels) } else { labels.into() };
    found.documents.push(Document {
        place: place.clone(),
        mesh: mesh.into(),
        name: name.into(),
        name_field: if kubernetes { "metadata.name" } else { "name" },
        namespace: namespace.map(Into::into),
        labels,
        labelled,
        spiffe_id: (kubernetes && kind == Kind::Dataplane).then(|| spiffe_id(value).ok().flatten()).flatten(),
        status,
        spec,
    });
    whose
}

/// Returns the kinds, and for a known kind of Kuma the one that does the same in culvert.
fn unknown_kind(name: Option<&str>) -> String {
    let kinds = Kind::ALL.map(Kind::name).join(", ");
    match left_out::hint(name.unwrap_or_default()) {
        Some(hint) => format!("{kinds}; {hint}"),
        None => kinds,
    }
}

fn read_kubernetes(kind: Kind, value: &Value, pod: Option<&Context>, at: &mut At<'_>) -> Option<Spec> {
    let mut fields = Fields::of(value, at)?;
    let version = fields.require::<String>(&["apiVersion"], at);
    if version.is_some_and(|version| version != API_VERSION) {
        at.field("apiVersion", |at| at.wrong::<()>(&value["apiVersion"], API_VERSION));
    }
    for key in ["kind", "metadata", "spec", "status"] {
        fields.take::<Ignored>(&[key], at);
    }
    fields.take::<String>(&["mesh"], at);
    at.field("metadata", |at| {
        name_of(&value["metadata"], at);
        labels(&value["metadata"], at);
        if let (Kind::Dataplane, Err(error)) = (kind, spiffe_id(value)) {
            let problem = |at: &mut At<'_>| at.problem(error.to_string(), "spiffe://TRUST-DOMAIN/PATH");
            at.field("annotations", |at| at.field(SPIFFE_ID, problem));
        }
    });
    fields.finish(at);
    let nothing = Value::Object(Map::new());
    let spec = value.get("spec").filter(|spec| !spec.is_null()).unwrap_or(&nothing);
    at.field("spec", |at| kind.read(spec, pod, at))
}

fn read_universal(kind: Kind, value: &Value, pod: Option<&Context>, at: &mut At<'_>) -> Option<Spec> {
    let Some(map) = value.as_object() else { return at.wrong(value, "a mapping") };
    name_of(value, at);
    if let Some(mesh) = map.get("mesh").filter(|mesh| !mesh.is_null()) {
        at.field("mesh", |at| String::read(mesh, at));
    }
    labels(value, at);
    if kind.has_spec() {
        let mut fields = Fields::of(value, at)?;
        for key in ["type", "name", "mesh", "labels", "spec"].into_iter().chain(UNIVERSAL_BOOKKEEPING) {
            fields.take::<Ignored>(&[key], at);
        }
        fields.finish(at);
        let nothing = Value::Object(Map::new());
        let spec = map.get("spec").filter(|spec| !spec.is_null()).unwrap_or(&nothing);
        at.field("spec", |at| kind.read(spec, pod, at))
    } else {
        let mut spec = map.clone();
        for key in ["type", "name", "mesh", "labels"].into_iter().chain(UNIVERSAL_BOOKKEEPING) {
            spec.remove(key);
        }
        kind.read(&Value::Object(spec), pod, at)
    }
}

/// Reads the status of a service. It stands beside the contents in both spellings.
fn status(kind: Kind, value: &Value, at: &mut At<'_>) -> Option<Box<ServiceStatus>> {
    let status = value.get("status").filter(|status| kind.has_status() && !status.is_null())?;
    at.field("status", |at| ServiceStatus::read(status, at)).map(Box::new)
}

fn name_of(value: &Value, at: &mut At<'_>) {
    at.field("name", |at| match &value["name"] {
        Value::String(name) if !name.is_empty() => {}
        Value::Null => at.problem("nothing", "this field is required, and is text"),
        Value::String(_) => at.problem("an empty text", "a name"),
        other => {
            String::read(other, at);
        }
    });
}

/// Reads the labels of a document, `None` where it has no field for them.
fn labels(value: &Value, at: &mut At<'_>) -> Option<Labels> {
    let labels = value.get("labels").filter(|labels| !labels.is_null())?;
    at.field("labels", |at| Labels::read(labels, at))
}

/// Reads the identity that the pod of a Dataplane proves. Other annotations are of other programs.
fn spiffe_id(value: &Value) -> Result<Option<SpiffeId>, SpiffeError> {
    let annotation = &value["metadata"]["annotations"][SPIFFE_ID];
    match annotation {
        Value::Null => Ok(None),
        Value::String(text) => text.parse().map(Some),
        other => Err(SpiffeError::NotSpiffe(other.to_string())),
    }
}
