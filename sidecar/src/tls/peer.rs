// SPDX-License-Identifier: Apache-2.0
//! The identity of a peer. Read after each handshake, also after a resumed one, which verifies no certificate. Pure.

use super::certificate::{self, CertificateFault};
use super::error::PeerFault;
use crate::plan::tls::permissions::Peer;
use crate::plan::tls::trust::TrustDomains;
use culvert_mesh::model::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;
use std::time::Duration;

/// Reads the peer's identity from its certificate.
///
/// # Errors
/// If there is none, if it is of a trust domain that is not trusted, if its names are of several trust domains, if it is not
/// an expected one, or if the certificate is expired.
pub(crate) fn identify(
    chain: Option<&[CertificateDer<'_>]>,
    trusted: &TrustDomains,
    expected: Option<&[SpiffeId]>,
    now: Duration,
) -> Result<Peer, PeerFault> {
    let leaf = chain.and_then(<[_]>::first).ok_or(PeerFault::NoCertificate)?;
    let unusable = |fault: CertificateFault| PeerFault::Unusable(fault);
    if certificate::facts(leaf).map_err(unusable)?.validity.until < now {
        return Err(PeerFault::Expired);
    }
    let ids = certificate::identities(leaf).map_err(unusable)?;
    // The authorities of the first name's trust domain verified the certificate, and vouch for no name of another.
    let domain = ids[0].trust_domain();
    let is_foreign = |id: &&SpiffeId| id.trust_domain() != domain || !trusted.has(domain);
    if let Some(foreign) = ids.iter().find(is_foreign) {
        return Err(PeerFault::OtherTrustDomain { id: foreign.clone(), trusted: trusted.clone() });
    }
    if let Some(expected) = expected.filter(|expected| !expected.iter().any(|one| ids.contains(one))) {
        return Err(PeerFault::OtherServer { id: ids[0].clone(), expected: expected.into() });
    }
    let uris = certificate::uris(leaf).map_err(unusable)?;
    // Tags are those of this mesh's services, which only its own authorities know.
    let own = trusted.own().as_str() == domain;
    let tags = uris.into_iter().filter(|_| own).filter_map(tag).collect();
    Ok(Peer { ids: ids.into(), tags })
}

/// Splits a tag such as `kuma://kuma.io/zone/east`: the value is behind the last slash.
fn tag(uri: &str) -> Option<(String, String)> {
    let (key, value) = uri.strip_prefix("kuma://")?.rsplit_once('/')?;
    Some((key.to_owned(), value.to_owned()))
}
