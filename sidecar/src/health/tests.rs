// SPDX-License-Identifier: Apache-2.0
//! The task of the checks, on a paused clock and with checks that the test decides.

use super::*;
use crate::cluster::registry::Cluster;
use crate::health::job::CheckError;
use crate::options::Options;
use crate::options::config::Config;
use crate::plan::Plan;
use crate::plan::compile::{compile, read_with_mesh};
use clap::Parser;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub(super) const HERE: &str = "---
{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 80, tags: {kuma.io/service: here}}],
  outbound: [{port: 1000, tags: {kuma.io/service: web}}]}}
";

pub(super) fn config() -> Config {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    Options::try_parse_from(arguments).unwrap().check().unwrap()
}

/// A plan whose service `web` has these endpoints, and a MeshHealthCheck with this `default`; none where it is empty.
pub(super) fn plan(mesh: &str, endpoints: &[SocketAddr], conf: &str) -> Plan {
    let web = |(number, at): (usize, &SocketAddr)| {
        format!(
            "---\n{{type: Dataplane, name: web-{number}, networking: {{address: {}, inbound: [{{port: {}, tags: {{kuma.io/service: web}}}}]}}}}\n",
            at.ip(),
            at.port()
        )
    };
    let web: String = endpoints.iter().enumerate().map(web).collect();
    let policy = match conf {
        "" => String::new(),
        _ => format!(
            "---\n{{type: MeshHealthCheck, name: h, spec: {{to: [{{targetRef: {{kind: Mesh}}, default: {{{conf}}}}}]}}}}\n"
        ),
    };
    let config = config();
    let loaded = read_with_mesh(&config, &format!("{mesh}{HERE}{web}{policy}"), "m.yaml");
    assert_eq!(loaded.errors, []);
    compile(&config, &loaded.found).unwrap()
}

pub(super) fn proxy(mesh: &str, endpoints: &[SocketAddr], conf: &str) -> Arc<Proxy> {
    Arc::new(Proxy::with_plan(config(), plan(mesh, endpoints, conf)))
}

pub(super) fn web(proxy: &Proxy) -> Arc<Cluster> {
    let running = proxy.running.load();
    let web = running.clusters.iter().find(|cluster| &*cluster.plan.name == "web");
    Arc::clone(web.expect("a cluster"))
}

pub(super) fn endpoints(count: u8) -> Vec<SocketAddr> {
    (1..=count).map(|number| ([10, 0, 1, number], 80).into()).collect()
}

/// Puts another plan in force, as a reload does.
fn reload(proxy: &Proxy, plan: Plan) {
    proxy.running.store(proxy.registry.open(plan));
    proxy.plan_changed.notify_one();
}

/// The endpoints that begin a turn.
fn in_turn(proxy: &Proxy) -> BTreeSet<SocketAddr> {
    let web = web(proxy);
    (0..8).filter_map(|_| web.turns().next().map(|turn| turn.endpoint.address)).collect()
}

/// The servers of a test: those that are down, and the checks that they saw.
#[derive(Clone, Default)]
struct World {
    down: Arc<Mutex<BTreeSet<SocketAddr>>>,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
}

impl World {
    fn set(&self, address: SocketAddr, down: bool) {
        let mut all = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = if down { all.insert(address) } else { all.remove(&address) };
    }

    /// Checks that were made since the last call.
    fn take_seen(&self) -> usize {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner)).len()
    }

    fn start(&self, proxy: &Arc<Proxy>) -> tokio::task::JoinHandle<()> {
        let (world, proxy) = (self.clone(), Arc::clone(proxy));
        let check = move |job: Job| {
            let address = job.key.1;
            world.seen.lock().unwrap_or_else(PoisonError::into_inner).push(address);
            let down = world.down.lock().unwrap_or_else(PoisonError::into_inner).contains(&address);
            let outcome = if down { Err(CheckError::Closed) } else { Ok(None) };
            std::future::ready(Done { key: job.key, number: job.number, outcome })
        };
        tokio::spawn(async move { run(&proxy, check).await })
    }
}

/// The clock of these tests moves by this alone.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_gets_no_turn_until_it_passes_again() {
    let all = endpoints(3);
    let proxy = proxy("", &all, "interval: 10s, unhealthyThreshold: 3, healthyThreshold: 2, tcp: {}");
    web(&proxy).state.metrics.total.inc();
    let world = World::default();
    world.start(&proxy);
    pass(5).await;
    let everyone: BTreeSet<_> = all.iter().copied().collect();
    let others: BTreeSet<_> = all[1..].iter().copied().collect();
    assert_eq!(in_turn(&proxy), everyone);
    // It fails at 10, 20 and 30 seconds.
    world.set(all[0], true);
    pass(20).await;
    assert_eq!(in_turn(&proxy), everyone, "two failures of three");
    pass(10).await;
    assert_eq!(in_turn(&proxy), others);
    assert_eq!(web(&proxy).turns().count(), 2, "not even as a last resort");
    let flags: Vec<_> = web(&proxy).health().map(|one| one.flags()).collect();
    assert_eq!(flags, ["/failed_active_hc", "healthy", "healthy"]);
    world.set(all[0], false);
    pass(10).await;
    assert_eq!(in_turn(&proxy), others, "one success of two");
    pass(10).await;
    assert_eq!(in_turn(&proxy), everyone);
    let web = web(&proxy);
    let metrics = web.state.health.metrics();
    // At 0, 10, … 50 seconds, of three endpoints.
    assert_eq!((metrics.attempts.get(), metrics.failures.get(), metrics.successes.get()), (18, 3, 15));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_traffic_is_checked_rarely_and_a_failed_one_by_its_own_interval() {
    let all = endpoints(1);
    let proxy = proxy(
        "",
        &all,
        "interval: 10s, unhealthyInterval: 2s, noTrafficInterval: 1m, unhealthyThreshold: 9, tcp: {}",
    );
    let world = World::default();
    world.start(&proxy);
    pass(1).await;
    assert_eq!(world.take_seen(), 1, "at once");
    pass(120).await;
    assert_eq!(world.take_seen(), 2, "at 60 and 120 seconds");
    web(&proxy).state.metrics.total.inc();
    pass(60).await;
    assert_eq!(world.take_seen(), 1, "the traffic does not wake it: at 180");
    pass(30).await;
    assert_eq!(world.take_seen(), 3, "at 190, 200, 210");
    world.set(all[0], true);
    pass(20).await;
    assert_eq!(world.take_seen(), 6, "at 220, 222, … 230");
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_is_unchanged_and_ends_what_is_gone() {
    let all = endpoints(2);
    let conf = "interval: 10s, unhealthyThreshold: 1, healthyPanicThreshold: 0, tcp: {}";
    let proxy = proxy("", &all, conf);
    web(&proxy).state.metrics.total.inc();
    let world = World::default();
    world.set(all[0], true);
    world.start(&proxy);
    pass(1).await;
    assert_eq!((world.take_seen(), in_turn(&proxy)), (2, [all[1]].into()));
    // Another endpoint: the others are not checked again, and the flag stays.
    reload(&proxy, plan("", &endpoints(3), conf));
    pass(1).await;
    assert_eq!((world.take_seen(), in_turn(&proxy).len()), (1, 2));
    // Another check begins anew; what the earlier one found stays until then.
    reload(&proxy, plan("", &all, &format!("{conf}, timeout: 1s")));
    assert_eq!(in_turn(&proxy), [all[1]].into());
    world.set(all[0], false);
    pass(1).await;
    assert_eq!((world.take_seen(), in_turn(&proxy).len()), (2, 2), "the first decides");
    world.set(all[0], true);
    pass(10).await;
    assert_eq!(in_turn(&proxy), [all[1]].into());
    // Without the policy there is no check, and no flag counts.
    reload(&proxy, plan("", &all, ""));
    assert_eq!(in_turn(&proxy).len(), 2);
    world.take_seen();
    pass(3600).await;
    assert_eq!(world.take_seen(), 0);
    reload(&proxy, plan("", &all, conf));
    assert_eq!(in_turn(&proxy).len(), 2, "as if it had never been checked");
    pass(1).await;
    assert_eq!(in_turn(&proxy), [all[1]].into());
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_is_made_again() {
    let all = endpoints(1);
    let proxy = proxy("", &all, "interval: 10s, unhealthyThreshold: 1, healthyPanicThreshold: 0, tcp: {}");
    web(&proxy).state.metrics.total.inc();
    let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let check = {
        let made = Arc::clone(&made);
        move |job: Job| {
            let made = Arc::clone(&made);
            async move {
                let number = made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                assert!(number != 0, "the first check of this test panics");
                Done { key: job.key, number: job.number, outcome: Err(CheckError::Closed) }
            }
        }
    };
    let task = Arc::clone(&proxy);
    tokio::spawn(async move { run(&task, check).await });
    pass(15).await;
    assert_eq!(made.load(std::sync::atomic::Ordering::SeqCst), 2);
    assert_eq!(in_turn(&proxy), BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn only_so_many_checks_are_made_at_a_time_and_all_get_their_turn() {
    let all: Vec<SocketAddr> = (0..1_000_u16).map(|number| ([10, 0, 1, 1], 1_000 + number).into()).collect();
    let proxy = proxy("", &all, "interval: 1h, noTrafficInterval: 1h, timeout: 1s, tcp: {}");
    let (at_once, most) = (Arc::new(Mutex::new((0, 0))), MOST_AT_ONCE);
    let check = {
        let at_once = Arc::clone(&at_once);
        move |job: Job| {
            let at_once = Arc::clone(&at_once);
            async move {
                let change = |by: i64| {
                    let mut counts = at_once.lock().unwrap_or_else(PoisonError::into_inner);
                    counts.0 += by;
                    counts.1 = counts.1.max(counts.0);
                };
                change(1);
                tokio::time::sleep(Duration::from_secs(1)).await;
                change(-1);
                Done { key: job.key, number: job.number, outcome: Ok(None) }
            }
        }
    };
    let task = Arc::clone(&proxy);
    tokio::spawn(async move { run(&task, check).await });
    pass(10).await;
    let (open, largest) = *at_once.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!((open, largest), (0, i64::try_from(most).unwrap()));
    assert_eq!(web(&proxy).state.health.metrics().successes.get(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn the_application_behind_an_inbound_is_probed_and_its_traffic_goes_on() {
    let probed =
        HERE.replace("inbound: [{port: 80,", "inbound: [{port: 80, serviceProbe: {tcp: {}, interval: 5s},");
    let loaded = read_with_mesh(&config(), &probed, "m.yaml");
    assert_eq!(loaded.errors, []);
    let proxy = Arc::new(Proxy::with_plan(config(), compile(&config(), &loaded.found).unwrap()));
    let application = {
        let running = proxy.running.load();
        let one = running.clusters.iter().find(|cluster| &*cluster.plan.name == "localhost:80");
        Arc::clone(one.unwrap())
    };
    let world = World::default();
    world.start(&proxy);
    let flags = || application.health().map(|one| one.flags()).collect::<Vec<_>>();
    pass(1).await;
    assert_eq!((world.take_seen(), flags()), (1, vec!["healthy"]));
    world.set("127.0.0.1:80".parse().unwrap(), true);
    pass(5).await;
    assert_eq!((flags(), application.healthy()), (vec!["/failed_active_hc"], 0));
    world.set("127.0.0.1:80".parse().unwrap(), false);
    pass(5).await;
    assert_eq!((flags(), application.healthy()), (vec!["healthy"], 1));
}
