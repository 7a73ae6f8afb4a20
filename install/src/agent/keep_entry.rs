// SPDX-License-Identifier: Apache-2.0
//! Keeps the binary and the entry where they belong.
//!
//! ```text
//! a change in a folder, or time ──▶ where things are ──▶ the binary is there ──▶ look at the entry ──▶ as it should be
//!            ▲                                                                        │
//!            └──────────── put it in, after a wait that grows with each quick fight ◀──┘
//! ```
//! Somebody who writes the same again and again is answered before that: see [`super::contention`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use culvert_cni::attachment::{Record, Records};
use culvert_cni::protocol::{Attachment, CniArgs};
use tokio::time::Instant;

use super::contention::answer::{Edit, Front};
use super::contention::patience::Seldom;
use super::context::{Context, Readiness, Told};
use super::metrics::Install;
use super::watch::{Watch, nearest};
use crate::host::binary::{self, BinaryError, Memory};
use crate::host::entry::{self, ChangeError, EntryChange, EntrySpec, EntryState, UsedFile};
use crate::host::files::{self, Replaced, Stamp};
use crate::host::layout::{self, Layout};
use crate::host::neighbours;
use crate::host::state::{self, LockError};
use crate::host::uninstall;

/// How often the runtime's own configuration is read again: k3s moves its folders with each release.
const WHERE_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How soon is looked again after a change that could not be made, or somebody was quicker.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Whoever writes a file in several steps is done so soon; a change after that is another one.
const STEPS_WITHIN: Duration = Duration::from_millis(5);
/// How soon the plugin is placed again after it was refused: proving it costs some milliseconds.
const PLACE_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What the task remembers.
struct Stay {
    context: Context,
    told: Told,
    wanted: EntrySpec,
    memory: Memory,
    /// Whether our entry is effective.
    is_effective: bool,
    /// Where it stood since it was last put in, until it is seen to be gone.
    stood: Option<UsedFile>,
    front: Front,
    fights: Seldom,
    /// What was last complained about: once is enough.
    complaint: String,
    refused: Option<(Instant, String)>,
    looked_where: Instant,
    /// Tells `uninstall` that somebody is there who would put the entry back.
    alive: Option<File>,
}

/// What comes next.
enum Next {
    /// To wait for a change.
    Wait,
    /// To look again then, whatever is told until then.
    After(Duration),
}

/// Runs until the agent ends.
pub(crate) async fn run(context: Context, told: Told) {
    let options = &context.options;
    let wanted =
        EntrySpec { mode: options.mode, position: options.position.clone(), entry: options.entry.clone() };
    let mut stay = Stay {
        told,
        wanted,
        memory: Memory::default(),
        is_effective: false,
        stood: None,
        front: Front::new(&context),
        fights: Seldom::default(),
        complaint: String::new(),
        refused: None,
        looked_where: Instant::now(),
        alive: None,
        context: context.clone(),
    };
    stay.begin();
    let keep = async {
        let mut watch = Watch::new();
        loop {
            stay.look_where().await;
            watch.over(&stay.folders());
            match stay.step(&mut watch).await {
                Next::Wait => watch.changed().await,
                Next::After(wait) => tokio::time::sleep(wait).await,
            }
        }
    };
    tokio::select! {
        () = context.shutdown() => {}
        () = keep => {}
    }
    stay.front.forget();
    // What lies in the state folder was kept for us: see `uninstall`.
    let layout = context.layout();
    drop(stay);
    if state::is_uninstalled(&layout) {
        uninstall::remove_state_folder(&layout);
    }
}

/// Removes the records of pods whose network is gone: the runtime did not call the plugin for their end, since the entry was
/// away just then.
fn forget_the_gone(layout: &Layout) {
    let records = Records::new(&layout.at(&layout.attachments()));
    for record in records.all().unwrap_or_default() {
        let netns = layout.at(Path::new(&record.netns));
        // Where the folder cannot be seen, nobody knows.
        if netns.parent().is_some_and(Path::is_dir) && !netns.exists() {
            let Record { network, container_id, ifname, .. } = record;
            let attachment = Attachment { container_id, ifname, netns: None, args: CniArgs::default() };
            let _ = records.remove(&network, &attachment);
        }
    }
}

impl Stay {
    /// The node is ours again, and what a killed run of ours left is cleared away.
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
        match state::mark_alive(&layout) {
            Ok(alive) => self.alive = Some(alive),
            Err(error) => tracing::error!("{}: {error}", layout.state_dir.display()),
        }
        if let Err(error) = state::unmark_uninstalled(&layout) {
            tracing::error!("cannot take back the note of an uninstall: {error}");
        }
        if let Ok(_lock) = state::lock(&layout) {
            for folder in layout.bin_dirs.iter().chain([&layout.conf_dir]) {
                // Of a folder that is not there nothing is left.
                let _ = files::clear_unfinished(&layout.at(folder));
            }
        }
    }

    /// Reads the runtime's configuration again if it is time.
    async fn look_where(&mut self) {
        if self.looked_where.elapsed() < WHERE_AGAIN_AFTER {
            return;
        }
        self.looked_where = Instant::now();
        let paths = self.context.options.paths.clone();
        let found = tokio::task::spawn_blocking(move || layout::discover(&paths)).await;
        let layout = self.context.layout();
        // Logged by nobody: a pod that ended while the entry was away left them, and nothing depends on them.
        let _ = tokio::task::spawn_blocking(move || forget_the_gone(&layout)).await;
        let Ok(Ok(found)) = found else { return };
        self.told.layout.send_if_modified(|layout| {
            let is_new = **layout != found;
            if is_new {
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

    /// What is watched; where a folder is missing, the one that it will appear in.
    fn folders(&self) -> Vec<PathBuf> {
        let layout = self.context.layout();
        let mut folders = vec![nearest(&layout.at(&layout.conf_dir))];
        if let Some(file) = &self.stood
            && let Some(folder) = file.path.parent()
            && folder != layout.conf_dir
        {
            folders.push(nearest(&layout.at(folder)));
        }
        folders.extend(layout.bin_dirs.iter().map(|folder| nearest(&layout.at(folder))));
        // A watch on `/` would tell of everything.
        folders.dedup();
        folders
    }

    async fn step(&mut self, watch: &mut Watch) -> Next {
        let layout = self.context.layout();
        if state::is_uninstalled(&layout) {
            return self.left();
        }
        if let Err(reason) = self.place(&layout).await {
            self.not_ready(reason);
            return Next::After(AGAIN_AFTER * 4);
        }
        let wanted = self.wanted.clone();
        let look = {
            let layout = Arc::clone(&layout);
            tokio::task::spawn_blocking(move || entry::inspect(&layout, &wanted)).await
        };
        match look {
            Ok(EntryState::Effective(file)) => {
                let answered = self.front.answers().take_told();
                if answered > 0 {
                    self.tell_fight("was taken out of", &file, answered);
                    // The answers did not wait for the disk.
                    let folder = layout.at(&file.path);
                    let _ = tokio::task::spawn_blocking(move || files::sync_folder_of(&folder)).await;
                }
                self.effective(file);
                self.front.prepare().await;
                Next::Wait
            }
            Ok(EntryState::Needs(_, change)) if self.front.answers().answer() || change.is_overtaken() => {
                Next::After(Duration::ZERO)
            }
            Ok(EntryState::Needs(file, change)) => {
                self.is_effective = false;
                if let Some(before) = self.stood.take() {
                    self.lost(&before, &file, &change, watch).await;
                    if change.is_overtaken() {
                        self.stood = Some(file);
                        return Next::After(Duration::ZERO);
                    }
                }
                self.put(layout, file, change).await
            }
            Ok(EntryState::Blocked(reason)) => {
                self.not_ready(reason);
                Next::Wait
            }
            Ok(EntryState::Uninstalled) => self.left(),
            Err(error) => {
                self.not_ready(format!("the look at the folder ended: {error}"));
                Next::After(AGAIN_AFTER)
            }
        }
    }

    /// The binary is there. An error only where there is none at all: an older one of ours works on.
    async fn place(&mut self, layout: &Layout) -> Result<(), String> {
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
        match binary::ensure(layout, &self.wanted.entry, &mut self.memory).await {
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
                let is_waiting = matches!(error, BinaryError::NoFolder(_) | BinaryError::Turn(_));
                self.refused = (!is_waiting).then(|| (Instant::now(), reason.clone()));
                if !is_old_there() {
                    return Err(reason);
                }
            }
        }
        Ok(())
    }

    fn effective(&mut self, file: UsedFile) {
        if !self.is_effective {
            self.context.metrics.entry_present.set(1);
            if !self.complaint.is_empty() || !self.front.answers().has_written() {
                tracing::info!(file = %file.path.display(), "the entry is effective");
            }
            self.complaint.clear();
            let shown = file.path.display().to_string();
            self.told.readiness.send_replace(Readiness::Effective(shown));
        }
        self.is_effective = true;
        self.stood = Some(file);
    }

    /// Somebody else took it out, or came before the file that it is in.
    async fn lost(&mut self, before: &UsedFile, now: &UsedFile, change: &EntryChange, watch: &mut Watch) {
        self.context.metrics.fights.inc();
        self.context.metrics.entry_present.set(0);
        let how = if before.path == now.path { "was taken out of" } else { "is no longer effective but in" };
        self.tell_fight(how, now, 1);
        let layout = self.context.layout();
        let wait = {
            let mut answers = self.front.answers();
            let survived = answers.survived();
            answers.lost(&layout, Edit::of(change));
            answers.patience.before_answer(survived, Instant::now().into_std())
        };
        if wait.is_zero() {
            return;
        }
        self.told.readiness.send_replace(Readiness::Not(format!(
            "{} keeps taking the entry out of {}",
            neighbours::name(&now.primary),
            now.path.display()
        )));
        let end = Instant::now() + wait;
        let stamp = || std::fs::metadata(layout.at(&now.path)).ok().map(|file| Stamp::of(&file));
        tokio::time::sleep(wait.min(STEPS_WITHIN)).await;
        let before = stamp();
        while tokio::time::timeout_at(end, watch.changed()).await.is_ok() && stamp() == before {}
        let mut answers = self.front.answers();
        if stamp() != before {
            answers.patience.written_meanwhile(Instant::now().into_std());
        }
        answers.put_back();
    }

    /// Says who takes the entry out, and what to do about it, once a minute.
    fn tell_fight(&mut self, how: &str, now: &UsedFile, times: u64) {
        if let Some(times) = self.fights.now(times, Instant::now().into_std()) {
            let (file, owner) = (now.path.display(), neighbours::name(&now.primary));
            let advice = neighbours::advice(&now.primary);
            tracing::warn!(%file, owner, times, "the entry {how} the file that the runtime uses; it is put back. {advice}");
        }
    }

    async fn put(&mut self, layout: Arc<Layout>, file: UsedFile, change: EntryChange) -> Next {
        let made = tokio::task::spawn_blocking(move || entry::apply(&layout, &change)).await;
        match made {
            Ok(Ok(Replaced::Done)) => {
                self.context.metrics.entry_writes.inc();
                let mut answers = self.front.answers();
                if !answers.has_written() {
                    tracing::info!(file = %file.path.display(), "the entry was put in");
                }
                answers.wrote();
                drop(answers);
                // Somebody who answers at once may have taken it out before it is seen there.
                self.stood = Some(file);
                // Pods may have started without it.
                self.context.verify_now.notify_one();
                Next::After(Duration::ZERO)
            }
            Ok(Ok(Replaced::Overtaken)) => Next::After(Duration::ZERO),
            Ok(Err(ChangeError::Lock(LockError::Busy))) => Next::After(AGAIN_AFTER),
            Ok(Err(error)) => {
                self.not_ready(error.to_string());
                Next::After(AGAIN_AFTER * 4)
            }
            Err(error) => {
                self.not_ready(format!("the change ended: {error}"));
                Next::After(AGAIN_AFTER)
            }
        }
    }

    fn left(&mut self) -> Next {
        self.front.forget();
        let reason =
            "culvert-install uninstall was run on this node; restart the agent to bring culvert back";
        self.not_ready(reason.to_owned());
        Next::Wait
    }

    fn not_ready(&mut self, reason: String) {
        self.is_effective = false;
        self.context.metrics.entry_present.set(0);
        self.complain(&reason);
        self.told.readiness.send_if_modified(|readiness| {
            let new = Readiness::Not(reason);
            let is_new = *readiness != new;
            *readiness = new;
            is_new
        });
    }

    fn complain(&mut self, reason: &str) {
        if self.complaint != reason {
            reason.clone_into(&mut self.complaint);
            tracing::warn!("{reason}");
        }
    }
}
