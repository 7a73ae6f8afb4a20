// SPDX-License-Identifier: Apache-2.0
//! Events on pods, as `kubectl describe pod` shows them. Never waited for: a queue that is full, or an API server that is
//! away, costs events, and nothing else.

use std::time::SystemTime;

use hyper::Method;
use serde_json::json;
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::http::ApiError;
use super::http::{Call, Client, encoded};
use crate::system::clock::rfc3339;

/// Events that wait; a node's pods may all be put right at once.
const QUEUE: usize = 256;
/// Attempts for one event.
const ATTEMPTS: usize = 4;
/// The longest message, in bytes: what Kubernetes takes.
const MAX_MESSAGE: usize = 1024;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// One word of the kind that `kubectl get events` shows.
    pub reason: &'static str,
    /// What happened.
    pub message: String,
    /// When.
    pub at: SystemTime,
}

/// Where events are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Event>);

impl Events {
    /// A queue, and its end for [`post`].
    pub fn new() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Hands in an event; one that finds no room is dropped.
    pub fn hand_in(&self, event: Event) {
        if let Err(error) = self.0.try_send(event) {
            tracing::debug!(%error, "an event is dropped");
        }
    }
}

/// Posts what is handed in; ends with the last [`Events`].
pub async fn post(client: &Client, node: &str, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let mut backoff = Backoff::new();
        for attempt in 1..=ATTEMPTS {
            match post_one(client, node, &event).await {
                Ok(()) => break,
                // What it does not want now it will not want later: no right to, or the namespace ends.
                Err(error)
                    if attempt == ATTEMPTS || error.status().is_some_and(|code| is_final(code.as_u16())) =>
                {
                    tracing::warn!(%error, pod = format!("{}/{}", event.namespace, event.name), "no event could be written");
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

async fn post_one(client: &Client, node: &str, event: &Event) -> Result<(), ApiError> {
    let Event { namespace, name, uid, reason, message, at } = event;
    let at = rfc3339(*at);
    let mut message = message.clone();
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE - 3));
        message.push('…');
    }
    let body = json!({
        "apiVersion": "v1",
        "kind": "Event",
        // Unlike the pod's own name this is always short enough.
        "metadata": { "generateName": "culvert-", "namespace": namespace },
        "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid },
        "reason": reason,
        "message": message,
        "type": "Warning",
        "source": { "component": "culvert-agent", "host": node },
        "reportingComponent": "culvert.dev/agent",
        "reportingInstance": node,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    });
    let path = format!("/api/v1/namespaces/{}/events", encoded(namespace));
    let body = Some(("application/json", body.to_string().into_bytes()));
    client.call(Call { method: Method::POST, path: &path, accept: "application/json", body }).await.map(drop)
}
