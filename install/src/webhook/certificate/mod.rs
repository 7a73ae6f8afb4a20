// SPDX-License-Identifier: Apache-2.0
//! The webhook's serving certificate: made, judged and changed. Pure but for the clock and chance, which are arguments or
//! `rcgen`'s.
//!
//! Each certificate has a CA of its own, whose key is dropped once it has signed: nothing that is stored can sign another.
//! So a renewal is always a change of CA:
//!
//! ```text
//! current ──a third of its life is left──▶ current, next ──both CAs seen in the bundle for a while──▶ next, previous CA
//! ```

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;

/// Certificates begin so much before they are made, for API servers whose clock is behind.
const BEGINS_BEFORE: Duration = Duration::from_secs(3600);

/// Keys of the Secret.
const CURRENT: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
const NEXT: [&str; 3] = ["next.crt", "next.key", "next-ca.crt"];
const PREVIOUS_CA: &str = "previous-ca.crt";

/// Reasons why a certificate is none to serve with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it is refused: {0}")]
    Refused(rustls::Error),
}

/// A certificate that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("a certificate for the webhook cannot be made: {0}")]
pub(crate) struct NotMade(#[from] rcgen::Error);

/// A certificate, its key, and its CA's certificate, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    certificate: String,
    key: String,
    ca: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Pair {
    /// Makes a certificate for these names.
    pub(crate) fn make(names: &[String], life: Duration, now: SystemTime) -> Result<Self, NotMade> {
        let unix = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = |time: SystemTime| date_time_ymd(1970, 1, 1) + unix(time);
        let (begin, end) = (at(now - BEGINS_BEFORE), at(now + life));
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        // Its own name, or a verifier would have to try both CAs of a bundle.
        let name = format!("culvert-injector CA {}.{}", unix(now).as_secs(), unix(now).subsec_nanos());
        ca.distinguished_name.push(DnType::CommonName, name);
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (ca.not_before, ca.not_after) = (begin, end);
        let ca_certificate = ca.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "culvert-injector");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (begin, end);
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), ca: ca_certificate })
    }

    /// Checks it as an API server does that trusts its CA and dials `name` at that time.
    pub(crate) fn check(&self, name: &str, at: SystemTime) -> Result<(), Unfit> {
        let unreadable = |error: &dyn std::fmt::Display| Unfit::Unreadable(error.to_string());
        let mut roots = RootCertStore::empty();
        roots.add(one(&self.ca)?).map_err(|error| unreadable(&error))?;
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| unreadable(&error))?;
        let name = ServerName::try_from(name).map_err(|error| unreadable(&error))?;
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
        verifier
            .verify_server_cert(&one(&self.certificate)?, &[], &name, &[], at)
            .map(drop)
            .map_err(Unfit::Refused)?;
        self.load().map(drop)
    }

    /// The certificate as TLS takes it. Its key must fit.
    pub(crate) fn load(&self) -> Result<Arc<CertifiedKey>, Unfit> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| Unfit::Unreadable(format!("its key: {error}")))?;
        let loaded = CertifiedKey::from_der(vec![one(&self.certificate)?], key, &default_provider());
        loaded.map(Arc::new).map_err(|error| Unfit::Unreadable(error.to_string()))
    }
}

fn one(pem: &str) -> Result<CertificateDer<'static>, Unfit> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| Unfit::Unreadable(error.to_string()))
}

/// The certificates that replicas share by their Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The one that every replica serves with.
    pub current: Pair,
    /// The one that follows it, once its CA is known to the API servers.
    next: Option<Pair>,
    /// CA of the one before, for a replica that has not loaded the current one yet.
    previous_ca: Option<String>,
}

impl Kept {
    /// Reads the Secret's data. None if the current certificate is not whole; half a next one counts for nothing.
    pub(crate) fn read(data: &BTreeMap<String, String>) -> Option<Self> {
        let pair = |[certificate, key, ca]: [&str; 3]| {
            let of = |key: &str| data.get(key).cloned();
            Some(Pair { certificate: of(certificate)?, key: of(key)?, ca: of(ca)? })
        };
        Some(Self {
            current: pair(CURRENT)?,
            next: pair(NEXT),
            // A CA that cannot be read would spoil the whole bundle.
            previous_ca: data.get(PREVIOUS_CA).filter(|ca| one(ca).is_ok()).cloned(),
        })
    }

    /// The Secret's data.
    pub(crate) fn data(&self) -> BTreeMap<String, String> {
        let Self { current, next, previous_ca } = self;
        let pair = |names: [&str; 3], Pair { certificate, key, ca }: &Pair| {
            let texts = [certificate, key, ca].map(String::clone);
            names.map(str::to_owned).into_iter().zip(texts)
        };
        let mut data: BTreeMap<_, _> = pair(CURRENT, current).collect();
        data.extend(next.iter().flat_map(|next| pair(NEXT, next)));
        data.extend(previous_ca.iter().map(|ca| (PREVIOUS_CA.to_owned(), ca.clone())));
        data
    }

    /// True if the current certificate's CA is among these in PEM.
    pub(crate) fn is_trusted_by(&self, bundle: &str) -> bool {
        bundle.contains(self.current.ca.trim_end())
    }

    /// The CAs that API servers are to trust, in PEM. The same for each replica that has read the same Secret.
    pub(crate) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| &next.ca);
        let all = [Some(&self.current.ca), next, self.previous_ca.as_ref()];
        all.into_iter().flatten().map(|ca| format!("{}\n", ca.trim_end())).collect()
    }
}

/// Settings of a replica's certificates.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Names that the certificate has; the first is the one that API servers dial.
    pub names: Vec<String>,
    pub life: Duration,
}

impl Plan {
    /// Time before its end at which a certificate is renewed.
    fn margin(&self) -> Duration {
        self.life / 3
    }

    /// Time for API servers to notice that their bundle has another CA, which takes them below a second. 60 s with the
    /// default life; with one of seconds, as in a test, a part of it.
    pub(crate) fn settles_within(&self) -> Duration {
        (self.life / 60).clamp(Duration::from_secs(1), Duration::from_secs(60))
    }

    /// The Secret's next content; None if it stays. `serving` is the certificate that this replica serves, `is_settled` says that
    /// the API servers know the next CA.
    pub(crate) fn next(
        &self,
        (kept, serving): (Option<&Kept>, Option<Pair>),
        is_settled: bool,
        now: SystemTime,
    ) -> Result<Option<(Kept, Change)>, NotMade> {
        let make = || Pair::make(&self.names, self.life, now);
        let fits = |pair: &Pair, at: SystemTime| pair.check(&self.names[0], at);
        let Some(kept) = kept else {
            // Deleted to get another certificate, or by mistake: what replicas serve until they have it stays trusted.
            let previous_ca = serving.filter(|pair| fits(pair, now).is_ok()).map(|pair| pair.ca);
            let fresh = Kept { current: make()?, next: None, previous_ca };
            return Ok(Some((fresh, Change::Made("there was none, or not all of it".to_owned()))));
        };
        if let Err(unfit) = fits(&kept.current, now) {
            // No API server accepts it any more, so there is nothing to wait for.
            let previous_ca = Some(kept.current.ca.clone()).filter(|ca| one(ca).is_ok());
            let fresh = Kept { current: make()?, next: None, previous_ca };
            return Ok(Some((fresh, Change::Made(unfit.to_string()))));
        }
        let later = now + self.margin();
        let current = kept.current.clone();
        match &kept.next {
            Some(next) if fits(next, later).is_err() => {}
            Some(next) if is_settled => {
                let served = Kept { current: next.clone(), next: None, previous_ca: Some(current.ca) };
                return Ok(Some((served, Change::Serves)));
            }
            Some(_) => return Ok(None),
            None if fits(&kept.current, later).is_ok() => return Ok(None),
            None => {}
        }
        Ok(Some((Kept { current, next: Some(make()?), previous_ca: None }, Change::Announced)))
    }
}

/// A step of a certificate's renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A first certificate, or one in place of a bad one, for this reason.
    Made(String),
    /// A next one, whose CA goes into the bundle.
    Announced,
    /// The next one is the current one now.
    Serves,
}
