//! Identities that a controller on loopback signs.

use super::mock::{Authority, Mock, soon};
use super::stream::Sidecar;
use crate::connection::metrics::Metrics;
use crate::control::keep_signed;
use crate::options::config::IdentitySource;
use crate::plan::tls::TlsSettings;
use crate::tls::{Signed, Tls};
use culvert_control::SIGN;
use culvert_control::frame::{Frames, framed};
use culvert_control::messages::{SignRequest, SignResponse};
use hyper::Response;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// Takes the next request for a certificate, and answers it by the script. Other streams are let go.
async fn answer(mock: &Mock, status: &str, script: impl FnOnce(Vec<u8>) -> SignResponse) -> Vec<u8> {
    loop {
        let (request, mut respond, driver) = mock.call().await;
        if request.uri().path() != SIGN {
            continue;
        }
        assert_eq!(request.headers()["authorization"], "Bearer a.projected.token");
        let (mut body, mut frames) = (request.into_body(), Frames::default());
        while let Some(piece) = soon("a request", body.data()).await {
            frames.push(&piece.unwrap());
        }
        let SignRequest { csr } = frames.take().unwrap().unwrap();
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut answers = respond.send_response(head, false).unwrap();
        answers.send_data(framed(&script(csr.clone())), false).unwrap();
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        answers.send_trailers(trailers).unwrap();
        // Until the client has read all of it and is gone.
        soon("the end", driver).await.unwrap();
        return csr;
    }
}

fn response(authority: &Authority, csr: &[u8], life: Duration) -> SignResponse {
    let [certificate, root] = authority.sign(csr, ID, life);
    let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + life;
    let not_after = i64::try_from(end.as_secs()).unwrap();
    SignResponse { chain: vec![certificate], roots: vec![root], not_after }
}

#[tokio::test]
async fn an_identity_is_signed_used_renewed_with_another_key_and_asked_for_again_after_a_refusal() {
    let (serving, members) = (Authority::new(), Authority::new());
    let mock = Mock::new(&serving, "localhost");
    let sidecar = Sidecar::new(mock.address(), Some(&serving));
    let metrics = Metrics::default().tls;
    let domain = "default".parse().unwrap();
    let source = IdentitySource { folder: None, trust_domain: domain, names_services: true };
    let tls = Arc::new(Tls::start(Some(source), TlsSettings::default(), &metrics).unwrap());
    assert!(tls.missing(false).unwrap().contains("signed by the controller"));
    let (hand_on, mut came) = mpsc::unbounded_channel::<Signed>();
    let keeping = tokio::spawn(keep_signed(Arc::clone(&sidecar.control), move |signed| {
        hand_on.send(signed).unwrap();
    }));
    // Refused, it asks again.
    answer(&mock, "7", |csr| response(&members, &csr, Duration::from_secs(4))).await;
    let first = answer(&mock, "0", |csr| response(&members, &csr, Duration::from_secs(4))).await;
    let signed = soon("an identity", came.recv()).await.unwrap();
    assert!(!format!("{signed:?}").contains("key"), "{signed:?}");
    // Of a trust domain that is not the pod's yet: it is kept, and used once documents say so.
    tls.sign(signed, &metrics);
    assert!(tls.configs().is_none());
    assert!(tls.missing(false).unwrap().contains("not of the trust domain default"));
    let trust = crate::plan::tls::trust::Trust::new(
        "cluster.local".parse().unwrap(),
        None,
        Default::default(),
        Default::default(),
    );
    let settings = TlsSettings { trust: Some(Arc::new(trust)), ..TlsSettings::default() };
    tls.set(settings, &metrics).unwrap();
    assert_eq!(tls.identity().unwrap().ids[0].as_str(), ID);
    assert_eq!(tls.missing(true), None);
    // Before half of the life is over.
    let second = answer(&mock, "0", |csr| response(&members, &csr, Duration::from_secs(4))).await;
    assert_ne!(first, second);
    tls.sign(soon("a renewal", came.recv()).await.unwrap(), &metrics);
    assert_eq!(metrics.identity_reloads.get(), 2);
    // A bad one leaves the old one in use.
    let foreign = Signed { authorities: vec![], ..renewed(&mock, &members, &mut came).await };
    tls.sign(foreign, &metrics);
    assert!(tls.configs().is_some() && tls.complaint(false).unwrap().contains("ca.crt holds no certificate"));
    keeping.abort();
}

async fn renewed(mock: &Mock, members: &Authority, came: &mut mpsc::UnboundedReceiver<Signed>) -> Signed {
    answer(mock, "0", |csr| response(members, &csr, Duration::from_secs(4))).await;
    soon("a renewal", came.recv()).await.unwrap()
}
