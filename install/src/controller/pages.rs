// SPDX-License-Identifier: Apache-2.0
//! `/healthz`, `/ready` and `/metrics`, by the bounded server that agent and injector have too.

use std::sync::Arc;

use culvert_serve::metrics::metrics;
use culvert_serve::reply::{self, Reply};
use culvert_serve::{Incoming, Method, Pages, Request, StatusCode};
use tokio::sync::watch;

use super::shared::Shared;

/// The pages of the status port.
pub(crate) struct Status {
    pub shared: Arc<Shared>,
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
                self.shared.metrics.ready.set(i64::from(self.why_not().is_none()));
                metrics(request.headers(), self.shared.metrics.text())
            }
            _ => reply::not_found("/healthz, /ready, /metrics"),
        }
    }

    /// The reason why sidecars should go to another replica.
    fn why_not(&self) -> Option<&'static str> {
        if *self.ending.borrow() {
            return Some("shutting down");
        }
        if !*self.shared.listed.borrow() {
            return Some("the cluster is not listed yet");
        }
        self.shared.served.borrow().is_none().then_some("there is no authority yet")
    }
}
