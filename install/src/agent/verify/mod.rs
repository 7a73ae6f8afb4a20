// SPDX-License-Identifier: Apache-2.0
//! Verifies and repairs the redirect of every onboarded pod on this node.
//!
//! ```text
//! each 3 s    pulse: did any rule change in the pod's namespace? (one number of the kernel's, 20 µs)
//!             └─ yes ──▶ check now
//! each 30 s,  list the sandboxes (CRI, else the attachments' records), check each pod ──▶ judge ──▶ verdict
//! at start    ├─ intact
//! on news     ├─ damaged, or older than the plugin ──▶ repair in place ──▶ event, metric, log line
//!             └─ unreadable ──▶ metric, log line, `culvert-install status`
//! the entry   list the sandboxes each 150 ms for a while: those whose creation began while it was missing had no ADD of ours
//! is back
//! ```
//! Flushed rules are back within some 3 s, without a socket in each pod's namespace, which would keep the namespace of a pod
//! that ends. (Rules of iptables-legacy have no such number: they are checked each 30 s.) A pod whose rules are removed again
//! and again is repaired ever more seldom, down to once in 30 s.

mod check;
mod judge;
mod report;
mod subjects;
mod tracked;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use culvert_cni::attachment::Records;
use culvert_cni::redirect::policy::Policy;
use culvert_cni::redirect::repair::Mode;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

pub(crate) use self::check::PodCheck;
use self::judge::{CheckResult, FollowUp, PodReport, Verdict, judge};
use self::report::post_event;
pub(crate) use self::report::{row, with_bypass};
pub(crate) use self::subjects::{Defaults, Desired, Subject, subjects};
use self::tracked::{CHECK_EVERY, PULSE, Tracked};
use crate::agent::context::{Context, Readiness};
use crate::agent::metrics::VerifiedLabels;
use crate::agent::options::OnDamage;
use crate::agent::shared::Shared;
use crate::conflist::{Conflist, MAX_BYTES};
use crate::cri::{Cri, CriError, Network, Sandbox};
use crate::host::layout::Layout;
use crate::kube::Events;
use crate::system::read::read_bounded;

/// Interval of lists after the entry was missing: pods that started meanwhile are to be repaired within half a second.
const LIST_EACH: Duration = Duration::from_millis(150);
/// Duration of those lists: a chain that the runtime began without the entry ends with a pod only some seconds later.
const LISTS_FOR: Duration = Duration::from_secs(10);
/// Checks at a time, so that one that waits for a hostile pod's lock does not hold up the others.
const AT_ONCE: usize = 3;
/// Time from a plugin's DEL, which removes the rules, to a runtime and a record that agree that the pod has ended.
const SETTLES_WITHIN: Duration = Duration::from_millis(300);
/// The same for a pod without a record: it never had an ADD, or the plugin has reported its DEL by then.
const REPORTED_WITHIN: Duration = Duration::from_millis(50);

/// Runs until the agent ends.
pub(crate) async fn run(context: Context, shared: Arc<Shared>, events: Option<Events>) {
    let mut verifier = Verifier::new(&context, shared, events);
    tokio::select! {
        () = context.shutdown() => {}
        () = verifier.work() => {}
    }
}

/// The state of the verifying task, which alone reads and writes it.
struct Verifier {
    context: Context,
    shared: Arc<Shared>,
    events: Option<Events>,
    defaults: Defaults,
    /// The pods of the last list, by the id of their sandbox.
    tracked: BTreeMap<String, Tracked>,
    list_due: Instant,
    /// Until then a pod may come up whose creation began while the entry was missing.
    alert_until: Instant,
    /// The trouble with the last list, so that it is logged once.
    problem: Option<String>,
}

/// The two kinds of checks.
#[derive(Debug, Clone)]
enum Task {
    Pulse,
    Verify(Box<Policy>, Mode),
}

impl Task {
    fn run(self, check: &PodCheck) -> CheckResult {
        match self {
            Self::Pulse => CheckResult::Pulse(check.generation()),
            Self::Verify(policy, mode) => CheckResult::Rules(check.verify(policy, mode)),
        }
    }
}

impl Verifier {
    fn new(context: &Context, shared: Arc<Shared>, events: Option<Events>) -> Self {
        let entry = context.options.entry.compact("");
        let defaults = Defaults::of_entry(&entry).unwrap_or_else(|problem| {
            // The agent does not start with such an entry, so only a bug leads here.
            tracing::error!(
                problem,
                "the node's defaults cannot be read: pods older than the plugin get the product's"
            );
            Defaults::default()
        });
        Self {
            context: context.clone(),
            shared,
            events,
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
                self.check_due(is_pulse).await;
            }
        }
    }

    /// Lists the pods anew, with the desired state of each.
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
                // The runtime restarts, and its pods are still there: keep the last list.
                self.report_problem(Some(error.to_string()));
                self.list_due = Instant::now() + PULSE;
                return;
            }
        };
        self.defaults.handlers.clone_from(&layout.handlers);
        let subjects = subjects(sandboxes, records, &self.defaults);
        self.follow(subjects, cri).await;
        self.report_problem(unreached.or(unread));
        let problem = self.problem.clone();
        self.shared.table.listed(listed_by.to_owned(), problem, |id| self.tracked.contains_key(id));
        for tracked in self.tracked.values() {
            self.shared.table.set(tracked.checks.row.clone());
        }
    }

    /// Logs the trouble with the list, once.
    fn report_problem(&mut self, problem: Option<String>) {
        if problem != self.problem {
            match &problem {
                Some(problem) => tracing::warn!(problem, "this node's pods cannot all be listed"),
                None => tracing::info!("this node's pods can be listed again"),
            }
            self.problem = problem;
        }
    }

    /// Adds new pods and drops those that are gone.
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
                        tracked.checks.row = row(&subject, &tracked.network, Some(&tracked.checks.row));
                        tracked.subject = subject;
                    }
                    tracked
                }
                None => {
                    let Some(network) = self.network(&subject, cri.as_mut()).await else { continue };
                    let row = row(&subject, &network, None);
                    Tracked::new(subject, network, row)
                }
            };
            self.tracked.insert(id, tracked);
        }
    }

    /// Asks the runtime for a pod's network; `None` where the pod is gone.
    async fn network(&mut self, subject: &Subject, cri: Option<&mut Cri>) -> Option<Network> {
        // Only a pod that is to be redirected is ever checked.
        let (Desired::Redirect(..), Some(cri)) = (&subject.desired, cri) else {
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

    /// Checks every pod that is to be redirected: all of its rules where that is due, and else, with `is_pulse`, whether any
    /// rule changed. Repairs those that differ, where that is wanted.
    async fn check_due(&mut self, is_pulse: bool) {
        let now = Instant::now();
        let mut checks = Vec::new();
        for tracked in self.tracked.values() {
            let Some(policy) = tracked.policy() else { continue };
            if tracked.checks.due <= now {
                let task = Task::Verify(Box::new(policy.clone()), Mode::Report);
                checks.push((self.check_of(tracked, None), task));
            } else if is_pulse && tracked.checks.quiet_until <= now {
                checks.push((self.check_of(tracked, None), Task::Pulse));
            }
        }
        let differ = self.run_checks(checks).await;
        if differ.is_empty() || self.context.options.repair != OnDamage::Repair {
            return;
        }
        let has_record = |id: &String| self.tracked.get(id).is_some_and(|it| it.subject.network.is_some());
        let (had, never_had): (Vec<_>, Vec<_>) = differ.into_iter().partition(has_record);
        self.repair(never_had, REPORTED_WITHIN).await;
        self.repair(had, SETTLES_WITHIN).await;
    }

    /// Repairs those pods that are still there after a while: the plugin's DEL removes the rules of a pod that ends, and only
    /// a pod that the runtime lists as ready after that has been damaged.
    async fn repair(&mut self, ids: Vec<String>, settles_within: Duration) {
        if ids.is_empty() {
            return;
        }
        tokio::time::sleep(settles_within).await;
        let layout = self.context.layout();
        let ready: Option<BTreeSet<String>> = match sandboxes(&layout).await {
            Ok(Some((_, sandboxes))) => Some(sandboxes.into_iter().map(|sandbox| sandbox.id).collect()),
            // Without a runtime to ask, the pod's record shows whether it had a DEL.
            Ok(None) | Err(_) => None,
        };
        let network_name = self.network_name(&layout);
        let mut checks = Vec::new();
        for id in ids {
            let is_there =
                ready.as_ref().is_none_or(|ready| ready.contains(&id)) && !self.shared.has_ended(&id);
            let Some(tracked) = self.tracked.get(&id).filter(|_| is_there) else { continue };
            let Some(policy) = tracked.policy() else { continue };
            let task = Task::Verify(Box::new(policy.clone()), Mode::Repair);
            checks.push((self.check_of(tracked, network_name.clone()), task));
        }
        self.run_checks(checks).await;
    }

    fn check_of(&self, tracked: &Tracked, network_name: Option<String>) -> PodCheck {
        let layout = self.context.layout();
        PodCheck {
            root: layout.root.clone(),
            records: layout.at(&layout.attachments()),
            network_name,
            subject: tracked.subject.clone(),
            network: tracked.network.clone(),
            netns: tracked.checks.netns,
        }
    }

    /// Runs the checks, a few at a time, and acts on each result; returns the pods that are to be repaired.
    async fn run_checks(&mut self, checks: Vec<(PodCheck, Task)>) -> Vec<String> {
        let mut todo = checks.into_iter();
        let mut again = Vec::new();
        let mut differ = Vec::new();
        let mut in_flight = JoinSet::new();
        loop {
            while in_flight.len() < AT_ONCE
                && let Some((check, task)) = again.pop().or_else(|| todo.next())
            {
                in_flight.spawn_blocking(move || {
                    let result = task.run(&check);
                    (check, result)
                });
            }
            let Some(ended) = in_flight.join_next().await else { return differ };
            // A check that panicked is a bug; the pod's next check comes all the same.
            let Ok((check, result)) = ended else { continue };
            match self.act(&check.subject.id, result) {
                FollowUp::Wait => {}
                FollowUp::List => self.list_due = Instant::now(),
                FollowUp::Verify => {
                    if let Desired::Redirect(policy, _) = &check.subject.desired {
                        let task = Task::Verify(policy.clone(), Mode::Report);
                        again.push((check, task));
                    }
                }
                FollowUp::Repair => differ.push(check.subject.id),
            }
        }
    }

    /// Reads the name of the network whose chain holds the entry.
    fn network_name(&self, layout: &Layout) -> Option<String> {
        let Readiness::Effective(file) = self.context.readiness() else { return None };
        let text = read_bounded(&layout.at(file.as_ref()), MAX_BYTES).ok()?;
        Conflist::parse(&text).ok().map(|conflist| conflist.name)
    }

    /// Judges a check and carries the verdict out, but for the follow-up, which it returns.
    fn act(&mut self, id: &str, result: CheckResult) -> FollowUp {
        let Some(tracked) = self.tracked.get_mut(id) else { return FollowUp::Wait };
        let on_damage = self.context.options.repair;
        let Verdict { checks, count, report, follow_up } =
            judge(tracked, result, on_damage, Instant::now(), SystemTime::now());
        let metrics = &self.context.metrics;
        if let Some(result) = count {
            metrics.verified.get_or_create(&VerifiedLabels::from(result)).inc();
        }
        if tracked.checks.row != checks.row {
            self.shared.table.set(checks.row.clone());
        }
        tracked.checks = checks;
        let (subject, events) = (&tracked.subject, self.events.as_ref());
        let pod = subject.name();
        match report {
            None => {}
            Some(PodReport::Unknown { reason, has_event }) => {
                tracing::warn!(pod, sandbox = id, reason, "a pod cannot be verified");
                if has_event {
                    let message = format!("its redirect cannot be verified: {reason}");
                    post_event(events, subject, "RedirectUnknown", message);
                }
            }
            Some(PodReport::Damaged { reason }) => {
                tracing::warn!(pod, sandbox = id, reason, "redirect damaged");
                post_event(events, subject, "RedirectDamaged", reason);
            }
            Some(PodReport::Repaired { engine, differences, message }) => {
                metrics.repaired.inc();
                tracing::warn!(pod, sandbox = id, engine, differences, what = message, "redirect repaired");
                post_event(events, subject, "RedirectRepaired", message);
            }
        }
        follow_up
    }
}

/// Lists every sandbox that runs, with the connection for further questions; `None` without a runtime's socket.
pub(crate) async fn sandboxes(layout: &Layout) -> Result<Option<(Cri, Vec<Sandbox>)>, CriError> {
    let Some(socket) = &layout.runtime_socket else { return Ok(None) };
    let mut cri = Cri::connect(&layout.at(socket)).await?;
    let sandboxes = cri.sandboxes().await?;
    Ok(Some((cri, sandboxes)))
}
