// SPDX-License-Identifier: Apache-2.0
//! `/metrics`, `/ready` and `/live` by HTTP/1.1, with every size, time and number bounded: any pod can reach the port.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::context::Context;

/// Connections at a time. One more closes the oldest, so that a client that keeps connections open cannot keep the kubelet out.
const MAX_CONNECTIONS: usize = 32;
/// Deadline for the head of a request, and for the next request of a kept connection.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// The longest life of a connection.
const MAX_AGE: Duration = Duration::from_secs(600);
/// The largest head in bytes; hyper takes no smaller limit.
const MAX_HEAD: usize = 8 * 1024;
/// Length of the accept queue.
const BACKLOG: i32 = 128;
/// Pause after an accept that failed, mostly for want of file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(200);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Listens at `address`. On a machine without IPv6, `[::]` is every address of IPv4.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = bind_to(address).or_else(|error| {
        let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        if address.is_ipv6() && address.ip().is_unspecified() { bind_to(ipv4) } else { Err(error) }
    })?;
    TcpListener::from_std(bound.into())
}

fn bind_to(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Serves for as long as the agent runs.
pub(crate) async fn serve(listener: TcpListener, context: Context) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a status connection");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let context = context.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(request.method(), request.uri().path(), &context);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let task = tokio::spawn(async move {
            // Errors are the peer's: it went away, or does not speak HTTP.
            let _ = tokio::time::timeout(MAX_AGE, connection).await;
        });
        open.push_back(task.abort_handle());
    }
}

fn answer(method: &Method, path: &str, context: &Context) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/live" => page(StatusCode::OK, TEXT, "live\n"),
        "/ready" => {
            let readiness = context.readiness();
            let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            page(status, TEXT, format!("{readiness}\n"))
        }
        "/metrics" => page(StatusCode::OK, OPENMETRICS, context.metrics.text()),
        _ => page(StatusCode::NOT_FOUND, TEXT, "there is no such page; there is /metrics, /ready, /live\n"),
    }
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
