// SPDX-License-Identifier: Apache-2.0
//! A log file by its path. Log rotation renames or removes the file; what comes next belongs into a new one of that name.

use crate::net::throttle::Throttle;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest time for which lines go to a file that has lost its name.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two warnings that a file cannot be opened again.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The end of a log: a stream, or a file with a name.
pub(crate) trait Output: Write {
    /// Returns true if it has a name that may come to stand for another file.
    fn is_followed(&self) -> bool {
        false
    }

    /// Looks for the file of its name, and changes to it if it is another.
    fn follow(&mut self) -> Followed {
        Followed::default()
    }

    /// The same, unless the last look was less than [`LOOK_EVERY`] ago.
    fn follow_when_due(&mut self) -> Followed {
        Followed::default()
    }
}

// Streams have no name.
impl Output for io::Stdout {}
impl Output for io::Stderr {}
impl Output for TcpStream {}
impl Output for File {}

impl<O: Output + ?Sized> Output for Box<O> {
    fn is_followed(&self) -> bool {
        (**self).is_followed()
    }

    fn follow(&mut self) -> Followed {
        (**self).follow()
    }

    fn follow_when_due(&mut self) -> Followed {
        (**self).follow_when_due()
    }
}

/// The outcome of a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    /// The next line is the first that this process writes to its file.
    pub(crate) reopened: bool,
    /// Lines since the look before that went to a file that was removed.
    pub(crate) lost: u64,
}

/// A file that is appended to. A pipe or a device is left alone.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    /// None while the file is removed and cannot be made again: to go on would fill the disk with what nothing can read.
    file: Option<File>,
    is_followed: bool,
    looked: Instant,
    /// Lines since the last look.
    lines: u64,
    warnings: Throttle,
}

impl LogFile {
    /// Opens the file, and makes it where it is missing.
    pub(crate) fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let file = append(&path)?;
        let is_followed = file.metadata()?.is_file();
        let warnings = Throttle::new(LOG_EVERY);
        Ok(Self { path, file: Some(file), is_followed, looked: Instant::now(), lines: 0, warnings })
    }

    /// Opens the file that the name stands for now. A pipe in its place would block this thread.
    fn again(&self, named: io::Result<Metadata>) -> io::Result<File> {
        match named {
            Ok(named) if !named.is_file() => Err(io::Error::other("it is no regular file any more")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => append(&self.path),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Returns true if the file has a name, and it may be another than the one by which it was opened.
fn has_a_name(file: &File) -> bool {
    file.metadata().is_ok_and(|file| file.nlink() > 0)
}

impl Output for LogFile {
    fn is_followed(&self) -> bool {
        self.is_followed
    }

    fn follow(&mut self) -> Followed {
        self.looked = Instant::now();
        let lines = std::mem::take(&mut self.lines);
        if !self.is_followed {
            return Followed::default();
        }
        let named = fs::metadata(&self.path);
        let current = self.file.as_ref().and_then(|file| file.metadata().ok());
        if let (Some(current), Ok(named)) = (current, &named)
            && (current.dev(), current.ino()) == (named.dev(), named.ino())
        {
            return Followed::default();
        }
        let is_kept = self.file.as_ref().is_some_and(has_a_name);
        let lost = if is_kept { 0 } else { lines };
        match self.again(named) {
            Ok(file) => {
                tracing::info!(path = %self.path.display(), lost, "the log file was renamed or removed; opened it again");
                self.file = Some(file);
                Followed { reopened: true, lost }
            }
            Err(error) => {
                if self.warnings.ready() {
                    tracing::warn!(path = %self.path.display(), %error,
                        "the log file was renamed or removed and cannot be opened again; trying each second");
                }
                if !is_kept {
                    self.file = None;
                }
                Followed { reopened: false, lost }
            }
        }
    }

    fn follow_when_due(&mut self) -> Followed {
        if self.is_followed && self.looked.elapsed() >= LOOK_EVERY {
            self.follow()
        } else {
            Followed::default()
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let written = file.write(bytes)?;
        self.lines += bytes[..written].iter().filter(|byte| **byte == b'\n').count() as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), File::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: Followed = Followed { reopened: false, lost: 0 };

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_that_is_renamed_or_removed_is_opened_again_and_what_a_removed_one_took_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"one\n").unwrap();
        assert_eq!(log.follow(), SAME);

        fs::rename(&path, &old).unwrap();
        log.write_all(b"two\nthree\n").unwrap();
        assert_eq!(log.follow(), Followed { reopened: true, lost: 0 });
        log.write_all(b"four\n").unwrap();
        assert_eq!((read(&old).as_str(), read(&path).as_str()), ("one\ntwo\nthree\n", "four\n"));

        assert_eq!(log.follow(), SAME);
        fs::remove_file(&path).unwrap();
        log.write_all(b"five\nsix\n").unwrap();
        assert_eq!(log.follow(), Followed { reopened: true, lost: 2 });
        log.write_all(b"seven\n").unwrap();
        assert_eq!(read(&path), "seven\n");

        // As by logrotate's `create`.
        fs::rename(&path, &old).unwrap();
        fs::write(&path, "made\n").unwrap();
        assert_eq!(log.follow(), Followed { reopened: true, lost: 0 });
        log.write_all(b"eight\n").unwrap();
        assert_eq!(read(&path), "made\neight\n");

        // And its `copytruncate`.
        fs::write(&path, "").unwrap();
        assert_eq!(log.follow(), SAME);
        log.write_all(b"nine\n").unwrap();
        assert_eq!(read(&path), "nine\n");
    }

    #[test]
    fn a_file_that_cannot_be_made_again_is_kept_as_long_as_it_has_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, moved) = (folder.path().join("inner"), folder.path().join("moved"));
        fs::create_dir(&inner).unwrap();
        let path = inner.join("log");
        let mut log = LogFile::open(&path).unwrap();

        fs::rename(&inner, &moved).unwrap();
        assert_eq!(log.follow(), SAME);
        log.write_all(b"one\n").unwrap();
        assert_eq!(read(&moved.join("log")), "one\n");

        fs::remove_dir_all(&moved).unwrap();
        log.write_all(b"two\n").unwrap();
        assert_eq!(log.follow(), Followed { reopened: false, lost: 2 });
        assert_eq!(log.write(b"three\n").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(log.follow(), SAME);

        fs::create_dir(&inner).unwrap();
        assert_eq!(log.follow(), Followed { reopened: true, lost: 0 });
        log.write_all(b"four\n").unwrap();
        assert_eq!(read(&path), "four\n");
    }

    #[test]
    fn a_device_is_not_followed_and_nothing_else_replaces_a_file() {
        let mut device = LogFile::open("/dev/null").unwrap();
        assert!(!device.is_followed());
        assert_eq!(device.follow(), SAME);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(log.follow(), SAME);
        fs::remove_dir(&path).unwrap();
        assert_eq!(log.follow(), Followed { reopened: true, lost: 0 });
    }

    #[test]
    fn a_look_comes_each_second_and_no_more_often() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        log.looked = Instant::now() + LOOK_EVERY;
        assert_eq!(log.follow_when_due(), SAME);
        log.looked = Instant::now().checked_sub(LOOK_EVERY).unwrap();
        assert_eq!(log.follow_when_due(), Followed { reopened: true, lost: 0 });
    }
}
