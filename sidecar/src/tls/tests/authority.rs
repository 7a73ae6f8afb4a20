// SPDX-License-Identifier: Apache-2.0
//! An authority that makes identities as a test wants them.

use crate::plan::tls::TlsSettings;
use crate::tls::configs::{Configs, provider};
use crate::tls::identity::{Identity, Pem};
use culvert_mesh::model::spiffe::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Time since 1970.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

pub(super) fn mesh() -> TrustDomain {
    "default".parse().unwrap()
}

/// An authority of a mesh.
pub(super) struct Authority {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate to be.
#[derive(Clone)]
pub(super) struct Wish<'a> {
    pub(super) uris: &'a [&'a str],
    /// From and until, in seconds from now.
    pub(super) time: (i64, i64),
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self { uris: &["spiffe://default/web"], time: (-3600, 3600) }
    }
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // Chains are built by names: only signatures would distinguish two authorities of one name.
        params.distinguished_name.push(DnType::CommonName, format!("{:?}", std::time::Instant::now()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    pub(super) fn issue(&self, wish: &Wish<'_>) -> Pem {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            wish.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let at = |seconds: i64| {
            let now = i64::try_from(now().as_secs()).unwrap();
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((now + seconds).try_into().unwrap())
        };
        (params.not_before, params.not_after) = (at(wish.time.0), at(wish.time.1));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pem {
            chain: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            authorities: self.pem.clone().into_bytes(),
        }
    }

    /// Both sides' settings of a service of the mesh `default`.
    pub(super) fn configs(&self, service: &str) -> Configs {
        let uri = format!("spiffe://default/{service}");
        configs(&self.issue(&Wish { uris: &[&uri], ..Wish::default() }))
    }
}

/// Both sides' configuration of an identity, without the check of it.
pub(super) fn configs(pem: &Pem) -> Configs {
    let domain = mesh();
    let identity = Identity::check(pem, &domain, &Arc::new(provider()), now()).unwrap();
    Configs::new(&identity, &domain, &TlsSettings::default()).unwrap()
}

pub(super) fn write(pem: &Pem, folder: &Path) {
    std::fs::write(folder.join("tls.crt"), &pem.chain).unwrap();
    std::fs::write(folder.join("tls.key"), &pem.key).unwrap();
    std::fs::write(folder.join("ca.crt"), &pem.authorities).unwrap();
}
