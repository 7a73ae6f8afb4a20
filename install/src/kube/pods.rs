// SPDX-License-Identifier: Apache-2.0
//! Annotations of this node's pods, kept current by a watch.
//!
//! Only metadata is requested (`PartialObjectMetadata`), and only the annotations of culvert and Kuma are kept: some
//! hundred bytes a pod, however large its specification is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_cni::agent::PodRef;
use culvert_cni::pod::{Annotations, concerns_us};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::http::{ApiError, ApiResponse, Call, Client, encoded, message_of};
use super::metadata::ObjectMeta;

/// Pods a page of a list.
const PAGE: usize = 50;
/// Most pods that are kept: four times what Kubernetes is tested with on one node.
const MAX_PODS: usize = 2000;
/// Most bytes that are kept of one pod's annotations; above that the plugin gets an error.
const MAX_ANNOTATIONS: usize = 32 << 10;
/// Longest event of a watch, in bytes: the API server takes no object above 1.5 MiB.
const MAX_EVENT: usize = 4 << 20;
/// Duration of a watch that the server is asked for.
const WATCH: Duration = Duration::from_secs(300);
/// Longest silence of a watch: bookmarks come each minute, and the server ends it by itself.
const SILENCE: Duration = Duration::from_secs(330);
/// Longest wait for a pod that the watch has not reported yet, shorter than the plugin's wait for us. A kubelet learns
/// of a pod by such a watch too, so ours is behind by milliseconds.
const COMES_WITHIN: Duration = Duration::from_millis(800);
/// Annotation with a static pod's uid as the kubelet knows it; the API server gives its mirror pod another.
const STATIC_UID: &str = "kubernetes.io/config.hash";

const LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const OBJECT: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Annotations of this node's pods, shared between the watch and its readers.
#[derive(Debug, Default)]
pub struct Pods {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    pods: HashMap<(String, String), Known>,
    /// Reason why the data may be old; None while the watch runs.
    stale: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self { pods: HashMap::new(), stale: Some("no API server was asked yet".to_owned()) }
    }
}

#[derive(Debug)]
struct Known {
    uid: String,
    static_uid: Option<String>,
    annotations: Result<Annotations, TooMany>,
}

#[derive(Debug)]
struct TooMany(usize);

impl Known {
    fn new(metadata: ObjectMeta) -> ((String, String), Self) {
        let ObjectMeta { namespace, name, uid, annotations, .. } = metadata;
        let annotations = annotations.unwrap_or_default();
        let static_uid = annotations.get(STATIC_UID).cloned();
        let ours: Annotations = annotations.into_iter().filter(|(name, _)| concerns_us(name)).collect();
        let size = ours.iter().map(|(name, value)| name.len() + value.len()).sum();
        let annotations = if size <= MAX_ANNOTATIONS { Ok(ours) } else { Err(TooMany(size)) };
        ((namespace, name), Self { uid, static_uid, annotations })
    }

    fn is(&self, uid: Option<&str>) -> bool {
        uid.is_none_or(|uid| uid == self.uid || Some(uid) == self.static_uid.as_deref())
    }
}

impl Pods {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of known pods.
    pub fn len(&self) -> usize {
        self.state().pods.len()
    }

    /// Returns true if no pod is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reason why the data may be old; None while the watch runs.
    pub fn stale(&self) -> Option<String> {
        self.state().stale.clone()
    }

    /// Returns the annotations of a pod. Waits less than a second for a pod that is not known yet; the error gives the
    /// reason.
    pub async fn annotations(&self, pod: &PodRef) -> Result<Annotations, String> {
        let deadline = Instant::now() + COMES_WITHIN;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on every change is noticed.
            changed.as_mut().enable();
            if let Some(found) = self.find(pod) {
                return found;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                let PodRef { namespace, name, uid } = pod;
                let uid = uid.as_ref().map(|uid| format!(" with uid {uid}")).unwrap_or_default();
                let state = self.state();
                let stale = state.stale.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
                return Err(format!(
                    "the API server told of no pod {namespace}/{name}{uid} on this node{stale}"
                ));
            }
        }
    }

    fn find(&self, pod: &PodRef) -> Option<Result<Annotations, String>> {
        let state = self.state();
        let known = state.pods.get(&(pod.namespace.clone(), pod.name.clone()))?;
        // Another uid belongs to an earlier pod of the same name, whose successor is still to come.
        known.is(pod.uid.as_deref()).then(|| match &known.annotations {
            Ok(annotations) => Ok(annotations.clone()),
            Err(TooMany(size)) => Err(format!("its annotations for a mesh are {size} bytes long")),
        })
    }

    fn replace(&self, pods: HashMap<(String, String), Known>) {
        let mut state = self.state();
        state.pods = pods;
        state.stale = None;
        drop(state);
        self.changed.notify_waiters();
    }

    fn is_stale(&self, why: String) {
        self.state().stale = Some(why);
    }

    fn put(&self, metadata: ObjectMeta) {
        let (key, known) = Known::new(metadata);
        let mut state = self.state();
        if state.pods.len() < MAX_PODS || state.pods.contains_key(&key) {
            state.pods.insert(key, known);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn remove(&self, metadata: &ObjectMeta) {
        let key = (metadata.namespace.clone(), metadata.name.clone());
        let mut state = self.state();
        if state.pods.get(&key).is_some_and(|known| known.uid == metadata.uid) {
            state.pods.remove(&key);
        }
    }

    /// Keeps the pods current for as long as it is polled; never ends.
    pub async fn follow(&self, client: &Client, node: &str) {
        let mut backoff = Backoff::new();
        loop {
            let Err(error) = self.follow_once(client, node, &mut backoff).await;
            if error.status() == Some(StatusCode::GONE) {
                // Expected: the list is read again.
                tracing::debug!(%error, "the watch of this node's pods begins anew");
                tokio::time::sleep(backoff.pause(None)).await;
                continue;
            }
            self.is_stale(error.to_string());
            tracing::warn!(%error, "this node's pods cannot be watched; what is known of them stays");
            tokio::time::sleep(backoff.pause(error.retry_after())).await;
        }
    }

    async fn follow_once(
        &self,
        client: &Client,
        node: &str,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, ApiError> {
        let mut version = self.list(client, node).await?;
        backoff.reset();
        loop {
            let began = Instant::now();
            self.watch(client, node, &mut version).await?;
            // A server that ends each watch at once is asked again after a pause.
            if began.elapsed() < Duration::from_secs(1) {
                tokio::time::sleep(backoff.pause(None)).await;
            } else {
                backoff.reset();
            }
        }
    }

    /// Reads all pods of the node, page by page; returns the version of the list.
    async fn list(&self, client: &Client, node: &str) -> Result<String, ApiError> {
        let mut pods = HashMap::new();
        let mut page = String::new();
        loop {
            let path =
                format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}&limit={PAGE}{page}", encoded(node));
            let call = Call { method: Method::GET, path: &path, accept: LIST, body: None };
            let List { metadata, items } = client.json(call).await?;
            pods.extend(items.into_iter().map(|item| Known::new(item.metadata)));
            match metadata.next_page.filter(|token| !token.is_empty()) {
                Some(token) if pods.len() < MAX_PODS => page = format!("&continue={}", encoded(&token)),
                _ => {
                    self.replace(pods);
                    return Ok(metadata.resource_version);
                }
            }
        }
    }

    /// Follows one watch until the server ends it.
    async fn watch(&self, client: &Client, node: &str, version: &mut String) -> Result<(), ApiError> {
        let path = format!(
            "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3D{}&resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds={}",
            encoded(node),
            encoded(version),
            WATCH.as_secs(),
        );
        let answer =
            client.call(Call { method: Method::GET, path: &path, accept: OBJECT, body: None }).await?;
        let mut lines = Lines { answer, held: Vec::new() };
        while let Some(line) = lines.next().await? {
            let event: WatchEvent =
                serde_json::from_slice(&line).map_err(|error| ApiError::Garbled(error.to_string()))?;
            let WatchEvent { kind, object } = event;
            if kind == "ERROR" {
                let (code, message) = (object.code, message_of(&line_object(&line)));
                let code = code.and_then(|code| StatusCode::from_u16(code).ok());
                let code = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                return Err(ApiError::Status { code, message, retry_after: None });
            }
            if !object.metadata.resource_version.is_empty() {
                version.clone_from(&object.metadata.resource_version);
            }
            match kind.as_str() {
                "ADDED" | "MODIFIED" => self.put(object.metadata),
                "DELETED" => self.remove(&object.metadata),
                // BOOKMARK carries only the version.
                _ => {}
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct List {
    metadata: ObjectMeta,
    #[serde(default)]
    items: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: ObjectMeta,
    /// Code of a `Status` object.
    code: Option<u16>,
}

#[derive(Deserialize)]
struct WatchEvent {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

/// The object of an event's line, as JSON.
fn line_object(line: &[u8]) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    value["object"].to_string().into_bytes()
}

/// Lines of a watch.
struct Lines {
    answer: ApiResponse,
    held: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.held[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.held.split_off(searched + end + 1);
                let line = std::mem::replace(&mut self.held, rest);
                if line.trim_ascii().is_empty() {
                    searched = 0;
                    continue;
                }
                return Ok(Some(line));
            }
            searched = self.held.len();
            if searched > MAX_EVENT {
                return Err(ApiError::TooLong(MAX_EVENT));
            }
            match self.answer.piece(SILENCE).await? {
                Some(piece) => self.held.extend_from_slice(&piece),
                // Half a line means that the server went away; the next watch repeats it.
                None => return Ok(None),
            }
        }
    }
}
