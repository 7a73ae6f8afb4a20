// SPDX-License-Identifier: Apache-2.0
//! rustls' configuration for each side, from an identity and the documents' TLS settings.

use super::identity::Identity;
use super::sniff::ALPN;
use super::verify::Verifier;
use crate::plan::tls::{TlsSettings, TlsVersion};
use culvert_mesh::model::spiffe::TrustDomain;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};
use std::net::IpAddr;
use std::sync::Arc;

/// Servers whose sessions are kept, up to eight each: some 10 KiB a server. One more replaces one.
const SESSIONS: usize = 256;

/// Tickets for each client after a handshake. A client gets a new one each time that it uses one, so one is enough to resume
/// always; a second would be 1 KiB that most never use.
const TICKETS: usize = 1;

/// Returns the suites in the order of the settings, as rustls has them.
fn supported_suites(settings: &TlsSettings) -> Vec<SupportedCipherSuite> {
    let ours = ring::ALL_CIPHER_SUITES;
    settings
        .suites
        .iter()
        .filter_map(|wanted| ours.iter().find(|one| one.suite() == *wanted))
        .copied()
        .collect()
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    [(TlsVersion::V12, &version::TLS12), (TlsVersion::V13, &version::TLS13)]
        .into_iter()
        .filter(|(version, _)| (settings.min..=settings.max).contains(version))
        .map(|(_, version)| version)
        .collect()
}

/// Returns the one provider of cryptography.
pub(super) fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// Both sides' configuration of one identity. Sessions end with it, so a resumed one was verified by the same authorities.
#[derive(Debug)]
pub(crate) struct Configs {
    /// Configuration for inbound connections.
    pub(super) server: Arc<ServerConfig>,
    /// Configuration for outbound connections.
    pub(super) client: Arc<ClientConfig>,
    /// Sessions with servers, to be resumed.
    sessions: Arc<dyn ClientSessionStore>,
    /// Trust domain of the mesh's identities.
    pub(super) trust_domain: TrustDomain,
}

impl Configs {
    /// Makes both configurations.
    ///
    /// # Errors
    /// rustls', if versions and suites do not fit each other.
    pub(super) fn new(
        identity: &Identity,
        trust_domain: &TrustDomain,
        settings: &TlsSettings,
    ) -> Result<Self, rustls::Error> {
        let general = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
        let provider = Arc::new(CryptoProvider { cipher_suites: supported_suites(settings), ..provider() });
        let versions = versions(settings);
        let verifier = Verifier::new(Arc::clone(&identity.authorities), Arc::clone(&provider))
            .map_err(|error| general(&error))?;
        let verifier = Arc::new(verifier);
        let certificate = Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified)));

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_cert_resolver(Arc::clone(&certificate) as _);
        server.alpn_protocols = vec![ALPN.to_vec()];
        // The order of the settings counts, as its fastest suite comes first.
        server.ignore_client_order = true;
        // Sessions are in the clients' tickets, so that many clients take no memory here.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.ticketer = ring::Ticketer::new()?;
        server.send_tls13_tickets = TICKETS;
        // Without it a session of TLS 1.2 could be tied to another one's keys (RFC 7627).
        server.require_ems = true;

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(certificate);
        client.alpn_protocols = vec![ALPN.to_vec()];
        // The server is known by its identity; a name in clear text would show it to others on the way.
        client.enable_sni = false;
        client.require_ems = true;
        let sessions: Arc<dyn ClientSessionStore> = Arc::new(ClientSessionMemoryCache::new(SESSIONS));
        client.resumption = Resumption::store(Arc::clone(&sessions));
        let trust_domain = trust_domain.clone();
        Ok(Self { server: Arc::new(server), client: Arc::new(client), sessions, trust_domain })
    }

    /// Forgets the sessions with a server, so that the next handshake is a full one.
    pub(super) fn forget(&self, server: IpAddr) {
        let name = ServerName::IpAddress(server.into());
        self.sessions.remove_tls12_session(&name);
        while self.sessions.take_tls13_ticket(&name).is_some() {}
    }
}
