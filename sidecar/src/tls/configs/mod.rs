// SPDX-License-Identifier: Apache-2.0
//! rustls' configuration for each side, from an identity and the documents' TLS settings.

pub(crate) mod outside;

use super::certificate;
use super::error::{PeerFault, TlsError};
use super::identity::Identity;
use super::sniff::ALPN;
use super::verify::Verifier;
use crate::plan::Member;
use crate::plan::tls::permissions::Peer;
use crate::plan::tls::trust::{Trust, TrustDomains};
use crate::plan::tls::{TlsSettings, TlsVersion};
use culvert_mesh::model::spiffe::{SpiffeId, TrustDomain};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version,
};
use std::borrow::Cow;
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

fn versions(min: TlsVersion, max: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    [(TlsVersion::V12, &version::TLS12), (TlsVersion::V13, &version::TLS13)]
        .into_iter()
        .filter(|(version, _)| (min..=max).contains(version))
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
    /// Trust domains that peers may be of.
    pub(super) trusted: TrustDomains,
    /// True if the path of an identity is the service's name.
    pub(super) names_services: bool,
    /// Trust of documents.
    trust: Option<Arc<Trust>>,
    /// First identity of this pod's certificate.
    own: Option<SpiffeId>,
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
        let provider = Arc::new(CryptoProvider { cipher_suites: supported_suites(settings), ..provider() });
        let versions = versions(settings.min, settings.max);
        let verifier = Arc::new(verifier(identity, trust_domain, settings, &provider)?);
        let key = Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified)));

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_cert_resolver(Arc::clone(&key) as _);
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
            .with_client_cert_resolver(key);
        client.alpn_protocols = vec![ALPN.to_vec()];
        // The server is known by its identity; a name in clear text would show it to others on the way.
        client.enable_sni = false;
        client.require_ems = true;
        let sessions: Arc<dyn ClientSessionStore> = Arc::new(ClientSessionMemoryCache::new(SESSIONS));
        client.resumption = Resumption::store(Arc::clone(&sessions));
        let others = settings.trust.iter().flat_map(|trust| trust.authorities.keys());
        let trusted = TrustDomains::new(trust_domain, others);
        let names_services = settings.trust.is_none();
        let (server, client, trust) = (Arc::new(server), Arc::new(client), settings.trust.clone());
        let leaf = identity.certified.cert.first().and_then(|leaf| certificate::identities(leaf).ok());
        let own = leaf.and_then(|ids| ids.into_iter().next());
        Ok(Self { server, client, sessions, trusted, names_services, trust, own })
    }

    /// Returns the identity that this pod proves.
    pub(crate) fn own(&self) -> Option<&SpiffeId> {
        self.own.as_ref()
    }

    /// Returns true if the path of an identity is the service's name.
    pub(crate) fn names_services(&self) -> bool {
        self.names_services
    }

    /// Returns the identities of which a server has one; `None` = any of the trust domain.
    pub(crate) fn server<'m>(&self, member: &'m Member) -> Option<Cow<'m, [SpiffeId]>> {
        if self.names_services {
            return Some(Cow::Owned(vec![SpiffeId::of_service(self.trusted.own(), member.service())]));
        }
        member.ids.as_deref().map(Cow::Borrowed)
    }

    /// Returns true if these are the settings of a plan with this trust.
    pub(crate) fn is_of(&self, trust: Option<&Arc<Trust>>) -> bool {
        Trust::is_same(self.trust.as_ref(), trust)
    }

    /// Checks that the server at `to`, a member by its certificate, is of a trust domain that the member which was dialled can
    /// have.
    ///
    /// # Errors
    /// If it is of another one. A full handshake comes next then: the server may have another certificate by now.
    pub(crate) fn check_zone(&self, member: &Member, peer: &Peer, to: IpAddr) -> Result<(), TlsError> {
        let (Some(trust), id) = (&self.trust, peer.id()) else { return Ok(()) };
        if trust.local.allows(id.trust_domain(), &member.tags) {
            return Ok(());
        }
        self.forget(to);
        let trusted = TrustDomains::new(self.trusted.own(), trust.local.domains.iter());
        Err(PeerFault::OtherTrustDomain { id: id.clone(), trusted }.into())
    }

    /// Forgets the sessions with a server, so that the next handshake is a full one.
    pub(super) fn forget(&self, server: IpAddr) {
        let name = ServerName::IpAddress(server.into());
        self.sessions.remove_tls12_session(&name);
        while self.sessions.take_tls13_ticket(&name).is_some() {}
    }
}

/// Makes the verifier of peers: each by the authorities of its own trust domain. Those in `ca.crt` are of this pod's.
fn verifier(
    identity: &Identity,
    own: &TrustDomain,
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
) -> Result<Verifier, rustls::Error> {
    let general = |error: rustls::server::VerifierBuilderError| rustls::Error::General(error.to_string());
    let all = || settings.trust.iter().flat_map(|trust| &trust.authorities);
    let mut roots = (*identity.authorities).clone();
    for certificate in all().filter(|(domain, _)| *domain == own).flat_map(|(_, certificates)| certificates) {
        roots.add(certificate.clone())?;
    }
    let mut verifier = Verifier::new(Arc::new(roots), Arc::clone(provider)).map_err(general)?;
    for (domain, certificates) in all().filter(|(domain, _)| *domain != own) {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone())?;
        }
        verifier.add(domain, Arc::new(roots)).map_err(general)?;
    }
    Ok(verifier)
}

/// Checks that versions and suites of the settings fit each other.
///
/// # Errors
/// rustls', if they do not.
pub(super) fn check(settings: &TlsSettings) -> Result<(), rustls::Error> {
    let provider = CryptoProvider { cipher_suites: supported_suites(settings), ..provider() };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    builder.with_protocol_versions(&versions(settings.min, settings.max)).map(|_| ())
}
