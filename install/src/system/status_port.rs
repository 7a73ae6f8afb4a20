// SPDX-License-Identifier: Apache-2.0
//! `/healthz`, `/ready` and `/metrics` of a program behind a Service.

use culvert_serve::metrics::metrics;
use culvert_serve::reply::{self, Reply};
use culvert_serve::{Incoming, Method, Request, StatusCode};

/// Answers a request. `why_not` is the reason why it is not ready, `more` other pages, `text` makes the metrics.
pub(crate) fn page(
    request: &Request<Incoming>,
    why_not: Option<&str>,
    more: &str,
    text: impl FnOnce() -> String,
) -> Reply {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return reply::wrong_method("GET, HEAD");
    }
    match request.uri().path() {
        "/healthz" => reply::text(StatusCode::OK, "alive"),
        "/ready" => match why_not {
            None => reply::text(StatusCode::OK, "ready"),
            Some(reason) => reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}")),
        },
        "/metrics" => metrics(request.headers(), text()),
        _ => reply::not_found(&format!("/healthz, /ready, /metrics{more}")),
    }
}
