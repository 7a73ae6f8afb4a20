// SPDX-License-Identifier: Apache-2.0
//! Certificates that the authority signs: those of members, and the one that the controller serves with.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AuthorityError, Kept, one, seconds};

/// Largest request that is read, in bytes: one with a P-256 key takes some 250, one with RSA 4096 some 1,200.
pub(super) const MAX_REQUEST: usize = 4096;
/// Certificates begin so much before they are signed, for nodes whose clock is behind.
const BEGINS_BEFORE: Duration = Duration::from_secs(300);

/// A certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// Certificates of all authorities that members trust, DER.
    pub roots: Vec<Vec<u8>>,
    /// Begin of its life, a whole second.
    pub begin: SystemTime,
    /// End of its life, a whole second.
    pub end: SystemTime,
    /// Its serial number, for the audit.
    pub serial: String,
}

/// Reasons why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SigningError {
    #[error("the request has {0} bytes, more than {MAX_REQUEST}")]
    TooLong(usize),
    #[error("the request cannot be read, or its signature is not by its key: {0}")]
    Request(rcgen::Error),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// Signs a certificate for an identity. Of the request only the public key counts.
pub(crate) fn sign(
    kept: &Kept,
    request: &[u8],
    id: &str,
    (now, life): (SystemTime, Duration),
) -> Result<Signed, SigningError> {
    if request.len() > MAX_REQUEST {
        return Err(SigningError::TooLong(request.len()));
    }
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(SigningError::Request)?;
    Ok(issued(kept, &request.public_key, id, (now - BEGINS_BEFORE, now + life))?)
}

/// Signs a certificate for a key, from one time to another. Nothing outlives the authority.
pub(crate) fn sign_key(
    kept: &Kept,
    key: &SubjectPublicKeyInfo,
    id: &str,
    times: (SystemTime, SystemTime),
) -> Result<Signed, AuthorityError> {
    issued(kept, key, id, times)
}

fn issued(
    kept: &Kept,
    key: &impl PublicKeyData,
    id: &str,
    (begin, end): (SystemTime, SystemTime),
) -> Result<Signed, AuthorityError> {
    let end = end.min(kept.current.end()?);
    let serial = serial();
    let mut params = params((begin, end), &serial);
    params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(key, &kept.current.issuer()?)?;
    let whole = |time: SystemTime| UNIX_EPOCH + Duration::from_secs(seconds(time));
    let (begin, end) = (whole(begin), whole(end));
    Ok(Signed {
        certificate: certificate.der().to_vec(),
        roots: roots(kept)?,
        begin,
        end,
        serial: hex(&serial),
    })
}

/// Makes a certificate for the controller's own names. Its key never leaves the process.
pub(crate) fn serving(
    kept: &Kept,
    names: &[String],
    (now, life): (SystemTime, Duration),
) -> Result<Arc<CertifiedKey>, AuthorityError> {
    let end = (now + life).min(kept.current.end()?);
    let key = KeyPair::generate()?;
    let mut params = params((now - BEGINS_BEFORE, end), &serial());
    params.subject_alt_names =
        CertificateParams::new(names.to_vec()).map_err(AuthorityError::NotMade)?.subject_alt_names;
    params.distinguished_name.push(DnType::CommonName, "culvert-controller");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &kept.current.issuer()?)?;
    let private = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| AuthorityError::Certificate(error.to_owned()))?;
    CertifiedKey::from_der(vec![certificate.der().clone()], private, &default_provider())
        .map(Arc::new)
        .map_err(|error| AuthorityError::Certificate(error.to_string()))
}

fn params((begin, end): (SystemTime, SystemTime), serial: &[u8]) -> CertificateParams {
    let at = |time: SystemTime| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds(time));
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(serial));
    (params.not_before, params.not_after) = (at(begin), at(end));
    params
}

/// 127 random bits: RFC 5280 wants a positive number of at most 20 bytes.
fn serial() -> [u8; 16] {
    let random = ring::rand::generate::<[u8; 16]>(&ring::rand::SystemRandom::new());
    let mut serial = random.expect("the kernel gives random bytes").expose();
    serial[0] &= 0x7f;
    serial
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn roots(kept: &Kept) -> Result<Vec<Vec<u8>>, AuthorityError> {
    use rustls::pki_types::pem::PemObject as _;
    let bundle = kept.bundle();
    let all = CertificateDer::pem_slice_iter(bundle.as_bytes());
    all.map(|one| one.map(|der| der.to_vec()).map_err(|error| AuthorityError::Certificate(error.to_string())))
        .collect()
}

/// Returns the end of a certificate's life.
pub(super) fn end(pem: &str) -> Result<SystemTime, AuthorityError> {
    let der = one(pem)?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|error| AuthorityError::Certificate(error.to_string()))?;
    let seconds = certificate.validity().not_after.timestamp();
    Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

/// Checks that a key is the one of a certificate.
pub(super) fn fits(pem: &str, key: &KeyPair) -> Result<bool, AuthorityError> {
    use rcgen::PublicKeyData as _;
    let der = one(pem)?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|error| AuthorityError::Certificate(error.to_string()))?;
    Ok(certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes())
}
