// SPDX-License-Identifier: Apache-2.0
//! An API server of Kubernetes in process: as much as a node's agent and the injector ask for, with every mishap that a test
//! wants.
//!
//! ```text
//! GET   /api/v1/pods?fieldSelector=spec.nodeName=N[&limit=…&continue=…]   pages, metadata only where that is asked for
//! GET   /api/v1/namespaces[?limit=…&continue=…], /api/v1/namespaces/NS    the same
//! GET   …&watch=1&resourceVersion=…                                      events from there on; 410 where that is forgotten
//! POST, PUT  /api/v1/namespaces/NS/secrets[/NAME]                        409 where there is one, or a newer one
//! PATCH /apis/admissionregistration.k8s.io/…                             JSON patches with their tests
//! POST  any path that the test has an answer for
//! POST  /api/v1/namespaces/NS/events                                     kept for the test
//! GET, PATCH /api/v1/nodes/N                                             JSON patches with their tests
//! GET   any other path                                                   what the test put there; a list by pages
//! ```
//! TLS with a CA of its own and a bearer token, both of which a test renews. It answers in Kubernetes' JSON.

mod answers;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

/// Versions begin here, so that none is mistaken for a count.
const FIRST_VERSION: u64 = 1000;

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
    /// The method: GET, POST or PATCH.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The header.
    pub accept: String,
}

/// An API server. Dropped, it ends.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    folder: TempDir,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the server.
pub(crate) struct State {
    version: u64,
    /// Versions before this one are forgotten.
    oldest: u64,
    token: String,
    tls: TlsAcceptor,
    pods: BTreeMap<(String, String), Value>,
    namespaces: BTreeMap<String, Value>,
    nodes: BTreeMap<String, Value>,
    /// By their paths.
    objects: BTreeMap<String, Value>,
    /// Each change, by its version.
    history: Vec<(u64, Value)>,
    /// With the kind that each watches.
    watchers: Vec<(&'static str, mpsc::UnboundedSender<Value>)>,
    /// Answers to POSTs, by their paths without a query.
    answers: BTreeMap<String, (u16, Value)>,
    /// The bodies of those POSTs.
    posted: Vec<Value>,
    events: Vec<Value>,
    asked: Vec<Asked>,
    faults: VecDeque<(&'static str, Fault)>,
    /// Refuses to listen at all.
    away: bool,
    /// The number of PATCHes before which another client writes the node.
    conflicts: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("version", &self.version)
            .field("pods", &self.pods)
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// A server behind `listener`, which may be in any network namespace.
    pub fn start(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let folder = tempfile::Builder::new().prefix("culvert-api-").tempdir()?;
        let (ca, tls) = identity(address)?;
        let state = State {
            version: FIRST_VERSION,
            oldest: FIRST_VERSION,
            token: "token-1".to_owned(),
            tls,
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            answers: BTreeMap::new(),
            posted: Vec::new(),
            nodes: BTreeMap::new(),
            objects: BTreeMap::new(),
            history: Vec::new(),
            watchers: Vec::new(),
            events: Vec::new(),
            asked: Vec::new(),
            faults: VecDeque::new(),
            away: false,
            conflicts: 0,
        };
        fs::write(folder.path().join("token"), &state.token)?;
        fs::write(folder.path().join("ca.crt"), ca)?;
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let (stop, stopped) = oneshot::channel();
        listener.set_nonblocking(true)?;
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new().name("api-server".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, serving) => {}
                }
            });
        })?;
        Ok(Self { address, folder, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// A server on the machine's own loopback.
    pub fn local() -> Result<Self> {
        Self::start(TcpListener::bind("127.0.0.1:0")?)
    }

    /// Returns the address that it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder with `token` and `ca.crt`, as a kubelet mounts it.
    pub fn service_account(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a pod there, or in place of one of that name.
    pub fn pod(&self, node: &str, namespace: &str, name: &str, uid: &str, annotations: &[(&str, &str)]) {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let mut state = self.shared.state();
        let metadata = json!({
            "namespace": namespace, "name": name, "uid": uid, "annotations": annotations,
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:metadata": {} } }],
        });
        let spec = json!({ "nodeName": node, "containers": [{ "name": "app", "image": "example.com/app" }] });
        let object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
        let key = (namespace.to_owned(), name.to_owned());
        let kind = if state.pods.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        let object = state.change(kind, "Pod", object);
        state.pods.insert(key, object);
    }

    /// Takes a pod away.
    pub fn delete_pod(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut state = self.shared.state();
        if let Some(object) = state.pods.get(&key).cloned() {
            state.change("DELETED", "Pod", object);
            state.pods.remove(&key);
        }
    }

    /// Puts a namespace there, or in place of one of that name.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) {
        let of = |pairs: &[(&str, &str)]| json!(pairs.iter().copied().collect::<BTreeMap<_, _>>());
        let mut labels = of(labels);
        labels["kubernetes.io/metadata.name"] = name.into();
        let metadata = json!({ "name": name, "uid": format!("uid-of-{name}"), "labels": labels, "annotations": of(annotations) });
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
        let mut state = self.shared.state();
        let kind = if state.namespaces.contains_key(name) { "MODIFIED" } else { "ADDED" };
        let object = state.change(kind, "Namespace", object);
        state.namespaces.insert(name.to_owned(), object);
    }

    /// The same, but no watch hears of it, as where it is slow.
    pub fn namespace_unseen(&self, name: &str, labels: &[(&str, &str)]) {
        let watchers = std::mem::take(&mut self.shared.state().watchers);
        self.namespace(name, labels, &[]);
        self.shared.state().watchers = watchers;
    }

    /// Takes a namespace away.
    pub fn delete_namespace(&self, name: &str) {
        let mut state = self.shared.state();
        if let Some(object) = state.namespaces.remove(name) {
            state.change("DELETED", "Namespace", object);
        }
    }

    /// Puts a node there, with these taints.
    pub fn node(&self, name: &str, taints: Value) {
        let mut state = self.shared.state();
        let version = state.next_version().to_string();
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "resourceVersion": version },
            "spec": { "podCIDR": "10.0.0.0/24", "taints": taints },
        });
        state.nodes.insert(name.to_owned(), object);
    }

    /// Puts an object, or a list with `items`, where a GET of `path` finds it; the query's selectors are the test's to look at.
    pub fn object(&self, path: &str, mut object: Value) {
        let mut state = self.shared.state();
        let version = state.next_version();
        if object["metadata"].is_object() {
            object["metadata"]["resourceVersion"] = version.to_string().into();
        }
        state.objects.insert(path.to_owned(), object);
    }

    /// The object at a path, as it is now.
    pub fn object_at(&self, path: &str) -> Option<Value> {
        self.shared.state().objects.get(path).cloned()
    }

    /// Takes an object away.
    pub fn delete_object(&self, path: &str) {
        self.shared.state().objects.remove(path);
    }

    /// Answers POSTs to a path so from now on.
    pub fn answer_posts(&self, path: &str, code: u16, answer: Value) {
        self.shared.state().answers.insert(path.to_owned(), (code, answer));
    }

    /// The bodies of the POSTs that were answered so.
    pub fn posted(&self) -> Vec<Value> {
        self.shared.state().posted.clone()
    }

    /// Returns the taints of a node.
    pub fn taints(&self, node: &str) -> Value {
        self.shared.state().nodes.get(node).map(|node| node["spec"]["taints"].clone()).unwrap_or_default()
    }

    /// Lets another client write the node just before so many of the next patches.
    pub fn conflicts(&self, times: usize) {
        self.shared.state().conflicts = times;
    }

    /// The events that were posted.
    pub fn events(&self) -> Vec<Value> {
        self.shared.state().events.clone()
    }

    /// The requests that came with a token that fits.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// Returns the number of open watches.
    pub fn watches(&self) -> usize {
        let mut state = self.shared.state();
        state.watchers.retain(|(_, watcher)| !watcher.is_closed());
        state.watchers.len()
    }

    /// The next request whose path and query contain `part` goes wrong so.
    pub fn fail_next(&self, part: &'static str, fault: Fault) {
        self.shared.state().faults.push_back((part, fault));
    }

    /// Returns true once all planned failures have happened.
    pub fn has_failed(&self) -> bool {
        self.shared.state().faults.is_empty()
    }

    /// Ends all watches, as a server that restarts.
    pub fn end_watches(&self) {
        self.shared.state().watchers.clear();
    }

    /// Says an error in each watch, as one whose version was compacted away meanwhile.
    pub fn expire_watches(&self) {
        let mut state = self.shared.state();
        state.forget();
        let gone = json!({ "type": "ERROR", "object": answers::status(410, "too old resource version") });
        for (_, watcher) in std::mem::take(&mut state.watchers) {
            let _ = watcher.send(gone.clone());
        }
    }

    /// Forgets all changes so far: a watch from before is answered 410.
    pub fn forget(&self) {
        self.shared.state().forget();
    }

    /// Takes no connection, or takes them again; those that are open end.
    pub fn away(&self, away: bool) {
        let mut state = self.shared.state();
        state.away = away;
        state.watchers.clear();
    }

    /// Takes only a new token from now on, and writes it to the folder if `and_tells`.
    pub fn rotate_token(&self, and_tells: bool) -> Result<()> {
        let mut state = self.shared.state();
        state.token = format!("{}-rotated", state.token);
        if and_tells {
            fs::write(self.folder.path().join("token"), &state.token)?;
        }
        Ok(())
    }

    /// The token that it takes, written to the folder.
    pub fn tell_token(&self) -> Result<()> {
        Ok(fs::write(self.folder.path().join("token"), &self.shared.state().token)?)
    }

    /// Has a certificate of another CA from now on; returns the CA, which is not written to the folder.
    pub fn rotate_ca(&self) -> Result<String> {
        let (ca, tls) = identity(self.address)?;
        self.shared.state().tls = tls;
        Ok(ca)
    }

    /// Writes a CA to the folder.
    pub fn tell_ca(&self, ca: &str) -> Result<()> {
        Ok(fs::write(self.folder.path().join("ca.crt"), ca)?)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl State {
    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Tells all watches of this kind of a change; returns the object with its new version.
    fn change(&mut self, change: &str, kind: &'static str, mut object: Value) -> Value {
        let version = self.next_version();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let event = json!({ "type": change, "object": object });
        self.history.push((version, event.clone()));
        self.watchers.retain(|(of, watcher)| *of != kind || watcher.send(event.clone()).is_ok());
        object
    }

    fn forget(&mut self) {
        self.history.clear();
        let version = self.next_version();
        self.oldest = version;
    }
}

/// A CA, and a server's certificate by it for this address.
fn identity(address: SocketAddr) -> Result<(String, TlsAcceptor)> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![SanType::IpAddress(address.ip())];
    let certificate = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| anyhow!(error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("the server's own certificate")?;
    Ok((ca_certificate.pem(), TlsAcceptor::from(Arc::new(config))))
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if shared.state().away {
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let tls = shared.state().tls.clone();
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answers::answer(request, Arc::clone(&shared)));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
