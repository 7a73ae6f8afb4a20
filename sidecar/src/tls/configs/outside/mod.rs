// SPDX-License-Identifier: Apache-2.0
//! rustls' configuration for servers outside of the mesh, as a document says it. Nothing of the mesh is in it: neither the
//! workload's identity nor the authorities of the mesh.

mod roots;
mod verifier;

pub(crate) use roots::SystemRoots;

use super::{provider, supported_suites, versions};
use crate::plan::external::{Authorities, ClientCertificate, ExternalTls, Verification};
use crate::plan::tls::TlsSettings;
use crate::tls::configs::outside::verifier::{Accepted, Verifier};
use crate::tls::error::OutsideFault;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::sync::Arc;

/// Tickets of a server that are kept; rustls keeps no more of one.
const SESSIONS: usize = 8;

/// TLS to servers outside of the mesh that have one name. Sessions are resumed for as long as it lives.
pub(crate) struct Outside {
    pub(in crate::tls) client: Arc<ClientConfig>,
    pub(in crate::tls) name: ServerName<'static>,
    /// True if certificates are verified, so that one that expired is refused in a resumed session too.
    pub(in crate::tls) verifies: bool,
    sessions: Arc<dyn ClientSessionStore>,
}

/// Leaves the client's certificate and its key out.
impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Outside {
    /// Makes the configuration of the settings.
    ///
    /// # Errors
    /// If the settings need the authorities of the system, and there are none.
    pub(crate) fn new(settings: &ExternalTls, system: &SystemRoots) -> Result<Self, OutsideFault> {
        let ExternalTls { server_name, verification, client, min, max } = settings;
        // The order of the mesh: the first suite takes the least CPU.
        let suites = supported_suites(&TlsSettings::default());
        let provider = Arc::new(CryptoProvider { cipher_suites: suites, ..provider() });
        let verifier = Arc::new(Verifier::new(accepted(verification, system)?, Arc::clone(&provider)));
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(*min, *max))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match client {
            Some(ClientCertificate { chain, key }) => {
                config.with_client_auth_cert(chain.clone(), key.0.clone_key())?
            }
            None => config.with_no_client_auth(),
        };
        let sessions: Arc<dyn ClientSessionStore> = Arc::new(ClientSessionMemoryCache::new(SESSIONS));
        config.resumption = Resumption::store(Arc::clone(&sessions));
        let verifies = *verification != Verification::Nothing;
        Ok(Self { client: Arc::new(config), name: server_name.clone(), verifies, sessions })
    }

    /// Forgets the sessions, so that the next handshake is a full one.
    pub(in crate::tls) fn forget(&self) {
        self.sessions.remove_tls12_session(&self.name);
        while self.sessions.take_tls13_ticket(&self.name).is_some() {}
    }
}

fn accepted(verification: &Verification, system: &SystemRoots) -> Result<Option<Accepted>, OutsideFault> {
    let (of, names) = match verification {
        Verification::Nothing => return Ok(None),
        Verification::Authorities(of) => (of, None),
        Verification::Names(of, names) => (of, Some(names.as_slice().into())),
    };
    let (roots, own) = match of {
        Authorities::System => (system.get()?, Vec::new()),
        Authorities::These(all) => (Arc::new(store(all)?), all.clone()),
    };
    Ok(Some(Accepted { roots, own, names }))
}

fn store(all: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for one in all {
        roots.add(one.clone())?;
    }
    Ok(roots)
}

#[cfg(test)]
pub(crate) mod tests;
