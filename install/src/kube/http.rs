// SPDX-License-Identifier: Apache-2.0
//! One call of the API server: one connection, the token, an answer with a deadline and a bound.
//!
//! Token and CA are read for each call, so a rotated token or a renewed CA needs no notice. TLS settings are rebuilt
//! only when the CA's bytes change.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::system::read::read_bounded;

/// Deadline from the first packet to an established TLS connection.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// Deadline from the request to the head of the answer, and again for its body.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Largest answer that is read whole, in bytes: a page of 50 pods' metadata is some 200 KiB, a node with its list of
/// images is below 1 MiB.
pub const MAX_BODY: usize = 8 << 20;
/// Bytes that are read of an answer that reports an error.
const MAX_ERROR: usize = 16 << 10;
/// The largest token, and the largest file of CA certificates, in bytes.
const MAX_CREDENTIAL: u64 = 256 << 10;

/// Folder of a service account's files in a container.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Reasons why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Token or CA cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Credentials {
        /// The file that was read.
        path: PathBuf,
        /// Error of the file system.
        source: io::Error,
    },
    /// The connection or its TLS failed.
    #[error("cannot reach the API server at {server}: {source}")]
    Connect {
        /// Host and port of the API server.
        server: String,
        /// Error of the socket or of TLS, such as a certificate that does not fit.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the API server broke: {0}")]
    Broken(hyper::Error),
    /// The deadline passed.
    #[error("the API server does not answer in time")]
    TimedOut,
    /// The API server refused the call.
    #[error("the API server answers {code}: {message}")]
    Status {
        /// HTTP status of the answer.
        code: StatusCode,
        /// Message of the answer, on one line.
        message: String,
        /// `Retry-After`, if the answer has it.
        retry_after: Option<Duration>,
    },
    /// The answer is longer than this many bytes.
    #[error("the API server's answer is longer than {0} bytes")]
    TooLong(usize),
    /// The answer cannot be read.
    #[error("the API server's answer cannot be read: {0}")]
    Garbled(String),
}

impl ApiError {
    /// Returns the server's `Retry-After`, if there is one.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns the HTTP status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Address of the API server and the credentials of this process.
#[derive(Debug)]
pub struct Client {
    host: String,
    port: u16,
    folder: PathBuf,
    tls: Mutex<Option<Trust>>,
}

/// TLS settings and the CA they were made from.
#[derive(Debug)]
struct Trust {
    ca: String,
    config: Arc<ClientConfig>,
}

/// An answer whose body is still to be read; dropping it closes the connection.
#[derive(Debug)]
pub struct ApiResponse {
    response: Response<Incoming>,
    _connection: Connection,
}

#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request to the API server.
#[derive(Debug)]
pub struct Call<'a> {
    /// GET, POST or PATCH.
    pub method: Method,
    /// Path with its query.
    pub path: &'a str,
    /// Value of `Accept`; always a JSON type.
    pub accept: &'static str,
    /// Content type and bytes of the body.
    pub body: Option<(&'static str, Vec<u8>)>,
}

impl<'a> Call<'a> {
    /// A GET of plain JSON.
    pub const fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, accept: "application/json", body: None }
    }
}

impl Client {
    /// Client for the cluster that this process runs in, from the variables that Kubernetes sets in each container.
    /// None if they are missing.
    pub fn in_cluster(folder: &Path, environment: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let host = environment("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty())?;
        let port = environment("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok()).unwrap_or(443);
        Some(Self::new(&host, port, folder))
    }

    /// Client for the server at `host` and `port` with the token and the CA in `folder`. Files are read at each call.
    pub fn new(host: &str, port: u16, folder: &Path) -> Self {
        // In a URL an IPv6 address has brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Self { host, port, folder: folder.to_owned(), tls: Mutex::new(None) }
    }

    /// Host and port of the API server.
    pub fn server(&self) -> String {
        match self.host.parse() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    fn credential(&self, name: &str) -> Result<String, ApiError> {
        let path = self.folder.join(name);
        read_bounded(&path, MAX_CREDENTIAL).map_err(|source| ApiError::Credentials { path, source })
    }

    /// TLS settings for the current CA.
    fn trust(&self) -> Result<Arc<ClientConfig>, ApiError> {
        let ca = self.credential("ca.crt")?;
        let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trust) = tls.as_ref().filter(|trust| trust.ca == ca) {
            return Ok(Arc::clone(&trust.config));
        }
        let wrong = |what: String| ApiError::Credentials {
            path: self.folder.join("ca.crt"),
            source: io::Error::new(io::ErrorKind::InvalidData, what),
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("no certificate in it".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        *tls = Some(Trust { ca, config: Arc::clone(&config) });
        Ok(config)
    }

    async fn connect(&self) -> Result<(http1::SendRequest<Full<Bytes>>, Connection), ApiError> {
        let trust = self.trust()?;
        let failed = |source| ApiError::Connect { server: self.server(), source };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(trust).connect(name, stream).await
        };
        let stream = match timeout(CONNECTS_WITHIN, stream).await {
            Ok(stream) => stream.map_err(failed)?,
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ApiError::Broken)?;
        let task = tokio::spawn(async move {
            // Errors of the connection reach the caller that waits for the answer.
            let _ = connection.await;
        });
        Ok((sender, Connection(task.abort_handle())))
    }

    /// Makes a call. Any status but 2xx is an error.
    pub async fn call(&self, call: Call<'_>) -> Result<ApiResponse, ApiError> {
        let Call { method, path, accept, body } = call;
        let token = self.credential("token")?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|error| {
            let source = io::Error::new(io::ErrorKind::InvalidData, error);
            ApiError::Credentials { path: self.folder.join("token"), source }
        })?;
        bearer.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.server())
            .header(USER_AGENT, concat!("culvert-install/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, accept)
            .header(AUTHORIZATION, bearer);
        let body = match body {
            Some((kind, bytes)) => {
                request = request.header(CONTENT_TYPE, kind);
                Bytes::from(bytes)
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(|error| ApiError::Garbled(error.to_string()))?;
        let (mut sender, connection) = self.connect().await?;
        let response = match timeout(ANSWERS_WITHIN, sender.send_request(request)).await {
            Ok(response) => response.map_err(ApiError::Broken)?,
            Err(_) => return Err(ApiError::TimedOut),
        };
        let answer = ApiResponse { response, _connection: connection };
        if answer.response.status().is_success() { Ok(answer) } else { Err(answer.refused().await) }
    }

    /// Makes a call and reads its whole answer as JSON.
    pub async fn json<T: for<'de> Deserialize<'de>>(&self, call: Call<'_>) -> Result<T, ApiError> {
        let bytes = self.call(call).await?.whole(MAX_BODY).await?;
        serde_json::from_slice(&bytes).map_err(|error| ApiError::Garbled(error.to_string()))
    }
}

impl ApiResponse {
    /// Returns the next piece of the body, or None at its end. Waits at most `limit`.
    pub async fn piece(&mut self, limit: Duration) -> Result<Option<Bytes>, ApiError> {
        loop {
            let frame = match timeout(limit, self.response.body_mut().frame()).await {
                Ok(frame) => frame,
                Err(_) => return Err(ApiError::TimedOut),
            };
            match frame.transpose().map_err(ApiError::Broken)?.map(hyper::body::Frame::into_data) {
                Some(Ok(data)) => return Ok(Some(data)),
                // Trailers carry nothing here.
                Some(Err(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Reads the whole body of at most `limit` bytes.
    pub async fn whole(self, limit: usize) -> Result<Bytes, ApiError> {
        let collected =
            timeout(ANSWERS_WITHIN, Limited::new(self.response.into_body(), limit).collect()).await;
        match collected {
            Err(_) => Err(ApiError::TimedOut),
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::TooLong(limit)),
            Ok(Err(error)) => Err(ApiError::Garbled(error.to_string())),
        }
    }

    async fn refused(self) -> ApiError {
        let code = self.response.status();
        let retry_after = self.response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| value.parse().ok()).map(Duration::from_secs);
        let said = self.whole(MAX_ERROR).await.unwrap_or_default();
        ApiError::Status { code, message: message_of(&said), retry_after }
    }
}

/// Message of a Kubernetes `Status`, or the body itself; on one line and cut short.
pub fn message_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct StatusObject {
        message: String,
    }
    let said = match serde_json::from_slice::<StatusObject>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

/// Percent-encodes all but letters, digits and `-._~` for a query.
pub fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
