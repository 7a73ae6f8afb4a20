// SPDX-License-Identifier: Apache-2.0
//! The quick answer to somebody who writes the same list again and again: what stood there with our entry lies ready beside
//! it, on the disk already, so that the answer is a link, an exchange of names, and no more.
//!
//! ```text
//! taken out twice within seconds ─▶ the list with our entry is written beside it, flushed      (`stay`, off the hot path)
//! taken out again ─▶ the same bytes as then? ─▶ another name of ours changes places with it    (a thread of its own, 0.1 ms)
//! left alone for a while ─▶ what lies ready goes
//! ```
//! Anything else (other bytes, another mode, a file that comes before it) is looked at by `stay` as ever.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::agent::contention::patience::Patience;
use crate::agent::context::Context;
use crate::host::entry::EntryChange;
use crate::host::files::{Replaced, Unfinished};
use crate::host::layout::Layout;
use crate::host::state;

/// Lists of a neighbour that are remembered: some write two in turn.
const LISTS: usize = 4;
/// Files that lie ready for each: who writes into the file instead of replacing it spoils the one that stands there.
const SPARES: usize = 2;
/// Taken out again this soon, it will be once more; left alone for so long, it is over.
const LATELY: Duration = Duration::from_secs(10);

/// An edit that was made, and may be needed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit {
    /// The file, where it is opened.
    pub path: PathBuf,
    /// What the neighbour writes.
    pub from: String,
    /// The same with our entry.
    pub to: String,
}

impl Edit {
    /// The edit of a list; none for other changes.
    pub(crate) fn of(change: &EntryChange) -> Option<Self> {
        let EntryChange::Edit { path, from, to } = change else { return None };
        Some(Self { path: path.clone(), from: from.clone(), to: to.clone() })
    }
}

/// What is shared by the task that keeps the entry in its place and the thread that answers.
#[derive(Debug)]
pub(crate) struct Answers {
    context: Context,
    layout: Arc<Layout>,
    /// Newest last.
    ready: Vec<(Edit, Vec<Unfinished>)>,
    /// When the entry was last taken out.
    lost: Option<Instant>,
    /// When we last wrote it.
    written: Option<Instant>,
    /// How not to wage a war.
    pub patience: Patience,
    /// Answers that nobody was told of yet.
    told: u64,
}

/// The answers, and the thread that gives them while some lie ready. Cheap to ask.
#[derive(Debug)]
pub(crate) struct Front {
    answers: Arc<Mutex<Answers>>,
    sentry: Option<Sentry>,
}

impl Front {
    /// Nothing lies ready.
    pub(crate) fn new(context: &Context) -> Self {
        let answers = Answers {
            context: context.clone(),
            layout: context.layout(),
            ready: Vec::new(),
            lost: None,
            written: None,
            patience: Patience::default(),
            told: 0,
        };
        Self { answers: Arc::new(Mutex::new(answers)), sentry: None }
    }

    /// What is shared, for a moment.
    pub(crate) fn answers(&self) -> MutexGuard<'_, Answers> {
        lock(&self.answers)
    }

    /// Nothing lies ready any more.
    pub(crate) fn forget(&mut self) {
        self.sentry = None;
        self.answers().ready.clear();
    }

    /// Writes what should lie ready and does not, and has a thread wait for its use; what is no longer needed goes.
    pub(crate) async fn prepare(&mut self) {
        let (lacking, is_over) = {
            let mut answers = self.answers();
            (answers.lacking(), answers.ready.is_empty())
        };
        if is_over {
            self.sentry = None;
        }
        let Some(folder) = lacking.first().and_then(|(edit, _)| edit.path.parent()) else { return };
        if self.sentry.as_ref().is_none_or(Sentry::has_ended) {
            let answers = Arc::clone(&self.answers);
            let answer = move || {
                lock(&answers).answer();
            };
            self.sentry = Sentry::start(folder, answer)
                .inspect_err(|error| tracing::debug!(%error, "no thread can wait for the next change"))
                .ok();
        }
        let answers = Arc::clone(&self.answers);
        // What could not be written is tried again after the next change.
        let _ = tokio::task::spawn_blocking(move || write(&lacking, &answers)).await;
    }
}

fn lock(answers: &Mutex<Answers>) -> MutexGuard<'_, Answers> {
    // A panic in between leaves a spare too few at worst.
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the spares that are lacking. It takes as long as the disk does, without holding anybody up.
fn write(lacking: &[(Edit, usize)], answers: &Mutex<Answers>) -> io::Result<()> {
    for (Edit { path, from, to }, count) in lacking {
        let like = fs::metadata(path)?;
        for _ in 0..*count {
            let spare = Unfinished::write(path, to.as_bytes(), Some(&like), 0o600)?;
            let mut answers = lock(answers);
            // An uninstall clears the folder under this lock, and after it nothing may come.
            let Ok(_lock) = state::lock(&answers.layout) else { return Ok(()) };
            if state::is_uninstalled(&answers.layout) {
                return Ok(());
            }
            let entry = answers.ready.iter_mut().find(|(edit, _)| edit.path == *path && edit.from == *from);
            if let Some((_, spares)) = entry {
                spares.push(spare);
            }
        }
    }
    Ok(())
}

impl Answers {
    /// We wrote the entry by another way, after somebody took it out or at the start.
    pub(crate) fn wrote(&mut self) {
        self.written = Some(Instant::now());
    }

    /// Whether it was ever written.
    pub(crate) const fn has_written(&self) -> bool {
        self.written.is_some()
    }

    /// How long our last write stood.
    pub(crate) fn survived(&self) -> Duration {
        self.written.map_or(Duration::MAX, |written| written.elapsed())
    }

    /// How often was answered since this was last asked.
    pub(crate) fn take_told(&mut self) -> u64 {
        std::mem::take(&mut self.told)
    }

    /// The entry was taken out, and will be put back by `edit`, if that is known: which lies ready from the second time on.
    pub(crate) fn lost(&mut self, layout: &Arc<Layout>, edit: Option<Edit>) {
        let again = self.lost.replace(Instant::now()).is_some_and(|before| before.elapsed() < LATELY);
        if self.layout != *layout {
            (self.layout, self.ready) = (Arc::clone(layout), Vec::new());
        }
        let Some(edit) = edit.filter(|_| again) else { return };
        // containerd watches the folder, not where a link of it leads.
        if edit.path.parent() != Some(&layout.at(&layout.conf_dir)) {
            return;
        }
        let known =
            self.ready.iter().position(|(there, _)| (&there.path, &there.from) == (&edit.path, &edit.from));
        let spares =
            known.map(|index| self.ready.remove(index)).map(|(_, spares)| spares).unwrap_or_default();
        self.ready.push((edit, spares));
        if self.ready.len() > LISTS {
            self.ready.remove(0);
        }
    }

    /// What should lie ready, and how many files of it are lacking.
    fn lacking(&mut self) -> Vec<(Edit, usize)> {
        if self.lost.is_none_or(|lost| lost.elapsed() >= LATELY) {
            self.ready.clear();
        }
        for (Edit { to, .. }, spares) in &mut self.ready {
            spares.retain(|spare| spare.still_holds(to.as_bytes()));
        }
        let lacking =
            self.ready.iter().map(|(edit, spares)| (edit.clone(), SPARES.saturating_sub(spares.len())));
        lacking.filter(|(_, lacking)| *lacking > 0).collect()
    }

    /// Puts the entry back at once where somebody wrote what they wrote before, unless that would be a war. Whether it did.
    pub(crate) fn answer(&mut self) -> bool {
        let Some(spare) = self.fit() else { return false };
        let (survived, now) = (self.survived(), Instant::now());
        if !self.patience.is_none(survived, now) || self.put(spare) != Some(Replaced::Done) {
            return false;
        }
        (self.lost, self.told) = (Some(now), self.told + 1);
        self.context.metrics.fights.inc();
        true
    }

    /// Puts the entry back if what that takes lies ready, war or not. Whether it did.
    pub(crate) fn put_back(&mut self) -> bool {
        self.fit().is_some_and(|spare| self.put(spare) == Some(Replaced::Done))
    }

    /// What lies ready for the file as it is now.
    fn fit(&self) -> Option<(usize, usize)> {
        let mut ready = self.ready.iter().enumerate();
        ready.find_map(|(list, (Edit { from, to, .. }, spares))| {
            let is_fit = |spare: &Unfinished| spare.still_holds(to.as_bytes());
            let spare = spares.iter().position(is_fit)?;
            spares[spare].would_replace(from.as_bytes()).then_some((list, spare))
        })
    }

    fn put(&mut self, (list, spare): (usize, usize)) -> Option<Replaced> {
        let _lock = state::lock(&self.layout).ok()?;
        if state::is_uninstalled(&self.layout) {
            return None;
        }
        let (Edit { from, to, .. }, spares) = self.ready.get(list)?;
        let replaced = spares.get(spare)?.put_copy_if(to.as_bytes(), from.as_bytes()).ok()?;
        if replaced == Replaced::Done {
            self.written = Some(Instant::now());
            self.context.metrics.entry_writes.inc();
            self.context.verify_now.notify_one();
        }
        Some(replaced)
    }
}

/// A thread that answers each change of a folder. Dropped, it ends.
struct Sentry {
    inotify: Arc<Inotify>,
    watch: WatchDescriptor,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Sentry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentry").field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl Sentry {
    fn start(folder: &Path, mut answer: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
        // A whole file, renamed there or closed; or the folder itself went elsewhere.
        let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
        let changes = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let watch = inotify.add_watch(folder, changes)?;
        let ends = Arc::new(AtomicBool::new(false));
        let (told, told_to_end) = (Arc::clone(&inotify), Arc::clone(&ends));
        let thread = thread::Builder::new().name("answer".to_owned()).spawn(move || {
            loop {
                match told.read_events() {
                    Err(Errno::EINTR) => continue,
                    Ok(events) if !events.iter().any(|event| event.mask.intersects(gone)) => {}
                    // The folder is gone, or we are to end.
                    _ => return,
                }
                if told_to_end.load(Ordering::Relaxed) {
                    return;
                }
                answer();
            }
        })?;
        Ok(Self { inotify, watch, ends, thread })
    }

    fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // It is told of the end of its watch; a folder that is gone told it already.
        let _ = self.inotify.rm_watch(self.watch);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A watch stays with what it watched: under another name that is nobody's folder any more.
    #[test]
    fn a_folder_that_was_moved_away_or_removed_ends_the_thread() {
        type Away = fn(&Path) -> io::Result<()>;
        let moved: Away = |folder| fs::rename(folder, folder.with_extension("away"));
        let removed: Away = |folder| fs::remove_dir_all(folder);
        for away in [moved, removed] {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join("net.d");
            fs::create_dir(&folder).unwrap();
            let (tell, told) = mpsc::channel();
            let sentry = Sentry::start(&folder, move || tell.send(()).unwrap_or_default()).unwrap();
            fs::write(folder.join("10-a.conflist"), "theirs").unwrap();
            told.recv_timeout(Duration::from_secs(20)).unwrap();
            away(&folder).unwrap();
            // Its end of the channel goes with it.
            let end = loop {
                match told.recv_timeout(Duration::from_secs(20)) {
                    Ok(()) => {}
                    Err(end) => break end,
                }
            };
            assert_eq!(end, mpsc::RecvTimeoutError::Disconnected);
            drop(sentry);
        }
    }
}
