// SPDX-License-Identifier: Apache-2.0
//! Connections: TLS with a certificate of the server's own CA, and HTTP/1.1.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::answers;
use super::state::Shared;

/// A CA, and a server's certificate by it for this address.
pub(super) fn identity(address: SocketAddr) -> Result<(String, TlsAcceptor)> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![SanType::IpAddress(address.ip())];
    let certificate = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| anyhow!(error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("the server's own certificate")?;
    Ok((ca_certificate.pem(), TlsAcceptor::from(Arc::new(config))))
}

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if shared.state().script.is_away {
            continue;
        }
        let shared = Arc::clone(&shared);
        let mut ended = shared.ended.subscribe();
        tokio::spawn(async move {
            let tls = shared.state().tls.clone();
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answers::answer(request, Arc::clone(&shared)));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                // Dropped in the middle of whatever it does, as where the server dies.
                _ = ended.changed() => {}
            }
        });
    }
}
