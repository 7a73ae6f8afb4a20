// SPDX-License-Identifier: Apache-2.0
//! Owns all that is known of losses of the entry, and restores it quickly where a neighbour removes it again and again.
//!
//! ```text
//! removed twice within 10 s ─▶ the list with our entry is written beside the live one, flushed       (by the task)
//! removed again ─▶ the same bytes as then? ─▶ a copy of the prepared file changes places with it     (a thread, 0.1 ms)
//! left alone for 10 s ─▶ the prepared files are removed
//! ```
//! So a neighbour that keeps removing the entry is undone by one rename. Beside one that writes each 50 ms the entry is away
//! for 2 % of the time; a plain write at once leaves it away for 18 %, a back-off of 50 ms for 48 % (see ARCHITECTURE.md). Any other loss (other bytes, another mode, a file that
//! the runtime prefers) is repaired by `keep_entry`, after an inspection.

mod backoff;
mod prepared;
mod throttle;
mod watcher;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::backoff::RestoreBackoff;
use self::prepared::{ListEdit, Prepared};
use self::throttle::Throttle;
use self::watcher::FolderWatcher;
use super::context::Context;
use crate::host::entry::{EntryChange, UsedFile};
use crate::host::files::{Replaced, Unfinished};
use crate::host::layout::Layout;
use crate::host::{neighbours, state};
use crate::system::lossless::bytes;

/// A loss within this time after the last one is expected to be followed by another; without one for so long, it is over.
const LATELY: Duration = Duration::from_secs(10);

/// The way in which the entry was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It was taken out of the file that the runtime uses.
    TakenOut,
    /// Cilium renamed the file away that it stood in.
    RenamedByCilium,
    /// The runtime uses another file, and the entry is where it was, or gone with its own file.
    OtherFile,
}

/// The suffix that Cilium in exclusive mode puts on files of others.
const CILIUM_BACKUP: &str = ".cilium_bak";

impl Loss {
    /// Classifies the loss of an entry that stood in the file `before`, where the runtime uses the file `now`.
    pub(crate) fn of(before: &UsedFile, now: &UsedFile, layout: &Layout) -> Self {
        let mut renamed = before.path.clone().into_os_string();
        renamed.push(CILIUM_BACKUP);
        let exists = |path: &Path| layout.at(path).exists();
        if exists(Path::new(&renamed)) && !exists(&before.path) {
            return Self::RenamedByCilium;
        }
        if before.path == now.path { Self::TakenOut } else { Self::OtherFile }
    }
}

/// The task's side. Its methods hold the lock of the shared part for a moment only.
#[derive(Debug)]
pub(crate) struct Contention {
    losses: Arc<Mutex<Losses>>,
    /// Runs while files are prepared.
    watcher: Option<FolderWatcher>,
    /// The file in which the entry stood since it was last written, until its loss is seen.
    standing: Option<UsedFile>,
    /// For losses by another program.
    log: Throttle,
    /// For changes of the file that the runtime uses.
    moves: Throttle,
}

/// The part that the task shares with the thread of the quick restore.
#[derive(Debug)]
struct Losses {
    context: Context,
    layout: Arc<Layout>,
    prepared: Prepared,
    last_loss: Option<Instant>,
    /// The last write of ours, by either of the two.
    last_write: Option<Instant>,
    backoff: RestoreBackoff,
    /// Quick restores that the task has not logged yet.
    unreported: u64,
}

impl Contention {
    /// No loss is known, and nothing is prepared.
    pub(crate) fn new(context: &Context) -> Self {
        let losses = Losses {
            context: context.clone(),
            layout: context.layout(),
            prepared: Prepared::default(),
            last_loss: None,
            last_write: None,
            backoff: RestoreBackoff::default(),
            unreported: 0,
        };
        let (log, moves) = (Throttle::default(), Throttle::default());
        Self { losses: Arc::new(Mutex::new(losses)), watcher: None, standing: None, log, moves }
    }

    fn losses(&self) -> MutexGuard<'_, Losses> {
        lock(&self.losses)
    }

    pub(crate) fn standing(&self) -> Option<UsedFile> {
        self.standing.clone()
    }

    pub(crate) fn set_standing(&mut self, file: UsedFile) {
        self.standing = Some(file);
    }

    /// Notes a write of the entry by the task.
    pub(crate) fn wrote(&mut self, file: UsedFile) {
        self.losses().last_write = Some(Instant::now());
        self.standing = Some(file);
    }

    /// Returns true after the first write of this agent.
    pub(crate) fn has_written(&self) -> bool {
        self.losses().last_write.is_some()
    }

    /// Notes that the entry was lost and `change` is to bring it back. Returns the wait before the task may write it.
    pub(crate) fn lose(&mut self, layout: &Arc<Layout>, change: &EntryChange, loss: Loss) -> Duration {
        self.standing = None;
        let now = Instant::now();
        let mut losses = self.losses();
        if loss != Loss::OtherFile {
            losses.context.metrics.fights.inc();
        }
        let survived = losses.survived(now);
        losses.note_loss(layout, ListEdit::of(change), now);
        losses.backoff.wait_after(survived, now)
    }

    /// Returns the number of quick restores since the last call.
    pub(crate) fn take_unreported(&self) -> u64 {
        std::mem::take(&mut self.losses().unreported)
    }

    /// Restores the entry at once where a prepared file fits and the backoff allows it; true where that was done.
    pub(crate) fn try_restore(&self) -> bool {
        self.losses().try_restore()
    }

    /// Restores the entry after a wait, if a prepared file fits. With `is_rewritten` the file was written during the wait.
    pub(crate) fn restore(&self, is_rewritten: bool) {
        let mut losses = self.losses();
        if is_rewritten {
            losses.backoff.written_during_wait(Instant::now());
        }
        losses.restore();
    }

    /// Logs a loss, at most once a minute: with the owner and the remedy where a program took the entry out.
    pub(crate) fn report(&mut self, loss: Loss, file: &UsedFile, times: u64) {
        let log = if loss == Loss::OtherFile { &mut self.moves } else { &mut self.log };
        let Some(times) = log.pass(times, Instant::now()) else { return };
        let kind = if loss == Loss::RenamedByCilium { "cilium-cni" } else { &file.primary };
        let (owner, advice) = (neighbours::name(kind), neighbours::advice(kind));
        let file = file.path.display();
        match loss {
            Loss::TakenOut => tracing::warn!(
                %file, owner, times, "the entry was taken out of the file that the runtime uses; it is put back. {advice}"
            ),
            Loss::RenamedByCilium => tracing::warn!(
                %file, owner, times, "the file with the entry was renamed away; the entry is put into this one. {advice}"
            ),
            Loss::OtherFile => tracing::info!(
                %file, times, "the runtime uses another file than before; the entry is put in there too"
            ),
        }
    }

    /// Ends the thread and removes the prepared files.
    pub(crate) fn discard_prepared(&mut self) {
        self.watcher = None;
        self.losses().prepared.clear();
    }

    /// Prepares the files that are missing and starts the thread that uses them. Without losses of late, ends both.
    pub(crate) async fn prepare(&mut self) {
        let (missing, is_over) = {
            let mut losses = self.losses();
            if losses.last_loss.is_none_or(|lost| lost.elapsed() >= LATELY) {
                losses.prepared.clear();
            }
            (losses.prepared.missing(), losses.prepared.is_empty())
        };
        if is_over {
            self.watcher = None;
        }
        let Some(folder) = missing.first().and_then(|(edit, _)| edit.path.parent()) else { return };
        self.start_watcher(folder);
        let losses = Arc::clone(&self.losses);
        // An error is dropped, since the next change leads here again.
        let _ = tokio::task::spawn_blocking(move || write_missing(&missing, &losses)).await;
    }

    fn start_watcher(&mut self, folder: &Path) {
        if self.watcher.as_ref().is_some_and(|watcher| !watcher.has_ended()) {
            return;
        }
        let losses = Arc::clone(&self.losses);
        let restore = move || {
            lock(&losses).try_restore();
        };
        self.watcher = FolderWatcher::start(folder, restore)
            .inspect_err(|error| tracing::debug!(%error, "no thread can wait for the next change"))
            .ok();
    }
}

fn lock(losses: &Mutex<Losses>) -> MutexGuard<'_, Losses> {
    // A panic under the lock leaves at worst one prepared file too few.
    losses.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes prepared files, which takes as long as the disk does; the lock is not held meanwhile.
fn write_missing(missing: &[(ListEdit, usize)], losses: &Mutex<Losses>) -> std::io::Result<()> {
    for (edit, count) in missing {
        let like = std::fs::metadata(&edit.path)?;
        for _ in 0..*count {
            let spare = Unfinished::write(&edit.path, &bytes(&edit.to), Some(&like), 0o600)?;
            let mut losses = lock(losses);
            // An uninstall clears the folder under the node's lock, and no file may appear after that.
            let Ok(_lock) = state::lock(&losses.layout) else { return Ok(()) };
            if state::is_uninstalled(&losses.layout) {
                return Ok(());
            }
            losses.prepared.add(edit, spare);
        }
    }
    Ok(())
}

impl Losses {
    /// The time for which our last write has stood.
    fn survived(&self, now: Instant) -> Duration {
        self.last_write.map_or(Duration::MAX, |written| now.saturating_duration_since(written))
    }

    /// Notes a loss. From the second one within [`LATELY`] on, the edit that repairs it is to be prepared.
    fn note_loss(&mut self, layout: &Arc<Layout>, edit: Option<ListEdit>, now: Instant) {
        let before = self.last_loss.replace(now);
        let is_again = before.is_some_and(|before| now.saturating_duration_since(before) < LATELY);
        if self.layout != *layout {
            self.layout = Arc::clone(layout);
            self.prepared.clear();
        }
        let Some(edit) = edit.filter(|_| is_again) else { return };
        // Behind a link the rename would stay unseen: containerd watches the folder, not the link's target.
        if edit.path.parent() == Some(&layout.at(&layout.conf_dir)) {
            self.prepared.expect(edit);
        }
    }

    fn try_restore(&mut self) -> bool {
        let now = Instant::now();
        let survived = self.survived(now);
        let Some((edit, spare)) = self.prepared.fitting() else { return false };
        if !self.backoff.allows_now(survived, now) || put(&self.layout, edit, spare) != Some(Replaced::Done) {
            return false;
        }
        self.note_write();
        self.last_loss = Some(now);
        self.unreported += 1;
        self.context.metrics.fights.inc();
        true
    }

    fn restore(&mut self) {
        let Some((edit, spare)) = self.prepared.fitting() else { return };
        if put(&self.layout, edit, spare) == Some(Replaced::Done) {
            self.note_write();
        }
    }

    fn note_write(&mut self) {
        self.last_write = Some(Instant::now());
        self.context.metrics.entry_writes.inc();
        self.context.verify_now.notify_one();
    }
}

/// Puts a copy of a prepared file in the live one's place, under the node's lock.
fn put(layout: &Layout, edit: &ListEdit, spare: &Unfinished) -> Option<Replaced> {
    let _lock = state::lock(layout).ok()?;
    if state::is_uninstalled(layout) {
        return None;
    }
    spare.put_copy_if(&bytes(&edit.to), &bytes(&edit.from)).ok()
}
