// SPDX-License-Identifier: Apache-2.0
//! Replaces files as a whole: a reader sees the old one or the new one, also after a power cut.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Suffix of the name of every unfinished file of ours. No runtime loads a file of this name.
const UNFINISHED: &str = ".culvert-unfinished";

/// The result of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// The new file is there.
    Done,
    /// Another program changed the file first, and its file stays.
    Overtaken,
}

/// A stamp that differs after every change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A new file beside `path` that is to take its place. Dropping it removes the new file.
#[derive(Debug)]
pub(crate) struct Unfinished {
    temporary: PathBuf,
    path: PathBuf,
}

impl Unfinished {
    /// Writes `bytes` and flushes them to the disk. Mode and owner are those of `like`; without it, `mode` and our own user.
    pub(crate) fn write(path: &Path, bytes: &[u8], like: Option<&Metadata>, mode: u32) -> io::Result<Self> {
        let temporary = beside(path)?;
        // `create_new` fails rather than truncate a file that another program made.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let unfinished = Self { temporary, path: path.to_owned() };
        file.write_all(bytes)?;
        if let Some(like) = like {
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
                fchown(&file, Some(like.uid()), Some(like.gid()))?;
            }
        }
        let mode = like.map_or(mode, |like| like.mode() & 0o7777);
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        Ok(unfinished)
    }

    /// The path of the new file until then.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Takes the file's place without a look at what is there.
    pub(crate) fn replace(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.path)?;
        sync_folder_of(&self.path)
    }

    /// Takes the file's place if that still holds `expected`. The two files are exchanged first, so that a change that another
    /// program made in between is found and put back, not lost.
    pub(crate) fn replace_if(self, expected: &[u8]) -> io::Result<Replaced> {
        let path = self.path.clone();
        let replaced = self.put_if(expected)?;
        if replaced == Replaced::Done {
            sync_folder_of(&path)?;
        }
        Ok(replaced)
    }

    /// The same without a flush of the folder: a power cut may bring the other file back.
    fn put_if(self, expected: &[u8]) -> io::Result<Replaced> {
        if !holds(&self.path, expected) {
            return Ok(Replaced::Overtaken);
        }
        let ours = inode(&self.temporary)?;
        match self.exchange() {
            Ok(()) if holds(&self.temporary, expected) => fs::remove_file(&self.temporary)?,
            Ok(()) => return self.give_back(ours),
            // The file system has no exchange. A change between the check above and this rename is lost.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                fs::rename(&self.temporary, &self.path)?
            }
            Err(Errno::ENOENT) => return Ok(Replaced::Overtaken),
            Err(errno) => return Err(errno.into()),
        }
        Ok(Replaced::Done)
    }

    /// Exchanges again, after the first exchange took out another file than expected. `put` is the inode that we had put there.
    /// Where yet another file is found in its place, that one is newer, and is put back in its turn.
    fn give_back(&self, mut put: u64) -> io::Result<Replaced> {
        loop {
            let theirs = inode(&self.temporary)?;
            match self.exchange() {
                Ok(()) if inode(&self.temporary)? == put => return Ok(Replaced::Overtaken),
                Ok(()) => put = theirs,
                // The live file was removed by now, and so would have been the one that we took out.
                Err(Errno::ENOENT) => return Ok(Replaced::Overtaken),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Puts a copy of this file in the live file's place if that holds `expected` and has this one's mode and owner, and this one
    /// still holds `own`. The copy is a hard link, so the disk has its content already.
    pub(crate) fn put_copy_if(&self, own: &[u8], expected: &[u8]) -> io::Result<Replaced> {
        // Links are not followed, since a link would be replaced by a file.
        let (ours, theirs) = (fs::symlink_metadata(&self.temporary)?, fs::symlink_metadata(&self.path)?);
        let kept = |file: &Metadata| (file.mode(), file.uid(), file.gid());
        let is_ours = (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino());
        if is_ours || kept(&ours) != kept(&theirs) || !holds(&self.temporary, own) {
            return Ok(Replaced::Overtaken);
        }
        let copy = Self { temporary: beside(&self.path)?, path: self.path.clone() };
        fs::hard_link(&self.temporary, &copy.temporary)?;
        copy.put_if(expected)
    }

    /// Returns true where the live file holds `expected`.
    pub(crate) fn would_replace(&self, expected: &[u8]) -> bool {
        holds(&self.path, expected)
    }

    /// Returns true where this file still holds `own`. A program that writes into a live file that is a hard link of this one
    /// changes this one too.
    pub(crate) fn still_holds(&self, own: &[u8]) -> bool {
        holds(&self.temporary, own)
    }

    fn exchange(&self) -> nix::Result<()> {
        renameat2(AT_FDCWD, &self.temporary, AT_FDCWD, &self.path, RenameFlags::RENAME_EXCHANGE)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; after an error the next start of an agent clears it away.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Names a file `.NAME.PROCESS.NUMBER.culvert-unfinished` in the same folder, since containerd does not notice a rename from
/// another one. PROCESS is random rather than the process' id, since agent and `uninstall` have id 1 in their containers.
fn beside(path: &Path) -> io::Result<PathBuf> {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:x}.{number}{UNFINISHED}", *PROCESS));
    Ok(path.with_file_name(temporary))
}

/// Returns true for a regular file, and no link or pipe, that holds `expected`. A file of another length is not read.
fn holds(path: &Path, expected: &[u8]) -> bool {
    let length = expected.len() as u64;
    fs::symlink_metadata(path).is_ok_and(|file| file.is_file() && file.len() == length)
        && fs::read(path).is_ok_and(|bytes| bytes == expected)
}

fn inode(path: &Path) -> io::Result<u64> {
    fs::symlink_metadata(path).map(|file| file.ino())
}

/// Returns true for a file that is mounted by itself, so that no other can be renamed over it.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    let Ok(path) = fs::canonicalize(path) else { return false };
    // The fifth word of a line, in which white space and backslashes are escaped by their octal numbers.
    let escaped = |path: &Path| {
        let text = path.to_string_lossy().replace('\\', "\\134");
        text.replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
    };
    let path = escaped(&path);
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    String::from_utf8_lossy(&mounts).lines().any(|line| line.split(' ').nth(4) == Some(path.as_str()))
}

/// Removes unfinished files of killed runs from `folder`. The caller holds the node's lock.
pub(crate) fn clear_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(UNFINISHED)) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Flushes the folder of `path`, so that a rename there outlives a power cut.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?.sync_all()
}

/// Removes a file; false where there is none.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_owner_are_kept_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("10-a.conflist");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
        let like = fs::metadata(&path).unwrap();
        let new = Unfinished::write(&path, b"new", Some(&like), 0o644).unwrap();
        assert_eq!(new.replace_if(b"old").unwrap(), Replaced::Done);
        let now = fs::metadata(&path).unwrap();
        assert_eq!((now.mode() & 0o7777, now.uid(), now.gid()), (0o640, 7, 8));
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_change_of_another_program_in_between_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("10-a.conflist");
        fs::write(&path, "old").unwrap();
        let new = Unfinished::write(&path, b"new", None, 0o644).unwrap();
        fs::write(&path, "theirs").unwrap();
        assert_eq!(new.replace_if(b"old").unwrap(), Replaced::Overtaken);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        let new = Unfinished::write(&path, b"new", None, 0o644).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(new.replace_if(b"theirs").unwrap(), Replaced::Overtaken);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_copy_takes_the_place_of_what_was_expected_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("10-a.conflist");
        fs::write(&path, "theirs").unwrap();
        let like = fs::metadata(&path).unwrap();
        let ours = Unfinished::write(&path, b"ours", Some(&like), 0o600).unwrap();
        let put = |expected: &[u8]| ours.put_copy_if(b"ours", expected).unwrap();
        assert_eq!(put(b"others"), Replaced::Overtaken);
        assert_eq!(put(b"theirs"), Replaced::Done);
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        // It works any number of times, as long as its own file is not written to.
        fs::write(folder.path().join("new"), "theirs").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(put(b"theirs"), Replaced::Done);
        fs::write(&path, "theirs").unwrap();
        assert!(!ours.still_holds(b"ours"));
        assert_eq!(put(b"theirs"), Replaced::Overtaken);
        // A changed mode is not overwritten either.
        drop(ours);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "theirs").unwrap();
        let ours = Unfinished::write(&path, b"ours", Some(&like), 0o600).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(ours.put_copy_if(b"ours", b"theirs").unwrap(), Replaced::Overtaken);
        drop(ours);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_or_a_pipe_with_the_files_name_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let [path, elsewhere] = ["10-a.conflist", "elsewhere"].map(|name| folder.path().join(name));
        fs::write(&path, "theirs").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let like = fs::metadata(&path).unwrap();
        let ours = Unfinished::write(&path, b"ours", Some(&like), 0o600).unwrap();
        let new = Unfinished::write(&path, b"ours", Some(&like), 0o600).unwrap();
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(!ours.would_replace(b"theirs"));
        assert_eq!(ours.put_copy_if(b"ours", b"theirs").unwrap(), Replaced::Overtaken);
        assert_eq!(new.replace_if(b"theirs").unwrap(), Replaced::Overtaken);
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("elsewhere"));
        assert_eq!(fs::read(&elsewhere).unwrap(), b"theirs");
        fs::remove_file(&path).unwrap();
        // A reader that opens a pipe blocks until a writer does.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(!ours.would_replace(b""));
        assert_eq!(ours.put_copy_if(b"ours", b"").unwrap(), Replaced::Overtaken);
    }

    #[test]
    fn what_came_while_theirs_was_put_back_is_newer_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("10-a.conflist");
        // As it is after an exchange that took out another file than expected, and one more that was put there since.
        let ours = Unfinished::write(&path, b"ours", None, 0o644).unwrap();
        let put = inode(ours.temporary()).unwrap();
        fs::rename(ours.temporary(), folder.path().join("gone")).unwrap();
        fs::write(ours.temporary(), "theirs").unwrap();
        fs::write(&path, "theirs, newer").unwrap();
        assert_eq!(ours.give_back(put).unwrap(), Replaced::Overtaken);
        drop(ours);
        assert_eq!(fs::read(&path).unwrap(), b"theirs, newer");
    }

    /// In containers agent and `uninstall` have the same process id, and each counts from 0.
    #[test]
    fn a_file_of_another_run_with_our_number_is_not_taken_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let name = |number| format!(".10-a.conflist.{}.{number}.culvert-unfinished", std::process::id());
        for number in 0..1000 {
            fs::write(folder.path().join(name(number)), "theirs").unwrap();
        }
        let new = Unfinished::write(&folder.path().join("10-a.conflist"), b"new", None, 0o644).unwrap();
        for number in 0..1000 {
            assert_eq!(fs::read(folder.path().join(name(number))).unwrap(), b"theirs");
        }
        new.replace().unwrap();
    }

    #[test]
    fn what_a_killed_run_left_is_cleared_away_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".10-a.conflist.77.culvert-unfinished", "10-a.conflist", ".hidden"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        clear_unfinished(folder.path()).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort_unstable();
        assert_eq!(names, [".hidden", "10-a.conflist"]);
    }
}
