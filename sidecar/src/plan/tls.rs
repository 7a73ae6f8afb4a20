// SPDX-License-Identifier: Apache-2.0
//! TLS versions and cipher suites, as documents choose them.

use rustls::CipherSuite;

/// What documents may say of TLS (`MeshTLS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The oldest version that is spoken.
    pub min: TlsVersion,
    /// The newest.
    pub max: TlsVersion,
    /// What is offered and taken, the best first.
    pub suites: Vec<CipherSuite>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    V12,
    /// 1.3.
    V13,
}

impl Default for TlsSettings {
    /// TLS 1.3 only: who is in the mesh speaks it. AES-128-GCM first: it takes a fifth less than AES-256 of the CPU, and
    /// is out of reach all the same.
    fn default() -> Self {
        Self {
            min: TlsVersion::V13,
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
        }
    }
}
