// SPDX-License-Identifier: Apache-2.0
//! As much of Kubernetes' API as the agent needs, over one connection a call.
//!
//! ```text
//! pods    LIST and WATCH, this node's pods only, metadata only ──▶ Pods, from which the plugin's questions are answered
//! events  POST, what was put right                             ◀── a short queue
//! hold    GET and PATCH this node, once: its taint goes
//! ```
//! By hand over hyper and rustls: the six calls are these files, and a client of the whole API would bring a cache of whole
//! pods, connection pools and its own retries. An API server that is away changes nothing: what is known of pods stays, and
//! every call is tried again, ever more seldom.

pub mod events;
pub mod hold;
pub mod http;
pub mod pods;

use std::time::Duration;

use serde::Deserialize;

pub use events::Events;
pub use http::{ApiError, Client};
pub use pods::Pods;

/// The part of an object's metadata that is read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version; for a list, where a watch goes on from.
    pub resource_version: String,
    /// Its annotations.
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
    /// Of a list: where its next page begins.
    #[serde(rename = "continue")]
    pub next_page: Option<String>,
}

/// How long to wait before another attempt: doubled each time, and never the same for all nodes of a cluster.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    /// So the API server is found again within half a minute, and a thousand nodes ask it for 30 pages a second.
    const LAST: Duration = Duration::from_secs(30);

    /// Begins anew.
    pub const fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// After what went well.
    pub const fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    /// The next pause; no shorter than what the server asks for, within a minute.
    pub fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let pause = self.next.mul_f64(jitter());
        self.next = (self.next * 2).min(Self::LAST);
        pause.max(asked.unwrap_or_default().min(Duration::from_secs(60)))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// Between 0.5 and 1, of the clock's nanoseconds: this only keeps nodes apart.
fn jitter() -> f64 {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    0.5 + f64::from(nanos % 1_000_000) / 2_000_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..20).map(|_| backoff.pause(None)).collect();
        assert!(pauses[0] >= Backoff::FIRST / 2 && pauses[0] <= Backoff::FIRST, "{pauses:?}");
        assert!(pauses[19] >= Backoff::LAST / 2 && pauses[19] <= Backoff::LAST, "{pauses:?}");
        backoff.reset();
        assert!(backoff.pause(None) <= Backoff::FIRST);
        assert!(backoff.pause(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(backoff.pause(Some(Duration::from_secs(9999))) <= Duration::from_secs(60));
    }
}
