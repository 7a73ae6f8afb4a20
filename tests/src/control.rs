//! A sidecar's side of the controller's stream, played by a test.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use culvert_control::frame::{Frames, framed};
use culvert_control::messages::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Destination, Document, Report, SignRequest, SignResponse,
};
use culvert_control::{DELTA, DESTINATION, DOCUMENT, SIGN, WILDCARD};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http2;
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::until::DEADLINE;

/// Status of gRPC: code and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status(pub u32, pub String);

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(code, message) = self;
        write!(f, "gRPC status {code}: {message}")
    }
}

impl std::error::Error for Status {}

/// A connection to a controller.
#[derive(Debug)]
pub struct Connection {
    runtime: Arc<Runtime>,
    sender: http2::SendRequest<Requests>,
}

/// Requests that are sent as a test makes them.
#[derive(Debug)]
pub struct Requests(mpsc::UnboundedReceiver<Bytes>);

impl Body for Requests {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

impl Connection {
    /// Connects as a sidecar does: by the authorities in PEM, and the controller's name.
    pub fn open(at: SocketAddr, bundle: &str, name: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Self::open_on(Arc::new(runtime), None, at, (bundle, name))
    }

    /// Another one like it, from an address of this machine: a controller takes so many of one address.
    pub fn another(&self, source: IpAddr, at: SocketAddr, trusts: (&str, &str)) -> Result<Self> {
        Self::open_on(Arc::clone(&self.runtime), Some(source), at, trusts)
    }

    fn open_on(
        runtime: Arc<Runtime>,
        source: Option<IpAddr>,
        at: SocketAddr,
        (bundle, name): (&str, &str),
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.map_err(|error| anyhow!("{error:?}"))?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(name.to_owned())?;
        let connect = async {
            let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(source) = source {
                socket.bind((source, 0).into())?;
            }
            let stream = socket.connect(at).await?;
            stream.set_nodelay(true)?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            let (sender, connection) =
                http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok::<_, anyhow::Error>(sender)
        };
        let sender = runtime.block_on(async { timeout(DEADLINE, connect).await })??;
        Ok(Self { runtime, sender })
    }

    fn call(&self, path: &str, token: Option<&str>) -> Result<(mpsc::UnboundedSender<Bytes>, Answer)> {
        let (pieces, queue) = mpsc::unbounded_channel();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://controller{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Requests(queue))?;
        let mut sender = self.sender.clone();
        let asked = async move { timeout(DEADLINE, sender.send_request(request)).await };
        let (parts, body) = self.runtime.block_on(asked)??.into_parts();
        if let Some(status) = status(&parts.headers) {
            return Err(status.into());
        }
        Ok((pieces, Answer { body, frames: Frames::default() }))
    }

    /// Starts a stream by a token.
    pub fn stream(&self, token: Option<&str>) -> Result<Stream<'_>> {
        let (requests, answer) = self.call(DELTA, token)?;
        Ok(Stream { runtime: &self.runtime, requests, answer })
    }

    /// Asks for a certificate.
    pub fn sign(&self, token: Option<&str>, csr: Vec<u8>) -> Result<SignResponse> {
        let (pieces, queue) = mpsc::unbounded_channel();
        pieces.send(framed(&SignRequest { csr }))?;
        drop(pieces);
        let mut request = Request::builder().method(Method::POST).uri(format!("https://controller{SIGN}"));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.header("content-type", "application/grpc").body(Requests(queue))?;
        let mut sender = self.sender.clone();
        let call = async move {
            let (parts, body) = timeout(DEADLINE, sender.send_request(request)).await??.into_parts();
            if let Some(status) = status(&parts.headers) {
                return Err(status.into());
            }
            let mut answer = Answer { body, frames: Frames::default() };
            answer.next(DEADLINE).await?.context("no answer in time")
        };
        self.runtime.block_on(call)
    }
}

fn status(headers: &HeaderMap) -> Option<Status> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
    Some(Status(code, message.to_owned()))
}

#[derive(Debug)]
struct Answer {
    body: Incoming,
    frames: Frames,
}

impl Answer {
    /// The next message; `None` if none comes in time. The end is an error with its status.
    async fn next<M: Message + Default>(&mut self, within: Duration) -> Result<Option<M>> {
        let next = async {
            loop {
                if let Some(message) = self.frames.take()? {
                    return Ok(message);
                }
                let frame = self.body.frame().await.context("the stream ends without a status")??;
                match frame.into_data() {
                    Ok(data) => self.frames.push(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().map_err(|_| anyhow!("an unknown frame"))?;
                        bail!(status(&trailers).context("no status")?);
                    }
                }
            }
        };
        timeout(within, next).await.ok().transpose()
    }
}

/// A stream.
#[derive(Debug)]
pub struct Stream<'a> {
    runtime: &'a Runtime,
    requests: mpsc::UnboundedSender<Bytes>,
    answer: Answer,
}

impl Stream<'_> {
    /// Sends a request.
    pub fn send(&self, request: &DeltaDiscoveryRequest) -> Result<()> {
        Ok(self.requests.send(framed(request))?)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&self, bytes: &[u8]) -> Result<()> {
        Ok(self.requests.send(Bytes::copy_from_slice(bytes))?)
    }

    /// Asks for the documents about the pod.
    pub fn ask_documents(&self) -> Result<()> {
        self.ask(DOCUMENT, &[WILDCARD])
    }

    /// Asks about destinations.
    pub fn ask_destinations(&self, at: &[&str]) -> Result<()> {
        self.ask(DESTINATION, at)
    }

    /// Reports connections, and asks for nothing.
    pub fn report(&self, report: Report) -> Result<()> {
        self.send(&DeltaDiscoveryRequest {
            type_url: DOCUMENT.to_owned(),
            report: Some(report),
            ..Default::default()
        })
    }

    fn ask(&self, kind: &str, names: &[&str]) -> Result<()> {
        self.send(&DeltaDiscoveryRequest {
            type_url: kind.to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        })
    }

    /// The next response; `None` if none comes in time. The end is an error with a [`Status`].
    pub fn next(&mut self, within: Duration) -> Result<Option<DeltaDiscoveryResponse>> {
        let Self { runtime, answer, .. } = self;
        runtime.block_on(answer.next(within))
    }

    /// The next response, which has to come.
    pub fn response(&mut self) -> Result<DeltaDiscoveryResponse> {
        self.next(DEADLINE)?.context("no response in time")
    }
}

/// Documents by their names.
pub type Documents = Vec<(String, Value)>;

/// Documents of a response about the pod.
pub fn documents(response: &DeltaDiscoveryResponse) -> Result<Documents> {
    ensure!(response.type_url == DOCUMENT, "{}", response.type_url);
    let read = |resource: &culvert_control::messages::Resource| {
        let any = resource.resource.as_ref().context("a resource without content")?;
        let Document { text } = Document::decode(&*any.value)?;
        Ok((resource.name.clone(), serde_json::from_str(&text)?))
    };
    response.resources.iter().map(read).collect()
}

/// Destinations of a response, by their names, with the documents of each.
pub fn destinations(response: &DeltaDiscoveryResponse) -> Result<Vec<(String, Documents)>> {
    ensure!(response.type_url == DESTINATION, "{}", response.type_url);
    let read = |resource: &culvert_control::messages::Resource| {
        let any = resource.resource.as_ref().context("a resource without content")?;
        let Destination { documents } = Destination::decode(&*any.value)?;
        let documents = documents.into_iter().map(|one| Ok((one.name, serde_json::from_str(&one.text)?)));
        Ok((resource.name.clone(), documents.collect::<Result<_>>()?))
    };
    response.resources.iter().map(read).collect()
}
