// SPDX-License-Identifier: Apache-2.0
//! Verifies that a peer's certificate is of one of the mesh's authorities and valid now. [`super::peer`] reads its identity.

use super::certificate;
use culvert_mesh::model::spiffe::TrustDomain;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Time before its begin from which a certificate is accepted: it was issued a moment ago by a clock that is ahead of this
/// one. Workload certificates are issued at a pod's start and used at once, and not every issuer dates them back (SPIRE and
/// Kuma do, by 10 s). None is accepted after its end: they are renewed long before.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Verifies peers of either side, each by the authorities of its own trust domain.
#[derive(Debug)]
pub(super) struct Verifier {
    own: Authorities,
    /// Authorities of other trust domains, by their names.
    others: HashMap<String, Authorities>,
    provider: Arc<CryptoProvider>,
}

/// Authorities of a trust domain.
#[derive(Debug)]
struct Authorities {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Authorities {
    fn new(roots: Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Self, VerifierBuilderError> {
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
            // A mesh member has one certificate and needs no hint which to send; a bundle's names would fill packets.
            .clear_root_hint_subjects()
            .build()?;
        Ok(Self { roots, clients })
    }
}

impl Verifier {
    pub(super) fn new(
        own: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        Ok(Self { own: Authorities::new(own, &provider)?, others: HashMap::new(), provider })
    }

    /// Adds the authorities of another trust domain than the own one.
    pub(super) fn add(
        &mut self,
        domain: &TrustDomain,
        roots: Arc<RootCertStore>,
    ) -> Result<(), VerifierBuilderError> {
        let authorities = Authorities::new(roots, &self.provider)?;
        self.others.insert(domain.as_str().into(), authorities);
        Ok(())
    }

    /// Returns the authorities that a certificate must be of: those of the trust domain of its first identity, as
    /// [`super::peer`] refuses a certificate of several. One of an unknown trust domain is refused there too; here it is
    /// verified by the own ones, so that the reason tells a foreign authority from a foreign name.
    fn authorities(&self, certificate: &CertificateDer<'_>) -> &Authorities {
        if self.others.is_empty() {
            return &self.own;
        }
        let ids = certificate::identities(certificate).unwrap_or_default();
        ids.first().and_then(|id| self.others.get(id.trust_domain())).unwrap_or(&self.own)
    }
}

/// Verifies again at a slightly later time, if the certificate is not valid yet.
fn tolerant<T>(now: UnixTime, verify: impl Fn(UnixTime) -> Result<T, Error>) -> Result<T, Error> {
    match verify(now) {
        Err(Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => verify(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + CLOCK_SKEW)),
        verified => verified,
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.own.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let Authorities { clients, .. } = self.authorities(end_entity);
        tolerant(now, |now| clients.verify_client_cert(end_entity, intermediates, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.own.clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.own.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.own.clients.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    /// Ignores the name: it is the dialled address, which is in no workload's certificate.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        tolerant(now, |now| {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.authorities(end_entity).roots,
                intermediates,
                now,
                algorithms,
            )
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
