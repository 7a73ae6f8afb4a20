// SPDX-License-Identifier: Apache-2.0
//! This workload's identity: `tls.crt` (its chain), `tls.key` and `ca.crt` (the authorities of the mesh), as cert-manager's
//! csi-driver-spiffe and SPIRE's agent write them. Pure but for the reading of the files.

use super::certificate::{self, CertificateFault, Facts};
use super::peer;
use super::verify::{CLOCK_SKEW, Verifier};
use crate::plan::tls::trust::TrustDomains;
use culvert_mesh::model::spiffe::{SpiffeId, TrustDomain};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{CertificateError, RootCertStore};
use std::fmt;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest file that is read. A bundle of a thousand authorities has some 700 KiB.
const LONGEST_FILE: u64 = 1024 * 1024;
/// Most certificates of a chain: the workload's, and the intermediates that sign each other.
const LONGEST_CHAIN: usize = 8;
const MOST_AUTHORITIES: usize = 1024;

/// Names of the three files: chain, key, authorities.
pub(crate) const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Fault of an identity, in words for the operator. No text has any part of the key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityFault {
    /// A file cannot be read.
    #[error(
        "cannot read {path}: {source}; does the volume hold tls.crt, tls.key and ca.crt, and may this uid read them?"
    )]
    Unreadable {
        /// Name of the file.
        path: PathBuf,
        /// Error of the kernel.
        source: std::io::Error,
    },
    /// A file has more than a mebibyte.
    #[error("{0} is longer than {LONGEST_FILE} bytes")]
    TooLong(PathBuf),
    /// A file has no such block of PEM.
    #[error("{file} holds no {what} in PEM")]
    NotPem {
        /// Name of the file.
        file: &'static str,
        /// The block that is missing.
        what: &'static str,
    },
    /// A file has more certificates than peers would verify.
    #[error("{file} holds {found} certificates; at most {most} are allowed")]
    TooMany {
        /// Name of the file.
        file: &'static str,
        /// Number of certificates in it.
        found: usize,
        /// Largest number that is accepted.
        most: usize,
    },
    /// A certificate cannot be used.
    #[error("certificate {number} of {file} cannot be used: {fault}")]
    Certificate {
        /// Name of the file.
        file: &'static str,
        /// Position in the file, from 1.
        number: usize,
        /// Fault of the certificate.
        fault: CertificateFault,
    },
    /// A certificate in `ca.crt` cannot be an authority.
    #[error("certificate {number} of ca.crt cannot be an authority: {source}")]
    Authority {
        /// Position in `ca.crt`, from 1.
        number: usize,
        /// Fault of the certificate.
        source: rustls::Error,
    },
    /// The key cannot be used.
    #[error("tls.key cannot be used: {0}; P-256, P-384, Ed25519 and RSA keys can")]
    Key(rustls::Error),
    /// The key is of another certificate. Also seen for a moment while a rotation writes one file after the other.
    #[error("tls.key is not the key of tls.crt")]
    OtherKey,
    /// The certificate is expired.
    #[error("tls.crt expired {0} s ago: its issuer (cert-manager, SPIRE) did not renew it")]
    Expired(u64),
    /// The certificate is not valid yet.
    #[error("tls.crt is not valid for another {0} s: is this node's clock right?")]
    NotYetValid(u64),
    /// Peers would not accept it: it is of no authority in `ca.crt`.
    #[error("tls.crt is of no authority in ca.crt, so every peer would refuse it: {0}")]
    Untrusted(rustls::Error),
    /// Peers would not accept its identity.
    #[error(
        "{0}: peers would refuse it; set --trust-domain, --mesh or the MeshIdentity's spiffeID.trustDomain to the trust domain of this mesh"
    )]
    NotOurs(super::error::PeerFault),
}

/// A certificate as `/certs` shows it.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// Serial number and validity.
    pub(crate) facts: Facts,
    /// URIs among its names; an authority may have none.
    pub(crate) uris: Vec<String>,
}

/// The workload's identity, checked as peers would check it.
pub(crate) struct Identity {
    /// Chain and private key.
    pub(super) certified: Arc<CertifiedKey>,
    /// Authorities that peers' certificates must be of.
    pub(super) authorities: Arc<RootCertStore>,
    /// Identities of the workload, at least one.
    pub(crate) ids: Vec<SpiffeId>,
    /// Chain for `/certs`, the workload's own certificate first.
    pub(crate) chain: Vec<Described>,
    pub(crate) bundle: Vec<Described>,
}

/// Leaves the key out.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("ids", &self.ids).field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// An identity that was signed for this pod. The key is nowhere else.
pub(crate) struct Signed {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    /// Authorities of the mesh.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
}

/// Leaves the key out.
impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Content of the three files.
pub(super) struct Pem {
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) authorities: Vec<u8>,
}

impl Pem {
    /// Reads all three, and returns all faults.
    pub(super) fn read(folder: &Path) -> Result<Self, Vec<IdentityFault>> {
        let [chain, key, authorities] = FILES.map(|name| read(&folder.join(name)));
        match (chain, key, authorities) {
            (Ok(chain), Ok(key), Ok(authorities)) => Ok(Self { chain, key, authorities }),
            (chain, key, authorities) => {
                Err([chain.err(), key.err(), authorities.err()].into_iter().flatten().collect())
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityFault> {
    let mut bytes = Vec::new();
    let unreadable = |source| IdentityFault::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(IdentityFault::TooLong(path.to_owned()));
    }
    Ok(bytes)
}

/// Chain, key and authorities.
type Parts = (Vec<CertificateDer<'static>>, Arc<dyn SigningKey>, Vec<CertificateDer<'static>>);

impl Identity {
    /// Checks an identity as a peer would.
    ///
    /// # Errors
    /// All faults of the three files, or else the first fault of the identity in them.
    pub(super) fn check(
        pem: &Pem,
        trust_domain: &TrustDomain,
        provider: &Arc<CryptoProvider>,
        now: Duration,
    ) -> Result<Self, Vec<IdentityFault>> {
        let chain = certificates(&pem.chain, FILES[0], LONGEST_CHAIN);
        let key = PrivateKeyDer::from_pem_slice(&pem.key)
            .map_err(|_| {
                vec![IdentityFault::NotPem { file: FILES[1], what: "private key (it must not be encrypted)" }]
            })
            .and_then(|key| {
                provider.key_provider.load_private_key(key).map_err(|error| vec![IdentityFault::Key(error)])
            });
        let bundle = certificates(&pem.authorities, FILES[2], MOST_AUTHORITIES);
        let (chain, key, bundle) = match (chain, key, bundle) {
            (Ok(chain), Ok(key), Ok(bundle)) => (chain, key, bundle),
            (chain, key, bundle) => {
                let faults = [chain.err(), key.err(), bundle.err()];
                return Err(faults.into_iter().flatten().flatten().collect());
            }
        };
        Self::checked((chain, key, bundle), trust_domain, provider, now)
    }

    /// Checks an identity that was signed, as a peer would.
    ///
    /// # Errors
    /// As of one in files.
    pub(super) fn check_signed(
        signed: &Signed,
        trust_domain: &TrustDomain,
        provider: &Arc<CryptoProvider>,
        now: Duration,
    ) -> Result<Self, Vec<IdentityFault>> {
        let Signed { chain, key, authorities } = signed;
        for (all, file, most) in [(chain, FILES[0], LONGEST_CHAIN), (authorities, FILES[2], MOST_AUTHORITIES)]
        {
            if all.is_empty() {
                return Err(vec![IdentityFault::NotPem { file, what: "certificate" }]);
            }
            if all.len() > most {
                return Err(vec![IdentityFault::TooMany { file, found: all.len(), most }]);
            }
        }
        let key = provider.key_provider.load_private_key(key.clone_key());
        let key = key.map_err(|error| vec![IdentityFault::Key(error)])?;
        Self::checked((chain.clone(), key, authorities.clone()), trust_domain, provider, now)
    }

    fn checked(
        (chain, key, bundle): Parts,
        trust_domain: &TrustDomain,
        provider: &Arc<CryptoProvider>,
        now: Duration,
    ) -> Result<Self, Vec<IdentityFault>> {
        let authorities = Arc::new(roots(&bundle)?);
        let one = |fault| vec![fault];
        let described = describe(&chain, FILES[0])?;
        let until = described[0].facts.validity.until;
        let from = described[0].facts.validity.from;
        if until < now {
            return Err(one(IdentityFault::Expired((now - until).as_secs())));
        }
        if from > now + CLOCK_SKEW {
            return Err(one(IdentityFault::NotYetValid((from - now).as_secs())));
        }
        let own = TrustDomains::new(trust_domain, std::iter::empty());
        let peer = peer::identify(Some(&chain), &own, None, now)
            .map_err(|fault| one(IdentityFault::NotOurs(fault)))?;
        let certified = CertifiedKey::new(chain, key);
        if certified.keys_match().is_err() {
            return Err(one(IdentityFault::OtherKey));
        }
        verify_ourselves(&certified.cert, &authorities, provider, now).map_err(one)?;
        Ok(Self {
            certified: Arc::new(certified),
            authorities,
            ids: peer.ids.to_vec(),
            chain: described,
            bundle: describe(&bundle, FILES[2])?,
        })
    }

    /// Returns the end of the workload's own certificate, in time since 1970.
    pub(crate) fn expires(&self) -> Duration {
        self.chain[0].facts.validity.until
    }

    /// Returns the earliest end of an authority, in time since 1970.
    pub(crate) fn authorities_expire(&self) -> Duration {
        self.bundle.iter().map(|one| one.facts.validity.until).min().unwrap_or_default()
    }
}

/// Verifies the chain as a client of this workload would.
fn verify_ourselves(
    chain: &[CertificateDer<'static>],
    authorities: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    now: Duration,
) -> Result<(), IdentityFault> {
    let untrusted = IdentityFault::Untrusted;
    let verifier = Verifier::new(Arc::clone(authorities), Arc::clone(provider))
        .map_err(|error| untrusted(rustls::Error::General(error.to_string())))?;
    let [leaf, intermediates @ ..] = chain else {
        return Err(untrusted(CertificateError::BadEncoding.into()));
    };
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    verifier
        .verify_server_cert(leaf, intermediates, &name, &[], UnixTime::since_unix_epoch(now))
        .map_err(untrusted)?;
    Ok(())
}

fn certificates(
    pem: &[u8],
    file: &'static str,
    most: usize,
) -> Result<Vec<CertificateDer<'static>>, Vec<IdentityFault>> {
    let not_pem = |what| vec![IdentityFault::NotPem { file, what }];
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .take(most + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| not_pem("whole certificate"))?;
    match all.len() {
        0 => Err(not_pem("certificate")),
        found if found > most => Err(vec![IdentityFault::TooMany { file, found, most }]),
        _ => Ok(all),
    }
}

fn roots(bundle: &[CertificateDer<'static>]) -> Result<RootCertStore, Vec<IdentityFault>> {
    let mut roots = RootCertStore::empty();
    let faults: Vec<_> = bundle
        .iter()
        .zip(1..)
        .filter_map(|(one, number)| {
            let added = roots.add(one.clone());
            added.err().map(|source| IdentityFault::Authority { number, source })
        })
        .collect();
    if faults.is_empty() { Ok(roots) } else { Err(faults) }
}

fn describe(all: &[CertificateDer<'_>], file: &'static str) -> Result<Vec<Described>, Vec<IdentityFault>> {
    let described = all.iter().zip(1..).map(|(one, number)| {
        let fault = |fault| vec![IdentityFault::Certificate { file, number, fault }];
        // An authority of X.509's first version has no names, and needs none.
        let uris = certificate::uris(one).unwrap_or_default().into_iter().map(str::to_owned).collect();
        Ok(Described { facts: certificate::facts(one).map_err(fault)?, uris })
    });
    described.collect()
}
