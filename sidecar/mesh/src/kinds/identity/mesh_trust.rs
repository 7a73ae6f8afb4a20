// SPDX-License-Identifier: Apache-2.0
//! `MeshTrust`: the authorities of a trust domain.

use crate::context::Context;
use crate::kinds::Resource;
use crate::model::spiffe::TrustDomain;
use crate::read::part::Part;
use crate::read::{At, Read, fields, words};
use serde_json::{Value, json};

/// Begin of a certificate in PEM.
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

fields! {
    /// Authorities of a trust domain: peers of this domain are verified by them, and by no others. Those of all MeshTrusts of a domain count together.
    pub struct MeshTrust {
        /// The trust domain.
        trust_domain: required TrustDomain = "trustDomain",
        /// Its authorities.
        ca_bundles: required Vec<CaBundle> = "caBundles",
        /// The MeshIdentity that Kuma made it of; ignored.
        origin: optional TrustOrigin = "origin",
    }
}

fields! {
    /// Certificates of authorities.
    pub struct CaBundle {
        /// Only Pem.
        kind: required CaBundleKind = "type",
        /// The certificates.
        pem: required Pem = "pem",
    }
}

words! {
    /// Spellings of certificates.
    pub enum CaBundleKind {
        /// PEM.
        Pem = "Pem",
    }
}

fields! {
    /// Certificates in PEM.
    pub struct Pem {
        /// One certificate or several.
        value: required String = "value",
    }
}

fields! {
    /// The document that a MeshTrust was made of.
    pub struct TrustOrigin {
        /// Kuma's identifier of it.
        kri: optional String = "kri",
    }
}

impl Read for TrustDomain {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let domain = value.as_str().and_then(|text| text.parse().ok());
        domain.or_else(|| {
            at.wrong(value, "a trust domain: lower-case letters, digits, dots, dashes and underscores")
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[a-z0-9._-]{1,255}$"})
    }
}

impl Resource for MeshTrust {
    const NAME: &'static str = "MeshTrust";
    const HAS_SPEC: bool = true;

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let Ok(bundles) = part.items("caBundles") else { return };
        if bundles.is_empty() && part.has("caBundles") == Ok(true) {
            part.problem(at, "caBundles", "an empty list", "at least one item");
        }
        for pem in bundles.iter().map(|bundle| bundle.field("pem")) {
            if let Ok(value) = pem.need::<String>("value")
                && !value.contains(BEGIN)
            {
                pem.problem(at, "value", "text without a certificate", format!("{BEGIN} and so on"));
            }
        }
    }
}
