// SPDX-License-Identifier: Apache-2.0
//! Record of what `apply` changed beside its rules, for `remove`: one small JSON for each network namespace, named by
//! its device and inode, mode 0600, written by rename.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use culvert_cni::netns::NetnsId;
use culvert_cni::redirect::Footprint;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

/// Largest record that is read, in bytes: the list of reserved ports is the largest part, and the kernel's limit for
/// it is below that.
const MAX_RECORD: u64 = 2 << 20;

/// Content of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Record {
    /// Engine that wrote the rules.
    pub engine: String,
    /// Changes beside the rules.
    pub footprint: Footprint,
}

/// Reasons why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The file system refused.
    #[error("cannot {verb} {}: {source}; --state-dir names another folder", path.display())]
    File {
        /// The operation that failed.
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The file has the wrong content.
    #[error("{} is no record of redirect apply ({source}): look at it, and remove it", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
}

/// File of one namespace's record.
#[derive(Debug, Clone)]
pub(crate) struct RecordFile {
    folder: PathBuf,
    path: PathBuf,
}

impl RecordFile {
    /// Names the record of namespace `id` in `folder`, neither of which needs to exist.
    pub(crate) fn new(folder: &Path, id: NetnsId) -> Self {
        let NetnsId { device, inode } = id;
        Self { folder: folder.to_owned(), path: folder.join(format!("redirect-{device}-{inode}.json")) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the record, if there is one.
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

    /// Checks that a record can be written, before anything is changed.
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

    /// Removes the record. A missing record is no error.
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

/// A record that can be written. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Pending<'a> {
    record: &'a RecordFile,
    file: File,
    temporary: PathBuf,
}

impl Pending<'_> {
    /// Replaces the older record by `record`.
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
        // Usually renamed already; otherwise no caller is left to report to.
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
