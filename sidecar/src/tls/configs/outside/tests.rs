// SPDX-License-Identifier: Apache-2.0
//! TLS to servers outside of the mesh: the certificates that are accepted, and what such a server sees of this pod.

use super::*;
use crate::observe::close_reason::CloseReason;
use crate::plan::external::{AltName, PrivateKey};
use crate::plan::tls::TlsVersion;
use crate::tls::TlsError;
use crate::tls::handshake;
use crate::tls::places::Places;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{ProtocolVersion, ServerConfig};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BOTH: (TlsVersion, TlsVersion) = (TlsVersion::V12, TlsVersion::V13);
/// Years from which and until which a certificate is valid.
const NOW: (i32, i32) = (2000, 4000);

fn params(names: &[&str], (from, until): (i32, i32)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{:?}", std::time::Instant::now()));
    let san = |name: &&str| match (name.parse(), name.contains("://")) {
        (Ok(ip), _) => SanType::IpAddress(ip),
        (_, true) => SanType::URI((*name).try_into().unwrap()),
        (_, false) => SanType::DnsName((*name).try_into().unwrap()),
    };
    params.subject_alt_names = names.iter().map(san).collect();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params
}

/// A server outside of the mesh. It asks for a client's certificate, and does without.
pub(crate) struct Server {
    /// The authority of its certificate in PEM.
    pub(crate) authority: String,
    config: Arc<ServerConfig>,
}

impl Server {
    /// Has a certificate of an authority of its own, with these names.
    pub(crate) fn new(names: &[&str]) -> Self {
        Self::with(names, NOW, &[])
    }

    /// The same with a validity, and with these versions where they are given.
    fn with(
        names: &[&str],
        validity: (i32, i32),
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let mut root = params(&[], NOW);
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_key = KeyPair::generate().unwrap();
        let authority = root.self_signed(&root_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(root, root_key);
        let chain = params(names, validity).signed_by(&key, &issuer).unwrap().der().clone();
        Self::of(authority.pem(), chain, &key, versions)
    }

    /// Has a certificate that is its own authority, as Kuma's own tests have.
    fn self_signed(names: &[&str], validity: (i32, i32)) -> Self {
        let mut own = params(names, validity);
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = own.self_signed(&key).unwrap();
        Self::of(own.pem(), own.der().clone(), &key, &[])
    }

    fn of(
        authority: String,
        certificate: CertificateDer<'static>,
        key: &KeyPair,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let versions = if versions.is_empty() { rustls::ALL_VERSIONS } else { versions };
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap())
            .with_single_cert(vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        Self { authority, config: Arc::new(config) }
    }

    pub(crate) fn these(&self) -> Authorities {
        Authorities::These(vec![CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()])
    }

    /// Answers connections from now on, each as [`serve`] does.
    pub(crate) fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, config) = (listener.local_addr().unwrap(), Arc::clone(&self.config));
        std::thread::spawn(move || {
            loop {
                // The outcome is the client's to judge.
                let _ = serve(&listener, Arc::clone(&config));
            }
        });
        address
    }
}

/// What a server saw of a client.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    asked: Option<String>,
    certificate: bool,
    alpn: bool,
    version: Option<ProtocolVersion>,
}

/// Answers a handshake, and echoes four bytes.
fn serve(listener: &TcpListener, config: Arc<ServerConfig>) -> io::Result<Seen> {
    let (mut tcp, _) = listener.accept()?;
    // Only a client that hangs lets it wait so long.
    tcp.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut tls = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    let seen = Seen {
        asked: tls.server_name().map(str::to_owned),
        certificate: tls.peer_certificates().is_some(),
        alpn: tls.alpn_protocol().is_some(),
        version: tls.protocol_version(),
    };
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    let mut said = [0; 4];
    stream.read_exact(&mut said)?;
    stream.write_all(&said)?;
    Ok(seen)
}

/// Calls a server. Returns true for a resumed session, and what the server saw.
async fn call(outside: &Outside, server: &Server) -> (Result<bool, TlsError>, io::Result<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let config = Arc::clone(&server.config);
    let serving = tokio::task::spawn_blocking(move || serve(&listener, config));
    let outcome = match handshake::outside(&mut tcp, outside, HOST, &Places::new(2)).await {
        Ok(shaken) => {
            let resumed = shaken.resumed;
            let mut stream = shaken.over(tcp);
            stream.write_all(b"ping").await.unwrap();
            stream.flush().await.unwrap();
            let mut echoed = [0; 4];
            stream.read_exact(&mut echoed).await.unwrap();
            assert_eq!(&echoed, b"ping");
            Ok(resumed)
        }
        Err(error) => {
            drop(tcp);
            Err(error)
        }
    };
    (outcome, serving.await.unwrap())
}

pub(crate) fn settings(server_name: &str, verification: Verification) -> ExternalTls {
    let server_name = ServerName::try_from(server_name.to_owned()).unwrap();
    ExternalTls { server_name, verification, client: None, min: BOTH.0, max: BOTH.1 }
}

fn outside(settings: &ExternalTls) -> Outside {
    Outside::new(settings, &SystemRoots::default()).unwrap()
}

#[tokio::test]
async fn each_mode_accepts_what_it_says_and_nothing_else() {
    use CloseReason::{TlsExpired, TlsIdentity, TlsNotYetValid, TlsUntrusted};
    let exact = |name: &str| AltName::Exact(name.into());
    let prefix = |name: &str| AltName::Prefix(name.into());
    let good = Server::new(&["a.test"]);
    let (foreign, own) = (Server::new(&["a.test"]).these(), Server::self_signed(&["a.test"], NOW));
    let (past, future) = ((2000, 2001), (3000, 4000));
    let (expired, early) = (Server::with(&["a.test"], past, &[]), Server::with(&["a.test"], future, &[]));
    let expired_own = Server::self_signed(&["a.test"], past);
    let wild = Server::new(&["*.x.test"]);
    let ip = Server::new(&["127.0.0.1"]);
    let spiffe = Server::new(&["b.test", "spiffe://x/ns/web"]);
    let names = |server: &Server, also: Vec<AltName>| Verification::Names(server.these(), also);
    let any = |server: &Server| Verification::Authorities(server.these());
    for (name, server, asked, verification, expected) in [
        ("its name", &good, "a.test", names(&good, vec![]), None),
        ("its name in other letters", &good, "A.Test", names(&good, vec![]), None),
        ("another name", &good, "b.test", names(&good, vec![]), Some(TlsIdentity)),
        (
            "another authority",
            &good,
            "a.test",
            Verification::Names(foreign.clone(), vec![]),
            Some(TlsUntrusted),
        ),
        ("a wildcard", &wild, "a.x.test", names(&wild, vec![]), None),
        ("its address", &ip, "127.0.0.1", names(&ip, vec![]), None),
        ("another address", &ip, "127.0.0.2", names(&ip, vec![]), Some(TlsIdentity)),
        ("no address among its names", &good, "127.0.0.1", names(&good, vec![]), Some(TlsIdentity)),
        ("one of several", &good, "b.test", names(&good, vec![exact("c.test"), exact("a.test")]), None),
        ("none of several", &good, "b.test", names(&good, vec![exact("c.test")]), Some(TlsIdentity)),
        ("a URI", &spiffe, "a.test", names(&spiffe, vec![exact("spiffe://x/ns/web")]), None),
        (
            "a part of a URI",
            &spiffe,
            "a.test",
            names(&spiffe, vec![exact("spiffe://x/ns")]),
            Some(TlsIdentity),
        ),
        ("the begin of a URI", &spiffe, "a.test", names(&spiffe, vec![prefix("spiffe://x/")]), None),
        (
            "the begin of another",
            &spiffe,
            "a.test",
            names(&spiffe, vec![prefix("spiffe://y/")]),
            Some(TlsIdentity),
        ),
        ("the begin of a name", &spiffe, "a.test", names(&spiffe, vec![prefix("B.")]), None),
        ("an address among several", &ip, "a.test", names(&ip, vec![exact("127.0.0.1")]), None),
        ("SkipSAN: another name", &good, "b.test", any(&good), None),
        (
            "SkipSAN: another authority",
            &good,
            "a.test",
            Verification::Authorities(foreign.clone()),
            Some(TlsUntrusted),
        ),
        ("SkipCA: another of both", &good, "b.test", Verification::Nothing, None),
        ("expired", &expired, "a.test", names(&expired, vec![]), Some(TlsExpired)),
        ("SkipSAN: expired", &expired, "a.test", any(&expired), Some(TlsExpired)),
        ("SkipCA: expired", &expired, "a.test", Verification::Nothing, None),
        ("not valid yet", &early, "a.test", names(&early, vec![]), Some(TlsNotYetValid)),
        ("its own authority", &own, "a.test", names(&own, vec![]), None),
        ("its own authority, another name", &own, "b.test", names(&own, vec![]), Some(TlsIdentity)),
        (
            "its own authority, another one",
            &own,
            "a.test",
            Verification::Names(foreign.clone(), vec![]),
            Some(TlsUntrusted),
        ),
        ("its own authority, expired", &expired_own, "a.test", names(&expired_own, vec![]), Some(TlsExpired)),
    ] {
        let (outcome, seen) = call(&outside(&settings(asked, verification)), server).await;
        let reason = outcome.as_ref().err().map(TlsError::reason);
        assert_eq!(reason, expected, "{name}: {outcome:?}");
        assert_eq!(seen.is_ok(), expected.is_none(), "{name}: {seen:?}");
    }
}

#[tokio::test]
async fn a_server_sees_the_name_and_the_documents_certificate_and_nothing_of_the_mesh() {
    let server = Server::new(&["a.test", "127.0.0.1"]);
    let of = |asked: Option<&str>, certificate| Seen {
        asked: asked.map(str::to_owned),
        certificate,
        alpn: false,
        version: Some(ProtocolVersion::TLSv1_3),
    };
    let (outcome, seen) = call(&outside(&settings("a.test", Verification::Nothing)), &server).await;
    assert_eq!((outcome.unwrap(), seen.unwrap()), (false, of(Some("a.test"), false)));
    let (_, seen) = call(&outside(&settings("127.0.0.1", Verification::Nothing)), &server).await;
    assert_eq!(seen.unwrap(), of(None, false));
    // The server takes clients of its own authority, which is this certificate.
    let own = Server::self_signed(&["a.test"], NOW);
    let key = KeyPair::generate().unwrap();
    let mut params = params(&["client"], NOW);
    params.is_ca = IsCa::NoCa;
    let chain = vec![params.self_signed(&key).unwrap().der().clone()];
    let key = PrivateKey(Arc::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap()));
    let client = Some(ClientCertificate { chain, key });
    let with = ExternalTls { client, ..settings("a.test", Verification::Nothing) };
    assert!(!format!("{:?}", outside(&with)).contains("key"));
    // It is not of that authority, so the server has it, and refuses it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let serving = tokio::task::spawn_blocking(move || serve(&listener, own.config));
    let shaken = handshake::outside(&mut tcp, &outside(&with), HOST, &Places::new(2)).await;
    let refused = serving.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    drop(shaken);
}

#[tokio::test]
async fn versions_are_those_of_the_document() {
    let (old, new) = ([&rustls::version::TLS12], [&rustls::version::TLS13]);
    let (old, new) = (Server::with(&["a.test"], NOW, &old), Server::with(&["a.test"], NOW, &new));
    use TlsVersion::{V12, V13};
    for (name, server, (min, max), expected) in [
        ("an older server", &old, BOTH, Some(ProtocolVersion::TLSv1_2)),
        ("a newer server", &new, BOTH, Some(ProtocolVersion::TLSv1_3)),
        ("at least 1.3", &new, (V13, V13), Some(ProtocolVersion::TLSv1_3)),
        ("at least 1.3, an older server", &old, (V13, V13), None),
        ("at most 1.2", &old, (V12, V12), Some(ProtocolVersion::TLSv1_2)),
        ("at most 1.2, a newer server", &new, (V12, V12), None),
    ] {
        let settings = ExternalTls { min, max, ..settings("a.test", Verification::Nothing) };
        let (outcome, seen) = call(&outside(&settings), server).await;
        assert_eq!(seen.ok().and_then(|seen| seen.version), expected, "{name}");
        let reason = outcome.err().map(|error| error.reason());
        assert_eq!(reason, expected.is_none().then_some(CloseReason::TlsRefused), "{name}");
    }
}

#[tokio::test]
async fn a_session_is_resumed_for_as_long_as_its_settings_live() {
    for max in [TlsVersion::V12, TlsVersion::V13] {
        let server = Server::new(&["a.test"]);
        let settings = ExternalTls { max, ..settings("a.test", Verification::Names(server.these(), vec![])) };
        let one = outside(&settings);
        for round in 0..3 {
            let (outcome, _) = call(&one, &server).await;
            assert_eq!(outcome.unwrap(), round > 0, "{max:?}: round {round}");
        }
        one.forget();
        assert!(!call(&one, &server).await.0.unwrap(), "{max:?}: forgotten");
        assert!(!call(&outside(&settings), &server).await.0.unwrap(), "{max:?}: another one");
    }
}

#[tokio::test]
async fn a_server_without_tls_and_an_image_without_authorities_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut far, _) = listener.accept().unwrap();
    far.write_all(b"220 hello, this is no TLS\r\n").unwrap();
    let plain = outside(&settings("a.test", Verification::Nothing));
    let shaken = handshake::outside(&mut tcp, &plain, HOST, &Places::new(2)).await;
    let error = shaken.err().expect("it is not TLS");
    assert_eq!(error.reason(), CloseReason::TlsFailure);
    assert!(error.to_string().contains("does the server speak TLS"), "{error}");
    assert!(!error.is_ours(), "another server may do better");
    let error = TlsError::from(crate::tls::OutsideFault::NoRoots);
    assert!(error.is_ours() && error.to_string().contains("give caCert"), "{error}");
}
