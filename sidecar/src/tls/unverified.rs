// SPDX-License-Identifier: Apache-2.0
//! TLS to the pod's own application, for HTTPS probes only. The certificate is not verified; the kubelet does not verify it
//! either.

use super::configs::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use std::io::{self, Read, Write};
use std::sync::{Arc, LazyLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug)]
struct AnyCertificate(rustls::crypto::WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
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
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Sends `request` and reads until `enough` is true, at most `most` bytes.
pub(crate) async fn exchange(
    mut tcp: TcpStream,
    request: &[u8],
    most: usize,
    enough: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    static CONFIG: LazyLock<Result<Arc<ClientConfig>, Error>> = LazyLock::new(|| {
        let provider = Arc::new(provider());
        let any_certificate = Arc::new(AnyCertificate(provider.signature_verification_algorithms));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(any_certificate)
            .with_no_client_auth();
        Ok(Arc::new(config))
    });
    let failed = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let config = CONFIG.clone().map_err(failed)?;
    let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
    let mut tls = ClientConnection::new(config, name).map_err(failed)?;
    tls.writer().write_all(request)?;
    let mut came = Vec::new();
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
            let mut plaintext = [0; 1024];
            loop {
                match tls.reader().read(&mut plaintext) {
                    Ok(0) => break,
                    Ok(read) => came.extend_from_slice(&plaintext[..read]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        if n == 0 || enough(&came) || came.len() >= most {
            return Ok(came);
        }
    }
}
