// SPDX-License-Identifier: Apache-2.0
//! Events about decisions that someone would ask about: on the pod's owner, or on the pod where it has a name and no owner.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::kube::Events;
use crate::kube::events::{Event, Regarding};

/// Time in which the same event is not posted again: a ReplicaSet asks for a refused pod again and again, and has many pods.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Most events that are remembered for that.
const MAX_REMEMBERED: usize = 1024;

/// A pod that was left without a sidecar, or not created.
pub(super) const SKIPPED: &str = "SidecarSkipped";
pub(super) const REFUSED: &str = "SidecarRefused";

/// Posts events, each once in a while.
#[derive(Debug)]
pub(super) struct Told {
    events: Events,
    remembered: Mutex<HashMap<(Regarding, &'static str, String), Instant>>,
}

impl Told {
    pub(super) fn new(events: Events) -> Self {
        Self { events, remembered: Mutex::default() }
    }

    /// Posts an event about a pod of this namespace. Without an owner and a name there is nothing to show it at.
    pub(super) fn tell(&self, pod: &Value, namespace: &str, name: &str, reason: &'static str, message: &str) {
        let Some(regarding) = regarding(pod, namespace, name) else { return };
        let key = (regarding.clone(), reason, message.to_owned());
        let now = Instant::now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.get(&key).is_some_and(|told| now.duration_since(*told) < AGAIN_AFTER) {
            return;
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, told| now.duration_since(*told) < AGAIN_AFTER);
        }
        if remembered.len() >= MAX_REMEMBERED {
            // Told again rather than not at all.
            remembered.clear();
        }
        remembered.insert(key, now);
        drop(remembered);
        let Regarding { kind, name, .. } = &regarding;
        tracing::info!(about = format!("{kind} {namespace}/{name}"), reason, "{message}");
        self.events.hand_in(Event { regarding, reason, message: message.to_owned(), at: SystemTime::now() });
    }
}

/// The pod's owner, or the pod.
fn regarding(pod: &Value, namespace: &str, name: &str) -> Option<Regarding> {
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owner = owners.iter().find(|owner| owner["controller"] == true).or_else(|| owners.first());
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let of_owner = |owner: &Value| {
        Some(Regarding {
            api_version: text(&owner["apiVersion"])?,
            kind: text(&owner["kind"])?,
            namespace: namespace.to_owned(),
            name: text(&owner["name"])?,
            uid: text(&owner["uid"]),
        })
    };
    owner.and_then(of_owner).or_else(|| {
        let named =
            text(&pod["metadata"]["name"]).or_else(|| Some(name.to_owned()).filter(|name| !name.is_empty()));
        Some(Regarding::pod(namespace.to_owned(), named?, text(&pod["metadata"]["uid"])))
    })
}
