// SPDX-License-Identifier: Apache-2.0
//! A connection to the controller: found by name, verified by the bundle of authorities and that name, and kept alive by
//! pings.

use super::grpc::Channel;
use crate::options::facts::ControlSource;
use bytes::Bytes;
use h2::client;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Time for the whole of name, connect and handshakes.
const DEADLINE: Duration = Duration::from_secs(10);
/// Time for one address of several.
const EACH: Duration = Duration::from_secs(3);
/// Longest bundle that is read; a thousand authorities.
const LONGEST_BUNDLE: u64 = 1024 * 1024;
/// Time without a word after which the server is asked for one, and time for that. A NAT gateway forgets a connection after
/// 350 s; a node that is gone says nothing at all.
const PING_EVERY: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Bytes that the server may send before they are read.
const WINDOW: u32 = 256 * 1024;
/// Longest list of header lines that is accepted.
const LONGEST_HEADERS: u32 = 16 * 1024;

/// Reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(
        "no authorities in {}: {source}; the sidecar connects once the controller's bundle is there (--control-ca)", .path.display()
    )]
    Bundle { path: PathBuf, source: io::Error },
    #[error("{0} is no name that a certificate can have")]
    Name(String),
    #[error("cannot find or reach {authority}: {source}")]
    Dial { authority: String, source: io::Error },
    #[error(
        "{authority} is not verified: {source}; do the authorities of --control-ca sign its certificate, for this name?"
    )]
    Tls { authority: String, source: io::Error },
    #[error("{authority} speaks no HTTP/2: {source}")]
    Http2 { authority: String, source: h2::Error },
    #[error("{0} did not answer within {DEADLINE:?}")]
    Late(String),
}

/// A connection, closed when this is dropped.
pub(super) struct Connection {
    pub(super) channel: Channel,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Waits until the connection ends.
    pub(super) async fn ended(&mut self) {
        // A driver that panicked has ended too.
        let _ = (&mut self.driver).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Connects to the controller.
pub(super) async fn connect(source: &ControlSource) -> Result<Connection, ConnectError> {
    let authority = source.url.authority();
    let config = config(&source.authorities)?;
    let name = ServerName::try_from(source.url.host.clone())
        .map_err(|_| ConnectError::Name(source.url.host.clone()))?;
    let connecting = async {
        let dial = |source| ConnectError::Dial { authority: authority.clone(), source };
        let tcp = dialled(source).await.map_err(dial)?;
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        let tls = tls.map_err(|source| ConnectError::Tls { authority: authority.clone(), source })?;
        let (requests, connection) = client::Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .max_header_list_size(LONGEST_HEADERS)
            .handshake::<_, Bytes>(tls)
            .await
            .map_err(|source| ConnectError::Http2 { authority: authority.clone(), source })?;
        let driver = tokio::spawn(drive(connection));
        Ok(Connection { channel: Channel { requests, authority: authority.clone() }, driver })
    };
    match tokio::time::timeout(DEADLINE, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectError::Late(authority)),
    }
}

/// Dials the addresses of the name in turn.
async fn dialled(source: &ControlSource) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((source.url.host.as_str(), source.url.port)).await? {
        let connected = tokio::time::timeout(EACH, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Reads the bundle anew, and trusts nothing else.
fn config(bundle: &Path) -> Result<Arc<ClientConfig>, ConnectError> {
    let failed = |source| ConnectError::Bundle { path: bundle.into(), source };
    let mut pem = Vec::new();
    let file = std::fs::File::open(bundle).map_err(failed)?;
    file.take(LONGEST_BUNDLE).read_to_end(&mut pem).map_err(failed)?;
    let mut roots = RootCertStore::empty();
    // One that no library takes must not take the others with it.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(failed(io::Error::other("it holds no certificate in PEM")));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Moves the connection's bytes, and ends it when the server is silent to a ping.
async fn drive<T>(mut connection: client::Connection<T, Bytes>)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let Some(mut pings) = connection.ping_pong() else { return };
    let alive = async {
        loop {
            tokio::time::sleep(PING_EVERY).await;
            match tokio::time::timeout(PONG_WITHIN, pings.ping(h2::Ping::opaque())).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    };
    tokio::select! {
        _ = &mut connection => {}
        () = alive => tracing::debug!("the controller does not answer pings"),
    }
}
