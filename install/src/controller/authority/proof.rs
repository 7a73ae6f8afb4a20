// SPDX-License-Identifier: Apache-2.0
//! Proofs that a pod's node holds a key, as a PodCertificateRequest has them.

use rcgen::{CertificateSigningRequestParams, SubjectPublicKeyInfo};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo as Parsed;

use super::signing::MAX_REQUEST;

/// Smallest and largest RSA key that sidecars take, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A proof of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof<'a> {
    /// A certificate signing request, DER, that the key itself signed: from Kubernetes 1.36 on.
    Request(&'a [u8]),
    /// A key, DER, and its signature of the pod's uid: before that.
    Signature { key: &'a [u8], signature: &'a [u8], uid: &'a str },
}

/// Reasons why a proof is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProofError {
    #[error("key and proof have {0} bytes, more than {MAX_REQUEST}")]
    TooLong(usize),
    #[error("the key cannot be read: {0}")]
    Unreadable(String),
    #[error("keys of this type are not signed: ECDSAP256, ECDSAP384, ED25519, RSA3072 and RSA4096 are{0}")]
    Unsupported(&'static str),
    #[error("the proof is not by its key")]
    Broken,
}

impl Proof<'_> {
    /// Checks the proof, and returns its key.
    pub(crate) fn key(&self) -> Result<SubjectPublicKeyInfo, ProofError> {
        match self {
            Self::Request(request) => of_request(request),
            Self::Signature { key, signature, uid } => of_signature(key, signature, uid),
        }
    }
}

fn of_request(request: &[u8]) -> Result<SubjectPublicKeyInfo, ProofError> {
    if request.len() > MAX_REQUEST {
        return Err(ProofError::TooLong(request.len()));
    }
    let (_, parsed) = X509CertificationRequest::from_der(request)
        .map_err(|error| ProofError::Unreadable(error.to_string()))?;
    let key = supported(parsed.certification_request_info.subject_pki.raw)?;
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request)).map_err(
        |error| match error {
            rcgen::Error::InvalidCertificationRequestSignature => ProofError::Broken,
            other => ProofError::Unreadable(other.to_string()),
        },
    )?;
    Ok(key)
}

fn of_signature(key: &[u8], signature: &[u8], uid: &str) -> Result<SubjectPublicKeyInfo, ProofError> {
    let length = key.len() + signature.len();
    if length > MAX_REQUEST {
        return Err(ProofError::TooLong(length));
    }
    let checked = supported(key)?;
    let (_, parsed) = Parsed::from_der(key).map_err(|error| ProofError::Unreadable(error.to_string()))?;
    let by: &dyn VerificationAlgorithm = match parsed.parsed() {
        Ok(PublicKey::EC(point)) if point.key_size() == 256 => &ECDSA_P256_SHA256_ASN1,
        Ok(PublicKey::EC(_)) => &ECDSA_P384_SHA256_ASN1,
        // Go signs with the longest salt that fits, which ring does not verify.
        Ok(PublicKey::RSA(_)) => {
            return Err(ProofError::Unsupported(", RSA from Kubernetes 1.36 on"));
        }
        _ => &ED25519,
    };
    UnparsedPublicKey::new(by, &*parsed.subject_public_key.data)
        .verify(uid.as_bytes(), signature)
        .map_err(|_| ProofError::Broken)?;
    Ok(checked)
}

/// Reads a key of a type that the authority signs and a sidecar takes.
fn supported(der: &[u8]) -> Result<SubjectPublicKeyInfo, ProofError> {
    let (_, parsed) = Parsed::from_der(der).map_err(|error| ProofError::Unreadable(error.to_string()))?;
    let key = SubjectPublicKeyInfo::from_der(der).map_err(|error| match error {
        rcgen::Error::UnsupportedSignatureAlgorithm => ProofError::Unsupported(""),
        other => ProofError::Unreadable(other.to_string()),
    })?;
    match parsed.parsed() {
        Ok(PublicKey::RSA(rsa)) if !RSA_BITS.contains(&rsa.key_size()) => Err(ProofError::Unsupported("")),
        Ok(_) => Ok(key),
        Err(error) => Err(ProofError::Unreadable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
        PublicKeyData, SigningKey,
    };
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

    use super::*;

    fn request(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_proves_its_key() {
        for of in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(of).unwrap();
            let proved = Proof::Request(&request(&key)).key().unwrap();
            assert_eq!(proved.der_bytes(), key.der_bytes());
        }
        let mut other = request(&KeyPair::generate().unwrap());
        *other.last_mut().unwrap() ^= 1;
        assert_eq!(Proof::Request(&other).key(), Err(ProofError::Broken));
        assert!(matches!(Proof::Request(b"none").key(), Err(ProofError::Unreadable(_))));
        assert_eq!(Proof::Request(&[0; 5000]).key(), Err(ProofError::TooLong(5000)));
    }

    #[test]
    fn a_signature_of_the_uid_proves_its_key() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let (spki, signature) = (key.subject_public_key_info(), key.sign(b"uid-1").unwrap());
        let of = |signature: &[u8], uid: &str| Proof::Signature { key: &spki, signature, uid }.key();
        assert_eq!(of(&signature, "uid-1").unwrap().der_bytes(), key.der_bytes());
        assert_eq!(of(&signature, "uid-2"), Err(ProofError::Broken));
        assert_eq!(of(b"", "uid-1"), Err(ProofError::Broken));

        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let random = SystemRandom::new();
        let signer =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pair.serialize_der(), &random)
                .unwrap();
        let signature = signer.sign(&random, b"uid-1").unwrap();
        let spki = pair.subject_public_key_info();
        let proof = Proof::Signature { key: &spki, signature: signature.as_ref(), uid: "uid-1" };
        assert_eq!(proof.key().unwrap().der_bytes(), pair.der_bytes());
    }

    /// A P-521 key, and an RSA key of 1024 bits, as openssl made them.
    #[test]
    fn other_keys_are_not_supported() {
        let p521 = include_bytes!("keys/p521.der");
        let rsa1024 = include_bytes!("keys/rsa1024.der");
        let rsa3072 = include_bytes!("keys/rsa3072.der");
        for (key, of) in [(&p521[..], ""), (rsa1024, ""), (rsa3072, ", RSA from Kubernetes 1.36 on")] {
            let proof = Proof::Signature { key, signature: b"any", uid: "uid-1" };
            assert_eq!(proof.key(), Err(ProofError::Unsupported(of)));
        }
        let request = include_bytes!("keys/p521-request.der");
        assert_eq!(Proof::Request(request).key(), Err(ProofError::Unsupported("")));
        // As the kubelet makes it for keyType RSA3072.
        let request = include_bytes!("keys/rsa3072-request.der");
        assert_eq!(
            Proof::Request(request).key().unwrap().der_bytes().len(),
            supported(rsa3072).unwrap().der_bytes().len()
        );
    }
}
