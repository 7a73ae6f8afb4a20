// SPDX-License-Identifier: Apache-2.0
//! The server's state: the store, the mishaps that a test wants, and the record of requests.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::store::Store;
use super::tokens::TokenOf;

/// A failure of the server on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status, with Kubernetes' own word for it, and perhaps `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// No answer as long as the client stays.
    Silence,
    /// The connection is closed.
    Close,
    /// An answer of 200 that is no JSON.
    Garbage,
    /// An answer of 200 without an end.
    Endless,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method: GET, POST, PUT, PATCH or DELETE.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The header.
    pub accept: String,
    /// The header.
    pub user_agent: String,
    /// The body; null where there is none, or no JSON.
    pub body: Arc<Value>,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Counts the times that all connections were ended.
    pub(super) ended: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(token: String, tls: TlsAcceptor) -> Self {
        let state = State {
            store: Store::new(),
            script: Script::default(),
            record: Record::default(),
            tokens: BTreeMap::new(),
            version: "1.36.2".to_owned(),
            token,
            tls,
        };
        Self { state: Mutex::new(state), ended: watch::Sender::new(0) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the server.
pub(super) struct State {
    pub(super) store: Store,
    pub(super) script: Script,
    pub(super) record: Record,
    /// What tokens of pods are bound to.
    pub(super) tokens: BTreeMap<String, TokenOf>,
    /// The version of Kubernetes that it says it is.
    pub(super) version: String,
    /// The token that callers must have.
    pub(super) token: String,
    pub(super) tls: TlsAcceptor,
}

/// Answers and mishaps that a test wants.
#[derive(Default)]
pub(super) struct Script {
    /// Answers to GETs of lists and of paths that are no place for objects.
    pub(super) fixed: BTreeMap<String, Value>,
    /// Answers to POSTs, by their paths without a query.
    pub(super) answers: BTreeMap<String, (u16, Value)>,
    pub(super) faults: VecDeque<(&'static str, Fault)>,
    /// Refuses to listen at all.
    pub(super) is_away: bool,
    /// The number of PATCHes before which another client writes the node.
    pub(super) conflicts: usize,
}

/// Requests that came.
#[derive(Default)]
pub(super) struct Record {
    pub(super) asked: Vec<Asked>,
    /// The bodies of POSTs that had an answer of the test's.
    pub(super) posted: Vec<Value>,
    pub(super) events: Vec<Value>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("version", &self.store.version).finish_non_exhaustive()
    }
}
