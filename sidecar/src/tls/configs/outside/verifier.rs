// SPDX-License-Identifier: Apache-2.0
//! Verifies the certificate of a server outside of the mesh, as far as its document wants that. The signature of the handshake
//! is always verified: the server has the key of the certificate that it shows.

use crate::plan::external::AltName;
use crate::tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;
use webpki::EndEntityCert;

/// The certificates that are accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) roots: Arc<RootCertStore>,
    /// The same as certificates, where a document has them: one of them may be the server's own. Kuma's authorities of
    /// external services are such certificates, and OpenSSL's libraries accept them.
    pub(super) own: Vec<CertificateDer<'static>>,
    /// Names, of which one is enough, beside the one that the server is asked for; `None` = every name.
    pub(super) names: Option<Box<[AltName]>>,
}

/// Verifies certificates; all are accepted without [`Accepted`].
#[derive(Debug)]
pub(super) struct Verifier {
    accepted: Option<Accepted>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(accepted: Option<Accepted>, provider: Arc<CryptoProvider>) -> Self {
        Self { accepted, provider }
    }
}

/// Verifies that a certificate is valid now.
fn is_valid(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let facts = certificate::facts(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = Duration::from_secs(now.as_secs());
    if facts.validity.until < now {
        return Err(CertificateError::Expired.into());
    }
    if facts.validity.from > now {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

/// Makes of a certificate that is an authority itself, and none of ours, what it is for people: one of an unknown authority.
fn unknown_authority(error: Error) -> Error {
    match &error {
        Error::InvalidCertificate(CertificateError::Other(other))
            if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) =>
        {
            CertificateError::UnknownIssuer.into()
        }
        _ => error,
    }
}

/// Returns true if a certificate has the name.
fn has(certificate: &EndEntityCert<'_>, name: &AltName) -> bool {
    match name {
        AltName::Exact(wanted) => {
            let is_host = ServerName::try_from(wanted.as_str())
                .is_ok_and(|wanted| certificate.verify_is_valid_for_subject_name(&wanted).is_ok());
            is_host || certificate.valid_uri_names().any(|uri| uri == wanted)
        }
        AltName::Prefix(begin) => {
            let mut uris = certificate.valid_uri_names();
            let begins = |host: &str| {
                host.get(..begin.len()).is_some_and(|of_host| of_host.eq_ignore_ascii_case(begin))
            };
            uris.any(|uri| uri.starts_with(begin.as_str())) || certificate.valid_dns_names().any(begins)
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(Accepted { roots, own, names }) = &self.accepted else {
            return Ok(ServerCertVerified::assertion());
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if own.iter().any(|own| own.as_ref() == end_entity.as_ref()) {
            is_valid(end_entity, now)?;
        } else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
                .map_err(unknown_authority)?;
        }
        if let Some(names) = names
            && let Err(error) = verify_server_name(&parsed, server_name)
        {
            let certificate =
                EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
            if !names.iter().any(|name| has(&certificate, name)) {
                return Err(error);
            }
        }
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
