// SPDX-License-Identifier: Apache-2.0
//! The taint that a node starts with, kept off while its pods will be covered.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::backoff::Backoff;
use super::http::{ApiError, Call, Client, encoded};
use super::metadata::ObjectMeta;

#[derive(Deserialize)]
struct Node {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default)]
struct Spec {
    taints: Option<Vec<Value>>,
}

/// Interval between two looks at the node. Karpenter, a cloud's controller or an operator may put a taint back: it is off again
/// within 30 s. A look costs the API server one object of its cache.
pub const LOOK_EVERY: Duration = Duration::from_secs(20);

/// Keeps every taint with this key off the node, each time that `is_ready` returns true; ends when that returns false. Another
/// look follows `every` one, and an error by the backoff.
pub async fn keep_off<R: Future<Output = bool>>(
    client: &Client,
    node: &str,
    key: &str,
    every: Duration,
    is_ready: impl Fn() -> R,
) {
    let mut backoff = Backoff::new();
    let mut is_first = true;
    while is_ready().await {
        let pause = match release_once(client, node, key).await {
            Ok(is_off) => {
                match (is_off, is_first) {
                    (true, true) => {
                        tracing::info!(node, taint = key, "the node takes pods: its taint is off")
                    }
                    (true, false) => {
                        tracing::warn!(node, taint = key, "the taint was put back: it is off again")
                    }
                    (false, true) => tracing::info!(node, taint = key, "the node has no such taint"),
                    (false, false) => {}
                }
                (is_first, backoff) = (false, Backoff::new());
                every
            }
            Err(error) => {
                tracing::warn!(%error, node, taint = key, "the taint cannot be taken off yet: pods without a toleration wait");
                backoff.pause(error.retry_after())
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Removes the taints once; false if there were none. The patch is bound to the version that was read: taints are one
/// list, which others write too.
pub async fn release_once(client: &Client, node: &str, key: &str) -> Result<bool, ApiError> {
    let path = format!("/api/v1/nodes/{}", encoded(node));
    // Version 0 is the API server's cache, and may be a moment old; a taint that is seen there is looked up again.
    let Node { spec, .. } = client.json(Call::get(&format!("{path}?resourceVersion=0"))).await?;
    if !spec.taints.unwrap_or_default().iter().any(|taint| taint["key"] == key) {
        return Ok(false);
    }
    for _ in 0..5 {
        let Node { metadata, spec } = client.json(Call::get(&path)).await?;
        let taints = spec.taints.unwrap_or_default();
        let kept: Vec<&Value> = taints.iter().filter(|taint| taint["key"] != key).collect();
        if kept.len() == taints.len() {
            return Ok(false);
        }
        let patch = json!([
            { "op": "test", "path": "/metadata/resourceVersion", "value": metadata.resource_version },
            { "op": "replace", "path": "/spec/taints", "value": kept },
        ]);
        let body = Some(("application/json-patch+json", patch.to_string().into_bytes()));
        match client.call(Call { method: Method::PATCH, path: &path, accept: "application/json", body }).await
        {
            // The list changed in between: 409, or 422 for a failed test.
            Err(error)
                if matches!(
                    error.status(),
                    Some(StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY)
                ) => {}
            other => return other.map(|_| true),
        }
    }
    Err(ApiError::Status {
        code: StatusCode::CONFLICT,
        message: "others write the node faster than it can be read".to_owned(),
        retry_after: None,
    })
}
