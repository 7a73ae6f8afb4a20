// SPDX-License-Identifier: Apache-2.0
//! TLS to the pod's own application. A kubelet verifies nothing of it: an application may have a certificate that no library
//! would take today (X.509 version 1, RSA of 1,024 bits, of another name, expired), and be healthy.
//!
//! So the handshake's signature is not verified either, as that needs the certificate's key. [`Unverified`] is the only
//! verifier of the sidecar that does this, and nothing outside this module can name it or a configuration with it: TLS to
//! mesh members has its own, which verifies both. The answer decides about the health of this pod, which the application
//! could claim anyway.

use super::answer::{Answer, Malformed};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, LazyLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Signatures that a kubelet offers to take, by the list of Go's TLS.
const SCHEMES: [SignatureScheme; 12] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::ECDSA_SHA1_Legacy,
];

/// Takes every certificate and every signature.
#[derive(Debug)]
struct Unverified(());

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

fn config() -> Result<Arc<ClientConfig>, Error> {
    static CONFIG: LazyLock<Result<Arc<ClientConfig>, Error>> = LazyLock::new(|| {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(())))
            .with_no_client_auth();
        Ok(Arc::new(config))
    });
    CONFIG.clone()
}

/// Sends `request` and reads the answer, as far as it is needed.
pub(super) async fn exchange(mut tcp: TcpStream, request: &[u8], answer: &mut Answer) -> io::Result<()> {
    let failed = |error: Error| io::Error::new(ErrorKind::InvalidData, error);
    let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
    let mut tls = ClientConnection::new(config().map_err(failed)?, name).map_err(failed)?;
    tls.writer().write_all(request)?;
    let mut buffer = vec![0; 4096];
    loop {
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out)?;
        }
        tcp.write_all(&out).await?;
        let n = tcp.read(&mut buffer).await?;
        let mut ciphertext = &buffer[..n];
        while !ciphertext.is_empty() {
            tls.read_tls(&mut ciphertext)?;
            tls.process_new_packets().map_err(failed)?;
            if read(&mut tls, answer)? {
                return Ok(());
            }
        }
        if n == 0 {
            return Ok(answer.end()?);
        }
    }
}

/// Passes on the plaintext that is there. Returns true once no more is needed.
fn read(tls: &mut ClientConnection, answer: &mut Answer) -> io::Result<bool> {
    let mut plaintext = [0; 1024];
    loop {
        match tls.reader().read(&mut plaintext) {
            // TLS was closed in order.
            Ok(0) => return Ok(answer.end().map(|()| true)?),
            Ok(read) if answer.take(&plaintext[..read])? => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(ErrorKind::InvalidData, malformed)
    }
}

#[cfg(test)]
mod tests;
