// SPDX-License-Identifier: Apache-2.0
//! A thread that waits for changes of one folder. A thread of its own rather than a task, since a task waits for its turn on the
//! agent's one thread, and pods start without rules meanwhile.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// A thread that calls a function after each change of a folder. Dropping it ends the thread.
pub(super) struct FolderWatcher {
    inotify: Arc<Inotify>,
    watch: WatchDescriptor,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for FolderWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FolderWatcher").field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl FolderWatcher {
    pub(super) fn start(folder: &Path, mut on_change: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
        // Changes that leave a whole file behind (a rename to here, a close after writing), and the end of the folder.
        let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
        let changes = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let watch = inotify.add_watch(folder, changes)?;
        let ends = Arc::new(AtomicBool::new(false));
        let (events, is_ending) = (Arc::clone(&inotify), Arc::clone(&ends));
        let thread = thread::Builder::new().name("quick-restore".to_owned()).spawn(move || {
            loop {
                match events.read_events() {
                    Err(Errno::EINTR) => continue,
                    Ok(read) if !read.iter().any(|event| event.mask.intersects(gone)) => {}
                    // The folder is gone, or inotify has failed.
                    _ => return,
                }
                if is_ending.load(Ordering::Relaxed) {
                    return;
                }
                on_change();
            }
        })?;
        Ok(Self { inotify, watch, ends, thread })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

impl Drop for FolderWatcher {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // The thread wakes by the event that its watch has ended. Where the folder is gone, that event has come before.
        let _ = self.inotify.rm_watch(self.watch);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A watch follows the inode: after a rename it would watch a folder that no runtime reads.
    #[test]
    fn a_folder_that_was_moved_away_or_removed_ends_the_thread() {
        type Away = fn(&Path) -> io::Result<()>;
        let moved: Away = |folder| fs::rename(folder, folder.with_extension("away"));
        let removed: Away = |folder| fs::remove_dir_all(folder);
        for away in [moved, removed] {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join("net.d");
            fs::create_dir(&folder).unwrap();
            let (sender, receiver) = mpsc::channel();
            let watcher = FolderWatcher::start(&folder, move || sender.send(()).unwrap_or_default()).unwrap();
            fs::write(folder.join("10-a.conflist"), "theirs").unwrap();
            receiver.recv_timeout(Duration::from_secs(20)).unwrap();
            away(&folder).unwrap();
            // The thread drops its end of the channel when it ends.
            let end = loop {
                match receiver.recv_timeout(Duration::from_secs(20)) {
                    Ok(()) => {}
                    Err(end) => break end,
                }
            };
            assert_eq!(end, mpsc::RecvTimeoutError::Disconnected);
            drop(watcher);
        }
    }
}
