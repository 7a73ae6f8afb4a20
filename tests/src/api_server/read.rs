// SPDX-License-Identifier: Apache-2.0
//! GET: an object, a list by pages, a watch.

use std::sync::Arc;

use hyper::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::encode::{self, Form, Refusal};
use super::kinds::Kind;
use super::path::{Place, Query};
use super::reply::{self, Reply, Watch};
use super::select::Selector;
use super::state::{Shared, State};
use super::store::{Key, Store, Wanted, Watcher};

/// The refusal of an object that is not there.
pub(super) fn not_found(place: &Place) -> Refusal {
    let name = place.name.as_deref().unwrap_or_default();
    let details = json!({ "name": name, "group": place.resource.group, "kind": place.resource.name });
    Refusal::new(404, format!("{} {name:?} not found", place.resource.qualified())).about(details)
}

/// A page of a list that a test has put together.
pub(super) fn fixed(object: &Value, query: &Query) -> Response<Reply> {
    let (Some(items), Some(limit)) = (object["items"].as_array(), query.number::<usize>("limit")) else {
        return reply::whole(200, object);
    };
    let first = query.number("continue").unwrap_or(0).min(items.len());
    let next = first.saturating_add(limit).min(items.len());
    let mut page = object.clone();
    page["items"] = items[first..next].into();
    page["metadata"]["continue"] = if next < items.len() { next.to_string().into() } else { Value::Null };
    reply::whole(200, &page)
}

/// Answers a GET of a place that is served.
pub(super) fn answer(
    shared: &Arc<Shared>,
    state: &mut State,
    (place, kind): (&Place, &Kind),
    query: &Query,
    accept: &str,
) -> Result<Response<Reply>, Refusal> {
    let is_partial = accept.contains("as=PartialObjectMetadata");
    let form = if is_partial { Form::Partial } else { Form::Whole };
    if place.name.is_some() {
        let object = state.store.get(place).ok_or_else(|| not_found(place))?;
        return Ok(reply::json(200, encode::text(form, object)));
    }
    let selector = Selector::parse(query).map_err(|message| Refusal::new(400, message))?;
    let wanted = Wanted { namespace: place.namespace.clone(), selector };
    if query.is_true("watch") {
        return watch(shared, &mut state.store, place, query, (wanted, form));
    }
    list(&state.store, (place, kind), query, (&wanted, form))
}

/// A page of a list. Pages after the first show objects as they are now, under the version of the first page: a watch from
/// there brings each change that a page may have missed.
fn list(
    store: &Store,
    (place, kind): (&Place, &Kind),
    query: &Query,
    (wanted, form): (&Wanted, Form),
) -> Result<Response<Reply>, Refusal> {
    let limit = query.number("limit").filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let (version, behind) = match query.get("continue") {
        Some(token) => {
            let (version, key) =
                token_of(token).ok_or_else(|| Refusal::new(400, "continue key is not valid"))?;
            if version < store.oldest {
                let message = "The provided continue parameter is too old to display a consistent list result. \
                               You must start a new list without the continue parameter.";
                return Err(Refusal::new(410, message));
            }
            (version, Some(key))
        }
        None => {
            let asked: Option<u64> = query.number("resourceVersion");
            match asked.filter(|asked| *asked > 0) {
                // Any newer state will do.
                Some(asked) if asked < store.oldest && query.get("resourceVersionMatch") != Some("Exact") => {
                }
                Some(asked) => store.check(asked)?,
                None => {}
            }
            (store.version, None)
        }
    };
    // Names of kind and version are left out in lists of Kubernetes' own kinds.
    let item_form = if form == Form::Whole && kind.schema.is_none() { Form::Bare } else { form };
    let all = store.behind(&place.resource, wanted.namespace.as_deref(), behind.as_ref());
    let mut all = all.filter(|(_, object)| wanted.selector.selects(object));
    let mut items = Vec::new();
    let mut last: Option<&Key> = None;
    for (key, object) in all.by_ref().take(limit) {
        items.push(encode::text(item_form, object));
        last = Some(key);
    }
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    let rest = all.count();
    if let Some((namespace, name)) = last.filter(|_| rest > 0) {
        metadata["continue"] = format!("{version}:{namespace}/{name}").into();
        if wanted.selector.is_empty() {
            metadata["remainingItemCount"] = rest.into();
        }
    }
    let (kind, api_version) = match form {
        Form::Partial => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        Form::Whole | Form::Bare => (format!("{}List", kind.name), place.resource.api_version()),
    };
    let items = items.join(",");
    Ok(reply::json(
        200,
        format!(
            r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":[{items}]}}"#
        ),
    ))
}

/// Version and key of a `continue` token.
fn token_of(token: &str) -> Option<(u64, Key)> {
    let (version, key) = token.split_once(':')?;
    let (namespace, name) = key.split_once('/')?;
    Some((version.parse().ok()?, (namespace.to_owned(), name.to_owned())))
}

fn watch(
    shared: &Arc<Shared>,
    store: &mut Store,
    place: &Place,
    query: &Query,
    (wanted, form): (Wanted, Form),
) -> Result<Response<Reply>, Refusal> {
    let resource = &place.resource;
    let from: u64 = match query.get("resourceVersion") {
        None => 0,
        Some(version) => {
            version.parse().map_err(|_| Refusal::new(400, format!("invalid resource version {version:?}")))?
        }
    };
    let is_initial = query.is_true("sendInitialEvents");
    if is_initial && query.get("resourceVersionMatch") != Some("NotOlderThan") {
        let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(Refusal::new(422, message));
    }
    if from > 0 {
        store.check(from)?;
    }
    let wants_bookmarks = query.is_true("allowWatchBookmarks");
    let (lines, receiver) = mpsc::unbounded_channel();
    let watcher = Watcher { wanted, form, wants_bookmarks, lines };
    if is_initial || from == 0 {
        for (_, object) in store
            .behind(resource, watcher.wanted.namespace.as_deref(), None)
            .filter(|(_, object)| watcher.wanted.selector.selects(object))
        {
            watcher.send("ADDED", object);
        }
    } else {
        store.replay(resource, from, &watcher);
    }
    let mut answer = Watch::new(receiver, query.number("timeoutSeconds"));
    if wants_bookmarks {
        let mut bookmark = store.bookmark(resource);
        if is_initial {
            bookmark["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        watcher.send("BOOKMARK", &bookmark);
        answer = answer.with_bookmark(Arc::clone(shared), resource.clone(), form);
    }
    store.watchers.entry(resource.clone()).or_default().push(watcher);
    Ok(reply::watch(answer))
}
