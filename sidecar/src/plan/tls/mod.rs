// SPDX-License-Identifier: Apache-2.0
//! TLS versions and cipher suites that documents choose.

pub(crate) mod permissions;
pub(crate) mod trust;

use crate::plan::tls::trust::Trust;
use rustls::CipherSuite;
use std::sync::Arc;

/// Settings of TLS that documents may change (`MeshTLS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The oldest version that is spoken.
    pub min: TlsVersion,
    /// The newest version that is spoken.
    pub max: TlsVersion,
    /// Suites that are offered and accepted, the best first.
    pub suites: Vec<CipherSuite>,
    /// Identity and trust by MeshIdentity and MeshTrust. Without, those of `--identity` alone.
    pub trust: Option<Arc<Trust>>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2, the newest that Envoy speaks as a client where nothing else is configured.
    V12,
    /// TLS 1.3, which every sidecar of culvert speaks.
    V13,
}

impl Default for TlsSettings {
    /// TLS 1.2 and 1.3: a sidecar of Kong Mesh offers 1.2 when it calls, and members of culvert agree on 1.3. AES-128-GCM
    /// first: it takes a fifth less CPU than AES-256, and is beyond attack all the same.
    fn default() -> Self {
        Self {
            min: TlsVersion::V12,
            max: TlsVersion::V13,
            suites: vec![
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
            trust: None,
        }
    }
}
