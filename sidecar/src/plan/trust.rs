// SPDX-License-Identifier: Apache-2.0
//! Identity and trust of a pod that a MeshIdentity is about, as plain data.

use culvert_mesh::model::spiffe::{SpiffeId, TrustDomain};
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::fmt;

/// The pod's identity, and the authorities that its peers are verified by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Trust domain of the pod's identity. Its authorities are those of `ca.crt` too.
    pub domain: TrustDomain,
    /// The pod's identity by its labels; `None` where they do not say it.
    pub id: Option<SpiffeId>,
    /// Authorities of MeshTrusts, by trust domain. A peer of another trust domain than these and the pod's own is refused.
    pub authorities: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
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
