// SPDX-License-Identifier: Apache-2.0
//! `/healthz`, `/ready` and `/metrics`, by the bounded server that agent and injector have too.

use std::sync::Arc;

use culvert_serve::{Incoming, Pages, Reply, Request};
use tokio::sync::watch;

use super::shared::Shared;
use crate::system::status_port::page;

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
        let why_not = self.why_not();
        page(request, why_not, || {
            self.shared.metrics.ready.set(i64::from(why_not.is_none()));
            self.shared.metrics.text()
        })
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
