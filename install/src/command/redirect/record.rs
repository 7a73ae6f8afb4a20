// SPDX-License-Identifier: Apache-2.0
//! What `apply` changed beside its rules, kept for `remove`: one small JSON for each network namespace, named by its device
//! and inode, 0600, written by rename.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use culvert_cni::netns::NetnsId;
use culvert_cni::redirect::Footprint;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

/// The most that is read of a record, in bytes: a list of reserved ports is the largest part, and the kernel's limit for one
/// is below it.
const MAX_RECORD: u64 = 2 << 20;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Record {
    /// The engine that wrote the rules.
    pub engine: String,
    /// What was changed beside them.
    pub footprint: Footprint,
}

/// A record cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The file system.
    #[error("cannot {verb} {}: {source}; --state-dir names another folder", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} is no record of redirect apply ({source}): look at it, and remove it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// The place of one namespace's record.
#[derive(Debug, Clone)]
pub(crate) struct RecordFile {
    folder: PathBuf,
    path: PathBuf,
}

impl RecordFile {
    /// The record of namespace `id` in `folder`, neither of which need exist.
    pub(crate) fn new(folder: &Path, id: NetnsId) -> Self {
        let NetnsId { device, inode } = id;
        Self { folder: folder.to_owned(), path: folder.join(format!("redirect-{device}-{inode}.json")) }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The record, if there is one.
    pub(crate) fn read(&self) -> Result<Option<Record>, RecordError> {
        let mut bytes = Vec::new();
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&self.path)
            .and_then(|file| file.take(MAX_RECORD).read_to_end(&mut bytes));
        match opened {
            Ok(_) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| RecordError::Malformed { path: self.path.clone(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.error("read", source)),
        }
    }

    /// Makes sure, before anything is changed, that a record can be kept.
    pub(crate) fn prepare(&self) -> Result<Pending<'_>, RecordError> {
        let folder = |source| RecordError::File { verb: "make", path: self.folder.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(folder)?;
        let temporary = self.path.with_extension(format!("json.{}", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&temporary)
            .map_err(|source| self.error("write", source))?;
        Ok(Pending { record: self, file, temporary })
    }

    /// Forgets it; that there is none is fine.
    pub(crate) fn remove(&self) -> Result<(), RecordError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(self.error("remove", source)),
            Ok(()) => Ok(()),
        }
    }

    fn error(&self, verb: &'static str, source: io::Error) -> RecordError {
        RecordError::File { verb, path: self.path.clone(), source }
    }
}

/// A record that can be written; dropped, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Pending<'a> {
    record: &'a RecordFile,
    file: File,
    temporary: PathBuf,
}

impl Pending<'_> {
    /// Puts `record` in the place of an older one.
    pub(crate) fn commit(mut self, record: &Record) -> Result<(), RecordError> {
        let mut write = || {
            self.file.write_all(&serde_json::to_vec(record)?)?;
            self.file.sync_all()?;
            fs::rename(&self.temporary, &self.record.path)
        };
        write().map_err(|source| self.record.error("write", source))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        // Renamed already, as a rule; else there is nobody left to tell.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use culvert_cni::redirect::loopback::HopAddress;

    use super::*;

    #[test]
    fn a_record_is_private_whole_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        let file = RecordFile::new(&below, NetnsId { device: 4, inode: 7 });
        assert_eq!(file.read().unwrap(), None);
        let footprint = Footprint { hop_address: HopAddress::Added, sysctls: Vec::new() };
        let record = Record { engine: "nftables".to_owned(), footprint };

        drop(file.prepare().unwrap());
        assert_eq!(fs::read_dir(&below).unwrap().count(), 0, "nothing was written, nothing is left");
        file.prepare().unwrap().commit(&record).unwrap();
        assert_eq!(file.read().unwrap(), Some(record));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&below), mode(file.path())), (0o700, 0o600));
        assert_eq!(file.path(), below.join("redirect-4-7.json"));
        assert_eq!(fs::read_dir(&below).unwrap().count(), 1);

        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.read().unwrap(), None);
    }

    #[test]
    fn what_is_no_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = RecordFile::new(folder.path(), NetnsId { device: 4, inode: 7 });
        fs::write(file.path(), "{}").unwrap();
        assert!(file.read().unwrap_err().to_string().contains("redirect-4-7.json is no record"));
        let nowhere = RecordFile::new(Path::new("/dev/null/x"), NetnsId { device: 4, inode: 7 });
        assert!(nowhere.prepare().unwrap_err().to_string().contains("--state-dir"));
    }
}
