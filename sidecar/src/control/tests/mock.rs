//! A controller of the tests: TLS by an authority of its own on loopback, and a script of what it says.

use bytes::Bytes;
use culvert_control::frame::{Frames, framed};
use culvert_control::messages::DeltaDiscoveryRequest;
use h2::SendStream;
use h2::server::SendResponse;
use hyper::{Request, Response};
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair,
    SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Time for each step of a test.
pub(super) const SOON: Duration = Duration::from_secs(20);

pub(super) async fn soon<T>(step: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, work).await {
        Ok(done) => done,
        Err(_) => panic!("{step} did not happen within {SOON:?}"),
    }
}

/// An authority for the names of servers.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs a request for an identity that lives so long, and returns certificate and authority.
    pub(super) fn sign(&self, csr: &[u8], uri: &str, life: Duration) -> [Vec<u8>; 2] {
        let request = CertificateSigningRequestParams::from_der(&csr.into());
        let mut request = request.expect("the request is signed by its key");
        request.params = CertificateParams::default();
        let (now, uri) = (std::time::SystemTime::now(), uri.try_into().unwrap());
        request.params.subject_alt_names = vec![SanType::URI(uri)];
        request.params.not_before = (now - Duration::from_secs(60)).into();
        request.params.not_after = (now + life).into();
        let signed = request.signed_by(&self.0).unwrap();
        [signed.der().to_vec(), self.0.der().to_vec()]
    }

    fn server(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A server that accepts what the script takes.
pub(super) struct Mock {
    listener: TcpListener,
    tls: TlsAcceptor,
}

/// One stream, on the server's side.
pub(super) struct Stream {
    pub(super) head: Request<()>,
    body: h2::RecvStream,
    frames: Frames,
    answers: SendStream<Bytes>,
    driver: tokio::task::JoinHandle<()>,
}

impl Mock {
    pub(super) fn new(authority: &Authority, name: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener: TcpListener::from_std(listener).unwrap(), tls: authority.server(name) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(super) async fn accept(&self) -> TcpStream {
        soon("a connection", self.listener.accept()).await.unwrap().0
    }

    /// Shakes hands, and returns the reason if the client ends that.
    pub(super) async fn shake(&self) -> std::io::Result<()> {
        let tcp = self.accept().await;
        let mut tls = soon("a handshake", self.tls.accept(tcp)).await?;
        // In TLS 1.3 the client says no after the server's part is done.
        let mut byte = [0];
        let read = soon("a byte", tokio::io::AsyncReadExt::read(&mut tls, &mut byte)).await?;
        assert_eq!(read, 0, "an unverified server was told something");
        Ok(())
    }

    /// Takes the next stream and answers that it is open.
    pub(super) async fn stream(&self) -> Stream {
        self.stream_with(&[("culvert-names", "512")]).await
    }

    /// Takes the next stream and answers with these headers that it is open.
    pub(super) async fn stream_with(&self, headers: &[(&str, &str)]) -> Stream {
        let (request, mut respond, driver) = self.call().await;
        let (head, body) = request.into_parts();
        let mut answer = Response::builder().header("content-type", "application/grpc");
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        let answer = answer.body(()).unwrap();
        let answers = respond.send_response(answer, false).unwrap();
        let head = Request::from_parts(head, ());
        Stream { head, body, frames: Frames::default(), answers, driver }
    }

    /// Takes the next call.
    pub(super) async fn call(
        &self,
    ) -> (Request<h2::RecvStream>, SendResponse<Bytes>, tokio::task::JoinHandle<()>) {
        let tcp = self.accept().await;
        let tls = soon("a handshake", self.tls.accept(tcp)).await.unwrap();
        let mut connection = soon("HTTP/2", h2::server::handshake(tls)).await.unwrap();
        let (request, respond) = soon("a call", connection.accept()).await.unwrap().unwrap();
        let driver = tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
        (request, respond, driver)
    }
}

impl Stream {
    pub(super) async fn request(&mut self) -> DeltaDiscoveryRequest {
        loop {
            if let Some(request) = self.frames.take().unwrap() {
                return request;
            }
            let piece = soon("a request", self.body.data()).await.expect("the client goes on").unwrap();
            self.body.flow_control().release_capacity(piece.len()).unwrap();
            self.frames.push(&piece);
        }
    }

    pub(super) fn say(&mut self, message: &impl Message) {
        self.raw(framed(message));
    }

    pub(super) fn raw(&mut self, bytes: Bytes) {
        self.answers.send_data(bytes, false).unwrap();
    }

    /// Ends with a status.
    pub(super) fn end(mut self, code: &'static str, words: &'static str) {
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", code.parse().unwrap());
        trailers.insert("grpc-message", words.parse().unwrap());
        self.answers.send_trailers(trailers).unwrap();
    }

    /// Cuts the connection.
    pub(super) fn cut(self) {
        self.driver.abort();
    }
}
