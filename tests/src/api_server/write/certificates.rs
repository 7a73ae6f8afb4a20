// SPDX-License-Identifier: Apache-2.0
//! Kubernetes' own rules for PodCertificateRequests and ClusterTrustBundles: an answer that it would refuse is refused here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::super::encode::Refusal;
use super::super::path::Place;

const GROUP: &str = "certificates.k8s.io";
const TERMINAL: [&str; 3] = ["Issued", "Denied", "Failed"];

/// Checks a new state of such an object; other objects pass.
pub(super) fn check(place: &Place, old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
    let checked = if place.resource.is(GROUP, "clustertrustbundles") {
        bundle(new)
    } else if place.resource.is(GROUP, "podcertificaterequests") && place.is_part("status") {
        status(old.unwrap_or(&Value::Null), new)
    } else {
        return Ok(());
    };
    checked.map_err(|words| Refusal::new(422, words))
}

fn ensure(is: bool, words: &str) -> Result<(), String> {
    if is { Ok(()) } else { Err(words.to_owned()) }
}

fn is_terminal(request: &Value) -> bool {
    let conditions = request["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| TERMINAL.iter().any(|kind| one["type"] == *kind))
}

/// As `ValidatePodCertificateRequestStatusUpdate` of Kubernetes 1.36.
fn status(old: &Value, new: &Value) -> Result<(), String> {
    if is_terminal(old) {
        return ensure(
            old["status"] == new["status"],
            "status: immutable after PodCertificateRequest is issued, denied, or failed",
        );
    }
    let status = &new["status"];
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [condition] = conditions else { return Err("status.conditions: there may be one".to_owned()) };
    ensure(TERMINAL.iter().any(|kind| condition["type"] == *kind), "status.conditions[0].type")?;
    ensure(condition["status"] == "True", "status.conditions[0].status")?;
    for text in ["reason", "lastTransitionTime"] {
        ensure(
            condition[text].as_str().is_some_and(|text| !text.is_empty() && !text.contains(' ')),
            "status.conditions[0]: reason and time must be set",
        )?;
    }
    let others = ["certificateChain", "notBefore", "notAfter", "beginRefreshAt"];
    if condition["type"] != "Issued" {
        return ensure(
            others.iter().all(|field| status[*field].is_null()),
            "status: non-condition status fields must be empty",
        );
    }
    issued(&new["spec"], status)
}

fn issued(spec: &Value, status: &Value) -> Result<(), String> {
    let text = |field: &str| status[field].as_str().unwrap_or_default();
    let chain = CertificateDer::from_pem_slice(text("certificateChain").as_bytes())
        .map_err(|error| format!("status.certificateChain: {error:?}"))?;
    let (_, leaf) = X509Certificate::from_der(&chain).map_err(|error| error.to_string())?;
    ensure(
        leaf.public_key().raw == key(spec)?,
        "leaf certificate was not issued to the requested public key",
    )?;
    let at = |time: x509_parser::time::ASN1Time| {
        UNIX_EPOCH + Duration::from_secs(time.timestamp().try_into().unwrap_or_default())
    };
    let (begin, end) = (at(leaf.validity().not_before), at(leaf.validity().not_after));
    ensure(text("notBefore") == rfc3339(begin), "status.notBefore: must be the leaf's")?;
    ensure(text("notAfter") == rfc3339(end), "status.notAfter: must be the leaf's")?;
    let (now, near) = (SystemTime::now(), Duration::from_secs(300));
    ensure(
        begin > now - near && begin < now + near,
        "status.notBefore: must be set to within 5 minutes of kube-apiserver's current time",
    )?;
    let life = end.duration_since(begin).unwrap_or_default().as_secs();
    let most = spec["maxExpirationSeconds"].as_u64().unwrap_or(86_400);
    ensure(life >= 3600, "leaf certificate lifetime must be >= 1 hour")?;
    ensure(life <= most, "leaf certificate lifetime must be <= spec.maxExpirationSeconds")?;
    let margin = Duration::from_secs(600);
    let refresh = text("beginRefreshAt");
    // Times of one form compare as texts.
    let is_within = *refresh >= *rfc3339(begin + margin) && *refresh <= *rfc3339(end - margin);
    ensure(is_within, "status.beginRefreshAt: must be 10 minutes from both ends")
}

/// The key that a request is for, DER.
fn key(spec: &Value) -> Result<Vec<u8>, String> {
    let bytes = |field: &str| {
        let text = spec[field].as_str().unwrap_or_default();
        BASE64_STANDARD.decode(text).map_err(|error| format!("spec.{field}: {error}"))
    };
    let stub = bytes("stubPKCS10Request")?;
    if stub.is_empty() {
        return bytes("pkixPublicKey");
    }
    let (_, request) = X509CertificationRequest::from_der(&stub).map_err(|error| error.to_string())?;
    Ok(request.certification_request_info.subject_pki.raw.to_vec())
}

fn bundle(new: &Value) -> Result<(), String> {
    let signer = new["spec"]["signerName"].as_str().unwrap_or_default();
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    ensure(
        name.starts_with(&format!("{}:", signer.replace('/', ":"))),
        "metadata.name: must have the signer's name in front",
    )?;
    let text = new["spec"]["trustBundle"].as_str().unwrap_or_default();
    let all: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("spec.trustBundle: {error:?}"))?;
    ensure(!all.is_empty(), "spec.trustBundle: must contain at least one certificate")?;
    for (place, one) in all.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(one).map_err(|error| error.to_string())?;
        ensure(certificate.is_ca(), "spec.trustBundle: each must be a CA's")?;
        ensure(!all[..place].contains(one), "spec.trustBundle: duplicate")?;
    }
    Ok(())
}

fn rfc3339(time: SystemTime) -> String {
    culvert_cni::log::rfc3339(time, 0)
}
