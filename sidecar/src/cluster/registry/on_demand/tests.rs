// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::cluster::registry::Registry;
use crate::net::addrs::Direction::{Inbound, Outbound};
use crate::options::Options;
use crate::plan::Plan;
use crate::plan::compile::{compile, read_with_mesh};
use clap::Parser;

const HERE: &str = "
{type: Dataplane, name: here, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 80, tags: {kuma.io/service: here}}], outbound: [{port: 1000, tags: {kuma.io/service: web}}]}}
";

fn pods(services: &[&str]) -> String {
    let pod = |(number, service): (usize, &&str)| {
        format!(
            "---\n{{type: Dataplane, name: p-{number}, networking: {{address: 10.0.1.{number}, inbound: [{{port: 8080, tags: {{kuma.io/service: {service}}}}}]}}}}\n"
        )
    };
    HERE.to_owned() + &services.iter().enumerate().map(pod).collect::<String>()
}

fn plan(services: &[&str]) -> Plan {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, &pods(services), "test.yaml");
    assert_eq!(loaded.errors, []);
    compile(&config, &loaded.found).unwrap()
}

/// An address of `<service>.mesh`.
fn address(plan: &Plan, service: &str, family: usize, port: u16) -> SocketAddr {
    SocketAddr::new(plan.names.find(&format!("{service}.mesh")).unwrap().addresses[family], port)
}

fn names<T>(all: &[Arc<T>], name: impl Fn(&T) -> &str) -> Vec<String> {
    let mut names: Vec<_> = all.iter().map(|one| name(one).to_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_first_connection_makes_out_a_listener_and_its_cluster_and_the_next_find_them() {
    let plan = plan(&["web", "db", "cache"]);
    let to = |service, family, port| address(&plan, service, family, port);
    let running = Registry::default().open(plan.clone());
    let before = (running.used_listeners().len(), running.used_clusters().len());
    let db = running.listener_for(Outbound, to("db", 0, 80)).unwrap();
    assert_eq!(*db.plan.name, format!("outbound:{}", to("db", 0, 80)));
    let cluster = db.next_cluster().unwrap();
    assert_eq!((&*cluster.plan.name, cluster.endpoints().len()), ("db", 1));
    // By its other address it is the same listener, by its other port the same cluster.
    assert!(Arc::ptr_eq(&db, &running.listener_for(Outbound, to("db", 1, 80)).unwrap()));
    let other = running.listener_for(Outbound, to("db", 1, 8080)).unwrap();
    assert!(!Arc::ptr_eq(&db, &other) && Arc::ptr_eq(cluster, other.next_cluster().unwrap()));
    assert_eq!((running.used_listeners().len(), running.used_clusters().len()), (before.0 + 2, before.1 + 1));
    // An outbound's cluster is there already.
    let web = running.listener_for(Outbound, to("web", 0, 80)).unwrap();
    let outbound = running.listener_for(Outbound, "127.0.0.1:1000".parse().unwrap()).unwrap();
    assert!(Arc::ptr_eq(web.next_cluster().unwrap(), outbound.next_cluster().unwrap()));
    assert!(running.listener_for(Inbound, to("db", 0, 80)).is_none());
    assert!(running.listener_for(Outbound, to("db", 0, 81)).is_none());
}

#[test]
fn all_are_shown_whether_they_were_called_or_not() {
    let mut plan = plan(&["web", "db", "a.b", "c_d"]);
    // Each is like one on demand in what is replaced.
    for name in ["a_b", "c.d"] {
        let mut other = crate::plan::ClusterPlan::clone(&plan.clusters[0]);
        other.name = name.into();
        plan.clusters.push(Arc::new(other));
    }
    let registry = Registry::default();
    let (lines, whole) = (registry.open(plan.clone()), Registry::default().open(plan.clone().made_out()));
    lines.listener_for(Outbound, address(&plan, "db", 0, 80)).unwrap();
    for running in [&lines, &whole] {
        assert_eq!(running.all_listeners().len(), plan.listener_count());
        assert_eq!(running.all_clusters().len(), plan.cluster_count());
    }
    let of = |running: &Running| {
        let listeners = names(&running.all_listeners(), |one| &one.plan.name);
        let clusters = names(&running.all_clusters(), |one| &one.plan.name);
        (listeners, clusters, names(&running.all_clusters(), |one| &one.stat_name))
    };
    assert_eq!(of(&lines), of(&whole));
    let stat_names = of(&lines).2;
    for name in ["a_b", "a_b#2", "c_d", "c_d#2"] {
        assert_eq!(stat_names.iter().filter(|one| *one == name).count(), 1, "{name}: {stat_names:?}");
    }
    let called = registry.0.clusters.lock().unwrap().len();
    assert_eq!(called, plan.clusters.len() + 1, "to be shown makes none");
}

#[test]
fn a_reload_keeps_what_was_counted_and_what_it_takes_away_goes() {
    let registry = Registry::default();
    let first = plan(&["web", "db", "cache"]);
    let (db, cache) = (address(&first, "db", 0, 80), address(&first, "cache", 0, 80));
    let running = registry.open(first);
    for to in [db, cache] {
        let listener = running.listener_for(Outbound, to).unwrap();
        listener.metrics.opened.inc();
        listener.next_cluster().unwrap().state.metrics.total.inc();
    }
    let second = registry.open(plan(&["web", "db", "other"]));
    drop(running);
    let used = second.used_listeners();
    let kept = used.iter().find(|one| one.plan.address == db).expect("made out again");
    assert_eq!(kept.metrics.opened.get(), 1);
    assert_eq!(kept.next_cluster().unwrap().state.metrics.total.get(), 1);
    assert!(!used.iter().any(|one| one.plan.address == cache));
    assert_eq!(registry.0.called.lock().unwrap().len(), 1);
    // What comes back begins anew.
    let third = registry.open(plan(&["web", "db", "cache"]));
    drop(second);
    assert_eq!(third.listener_for(Outbound, cache).unwrap().metrics.opened.get(), 0);
    assert_eq!(third.listener_for(Outbound, db).unwrap().metrics.opened.get(), 1);
}

#[test]
fn many_that_come_at_once_get_one_listener() {
    let plan = plan(&["web", "db"]);
    let to = address(&plan, "db", 0, 80);
    let running = Registry::default().open(plan);
    let all: Vec<_> = std::thread::scope(|scope| {
        let one = || running.listener_for(Outbound, to).unwrap();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])));
}
