//! An authority of a mesh that issues identities as a test wants them.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// A certificate authority of a mesh, or of strangers.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate to be.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    /// The URIs that it is made out to.
    pub uris: &'a [&'a str],
    /// From and until, in seconds from now.
    pub time: (i64, i64),
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self { uris: &["spiffe://default/web"], time: (-3600, 3600) }
    }
}

/// A workload's certificate and key, and the authorities that it trusts, in PEM.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The certificate, and those between it and the authority.
    pub certificate: String,
    /// The private key of the certificate.
    pub key: String,
    /// The certificates of the authorities that it trusts.
    pub authorities: String,
}

impl Authority {
    /// An authority of this name.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its private key in PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues an identity that believes this authority.
    pub fn issue(&self, wish: &Wish<'_>) -> Result<Credentials> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            wish.uris.iter().map(|uri| Ok(SanType::URI((*uri).try_into()?))).collect::<Result<_>>()?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let at = |seconds: i64| {
            let time = now.saturating_add_signed(seconds);
            date_time_ymd(1970, 1, 1) + Duration::from_secs(time)
        };
        (params.not_before, params.not_after) = (at(wish.time.0), at(wish.time.1));
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Credentials {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            authorities: self.pem.clone(),
        })
    }

    /// Issues the identity of a service of the mesh `default`.
    pub fn service(&self, name: &str) -> Result<Credentials> {
        let uri = format!("spiffe://default/{name}");
        self.issue(&Wish { uris: &[&uri], ..Wish::default() })
    }
}

impl Credentials {
    /// Writes the three files that `--identity` reads, each at once. The authorities come first: whoever sees the new certificate
    /// is a member that believes them.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        for (name, text) in
            [("ca.crt", &self.authorities), ("tls.key", &self.key), ("tls.crt", &self.certificate)]
        {
            let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
            fs::write(&new, text)
                .and_then(|()| fs::rename(&new, &path))
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}
