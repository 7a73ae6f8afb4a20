// SPDX-License-Identifier: Apache-2.0
//! Waits for changes in a few folders, by inotify, and by polling where no inotify watch can be had.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::net::unix::pipe::Receiver;

/// Interval of polling without inotify: our entry is to be back within a second.
const POLL_EVERY: Duration = Duration::from_millis(400);
/// Interval of polling beside inotify, for changes that it does not report, such as a mount over the folder.
const POLL_BESIDE_INOTIFY_EVERY: Duration = Duration::from_secs(5);

/// Events that change names or contents in a folder, or end the watch.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// A watch over folders that may come and go.
#[derive(Debug)]
pub(crate) struct Watch {
    notifications: Option<Notifications>,
    folders: Vec<(PathBuf, Option<WatchDescriptor>)>,
    /// True while the log's last word was that inotify does not work.
    is_reported: bool,
}

/// One inotify instance with two descriptors: one to add watches to, one to wait at. The events themselves are dropped, since
/// each leads to a whole inspection.
#[derive(Debug)]
struct Notifications {
    watches: Inotify,
    queue: Receiver,
}

impl Notifications {
    fn new() -> io::Result<Self> {
        let watches = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // A pipe's receiver, since tokio waits for any descriptor alike, and its own type for others needs unsafe code.
        let queue = Receiver::from_owned_fd_unchecked(watches.as_fd().try_clone_to_owned()?)?;
        Ok(Self { watches, queue })
    }

    /// Waits for the next event and drops it, with all others that are queued.
    async fn next(&self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            self.queue.readable().await?;
            let mut read = 0;
            loop {
                match self.queue.try_read(&mut bytes) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(more) => read += more,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
                // A program that never stops writing must not keep this loop going.
                if read > 64 * bytes.len() {
                    return Ok(());
                }
            }
            if read > 0 {
                return Ok(());
            }
        }
    }
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { notifications: None, folders: Vec::new(), is_reported: false }
    }

    /// Watches these folders and no others. A folder that is missing, or for which the kernel has no watch left, is polled, and
    /// watched as soon as possible.
    pub(crate) fn over(&mut self, folders: &[PathBuf]) {
        if !self.folders.iter().map(|(folder, _)| folder).eq(folders) {
            // A new instance rather than a changed one, so that no watch of the old folders is left.
            self.notifications = None;
            self.folders = folders.iter().map(|folder| (folder.clone(), None)).collect();
        }
        if self.notifications.is_none() {
            self.notifications = Notifications::new().ok();
        }
        let Some(notifications) = &self.notifications else { return self.report(false) };
        for (folder, watch) in &mut self.folders {
            // Added again for a folder that is watched: its name may stand for another folder by now.
            *watch = notifications.watches.add_watch(folder.as_path(), CHANGES).ok();
        }
        self.report(self.folders.iter().all(|(folder, watch)| watch.is_some() || !folder.exists()));
    }

    fn report(&mut self, works: bool) {
        if !works && !self.is_reported {
            self.is_reported = true;
            tracing::warn!(
                "no inotify watch can be had (fs.inotify.max_user_instances, max_user_watches): looking every {} ms instead",
                POLL_EVERY.as_millis()
            );
        }
        if works && self.is_reported {
            self.is_reported = false;
            tracing::info!("inotify watches can be had again");
        }
    }

    fn is_whole(&self) -> bool {
        self.notifications.is_some() && self.folders.iter().all(|(_, watch)| watch.is_some())
    }

    /// Waits for a change, or for the next poll.
    pub(crate) async fn changed(&mut self) {
        let limit = if self.is_whole() { POLL_BESIDE_INOTIFY_EVERY } else { POLL_EVERY };
        let Some(notifications) = &self.notifications else { return tokio::time::sleep(limit).await };
        // A timeout and an event both lead to an inspection.
        let _ = tokio::time::timeout(limit, notifications.next()).await;
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the folder, or its nearest ancestor that exists, where the folder's creation is an event.
pub(crate) fn nearest(folder: &Path) -> PathBuf {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}
