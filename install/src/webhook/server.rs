// SPDX-License-Identifier: Apache-2.0
//! The TLS port that API servers call, with bounds on everything that a peer controls: any pod can reach it.
//!
//! ```text
//! accept ─▶ TLS ─▶ HTTP/2 or HTTP/1.1 ─▶ POST /inject, JSON ─▶ whole body ─▶ admit
//! ```
//! API servers speak HTTP/2 where it is offered: one connection for all reviews.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_serve::reply::{Reply, not_found, of_type, text, wrong_method};
use culvert_serve::{Incoming, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::admit::Injector;
use super::metrics::Rejected;
use super::places::{Busy, Place, Places};

/// Path of the reviews. The API server adds a query, `timeout`.
const PATH: &str = "/inject";
/// Connections at a time. An API server has one by HTTP/2, and at most as many as reviews by HTTP/1.1.
const MAX_CONNECTIONS: usize = 512;
/// Largest body, in bytes: an object is at most 1.5 MiB in etcd and 3 MiB in a request, and a review wraps it.
const MAX_BODY: usize = 4 << 20;
/// A body of at most this many bytes, far more than a pod has, takes one place of [`PLACES`]; from there on it takes
/// [`LARGE_PLACES`] more.
const SMALL_BODY: usize = 64 << 10;
/// Bodies and answers that are held at a time, so that no peer fills the memory: 32 MiB.
const PLACES: usize = 512;
const LARGE_PLACES: u32 = (MAX_BODY / SMALL_BODY) as u32;
/// Time for TLS, as for other connections of a cluster.
const TLS_WITHIN: Duration = Duration::from_secs(5);
/// Time for a body; an API server waits 5 s for the answer.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// Time for a head, and between two requests: longer than the 90 s after which Go closes an idle connection itself, so that no
/// request meets our end.
const HEAD_WITHIN: Duration = Duration::from_secs(120);
/// Age at which a connection is asked to end, so that API servers find all replicas.
const AGE: Duration = Duration::from_secs(600);
/// Time for the requests of a connection that is asked to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Interval of pings, and the wait for their answers: a peer that is gone ends no connection itself.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Bytes that HTTP/2 holds for a stream and for a connection until they are read. A connection's is that of 200 reviews at
/// once: with less of it peers would cut bodies into bits, of which h2 takes only so many.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Requests of a connection at a time; Go's own number.
const MAX_STREAMS: u32 = 250;

/// What all connections share.
#[derive(Debug)]
struct Shared {
    injector: Arc<Injector>,
    places: Arc<Places>,
}

/// Serves until `stop` is true and the last connection has ended.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    injector: Arc<Injector>,
    stop: watch::Receiver<bool>,
) {
    let shared = Arc::new(Shared { injector, places: Places::new(PLACES) });
    let acceptor = TlsAcceptor::from(tls);
    // Each connection holds a sender; the receiver hears of the last one's end.
    let (open, mut closed) = mpsc::channel::<Infallible>(1);
    let accept = culvert_serve::accept(listener, MAX_CONNECTIONS, |stream, peer| {
        let (acceptor, shared, open) = (acceptor.clone(), Arc::clone(&shared), open.clone());
        let stop = stop.clone();
        async move {
            let _open = open;
            if let Ok(Ok(stream)) = timeout(TLS_WITHIN, handshake(acceptor, stream)).await {
                connection((stream, peer), shared, stop).await;
            }
        }
    });
    let mut stopped = stop.clone();
    tokio::select! {
        () = accept => {}
        // An error means that the sender is gone, and with it the program.
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    drop(open);
    let _ = closed.recv().await;
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}

/// Answers the requests of a connection. Errors are the peer's: it went away, or does not speak HTTP.
async fn connection(
    (stream, peer): (TlsStream<TcpStream>, IpAddr),
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let cut = Arc::<Notify>::default();
    let from = (peer, Arc::clone(&cut));
    let service = service_fn(move |request| {
        let (shared, from) = (Arc::clone(&shared), from.clone());
        async move { Ok::<_, Infallible>(answer(request, &shared, &from).await) }
    });
    let stream = TokioIo::new(stream);
    let ends = async move {
        tokio::select! {
            () = sleep(AGE) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    };
    // Both kinds have the same calls and no common trait.
    macro_rules! run {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                // It keeps others waiting for a place.
                () = cut.notified() => return,
                () = ends => connection.as_mut().graceful_shutdown(),
            }
            tokio::select! {
                _ = timeout(ENDS_WITHIN, connection) => {}
                () = cut.notified() => {}
            }
        }};
    }
    if is_h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(16 << 10)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY);
        run!(builder.serve_connection(stream, service));
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(64 << 10);
        run!(builder.serve_connection(stream, service));
    }
}

/// An answer, which has the places of its body until it is sent.
struct Sent {
    text: Vec<u8>,
    _place: Place,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// Reasons why a body is not read.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the body is larger than {MAX_BODY} bytes")]
    TooLarge,
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error("the body broke off")]
    Broken,
    #[error("the body did not come within {} s", BODY_WITHIN.as_secs())]
    Slow,
}

impl BodyError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    const fn metric(&self) -> Rejected {
        match self {
            Self::TooLarge => Rejected::TooLarge,
            Self::Busy(_) => Rejected::Busy,
            Self::Broken | Self::Slow => Rejected::Slow,
        }
    }
}

/// Reads a whole body.
async fn whole(mut body: Incoming, place: &mut Place) -> Result<Vec<u8>, BodyError> {
    let mut is_large = false;
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if said > MAX_BODY {
        return Err(BodyError::TooLarge);
    }
    let mut bytes = Vec::with_capacity(said.min(SMALL_BODY));
    while let Some(frame) = body.frame().await {
        // Trailers carry nothing here.
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if bytes.len() + data.len() > MAX_BODY {
            return Err(BodyError::TooLarge);
        }
        if bytes.len() + data.len() > SMALL_BODY && !is_large {
            place.more(LARGE_PLACES).await?;
            is_large = true;
        }
        bytes.extend_from_slice(&data);
    }
    place.is_with_us();
    Ok(bytes)
}

async fn answer(
    request: Request<Incoming>,
    Shared { injector, places }: &Shared,
    (peer, cut): &(IpAddr, Arc<Notify>),
) -> Reply {
    let metrics = &injector.metrics;
    let refused = |why, reply| {
        metrics.reject(why);
        reply
    };
    if request.uri().path() != PATH {
        return refused(Rejected::Request, not_found(PATH));
    }
    if request.method() != Method::POST {
        return refused(Rejected::Request, wrong_method("POST"));
    }
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let words = format!(
            "the body must be application/json, not {:?}",
            kind.chars().take(100).collect::<String>()
        );
        return refused(Rejected::Request, text(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
    }
    let read = async {
        let mut place = places.take(*peer, cut).await?;
        let body = whole(request.into_body(), &mut place).await?;
        Ok((body, place))
    };
    let (body, place) = match timeout(BODY_WITHIN, read).await.unwrap_or(Err(BodyError::Slow)) {
        Ok(read) => read,
        Err(error) => return refused(error.metric(), text(error.status(), error.to_string())),
    };
    match injector.admit(&body).await {
        Ok(answer) => {
            place.is_with_peer();
            let sent = Sent { text: answer, _place: place };
            of_type(StatusCode::OK, "application/json", Bytes::from_owner(sent))
        }
        Err(malformed) => {
            // No louder: any pod may send it, as often as it likes.
            tracing::debug!("a request is no review: {malformed}");
            refused(Rejected::Malformed, text(StatusCode::BAD_REQUEST, malformed.to_string()))
        }
    }
}
