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

pub(crate) use inventory::{CompiledDestination, Settled, ToCompile, is_told};
pub(crate) use metrics::{ControlMetrics, LookUp};
pub(crate) use sign::keep_signed;
pub(crate) use stream::keep;
pub(crate) use traffic::{Ended, Peer};

use crate::dns::NameSource;
use crate::options::config::Config;
use crate::options::facts::{ControlSource, PodFacts};
use crate::plan::load::destination::Asked;
use culvert_control::messages::Node;
use culvert_control::{MAX_DESTINATIONS, MAX_NAMES};
use culvert_mesh::document::Found;
use culvert_mesh::load::Text;
use destinations::{Answer, Destinations, News};
use inventory::Inventory;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
    /// Told when there are questions for the stream.
    wake: Arc<Notify>,
    addresses: Destinations<SocketAddr>,
    names: Destinations<Arc<str>>,
    /// True where the controller of the last stream looks names up, and before the first stream.
    takes_names: AtomicBool,
    /// Connections of the pod, which the stream reports.
    pub(crate) traffic: Ledger,
    state: Mutex<State>,
    /// The documents that the plan in force was made of, beside which those of destinations are compiled.
    base: Mutex<Arc<Found>>,
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
    /// Outcome of the last compilation, and the generation of everything that was compiled.
    settled: Settled,
    /// The generation of documents about the pod that were compiled.
    about_settled: u64,
    /// Words about the connection, for the page.
    words: String,
}

/// Texts to compile.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) generation: u64,
    /// Texts about the pod.
    pub(crate) texts: Vec<Text>,
    pub(crate) destinations: Vec<ToCompile>,
}

impl Control {
    /// Returns `None` without a controller.
    pub(crate) fn new(config: &Config, metrics: ControlMetrics) -> Option<Self> {
        let source = config.control.clone()?;
        let wake = Arc::new(Notify::new());
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
            addresses: Destinations::new(MAX_DESTINATIONS, Arc::clone(&wake)),
            names: Destinations::new(MAX_NAMES, Arc::clone(&wake)),
            takes_names: AtomicBool::new(true),
            wake,
            traffic: Ledger::default(),
            state: Mutex::default(),
            base: Mutex::default(),
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
        let knows = self.addresses.knows(&at);
        if knows {
            self.metrics.look_ups[LookUp::Known].inc();
        }
        knows || self.is_apart(at)
    }

    /// Asks about a destination, and returns true once an answer is in force; false where none came in time.
    pub(crate) async fn ask(&self, at: SocketAddr) -> bool {
        let came = self.addresses.ask(at).await == Answer::Came;
        if came {
            self.metrics.look_ups[LookUp::Answered].inc();
        }
        came
    }

    /// Waits for changed documents. Where some are about the pod it waits a moment longer, as more are likely to follow.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
        if std::mem::take(&mut self.state().about_pod) {
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Returns all texts as they were told.
    pub(crate) fn told(&self) -> Told {
        let inventory = &self.state().inventory;
        let (texts, destinations) = (inventory.texts(), inventory.destinations().all());
        Told { generation: inventory.generation(), texts, destinations }
    }

    /// Returns the destinations that changed, where documents about the pod did not.
    pub(crate) fn told_of_destinations(&self) -> Option<Told> {
        let state = self.state();
        let inventory = &state.inventory;
        if inventory.about_generation() > state.about_settled {
            return None;
        }
        let destinations = inventory.destinations().changed();
        Some(Told { generation: inventory.generation(), texts: Vec::new(), destinations })
    }

    /// Returns the texts of a destination with the last good ones in the place of bad ones.
    pub(crate) fn without_in(&self, told: &ToCompile, bad: &BTreeSet<Arc<str>>) -> Vec<Text> {
        self.state().inventory.destinations().without(&told.asked, &told.texts, bad)
    }

    /// Returns the documents that the plan in force was made of.
    pub(crate) fn base(&self) -> Arc<Found> {
        Arc::clone(&self.base.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes the documents that the plan in force was made of.
    pub(crate) fn set_base(&self, found: Arc<Found>) {
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = found;
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

    /// Notes what came of compiling the documents about the pod.
    pub(crate) fn settle(&self, settled: Settled) {
        let mut state = self.state();
        state.inventory.settle(&settled);
        state.about_settled = settled.generation;
        state.settled = settled;
        let is_left = state.inventory.destinations().has_changed();
        drop(state);
        self.settled.notify_one();
        if is_left {
            self.changed.notify_one();
        }
    }

    /// Notes what came of compiling a destination: what waits for it goes on.
    pub(crate) fn compiled(&self, outcome: CompiledDestination) {
        let asked = outcome.asked.clone();
        let is_answered = {
            let mut state = self.state();
            state.inventory.compiled(outcome);
            // Of an answer that is not in force nothing is known: connections wait for their deadline.
            state.inventory.is_answered(&asked)
        };
        if is_answered {
            self.answer([asked]);
        }
    }

    /// Notes that all destinations of a generation were compiled: the stream acknowledges.
    pub(crate) fn settle_destinations(&self, generation: u64) {
        let mut state = self.state();
        state.settled.generation = state.settled.generation.max(generation);
        drop(state);
        self.settled.notify_one();
    }

    fn answer(&self, answered: impl IntoIterator<Item = Asked>) {
        let (mut addresses, mut names) = (Vec::new(), Vec::new());
        for asked in answered {
            match asked {
                Asked::At(at) => addresses.push(at),
                Asked::Name(host) => names.push(host),
            }
        }
        for wait in self.addresses.answer(addresses).into_iter().chain(self.names.answer(names)) {
            self.metrics.look_up_seconds.observe(wait.as_secs_f64());
        }
    }

    /// Takes the questions and resignations of connections, and those of queries for a controller that takes them.
    fn take_news(&self, takes_names: bool) -> News<Asked> {
        let names = takes_names.then(|| self.names.take_news());
        let names = names.unwrap_or(News { asked: Vec::new(), given_up: Vec::new() });
        let addresses = self.addresses.take_news();
        let all = |addresses: Vec<SocketAddr>, names: Vec<Arc<str>>| {
            addresses.into_iter().map(Asked::At).chain(names.into_iter().map(Asked::Name)).collect()
        };
        News { asked: all(addresses.asked, names.asked), given_up: all(addresses.given_up, names.given_up) }
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
        self.answer(self.take_news(true).asked);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NameSource for Control {
    fn knows(&self, host: &Arc<str>) -> bool {
        self.names.knows(host)
    }

    fn ask(&self, host: Arc<str>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async { self.takes_names.load(Relaxed) && self.names.ask(host).await == Answer::Came })
    }
}

#[cfg(test)]
mod tests;
