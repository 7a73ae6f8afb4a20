// SPDX-License-Identifier: Apache-2.0
//! Events on pods and their owners, as `kubectl describe` shows them. No task waits for them: with a full queue or an unreachable
//! API server events are dropped, and nothing else.

use std::time::SystemTime;

use hyper::Method;
use serde_json::json;
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::http::ApiError;
use super::http::{Call, Client, encoded};
use crate::system::clock::rfc3339;

/// Length of the queue; all pods of a node may be repaired at once.
const QUEUE: usize = 256;
/// Attempts for one event.
const ATTEMPTS: usize = 4;
/// Longest message that Kubernetes accepts, in bytes.
const MAX_MESSAGE: usize = 1024;

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// Group and version, such as `apps/v1`.
    pub api_version: String,
    /// Kind, such as `ReplicaSet`.
    pub kind: String,
    /// Namespace of the object; empty for one of the whole cluster.
    pub namespace: String,
    /// Name of the object in that namespace.
    pub name: String,
    /// Uid of the object, which separates it from a later one of its name. None before Kubernetes has given it one.
    pub uid: Option<String>,
}

impl Regarding {
    /// A pod.
    pub fn pod(namespace: String, name: String, uid: Option<String>) -> Self {
        Self { api_version: "v1".to_owned(), kind: "Pod".to_owned(), namespace, name, uid }
    }
}

/// Reason of an event, with its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason {
    /// CamelCase word that `kubectl get events` shows as REASON.
    pub word: &'static str,
    /// `Warning` or `Normal`.
    kind: &'static str,
}

impl Reason {
    /// A reason that someone should look at.
    pub const fn warning(word: &'static str) -> Self {
        Self { word, kind: "Warning" }
    }

    /// A reason that is no trouble.
    pub const fn normal(word: &'static str) -> Self {
        Self { word, kind: "Normal" }
    }
}

/// The program that posts events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// Name of the program, such as `culvert-agent`.
    pub component: &'static str,
    /// The same as a qualified name, such as `culvert.dev/agent`.
    pub controller: &'static str,
    /// The node or the pod that it runs in.
    pub instance: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The object that it is about.
    pub regarding: Regarding,
    /// Its reason, and whether someone should look.
    pub reason: Reason,
    /// Text for people; cut at 1,024 bytes.
    pub message: String,
    /// Time of the event.
    pub at: SystemTime,
}

/// Sender of the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Event>);

impl Events {
    /// Makes a queue; its receiver goes to [`post`].
    pub fn new() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Queues an event. Returns false if the queue is full, and the event is dropped.
    pub fn hand_in(&self, event: Event) -> bool {
        let handed = self.0.try_send(event);
        if let Err(error) = &handed {
            tracing::debug!(%error, "an event is dropped");
        }
        handed.is_ok()
    }
}

/// Posts queued events until the last [`Events`] is dropped.
pub async fn post(client: &Client, reporter: &Reporter, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let mut backoff = Backoff::new();
        for attempt in 1..=ATTEMPTS {
            match post_one(client, reporter, &event).await {
                Ok(()) => break,
                // A refusal is final: the right is missing, or the namespace is ending.
                Err(error)
                    if attempt == ATTEMPTS || error.status().is_some_and(|code| is_final(code.as_u16())) =>
                {
                    let Regarding { kind, namespace, name, .. } = &event.regarding;
                    tracing::warn!(%error, about = format!("{kind} {namespace}/{name}"), "no event could be written");
                    break;
                }
                Err(error) => tokio::time::sleep(backoff.pause(error.retry_after())).await,
            }
        }
    }
}

const fn is_final(code: u16) -> bool {
    matches!(code, 400 | 403 | 404 | 405 | 413 | 422)
}

async fn post_one(client: &Client, reporter: &Reporter, event: &Event) -> Result<(), ApiError> {
    let Event { regarding, reason, message, at } = event;
    let Regarding { api_version, kind, namespace, name, uid } = regarding;
    let Reporter { component, controller, instance } = reporter;
    let mut involved = json!({ "apiVersion": api_version, "kind": kind, "name": name });
    // Kubernetes wants events about objects of the whole cluster in this namespace.
    let place = if namespace.is_empty() { "default" } else { namespace };
    if !namespace.is_empty() {
        involved["namespace"] = namespace.as_str().into();
    }
    if let Some(uid) = uid {
        involved["uid"] = uid.as_str().into();
    }
    let at = rfc3339(*at);
    let mut message = message.clone();
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE - 3));
        message.push('…');
    }
    let body = json!({
        "apiVersion": "v1",
        "kind": "Event",
        // Short enough in any case, which the pod's own name is not.
        "metadata": { "generateName": "culvert-", "namespace": place },
        "involvedObject": involved,
        "reason": reason.word,
        "message": message,
        "type": reason.kind,
        "source": { "component": component, "host": instance },
        "reportingComponent": controller,
        "reportingInstance": instance,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    });
    let path = format!("/api/v1/namespaces/{}/events", encoded(place));
    let body = Some(("application/json", body.to_string().into_bytes()));
    client.call(Call { method: Method::POST, path: &path, accept: "application/json", body }).await.map(drop)
}
