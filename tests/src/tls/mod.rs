//! TLS clients and servers of rustls' usual, blocking kind, which verify no certificate.

pub mod authority;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    ServerConnection, SignatureScheme, StreamOwned,
};

use crate::server::{Behaviour, speaks_first};
use crate::tls::authority::{Authority, Credentials};
use crate::until::uninterrupted;

/// The application protocol of mesh members.
pub const MESH: &[u8] = b"kuma";

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client's TLS settings.
#[derive(Debug, Clone)]
pub struct Client(Arc<ClientConfig>);

fn parse(credentials: &Credentials) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow!("{error:?}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).map_err(|error| anyhow!("{error:?}"))?;
    Ok((chain, key))
}

impl Client {
    /// A client with these application protocols, which shows these credentials if it has any.
    pub fn new(protocols: &[&[u8]], credentials: Option<&Credentials>) -> Result<Self> {
        // AES-128-GCM alone in TLS 1.3, so that all contenders do the same work.
        let mut provider = ring::default_provider();
        provider.cipher_suites.retain(|one| {
            one.tls13().is_none() || one.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
        });
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
        let mut config = match credentials {
            None => builder.with_no_client_auth(),
            Some(credentials) => {
                let (chain, key) = parse(credentials)?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self(Arc::new(config)))
    }

    /// The same, but every handshake is a full one.
    pub fn without_sessions(&self) -> Self {
        let mut config = (*self.0).clone();
        config.resumption = Resumption::disabled();
        Self(Arc::new(config))
    }

    /// Speaks it over a connection; the handshake is done with the first read or write.
    pub fn over(&self, tcp: TcpStream) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        self.asking(tcp, "server.test")
    }

    /// The same, asking for a server by this name; an address is not said.
    pub fn asking(&self, tcp: TcpStream, name: &str) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from(name.to_owned())?;
        Ok(StreamOwned::new(ClientConnection::new(Arc::clone(&self.0), name)?, tcp))
    }

    /// The bytes that it would say first.
    pub fn hello(&self) -> Result<Vec<u8>> {
        let name = ServerName::try_from("server.test")?;
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name)?;
        let mut hello = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut hello)?;
        }
        Ok(hello)
    }
}

/// A server's TLS settings: as a mesh member's sidecar, which wants a certificate and takes any, or as a server outside of
/// the mesh, which asks for one.
#[derive(Debug, Clone)]
pub struct TlsServer(Arc<ServerConfig>);

#[derive(Debug)]
struct AnyClient {
    signatures: Anybody,
    must_show: bool,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.must_show
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(&self.signatures, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(&self.signatures, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(&self.signatures)
    }
}

impl TlsServer {
    /// A server that shows these credentials and gives each client so many tickets; its sessions are resumed by nothing else.
    pub fn new(credentials: &Credentials, tickets: usize) -> Result<Self> {
        Self::with(credentials, tickets, true)
    }

    /// A server outside of the mesh: its clients may show a certificate, and need not.
    pub fn outside(credentials: &Credentials) -> Result<Self> {
        Self::with(credentials, 1, false)
    }

    fn with(credentials: &Credentials, tickets: usize, must_show: bool) -> Result<Self> {
        let (chain, key) = parse(credentials)?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(AnyClient { signatures: Anybody(provider), must_show }))
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![MESH.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new()?;
        config.send_tls13_tickets = tickets;
        Ok(Self(Arc::new(config)))
    }

    /// Speaks it over a connection; the handshake is done with the first read or write.
    pub fn over(&self, tcp: TcpStream) -> Result<StreamOwned<ServerConnection, TcpStream>> {
        Ok(StreamOwned::new(ServerConnection::new(Arc::clone(&self.0))?, tcp))
    }
}

/// A server with TLS of its own, which says a greeting and then echoes.
pub fn own_tls(greeting: &str) -> Result<impl Behaviour + use<>> {
    let credentials = Authority::new("the application's own")?.service("own")?;
    let (chain, key) = parse(&credentials)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let greeting = greeting.to_owned();
    Ok(move |tcp: TcpStream| {
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(connection, tcp);
        tls.write_all(greeting.as_bytes())?;
        let mut buffer = [0; 16 * 1024];
        loop {
            match uninterrupted(|| tls.read(&mut buffer))? {
                0 => return Ok(()),
                n => tls.write_all(&buffer[..n])?,
            }
        }
    })
}

/// A server that waits for its client, then does as one that speaks first: so that the text of each shows which one it is.
pub fn waits(greeting: &str) -> impl Behaviour {
    let speaks = speaks_first(greeting);
    move |tcp: TcpStream| {
        uninterrupted(|| tcp.peek(&mut [0]))?;
        speaks(tcp)
    }
}
