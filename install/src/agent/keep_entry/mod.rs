// SPDX-License-Identifier: Apache-2.0
//! Keeps the binary and the entry in their places.
//!
//! ```text
//! a change in a folder, or time ──▶ find the folders ──▶ place the binary ──▶ inspect the entry ──▶ decide ──▶ rest
//!            ▲                                                                                        │
//!            └─────────────────────── write the entry, after the backoff of `contention` ◀────────────┘
//! ```
//! A neighbour that writes the same list again and again is answered before that, by the quick restore of
//! [`super::contention`].

mod decide;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use culvert_cni::attachment::{Record, Records};
use culvert_cni::protocol::{Attachment, CniArgs};
use tokio::time::Instant;

use self::decide::{Step, decide};
use super::contention::{Contention, Loss};
use super::context::{Context, Publishers, Readiness};
use super::metrics::Install;
use super::watch::{Watch, nearest};
use crate::conflist::stand_in;
use crate::host::binary::{self, BinaryError, Memory};
use crate::host::entry::{self, ChangeError, EntryChange, EntrySpec, EntryState, UsedFile, Withdrawal};
use crate::host::files::{self, Replaced, Stamp};
use crate::host::layout::{self, Layout};
use crate::host::plugins::Plugins;
use crate::host::state::{self, LockError};
use crate::host::{neighbours, uninstall};

/// Interval between two readings of the runtime's own configuration: k3s moves its folders with each release.
const LAYOUT_EVERY: Duration = Duration::from_secs(10);
/// Pause after a change that could not be made, or that another program overtook.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The longest time in which a program writes one file in several steps; a change after that is another one.
const STEPS_WITHIN: Duration = Duration::from_millis(5);
/// Pause after the plugin was refused: proving it costs some milliseconds.
const PLACE_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The state of the task, which alone reads and writes it.
struct EntryKeeper {
    context: Context,
    publishers: Publishers,
    desired: EntrySpec,
    memory: Memory,
    /// The answers of the runtime's plugins to VERSION.
    plugins: Arc<Plugins>,
    is_effective: bool,
    /// Owns all that is known of losses of the entry.
    contention: Contention,
    /// The last complaint, so that each is logged once.
    complaint: String,
    /// The last refusal of the plugin, with its time.
    refused: Option<(Instant, String)>,
    layout_read: Instant,
    /// The lock by which `uninstall` sees that an agent runs.
    alive: Option<File>,
    /// True from an `uninstall` on, also where its mark is gone: only a new agent brings culvert back.
    has_left: bool,
}

/// The time of the next inspection.
enum Pace {
    OnChange,
    /// After this pause, even if a folder changes before.
    After(Duration),
}

impl Pace {
    const AT_ONCE: Self = Self::After(Duration::ZERO);
}

/// Runs until the agent ends.
pub(crate) async fn run(context: Context, publishers: Publishers) {
    let options = &context.options;
    let desired =
        EntrySpec { mode: options.mode, position: options.position.clone(), entry: options.entry.clone() };
    let mut keeper = EntryKeeper {
        publishers,
        desired,
        memory: Memory::default(),
        plugins: Arc::default(),
        is_effective: false,
        contention: Contention::new(&context),
        complaint: String::new(),
        refused: None,
        layout_read: Instant::now(),
        alive: None,
        has_left: false,
        context: context.clone(),
    };
    keeper.begin();
    let keep = async {
        let mut watch = Watch::new();
        loop {
            keeper.follow_layout().await;
            watch.over(&keeper.folders());
            match keeper.step(&mut watch).await {
                Pace::OnChange => watch.changed().await,
                Pace::After(wait) => tokio::time::sleep(wait).await,
            }
        }
    };
    tokio::select! {
        () = context.shutdown() => {}
        () = keep => {}
    }
    keeper.contention.discard_prepared();
    let layout = context.layout();
    // Dropping the keeper releases the lock that kept `uninstall` from removing the state folder.
    drop(keeper);
    if state::is_uninstalled(&layout) {
        uninstall::remove_state_folder(&layout);
    }
}

/// Removes the records of pods whose network namespace is gone: they ended while the entry was missing, so the runtime did not
/// call the plugin for them. No error is logged, since nothing depends on these records.
fn remove_stale_records(layout: &Layout) {
    let records = Records::new(&layout.at(&layout.attachments()));
    for record in records.all().unwrap_or_default() {
        let netns = layout.at(Path::new(&record.netns));
        // Where the folder of namespaces is not mounted, a missing file proves nothing.
        if netns.parent().is_some_and(Path::is_dir) && !netns.exists() {
            let Record { network, container_id, ifname, .. } = record;
            let attachment = Attachment { container_id, ifname, netns: None, args: CniArgs::default() };
            let _ = records.remove(&network, &attachment);
        }
    }
}

impl EntryKeeper {
    /// Takes the node back after an `uninstall`, and removes what a killed run left.
    fn begin(&mut self) {
        let layout = self.context.layout();
        tracing::info!(
            runtime = layout.runtime,
            configurations = %layout.conf_dir.display(),
            plugins = ?layout.bin_dirs,
            "starting"
        );
        for complaint in &layout.complaints {
            tracing::warn!("a part of the runtime's configuration cannot be read: {complaint}");
        }
        self.mark_alive(&layout);
        if let Err(error) = state::unmark_uninstalled(&layout) {
            tracing::error!("cannot take back the note of an uninstall: {error}");
        }
        if let Ok(_lock) = state::lock(&layout) {
            for folder in layout.bin_dirs.iter().chain([&layout.conf_dir]) {
                // A folder that is missing holds nothing to clear.
                let _ = files::clear_unfinished(&layout.at(folder));
            }
        }
    }

    /// Takes the lock by which `uninstall` and `doctor` see that an agent runs, unless it is held at its path.
    fn mark_alive(&mut self, layout: &Layout) {
        if self.alive.as_ref().is_some_and(|alive| state::is_alive_mark(layout, alive)) {
            return;
        }
        match state::mark_alive(layout) {
            Ok(alive) => self.alive = Some(alive),
            Err(error) => tracing::error!("{}: {error}", layout.state_dir.display()),
        }
    }

    /// Reads the runtime's configuration again if it is time, and publishes the layout if it has changed.
    async fn follow_layout(&mut self) {
        if self.layout_read.elapsed() < LAYOUT_EVERY {
            return;
        }
        self.layout_read = Instant::now();
        let paths = self.context.options.paths.clone();
        let found = tokio::task::spawn_blocking(move || layout::discover(&paths)).await;
        let layout = self.context.layout();
        let _ = tokio::task::spawn_blocking(move || remove_stale_records(&layout)).await;
        if !self.has_left {
            // A cleaner of /run may have removed the state folder.
            self.mark_alive(&self.context.layout());
        }
        let Ok(Ok(found)) = found else { return };
        self.publishers.layout.send_if_modified(|layout| {
            let is_new = **layout != found;
            if is_new {
                for complaint in found.complaints.iter().filter(|new| !layout.complaints.contains(new)) {
                    tracing::warn!("a part of the runtime's configuration cannot be read: {complaint}");
                }
                let folders = (&layout.conf_dir, &layout.bin_dirs) != (&found.conf_dir, &found.bin_dirs);
                if folders {
                    tracing::info!(
                        configurations = %found.conf_dir.display(),
                        plugins = ?found.bin_dirs,
                        "the runtime's folders have moved"
                    );
                }
                *layout = Arc::new(found);
            }
            is_new
        });
    }

    /// The folders to watch; for a missing one, the folder in which it will appear.
    fn folders(&self) -> Vec<PathBuf> {
        let layout = self.context.layout();
        let mut folders = vec![nearest(&layout.at(&layout.conf_dir))];
        if let Some(file) = self.contention.standing() {
            let name = file.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let theirs = stand_in::sources(name).into_iter().map(|name| layout.conf_dir.join(name));
            // Where a link leads, its target's folder has the events.
            let targets = theirs.chain([file.path.clone()]).map(|path| layout.at(&path));
            folders.extend(targets.filter_map(|path| path.parent().map(nearest)));
        }
        // CRI-O chooses anew when a plugin comes or goes.
        let asked = layout.plugin_dirs.iter().filter(|_| layout.loader.asks_plugins);
        folders.extend(layout.bin_dirs.iter().chain(asked).map(|folder| nearest(&layout.at(folder))));
        folders.sort_unstable();
        folders.dedup();
        folders
    }

    async fn step(&mut self, watch: &mut Watch) -> Pace {
        let layout = self.context.layout();
        if self.has_left || state::is_uninstalled(&layout) {
            return self.stand_back();
        }
        if let Err(reason) = self.place_binary(&layout).await {
            self.not_ready(reason);
            return Pace::After(AGAIN_AFTER * 4);
        }
        let desired = self.desired.clone();
        let inspected = {
            let (layout, plugins) = (Arc::clone(&layout), Arc::clone(&self.plugins));
            tokio::task::spawn_blocking(move || entry::inspect(&layout, &desired, &plugins)).await
        };
        let found = match inspected {
            Ok(found) => found,
            Err(error) => {
                self.not_ready(format!("the look at the folder ended: {error}"));
                return Pace::After(AGAIN_AFTER);
            }
        };
        let is_outdated = match &found {
            EntryState::Needs(_, change) => self.contention.try_restore() || change.is_overtaken(),
            _ => false,
        };
        match decide(found, is_outdated, self.contention.standing()) {
            Step::Rest(file) => self.rest(&layout, file).await,
            Step::InspectAgain => Pace::AT_ONCE,
            Step::Contest { before, file, change } => {
                self.is_effective = false;
                self.contest(&layout, &before, &file, &change, watch).await;
                if change.is_overtaken() {
                    self.contention.set_standing(file);
                    return Pace::AT_ONCE;
                }
                self.write(layout, file, change).await
            }
            Step::Write { file, change } => {
                self.is_effective = false;
                self.write(layout, file, change).await
            }
            Step::Withdraw(withdrawal) => self.withdraw(layout, withdrawal).await,
            Step::Block(reason) => {
                self.not_ready(reason);
                Pace::OnChange
            }
            Step::StandBack => self.stand_back(),
        }
    }

    /// Places the binary if it is missing or differs. An error only where no binary is left: an older one of ours works on.
    async fn place_binary(&mut self, layout: &Layout) -> Result<(), String> {
        let is_old_there = || {
            layout
                .bin_dirs
                .iter()
                .any(|folder| binary::is_executable(&layout.at(folder).join(crate::conflist::TYPE)))
        };
        if let Some((since, reason)) = &self.refused
            && since.elapsed() < PLACE_AGAIN_AFTER
        {
            return if is_old_there() { Ok(()) } else { Err(reason.clone()) };
        }
        self.refused = None;
        let count = |result: Install| self.context.metrics.installs.get_or_create(&result.into()).inc();
        match binary::ensure(layout, &self.desired.entry, &mut self.memory).await {
            Ok(placed) if placed.is_new => {
                count(Install::Placed);
                let sha256 = &placed.identity.sha256;
                tracing::info!(path = %placed.path.display(), sha256, "the plugin was placed");
            }
            Ok(_) => {}
            Err(error) => {
                count(Install::Refused);
                let reason = error.to_string();
                self.complain(&reason);
                let is_waiting = matches!(error, BinaryError::NoFolder(_) | BinaryError::Busy(_));
                self.refused = (!is_waiting).then(|| (Instant::now(), reason.clone()));
                if !is_old_there() {
                    return Err(reason);
                }
            }
        }
        Ok(())
    }

    /// The entry is effective in `file`.
    async fn rest(&mut self, layout: &Layout, file: UsedFile) -> Pace {
        let restored = self.contention.take_unreported();
        if restored > 0 {
            self.contention.report(Loss::TakenOut, &file, restored);
            // The quick restore did not wait for the disk.
            let path = layout.at(&file.path);
            let _ = tokio::task::spawn_blocking(move || files::sync_folder_of(&path)).await;
        }
        if !self.is_effective {
            self.context.metrics.entry_present.set(1);
            if !self.complaint.is_empty() || !self.contention.has_written() {
                tracing::info!(file = %file.path.display(), "the entry is effective");
            }
            self.complaint.clear();
        }
        let ready = Readiness::Effective(file.path.display().to_string());
        // Also where it was effective before, in a file that is gone.
        self.publishers.readiness.send_if_modified(|readiness| {
            let is_new = *readiness != ready;
            *readiness = ready;
            is_new
        });
        self.is_effective = true;
        self.contention.set_standing(file);
        self.contention.prepare().await;
        Pace::OnChange
    }

    /// Another program removed the entry from `before`, or made the runtime use another file: `now`. Returns when the entry may
    /// be written again, or has been.
    async fn contest(
        &mut self,
        layout: &Arc<Layout>,
        before: &UsedFile,
        now: &UsedFile,
        change: &EntryChange,
        watch: &mut Watch,
    ) {
        self.context.metrics.entry_present.set(0);
        let loss = Loss::of(before, now, layout);
        self.contention.report(loss, now, 1);
        let wait = self.contention.lose(layout, change, loss);
        if wait.is_zero() {
            return;
        }
        self.publishers.readiness.send_replace(Readiness::Not(format!(
            "{} keeps taking the entry out of {}",
            neighbours::name(&now.primary),
            now.path.display()
        )));
        let end = Instant::now() + wait;
        let stamp = || std::fs::metadata(layout.at(&now.path)).ok().map(|file| Stamp::of(&file));
        tokio::time::sleep(wait.min(STEPS_WITHIN)).await;
        let before = stamp();
        while tokio::time::timeout_at(end, watch.changed()).await.is_ok() && stamp() == before {}
        self.contention.restore(stamp() != before);
    }

    async fn write(&mut self, layout: Arc<Layout>, file: UsedFile, change: EntryChange) -> Pace {
        let applied = tokio::task::spawn_blocking(move || entry::apply(&layout, &change)).await;
        match applied.unwrap_or_else(|error| Err(ChangeError::ended(&error))) {
            Ok(Replaced::Done) => {
                self.context.metrics.entry_writes.inc();
                if !self.contention.has_written() {
                    tracing::info!(file = %file.path.display(), "the entry was put in");
                }
                // A quick neighbour may remove the entry before the next inspection, which must know of it as a loss.
                self.contention.wrote(file);
                // Pods may have started while the entry was missing.
                self.context.verify_now.notify_one();
                Pace::AT_ONCE
            }
            Ok(Replaced::Overtaken) => Pace::AT_ONCE,
            Err(error) => self.failed(&error),
        }
    }

    /// Takes away a file of ours that the runtime must not use any more.
    async fn withdraw(&mut self, layout: Arc<Layout>, withdrawal: Withdrawal) -> Pace {
        let done = tokio::task::spawn_blocking(move || entry::withdraw(&layout, &withdrawal)).await;
        match done.unwrap_or_else(|error| Err(ChangeError::ended(&error))) {
            Ok(done) => {
                if let Some(done) = done {
                    tracing::info!("{done}");
                }
                Pace::AT_ONCE
            }
            Err(error) => self.failed(&error),
        }
    }

    /// A change of the folder could not be made.
    fn failed(&mut self, error: &ChangeError) -> Pace {
        if matches!(error, ChangeError::Lock(LockError::Busy)) {
            return Pace::After(AGAIN_AFTER);
        }
        self.not_ready(error.to_string());
        Pace::After(AGAIN_AFTER * 4)
    }

    fn stand_back(&mut self) -> Pace {
        self.has_left = true;
        self.contention.discard_prepared();
        let reason =
            "culvert-install uninstall was run on this node; restart the agent to bring culvert back";
        self.not_ready(reason.to_owned());
        Pace::OnChange
    }

    fn not_ready(&mut self, reason: String) {
        self.is_effective = false;
        self.context.metrics.entry_present.set(0);
        self.complain(&reason);
        self.publishers.readiness.send_if_modified(|readiness| {
            let new = Readiness::Not(reason);
            let is_new = *readiness != new;
            *readiness = new;
            is_new
        });
    }

    /// Logs a complaint, unless it was the last one too.
    fn complain(&mut self, reason: &str) {
        if self.complaint != reason {
            reason.clone_into(&mut self.complaint);
            tracing::warn!("{reason}");
        }
    }
}
