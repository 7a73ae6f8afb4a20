// SPDX-License-Identifier: Apache-2.0
//! `/certs`: the identity in Envoy's shape, without secrets.

use crate::net::clock::rfc3339;
use crate::plan::tls::trust::TrustDomains;
use crate::tls::{Described, FILES, Tls};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const DAY: u64 = 86_400;

/// Makes the page: certificates and authorities with their validity.
pub(super) fn page(tls: &Tls, now: SystemTime) -> Value {
    let Some(source) = tls.source() else {
        return json!({
            "certificates": [],
            "note": "no identity is configured (--identity, or --control-token), so connections are forwarded as they come",
        });
    };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let path = |file: &str| match &source.folder {
        Some(folder) => folder.join(file).display().to_string(),
        None => format!("signed by the controller: {file}"),
    };
    let certificates: Vec<_> = tls
        .identity()
        .iter()
        .map(|identity| {
            let of = |all: &[Described], file| {
                all.iter().map(|one| details(one, path(file), now)).collect::<Vec<_>>()
            };
            json!({"ca_cert": of(&identity.bundle, FILES[2]), "cert_chain": of(&identity.chain, FILES[0])})
        })
        .collect();
    let trusted = tls.trusted();
    let own = trusted.as_ref().map_or(&source.trust_domain, TrustDomains::own);
    let mut page = json!({ "certificates": certificates, "trust_domain": own.as_str() });
    if let Some([_, others @ ..]) = trusted.as_ref().map(TrustDomains::all)
        && !others.is_empty()
    {
        page["other_trust_domains"] = others.iter().map(|domain| domain.as_str()).collect();
    }
    if let Some(complaint) = tls.complaint(false) {
        page["note"] = complaint.into();
    }
    page
}

fn details(one: &Described, path: String, now: Duration) -> Value {
    let validity = one.facts.validity;
    let at = |time: Duration| rfc3339(SystemTime::UNIX_EPOCH + time);
    let uris: Vec<_> = one.uris.iter().map(|uri| json!({ "uri": uri })).collect();
    json!({
        "path": path,
        "serial_number": one.facts.serial,
        "subject_alt_names": uris,
        // A number as protobuf's JSON writes one of 64 bits.
        "days_until_expiration": (validity.until.saturating_sub(now).as_secs() / DAY).to_string(),
        "valid_from": at(validity.from),
        "expiration_time": at(validity.until),
    })
}
