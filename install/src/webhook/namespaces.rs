// SPDX-License-Identifier: Apache-2.0
//! Labels and annotations of all namespaces, kept current by a watch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::inject::{Namespace, concerns_namespace};
use crate::kube::http::{ApiError, Call, Client, encoded};
use crate::kube::metadata::ObjectMeta;
use crate::kube::reflect::{self, Mirror, OBJECT, Object, Source};

/// Most namespaces that are kept, some 300 bytes each; five times what Kubernetes is tested with. Others are read when a pod
/// comes.
const MAX_NAMESPACES: usize = 50_000;
/// Time for a namespace to be read while an API server waits for us; it gives us 5 s.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// Time for which a namespace that was just read is not read again.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Reads at a time: each is a connection to the API server, and any pod can send reviews about namespaces that nobody knows.
const MAX_READS: usize = 8;
/// Longest name of a namespace: a label of DNS.
const MAX_NAME: usize = 63;

/// All namespaces, shared between the watch and the reviews.
#[derive(Debug)]
pub(super) struct Namespaces {
    state: Mutex<State>,
    reads: Semaphore,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self { state: Mutex::default(), reads: Semaphore::new(MAX_READS) }
    }
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Known>,
    is_listed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    namespace: Arc<Namespace>,
    /// Time at which it was read for a pod; None if the watch brought it.
    read: Option<Instant>,
}

/// The reason why a namespace is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    #[error(transparent)]
    Api(ApiError),
    #[error("the API server does not answer within {} s", READ_WITHIN.as_secs())]
    Slow,
    #[error("no namespace can have this name")]
    NoName,
}

impl Namespaces {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once all namespaces were listed.
    pub(super) fn is_listed(&self) -> bool {
        self.state().is_listed
    }

    /// Keeps the namespaces current for as long as it is polled; never ends.
    pub(super) async fn follow(&self, client: &Client) {
        let source =
            Source { path: "/api/v1/namespaces", selector: String::new(), what: "the cluster's namespaces" };
        reflect::follow(self, client, &source).await;
    }

    /// Returns a namespace as the watch knows it, or reads it where the watch has yet to bring it.
    pub(super) async fn get(&self, client: &Client, name: &str) -> Result<Arc<Namespace>, Unknown> {
        let known = self.state().known.get(name).map(|known| Arc::clone(&known.namespace));
        match known {
            Some(known) => Ok(known),
            None => self.read_now(client, name).await,
        }
    }

    /// Reads a namespace unless that was just done: the API servers may have seen a new label before this watch.
    pub(super) async fn get_fresh(&self, client: &Client, name: &str) -> Result<Arc<Namespace>, Unknown> {
        let known = self.state().known.get(name).cloned();
        match known {
            Some(Known { namespace, read: Some(read) }) if read.elapsed() < FRESH_FOR => Ok(namespace),
            _ => self.read_now(client, name).await,
        }
    }

    async fn read_now(&self, client: &Client, name: &str) -> Result<Arc<Namespace>, Unknown> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fits) {
            return Err(Unknown::NoName);
        }
        let path = format!("/api/v1/namespaces/{}", encoded(name));
        let call = Call { method: Method::GET, path: &path, accept: OBJECT, body: None };
        let read = async {
            // An error means that it was closed, which it never is.
            let _place = self.reads.acquire().await;
            client.json::<Object>(call).await
        };
        let read = match timeout(READ_WITHIN, read).await {
            Err(_) => return Err(Unknown::Slow),
            Ok(Err(error)) => return Err(Unknown::Api(error)),
            Ok(Ok(object)) => Self::read(object.metadata),
        };
        let namespace = Arc::clone(&read.1.namespace);
        self.put((read.0, Known { read: Some(Instant::now()), ..read.1 }));
        Ok(namespace)
    }
}

impl Unknown {
    /// True if there is no such namespace.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::NoName)
            || matches!(self, Self::Api(error) if error.status() == Some(StatusCode::NOT_FOUND))
    }
}

impl Mirror for Namespaces {
    type Item = (String, Known);
    const MOST: usize = MAX_NAMESPACES;

    fn read(metadata: ObjectMeta) -> Self::Item {
        let ObjectMeta { name, labels, annotations, .. } = metadata;
        let ours = |names: Option<std::collections::BTreeMap<String, String>>| {
            names.unwrap_or_default().into_iter().filter(|(name, _)| concerns_namespace(name)).collect()
        };
        let namespace =
            Namespace { name: Some(name.clone()), labels: ours(labels), annotations: ours(annotations) };
        (name, Known { namespace: Arc::new(namespace), read: None })
    }

    fn replace(&self, items: Vec<Self::Item>) {
        let mut state = self.state();
        state.known = items.into_iter().collect();
        state.is_listed = true;
    }

    fn put(&self, (name, known): Self::Item) {
        let mut state = self.state();
        if state.known.len() < MAX_NAMESPACES || state.known.contains_key(&name) {
            state.known.insert(name, known);
        }
    }

    fn remove(&self, metadata: &ObjectMeta) {
        self.state().known.remove(&metadata.name);
    }

    /// What is known stays in use: pods must start while watches do not.
    fn is_stale(&self, _: String) {}
}
