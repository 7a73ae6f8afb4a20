// SPDX-License-Identifier: Apache-2.0
//! All objects, their changes, and the watches that hear of them.
//!
//! A change costs one line of JSON for each form that watches ask for, and one send for each watch of its collection.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::encode::{self, Form, Refusal};
use super::kinds::Kinds;
use super::path::{Place, Resource};
use super::select::Selector;

/// Versions begin here, so that none is mistaken for a count.
const FIRST_VERSION: u64 = 1000;
/// Changes that are kept; a version before them is forgotten, as etcd compacts.
const MOST_CHANGES: usize = 100_000;

/// Namespace and name; the namespace of an object of the cluster is empty.
pub(super) type Key = (String, String);

/// An object's change.
pub(super) struct Change {
    version: u64,
    resource: Resource,
    key: Key,
    before: Option<Arc<Value>>,
    after: Option<Arc<Value>>,
}

/// The objects that a list or a watch is about.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
}

impl Wanted {
    pub(super) fn has(&self, key: &Key, object: &Value) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == key.0) && self.selector.selects(object)
    }
}

/// A watch that is open.
pub(super) struct Watcher {
    pub(super) wanted: Wanted,
    pub(super) form: Form,
    pub(super) wants_bookmarks: bool,
    pub(super) lines: UnboundedSender<Bytes>,
}

impl Watcher {
    /// Sends a line; the client may be gone, which the next change notices.
    pub(super) fn send(&self, change: &str, object: &Value) {
        let _ = self.lines.send(encode::event(change, self.form, object).into());
    }
}

/// All objects.
pub(super) struct Store {
    pub(super) version: u64,
    /// Versions before this one are forgotten.
    pub(super) oldest: u64,
    pub(super) kinds: Kinds,
    objects: BTreeMap<Resource, BTreeMap<Key, Arc<Value>>>,
    history: VecDeque<Change>,
    pub(super) watchers: BTreeMap<Resource, Vec<Watcher>>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            version: FIRST_VERSION,
            oldest: FIRST_VERSION,
            kinds: Kinds::own(),
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            watchers: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Arc<Value>> {
        self.objects.get(&place.resource)?.get(&place.key())
    }

    /// Objects of a collection behind a key, in the order of their keys.
    pub(super) fn behind<'a>(
        &'a self,
        resource: &Resource,
        namespace: Option<&'a str>,
        behind: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> + use<'a> {
        let first = (namespace.unwrap_or_default().to_owned(), String::new());
        let begin = behind.map_or(Bound::Included(&first), Bound::Excluded);
        let range = self.objects.get(resource).map(|all| all.range((begin, Bound::Unbounded)));
        range
            .into_iter()
            .flatten()
            .take_while(move |(key, _)| namespace.is_none_or(|namespace| key.0 == namespace))
    }

    /// Places of the objects that a test of collection and key holds for.
    pub(super) fn places(&self, is_wanted: impl Fn(&Resource, &Key) -> bool) -> Vec<Place> {
        let mut places = Vec::new();
        for (resource, objects) in &self.objects {
            for key in objects.keys().filter(|key| is_wanted(resource, key)) {
                let (namespace, name) = key.clone();
                places.push(Place {
                    resource: resource.clone(),
                    namespace: Some(namespace).filter(|namespace| !namespace.is_empty()),
                    name: Some(name),
                    part: None,
                });
            }
        }
        places
    }

    /// The version that the next change has.
    pub(super) fn next_version(&self) -> u64 {
        self.version + 1
    }

    /// Puts an object into its place, or takes it away, and tells all watches of its collection.
    pub(super) fn commit(&mut self, place: &Place, after: Option<Value>) -> Option<Arc<Value>> {
        self.version += 1;
        let version = self.version;
        let after = after.map(|mut object| {
            object["metadata"]["resourceVersion"] = version.to_string().into();
            Arc::new(object)
        });
        let objects = self.objects.entry(place.resource.clone()).or_default();
        let key = place.key();
        let before = match &after {
            Some(object) => objects.insert(key.clone(), Arc::clone(object)),
            None => objects.remove(&key),
        };
        let change = Change { version, resource: place.resource.clone(), key, before, after: after.clone() };
        if let Some(watchers) = self.watchers.get_mut(&place.resource) {
            let mut lines = BTreeMap::new();
            watchers.retain(|watcher| {
                let Some((kind, is_after)) = change.seen_by(&watcher.wanted) else {
                    return !watcher.lines.is_closed();
                };
                let line = lines
                    .entry((kind, watcher.form))
                    .or_insert_with(|| change.line(kind, is_after, watcher.form));
                watcher.lines.send(line.clone()).is_ok()
            });
        }
        self.history.push_back(change);
        if self.history.len() > MOST_CHANGES {
            let forgotten = self.history.pop_front();
            self.oldest = forgotten.map_or(self.oldest, |change| change.version);
        }
        after
    }

    /// Tells a watch of all changes of its collection after a version.
    pub(super) fn replay(&self, resource: &Resource, after: u64, watcher: &Watcher) {
        let first = self.history.partition_point(|change| change.version <= after);
        for change in self.history.range(first..).filter(|change| change.resource == *resource) {
            if let Some((kind, is_after)) = change.seen_by(&watcher.wanted) {
                let _ = watcher.lines.send(change.line(kind, is_after, watcher.form));
            }
        }
    }

    /// Forgets all changes so far.
    pub(super) fn forget(&mut self) {
        self.history.clear();
        self.version += 1;
        self.oldest = self.version;
    }

    /// The refusal of a version that is forgotten, or that is yet to come.
    pub(super) fn check(&self, version: u64) -> Result<(), Refusal> {
        if version < self.oldest {
            return Err(encode::expired(version, self.oldest));
        }
        if version > self.version {
            return Err(Refusal::new(
                504,
                format!("Too large resource version: {version}, current: {}", self.version),
            ));
        }
        Ok(())
    }

    /// A bookmark of this moment.
    pub(super) fn bookmark(&self, resource: &Resource) -> Value {
        let kind = self.kinds.get(resource).map(|kind| kind.name.as_str()).unwrap_or_default();
        json!({
            "kind": kind, "apiVersion": resource.api_version(),
            "metadata": { "resourceVersion": self.version.to_string(), "creationTimestamp": null },
        })
    }

    /// Watches that are open, by collection.
    pub(super) fn open(&mut self) -> impl Iterator<Item = (&Resource, usize)> {
        self.watchers.iter_mut().map(|(resource, watchers)| {
            watchers.retain(|watcher| !watcher.lines.is_closed());
            (resource, watchers.len())
        })
    }
}

impl Change {
    /// The change as those see it who select objects: the object comes to them, changes, or goes. True with the object
    /// after the change, false with the one before.
    fn seen_by(&self, wanted: &Wanted) -> Option<(&'static str, bool)> {
        let has =
            |object: &Option<Arc<Value>>| object.as_ref().is_some_and(|object| wanted.has(&self.key, object));
        match (has(&self.before), has(&self.after)) {
            (false, true) => Some(("ADDED", true)),
            (true, true) => Some(("MODIFIED", true)),
            (true, false) => Some(("DELETED", false)),
            (false, false) => None,
        }
    }

    fn line(&self, kind: &'static str, is_after: bool, form: Form) -> Bytes {
        if let (true, Some(after)) = (is_after, &self.after) {
            return encode::event(kind, form, after).into();
        }
        let mut before = self.before.as_deref().cloned().unwrap_or_default();
        before["metadata"]["resourceVersion"] = self.version.to_string().into();
        encode::event(kind, form, &before).into()
    }
}
