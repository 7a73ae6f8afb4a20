// SPDX-License-Identifier: Apache-2.0
//! An API server of Kubernetes in process: a store of objects by Kubernetes' rules, with every mishap that a test wants.
//!
//! ```text
//! GET    COLLECTION[?labelSelector=…&fieldSelector=…&limit=…&continue=…]   pages; metadata only where that is asked for
//! GET    …&watch=1&resourceVersion=…[&allowWatchBookmarks=1]              events from there on; 410 where that is forgotten;
//!          [&timeoutSeconds=…&sendInitialEvents=1]                        all objects first without a version, or with 0
//! GET    OBJECT
//! POST   COLLECTION                  201; 409 AlreadyExists, 404 without its namespace; generateName
//! PUT    OBJECT[/status]             409 Conflict for an old version, or another uid
//! PATCH  OBJECT[/status]             JSON, merge, and strategic (as merge) patches; server-side apply with its managers:
//!                                    409 for a field of another, 201 where there was none
//! DELETE OBJECT                      preconditions; finalizers hold it
//!          …?dryRun=All              of each write: answered, but not done
//! POST   any path that the test has an answer for
//! POST   /apis/authentication.k8s.io/v1/tokenreviews                      by register_token(), as long as the pod lives
//! GET    /version, /api[/v1], /apis[/GROUP[/VERSION]]                     what is served; 404 for a group without kinds
//! GET    any other path                                                   what the test put there; a list by pages
//!
//! COLLECTION  /api/v1/[namespaces/NS/]PLURAL, /apis/GROUP/VERSION/[namespaces/NS/]PLURAL; an OBJECT has /NAME behind it
//! ```
//! It serves Kubernetes' own kinds that a mesh meets, those of each CustomResourceDefinition that is there (which becomes
//! Established at once), and those of `serve()`. Answers to PodCertificateRequests and ClusterTrustBundles keep Kubernetes' rules. All
//! other defaults, validation, admission, garbage collection and rights are
//! Kubernetes' own business and are not here; pods have no grace period.
//!
//! **Versions**: one count for all objects. A write that changes nothing makes none. Pages after the first show objects as
//! they are now, under the first page's version, so that a watch from there brings what they missed.
//! **Status** belongs to `/status` where the kind has one; `generation` counts the other changes.
//! **Watches** get one line for each change of what they select: an object that comes to a selector is ADDED, one that
//! leaves it DELETED. A change costs one line of JSON and a send for each watch of its collection. Bookmarks come at the
//! start, by `bookmark()`, and at the end of `timeoutSeconds`.
//! **Managers**: a write by the test is `test`'s, others' are of `fieldManager` or the user agent. Lists have keys as
//! the definition's schema says, or as a few names of Kubernetes' own kinds do; all other lists are one field.
//!
//! TLS with a CA of its own and a bearer token, both of which a test renews. HTTP/1.1. It answers in Kubernetes' JSON.

mod answers;
mod controls;
mod discovery;
mod encode;
mod kinds;
mod listen;
mod path;
mod read;
mod reply;
mod select;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod write;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::Result;
use tempfile::TempDir;
use tokio::sync::oneshot;

use state::Shared;
pub use state::{Asked, Fault};
pub use tokens::TokenOf;

/// An API server. Dropped, it ends.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    folder: TempDir,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// A server behind `listener`, which may be in any network namespace.
    pub fn start(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let folder = tempfile::Builder::new().prefix("culvert-api-").tempdir()?;
        let (ca, tls) = listen::identity(address)?;
        let token = "token-1".to_owned();
        fs::write(folder.path().join("token"), &token)?;
        fs::write(folder.path().join("ca.crt"), ca)?;
        let shared = Arc::new(Shared::new(token, tls));
        let (stop, stopped) = oneshot::channel();
        listener.set_nonblocking(true)?;
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new().name("api-server".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = listen::serve(listener, serving) => {}
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
        let (ca, tls) = listen::identity(self.address)?;
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
