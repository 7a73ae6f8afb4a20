// SPDX-License-Identifier: Apache-2.0
//! The mesh's authority: made, judged, changed and used. Pure but for the clock, which is an argument, and chance.
//!
//! ```text
//! current ──a tenth of its life is left──▶ current, next ──published for a day──▶ next, previous
//! ```
//! Members trust all three, and only the current one signs. So no member meets a certificate whose authority it has not heard of.

mod proof;
mod signing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub(crate) use self::proof::{Proof, ProofError};
pub(crate) use self::signing::{Signed, serving, sign, sign_key};

/// Keys of the Secret.
const CURRENT: [&str; 2] = ["tls.crt", "tls.key"];
const NEXT: [&str; 2] = ["next.crt", "next.key"];
const PREVIOUS: &str = "previous.crt";
/// Seconds since 1970 at which the next authority was published.
const SINCE: &str = "next-since";

/// Certificates begin so much before they are made, for nodes whose clock is behind.
const BEGINS_BEFORE: Duration = Duration::from_secs(3600);
/// Longest time for which the next authority is published before it signs: a sidecar that was away for it all the same hears of
/// it with its next certificate.
const PUBLISHED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Reasons why there is no authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("its certificate cannot be read: {0}")]
    Certificate(String),
    #[error("its key cannot be read: {0}")]
    Key(rcgen::Error),
    #[error("a certificate cannot be made: {0}")]
    NotMade(#[from] rcgen::Error),
}

/// A certificate of an authority with its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    certificate: String,
    key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Pair {
    /// Makes an authority of its own root.
    pub(crate) fn make(trust_domain: &str, life: Duration, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // A name of its own, or a verifier would have to try both during a change.
        let name = format!("culvert mesh CA {trust_domain} {}", seconds(now));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let at = |time: SystemTime| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds(time));
        (params.not_before, params.not_after) = (at(now - BEGINS_BEFORE), at(now + life));
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem() })
    }

    /// The authority as it signs, and the first and last second of its life.
    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        let key = KeyPair::from_pem(&self.key).map_err(AuthorityError::Key)?;
        if !signing::fits(&self.certificate, &key)? {
            return Err(AuthorityError::Certificate("the key is another one's".to_owned()));
        }
        Issuer::from_ca_cert_pem(&self.certificate, key)
            .map_err(|error| AuthorityError::Certificate(error.to_string()))
    }

    /// End of the certificate's life.
    fn end(&self) -> Result<SystemTime, AuthorityError> {
        signing::end(&self.certificate)
    }
}

/// The authorities that replicas share by their Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The one that signs.
    pub current: Pair,
    /// The one that follows it, and the time at which it was published.
    next: Option<(Pair, SystemTime)>,
    /// Certificate of the one before.
    previous: Option<String>,
}

impl Kept {
    /// Reads the Secret's data. None without a current authority; half a next one counts for nothing.
    pub(crate) fn read(data: &BTreeMap<String, String>) -> Option<Self> {
        let pair = |[certificate, key]: [&str; 2]| {
            Some(Pair { certificate: data.get(certificate)?.clone(), key: data.get(key)?.clone() })
        };
        let since = data.get(SINCE).and_then(|text| text.parse().ok()).map(Duration::from_secs);
        Some(Self {
            current: pair(CURRENT)?,
            next: pair(NEXT).zip(since.map(|since| UNIX_EPOCH + since)),
            previous: data.get(PREVIOUS).filter(|pem| one(pem).is_ok()).cloned(),
        })
    }

    /// The Secret's data.
    pub(crate) fn data(&self) -> BTreeMap<String, String> {
        let Self { current, next, previous } = self;
        let pair = |[certificate, key]: [&str; 2], pair: &Pair| {
            [(certificate.to_owned(), pair.certificate.clone()), (key.to_owned(), pair.key.clone())]
        };
        let mut data: BTreeMap<_, _> = pair(CURRENT, current).into();
        if let Some((next, since)) = next {
            data.extend(pair(NEXT, next));
            data.insert(SINCE.to_owned(), seconds(*since).to_string());
        }
        data.extend(previous.iter().map(|pem| (PREVIOUS.to_owned(), pem.clone())));
        data
    }

    /// Certificates of all authorities that members trust, in PEM.
    pub(crate) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|(next, _)| &next.certificate);
        let all = [Some(&self.current.certificate), next, self.previous.as_ref()];
        all.into_iter().flatten().map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    /// End of the one that signs.
    pub(crate) fn end(&self) -> Result<SystemTime, AuthorityError> {
        self.current.end()
    }

    /// Checks that the current authority can sign now.
    pub(crate) fn check(&self, now: SystemTime) -> Result<(), AuthorityError> {
        self.current.issuer()?;
        if self.current.end()? <= now {
            return Err(AuthorityError::Certificate("its life has ended".to_owned()));
        }
        Ok(())
    }
}

/// A step of the authority's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The first one, or one in place of a bad one, for this reason.
    Made(String),
    /// A next one is published.
    Published,
    /// The next one signs from now on.
    Signs,
}

/// Settings of authorities that the controller makes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub trust_domain: String,
    /// Life of an authority.
    pub life: Duration,
}

impl Plan {
    fn published_for(&self) -> Duration {
        PUBLISHED_FOR.min(self.life / 20)
    }

    /// The Secret's next content; None if it stays.
    pub(crate) fn next(
        &self,
        kept: Option<&Kept>,
        now: SystemTime,
    ) -> Result<Option<(Kept, Change)>, AuthorityError> {
        let make = || Pair::make(&self.trust_domain, self.life, now);
        let Some(kept) = kept else {
            let fresh = Kept { current: make()?, next: None, previous: None };
            return Ok(Some((fresh, Change::Made("there was none".to_owned()))));
        };
        if let Err(error) = kept.check(now) {
            // Nothing that it signed is worth anything any more.
            let fresh = Kept { current: make()?, next: None, previous: None };
            return Ok(Some((fresh, Change::Made(error.to_string()))));
        }
        let Kept { current, next, previous } = kept.clone();
        // As the Secret keeps it.
        let whole_seconds = UNIX_EPOCH + Duration::from_secs(seconds(now));
        match next {
            Some((next, since)) if since + self.published_for() <= now => {
                let previous = Some(current.certificate);
                Ok(Some((Kept { current: next, next: None, previous }, Change::Signs)))
            }
            Some(_) => Ok(None),
            None if current.end()? > now + self.life / 10 => Ok(None),
            None => Ok(Some((
                Kept { current, next: Some((make()?, whole_seconds)), previous },
                Change::Published,
            ))),
        }
    }
}

fn one(pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| AuthorityError::Certificate(error.to_string()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
