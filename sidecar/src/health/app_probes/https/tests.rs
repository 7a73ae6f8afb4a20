// SPDX-License-Identifier: Apache-2.0
//! Certificates that only a kubelet takes. The server has none of their keys: a signature is as good as another.

use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{ServerConfig, ServerConnection, SignatureAlgorithm, SupportedProtocolVersion, version};

/// `openssl x509 -req` without extensions, over an RSA key of 1,024 bits.
const VERSION_1: &[u8] = include_bytes!("version-1-rsa-1024.pem");
/// `openssl req -x509` over a key of secp521r1.
const P_521: &[u8] = include_bytes!("p-521.pem");

/// A key that signs with so many bytes of its own making.
#[derive(Clone, Debug)]
struct NoKey(SignatureScheme, usize);

impl SigningKey for NoKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.0).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0 {
            SignatureScheme::RSA_PSS_SHA256 => SignatureAlgorithm::RSA,
            _ => SignatureAlgorithm::ECDSA,
        }
    }
}

impl Signer for NoKey {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(vec![7; self.1])
    }

    fn scheme(&self) -> SignatureScheme {
        self.0
    }
}

#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Answers one request on one connection.
fn serve(
    pem: &[u8],
    key: NoKey,
    version: &'static SupportedProtocolVersion,
) -> (std::net::SocketAddr, std::thread::JoinHandle<()>) {
    let certificate = CertificateDer::from_pem_slice(pem).unwrap();
    let one = One(Arc::new(CertifiedKey::new(vec![certificate], Arc::new(key))));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(one));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            let mut buffer = [0; 256];
            let read = stream.read(&mut buffer).unwrap();
            heard.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    });
    (at, serving)
}

#[tokio::test]
async fn what_a_kubelet_takes_is_taken() {
    for (name, pem, key) in [
        ("X.509 version 1, RSA-1024", VERSION_1, NoKey(SignatureScheme::RSA_PSS_SHA256, 128)),
        ("P-521", P_521, NoKey(SignatureScheme::ECDSA_NISTP521_SHA512, 138)),
    ] {
        for version in [&version::TLS12, &version::TLS13] {
            let (at, serving) = serve(pem, key.clone(), version);
            let tcp = TcpStream::connect(at).await.unwrap();
            let mut answer = Answer::new();
            let asked = exchange(tcp, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &mut answer).await;
            asked.unwrap_or_else(|error| panic!("{name}, {version:?}: {error}"));
            assert_eq!(answer.status(), 204, "{name}, {version:?}");
            serving.join().unwrap();
        }
    }
}

/// Mesh TLS has a test of its own that a certificate without its key is refused; this one holds that no other verifier comes.
#[test]
fn no_other_verifier_passes_a_signature_unchecked() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                // In two halves, so that this line is none.
                if text.contains(concat!("HandshakeSignatureValid", "::assertion")) {
                    found.push(path);
                }
            }
        }
    }
    let only = [std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/health/app_probes/https/mod.rs"
    ))];
    assert_eq!(found, only);
}
