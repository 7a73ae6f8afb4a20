// SPDX-License-Identifier: Apache-2.0
//! Notices changes in a few folders: by inotify, and by looking again where that cannot be had.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::net::unix::pipe::Receiver;

/// How often is looked where nothing tells of changes: our entry is to be back within a second.
const WITHOUT: Duration = Duration::from_millis(400);
/// How often is looked where changes are told: for what they may have missed, such as a mount over the folder.
const WITH: Duration = Duration::from_secs(5);

/// What changes names or contents in a folder, and what ends the watch.
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

/// A watch over folders, which may come and go.
#[derive(Debug)]
pub(crate) struct Watch {
    events: Option<Events>,
    folders: Vec<(PathBuf, Option<WatchDescriptor>)>,
    told: bool,
}

/// One inotify instance, by two descriptors: one to add watches to, one to wait at. What it says is not read for itself:
/// that something changed is all that is asked.
#[derive(Debug)]
struct Events {
    watches: Inotify,
    told: Receiver,
}

impl Events {
    fn new() -> io::Result<Self> {
        let watches = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // tokio waits for any descriptor as for a pipe's; its own type for others wants unsafe code.
        let told = Receiver::from_owned_fd_unchecked(watches.as_fd().try_clone_to_owned()?)?;
        Ok(Self { watches, told })
    }

    /// Waits for the next event, and takes the others of this moment with it.
    async fn next(&self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            self.told.readable().await?;
            let mut read = 0;
            loop {
                match self.told.try_read(&mut bytes) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(more) => read += more,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
                // A neighbour that never rests shall not keep us from looking.
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
    /// A watch over nothing yet.
    pub(crate) fn new() -> Self {
        Self { events: None, folders: Vec::new(), told: false }
    }

    /// Watches these folders and no others. One that is not there, or that the kernel has no watch left for, is looked at
    /// again often enough, and watched when it can be.
    pub(crate) fn over(&mut self, folders: &[PathBuf]) {
        if !self.folders.iter().map(|(folder, _)| folder).eq(folders) {
            // A new one rather than a changed one: there is no watch that could be forgotten.
            self.events = None;
            self.folders = folders.iter().map(|folder| (folder.clone(), None)).collect();
        }
        if self.events.is_none() {
            self.events = Events::new().ok();
        }
        let Some(events) = &self.events else { return self.tell(false) };
        for (folder, watch) in &mut self.folders {
            // Also for one that is watched: the folder of this name may be another one by now.
            *watch = events.watches.add_watch(folder.as_path(), CHANGES).ok();
        }
        self.tell(self.folders.iter().all(|(folder, watch)| watch.is_some() || !folder.exists()));
    }

    fn tell(&mut self, works: bool) {
        if !works && !self.told {
            self.told = true;
            tracing::warn!(
                "no inotify watch can be had (fs.inotify.max_user_instances, max_user_watches): looking every {} ms instead",
                WITHOUT.as_millis()
            );
        }
        if works && self.told {
            self.told = false;
            tracing::info!("inotify watches can be had again");
        }
    }

    fn is_whole(&self) -> bool {
        self.events.is_some() && self.folders.iter().all(|(_, watch)| watch.is_some())
    }

    /// Waits for a change, or until it is time to look all the same. At least one of the two comes.
    pub(crate) async fn changed(&mut self) {
        let limit = if self.is_whole() { WITH } else { WITHOUT };
        let Some(events) = &self.events else { return tokio::time::sleep(limit).await };
        // Late is as good as told: then is looked.
        let _ = tokio::time::timeout(limit, events.next()).await;
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

/// The folder, or the nearest above it that is there: where its coming is told.
pub(crate) fn nearest(folder: &Path) -> PathBuf {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}
