// SPDX-License-Identifier: Apache-2.0
//! The test's side: the cluster's objects, the mishaps, and the record of what was asked.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::encode;
use super::kinds::Kind;
use super::path::{Place, Resource};
use super::state::{Asked, Fault, State};
use super::tokens::TokenOf;
use super::{ApiServer, write};

/// The place of an object that is served.
fn placed(state: &State, path: &str) -> Option<(Place, Kind)> {
    let place = Place::parse(path).filter(|place| place.name.is_some() && place.part.is_none())?;
    let kind = state.store.kinds.get(&place.resource)?.clone();
    Some((place, kind))
}

/// The place of an object for a test that says that there is one.
fn must_be_placed(state: &State, path: &str) -> (Place, Kind) {
    placed(state, path).unwrap_or_else(|| {
        panic!(
            "{path} is no object of a served kind: put its CustomResourceDefinition there, or call serve()"
        )
    })
}

/// Objects of any kind, each by its path: `/api/v1/namespaces/NS/pods/NAME`.
impl ApiServer {
    /// Puts an object there, or in place of one of that name. Without a status it keeps the one that it has.
    ///
    /// # Panics
    /// Panics where the kind is not served, or the object names another place.
    pub fn put(&self, path: &str, object: Value) {
        let mut state = self.shared.state();
        let (place, kind) = must_be_placed(&state, path);
        write::put(&mut state.store, &place, &kind, object);
    }

    /// Takes an object away at once, whatever its finalizers say; those of a namespace go with it.
    ///
    /// # Panics
    /// Panics where the kind is not served.
    pub fn remove(&self, path: &str) {
        let mut state = self.shared.state();
        let (place, _) = must_be_placed(&state, path);
        write::remove(&mut state.store, &place);
    }

    /// The object at a path, as it is now.
    pub fn get(&self, path: &str) -> Option<Value> {
        let place = Place::parse(path)?;
        self.shared.state().store.get(&place).map(|object| Value::clone(object))
    }

    /// All objects of a collection, in one namespace or in all.
    pub fn list(&self, path: &str) -> Vec<Value> {
        let Some(place) = Place::parse(path) else { return Vec::new() };
        let state = self.shared.state();
        let all = state.store.behind(&place.resource, place.namespace.as_deref(), None);
        all.map(|(_, object)| Value::clone(object)).collect()
    }

    /// Serves one more kind, with a status of its own, as a newer Kubernetes does: `serve("certificates.k8s.io/v1",
    /// "podcertificaterequests", "PodCertificateRequest", true)`.
    pub fn serve(&self, api_version: &str, plural: &str, kind: &str, is_namespaced: bool) {
        let letters = if is_namespaced { "ns" } else { "s" };
        self.shared.state().store.kinds.insert(Resource::new(api_version, plural), Kind::new(kind, letters));
    }

    /// Does not serve a kind any more, as an older Kubernetes.
    pub fn stop_serving(&self, api_version: &str, plural: &str) {
        self.shared.state().store.kinds.remove(&Resource::new(api_version, plural));
    }

    /// Says at `/version` that it is this one; `1.36.2` otherwise.
    pub fn is_version(&self, version: &str) {
        version.clone_into(&mut self.shared.state().version);
    }

    /// Lets reviews know a token, as long as its pod lives.
    pub fn register_token(&self, token: &str, of: TokenOf) {
        self.shared.state().tokens.insert(token.to_owned(), of);
    }

    /// Lets reviews refuse a token.
    pub fn forget_token(&self, token: &str) {
        self.shared.state().tokens.remove(token);
    }
}

/// Objects of a few kinds, in short.
impl ApiServer {
    /// Puts a pod there, or in place of one of that name.
    pub fn pod(&self, node: &str, namespace: &str, name: &str, uid: &str, annotations: &[(&str, &str)]) {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let metadata = json!({
            "namespace": namespace, "name": name, "uid": uid, "annotations": annotations,
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:metadata": {} } }],
        });
        let spec = json!({ "nodeName": node, "containers": [{ "name": "app", "image": "example.com/app" }] });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        self.put(&path, json!({ "metadata": metadata, "spec": spec }));
    }

    /// Takes a pod away.
    pub fn delete_pod(&self, namespace: &str, name: &str) {
        self.remove(&format!("/api/v1/namespaces/{namespace}/pods/{name}"));
    }

    /// Puts a namespace there, or in place of one of that name.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) {
        let of = |pairs: &[(&str, &str)]| json!(pairs.iter().copied().collect::<BTreeMap<_, _>>());
        let mut labels = of(labels);
        labels["kubernetes.io/metadata.name"] = name.into();
        let metadata =
            json!({ "uid": format!("uid-of-{name}"), "labels": labels, "annotations": of(annotations) });
        let status = json!({ "phase": "Active" });
        self.put(&format!("/api/v1/namespaces/{name}"), json!({ "metadata": metadata, "status": status }));
    }

    /// The same, but no watch hears of it, as where it is slow.
    pub fn namespace_unseen(&self, name: &str, labels: &[(&str, &str)]) {
        let watchers = std::mem::take(&mut self.shared.state().store.watchers);
        self.namespace(name, labels, &[]);
        self.shared.state().store.watchers = watchers;
    }

    /// Takes a namespace away, and all objects in it.
    pub fn delete_namespace(&self, name: &str) {
        self.remove(&format!("/api/v1/namespaces/{name}"));
    }

    /// Puts a node there, with these taints.
    pub fn node(&self, name: &str, taints: Value) {
        let spec = json!({ "podCIDR": "10.0.0.0/24", "taints": taints });
        self.put(&format!("/api/v1/nodes/{name}"), json!({ "spec": spec }));
    }

    /// Returns the taints of a node.
    pub fn taints(&self, node: &str) -> Value {
        self.get(&format!("/api/v1/nodes/{node}"))
            .map(|node| node["spec"]["taints"].clone())
            .unwrap_or_default()
    }

    /// Puts an object where its kind is served. All else, such as a list with `items`, is what a GET of `path` finds from
    /// now on; the query's selectors are the test's to look at then.
    pub fn object(&self, path: &str, object: Value) {
        let mut state = self.shared.state();
        match placed(&state, path) {
            Some((place, kind)) => write::put(&mut state.store, &place, &kind, object),
            None => _ = state.script.fixed.insert(path.to_owned(), object),
        }
    }

    /// The object at a path as its writers made it: of what the server gives only the version. `get()` has all.
    pub fn object_at(&self, path: &str) -> Option<Value> {
        let fixed = self.shared.state().script.fixed.get(path).cloned();
        let mut object = fixed.or_else(|| self.get(path))?;
        write::bare(&mut object);
        Some(object)
    }

    /// Takes an object away.
    pub fn delete_object(&self, path: &str) {
        let mut state = self.shared.state();
        state.script.fixed.remove(path);
        if let Some((place, _)) = placed(&state, path) {
            write::remove(&mut state.store, &place);
        }
    }
}

/// What was asked, and what goes wrong.
impl ApiServer {
    /// Answers POSTs to a path so from now on.
    pub fn answer_posts(&self, path: &str, code: u16, answer: Value) {
        self.shared.state().script.answers.insert(path.to_owned(), (code, answer));
    }

    /// The bodies of the POSTs that were answered so.
    pub fn posted(&self) -> Vec<Value> {
        self.shared.state().record.posted.clone()
    }

    /// Lets another client write the node just before so many of the next patches.
    pub fn conflicts(&self, times: usize) {
        self.shared.state().script.conflicts = times;
    }

    /// The events that were posted.
    pub fn events(&self) -> Vec<Value> {
        self.shared.state().record.events.clone()
    }

    /// The requests that came with a token that fits, in their order.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().record.asked.clone()
    }

    /// The same requests; those of other methods than GET have their bodies.
    pub fn requests(&self) -> Vec<Asked> {
        self.asked()
    }

    /// Returns the number of open watches.
    pub fn watches(&self) -> usize {
        self.shared.state().store.open().map(|(_, count)| count).sum()
    }

    /// Returns the number of open watches of a collection, by its plural: `pods`.
    pub fn watches_of(&self, plural: &str) -> usize {
        let mut state = self.shared.state();
        let of = state.store.open().filter(|(resource, _)| resource.name == plural);
        of.map(|(_, count)| count).sum()
    }

    /// The next request whose path and query contain `part` goes wrong so.
    pub fn fail_next(&self, part: &'static str, fault: Fault) {
        self.shared.state().script.faults.push_back((part, fault));
    }

    /// Returns true once all planned failures have happened.
    pub fn has_failed(&self) -> bool {
        self.shared.state().script.faults.is_empty()
    }

    /// Ends all watches, as a server that restarts.
    pub fn end_watches(&self) {
        self.shared.state().store.watchers.clear();
    }

    /// Sends a bookmark to each watch that takes them, as Kubernetes does about once a minute.
    pub fn bookmark(&self) {
        let state = self.shared.state();
        for (resource, watchers) in &state.store.watchers {
            let bookmark = state.store.bookmark(resource);
            for watcher in watchers.iter().filter(|watcher| watcher.wants_bookmarks) {
                watcher.send("BOOKMARK", &bookmark);
            }
        }
    }

    /// Says an error in each watch, as one whose version was compacted away meanwhile.
    pub fn expire_watches(&self) {
        let mut state = self.shared.state();
        let asked = state.store.version;
        state.store.forget();
        let gone = encode::expired(asked, state.store.oldest).status();
        for watcher in std::mem::take(&mut state.store.watchers).into_values().flatten() {
            watcher.send("ERROR", &gone);
        }
    }

    /// Forgets all changes so far: a watch from before is answered 410.
    pub fn forget(&self) {
        self.shared.state().store.forget();
    }

    /// Takes no connection, or takes them again; those that are open end.
    pub fn away(&self, away: bool) {
        let mut state = self.shared.state();
        state.script.is_away = away;
        state.store.watchers.clear();
        drop(state);
        self.shared.ended.send_modify(|times| *times += 1);
    }

    /// Takes no connection, and ends those that are open.
    pub fn go_away(&self) {
        self.away(true);
    }

    /// Takes connections again.
    pub fn come_back(&self) {
        self.away(false);
    }
}
