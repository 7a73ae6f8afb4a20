// SPDX-License-Identifier: Apache-2.0
//! Documents of destinations that the controller told: each destination is compiled alone, and put in force beside the plan.

use super::{blocking, words_by_source};
use crate::cluster::registry::Running;
use crate::connection::proxy::Proxy;
use crate::control::{self, CompiledDestination, Control, ToCompile, Told};
use crate::observe::traffic_log::{MOST_TARGETS, Target};
use crate::plan::load::PlanError;
use crate::plan::load::destination::{self, Asked, DestinationPlan};
use crate::plan::logs::LogTargets;
use crate::plan::names::{MeshNames, Standing};
use culvert_mesh::document::{Document, Found};
use culvert_mesh::load::Text;
use std::net::IpAddr;
use std::sync::Arc;

/// Documents of the plan above which a destination is compiled off the main thread, which answers the kubelet's probes. It is
/// compiled beside all of them: some 10 µs for each.
const MANY: usize = 500;

/// Key of the addresses of a name, and these.
pub(super) type NameKey = (Arc<str>, Arc<[IpAddr]>);

/// Everything that a destination is compiled beside.
pub(super) struct Beside {
    /// Documents of the plan in force.
    pub(super) base: Arc<Found>,
    standing: Standing,
}

/// A destination that was compiled.
pub(super) struct ReadDestination {
    plan: Option<DestinationPlan>,
    outcome: CompiledDestination,
}

impl Beside {
    /// Reads what the addresses of names depend on; `names` are the plan's.
    pub(super) fn new(base: Arc<Found>, names: &MeshNames) -> Self {
        Self { base, standing: Standing::of_pod(names) }
    }

    /// Compiles a destination. Of its documents a wrong one does not stop the others: the last good one takes its place.
    /// `keys` are those of the names that were told before.
    pub(super) fn read(
        &self,
        proxy: &Proxy,
        (control, keys): (&Control, &[NameKey]),
        told: ToCompile,
    ) -> ReadDestination {
        let standing = match &told.asked {
            Asked::Name(_) => self.standing.clone().with(keys.iter().cloned()),
            Asked::At(_) => self.standing.clone(),
        };
        // A document about the pod is newer than the same of a destination, and one of a file is older.
        let for_good = |document: &Document| control::is_told(&document.place.file);
        let read = |texts: &[Text]| {
            let base = (&*self.base, for_good);
            destination::read(&proxy.config, base, (&told.asked, texts), &standing)
        };
        let (plan, in_force, why) = match read(&told.texts) {
            Ok(plan) => (Some(plan), Some(told.texts.clone()), None),
            Err(errors) => {
                let bad = words_by_source(&errors);
                let texts = control.without_in(&told, &bad.keys().cloned().collect());
                let why = match bad.is_empty() {
                    true => words(&errors),
                    false => bad.values().map(String::as_str).collect::<Vec<_>>().join("\n"),
                };
                match if bad.is_empty() { Err(errors) } else { read(&texts) } {
                    Ok(plan) => (Some(plan), Some(texts), Some(why)),
                    Err(_) => (None, None, Some(why)),
                }
            }
        };
        if let Some(why) = &why {
            let asked = &told.asked;
            tracing::error!(
                "a document of the controller about {asked} cannot be used, what was there before stays: {why}"
            );
        }
        let ToCompile { asked, texts: told } = told;
        ReadDestination { plan, outcome: CompiledDestination { asked, told, in_force, why } }
    }
}

/// The outcome where compiling panicked: the destination waits for its next change.
fn panicked(told: &ToCompile) -> CompiledDestination {
    let ToCompile { asked, texts } = told.clone();
    let why = Some(format!("{asked}: a fault of the sidecar, which its log shows"));
    CompiledDestination { asked, told: texts, in_force: None, why }
}

fn words(errors: &[PlanError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl ReadDestination {
    /// Returns the key of its name, with its addresses.
    pub(super) fn key(&self) -> Option<NameKey> {
        let (name, key) = self.plan.as_ref()?.name.as_ref()?;
        Some((Arc::clone(key.as_ref()?), Arc::clone(&name.addresses)))
    }

    /// Returns true for one that leaves what was there before.
    pub(super) fn failed(&self) -> bool {
        self.plan.is_none()
    }

    /// Returns the targets of its traffic logs.
    pub(super) fn log_targets(&self) -> Vec<Target> {
        let logs = self.plan.iter().flat_map(DestinationPlan::logs);
        logs.flat_map(LogTargets::targets).collect()
    }

    /// Puts it in force beside a plan. Returns the outcome for the stream, and true if clusters have checks, now or before. What
    /// cannot be used leaves what was told `before`.
    pub(super) fn put(self, running: &Running, before: Option<&Running>) -> (CompiledDestination, bool) {
        let Self { plan, outcome } = self;
        let documents = outcome.in_force.as_ref().map_or(0, Vec::len);
        let checks = match plan {
            Some(_) if documents == 0 => running.untell(&outcome.asked),
            Some(plan) => running.tell(outcome.asked.clone(), plan, documents),
            None => {
                before.into_iter().for_each(|before| running.tell_again(&outcome.asked, before));
                false
            }
        };
        (outcome, checks)
    }
}

/// Opens the targets of all traffic logs, up to as many as one plan may have: each is a thread.
fn open_logs(proxy: &Proxy, running: &Running) {
    let targets = running.log_targets();
    if targets.len() > MOST_TARGETS {
        let count = targets.len();
        tracing::error!(
            count,
            "with those of destinations there are more traffic logs than {MOST_TARGETS}: the new ones are not written"
        );
    } else if let Err(error) = proxy.traffic_log.use_only(&targets) {
        tracing::error!(%error, "the traffic logs of destinations cannot be written");
    }
}

/// Puts destinations in force beside the plan that is.
pub(super) async fn put_in_force(proxy: &Arc<Proxy>, control: &Arc<Control>, told: Told) {
    let running = proxy.running.load_full();
    let beside = Arc::new(Beside::new(control.base(), &running.plan.names));
    let mut checks = false;
    for one in told.destinations {
        let is_name = matches!(one.asked, Asked::Name(_));
        let panicked = panicked(&one);
        let read = {
            let (beside, control, running) = (Arc::clone(&beside), Arc::clone(control), Arc::clone(&running));
            move |proxy: &Proxy| beside.read(proxy, (&control, &running.told_keys()), one)
        };
        let read =
            if beside.base.documents.len() > MANY { blocking(proxy, read).await } else { Some(read(proxy)) };
        let Some(read) = read else {
            control.compiled(panicked);
            continue;
        };
        let had_logs = running.has_told_logs();
        let (outcome, has_checks) = read.put(&running, None);
        checks |= has_checks;
        if had_logs || running.has_told_logs() {
            // Before connections go on: a line without a target is lost.
            open_logs(proxy, &running);
        }
        if is_name {
            proxy.dns.put_names(&running.names());
        }
        control.compiled(outcome);
        // Probes and the stream are not made to wait for thousands.
        tokio::task::yield_now().await;
    }
    if checks {
        proxy.plan_changed.notify_one();
    }
    tracing::debug!(documents = running.documents(), "documents of destinations are in force");
    control.settle_destinations(told.generation);
}
