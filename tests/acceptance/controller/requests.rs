// SPDX-License-Identifier: Apache-2.0
//! Certificates that kubelets ask for by the API, and the files that they make of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use culvert_tests::eventually;
use culvert_tests::until::until_some;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SigningKey};
use rustix::process::Signal;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Cluster, Controller, SOON, path, pod};

const OPTIONS: [&str; 2] = ["--identity", "requests"];
/// A P-521 key that openssl has signed a request with.
const P521: &[u8] = include_bytes!("../../../install/src/controller/authority/keys/p521-request.der");

/// A kubelet, which asks for its node's pods.
pub(super) struct Kubelet<'a> {
    cluster: &'a Cluster,
    version: &'static str,
}

/// A request of a kubelet, which keeps the key.
pub(super) struct Asked {
    at: String,
    key: KeyPair,
}

impl<'a> Kubelet<'a> {
    /// A kubelet of a cluster with both kinds in this version.
    pub(super) fn new(cluster: &'a Cluster, version: &'static str) -> Self {
        let of = format!("certificates.k8s.io/{version}");
        cluster.server.serve(&of, "podcertificaterequests", "PodCertificateRequest", true);
        cluster.server.serve(&of, "clustertrustbundles", "ClusterTrustBundle", false);
        Self { cluster, version }
    }

    /// Asks for a pod of `shop` as Kubernetes 1.36 does, with what a test changes.
    fn ask(&self, pod: &str, name: &str, change: impl FnOnce(&mut Value, &KeyPair)) -> Result<Asked> {
        self.ask_by(KeyPair::generate()?, (pod, name), change)
    }

    fn ask_by(
        &self,
        key: KeyPair,
        (pod, name): (&str, &str),
        change: impl FnOnce(&mut Value, &KeyPair),
    ) -> Result<Asked> {
        let stub = CertificateParams::default().serialize_request(&key)?;
        let mut spec = json!({
            "signerName": "culvert.dev/identity", "podName": pod, "podUID": format!("uid-{pod}"),
            "serviceAccountName": pod, "serviceAccountUID": "sa-uid", "nodeName": "node-1", "nodeUID": "node-uid",
            "maxExpirationSeconds": 7_862_400, "stubPKCS10Request": BASE64_STANDARD.encode(stub.der()),
        });
        change(&mut spec, &key);
        let at = format!(
            "/apis/certificates.k8s.io/{}/namespaces/shop/podcertificaterequests/{name}",
            self.version
        );
        self.cluster
            .server
            .put(&at, json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec }));
        Ok(Asked { at, key })
    }

    /// Asks for `shop/web`, and waits for the certificate.
    pub(super) fn signed(&self, name: &str) -> Result<(Asked, Value)> {
        let asked = self.ask("web", name, |_, _| {})?;
        let status = self.answer(&asked)?;
        ensure!(status["conditions"][0]["type"] == "Issued", "{status}");
        Ok((asked, status))
    }

    fn status(&self, asked: &Asked) -> Option<Value> {
        let status = self.cluster.server.get(&asked.at)?["status"].clone();
        status["conditions"].is_array().then_some(status)
    }

    fn answer(&self, asked: &Asked) -> Result<Value> {
        until_some(SOON, || self.status(asked)).with_context(|| format!("{} has no answer", asked.at))
    }

    /// The authorities, as the kubelet reads them.
    pub(super) fn roots(&self) -> Result<String> {
        let at = format!(
            "/apis/certificates.k8s.io/{}/clustertrustbundles/culvert.dev:identity:roots",
            self.version
        );
        let bundle = until_some(SOON, || self.cluster.server.get(&at)).context("no trust bundle")?;
        ensure!(bundle["spec"]["signerName"] == "culvert.dev/identity", "{bundle}");
        Ok(bundle["spec"]["trustBundle"].as_str().context("no text")?.to_owned())
    }

    /// Writes the volume as kubelets do: a new folder, and a link to it that takes the place of the last one.
    pub(super) fn project(&self, folder: &Path, (asked, status): &(Asked, Value), turn: u32) -> Result<()> {
        let now = folder.join(format!("..2026_11_29_{turn}"));
        fs::create_dir_all(&now)?;
        let chain = status["certificateChain"].as_str().context("no chain")?;
        for (name, text) in
            [("tls.crt", chain), ("tls.key", &asked.key.serialize_pem()), ("ca.crt", &self.roots()?)]
        {
            fs::write(now.join(name), text)?;
            if fs::symlink_metadata(folder.join(name)).is_err() {
                symlink(format!("..data/{name}"), folder.join(name))?;
            }
        }
        symlink(now.file_name().context("no name")?, folder.join("..data_tmp"))?;
        Ok(fs::rename(folder.join("..data_tmp"), folder.join("..data"))?)
    }
}

/// Checks a certificate as another member would, and returns its names.
fn verified(status: &Value, roots: &str) -> Result<Vec<String>> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build()?;
    let chain = status["certificateChain"].as_str().context("no chain")?;
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes())?;
    let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH)?);
    verifier.verify_client_cert(&leaf, &[], now)?;
    let (_, certificate) = X509Certificate::from_der(&leaf)?;
    let names = certificate.subject_alternative_name()?.context("no names")?.value.general_names.clone();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    names.iter().map(|name| text(name).with_context(|| format!("{name:?}"))).collect()
}

fn signatures(controller: &Controller, outcome: &str) -> Result<f64> {
    controller.metric(&format!("culvert_controller_signatures_total{{outcome=\"{outcome}\"}}"))
}

fn audits(controller: &Controller) -> usize {
    controller.process.stderr().text().matches("a certificate was signed").count()
}

#[test]
fn a_kubelet_gets_a_certificate_for_the_account_of_its_pod() -> Result<()> {
    for version in ["v1", "v1beta1"] {
        let cluster = Cluster::new()?;
        cluster.member("shop", "web", "10.0.0.1", "web");
        let kubelet = Kubelet::new(&cluster, version);
        let options = [&OPTIONS[..], &["--trust-domain", "example.org", "--identity-life", "2h"]].concat();
        let controller = cluster.controller(&options)?;
        let (asked, status) = kubelet.signed("one")?;
        let names = verified(&status, &kubelet.roots()?)?;
        assert_eq!(names, ["spiffe://example.org/ns/shop/sa/web"], "{version}");
        assert_eq!(status["conditions"][0]["reason"], "Signed");
        let audit = |line: &str| line.contains("a certificate was signed").then(|| line.to_owned());
        let audit = controller.process.stderr().wait_for(SOON, audit).context("no audit")?;
        for part in ["shop/web", "uid-web", "spiffe://example.org/ns/shop/sa/web", "serial"] {
            assert!(audit.contains(part), "{audit}");
        }
        eventually!(signatures(&controller, "Signed").is_ok_and(|signed| signed == 1.0), SOON);
        // The same authorities as in the ConfigMap, so that members by the stream are members too.
        assert_eq!(kubelet.roots()?, cluster.bundle()?);
        // The answer is final, and its life the controller's setting.
        let life = |status: &Value| {
            status["notBefore"]
                .as_str()
                .zip(status["notAfter"].as_str())
                .map(|(b, e)| (b.to_owned(), e.to_owned()))
        };
        let (begin, end) = life(&status).context("no life")?;
        assert_ne!(begin[..13], end[..13], "{status}");
        assert_eq!(kubelet.answer(&asked)?, status);
    }
    Ok(())
}

/// Kubernetes before 1.36 sends key and proof instead of a request; a pod may be new to the controller; and no life is shorter
/// than the API's hour.
#[test]
fn older_kubelets_new_pods_and_short_lives_are_served() -> Result<()> {
    let cluster = Cluster::new()?;
    let kubelet = Kubelet::new(&cluster, "v1beta1");
    let controller = cluster.controller(&[&OPTIONS[..], &["--identity-life", "10m"]].concat())?;
    let told = |line: &str| line.contains("--identity-life is below 1h").then_some(());
    controller.process.stderr().wait_for(SOON, told).context("it is not said")?;
    kubelet.roots()?;
    for (name, of) in [("p256", &PKCS_ECDSA_P256_SHA256), ("ed25519", &PKCS_ED25519)] {
        let old = |spec: &mut Value, key: &KeyPair| {
            let proof = key.sign(format!("uid-{name}").as_bytes()).unwrap_or_default();
            spec["stubPKCS10Request"] = Value::Null;
            spec["pkixPublicKey"] = BASE64_STANDARD.encode(key.subject_public_key_info()).into();
            spec["proofOfPossession"] = BASE64_STANDARD.encode(proof).into();
        };
        // Put there at the same moment: the watch of pods may be later.
        cluster.member("shop", name, "10.0.0.1", name);
        let asked = kubelet.ask_by(KeyPair::generate_for(of)?, (name, name), old)?;
        let status = kubelet.answer(&asked)?;
        let names = verified(&status, &kubelet.roots()?).with_context(|| format!("{name}: {status}"))?;
        assert_eq!(names, [format!("spiffe://cluster.local/ns/shop/sa/{name}")]);
    }
    Ok(())
}

#[test]
fn what_is_no_living_onboarded_pods_own_request_is_denied_with_the_reason() -> Result<()> {
    let cluster = Cluster::new()?;
    for (name, ip) in [("web", "10.0.0.1"), ("db", "10.0.0.2"), ("ended", "10.0.0.3")] {
        cluster.member("shop", name, ip, name);
    }
    cluster.outsider("shop", "bare", "10.0.0.4", "bare");
    let mut ended = pod("shop", "ended", "10.0.0.3", "ended", true);
    ended["status"]["phase"] = "Succeeded".into();
    cluster.server.put(&path("shop", "ended"), ended);
    let kubelet = Kubelet::new(&cluster, "v1");
    let controller = cluster.controller(&OPTIONS)?;
    let set = |field: &'static str, value: Value| move |spec: &mut Value| spec[field] = value;
    let mut broken = CertificateParams::default().serialize_request(&KeyPair::generate()?)?.der().to_vec();
    *broken.last_mut().context("empty")? ^= 1;
    type Change = Box<dyn FnOnce(&mut Value)>;
    let rows: Vec<(&str, &str, Change, &str)> = vec![
        ("account", "web", Box::new(set("serviceAccountName", "db".into())), "OtherAccount"),
        ("node", "web", Box::new(set("nodeName", "node-2".into())), "OtherNode"),
        ("uid", "web", Box::new(set("podUID", "uid-of-before".into())), "PodNotFound"),
        ("nobody", "nobody", Box::new(|_| {}), "PodNotFound"),
        ("ended", "ended", Box::new(|_| {}), "PodEnded"),
        ("bare", "bare", Box::new(|_| {}), "NotOnboarded"),
        (
            "curve",
            "db",
            Box::new(set("stubPKCS10Request", BASE64_STANDARD.encode(P521).into())),
            "UnsupportedKeyType",
        ),
        (
            "proof",
            "db",
            Box::new(set("stubPKCS10Request", BASE64_STANDARD.encode(&broken).into())),
            "InvalidProof",
        ),
        ("none", "db", Box::new(set("stubPKCS10Request", Value::Null)), "InvalidProof"),
        (
            "wish",
            "db",
            Box::new(set("unverifiedUserAnnotations", json!({ "a.example/b": "c" }))),
            "UnknownUserAnnotation",
        ),
    ];
    let number = rows.len();
    for (name, pod, change, reason) in rows {
        let asked = kubelet.ask(pod, name, |spec, _| change(spec))?;
        let status = kubelet.answer(&asked)?;
        let condition = &status["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["reason"]),
            (&json!("Denied"), &json!(reason)),
            "{name}: {status}"
        );
        assert!(status["certificateChain"].is_null(), "{name}: {status}");
    }
    // Another signer's is that signer's.
    let foreign = kubelet.ask("web", "foreign", |spec, _| spec["signerName"] = "example.com/other".into())?;
    kubelet.signed("good")?;
    assert_eq!(kubelet.status(&foreign), None);
    assert_eq!(audits(&controller), 1);
    let refused = || signatures(&controller, "Refused").is_ok_and(|refused| refused == number as f64);
    eventually!(refused(), SOON);
    Ok(())
}

#[test]
fn a_flood_for_one_pod_waits_and_keeps_no_other_pod_from_its_certificate() -> Result<()> {
    let cluster = Cluster::new()?;
    for (name, ip) in [("web", "10.0.0.1"), ("db", "10.0.0.2")] {
        cluster.member("shop", name, ip, name);
    }
    let kubelet = Kubelet::new(&cluster, "v1");
    let began = Instant::now();
    let flood: Vec<_> = (0..200)
        .map(|number| kubelet.ask("web", &format!("flood-{number}"), |_, _| {}))
        .collect::<Result<_>>()?;
    let controller = cluster.controller(&OPTIONS)?;
    let other = kubelet.answer(&kubelet.ask("db", "other", |_, _| {})?)?;
    assert_eq!(other["conditions"][0]["type"], "Issued");
    let answers = || flood.iter().filter_map(|asked| kubelet.status(asked)).collect::<Vec<_>>();
    eventually!(answers().len() >= 10, SOON);
    // Ten within a minute: none of the others is denied, which would be final.
    let answers = answers();
    assert!(answers.iter().all(|status| status["conditions"][0]["type"] == "Issued"));
    let minutes = began.elapsed().as_secs() / 60 + 1;
    assert!(answers.len() as u64 <= 10 * minutes, "{} of 200", answers.len());
    assert!(controller.page("/ready")?.status == 200);
    Ok(())
}

#[test]
fn an_api_server_without_the_kinds_is_asked_twice_and_told_of_once() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let controller = cluster.controller(&OPTIONS)?;
    let told = |line: &str| line.contains("serves no ClusterTrustBundle").then_some(());
    controller.process.stderr().wait_for(SOON, told).context("it is not said")?;
    // Identities by the stream are as ever, and each leads to a write and a read of the API server.
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate()?)?.der().to_vec();
    cluster.connect(&controller)?.sign(Some("token-web"), csr)?;
    let of_group =
        |asked: &culvert_tests::api_server::Asked| asked.path.starts_with("/apis/certificates.k8s.io");
    let asked = cluster.server.requests().iter().filter(|asked| of_group(asked)).count();
    assert_eq!(asked, 2, "one for each version");
    let text = controller.process.stderr().text();
    assert_eq!(text.matches("serves no PodCertificateRequest").count(), 1, "{text}");
    Ok(())
}

#[test]
fn a_controller_that_is_not_asked_to_never_looks_at_requests() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let kubelet = Kubelet::new(&cluster, "v1");
    let asked = kubelet.ask("web", "one", |_, _| {})?;
    let controller = cluster.controller(&[])?;
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate()?)?.der().to_vec();
    cluster.connect(&controller)?.sign(Some("token-web"), csr)?;
    assert_eq!(kubelet.status(&asked), None);
    assert!(!cluster.server.requests().iter().any(|asked| asked.path.contains("certificates.k8s.io")));
    Ok(())
}

/// One replica answers; the next one goes on where it stopped, and nothing is signed twice.
#[test]
fn the_next_leader_goes_on() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let kubelet = Kubelet::new(&cluster, "v1");
    let (one, two) = (cluster.starting("one", &OPTIONS)?, cluster.starting("two", &OPTIONS)?);
    one.until_ready()?;
    two.until_ready()?;
    kubelet.signed("first")?;
    let leads =
        |replica: &Controller| replica.metric("culvert_controller_leader").is_ok_and(|one| one == 1.0);
    eventually!(leads(&one) != leads(&two), SOON);
    let (mut leader, other) = if leads(&one) { (one, two) } else { (two, one) };
    assert_eq!((audits(&leader), audits(&other)), (1, 0));
    leader.process.signal(Signal::TERM)?;
    leader.process.wait(SOON)?;
    let asked: Vec<_> = (0..3)
        .map(|number| kubelet.ask("web", &format!("between-{number}"), |_, _| {}))
        .collect::<Result<_>>()?;
    for asked in &asked {
        assert_eq!(kubelet.answer(asked)?["conditions"][0]["type"], "Issued");
    }
    let serials: BTreeSet<_> = asked
        .iter()
        .filter_map(|asked| kubelet.status(asked))
        .map(|status| status["certificateChain"].to_string())
        .collect();
    assert_eq!((serials.len(), audits(&other)), (3, 3));
    Ok(())
}

/// An authority that is near its end signs nothing by the API, where an hour is the least; the next one is told of beside it.
#[test]
fn a_change_of_the_authority_reaches_the_trust_bundle_first() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let kubelet = Kubelet::new(&cluster, "v1");
    let controller = cluster.controller(&[&OPTIONS[..], &["--authority-life", "20s"]].concat())?;
    let asked = kubelet.ask("web", "one", |_, _| {})?;
    let told =
        |line: &str| line.contains("has no answer yet: the authority ends within the hour").then_some(());
    controller.process.stderr().wait_for(SOON, told).context("it is not said")?;
    let first = kubelet.roots()?;
    let both = || kubelet.roots().is_ok_and(|roots| roots.matches("BEGIN").count() == 2);
    eventually!(both(), SOON);
    assert!(kubelet.roots()?.starts_with(first.trim_end()), "the one that signs comes first");
    assert_eq!((kubelet.status(&asked), audits(&controller)), (None, 0));
    Ok(())
}

#[test]
fn a_trust_bundle_that_is_refused_is_tried_again_and_no_request_waits_for_it() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let kubelet = Kubelet::new(&cluster, "v1");
    let forbidden = culvert_tests::api_server::Fault::Status(403, None);
    cluster.server.fail_next("/clustertrustbundles", forbidden);
    let controller = cluster.controller(&OPTIONS)?;
    kubelet.signed("one")?;
    let told = |line: &str| {
        line.contains("cannot write ClusterTrustBundle culvert.dev:identity:roots").then_some(())
    };
    controller.process.stderr().wait_for(SOON, told).context("it is not said")?;
    kubelet.roots()?;
    Ok(())
}

/// Time for a look at the files, each second, and for a sidecar on a busy machine.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(20);
