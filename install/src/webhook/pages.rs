// SPDX-License-Identifier: Apache-2.0
//! `/healthz`, `/ready` and `/metrics`, by the bounded server that the agent has too.

use std::sync::{Arc, Mutex, PoisonError};

use culvert_serve::metrics::metrics;
use culvert_serve::reply::{self, Reply};
use culvert_serve::{Incoming, Method, Pages, Request, StatusCode};
use tokio::sync::watch;

use super::admit::Injector;

/// The state that decides about readiness.
#[derive(Debug)]
pub(super) struct Readiness {
    /// Reason why API servers cannot call yet; None once they can. Written by the upkeep of certificates.
    upkeep: Mutex<Option<String>>,
    /// True once it was ready: an API server that is away must not take the replicas out of their Service, or it would find
    /// none when it is back.
    was_ready: Mutex<bool>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { upkeep: Mutex::new(Some("no certificate yet".to_owned())), was_ready: Mutex::new(false) }
    }
}

impl Readiness {
    pub(super) fn set(&self, why_not: Option<String>) {
        *self.upkeep.lock().unwrap_or_else(PoisonError::into_inner) = why_not;
    }

    /// The reason why it is not ready.
    fn why_not(&self, is_listed: bool) -> Option<String> {
        let mut was_ready = self.was_ready.lock().unwrap_or_else(PoisonError::into_inner);
        if *was_ready {
            return None;
        }
        if !is_listed {
            return Some("the cluster's namespaces are not listed yet".to_owned());
        }
        let why_not = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *was_ready = why_not.is_none();
        why_not
    }
}

/// The pages of the status port.
pub(super) struct Status {
    pub injector: Arc<Injector>,
    pub readiness: Arc<Readiness>,
    pub ending: watch::Receiver<bool>,
}

impl Pages for Status {
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
        std::future::ready(self.page(request))
    }
}

impl Status {
    fn page(&self, request: &Request<Incoming>) -> Reply {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return reply::wrong_method("GET, HEAD");
        }
        match request.uri().path() {
            "/healthz" => reply::text(StatusCode::OK, "alive"),
            "/ready" => match self.why_not() {
                None => reply::text(StatusCode::OK, "ready"),
                Some(reason) => reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}")),
            },
            "/metrics" => {
                self.injector.metrics.ready.set(i64::from(self.why_not().is_none()));
                metrics(request.headers(), self.injector.metrics.text())
            }
            _ => reply::not_found("/healthz, /ready, /metrics"),
        }
    }

    fn why_not(&self) -> Option<String> {
        if *self.ending.borrow() {
            return Some("shutting down".to_owned());
        }
        self.readiness.why_not(self.injector.namespaces.is_listed())
    }
}
