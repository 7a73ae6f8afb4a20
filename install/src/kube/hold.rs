// SPDX-License-Identifier: Apache-2.0
//! The taint that a node starts with, removed once its pods will be covered.

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

/// Removes every taint with this key from the node; retries until it is done or already gone.
pub async fn release(client: &Client, node: &str, key: &str) {
    let mut backoff = Backoff::new();
    loop {
        match release_once(client, node, key).await {
            Ok(true) => return tracing::info!(node, taint = key, "the node takes pods: its taint is off"),
            Ok(false) => return tracing::info!(node, taint = key, "the node has no such taint"),
            Err(error) => {
                tracing::warn!(%error, node, taint = key, "the taint cannot be taken off yet: pods without a toleration wait");
                tokio::time::sleep(backoff.pause(error.retry_after())).await;
            }
        }
    }
}

/// Removes the taints once; false if there were none. The patch is bound to the version that was read: taints are one
/// list, which others write too.
pub async fn release_once(client: &Client, node: &str, key: &str) -> Result<bool, ApiError> {
    let path = format!("/api/v1/nodes/{}", encoded(node));
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
