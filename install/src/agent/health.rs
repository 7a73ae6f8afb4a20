// SPDX-License-Identifier: Apache-2.0
//! `/metrics`, `/ready` and `/live`, by the bounded server that the sidecar has too: any pod can reach the port.

use std::io;
use std::net::SocketAddr;

use culvert_serve::metrics::metrics;
use culvert_serve::reply::{self, Reply};
use culvert_serve::{HeaderMap, Incoming, Method, Pages, Request, StatusCode};
use tokio::net::TcpListener;

use super::context::Context;

/// Connections at a time: the kubelet and a scraper, and some peers besides.
const MAX_CONNECTIONS: usize = 32;

/// Listens at `address`. On a machine without IPv6, `[::]` is every address of IPv4.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(culvert_serve::bind(address).map_err(|error| error.source)?)
}

/// Serves for as long as the agent runs.
pub(crate) async fn serve(listener: TcpListener, context: Context) {
    culvert_serve::serve(listener, MAX_CONNECTIONS, Health(context)).await;
}

struct Health(Context);

impl Pages for Health {
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
        std::future::ready(answer(request.method(), request.uri().path(), request.headers(), &self.0))
    }
}

fn answer(method: &Method, path: &str, headers: &HeaderMap, context: &Context) -> Reply {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return reply::wrong_method("GET, HEAD");
    }
    match path {
        "/live" => reply::text(StatusCode::OK, "live"),
        "/ready" => {
            let readiness = context.readiness();
            let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            reply::text(status, readiness.to_string())
        }
        "/metrics" => metrics(headers, context.metrics.text()),
        _ => reply::not_found("/metrics, /ready, /live"),
    }
}
