// SPDX-License-Identifier: Apache-2.0
//! Settings of TLS in documents of services outside of the mesh, in Kuma's meaning.
//!
//! | mode | authority | name | name that the server is asked for | client certificate |
//! |---|---|---|---|---|
//! | Secured | yes | serverName, or one of subjectAltNames | serverName, else the host's | yes |
//! | SkipSAN | yes | no | the host's | yes |
//! | SkipCA | no | no, as a name proves nothing without an authority | serverName, else the host's | yes |
//! | SkipAll | no | no | the host's | no |

use crate::plan::compile::CompileError;
use crate::plan::external::{
    AltName, Authorities, ClientCertificate, ExternalHost, ExternalTls, PrivateKey, Verification,
};
use crate::plan::tls::{TlsSettings, TlsVersion};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::mesh_tls::{Version, VersionRange};
use culvert_mesh::kinds::services::{
    DataSource, ExternalTls as Tls, ExternalVerification, OlderExternalTls, SanMatch, SanMatchKind,
    VerificationMode,
};
use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// Most certificates of a field. A distribution's bundle has some 140.
const MOST_CERTIFICATES: usize = 1024;

/// A value that cannot be used.
pub(super) struct Wrong {
    pub(super) found: String,
    pub(super) allowed: &'static str,
}

fn wrong(found: impl Into<String>, allowed: &'static str) -> Wrong {
    Wrong { found: found.into(), allowed }
}

/// The settings of a document, for all its servers.
pub(super) struct Settings {
    /// The name by the document; `None` = the host's.
    server_name: Option<Box<str>>,
    verification: Verification,
    client: Option<ClientCertificate>,
    min: TlsVersion,
    max: TlsVersion,
}

/// The certificates of a document.
struct Sources<'d> {
    ca: Option<&'d DataSource>,
    client: Option<&'d DataSource>,
    key: Option<&'d DataSource>,
}

impl Settings {
    /// Reads those of a MeshExternalService. A value that cannot be used is an error, and its part is left out.
    pub(super) fn of(tls: &Tls, document: &Document, errors: &mut Vec<CompileError>) -> Self {
        let verification = tls.verification.as_ref();
        let sources = Sources {
            ca: verification.and_then(|of| of.ca_cert.as_ref()),
            client: verification.and_then(|of| of.client_cert.as_ref()),
            key: verification.and_then(|of| of.client_key.as_ref()),
        };
        let (ca, client) = sources.read("spec.tls.verification", document, errors);
        let authorities = ca.map_or(Authorities::System, Authorities::These);
        let mode = verification.map_or(VerificationMode::Secured, ExternalVerification::mode);
        let names = || verification.map(|of| of.subject_alt_names.iter().map(alt_name).collect());
        let accepted = match mode {
            VerificationMode::Secured => Verification::Names(authorities, names().unwrap_or_default()),
            VerificationMode::SkipSan => Verification::Authorities(authorities),
            VerificationMode::SkipCa | VerificationMode::SkipAll => Verification::Nothing,
        };
        let asks = matches!(mode, VerificationMode::Secured | VerificationMode::SkipCa);
        let server_name = verification.and_then(|of| of.server_name.as_ref()).filter(|_| asks);
        let (min, max) = versions(tls.version.as_ref());
        Self {
            server_name: server_name.map(|name| name.0.clone()),
            verification: accepted,
            client: client.filter(|_| mode != VerificationMode::SkipAll),
            min,
            max,
        }
    }

    /// Reads those of an ExternalService. Without authorities Kuma verifies nothing.
    pub(super) fn of_older(
        tls: &OlderExternalTls,
        document: &Document,
        errors: &mut Vec<CompileError>,
    ) -> Self {
        let OlderExternalTls { ca_cert, client_cert, client_key, server_name, .. } = tls;
        let sources =
            Sources { ca: ca_cert.as_ref(), client: client_cert.as_ref(), key: client_key.as_ref() };
        let (ca, client) = sources.read("networking.tls", document, errors);
        let verification = match ca.map(Authorities::These) {
            None => Verification::Nothing,
            Some(ca) if tls.skip_hostname_verification => Verification::Authorities(ca),
            Some(ca) => Verification::Names(ca, Vec::new()),
        };
        let (min, max) = versions(None);
        let server_name = server_name.as_ref().map(|name| name.0.clone());
        Self { server_name, verification, client, min, max }
    }

    /// Returns the name of one server; `None` = its address. `first` is the name of the document's first server with one.
    pub(super) fn server_name(
        &self,
        host: &ExternalHost,
        first: Option<&str>,
    ) -> Result<Option<ServerName<'static>>, Wrong> {
        let own = match host {
            ExternalHost::Name(name) => Some(&**name),
            ExternalHost::Address | ExternalHost::Socket(_) => first,
        };
        match self.server_name.as_deref().or(own) {
            Some(name) => ServerName::try_from(name.to_owned()).map(Some).map_err(|_| {
                wrong(
                    format!("the name {name:?}, which no certificate can have"),
                    "a DNS name; serverName may say another one",
                )
            }),
            None if host.socket().is_some() && matches!(self.verification, Verification::Names(..)) => {
                let allowed = "serverName beside it, as the certificate has to have a name";
                Err(wrong("a Unix socket, which has no name", allowed))
            }
            None => Ok(None),
        }
    }

    /// Returns the TLS to servers of a name.
    pub(super) fn with_name(&self, server_name: ServerName<'static>) -> ExternalTls {
        let Self { verification, client, min, max, .. } = self;
        let (verification, client) = (verification.clone(), client.clone());
        ExternalTls { server_name, verification, client, min: *min, max: *max }
    }
}

fn versions(range: Option<&VersionRange>) -> (TlsVersion, TlsVersion) {
    let default = TlsSettings::default();
    let one = |version: Option<Version>, auto| match version {
        None | Some(Version::Auto) => auto,
        Some(Version::V12) => TlsVersion::V12,
        Some(Version::V13) => TlsVersion::V13,
    };
    let min = one(range.and_then(|range| range.min), default.min);
    (min, one(range.and_then(|range| range.max), default.max))
}

fn alt_name(san: &SanMatch) -> AltName {
    match san.kind() {
        SanMatchKind::Exact => AltName::Exact(san.value.clone()),
        SanMatchKind::Prefix => AltName::Prefix(san.value.clone()),
    }
}

impl Sources<'_> {
    /// Reads authorities and the client's certificate with its key, which the reader has found together.
    fn read(
        &self,
        path: &str,
        document: &Document,
        errors: &mut Vec<CompileError>,
    ) -> (Option<Vec<CertificateDer<'static>>>, Option<ClientCertificate>) {
        let mut note = |field: &str, wrong: Wrong| {
            errors.push(document.error(&format!("{path}.{field}"), wrong.found, wrong.allowed).into());
        };
        let ca = self.ca.and_then(|source| authorities(source).map_err(|why| note("caCert", why)).ok());
        let chain =
            self.client.and_then(|source| certificates(source).map_err(|why| note("clientCert", why)).ok());
        let key = self.key.and_then(|source| private_key(source).map_err(|why| note("clientKey", why)).ok());
        let client = chain.zip(key).and_then(|(chain, key)| {
            fits(&chain, &key).map_err(|why| note("clientKey", why)).ok()?;
            Some(ClientCertificate { chain, key: PrivateKey(Arc::new(key)) })
        });
        (ca, client)
    }
}

const CERTIFICATES: &str = "certificates in PEM, each as a whole";
const KEY: &str = "a private key in PEM that is not encrypted: P-256, P-384, Ed25519 or RSA";

fn certificates(source: &DataSource) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let all = CertificateDer::pem_slice_iter(source.pem()).take(MOST_CERTIFICATES + 1);
    let all: Vec<_> =
        all.collect::<Result<_, _>>().map_err(|_| wrong("text that is not PEM", CERTIFICATES))?;
    match all.len() {
        0 => Err(wrong("no certificate", CERTIFICATES)),
        found if found > MOST_CERTIFICATES => {
            Err(wrong(format!("more than {MOST_CERTIFICATES} certificates"), CERTIFICATES))
        }
        _ => Ok(all),
    }
}

fn authorities(source: &DataSource) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let all = certificates(source)?;
    let mut store = RootCertStore::empty();
    for (one, number) in all.iter().zip(1..) {
        store.add(one.clone()).map_err(|error| {
            wrong(format!("certificate {number}, which cannot be an authority: {error}"), CERTIFICATES)
        })?;
    }
    Ok(all)
}

fn private_key(source: &DataSource) -> Result<PrivateKeyDer<'static>, Wrong> {
    // Its text has no part of the key.
    let key =
        PrivateKeyDer::from_pem_slice(source.pem()).map_err(|_| wrong("text without a private key", KEY))?;
    any_supported_type(&key).map_err(|_| wrong("a key of another kind", KEY))?;
    Ok(key)
}

/// Checks that a key is that of the first certificate.
fn fits(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'static>) -> Result<(), Wrong> {
    let allowed = "the key of the first certificate of clientCert";
    let signs = any_supported_type(key).map_err(|_| wrong("a key of another kind", KEY))?;
    let certified = CertifiedKey::new(chain.to_vec(), signs);
    certified.keys_match().map_err(|_| wrong("a key of another certificate", allowed))
}
