// SPDX-License-Identifier: Apache-2.0
//! Annotations of this node's pods, kept current by a watch.
//!
//! Only the annotations of culvert and Kuma are kept: some hundred bytes a pod, however large its specification is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_cni::agent::PodRef;
use culvert_cni::pod::{Annotations, concerns_us};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::http::{Client, encoded};
use super::metadata::ObjectMeta;
use super::reflect::{self, Mirror, Source};

/// Most pods that are kept: four times what Kubernetes is tested with on one node.
const MAX_PODS: usize = 2000;
/// Most bytes that are kept of one pod's annotations; above that the plugin gets an error.
const MAX_ANNOTATIONS: usize = 32 << 10;
/// Longest wait for a pod that the watch has not reported yet, shorter than the plugin's wait for us. A kubelet learns
/// of a pod by such a watch too, so ours is behind by milliseconds.
const COMES_WITHIN: Duration = Duration::from_millis(800);
/// Annotation with a static pod's uid as the kubelet knows it; the API server gives its mirror pod another.
const STATIC_UID: &str = "kubernetes.io/config.hash";

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
pub(crate) struct Known {
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

    /// Keeps the pods current for as long as it is polled; never ends.
    pub async fn follow(&self, client: &Client, node: &str) {
        let selector = format!("fieldSelector=spec.nodeName%3D{}", encoded(node));
        let source = Source { path: "/api/v1/pods", selector, what: "this node's pods" };
        reflect::follow(self, client, &source).await;
    }
}

impl Mirror for Pods {
    type Item = ((String, String), Known);
    const MOST: usize = MAX_PODS;

    fn read(metadata: ObjectMeta) -> Self::Item {
        Known::new(metadata)
    }

    fn replace(&self, items: Vec<Self::Item>) {
        let mut state = self.state();
        state.pods = items.into_iter().collect();
        state.stale = None;
        drop(state);
        self.changed.notify_waiters();
    }

    fn put(&self, (key, known): Self::Item) {
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

    fn is_stale(&self, why: String) {
        self.state().stale = Some(why);
    }
}
