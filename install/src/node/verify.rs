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
//! ```
//! So rules that somebody flushes are back within some 3 s, without a socket in each pod's namespace, which would keep the
//! namespace of a pod that ends. (Rules of iptables-legacy have no such number: they are checked each 30 s.) A pod whose rules
//! are taken away again and again is put right ever more seldom, each 30 s at last.

mod look;
mod subjects;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use culvert_cni::attachment::Records;
use culvert_cni::netns::NetnsId;
use culvert_cni::redirect::repair::{Checked, Mode, Repaired, State as Redirect};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use self::look::{Found, Look, LookError, Task};
pub use self::subjects::{Defaults, Subject, Wanted, subjects};
use super::agent::{Context, Readiness};
use super::clock::rfc3339;
use super::cri::{Cri, CriError, Network, Sandbox};
use super::kube::{Events, events::Event};
use super::layout::Layout;
use super::metrics::{Verified, VerifiedLabels};
use super::pods::Shared;
use super::runtimes::read_bounded;
use super::status::{Onboarded, Row, State};
use crate::cli::agent::Repair;
use crate::conflist::{Conflist, MAX_BYTES};

/// How often is looked whether rules changed.
const PULSE: Duration = Duration::from_secs(3);
/// How often each pod is verified (the issue's word: 30 s).
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// Looks at a time: one that waits for a hostile pod's lock does not hold up the others.
const AT_ONCE: usize = 3;
/// Differences that are told one by one.
const MAX_TOLD: usize = 3;

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
pub async fn run(context: Context, shared: Arc<Shared>, events: Option<Events>) {
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
            problem: None,
        }
    }

    async fn work(&mut self) {
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let verify_now = Arc::clone(&self.context.verify_now);
        loop {
            tokio::select! {
                _ = pulse.tick() => {}
                () = verify_now.notified() => {
                    self.list_due = Instant::now();
                }
            }
            let news = self.shared.news.swap(false, Ordering::Relaxed);
            if news || self.list_due <= Instant::now() {
                self.list().await;
            }
            if self.context.options.repair != Repair::Off {
                self.look().await;
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
                    if tracked.subject != subject {
                        tracked.row = row(&subject, &tracked.network, Some(&tracked.row));
                        tracked.subject = subject;
                    }
                    tracked
                }
                None => {
                    let network = match (&subject.wanted, cri.as_mut()) {
                        // Where the others' network is does not matter.
                        (Wanted::Redirect(..), Some(cri)) => cri.network(&id).await,
                        _ => Ok(Network::default()),
                    };
                    let network = match network {
                        Ok(network) => network,
                        Err(error) if error.is_gone() => continue,
                        Err(error) => {
                            tracing::debug!(%error, pod = subject.name(), "the runtime does not say where its network is");
                            self.list_due = Instant::now() + PULSE;
                            Network::default()
                        }
                    };
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

    /// Looks at every pod that should be redirected: whether any rule changed, or all of it where that is due.
    async fn look(&mut self) {
        let now = Instant::now();
        let layout = self.context.layout();
        let mode = if self.context.options.repair == Repair::Repair { Mode::Repair } else { Mode::Report };
        let mut network_name = None;
        let mut todo = Vec::new();
        for (id, tracked) in &self.tracked {
            let Wanted::Redirect(policy, _) = &tracked.subject.wanted else { continue };
            if tracked.network.of_node {
                continue;
            }
            let task = if tracked.due <= now {
                let name = || self.network_name(&layout);
                network_name.get_or_insert_with(name);
                Task::Check(policy.clone(), mode)
            } else if tracked.quiet_until <= now {
                Task::Pulse
            } else {
                continue;
            };
            let look = Look {
                root: layout.root.clone(),
                records: layout.at(&layout.attachments()),
                network_name: network_name.clone().flatten(),
                subject: tracked.subject.clone(),
                network: tracked.network.clone(),
                seen: tracked.seen,
                task,
            };
            todo.push((id.clone(), look));
        }
        let mut todo = todo.into_iter();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some((id, look)) = todo.next()
            {
                under_way.spawn_blocking(move || (id, look.clone(), look.run()));
            }
            // A look that panicked is a bug of ours; the pod is looked at again.
            let Some(ended) = under_way.join_next().await else { break };
            let Ok((id, look, result)) = ended else { continue };
            let changed = self.note(&id, result);
            if changed
                && let Some(tracked) = self.tracked.get(&id)
                && let Wanted::Redirect(policy, _) = &tracked.subject.wanted
            {
                let look = Look {
                    task: Task::Check(policy.clone(), mode),
                    network_name: self.network_name(&layout),
                    ..look
                };
                under_way.spawn_blocking(move || (id, look.clone(), look.run()));
            }
        }
    }

    /// The name of the network whose chain we are in.
    fn network_name(&self, layout: &Layout) -> Option<String> {
        let Readiness::Effective(file) = self.context.readiness() else { return None };
        let text = read_bounded(&layout.at(file.as_ref()), MAX_BYTES).ok()?;
        Conflist::parse(&text).ok().map(|conflist| conflist.name)
    }

    /// Takes note of a look; whether rules changed, so that a whole one is due.
    fn note(&mut self, id: &str, result: Result<(NetnsId, Found), LookError>) -> bool {
        let Some(tracked) = self.tracked.get_mut(id) else { return false };
        let now = Instant::now();
        let metrics = &self.context.metrics;
        let count = |result: Verified| {
            metrics.verified.get_or_create(&VerifiedLabels::from(result)).inc();
        };
        let pod = tracked.subject.name();
        let (seen, checked) = match result {
            Ok((seen, Found::Pulse(generation))) => {
                tracked.seen = Some(seen);
                return generation != tracked.generation;
            }
            Ok((seen, Found::Checked(checked))) => (seen, checked),
            Err(error) => {
                tracked.due = now + CHECK_EVERY;
                count(Verified::Unknown);
                let reason = error.to_string();
                if tracked.row.state != State::Unknown || tracked.row.reason != reason {
                    tracing::warn!(pod, sandbox = id, reason, "a pod cannot be verified");
                }
                (tracked.row.state, tracked.row.reason) = (State::Unknown, reason);
                self.shared.table.set(tracked.row.clone());
                return false;
            }
        };
        let Checked { state, generation } = *checked;
        tracked.seen = Some(seen);
        tracked.generation = generation;
        tracked.due = now + CHECK_EVERY;
        tracked.row.verified = Some(rfc3339(SystemTime::now()));
        let Wanted::Redirect(_, setting) = &tracked.subject.wanted else { return false };
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
            Redirect::Differs(differences) => {
                count(Verified::Damaged);
                tracked.damaged(
                    id,
                    format!("--repair is report, so it stays as it is: {}", told(&differences)),
                    self.events.as_ref(),
                );
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
        false
    }
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
pub async fn sandboxes(layout: &Layout) -> Result<Option<(Cri, Vec<Sandbox>)>, CriError> {
    let Some(socket) = &layout.runtime_socket else { return Ok(None) };
    let mut cri = Cri::connect(&layout.at(socket)).await?;
    let sandboxes = cri.sandboxes().await?;
    Ok(Some((cri, sandboxes)))
}

/// The row of a pod that was not looked at since its subject became this.
pub fn row(subject: &Subject, network: &Network, before: Option<&Row>) -> Row {
    let (onboarded, state, reason) = match &subject.wanted {
        Wanted::Redirect(..) if network.of_node => (
            Onboarded::No,
            State::Direct,
            "it uses the node's own network, which is never redirected".to_owned(),
        ),
        Wanted::Redirect(_, setting) => {
            (Onboarded::Yes, State::Unknown, format!("{setting}; not verified yet"))
        }
        Wanted::Direct(reason) => (Onboarded::No, State::Direct, reason.clone()),
        Wanted::Unknown(reason) => (Onboarded::Unknown, State::Unknown, reason.clone()),
    };
    let row = Row {
        pod: subject.name(),
        sandbox: subject.id.clone(),
        onboarded,
        engine: subject.engine.clone(),
        state,
        verified: None,
        repairs: 0,
        reason,
    };
    match before {
        // Only its record changed: what was seen of it holds.
        Some(before) if before.onboarded == onboarded => Row {
            state: before.state,
            reason: before.reason.clone(),
            verified: before.verified.clone(),
            repairs: before.repairs,
            ..row
        },
        _ => row,
    }
}

/// The first few differences, on one line.
fn told(differences: &[String]) -> String {
    let more = differences.len().saturating_sub(MAX_TOLD);
    let more = if more == 0 { String::new() } else { format!("; {more} more") };
    format!("{}{more}", differences.iter().take(MAX_TOLD).cloned().collect::<Vec<_>>().join("; "))
}

fn put_right(repaired: &Repaired) -> String {
    let Repaired { differences, installed, established } = repaired;
    let open = match established.len() {
        0 => "no connection was open".to_owned(),
        n => format!("open connections go on as they are: {n}"),
    };
    format!("put right by {}: {}; {open}", installed.engine.name(), told(differences))
}

fn tell(events: Option<&Events>, subject: &Subject, reason: &'static str, message: String) {
    let Subject { pod: (namespace, name), uid, .. } = subject;
    if let (Some(events), Some(uid)) = (events, uid) {
        let (namespace, name, uid) = (namespace.clone(), name.clone(), uid.clone());
        events.hand_in(Event { namespace, name, uid, reason, message, at: SystemTime::now() });
    }
}
