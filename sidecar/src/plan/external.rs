// SPDX-License-Identifier: Apache-2.0
//! Servers outside of the mesh as plain data: their addresses, and the TLS that the sidecar speaks to them.

use crate::plan::tls::TlsVersion;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// One address of a server outside of the mesh. It is no member: the mesh's TLS is not spoken to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalEndpoint {
    /// Address that connections dial. Of a Unix socket one that stands for it, and that no host has.
    pub address: SocketAddr,
    /// The server as its document names it.
    pub host: ExternalHost,
    /// TLS that the sidecar speaks to it; `None` = bytes pass as the application sends them.
    pub tls: Option<Arc<ExternalTls>>,
    /// Endpoints with the lowest number come first.
    pub priority: u32,
    /// Kind and name of its document.
    pub document: Arc<str>,
}

/// A server as a document names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExternalHost {
    /// By its address.
    Address,
    /// By this name, which has the address.
    Name(Arc<str>),
    /// By the path of a Unix socket.
    Socket(Arc<Path>),
}

impl ExternalHost {
    /// Returns the path of a Unix socket.
    pub fn socket(&self) -> Option<&Arc<Path>> {
        match self {
            Self::Socket(path) => Some(path),
            Self::Address | Self::Name(_) => None,
        }
    }
}

/// Returns the address that stands for a Unix socket where an address is needed: in tables and logs. It is of the prefix that
/// leads nowhere (RFC 6666), and the same for the same path.
pub fn stand_in(path: &Path) -> SocketAddr {
    let digest = ring::digest::digest(&ring::digest::SHA256, path.as_os_str().as_encoded_bytes());
    let half = |at: usize| u16::from_be_bytes([digest.as_ref()[at], digest.as_ref()[at + 1]]);
    SocketAddr::new(Ipv6Addr::new(0x100, 0, 0, 0, half(0), half(2), half(4), half(6)).into(), 0)
}

/// TLS to a server outside of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExternalTls {
    /// Name that the server is asked for. An address is not sent.
    pub server_name: ServerName<'static>,
    /// The certificates that are accepted.
    pub verification: Verification,
    /// This pod's certificate for such servers. Never its identity in the mesh.
    pub client: Option<ClientCertificate>,
    /// The oldest version that is spoken.
    pub min: TlsVersion,
    /// The newest version that is spoken.
    pub max: TlsVersion,
}

/// The certificates of servers that are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verification {
    /// Every one.
    Nothing,
    /// Those of these authorities, of every name.
    Authorities(Authorities),
    /// Those of these authorities that have the name that is asked for, or one of the others.
    Names(Authorities, Vec<AltName>),
}

/// The authorities of servers' certificates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authorities {
    /// Those of the image that the sidecar runs in.
    System,
    /// Those of a document. A certificate may be its server's own.
    These(Vec<CertificateDer<'static>>),
}

/// A name among those of a certificate: DNS name, address or URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AltName {
    /// This one.
    Exact(String),
    /// One that begins so.
    Prefix(String),
}

/// A certificate of this pod, with its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// The certificate, and those between it and its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first.
    pub key: PrivateKey,
}

/// A private key. No text shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub Arc<PrivateKeyDer<'static>>);

/// Leaves the key out: its certificate stands beside it.
impl Hash for PrivateKey {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_the_same_address_each_time_and_another_one_another() {
        let of = |path: &str| stand_in(Path::new(path));
        assert_eq!(of("/run/a.sock"), of("/run/a.sock"));
        assert_ne!(of("/run/a.sock"), of("/run/b.sock"));
        assert!(of("/run/a.sock").to_string().starts_with("[100::"), "{}", of("/run/a.sock"));
    }
}
