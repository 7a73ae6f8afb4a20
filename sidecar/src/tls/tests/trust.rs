// SPDX-License-Identifier: Apache-2.0
//! Peers of several trust domains, each by the authorities of its own.

use super::authority::{Authority, Wish, now, write};
use super::handshakes::{both, both_of};
use crate::connection::metrics::Metrics;
use crate::observe::close_reason::CloseReason;
use crate::options::config::IdentitySource;
use crate::plan::Member;
use crate::plan::tls::TlsSettings;
use crate::plan::tls::trust::{LocalTrust, Trust};
use crate::tls::configs::{Configs, provider};
use crate::tls::identity::{Identity, Pem};
use crate::tls::keeper::Tls;
use culvert_mesh::document::ZONE;
use culvert_mesh::model::spiffe::TrustDomain;
use culvert_mesh::model::tags::Tags;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

fn settings(own: &str, authorities: &[(&str, &Authority)]) -> TlsSettings {
    let mut known: BTreeMap<TrustDomain, Vec<_>> = BTreeMap::new();
    for (domain, authority) in authorities {
        let certificate = CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
        known.entry(domain.parse().unwrap()).or_default().push(certificate);
    }
    let trust = Trust::new(own.parse().unwrap(), None, known, LocalTrust::default());
    TlsSettings { trust: Some(Arc::new(trust)), ..TlsSettings::default() }
}

fn issue(authority: &Authority, uris: &[&str]) -> Pem {
    authority.issue(&Wish { uris, ..Wish::default() })
}

/// Settings of a member of a trust domain that believes these authorities.
fn member(own: &str, issuer: &Authority, authorities: &[(&str, &Authority)]) -> Configs {
    let domain: TrustDomain = own.parse().unwrap();
    let pem = issue(issuer, &[&format!("spiffe://{own}/x")]);
    let identity = Identity::check(&pem, &domain, &Arc::new(provider()), now()).unwrap();
    Configs::new(&identity, &domain, &settings(own, authorities)).unwrap()
}

/// A member of the trust domain `b` that shows a certificate of anything.
fn forger(shown: &Pem, b: &Authority, authorities: &[(&str, &Authority)]) -> Configs {
    let domain: TrustDomain = "b".parse().unwrap();
    let good = issue(b, &["spiffe://b/x"]);
    let mut identity = Identity::check(&good, &domain, &Arc::new(provider()), now()).unwrap();
    let chain = CertificateDer::pem_slice_iter(&shown.chain).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&shown.key).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    identity.certified = Arc::new(CertifiedKey::new(chain, key));
    Configs::new(&identity, &domain, &settings("b", authorities)).unwrap()
}

#[tokio::test]
async fn a_peer_is_verified_by_the_authorities_of_its_own_trust_domain() {
    let (a, b, next) = (Authority::new(), Authority::new(), Authority::new());
    let trusts = [("a", &a), ("b", &b), ("b", &next)];
    let server = member("a", &a, &trusts);
    for (name, client) in [
        ("its own domain", member("a", &a, &trusts)),
        ("another domain", member("b", &b, &trusts)),
        ("its next authority", member("b", &next, &trusts)),
    ] {
        let (near, far) = both(&client, &server, None).await;
        assert!(near.is_ok() && far.is_ok(), "{name}");
        let (near, far) = both(&server, &client, None).await;
        assert!(near.is_ok() && far.is_ok(), "{name}, called");
    }
    for (name, uris, issuer, reason) in [
        ("the other domain's authority", &["spiffe://a/x"][..], &b, CloseReason::TlsUntrusted),
        ("the same, the other way round", &["spiffe://b/x"], &a, CloseReason::TlsUntrusted),
        ("an unknown domain by the own authority", &["spiffe://c/x"], &a, CloseReason::TlsIdentity),
        ("an unknown domain by a foreign one", &["spiffe://c/x"], &b, CloseReason::TlsUntrusted),
        ("two domains", &["spiffe://b/x", "spiffe://a/x"], &b, CloseReason::TlsIdentity),
        ("two domains, the own one first", &["spiffe://a/x", "spiffe://b/x"], &a, CloseReason::TlsIdentity),
    ] {
        let forger = forger(&issue(issuer, uris), &b, &trusts);
        let (_, refused) = both(&forger, &server, None).await;
        let Err(error) = refused else { panic!("{name} got through") };
        assert_eq!(error.reason(), reason, "{name}: {error}");
        let (refused, _) = both(&server, &forger, None).await;
        let Err(error) = refused else { panic!("{name} was believed") };
        assert_eq!(error.reason(), reason, "{name}, called: {error}");
    }
    // Without its MeshTrust a domain is unknown.
    let (_, refused) = both(&member("b", &b, &trusts), &member("a", &a, &[("a", &a)]), None).await;
    assert_eq!(refused.err().unwrap().reason(), CloseReason::TlsUntrusted);
}

/// A member of a service, with the identities that documents say.
fn dialled(service: &str, ids: &[&str]) -> Member {
    let tags = Tags([("kuma.io/service".to_owned(), service.to_owned())].into());
    let ids = (!ids.is_empty()).then(|| ids.iter().map(|id| id.parse().unwrap()).collect());
    Member { dataplane: "d".into(), tags: Arc::new(tags), ids }
}

#[tokio::test]
async fn with_a_mesh_identity_documents_say_the_server_and_a_path_names_no_service() {
    let a = Authority::new();
    let of_paths = a.configs("db");
    assert_eq!(
        &*of_paths.server(&dialled("db", &["spiffe://default/x"])).unwrap(),
        ["spiffe://default/db".parse().unwrap()]
    );
    let client = member("a", &a, &[]);
    assert!(!client.names_services() && client.server(&dialled("x", &[])).is_none());
    let server = member("a", &a, &[]);
    for (ids, is_it) in
        [(&["spiffe://a/x"][..], true), (&["spiffe://a/w", "spiffe://a/x"], true), (&["spiffe://a/w"], false)]
    {
        let member = dialled("x", ids);
        // Also of a session that is resumed.
        let (near, _) = both_of(&client, &server, client.server(&member).as_deref()).await;
        match near {
            Ok(_) => assert!(is_it, "{ids:?}"),
            Err(error) => {
                assert!(!is_it, "{ids:?}: {error}");
                assert_eq!(error.reason(), CloseReason::TlsIdentity);
                let words = "the server is spiffe://a/x, but spiffe://a/w was dialled: does a document have the address of another pod?";
                assert_eq!(error.to_string(), words);
            }
        }
    }
}

#[test]
fn in_another_trust_domain_the_files_are_checked_anew_and_the_old_identity_goes() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    write(&issue(&authority, &["spiffe://default/web"]), folder.path());
    let metrics = Metrics::default();
    let source = IdentitySource {
        folder: Some(folder.path().to_owned()),
        trust_domain: "default".parse().unwrap(),
        names_services: true,
    };
    let tls = Tls::start(Some(source), TlsSettings::default(), &metrics.tls).unwrap();
    assert!(tls.configs().unwrap().names_services());
    tls.set(settings("a", &[]), &metrics.tls).unwrap();
    assert!(tls.configs().is_none() && tls.identity().is_none());
    let missing = tls.missing(true).unwrap();
    assert!(missing.contains("which is not of the trust domain a"), "{missing}");
    write(&issue(&authority, &["spiffe://a/web"]), folder.path());
    tls.check_files(&metrics.tls);
    let configs = tls.configs().unwrap();
    assert_eq!((configs.names_services(), tls.trusted().unwrap().own().as_str()), (false, "a"));
    // A trust domain more needs no new identity.
    let serial = |tls: &Tls| tls.identity().unwrap().chain[0].facts.serial.clone();
    let before = serial(&tls);
    tls.set(settings("a", &[("b", &Authority::new())]), &metrics.tls).unwrap();
    let trusted = tls.trusted().unwrap();
    assert_eq!((serial(&tls), trusted.all().len(), trusted.to_string()), (before, 2, "a or b".into()));
    // Files that came before the documents are used at once.
    write(&issue(&authority, &["spiffe://c/web"]), folder.path());
    tls.check_files(&metrics.tls);
    tls.check_files(&metrics.tls);
    assert_eq!(tls.trusted().unwrap().own().as_str(), "a");
    tls.set(settings("c", &[]), &metrics.tls).unwrap();
    assert_eq!(tls.identity().unwrap().ids[0].as_str(), "spiffe://c/web");
}

#[tokio::test]
async fn tags_of_another_trust_domain_are_not_believed() {
    let (a, b) = (Authority::new(), Authority::new());
    let trusts = [("a", &a), ("b", &b)];
    let server = member("a", &a, &trusts);
    for (uris, issuer, count) in [
        (["spiffe://a/x", "kuma://kuma.io/service/admin"], &a, 1),
        (["spiffe://b/x", "kuma://kuma.io/service/admin"], &b, 0),
    ] {
        let (_, far) = both(&forger(&issue(issuer, &uris), &b, &trusts), &server, None).await;
        let (_, shaken) = far.unwrap_or_else(|error| panic!("{uris:?}: {error}"));
        assert_eq!(shaken.peer.tags.len(), count, "{uris:?}");
    }
}

#[tokio::test]
async fn a_server_in_place_of_a_local_workload_is_of_a_trust_domain_of_that_zone() {
    let (a, b) = (Authority::new(), Authority::new());
    let trusts = [("a", &a), ("b", &b)];
    let mut of_east = settings("a", &trusts);
    let trust = Arc::make_mut(of_east.trust.as_mut().unwrap());
    trust.local = LocalTrust { zone: Some("east".into()), domains: ["a".parse().unwrap()].into() };
    let domain: TrustDomain = "a".parse().unwrap();
    let identity =
        Identity::check(&issue(&a, &["spiffe://a/x"]), &domain, &Arc::new(provider()), now()).unwrap();
    let client = Configs::new(&identity, &domain, &of_east).unwrap();
    for (name, zone, of, passes) in [
        ("of this zone", Some("east"), "a", true),
        ("of this zone, by a foreign one", Some("east"), "b", false),
        ("of the only zone", None, "a", true),
        ("of the only zone, by a foreign one", None, "b", false),
        ("of another zone", Some("west"), "b", true),
        ("of another zone, by one of this", Some("west"), "a", true),
    ] {
        let server = member(of, if of == "a" { &a } else { &b }, &trusts);
        // The second handshake resumes the session of the first.
        for _ in 0..2 {
            let (near, _) = both(&client, &server, None).await;
            let (_, shaken) = near.unwrap_or_else(|error| panic!("{name}: {error}"));
            let zone = zone.map(|zone: &str| (ZONE.to_owned(), zone.to_owned()));
            let dialled =
                Member { dataplane: "d".into(), tags: Arc::new(Tags(zone.into_iter().collect())), ids: None };
            let address = IpAddr::from(Ipv4Addr::LOCALHOST);
            let checked = client.check_zone(&dialled, &shaken.peer, address);
            assert_eq!(checked.is_ok(), passes, "{name}");
            if let Err(error) = checked {
                assert_eq!(error.reason(), CloseReason::TlsIdentity);
                assert_eq!(error.to_string(), "the peer is spiffe://b/x, which is not of the trust domain a");
            }
        }
    }
}
