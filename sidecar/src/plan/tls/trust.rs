// SPDX-License-Identifier: Apache-2.0
//! Identity and trust of a pod that a MeshIdentity is about, as plain data.

use culvert_mesh::document::ZONE;
use culvert_mesh::model::spiffe::{SpiffeId, TrustDomain};
use culvert_mesh::model::tags::Tags;
use rustls::pki_types::CertificateDer;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The pod's identity, and the authorities that its peers are verified by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Trust domain of the pod's identity. Its authorities are those of `ca.crt` too.
    pub domain: TrustDomain,
    /// The pod's identity by its labels; `None` where they do not say it.
    pub id: Option<SpiffeId>,
    /// Authorities of MeshTrusts, by trust domain. A peer of another trust domain than these and the pod's own is refused.
    pub authorities: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    /// Trust domains of the workloads of this pod's zone.
    pub local: LocalTrust,
    /// The same for trust that believes the same peers, so that a handshake need not compare a thousand authorities.
    stamp: u64,
}

impl Trust {
    /// Puts a pod's identity and trust together.
    pub(crate) fn new(
        domain: TrustDomain,
        id: Option<SpiffeId>,
        authorities: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
        local: LocalTrust,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        domain.as_str().hash(&mut hasher);
        for (domain, certificates) in &authorities {
            domain.as_str().hash(&mut hasher);
            certificates.iter().for_each(|one| (**one).hash(&mut hasher));
        }
        Self { domain, id, authorities, local, stamp: hasher.finish() }
    }

    /// Returns true if both believe the same peers; without documents both believe those of `--identity`.
    pub(crate) fn is_same(one: Option<&Arc<Self>>, other: Option<&Arc<Self>>) -> bool {
        one.map(|trust| trust.stamp) == other.map(|trust| trust.stamp)
    }
}

/// Trust domains of the workloads of one zone. Every trusted one would do otherwise, so that a workload of any zone could
/// answer for a local service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalTrust {
    /// The zone; `None` where no document says it.
    pub zone: Option<Arc<str>>,
    /// Trust domains that documents give workloads of the zone. Empty: any that is trusted.
    pub domains: BTreeSet<TrustDomain>,
}

impl LocalTrust {
    /// Returns true if a workload with these tags may be of a trust domain. That of another zone's is not known here: its
    /// MeshIdentity is a document of that zone.
    pub(crate) fn allows(&self, domain: &str, tags: &Tags) -> bool {
        let zone = tags.0.get(ZONE).map(String::as_str);
        // A mesh of one zone says none.
        let is_local = zone.is_none() || zone == self.zone.as_deref();
        !is_local || self.domains.is_empty() || self.domains.iter().any(|one| one.as_str() == domain)
    }
}

/// Trust domains that an error lists.
const LISTED: usize = 5;

/// Trust domains that peers may be of, the own one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustDomains(Box<[TrustDomain]>);

impl TrustDomains {
    pub(crate) fn new<'d>(own: &'d TrustDomain, others: impl Iterator<Item = &'d TrustDomain>) -> Self {
        let others = others.filter(|other| *other != own);
        Self(std::iter::once(own).chain(others).cloned().collect())
    }

    /// Returns the trust domain of this pod.
    pub(crate) fn own(&self) -> &TrustDomain {
        &self.0[0]
    }

    /// Returns all, the own one first.
    pub(crate) fn all(&self) -> &[TrustDomain] {
        &self.0
    }

    /// Returns true if peers may be of the trust domain of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|domain| domain.as_str() == name)
    }
}

impl fmt::Display for TrustDomains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().take(LISTED).map(TrustDomain::as_str).collect();
        f.write_str(&names.join(" or "))?;
        match self.0.len().checked_sub(LISTED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " or {more} more"),
        }
    }
}
