// SPDX-License-Identifier: Apache-2.0
//! Handshakes that succeed, and the reasons of those that do not.

use super::authority::{Authority, Wish, configs, mesh};
use crate::observe::close_reason::CloseReason;
use crate::plan::tls::{TlsSettings, TlsVersion};
use crate::tls::configs::{Configs, provider};
use crate::tls::handshake::{self, DEADLINE, Shaken};
use crate::tls::identity::{Identity, Pem};
use crate::tls::places::{Candidate, Places};
use crate::tls::{TlsError, TlsStream};
use culvert_mesh::model::spiffe::SpiffeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Both ends of a connection.
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Answers a handshake in a place of its own.
async fn accept(tcp: &mut TcpStream, server: &Configs, places: &Places) -> Result<Shaken, TlsError> {
    let place = places.take(Candidate { address: HOST, known: false })?;
    place.held(handshake::accept(tcp, server, &place)).await
}

/// Both sides of a handshake, over sockets of their own.
pub(super) async fn both(
    client: &Configs,
    server: &Configs,
    expected: Option<&str>,
) -> (Result<(TcpStream, Shaken), TlsError>, Result<(TcpStream, Shaken), TlsError>) {
    let expected: Option<[SpiffeId; 1]> = expected.map(|id| [id.parse().unwrap()]);
    both_of(client, server, expected.as_ref().map(<[_; 1]>::as_slice)).await
}

/// The same, with a server that may have one of several identities.
pub(super) async fn both_of(
    client: &Configs,
    server: &Configs,
    expected: Option<&[SpiffeId]>,
) -> (Result<(TcpStream, Shaken), TlsError>, Result<(TcpStream, Shaken), TlsError>) {
    let (mut near, mut far) = pair().await;
    let places = Places::new(2);
    let dialling = async {
        let shaken = handshake::connect(&mut near, client, HOST, expected, &places).await;
        shaken.map(|shaken| (near, shaken))
    };
    let accepting = async {
        let shaken = accept(&mut far, server, &places).await;
        shaken.map(|shaken| (far, shaken))
    };
    tokio::join!(dialling, accepting)
}

/// Established streams of two members of a mesh.
pub(super) async fn streams(client: &Configs, server: &Configs) -> (TlsStream, TlsStream) {
    let (near, far) = both(client, server, None).await;
    let ((near, client), (far, server)) = (near.unwrap(), far.unwrap());
    (client.over(near), server.over(far))
}

/// Settings of an identity that no check would pass.
fn unchecked(pem: &Pem, checked: &Pem) -> Configs {
    let mut identity =
        Identity::check(checked, &mesh(), &Arc::new(provider()), super::authority::now()).unwrap();
    let chain = CertificateDer::pem_slice_iter(&pem.chain).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem.key).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    identity.certified = Arc::new(CertifiedKey::new(chain, key));
    Configs::new(&identity, &mesh(), &TlsSettings::default()).unwrap()
}

#[tokio::test]
async fn members_know_each_other() {
    let authority = Authority::new();
    let (web, db) = (authority.configs("web"), authority.configs("db"));
    let (client, server) = both(&web, &db, Some("spiffe://default/db")).await;
    let ((_, client), (_, server)) = (client.unwrap(), server.unwrap());
    assert_eq!(client.peer.id().as_str(), "spiffe://default/db");
    assert_eq!(server.peer.id().as_str(), "spiffe://default/web");
    assert!(!client.resumed && !server.resumed);
}

/// A certificate is public; the key proves whose it is. Only the HTTPS probe of the pod's own application does without.
#[tokio::test]
async fn a_members_certificate_without_its_key_is_refused_by_either_side() {
    let authority = Authority::new();
    let uri = |service: &str| format!("spiffe://default/{service}");
    let issue = |uri: &str| authority.issue(&Wish { uris: &[uri], ..Wish::default() });
    let (web, db) = (issue(&uri("web")), issue(&uri("db")));
    let stolen = |pem: &Pem| {
        let key = issue("spiffe://default/thief").key;
        unchecked(&Pem { chain: pem.chain.clone(), key, authorities: pem.authorities.clone() }, pem)
    };
    let (client, server) = both(&configs(&web), &stolen(&db), Some(&uri("db"))).await;
    assert!(client.is_err() && server.is_err(), "a server with a stolen certificate");
    let (_, server) = both(&stolen(&web), &configs(&db), Some(&uri("db"))).await;
    assert!(server.is_err(), "a client with a stolen certificate");
}

#[tokio::test]
async fn a_session_is_resumed_and_the_peer_still_known() {
    let authority = Authority::new();
    let (web, db) = (authority.configs("web"), authority.configs("db"));
    for round in 0..4 {
        let (client, server) = both(&web, &db, Some("spiffe://default/db")).await;
        let ((near, client), (far, server)) = (client.unwrap(), server.unwrap());
        assert_eq!((client.resumed, server.resumed), (round > 0, round > 0), "round {round}");
        assert_eq!(client.peer.id().as_str(), "spiffe://default/db");
        assert_eq!(server.peer.id().as_str(), "spiffe://default/web");
        // The ticket comes behind the handshake, with the first bytes that are read.
        let (mut near, mut far) = (client.over(near), server.over(far));
        far.write_all(b"!").await.unwrap();
        far.flush().await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'!');
    }
    // A new identity begins with none.
    let renewed = authority.configs("db");
    let (_, server) = both(&web, &renewed, None).await;
    assert!(!server.unwrap().1.resumed);
}

#[tokio::test]
async fn a_resumed_session_that_is_refused_is_followed_by_a_full_handshake() {
    let authority = Authority::new();
    let (web, db) = (authority.configs("web"), authority.configs("db"));
    // Some tickets in hand, of which each would be refused for itself.
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(both(&web, &db, None).await);
    }
    for (client, server) in open {
        let ((near, client), (far, server)) = (client.unwrap(), server.unwrap());
        let (mut near, mut far) = (client.over(near), server.over(far));
        far.write_all(b"!").await.unwrap();
        far.flush().await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'!');
    }
    let (refused, server) = both(&web, &db, Some("spiffe://default/cache")).await;
    assert!(server.unwrap().1.resumed);
    assert_eq!(refused.err().unwrap().reason(), CloseReason::TlsIdentity);
    let (client, _) = both(&web, &db, Some("spiffe://default/db")).await;
    assert!(!client.unwrap().1.resumed);
}

#[tokio::test]
async fn a_client_outside_the_mesh_is_refused_with_the_reason() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let server = ours.configs("db");
    let good = ours.issue(&Wish::default());
    let wish = |uris, time| ours.issue(&Wish { uris, time });
    let web: &[&str] = &["spiffe://default/web"];
    for (name, client, expected) in [
        ("a foreign mesh", foreign.issue(&Wish::default()), CloseReason::TlsUntrusted),
        ("expired", wish(web, (-7200, -60)), CloseReason::TlsExpired),
        ("not yet valid", wish(web, (120, 3600)), CloseReason::TlsNotYetValid),
        ("another trust domain", wish(&["spiffe://other/web"], (-60, 3600)), CloseReason::TlsIdentity),
        ("no identity", wish(&["https://default/web"], (-60, 3600)), CloseReason::TlsIdentity),
    ] {
        let (_, refused) = both(&unchecked(&client, &good), &server, None).await;
        let Err(error) = refused else { panic!("{name} got through") };
        assert_eq!(error.reason(), expected, "{name}: {error}");
        // The same at the other end: a client that dials such a server.
        let (refused, _) = both(&server, &unchecked(&client, &good), None).await;
        let Err(error) = refused else { panic!("{name} was believed") };
        assert_eq!(error.reason(), expected, "{name}: {error}");
    }
}

#[tokio::test]
async fn a_clock_that_is_a_little_ahead_is_forgiven() {
    let ours = Authority::new();
    let ahead = ours.issue(&Wish { time: (50, 3600), ..Wish::default() });
    let (client, server) = both(&configs(&ahead), &ours.configs("db"), None).await;
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn another_service_than_the_dialled_one_is_refused() {
    let authority = Authority::new();
    let (web, db) = (authority.configs("web"), authority.configs("db"));
    let (refused, _) = both(&web, &db, Some("spiffe://default/cache")).await;
    let Err(error) = refused else { panic!("it got through") };
    assert_eq!(error.reason(), CloseReason::TlsIdentity);
    assert!(
        error.to_string().contains("is spiffe://default/db, but spiffe://default/cache was dialled"),
        "{error}"
    );
}

/// A client outside the mesh, by rustls' buffered interface.
async fn stranger(config: rustls::ClientConfig, to: TcpStream) -> std::io::Result<()> {
    let mut tcp = to;
    let name = rustls::pki_types::ServerName::try_from("db").unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut buffer = [0; 4096];
    loop {
        let mut out = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut out).unwrap();
        }
        tcp.write_all(&out).await?;
        let n = tcp.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        let mut came = &buffer[..n];
        while !came.is_empty() {
            connection.read_tls(&mut came).unwrap();
            if connection.process_new_packets().is_err() {
                return Ok(());
            }
        }
    }
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_with_that_reason() {
    let authority = Authority::new();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(
            crate::tls::verify::Verifier::new(
                Arc::clone(
                    &Identity::check(
                        &authority.issue(&Wish::default()),
                        &mesh(),
                        &Arc::new(provider()),
                        super::authority::now(),
                    )
                    .unwrap()
                    .authorities,
                ),
                Arc::new(provider()),
            )
            .unwrap(),
        ))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"kuma".to_vec()];
    let server = authority.configs("db");
    let (near, mut far) = pair().await;
    let places = Places::new(1);
    let (refused, _) = tokio::join!(accept(&mut far, &server, &places), stranger(config, near));
    let Err(error) = refused else { panic!("it got through") };
    assert_eq!(error.reason(), CloseReason::TlsNoCertificate, "{error}");
}

#[tokio::test]
async fn a_refused_client_gets_the_alert() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let good = ours.issue(&Wish::default());
    let client = unchecked(&foreign.issue(&Wish::default()), &good);
    let server = ours.configs("db");
    let (near, far) = both(&client, &server, None).await;
    assert!(far.is_err());
    // To a client of TLS 1.3 the handshake is over before its certificate is checked: it gets the alert when it reads.
    let (tcp, shaken) = near.unwrap();
    let error = shaken.over(tcp).read_u8().await.unwrap_err();
    assert!(error.to_string().contains("UnknownCA"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_is_given_up() {
    let authority = Authority::new();
    let (mut near, mut far) = pair().await;
    let places = Places::new(1);
    let slow = authority.configs("db");
    let accepted = accept(&mut far, &slow, &places).await;
    assert!(matches!(accepted, Err(TlsError::TimedOut(DEADLINE))));
    let dialled = handshake::connect(&mut near, &slow, HOST, None, &places).await;
    assert!(matches!(dialled, Err(TlsError::TimedOut(DEADLINE))));
    assert_eq!(places.used(), 0);
}

#[tokio::test]
async fn one_too_many_is_refused_at_once() {
    let (_near, mut far) = pair().await;
    let refused = accept(&mut far, &Authority::new().configs("db"), &Places::new(0)).await;
    let Err(error) = refused else { panic!("it got through") };
    assert_eq!(error.reason(), CloseReason::Limit);
}

#[tokio::test]
async fn bytes_that_are_no_handshake_are_refused() {
    let server = Authority::new().configs("db");
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[22, 3, 1, 0, 2, 1, 0], &[0; 70_000], b"", &[21, 3, 3, 0, 2, 2, 40]]
    {
        let (mut near, mut far) = pair().await;
        let places = Places::new(1);
        let saying = async {
            // The other side may be gone before all is said.
            let _ = near.write_all(bytes).await;
            let _ = near.shutdown().await;
        };
        let (refused, ()) = tokio::join!(accept(&mut far, &server, &places), saying);
        let Err(error) = refused else { panic!("{bytes:?} got through") };
        let reasons = [CloseReason::TlsFailure, CloseReason::TlsRefused];
        assert!(reasons.contains(&error.reason()), "{error}");
    }
}

#[tokio::test]
async fn versions_and_suites_of_documents_are_applied() {
    let authority = Authority::new();
    let identity =
        |pem: &Pem| Identity::check(pem, &mesh(), &Arc::new(provider()), super::authority::now()).unwrap();
    let pem = authority.issue(&Wish::default());
    let of = |min, max| {
        let settings = TlsSettings { min, max, ..TlsSettings::default() };
        Configs::new(&identity(&pem), &mesh(), &settings).unwrap()
    };
    let old = of(TlsVersion::V12, TlsVersion::V12);
    let both_versions = of(TlsVersion::V12, TlsVersion::V13);
    let new = of(TlsVersion::V13, TlsVersion::V13);
    let default = Configs::new(&identity(&pem), &mesh(), &TlsSettings::default()).unwrap();
    for (client, server, speaks) in [
        (&old, &old, true),
        (&old, &both_versions, true),
        (&both_versions, &new, true),
        (&new, &new, true),
        (&old, &new, false),
        (&new, &old, false),
        // As Envoy calls.
        (&old, &default, true),
        (&default, &old, true),
        (&default, &new, true),
    ] {
        let (_, server) = both(client, server, None).await;
        assert_eq!(server.is_ok(), speaks);
    }
    let settings = TlsSettings {
        suites: TlsSettings::default().suites[3..].to_vec(),
        min: TlsVersion::V13,
        ..TlsSettings::default()
    };
    assert!(Configs::new(&identity(&pem), &mesh(), &settings).is_err(), "TLS 1.3 without a suite of its own");
}
