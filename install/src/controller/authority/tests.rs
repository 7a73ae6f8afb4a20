// SPDX-License-Identifier: Apache-2.0
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::signing::Signed;
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn plan() -> Plan {
    Plan { trust_domain: "cluster.local".to_owned(), life: 3650 * DAY }
}

fn made(now: SystemTime) -> Kept {
    plan().next(None, now).unwrap().unwrap().0
}

/// A request that asks for more than it gets.
fn request() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params =
        CertificateParams::new(vec!["culvert-controller.culvert-system.svc".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .subject_alt_names
        .push(SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap()));
    params.is_ca = IsCa::NoCa;
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn store(roots: &[Vec<u8>]) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add(CertificateDer::from(root.clone())).unwrap());
    Arc::new(store)
}

fn accepts(signed: &Signed, roots: &[Vec<u8>], at: SystemTime) -> bool {
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(store(roots), provider).build().unwrap();
    verifier.verify_client_cert(&signed.certificate.clone().into(), &[], at).is_ok()
}

use std::sync::Arc;

#[test]
fn a_certificate_says_the_account_and_nothing_of_the_request() {
    let now = SystemTime::now();
    let kept = made(now);
    let signed = sign(&kept, &request(), ID, (now, DAY)).unwrap();
    let (_, certificate) = X509Certificate::from_der(&signed.certificate).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert_eq!(names, [GeneralName::URI(ID)]);
    assert!(!certificate.is_ca());
    assert_eq!(certificate.subject().iter().count(), 0);
    assert_eq!(hex_of(&certificate), signed.serial);
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap();
    assert_eq!(end, seconds(now + DAY));
    assert!(accepts(&signed, &signed.roots, now));
    assert!(!accepts(&signed, &signed.roots, now + 2 * DAY), "its life has ended");
    assert!(
        !accepts(&signed, &sign(&made(now), &request(), ID, (now, DAY)).unwrap().roots, now),
        "another root"
    );
    let other = sign(&kept, &request(), ID, (now, DAY)).unwrap();
    assert_ne!(other.serial, signed.serial);
}

fn hex_of(certificate: &X509Certificate<'_>) -> String {
    let text: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    // DER leaves out bytes that are zero in front.
    format!("{text:0>32}")
}

#[test]
fn a_request_that_is_none_is_refused() {
    let now = SystemTime::now();
    let kept = made(now);
    let whole = request();
    let mut other_key = whole.clone();
    *other_key.last_mut().unwrap() ^= 1;
    let wrong = [Vec::new(), b"no DER".to_vec(), whole[..whole.len() - 1].to_vec(), other_key, vec![0; 5000]];
    for bytes in wrong {
        assert!(sign(&kept, &bytes, ID, (now, DAY)).is_err(), "{} bytes", bytes.len());
    }
    assert!(sign(&kept, &whole, "spiffe://ümlaut", (now, DAY)).is_err());
}

#[test]
fn the_controller_has_its_names_and_no_member_has_them() {
    let now = SystemTime::now();
    let kept = made(now);
    let names = ["culvert-controller.culvert-system.svc".to_owned()];
    let served = serving(&kept, &names, (now, DAY)).unwrap();
    let roots = sign(&kept, &request(), ID, (now, DAY)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(store(&roots.roots), provider);
    let verifier = verifier.build().unwrap();
    let at = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
    let name = ServerName::try_from(names[0].clone()).unwrap();
    assert!(verifier.verify_server_cert(&served.cert[0], &[], &name, &[], at).is_ok());
    let member = CertificateDer::from(roots.certificate);
    assert!(verifier.verify_server_cert(&member, &[], &name, &[], at).is_err(), "a member is no controller");
}

#[test]
fn a_change_publishes_before_it_signs_and_keeps_what_signed() {
    let begin = SystemTime::now();
    let (plan, first) = (plan(), made(begin));
    assert_eq!(plan.next(Some(&first), begin + DAY).unwrap(), None);
    let late = begin + plan.life - plan.life / 20;
    let (both, change) = plan.next(Some(&first), late).unwrap().unwrap();
    assert_eq!((change, &both.current), (Change::Published, &first.current));
    let signed = sign(&both, &request(), ID, (late, DAY)).unwrap();
    assert_eq!(signed.roots.len(), 2);
    assert!(
        accepts(&signed, &sign(&first, &request(), ID, (late, DAY)).unwrap().roots, late),
        "the first signs still"
    );
    assert_eq!(plan.next(Some(&both), late + DAY - Duration::from_secs(2)).unwrap(), None);
    let later = late + DAY + Duration::from_secs(1);
    let (second, change) = plan.next(Some(&both), later).unwrap().unwrap();
    assert_eq!(change, Change::Signs);
    let next = sign(&second, &request(), ID, (later, DAY)).unwrap();
    assert!(accepts(&next, &signed.roots, later), "who was told of both takes it");
    assert!(accepts(&signed, &next.roots, late), "what the first one signed holds on");
    assert_eq!(plan.next(Some(&second), later + DAY).unwrap(), None);
    for kept in [first, both, second] {
        assert_eq!(Kept::read(&kept.data()), Some(kept));
    }
}

#[test]
fn a_bad_authority_is_made_anew_and_nothing_outlives_one() {
    let now = SystemTime::now();
    let (plan, good) = (plan(), made(now));
    let mut other_key = good.clone();
    other_key.current.key = made(now).current.key;
    let mut garbage = good.clone();
    garbage.current.certificate = "none".to_owned();
    let ended = Kept { current: Pair::make("cluster.local", DAY, now - 2 * DAY).unwrap(), ..good.clone() };
    for bad in [other_key, garbage, ended] {
        let (fresh, change) = plan.next(Some(&bad), now).unwrap().unwrap();
        assert!(matches!(change, Change::Made(_)));
        assert!(fresh.check(now).is_ok());
    }
    let short = Kept { current: Pair::make("cluster.local", DAY / 2, now).unwrap(), ..good };
    let signed = sign(&short, &request(), ID, (now, DAY)).unwrap();
    assert_eq!(seconds(signed.end), seconds(now + DAY / 2));
    assert_eq!(Kept::read(&BTreeMap::new()), None);
}
