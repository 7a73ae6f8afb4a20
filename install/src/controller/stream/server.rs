// SPDX-License-Identifier: Apache-2.0
//! The port of streams, with bounds on everything that a peer controls: any pod can reach it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_control::frame::{FrameError, Frames, framed};
use culvert_control::messages::{SignRequest, SignResponse};
use culvert_control::{DELTA, SIGN};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::grpc::{self, Messages, Status};
use super::reviewed::{self, Refused};
use super::stream;
use crate::controller::authority;
use crate::controller::metrics::Outcome;
use crate::controller::peers::Shares;
use crate::controller::shared::Shared;

/// Connections at a time: one for each sidecar, and some that are being renewed.
const MAX_CONNECTIONS: usize = 20_000;
/// Connections of one address: all pods of a node may have one, where their own are translated.
const CONNECTIONS_OF_PEER: usize = 512;
/// Time for TLS: after a restart thousands of sidecars come at once.
const TLS_WITHIN: Duration = Duration::from_secs(15);
/// Time for the body of a call that is no stream.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Largest body of such a call, in bytes: a certificate signing request.
const MAX_BODY: usize = 8 << 10;
/// Interval of pings, and the wait for their answers: a peer that is gone ends no connection itself.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Bytes that HTTP/2 holds of a stream's requests until they are read.
const WINDOW: u32 = 64 << 10;
/// Calls of a connection at a time: the stream, a signature, and another one while it is renewed.
const MAX_CALLS: u32 = 8;

/// Gives each handshake the certificate of the moment.
#[derive(Debug)]
struct Served(watch::Receiver<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }
}

/// TLS settings of the port.
pub(crate) fn tls(shared: &Shared) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Served(shared.served.subscribe())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Serves streams for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, shared: Arc<Shared>) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = Shares::new(CONNECTIONS_OF_PEER);
    culvert_serve::accept(listener, MAX_CONNECTIONS, |stream, peer| {
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        let share = connections.take(peer);
        async move {
            // Dropped, the stream is closed.
            let Some(_share) = share else { return };
            if let Ok(Ok(stream)) = timeout(TLS_WITHIN, handshake(acceptor, stream)).await {
                connection(TokioIo::new(stream), peer, shared).await;
            }
        }
    })
    .await;
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}

/// Answers the calls of a connection. Errors are the peer's: it went away, or does not speak HTTP/2.
async fn connection(
    stream: TokioIo<tokio_rustls::server::TlsStream<TcpStream>>,
    peer: IpAddr,
    shared: Arc<Shared>,
) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, peer, shared).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(16 << 10)
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    if let Err(error) = builder.serve_connection(stream, service).await {
        tracing::debug!(%peer, %error, "a sidecar's connection ended");
    }
}

async fn answer(request: Request<Incoming>, peer: IpAddr, shared: Arc<Shared>) -> Response<Messages> {
    if request.method() != Method::POST || ![DELTA, SIGN].contains(&request.uri().path()) {
        let words = format!("no method {}", request.uri().path().chars().take(100).collect::<String>());
        return grpc::only(&Status::new(12, words));
    }
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        bearer.and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")));
    let reviewed = match shared.reviews_of_peer.take(peer) {
        Some(_share) => reviewed::review(&shared.client, &shared.reviews, token).await,
        None => Err(Refused::Busy),
    };
    let checked = reviewed.and_then(|caller| {
        let world = shared.world();
        let pod = reviewed::living(&world, &caller)?;
        let sidecar = pod.sidecar.clone().unwrap_or_default();
        Ok((caller, sidecar))
    });
    let (caller, sidecar) = match checked {
        Ok(checked) => checked,
        Err(refused) => return turned_away(&refused, peer, &shared),
    };
    match request.uri().path() {
        DELTA => stream::start(request.into_body(), caller, &sidecar, shared),
        _ => match sign(request.into_body(), &caller, &shared).await {
            Ok(signed) => grpc::whole(framed(&signed)),
            Err(status) => {
                shared.metrics.signatures(Outcome::Refused);
                grpc::only(&status)
            }
        },
    }
}

fn turned_away(refused: &Refused, peer: IpAddr, shared: &Shared) -> Response<Messages> {
    // No louder: any pod may call, as often as it likes. The counter says that there is something to look at.
    tracing::debug!(%peer, "a call is refused: {refused}");
    shared.metrics.refused(refused.why());
    grpc::only(&Status::new(refused.code(), refused))
}

async fn sign(body: Incoming, caller: &reviewed::Caller, shared: &Shared) -> Result<SignResponse, Status> {
    // Each is work, and a line of the log.
    if !shared.signatures.spend(caller.pod.clone()) {
        return Err(Status::new(8, "the pod asks for certificates too often: try again in a minute"));
    }
    let SignRequest { csr } = one(body).await?;
    let id = shared.identities().id(caller.pod.namespace(), &caller.account);
    let now = SystemTime::now();
    let signed = {
        let kept = shared.authority();
        let kept = kept.as_ref().ok_or_else(|| Status::new(14, "there is no authority yet"))?;
        authority::sign(kept, &csr, &id, (now, shared.identity_life()))
    };
    let signed = signed.map_err(|error| Status::new(3, error))?;
    shared.metrics.signatures(Outcome::Signed);
    let not_after = signed.end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    tracing::info!(
        target: "audit", pod = %caller.pod, pod_uid = caller.uid, identity = id, serial = signed.serial, not_after,
        "a certificate was signed"
    );
    Ok(SignResponse {
        chain: vec![signed.certificate],
        roots: signed.roots,
        not_after: i64::try_from(not_after).unwrap_or(i64::MAX),
    })
}

/// Reads the only message of a call.
async fn one<M: prost::Message + Default>(body: Incoming) -> Result<M, Status> {
    let read = async {
        let (mut frames, mut length, mut body) = (Frames::default(), 0, body);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Status::new(1, "the call broke off"))?.into_data() else {
                continue;
            };
            length += data.len();
            if length > MAX_BODY {
                return Err(Status::new(8, format!("the call has more than {MAX_BODY} bytes")));
            }
            frames.push(&data);
        }
        let message = frames.take().map_err(|error: FrameError| Status::new(3, error))?;
        message.ok_or_else(|| Status::new(3, "the call has no whole message"))
    };
    let late = |_| Status::new(4, format!("the call did not come within {} s", BODY_WITHIN.as_secs()));
    timeout(BODY_WITHIN, read).await.map_err(late)?
}
