// SPDX-License-Identifier: Apache-2.0
//! The authorities of the image that the sidecar runs in. None are built in: who may vouch for servers is the operator's
//! decision, and a list in a program grows old with it.

use crate::tls::error::OutsideFault;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::cell::OnceCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

/// Variable that names the file, as OpenSSL and Go have it.
const VARIABLE: &str = "SSL_CERT_FILE";

/// The places in which distributions have the file.
const FILES: [&str; 5] = [
    // Debian, Alpine, and images without a distribution.
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora and its relatives.
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // openSUSE.
    "/etc/ssl/ca-bundle.pem",
    // Alpine's libraries, BSD.
    "/etc/ssl/cert.pem",
];

/// Longest file that is read; a distribution's has some 220 KiB.
const LONGEST: u64 = 8 * 1024 * 1024;

/// The authorities of the system, read when the first server needs them.
#[derive(Debug, Default)]
pub(crate) struct SystemRoots(OnceCell<Result<Arc<RootCertStore>, OutsideFault>>);

impl SystemRoots {
    /// Returns the authorities.
    pub(super) fn get(&self) -> Result<Arc<RootCertStore>, OutsideFault> {
        let read = || read(std::env::var_os(VARIABLE).as_deref(), &FILES.map(Path::new));
        self.0.get_or_init(read).clone()
    }
}

/// Reads the file that the variable names, else the first that is there.
fn read(variable: Option<&OsStr>, files: &[&Path]) -> Result<Arc<RootCertStore>, OutsideFault> {
    let named = variable.filter(|name| !name.is_empty()).map(Path::new);
    let path = match named {
        Some(named) => named,
        None => files.iter().copied().find(|path| path.is_file()).ok_or(OutsideFault::NoRoots)?,
    };
    let unreadable = |words: String| OutsideFault::Unreadable { path: path.to_owned(), words: words.into() };
    let length = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if length > LONGEST {
        return Err(unreadable(format!("it has more than {LONGEST} bytes")));
    }
    let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    // As every reader of such files does: one that is odd must not take all others along.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if roots.is_empty() { Err(OutsideFault::Empty(path.to_owned())) } else { Ok(Arc::new(roots)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::configs::outside::tests::Server;
    use std::path::PathBuf;

    #[test]
    fn the_variable_names_the_file_else_the_first_that_is_there_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let [good, odd, empty, gone] = ["good", "odd", "empty", "gone"].map(|name| folder.path().join(name));
        let pem = Server::new(&["a.test"]).authority;
        std::fs::write(&good, format!("# a comment\n{pem}{pem}")).unwrap();
        let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        std::fs::write(&odd, format!("{broken}{pem}")).unwrap();
        std::fs::write(&empty, "").unwrap();
        for (name, variable, files, expected) in [
            ("the first that is there", None, vec![&gone, &good, &empty], Ok(2)),
            ("an odd one beside a good one", None, vec![&odd], Ok(1)),
            ("the variable", Some(&odd), vec![&good], Ok(1)),
            ("none", None, vec![&gone], Err("this image has no file of authorities")),
            ("an empty one", None, vec![&empty], Err("holds no certificate")),
            ("the variable's is gone", Some(&gone), vec![&good], Err("cannot read")),
        ] {
            let files: Vec<&Path> = files.into_iter().map(PathBuf::as_path).collect();
            let found = read(variable.map(|path| path.as_os_str()), &files);
            match (found, expected) {
                (Ok(found), Ok(number)) => assert_eq!(found.len(), number, "{name}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{name}: {error}"),
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }
}
