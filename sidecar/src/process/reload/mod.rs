// SPDX-License-Identifier: Apache-2.0
//! Documents that change while the sidecar runs: polled each second, loaded, checked, and put in force as a whole or not
//! at all. Connections that are open keep the configuration that they began with.

mod destinations;

use crate::cluster::registry::Running;
use crate::connection::proxy::Proxy;
use crate::control::{self, Control, Settled, Told};
use crate::net::resolve::Names;
use crate::options::config::Config;
use crate::plan::Plan;
use crate::plan::load::{self as documents, PlanError, PlanSources};
use crate::plan::names::{MeshNames, Standing};
use crate::plan::openings::openings;
use crate::process::identity::IdentityGate;
use crate::process::listeners::{self, ListenerSet, both};
use crate::scrape::{self, ScrapePorts};
use culvert_mesh::document::Found;
use culvert_mesh::load::{Fingerprint, Text};
use destinations::{Beside, ReadDestination};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior};

/// Polling interval. A watch would use up inotify instances, of which a uid has 128 on the whole node.
const EVERY: Duration = Duration::from_secs(1);

/// Time without a change before files are read: a program that truncates and writes is done by then.
const SETTLE_TIME: Duration = Duration::from_millis(200);
/// Polls before files are read although they still change; else a storm of changes would never be seen.
const MAX_POLLS: usize = 5;

/// Reads at a start before files are taken as they are although they still change.
const MAX_READS: usize = 5;

/// State of everything that is looked at for changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    files: Fingerprint,
    /// The file with the pod's labels.
    labels: Fingerprint,
}

impl Seen {
    fn of(config: &Config) -> Self {
        let labels = config.pod.as_ref().and_then(|pod| pod.labels.as_ref());
        let labels = labels.map_or(&[][..], std::slice::from_ref);
        Self { files: Fingerprint::of(&config.resources), labels: Fingerprint::of(labels) }
    }

    /// Returns the number of files of documents.
    pub(crate) fn files(&self) -> usize {
        self.files.files()
    }
}

/// Loads the documents, with the fingerprint of what was loaded.
///
/// # Errors
/// Every error in the documents. They stay until a file changes.
pub(crate) fn load(config: &Config, names: &Names) -> Result<(Seen, (Plan, Found)), Vec<PlanError>> {
    let look = || Seen::of(config);
    let standing = Standing::of_pod(&MeshNames::default());
    let from = PlanSources { paths: &config.resources, names: Some(names), ..PlanSources::default() };
    let read = || documents::read(config, &from, &standing);
    let (seen, read) = read_unchanged(look, read);
    Ok((seen, read?))
}

/// Reads again while files change: one that vanished after it was listed is no error of its documents.
fn read_unchanged<S: PartialEq, T>(look: impl Fn() -> S, mut read: impl FnMut() -> T) -> (S, T) {
    let mut seen = look();
    let mut reads = 1;
    loop {
        let done = read();
        let after = look();
        if after == seen || reads == MAX_READS {
            return (seen, done);
        }
        (seen, reads) = (after, reads + 1);
    }
}

/// Logs the plan's warnings.
pub(crate) fn warn(plan: &Plan) {
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
}

/// Longest time in which changes of the controller are gathered after a reload. It is as long as that reload took, so that
/// small changes in a row take half of a core; no longer, as connections wait a second for their answers.
const LONGEST_REST: Duration = Duration::from_millis(200);
/// Time that reloads may take together without a rest: the first calls of a pod that starts are not made to wait.
const CREDIT: Duration = Duration::from_millis(250);

/// Time that reloads took lately. It goes down as time passes.
#[derive(Debug, Default)]
struct Worked(Duration);

impl Worked {
    /// Returns the rest after a reload that took so long, `since` the end of the last one.
    fn rest(&mut self, since: Duration, took: Duration) -> Duration {
        self.0 = self.0.saturating_sub(since) + took;
        if self.0 <= CREDIT { Duration::ZERO } else { took.min(LONGEST_REST) }
    }
}

/// Waits until it is time to look for changes. Returns documents of destinations where they alone changed.
async fn next(control: Option<&Arc<Control>>, polls: &mut Interval) -> Option<Told> {
    let Some(control) = control else {
        polls.tick().await;
        return None;
    };
    tokio::select! {
        () = control.changed() => control.told_of_destinations(),
        _ = polls.tick() => None,
    }
}

/// Polls, and loads documents that changed or whose names have other addresses, for ever.
pub(crate) async fn keep(
    proxy: Arc<Proxy>,
    (listeners, ports): (Arc<ListenerSet>, Arc<ScrapePorts>),
    identity: Arc<IdentityGate>,
    mut in_force: Seen,
) {
    // The last fingerprint that was loaded, whether it could be used or not: the same again brings nothing new.
    let mut last = in_force.clone();
    let look = || blocking(&proxy, |proxy| Seen::of(&proxy.config));
    // The answers in force, and the last ones that were tried, with documents that had errors too.
    let mut answers = proxy.names.used();
    let mut tried = answers;
    let (mut worked, mut ended) = (Worked::default(), Instant::now());
    let mut polls = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if let Some((told, control)) =
            next(proxy.control.as_ref(), &mut polls).await.zip(proxy.control.as_ref())
        {
            let begun = Instant::now();
            destinations::put_in_force(&proxy, control, told).await;
            let rest = worked.rest(begun.saturating_duration_since(ended), begun.elapsed());
            ended = Instant::now();
            tokio::time::sleep(rest).await;
            continue;
        }
        let told = proxy.control.as_ref().is_some_and(|control| !control.is_settled());
        let changes = proxy.names.changes();
        let moved = changes != tried;
        let Some(seen) = look().await.filter(|seen| told || moved || *seen != last) else { continue };
        // Files that are as they were are not being written.
        let looked = if moved || seen != last { settle(seen, look).await } else { Some((seen, true)) };
        let Some((seen, settled)) = looked else { continue };
        if seen == in_force && changes == answers && !told {
            proxy.documents.as_before();
            last = seen;
            continue;
        }
        let begun = Instant::now();
        let read = blocking(&proxy, Reading::of).await;
        let Reading { plan, after, compiled } = read.unwrap_or_else(|| Reading::failed(seen.clone()));
        // The files changed while they were read: they may be half written.
        if settled && after != seen {
            continue;
        }
        // Read again, documents with errors would bring the same errors.
        tried = changes.max(proxy.names.used());
        last = seen;
        let applied = plan.and_then(|plan| apply(&proxy, (&listeners, &ports), &identity, plan));
        if let (Some(control), Some(compiled)) = (&proxy.control, compiled) {
            control.settle(compiled.after(&applied));
        }
        match applied {
            // The same documents, with other addresses of names.
            Ok(()) if last == in_force && !told => {
                answers = tried;
                proxy.documents.as_before();
            }
            Ok(()) => {
                answers = tried;
                in_force = last.clone();
                proxy.documents.reloaded(in_force.files());
            }
            Err(errors) => refused(&proxy, &errors),
        }
        if told {
            let took = begun.elapsed();
            let rest = worked.rest(begun.saturating_duration_since(ended), took);
            ended = begun + took;
            tokio::time::sleep(rest).await;
        }
    }
}

fn refused(proxy: &Proxy, errors: &[String]) {
    for error in errors {
        tracing::error!("the changed documents cannot be used, the old configuration stays: {error}");
    }
    proxy.documents.reload_failed(errors);
}

/// A plan that can be put in force, with everything that belongs to it.
struct NewPlan {
    plan: Plan,
    /// Its openings, compared with the one in force.
    opened: Vec<String>,
    /// The documents that it was made of.
    found: Arc<Found>,
    /// The destinations that were told, compiled beside it.
    destinations: Vec<ReadDestination>,
}

/// Result of reading changed documents.
struct Reading {
    plan: Result<NewPlan, Vec<String>>,
    /// State of the files after they were read.
    after: Seen,
    /// Documents of the controller, where there is one.
    compiled: Option<Compiled>,
}

/// Documents of the controller that were compiled.
struct Compiled {
    generation: u64,
    texts: Vec<Text>,
    /// Those that could not be used, with the reason; in their place the last good ones were.
    bad: Vec<(Arc<str>, String)>,
}

impl Compiled {
    /// Returns the outcome for the stream.
    fn after(self, applied: &Result<(), Vec<String>>) -> Settled {
        let Self { generation, texts, bad } = self;
        match applied {
            Ok(()) => Settled { generation, in_force: Some(texts), bad, failed: None },
            Err(errors) => Settled { generation, in_force: None, bad, failed: Some(errors.join("\n")) },
        }
    }
}

impl Reading {
    fn of(proxy: &Proxy) -> Self {
        let in_force = proxy.running.load();
        let told = proxy.control.as_ref().map(|control| control.told());
        let (read, compiled) = read(proxy, &in_force, told.as_ref());
        let words = |errors: Vec<PlanError>| errors.iter().map(ToString::to_string).collect();
        let plan = read.map_err(words).map(|(plan, found)| {
            // It is no opening that the closed mesh, which only stands in, gives way.
            let news = !in_force.plan.stand_ins.mesh;
            let opened = if news { openings(&in_force.plan, &plan) } else { Vec::new() };
            let found = Arc::new(found);
            let destinations = told.zip(proxy.control.as_ref()).map(|(told, control)| {
                let beside = Beside::new(Arc::clone(&found), &plan.names);
                let mut keys = in_force.told_keys();
                let read = |one| {
                    let read = beside.read(proxy, (control, &keys), one);
                    // Names that are new together must not get one address.
                    keys.extend(read.key());
                    read
                };
                told.destinations.into_iter().map(read).collect()
            });
            NewPlan { plan, opened, found, destinations: destinations.unwrap_or_default() }
        });
        Self { plan, after: Seen::of(&proxy.config), compiled }
    }

    /// The reading thread panicked. The old plan stays, and operators see that as for any other error.
    fn failed(after: Seen) -> Self {
        let words = "reading them failed by a fault of the sidecar, which the log shows".to_owned();
        Self { plan: Err(vec![words]), after, compiled: None }
    }
}

/// Outcome of reading documents.
type Read = Result<(Plan, Found), Vec<PlanError>>;

/// Reads files and the controller's documents about the pod. Of the latter a wrong one does not stop the others: the last good
/// one takes its place.
fn read(proxy: &Proxy, in_force: &Running, told: Option<&Told>) -> (Read, Option<Compiled>) {
    let config = &proxy.config;
    let standing = Standing::of_pod(&in_force.plan.names).with(in_force.told_keys().into_iter());
    let had_mesh = !in_force.plan.stand_ins.mesh;
    let read = |texts: &[Text]| {
        let from = PlanSources { paths: &config.resources, texts, names: Some(&proxy.names), had_mesh };
        documents::read(config, &from, &standing)
    };
    let Some((told, control)) = told.zip(proxy.control.as_ref()) else { return (read(&[]), None) };
    let first = read(&told.texts);
    let generation = told.generation;
    let Err(errors) = first else {
        return (first, Some(Compiled { generation, texts: told.texts.clone(), bad: Vec::new() }));
    };
    let bad = words_by_source(&errors);
    let texts = control.without(told, &bad.keys().cloned().collect());
    let again = if bad.is_empty() { Err(errors) } else { read(&texts) };
    if again.is_ok() {
        for words in bad.values() {
            tracing::error!(
                "a document of the controller cannot be used, what was there before stays: {words}"
            );
        }
    }
    (again, Some(Compiled { generation, texts, bad: bad.into_iter().collect() }))
}

/// Returns the errors of the controller's documents, by their sources.
fn words_by_source(errors: &[PlanError]) -> BTreeMap<Arc<str>, String> {
    let mut bad: BTreeMap<Arc<str>, String> = BTreeMap::new();
    for error in errors {
        if let Some(source) = error.source().filter(|source| control::is_told(source)) {
            let words = bad.entry(source.into()).or_default();
            words.push_str(if words.is_empty() { "" } else { "\n" });
            words.push_str(&error.to_string());
        }
    }
    bad
}

/// Polls until nothing changes any more; false where it still changed at the last poll.
async fn settle<S: PartialEq, L: Future<Output = Option<S>>>(
    mut seen: S,
    mut look: impl FnMut() -> L,
) -> Option<(S, bool)> {
    for _ in 0..MAX_POLLS {
        tokio::time::sleep(SETTLE_TIME).await;
        let before = std::mem::replace(&mut seen, look().await?);
        if before == seen {
            return Some((seen, true));
        }
    }
    Some((seen, false))
}

/// Runs work off the main thread, which answers the kubelet's probes.
async fn blocking<T: Send + 'static>(
    proxy: &Arc<Proxy>,
    work: impl FnOnce(&Proxy) -> T + Send + 'static,
) -> Option<T> {
    let proxy = Arc::clone(proxy);
    tokio::task::spawn_blocking(move || work(&proxy)).await.ok()
}

/// Puts a plan in force. Ports come first, as one that is taken must change nothing.
fn apply(
    proxy: &Proxy,
    (set, ports): (&ListenerSet, &ScrapePorts),
    identity: &IdentityGate,
    new: NewPlan,
) -> Result<(), Vec<String>> {
    let NewPlan { mut plan, opened, found, destinations } = new;
    let text = |errors: Vec<crate::net::bind::ListenError>| {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let bound = listeners::bind(&proxy.config, &plan, |name| set.is_bound(name));
    let scraped = scrape::bind(&plan, |address| ports.is_open(address));
    let (bound, scraped) = both(bound, scraped).map_err(text)?;
    let one = |error: std::io::Error| vec![error.to_string()];
    let before = proxy.running.load_full();
    let mut targets = plan.logs.targets();
    targets.extend(destinations.iter().flat_map(ReadDestination::log_targets));
    targets.extend(
        before.log_targets().into_iter().filter(|_| destinations.iter().any(ReadDestination::failed)),
    );
    targets.sort();
    targets.dedup();
    proxy.traffic_log.use_only(&targets).map_err(one)?;
    if let Some(mtls) = &plan.mtls {
        let set = proxy.tls.set(mtls.settings.clone(), &proxy.metrics.tls);
        set.map_err(|error| vec![format!("MeshTLS: {error}")])?;
    }
    if !opened.is_empty() {
        proxy.documents.opened();
        // First on the page, which shows a limited number of warnings.
        plan.warnings
            .splice(0..0, opened.iter().map(|words| format!("the last change of documents opens: {words}")));
    }
    warn(&plan);
    proxy.documents.left_out(plan.left_out);
    let running = proxy.registry.open(plan);
    let put = |one: ReadDestination| one.put(&running, Some(&before)).0;
    let outcomes: Vec<_> = destinations.into_iter().map(put).collect();
    drop(before);
    retire(proxy.running.swap(Arc::clone(&running)));
    if let Some(control) = &proxy.control {
        // Before queries for names are let go on.
        proxy.dns.put_names(&running.names());
        control.set_base(found);
        outcomes.into_iter().for_each(|outcome| control.compiled(outcome));
    }
    proxy.plan_changed.notify_one();
    // After the plan: a name is told once connections to its addresses have a listener.
    proxy.dns.plan_changed.notify_one();
    identity.update();
    // From here on the plan is in force, so that nothing is an error of it any more.
    let followed = [set.follow(&running.plan, bound), ports.follow(&running.plan, scraped)];
    for error in followed.into_iter().filter_map(Result::err) {
        tracing::error!(%error, "the changed documents are in force, and a port of theirs is not served");
    }
    tracing::info!(
        documents = running.documents(),
        listeners = running.listener_count(),
        clusters = running.cluster_count(),
        "changed documents are in force"
    );
    Ok(())
}

/// Drops a plan once no connection that is being made uses it, on a thread where that delays nothing. The last to use it may be
/// a worker, and the plan of 20,000 endpoints is hundreds of thousands of pieces of memory, which take some 10 ms.
fn retire<T: Send + Sync + 'static>(old: Arc<T>) {
    tokio::spawn(async move {
        // No other way leads to it any more, so that the count only falls.
        while Arc::strong_count(&old) > 1 {
            tokio::time::sleep(EVERY).await;
        }
        // An error is the runtime's end, by which all memory goes.
        let _ = tokio::task::spawn_blocking(move || drop(old)).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs;
    use std::thread::ThreadId;
    use tokio::sync::oneshot;

    /// Tells the thread that drops it.
    struct Tells(Option<oneshot::Sender<ThreadId>>);

    impl Drop for Tells {
        fn drop(&mut self) {
            let sender = self.0.take().unwrap();
            let _ = sender.send(std::thread::current().id());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_plan_that_goes_is_dropped_by_none_that_used_it_and_by_no_event_loop() {
        let (sender, mut dropped) = oneshot::channel();
        let plan = Arc::new(Tells(Some(sender)));
        let connection = Arc::clone(&plan);
        retire(plan);
        tokio::time::sleep(EVERY * 10).await;
        assert!(dropped.try_recv().is_err(), "it is in use");
        drop(connection);
        assert!(dropped.try_recv().is_err(), "the last user does not drop it");
        assert_ne!(dropped.await.unwrap(), std::thread::current().id());
    }

    #[test]
    fn a_start_reads_again_while_files_change_but_not_for_ever() {
        for (changes, reads) in [(0, 1), (1, 2), (3, 4), (100, MAX_READS)] {
            let (seen, mut done) = (Cell::new(0), 0);
            read_unchanged(
                || seen.get(),
                || {
                    seen.set((seen.get() + 1).min(changes));
                    done += 1;
                },
            );
            assert_eq!(done, reads, "{changes}");
        }
    }

    #[test]
    fn reloads_rest_once_they_are_many() {
        let ms = Duration::from_millis;
        let mut worked = Worked::default();
        let rests: Vec<_> = (0..14).map(|_| worked.rest(ms(0), ms(20))).collect();
        assert_eq!(rests.iter().filter(|rest| rest.is_zero()).count(), 12, "{rests:?}");
        assert_eq!(rests[12..], [ms(20); 2]);
        // With rests between them they take half of the time.
        assert_eq!(worked.rest(ms(20), ms(20)), ms(20));
        assert_eq!(worked.rest(ms(1000), ms(20)), ms(0));
        assert_eq!(worked.rest(ms(0), ms(900)), LONGEST_REST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_once_writing_ends_or_goes_on_for_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let write = |bytes: usize| {
            fs::write(&file, "#".repeat(bytes)).unwrap();
            Fingerprint::of(std::slice::from_ref(&file))
        };
        for (changes, expected_looks) in [(0, 1), (2, 3), (100, MAX_POLLS)] {
            let looks = Cell::new(0);
            let seen = settle(write(0), || {
                looks.set(looks.get() + 1);
                let seen = if looks.get() <= changes {
                    write(looks.get())
                } else {
                    Fingerprint::of(std::slice::from_ref(&file))
                };
                std::future::ready(Some(seen))
            });
            assert_eq!(seen.await, Some((Fingerprint::of(std::slice::from_ref(&file)), changes != 100)));
            assert_eq!(looks.get(), expected_looks, "{changes}");
        }
        assert_eq!(settle(write(0), || std::future::ready(None)).await, None);
    }
}
