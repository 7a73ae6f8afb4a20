// SPDX-License-Identifier: Apache-2.0
//! Verify and repair: every onboarded pod of this node is as it should be, or is made so.
//!
//! ```text
//! each 3 s    pulse: has any rule changed in the pod's namespace? (one number of the kernel's, 20 µs)
//!             ├─ it has ──▶ check now
//! each 30 s,  list the sandboxes (CRI, else the attachments' records), check each pod
//! at start    ├─ as it should be
//! on news     ├─ damaged, or older than the plugin ──▶ put right in place ──▶ event, metric, log line
//!             └─ cannot be looked at ──▶ metric, log line, `culvert-install status`
//! the entry   list the sandboxes each 150 ms for a while: those whose making began while it was away had no ADD of ours
//! is back
//! ```
//! So rules that somebody flushes are back within some 3 s, without a socket in each pod's namespace, which would keep the
//! namespace of a pod that ends. (Rules of iptables-legacy have no such number: they are checked each 30 s.) A pod whose rules
//! are taken away again and again is put right ever more seldom, each 30 s at last.

mod look;
mod subjects;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use culvert_cni::attachment::Records;
use culvert_cni::netns::NetnsId;
use culvert_cni::redirect::repair::{Checked, Mode, State as Redirect};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

pub(crate) use self::look::{Found, Look, LookError, Task};
pub(crate) use self::subjects::{Defaults, Subject, Wanted, subjects};
pub(crate) use self::words::row;
use self::words::{put_right, tell, told};
use crate::agent::context::{Context, Readiness};
use crate::agent::metrics::{Verified, VerifiedLabels};
use crate::agent::options::OnDamage;
use crate::agent::shared::Shared;
use crate::agent::status::{Row, State};
use crate::conflist::{Conflist, MAX_BYTES};
use crate::cri::{Cri, CriError, Network, Sandbox};
use crate::host::layout::Layout;
use crate::kube::Events;
use crate::system::clock::rfc3339;
use crate::system::read::read_bounded;

/// How often is looked whether rules changed.
const PULSE: Duration = Duration::from_secs(3);
/// How often each pod is verified (the issue's word: 30 s).
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// How often pods are listed after the entry was away: those that started early are to be put right within half a second.
const LIST_EACH: Duration = Duration::from_millis(150);
/// For how long: a chain that the runtime began without us ends with a pod only some seconds later.
const LISTS_FOR: Duration = Duration::from_secs(10);
/// Looks at a time: one that waits for a hostile pod's lock does not hold up the others.
const AT_ONCE: usize = 3;
/// From a plugin's DEL, which takes rules away, to a runtime and a record that say that the pod has ended.
const SETTLES_WITHIN: Duration = Duration::from_millis(300);
/// The same for a pod without a record, which either never had an ADD, or whose DEL the plugin has told us of by then.
const TOLD_WITHIN: Duration = Duration::from_millis(50);

/// What is kept of a pod between looks.
#[derive(Debug)]
struct Tracked {
    subject: Subject,
    network: Network,
    seen: Option<NetnsId>,
    generation: Option<u32>,
    /// When it is verified next.
    due: Instant,
    /// Until then a change of rules is no reason to look: it was put right often of late.
    quiet_until: Instant,
    /// Repairs since it was found well.
    strikes: u32,
    row: Row,
}

/// Runs until the agent ends.
pub(crate) async fn run(context: Context, shared: Arc<Shared>, events: Option<Events>) {
    let mut verifier = Verifier { context: context.clone(), shared, events, ..Verifier::new(&context) };
    tokio::select! {
        () = context.shutdown() => {}
        () = verifier.work() => {}
    }
}

/// Everything that is known between two looks.
struct Verifier {
    context: Context,
    shared: Arc<Shared>,
    events: Option<Events>,
    defaults: Defaults,
    tracked: BTreeMap<String, Tracked>,
    list_due: Instant,
    /// Until then pods may come up that began to be made while the entry was away.
    alert_until: Instant,
    /// What was wrong with the last list, so that it is told once.
    problem: Option<String>,
}

impl Verifier {
    fn new(context: &Context) -> Self {
        let entry = context.options.entry.compact("");
        let defaults = Defaults::of_entry(&entry).unwrap_or_else(|problem| {
            // The agent does not start with such an entry; so this is for a bug of ours.
            tracing::error!(
                problem,
                "the node's defaults cannot be read: pods older than the plugin get the product's"
            );
            Defaults::default()
        });
        Self {
            context: context.clone(),
            shared: Arc::default(),
            events: None,
            defaults,
            tracked: BTreeMap::new(),
            list_due: Instant::now(),
            alert_until: Instant::now(),
            problem: None,
        }
    }

    async fn work(&mut self) {
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let verify_now = Arc::clone(&self.context.verify_now);
        loop {
            let is_alert = self.alert_until > Instant::now();
            let is_pulse = tokio::select! {
                _ = pulse.tick() => true,
                () = sleep_until(self.list_due), if is_alert => false,
                () = verify_now.notified() => {
                    if !is_alert {
                        self.list_due = Instant::now();
                    }
                    self.alert_until = Instant::now() + LISTS_FOR;
                    false
                }
            };
            let news = is_pulse && self.shared.news.swap(false, Ordering::Relaxed);
            if news || self.list_due <= Instant::now() {
                self.list().await;
                if self.alert_until > Instant::now() {
                    self.list_due = self.list_due.min(Instant::now() + LIST_EACH);
                }
            }
            if self.context.options.repair != OnDamage::Off {
                self.look(is_pulse).await;
            }
        }
    }

    /// Lists the pods anew and decides what each should be.
    async fn list(&mut self) {
        self.list_due = Instant::now() + CHECK_EVERY;
        let layout = self.context.layout();
        let folder = layout.at(&layout.attachments());
        let records = tokio::task::spawn_blocking(move || Records::new(&folder).all()).await;
        let (records, unread) = match records.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(records) => (records, None),
            Err(error) => (Vec::new(), Some(format!("the attachments' records cannot be read: {error}"))),
        };
        let (listed_by, sandboxes, cri, unreached) = match sandboxes(&layout).await {
            Ok(Some((cri, sandboxes))) => ("the container runtime", Some(sandboxes), Some(cri), None),
            Ok(None) => ("the attachments' records", None, None, None),
            Err(error) if self.tracked.is_empty() => {
                ("the attachments' records", None, None, Some(error.to_string()))
            }
            Err(error) => {
                // A runtime that restarts: its pods are still there.
                self.complain(Some(error.to_string()));
                self.list_due = Instant::now() + PULSE;
                return;
            }
        };
        let subjects = subjects(sandboxes, records, &self.defaults);
        self.follow(subjects, cri).await;
        self.complain(unreached.or(unread));
        let problem = self.problem.clone();
        self.shared.table.listed(listed_by.to_owned(), problem, |id| self.tracked.contains_key(id));
        for tracked in self.tracked.values() {
            self.shared.table.set(tracked.row.clone());
        }
    }

    /// Tells what is wrong with the list, once.
    fn complain(&mut self, problem: Option<String>) {
        if problem != self.problem {
            match &problem {
                Some(problem) => tracing::warn!(problem, "this node's pods cannot all be listed"),
                None => tracing::info!("this node's pods can be listed again"),
            }
            self.problem = problem;
        }
    }

    /// Begins to track new pods, and forgets those that are gone.
    async fn follow(&mut self, subjects: Vec<Subject>, mut cri: Option<Cri>) {
        let mut before = std::mem::take(&mut self.tracked);
        for subject in subjects {
            let id = subject.id.clone();
            let tracked = match before.remove(&id) {
                Some(mut tracked) => {
                    if tracked.network == Network::default() {
                        tracked.network = self.network(&subject, cri.as_mut()).await.unwrap_or_default();
                    }
                    if tracked.subject != subject {
                        tracked.row = row(&subject, &tracked.network, Some(&tracked.row));
                        tracked.subject = subject;
                    }
                    tracked
                }
                None => {
                    let Some(network) = self.network(&subject, cri.as_mut()).await else { continue };
                    let now = Instant::now();
                    let row = row(&subject, &network, None);
                    Tracked {
                        subject,
                        network,
                        seen: None,
                        generation: None,
                        due: now,
                        quiet_until: now,
                        strikes: 0,
                        row,
                    }
                }
            };
            self.tracked.insert(id, tracked);
        }
    }

    /// Where a pod's network is, as far as the runtime says it; `None` where the pod is gone.
    async fn network(&mut self, subject: &Subject, cri: Option<&mut Cri>) -> Option<Network> {
        // Where the others' network is does not matter.
        let (Wanted::Redirect(..), Some(cri)) = (&subject.wanted, cri) else {
            return Some(Network::default());
        };
        match cri.network(&subject.id).await {
            Ok(network) => Some(network),
            Err(error) if error.is_gone() => None,
            Err(error) => {
                tracing::debug!(%error, pod = subject.name(), "the runtime does not say where its network is");
                self.list_due = Instant::now() + PULSE;
                Some(Network::default())
            }
        }
    }

    /// Looks at every pod that should be redirected: with `is_pulse` whether any rule changed, and all of it where that is due.
    /// Those that differ are put right where that is wanted.
    async fn look(&mut self, is_pulse: bool) {
        let now = Instant::now();
        let mut todo = Vec::new();
        for tracked in self.tracked.values() {
            let Wanted::Redirect(policy, _) = &tracked.subject.wanted else { continue };
            if tracked.network.of_node {
                continue;
            }
            if tracked.due <= now {
                todo.push(self.look_at(tracked, Task::Check(policy.clone(), Mode::Report), None));
            } else if is_pulse && tracked.quiet_until <= now {
                todo.push(self.look_at(tracked, Task::Pulse, None));
            }
        }
        let differ = self.have(todo).await;
        if differ.is_empty() || self.context.options.repair != OnDamage::Repair {
            return;
        }
        let has_record = |id: &String| self.tracked.get(id).is_some_and(|it| it.subject.network.is_some());
        let (had, never_had): (Vec<_>, Vec<_>) = differ.into_iter().partition(has_record);
        self.put_right(never_had, TOLD_WITHIN).await;
        self.put_right(had, SETTLES_WITHIN).await;
    }

    /// Puts right those that are still there after a while: a pod that ends loses its rules too, by the plugin's DEL, and what a
    /// runtime calls ready afterwards stays.
    async fn put_right(&mut self, ids: Vec<String>, settles_within: Duration) {
        if ids.is_empty() {
            return;
        }
        tokio::time::sleep(settles_within).await;
        let layout = self.context.layout();
        let ready: Option<BTreeSet<String>> = match sandboxes(&layout).await {
            Ok(Some((_, sandboxes))) => Some(sandboxes.into_iter().map(|sandbox| sandbox.id).collect()),
            // Then its record says whether it had a DEL.
            Ok(None) | Err(_) => None,
        };
        let network_name = self.network_name(&layout);
        let mut todo = Vec::new();
        for id in ids {
            let is_there =
                ready.as_ref().is_none_or(|ready| ready.contains(&id)) && !self.shared.has_ended(&id);
            let Some(tracked) = self.tracked.get(&id).filter(|_| is_there) else { continue };
            let Wanted::Redirect(policy, _) = &tracked.subject.wanted else { continue };
            let task = Task::Check(policy.clone(), Mode::Repair);
            todo.push(self.look_at(tracked, task, network_name.clone()));
        }
        self.have(todo).await;
    }

    fn look_at(&self, tracked: &Tracked, task: Task, network_name: Option<String>) -> Look {
        let layout = self.context.layout();
        Look {
            root: layout.root.clone(),
            records: layout.at(&layout.attachments()),
            network_name,
            subject: tracked.subject.clone(),
            network: tracked.network.clone(),
            seen: tracked.seen,
            task,
        }
    }

    /// Has these looks, a few at a time, and takes note of each; returns the pods that differ.
    async fn have(&mut self, looks: Vec<Look>) -> Vec<String> {
        let mut todo = looks.into_iter();
        let mut again = Vec::new();
        let mut differ = Vec::new();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some(look) = again.pop().or_else(|| todo.next())
            {
                under_way.spawn_blocking(move || (look.clone(), look.run()));
            }
            // A look that panicked is a bug of ours; the pod is looked at again.
            let Some(ended) = under_way.join_next().await else { return differ };
            let Ok((look, result)) = ended else { continue };
            let id = look.subject.id.clone();
            let is_pulse = matches!(look.task, Task::Pulse);
            match self.note(&id, is_pulse, result) {
                Next::Nothing => {}
                Next::Check => {
                    if let Wanted::Redirect(policy, _) = &look.subject.wanted {
                        let task = Task::Check(policy.clone(), Mode::Report);
                        again.push(Look { task, ..look });
                    }
                }
                Next::Repair => differ.push(id),
            }
        }
    }

    /// The name of the network whose chain we are in.
    fn network_name(&self, layout: &Layout) -> Option<String> {
        let Readiness::Effective(file) = self.context.readiness() else { return None };
        let text = read_bounded(&layout.at(file.as_ref()), MAX_BYTES).ok()?;
        Conflist::parse(&text).ok().map(|conflist| conflist.name)
    }

    /// Takes note of a look; says what it calls for.
    fn note(&mut self, id: &str, is_pulse: bool, result: Result<(NetnsId, Found), LookError>) -> Next {
        let Some(tracked) = self.tracked.get_mut(id) else { return Next::Nothing };
        let now = Instant::now();
        let metrics = &self.context.metrics;
        let count = |result: Verified| {
            metrics.verified.get_or_create(&VerifiedLabels::from(result)).inc();
        };
        let pod = tracked.subject.name();
        let (seen, checked) = match result {
            Ok((seen, Found::Pulse(generation))) => {
                tracked.seen = Some(seen);
                return if generation == tracked.generation { Next::Nothing } else { Next::Check };
            }
            Ok((seen, Found::Checked(checked))) => (seen, checked),
            // Mostly since it has ended: the next list will show.
            Err(_) if is_pulse => {
                (tracked.due, self.list_due) = (now, now);
                return Next::Nothing;
            }
            Err(LookError::Ended) => {
                self.list_due = now;
                return Next::Nothing;
            }
            Err(error) => {
                tracked.due = now + CHECK_EVERY;
                count(Verified::Unknown);
                let reason = error.to_string();
                if tracked.row.state != State::Unknown || tracked.row.reason != reason {
                    tracing::warn!(pod, sandbox = id, reason, "a pod cannot be verified");
                    // Such as rules of iptables, and none of its programs here.
                    if matches!(error, LookError::Redirect(_)) {
                        let message = format!("nobody can tell whether it is redirected: {reason}");
                        tell(self.events.as_ref(), &tracked.subject, "RedirectUnknown", message);
                    }
                }
                (tracked.row.state, tracked.row.reason) = (State::Unknown, reason);
                self.shared.table.set(tracked.row.clone());
                return Next::Nothing;
            }
        };
        let Checked { state, generation } = *checked;
        tracked.seen = Some(seen);
        tracked.generation = generation;
        tracked.due = now + CHECK_EVERY;
        tracked.row.verified = Some(rfc3339(SystemTime::now()));
        let Wanted::Redirect(_, setting) = &tracked.subject.wanted else { return Next::Nothing };
        let mut next = Next::Nothing;
        match state {
            Redirect::Well(engine) => {
                count(Verified::Well);
                tracked.strikes = 0;
                tracked.row.engine = Some(engine.name().to_owned());
                (tracked.row.state, tracked.row.reason) = (State::Redirected, setting.clone());
            }
            Redirect::Repaired(repaired) => {
                count(Verified::Damaged);
                metrics.repaired.inc();
                tracked.strikes += 1;
                let pause = PULSE.saturating_mul(1 << (tracked.strikes - 1).min(4));
                // The first is followed at once, each further one later.
                tracked.quiet_until = if tracked.strikes == 1 { now } else { now + pause.min(CHECK_EVERY) };
                let message = put_right(&repaired);
                let engine = repaired.installed.engine.name();
                tracing::warn!(
                    pod,
                    sandbox = id,
                    engine,
                    differences = repaired.differences.len(),
                    what = message,
                    "redirect repaired"
                );
                tell(self.events.as_ref(), &tracked.subject, "RedirectRepaired", message.clone());
                tracked.row.repairs += 1;
                tracked.row.engine = Some(engine.to_owned());
                (tracked.row.state, tracked.row.reason) =
                    (State::Redirected, format!("{setting}; {message}"));
            }
            Redirect::Differs(_) if self.context.options.repair == OnDamage::Repair => next = Next::Repair,
            Redirect::Differs(differences) => {
                count(Verified::Damaged);
                let reason = format!("--repair is report, so it stays as it is: {}", told(&differences));
                tracked.damaged(id, reason, self.events.as_ref());
            }
            Redirect::Anothers(owner) => {
                count(Verified::Damaged);
                tracked.damaged(
                    id,
                    format!("its rules were written for another, and are left alone: {owner}"),
                    self.events.as_ref(),
                );
            }
        }
        self.shared.table.set(tracked.row.clone());
        next
    }
}

/// What a look calls for.
enum Next {
    Nothing,
    /// Rules changed: a whole look.
    Check,
    /// It differs, and is to be put right.
    Repair,
}

impl Tracked {
    /// It is damaged and stays so: told when that is news.
    fn damaged(&mut self, id: &str, reason: String, events: Option<&Events>) {
        if self.row.state != State::Damaged || self.row.reason != reason {
            tracing::warn!(pod = self.subject.name(), sandbox = id, reason, "redirect damaged");
            tell(events, &self.subject, "RedirectDamaged", reason.clone());
        }
        (self.row.state, self.row.reason) = (State::Damaged, reason);
    }
}

/// Every sandbox that runs, and a connection to ask for more; `None` without a runtime's socket.
pub(crate) async fn sandboxes(layout: &Layout) -> Result<Option<(Cri, Vec<Sandbox>)>, CriError> {
    let Some(socket) = &layout.runtime_socket else { return Ok(None) };
    let mut cri = Cri::connect(&layout.at(socket)).await?;
    let sandboxes = cri.sandboxes().await?;
    Ok(Some((cri, sandboxes)))
}
