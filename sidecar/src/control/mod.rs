// SPDX-License-Identifier: Apache-2.0
//! The stream from the controller: documents about the pod, pushed; documents about a destination, asked for when a
//! connection first goes there.
//!
//! ```text
//! worker: connection ─▶ destinations ─ asks ─▶ stream ─▶ controller
//!                           ▲                    │
//!                           └─ answered ─ reload ◀─ inventory ◀─ responses
//! ```
//! The stream runs on the main thread. Without `--control` there is nothing of this, and a connection looks at an absent
//! value.

mod destinations;
mod grpc;
mod inventory;
mod metrics;
mod sign;
mod stream;
mod traffic;
mod transport;

pub(crate) use inventory::{Settled, is_told};
pub(crate) use metrics::{ControlMetrics, LookUp};
pub(crate) use sign::keep_signed;
pub(crate) use stream::keep;
pub(crate) use traffic::{Ended, Peer};

use crate::options::config::Config;
use crate::options::facts::{ControlSource, PodFacts};
use culvert_control::messages::Node;
use culvert_mesh::load::{Cache, Text};
use destinations::{Answer, Destinations};
use inventory::Inventory;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use traffic::Ledger;

/// Time to gather changes of documents about the pod: the first answer may come in several pieces.
const GATHER: Duration = Duration::from_millis(20);
/// Port of DNS. Its servers are never looked up: names have to be found before anything can be asked.
const DNS: u16 = 53;

/// A sidecar's side of its controller. Made at the start.
#[derive(Debug)]
pub(crate) struct Control {
    source: ControlSource,
    node: Node,
    api_server: Option<SocketAddr>,
    pub(crate) metrics: ControlMetrics,
    destinations: Destinations,
    /// Connections of the pod, which the stream reports.
    pub(crate) traffic: Ledger,
    state: Mutex<State>,
    /// Documents read of the texts, for the next compilation.
    pub(crate) cache: Mutex<Cache>,
    /// Told when documents changed. The reload waits for it.
    changed: Notify,
    /// Told when documents were compiled. The stream waits for it.
    settled: Notify,
}

#[derive(Debug, Default)]
struct State {
    inventory: Inventory,
    /// Documents about the pod are among the changes, which come in pieces.
    about_pod: bool,
    /// Outcome of the last compilation.
    settled: Settled,
    /// Words about the connection, for the page.
    words: String,
}

/// Texts to compile.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) generation: u64,
    pub(crate) texts: Vec<Text>,
}

impl Control {
    /// Returns `None` without a controller.
    pub(crate) fn new(config: &Config, metrics: ControlMetrics) -> Option<Self> {
        let source = config.control.clone()?;
        let id = config.pod.as_ref().map(|PodFacts { name, namespace, .. }| {
            format!("{}/{name}", namespace.as_deref().unwrap_or_default())
        });
        Some(Self {
            source,
            node: Node {
                id: id.unwrap_or_default(),
                cluster: config.mesh.clone(),
                user_agent_name: "culvert-sidecar".to_owned(),
                user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            api_server: config.api_server,
            metrics,
            destinations: Destinations::new(),
            traffic: Ledger::default(),
            state: Mutex::default(),
            cache: Mutex::default(),
            changed: Notify::new(),
            settled: Notify::new(),
        })
    }

    /// Returns true if the controller knows nothing about such a destination that a connection should wait for.
    fn is_apart(&self, at: SocketAddr) -> bool {
        at.port() == DNS || at.ip().is_loopback() || self.api_server == Some(at)
    }

    /// Returns true if the answer about a destination is in force, or none is needed. Notes that the destination is in use.
    pub(crate) fn knows(&self, at: SocketAddr) -> bool {
        let knows = self.destinations.knows(at);
        if knows {
            self.metrics.look_ups[LookUp::Known].inc();
        }
        knows || self.is_apart(at)
    }

    /// Asks about a destination, and returns true once an answer is in force; false where none came in time.
    pub(crate) async fn ask(&self, at: SocketAddr) -> bool {
        let came = self.destinations.ask(at).await == Answer::Came;
        if came {
            self.metrics.look_ups[LookUp::Answered].inc();
        }
        came
    }

    /// Waits for changed documents, and a moment longer where more are likely to follow. Returns true if some are about the
    /// pod.
    pub(crate) async fn changed(&self) -> bool {
        self.changed.notified().await;
        let about_pod = self.state().about_pod;
        if about_pod {
            tokio::time::sleep(GATHER).await;
        }
        self.state().about_pod = false;
        about_pod
    }

    /// Returns all texts as they were told.
    pub(crate) fn told(&self) -> Told {
        let state = self.state();
        Told { generation: state.inventory.generation(), texts: state.inventory.texts() }
    }

    /// Returns the texts with the last good ones in the place of bad ones.
    pub(crate) fn without(&self, told: &Told, bad: &BTreeSet<Arc<str>>) -> Vec<Text> {
        self.state().inventory.texts_without(&told.texts, bad)
    }

    /// Returns the texts in force.
    pub(crate) fn in_force(&self) -> Vec<Text> {
        self.state().inventory.in_force()
    }

    /// Returns true if all that was told was compiled.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.state();
        state.inventory.generation() == state.settled.generation
    }

    /// Notes what came of compiling: connections go on, and the stream acknowledges.
    pub(crate) fn settle(&self, settled: Settled) {
        let answered: Vec<SocketAddr> = {
            let mut state = self.state();
            state.inventory.settle(&settled);
            // Of an answer that is not in force nothing is known: connections wait for their deadline.
            let in_force = settled.in_force.is_some();
            let all = state.inventory.answered(settled.generation).filter(|_| in_force).collect();
            state.settled = settled;
            all
        };
        self.answer(answered);
        self.settled.notify_one();
    }

    fn answer(&self, answered: impl IntoIterator<Item = SocketAddr>) {
        for wait in self.destinations.answer(answered) {
            self.metrics.look_up_seconds.observe(wait.as_secs_f64());
        }
    }

    /// Returns the name that the controller gave the document of a text.
    pub(crate) fn name_of<'t>(&self, text: &'t Text) -> &'t str {
        inventory::name_of(&text.name)
    }

    /// Returns the reasons for which documents are not in force as they were told.
    pub(crate) fn bad(&self) -> Vec<String> {
        self.state().inventory.bad()
    }

    /// Returns the controller's address and the state of the connection, for the page.
    pub(crate) fn words(&self) -> (String, String) {
        (self.source.url.authority(), self.state().words.clone())
    }

    /// Answers the questions that wait, as a reload would once it has put the answer in force.
    #[cfg(test)]
    pub(crate) fn answer_next(&self, put_in_force: impl FnOnce()) {
        put_in_force();
        self.answer(self.destinations.take_news().asked);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
