// SPDX-License-Identifier: Apache-2.0
//! `/healthz`, `/ready` and `/metrics`, by the bounded server that the agent has too.

use std::sync::{Arc, Mutex, PoisonError};

use culvert_serve::{Incoming, Pages, Reply, Request};
use tokio::sync::watch;

use super::admit::Injector;
use crate::system::status_port::page;

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
        let why_not = self.why_not();
        page(request, why_not.as_deref(), "", || {
            self.injector.metrics.ready.set(i64::from(why_not.is_none()));
            self.injector.metrics.text()
        })
    }

    fn why_not(&self) -> Option<String> {
        if *self.ending.borrow() {
            return Some("shutting down".to_owned());
        }
        self.readiness.why_not(self.injector.namespaces.is_listed())
    }
}
