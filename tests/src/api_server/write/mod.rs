// SPDX-License-Identifier: Apache-2.0
//! POST, PUT, PATCH and DELETE, by Kubernetes' rules.

mod certificates;
mod fields;
mod managers;
mod patch;

use std::sync::Arc;

use serde_json::{Value, json};

use super::encode::{self, Refusal};
use super::kinds::{self, DEFINITIONS, EXTENSIONS, Kind};
use super::path::{Place, Query, Resource};
use super::read::not_found;
use super::store::Store;
use fields::Lists;
use managers::Author;

/// A write that a client asks for.
pub(super) struct Write<'a> {
    pub(super) place: &'a Place,
    pub(super) kind: &'a Kind,
    pub(super) query: &'a Query,
    pub(super) user_agent: &'a str,
    /// The content type.
    pub(super) form: &'a str,
    pub(super) body: &'a [u8],
}

/// The status of HTTP, and the object as it is now.
type Written = Result<(u16, Arc<Value>), Refusal>;

impl Write<'_> {
    /// Does it; the error is the refusal.
    pub(super) fn run(&self, method: &str, store: &mut Store) -> Written {
        let Self { place, kind, .. } = self;
        let is_allowed = match (method, &place.name, place.part.as_deref()) {
            (_, _, None) => (method == "POST") == place.name.is_none(),
            ("PUT" | "PATCH", Some(_), Some("status")) if kind.has_status => true,
            _ => return Err(Refusal::new(404, "the server could not find the requested resource")),
        };
        if !is_allowed || kind.is_namespaced == place.namespace.is_none() {
            return Err(Refusal::new(405, "the server does not allow this method on the requested resource"));
        }
        match method {
            "POST" => self.create(store, parsed(self.body)?),
            "PUT" => self.replace(store),
            "PATCH" => self.patch(store),
            "DELETE" => self.delete(store),
            _ => Err(Refusal::new(405, "the server does not allow this method on the requested resource")),
        }
    }

    fn author(&self) -> Author {
        let agent = self.user_agent.split('/').next().filter(|agent| !agent.is_empty()).unwrap_or("unknown");
        Author {
            manager: self.query.get("fieldManager").unwrap_or(agent).to_owned(),
            part: self.place.part.clone().unwrap_or_default(),
            api_version: self.place.resource.api_version(),
        }
    }

    fn is_dry(&self) -> bool {
        self.query.get("dryRun") == Some("All")
    }

    fn create(&self, store: &mut Store, mut object: Value) -> Written {
        let place = self.placed(store, &mut object)?;
        self.fresh(store, &place, &mut object)?;
        managers::updated(None, &mut object, &self.author(), lists(self.kind));
        self.created(store, &place, object)
    }

    /// The place of a new object, which its metadata names.
    fn placed(&self, store: &Store, object: &mut Value) -> Result<Place, Refusal> {
        let metadata = &mut object["metadata"];
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let name = match (text(&metadata["name"]), text(&metadata["generateName"])) {
            (Some(name), _) => name,
            (None, Some(prefix)) => format!("{prefix}{:05x}", store.next_version()),
            (None, None) => {
                return Err(Refusal::new(
                    422,
                    "metadata.name: Required value: name or generateName is required",
                ));
            }
        };
        metadata["name"] = name.clone().into();
        let place = Place { name: Some(name), ..self.place.clone() };
        named(object, &place, self.kind)?;
        Ok(place)
    }

    /// Gives an object that is to be created what the server gives.
    fn fresh(&self, store: &Store, place: &Place, object: &mut Value) -> Result<(), Refusal> {
        if store.get(place).is_some() {
            let name = place.name.as_deref().unwrap_or_default();
            let message = format!("{} {name:?} already exists", place.resource.qualified());
            return Err(Refusal::new(409, message).because("AlreadyExists"));
        }
        if object["metadata"].get("resourceVersion").is_some_and(|version| version != "") {
            return Err(Refusal::new(400, "resourceVersion should not be set on objects to be created"));
        }
        let namespace = place.namespace.as_deref().filter(|_| place.resource.name != "events");
        if let Some(namespace) = namespace {
            let of = Place {
                resource: Resource::new("v1", "namespaces"),
                namespace: None,
                name: Some(namespace.to_owned()),
                part: None,
            };
            store.get(&of).ok_or_else(|| not_found(&of))?;
        }
        if self.kind.has_status {
            let status = place.resource.is("", "pods").then(|| json!({ "phase": "Pending" }));
            set(object, "status", status);
        }
        let metadata = &mut object["metadata"];
        for given in ["uid", "creationTimestamp", "managedFields", "deletionTimestamp", "generation"] {
            set(metadata, given, None);
        }
        born(store, object);
        Ok(())
    }

    fn created(&self, store: &mut Store, place: &Place, object: Value) -> Written {
        certificates::check(place, None, &object)?;
        if self.is_dry() {
            return Ok((201, Arc::new(object)));
        }
        Ok((201, commit(store, place, Some(object)).expect("an object that is put is there")))
    }

    fn old(&self, store: &Store) -> Result<Arc<Value>, Refusal> {
        store.get(self.place).cloned().ok_or_else(|| not_found(self.place))
    }

    fn replace(&self, store: &mut Store) -> Written {
        let mut new = parsed(self.body)?;
        named(&mut new, self.place, self.kind)?;
        let old = self.old(store)?;
        if self.kind.needs_version && new["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty) {
            let message = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update";
            return Err(Refusal::new(422, message));
        }
        self.update(store, &old, new, true)
    }

    fn patch(&self, store: &mut Store) -> Written {
        let form = self.form.split(';').next().unwrap_or_default().trim();
        match form {
            "application/apply-patch+yaml" => self.apply(store),
            "application/json-patch+json" => {
                let old = self.old(store)?;
                let new = patch::json(&old, &json_of(self.body)?)?;
                self.update(store, &old, new, true)
            }
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                let old = self.old(store)?;
                let mut new = Value::clone(&old);
                patch::merge(&mut new, &json_of(self.body)?);
                self.update(store, &old, new, true)
            }
            _ => {
                Err(Refusal::new(415, format!("the body of the request was in an unknown format - {form:?}")))
            }
        }
    }

    fn apply(&self, store: &mut Store) -> Written {
        if self.query.get("fieldManager").is_none() {
            let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
            return Err(Refusal::new(422, message));
        }
        let mut applied = parsed(self.body)?;
        if applied["kind"].is_null() || applied["apiVersion"].is_null() {
            return Err(Refusal::new(400, "apiVersion and kind must be set in an applied object"));
        }
        if applied["metadata"]["managedFields"].as_array().is_some_and(|fields| !fields.is_empty()) {
            return Err(Refusal::new(400, "metadata.managedFields must be nil"));
        }
        named(&mut applied, self.place, self.kind)?;
        let mine = if self.place.is_part("status") {
            json!({ "status": applied["status"], "metadata": { "resourceVersion": applied["metadata"]["resourceVersion"], "uid": applied["metadata"]["uid"] } })
        } else {
            if self.kind.has_status {
                set(&mut applied, "status", None);
            }
            applied
        };
        let mine = without_nulls(mine);
        let (author, is_forced) = (self.author(), self.query.is_true("force"));
        let old = match store.get(self.place).cloned() {
            Some(old) => old,
            None if self.place.part.is_none() => {
                let mut object = mine.clone();
                self.fresh(store, self.place, &mut object)?;
                let object = managers::apply(&object, &mine, &author, lists(self.kind), is_forced)?;
                return self.created(store, self.place, object);
            }
            None => return Err(not_found(self.place)),
        };
        self.unchanged(&old, &mine)?;
        let new = managers::apply(&old, &mine, &author, lists(self.kind), is_forced)?;
        self.update(store, &old, new, false)
    }

    /// Refuses a write for another version or another object of that name.
    fn unchanged(&self, old: &Value, new: &Value) -> Result<(), Refusal> {
        let differs = |key: &str| {
            let given = new["metadata"][key].as_str().filter(|given| !given.is_empty());
            given.is_some_and(|given| old["metadata"][key] != given)
        };
        let name = self.place.name.as_deref().unwrap_or_default();
        let about =
            || format!("Operation cannot be fulfilled on {} {name:?}", self.place.resource.qualified());
        if differs("uid") {
            let message = format!("{}: Precondition failed: the UID is another", about());
            return Err(Refusal::new(409, message));
        }
        if differs("resourceVersion") {
            let message = format!(
                "{}: the object has been modified; please apply your changes to the latest version and try again",
                about()
            );
            return Err(Refusal::new(409, message));
        }
        Ok(())
    }

    /// Puts an object in place of its old self, if it is another at all.
    fn update(&self, store: &mut Store, old: &Arc<Value>, mut new: Value, is_tracked: bool) -> Written {
        named(&mut new, self.place, self.kind)?;
        self.unchanged(old, &new)?;
        let mut new = without_nulls(new);
        let managed = new["metadata"]["managedFields"].take();
        if self.place.is_part("status") {
            let status = new["status"].take();
            new = Value::clone(old);
            set(&mut new, "status", Some(status).filter(|status| !status.is_null()));
        } else if self.kind.has_status {
            set(&mut new, "status", old.get("status").cloned());
        }
        for given in ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "generation"] {
            set(&mut new["metadata"], given, old["metadata"].get(given).cloned());
        }
        set(&mut new["metadata"], "managedFields", Some(managed).filter(|managed| !managed.is_null()));
        grown(old, &mut new);
        if is_tracked {
            managers::updated(Some(old), &mut new, &self.author(), lists(self.kind));
        }
        certificates::check(self.place, Some(old), &new)?;
        if new == **old || self.is_dry() {
            return Ok((200, Arc::new(new)));
        }
        let metadata = &new["metadata"];
        let is_held = metadata["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        if metadata["deletionTimestamp"].is_string() && !is_held {
            commit(store, self.place, None);
            return Ok((200, Arc::new(new)));
        }
        Ok((200, commit(store, self.place, Some(new)).expect("an object that is put is there")))
    }

    fn delete(&self, store: &mut Store) -> Written {
        let options = if self.body.is_empty() { Value::Null } else { json_of(self.body)? };
        let old = self.old(store)?;
        self.unchanged(&old, &json!({ "metadata": options["preconditions"] }))?;
        let metadata = &old["metadata"];
        let success = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": { "name": metadata["name"], "kind": self.place.resource.name, "group": self.place.resource.group, "uid": metadata["uid"] },
        });
        if self.is_dry() || options["dryRun"][0] == "All" {
            return Ok((200, Arc::new(success)));
        }
        if metadata["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty()) {
            if metadata["deletionTimestamp"].is_string() {
                return Ok((200, old));
            }
            let mut new = Value::clone(&old);
            new["metadata"]["deletionTimestamp"] = encode::now().into();
            return Ok((200, commit(store, self.place, Some(new)).expect("an object that is put is there")));
        }
        commit(store, self.place, None);
        Ok((200, Arc::new(success)))
    }
}

/// Puts an object there for a test, with the status that it has; without one the object keeps its own.
pub(super) fn put(store: &mut Store, place: &Place, kind: &Kind, mut object: Value) {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    named(&mut object, place, kind).unwrap_or_else(|refusal| panic!("{}: {object}", refusal.message));
    let author =
        Author { manager: "test".to_owned(), part: String::new(), api_version: place.resource.api_version() };
    let old = store.get(place).cloned();
    let is_own = object["metadata"]["managedFields"].is_array() && old.is_none();
    match &old {
        None => born(store, &mut object),
        Some(old) => {
            for given in ["uid", "creationTimestamp", "generation"] {
                if object["metadata"][given].is_null() {
                    set(&mut object["metadata"], given, old["metadata"].get(given).cloned());
                }
            }
            if object.get("status").is_none() && kind.has_status {
                set(&mut object, "status", old.get("status").cloned());
            }
            grown(old, &mut object);
        }
    }
    if !is_own {
        managers::updated(old.as_deref(), &mut object, &author, lists(kind));
    }
    commit(store, place, Some(object));
}

/// Takes an object away for a test, whatever its finalizers say.
pub(super) fn remove(store: &mut Store, place: &Place) {
    if store.get(place).is_some() {
        commit(store, place, None);
    }
}

/// Changes the store, and does what the cluster does then: the objects of a namespace go with it, and a definition's kind is
/// served as long as the definition is there.
fn commit(store: &mut Store, place: &Place, after: Option<Value>) -> Option<Arc<Value>> {
    let before = store.get(place).cloned();
    let stored = store.commit(place, after);
    if place.resource.is("", "namespaces") && stored.is_none() {
        for inner in store.places(|_, key| Some(&key.0) == place.name.as_ref()) {
            store.commit(&inner, None);
        }
    }
    if place.resource.is(EXTENSIONS, DEFINITIONS) {
        let now = stored.as_deref().map(kinds::defined).unwrap_or_default();
        for (resource, _) in before.as_deref().map(kinds::defined).unwrap_or_default() {
            if now.iter().any(|(served, _)| *served == resource) {
                continue;
            }
            for inner in store.places(|of, _| *of == resource) {
                store.commit(&inner, None);
            }
            store.kinds.remove(&resource);
        }
        for (resource, kind) in now {
            store.kinds.insert(resource, kind);
        }
        // A controller of the cluster says so in a write of its own.
        let is_new = |definition: &&Arc<Value>| definition["status"]["conditions"].is_null();
        if let Some(definition) = stored.as_ref().filter(is_new) {
            let mut established = Value::clone(definition);
            established["status"] = kinds::established(definition, &encode::now());
            store.commit(place, Some(established));
        }
    }
    stored
}

fn lists(kind: &Kind) -> Lists<'_> {
    kind.schema.as_deref().map_or(Lists::Own, Lists::Schema)
}

fn json_of(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::new(400, format!("the body is no JSON: {error}")))
}

/// An object in JSON, or in YAML.
fn parsed(body: &[u8]) -> Result<Value, Refusal> {
    let yaml = || serde_saphyr::from_str(std::str::from_utf8(body).ok()?).ok();
    match serde_json::from_slice(body).ok().or_else(yaml) {
        Some(object @ Value::Object(_)) => Ok(without_nulls(object)),
        _ => {
            Err(Refusal::new(400, "the object provided is unrecognized: neither JSON nor YAML of an object"))
        }
    }
}

/// Members that are null are absent.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.into_iter().filter(|(_, member)| !member.is_null());
            Value::Object(members.map(|(key, member)| (key, without_nulls(member))).collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// Writes the place and the kind into an object, which must not name others.
fn named(object: &mut Value, place: &Place, kind: &Kind) -> Result<(), Refusal> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let api_version = place.resource.api_version();
    let is_other = |value: &Value, wanted: &str| value.as_str().is_some_and(|given| given != wanted);
    if is_other(&object["kind"], &kind.name) || is_other(&object["apiVersion"], &api_version) {
        let message = format!(
            "the object provided is of {} {}, and the path of {api_version} {}",
            object["apiVersion"], object["kind"], kind.name
        );
        return Err(Refusal::new(400, message));
    }
    let name = place.name.as_deref().unwrap_or_default();
    if is_other(&object["metadata"]["name"], name) {
        let message = "the name of the object does not match the name on the URL";
        return Err(Refusal::new(400, message));
    }
    if is_other(&object["metadata"]["namespace"], place.namespace.as_deref().unwrap_or_default()) {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::new(400, message));
    }
    object["kind"] = kind.name.clone().into();
    object["apiVersion"] = api_version.into();
    object["metadata"]["name"] = name.into();
    set(&mut object["metadata"], "namespace", place.namespace.clone().map(Value::from));
    Ok(())
}

/// The beginning of each uid that the server gives.
const UID: &str = "00000000-0000-4000-8000-";

/// Takes away what the server gave an object, but for its version.
pub(super) fn bare(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let is_given = metadata.get("uid").and_then(Value::as_str).is_some_and(|uid| uid.starts_with(UID));
    let uid = is_given.then_some("uid");
    for given in ["creationTimestamp", "generation", "managedFields"].into_iter().chain(uid) {
        metadata.remove(given);
    }
}

/// Gives a new object uid, time and generation, where it has none.
fn born(store: &Store, object: &mut Value) {
    let metadata = &mut object["metadata"];
    let given = [
        ("uid", format!("{UID}{:012x}", store.next_version()).into()),
        ("creationTimestamp", encode::now().into()),
        ("generation", 1.into()),
    ];
    for (key, value) in given {
        if metadata[key].is_null() {
            metadata[key] = value;
        }
    }
}

/// Counts a change of more than metadata and status.
fn grown(old: &Value, new: &mut Value) {
    let own = |object: &Value| {
        let mut own = object.as_object().cloned().unwrap_or_default();
        own.retain(|key, _| key != "metadata" && key != "status");
        own
    };
    if own(old) != own(new) {
        let generation = old["metadata"]["generation"].as_u64().unwrap_or(0);
        new["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Sets a member, or takes it away.
fn set(object: &mut Value, key: &str, value: Option<Value>) {
    match value {
        Some(value) => object[key] = value,
        None => _ = object.as_object_mut().and_then(|object| object.remove(key)),
    }
}
