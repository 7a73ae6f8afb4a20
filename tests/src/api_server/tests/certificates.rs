// SPDX-License-Identifier: Apache-2.0
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use super::{APPLY, MERGE, patch, send, server};

const AT: &str = "/apis/certificates.k8s.io/v1/namespaces/shop/podcertificaterequests";
const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
const HOUR: i64 = 3600;

/// An answer with a certificate for a key, whose times are seconds from now.
fn issued(key: &KeyPair, (begin, refresh, end): (i64, i64, i64)) -> Result<Value> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let seconds = |from_now: i64| Duration::from_secs(now.saturating_add_signed(from_now));
    let text = |from_now: i64| culvert_cni::log::rfc3339(SystemTime::UNIX_EPOCH + seconds(from_now), 0);
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1) + seconds(begin);
    params.not_after = date_time_ymd(1970, 1, 1) + seconds(end);
    Ok(json!({
        "certificateChain": params.self_signed(key)?.pem(),
        "notBefore": text(begin), "notAfter": text(end), "beginRefreshAt": text(refresh),
        "conditions": [{ "type": "Issued", "status": "True", "reason": "Signed", "lastTransitionTime": text(0) }],
    }))
}

#[test]
fn answers_to_requests_keep_kubernetes_rules() -> Result<()> {
    let server = server()?;
    server.serve("certificates.k8s.io/v1", "podcertificaterequests", "PodCertificateRequest", true);
    let key = KeyPair::generate()?;
    let stub = CertificateParams::default().serialize_request(&key)?;
    let spec =
        json!({ "maxExpirationSeconds": 86_400, "stubPKCS10Request": BASE64_STANDARD.encode(stub.der()) });
    let (code, _) = send(&server, "POST", AT, &json!({ "metadata": { "name": "a" }, "spec": spec }))?;
    assert_eq!(code, 201);
    let write =
        |status: &Value| patch(&server, MERGE, &format!("{AT}/a/status"), &json!({ "status": status }));
    let other = KeyPair::generate()?;
    let mut wrong_time = issued(&key, (-60, HOUR, 2 * HOUR))?;
    wrong_time["notAfter"] = "2026-01-01T00:00:00Z".into();
    let denied = json!({ "type": "Denied", "status": "True", "reason": "No", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let mut both = issued(&key, (-60, HOUR, 2 * HOUR))?;
    both["conditions"] = json!([denied]);
    let mut nameless = denied.clone();
    nameless["reason"] = "".into();
    for (name, status) in [
        ("another key", issued(&other, (-60, HOUR, 2 * HOUR))?),
        ("too long ago", issued(&key, (-300, HOUR, 2 * HOUR))?),
        ("too short", issued(&key, (-60, HOUR / 2, HOUR - 61))?),
        ("too long", issued(&key, (-60, HOUR, 24 * HOUR))?),
        ("renewed too late", issued(&key, (-60, 2 * HOUR - 500, 2 * HOUR))?),
        ("renewed too soon", issued(&key, (-60, 500, 2 * HOUR))?),
        ("another end", wrong_time),
        ("a certificate with a denial", both),
        ("no condition", json!({ "certificateChain": "x" })),
        ("two conditions", json!({ "conditions": [denied, denied] })),
        ("no reason", json!({ "conditions": [nameless] })),
    ] {
        assert_eq!(write(&status)?.0, 422, "{name}");
    }
    let good = issued(&key, (-60, HOUR, 2 * HOUR))?;
    assert_eq!(write(&good)?.0, 200);
    assert_eq!(write(&json!({ "conditions": [denied] }))?.0, 422, "an answer is final");
    assert_eq!(write(&good)?.0, 200, "the same again is no change");
    Ok(())
}

#[test]
fn trust_bundles_keep_kubernetes_rules() -> Result<()> {
    let server = server()?;
    server.serve("certificates.k8s.io/v1", "clustertrustbundles", "ClusterTrustBundle", false);
    let mut params = CertificateParams::default();
    let leaf = params.self_signed(&KeyPair::generate()?)?.pem();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&KeyPair::generate()?)?.pem();
    let write = |name: &str, text: &str| {
        let bundle = json!({ "apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": { "name": name },
                             "spec": { "signerName": "a.example/b", "trustBundle": text } });
        let at = format!("{BUNDLES}/{name}?fieldManager=me");
        Ok::<_, anyhow::Error>(patch(&server, APPLY, &at, &bundle)?.0)
    };
    for (name, text) in [
        ("roots", root.clone()),
        ("a.example:c:roots", root.clone()),
        ("a.example:b:roots", leaf),
        ("a.example:b:roots", root.repeat(2)),
        ("a.example:b:roots", "none".to_owned()),
    ] {
        assert_eq!(write(name, &text)?, 422, "{name} {text}");
    }
    assert_eq!(write("a.example:b:roots", &root)?, 201);
    server.get(&format!("{BUNDLES}/a.example:b:roots")).context("it is not there")?;
    Ok(())
}
