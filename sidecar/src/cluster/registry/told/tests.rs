use super::super::{Registry, Running};
use crate::net::addrs::Direction::{Inbound, Outbound};
use crate::options::Options;
use crate::options::config::Config;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::load::destination::{Asked, DestinationPlan, read};
use crate::plan::names::Standing;
use clap::Parser;
use culvert_mesh::document::{Document, Found};
use culvert_mesh::load::Text;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const HERE: &str = "{type: Dataplane, name: here, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}, inbound: [{port: 80, tags: {kuma.io/service: here}}]}}\n";
const GENERATOR: &str = "---\n{type: HostnameGenerator, name: g, spec: {selector: {meshService: {}}, template: '{{ .DisplayName }}.in.mesh'}}\n";

/// A plan in force, and the documents that it was made of.
struct World {
    config: Config,
    found: Found,
    registry: Registry,
    running: Arc<Running>,
}

fn service(name: &str, vip: &str) -> String {
    format!(
        "{{apiVersion: kuma.io/v1alpha1, kind: MeshService, metadata: {{name: {name}, labels: {{kuma.io/mesh: default}}}}, spec: {{selector: {{dataplaneLabels: {{matchLabels: {{app: {name}}}}}}}, ports: [{{port: 80}}]}}, status: {{vips: [{vip}]}}}}"
    )
}

fn pod(name: &str, ip: &str) -> String {
    format!(
        "{{type: Dataplane, name: {name}-{ip}, labels: {{app: {name}}}, networking: {{address: {ip}, inbound: [{{port: 80, tags: {{kuma.io/service: {name}}}}}]}}}}"
    )
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl World {
    fn new(more: &str) -> Self {
        let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
        let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
        let found = read_with_mesh(&config, &format!("{HERE}{more}"), "mesh.yaml").found;
        let registry = Registry::default();
        let running = registry.open(compile(&config, &found).unwrap());
        Self { config, found, registry, running }
    }

    fn plan(&self, asked: &str, texts: &[String]) -> DestinationPlan {
        let text = |(number, text): (usize, &String)| Text {
            name: format!("control: {number}").into(),
            text: text.as_str().into(),
        };
        let texts: Vec<_> = texts.iter().enumerate().map(text).collect();
        let standing = Standing::after(&self.running.plan.names).with(self.running.told_keys().into_iter());
        let base = (&self.found, |_: &Document| false);
        read(&self.config, base, (&Asked::read(asked), &texts), &standing).unwrap()
    }

    fn tell(&self, asked: &str, texts: &[String]) -> bool {
        self.running.tell(Asked::read(asked), self.plan(asked, texts), texts.len())
    }

    fn cluster(&self, to: &str) -> Option<String> {
        let listener = self.running.listener_for(Outbound, at(to))?;
        Some(listener.next_cluster()?.plan.name.to_string())
    }
}

#[test]
fn what_is_told_of_a_destination_changes_that_destination_alone() {
    let world = World::new("");
    let (web, db) = ("10.96.0.1:80", "10.96.0.2:80");
    assert_eq!(world.cluster(web), None);
    world.tell(web, &[service("web", "{ip: 10.96.0.1}"), pod("web", "10.0.0.3")]);
    world.tell(db, &[service("db", "{ip: 10.96.0.2}"), pod("db", "10.0.0.4")]);
    assert_eq!(world.cluster(web).as_deref(), Some("default_web___msvc_80"));
    assert!(world.running.listener_for(Inbound, at(web)).is_none());
    let of = |to: &str| world.running.listener_for(Outbound, at(to)).unwrap();
    let (before, other) = (of(web), of(db));
    before.metrics.opened.inc();
    before.next_cluster().unwrap().state.metrics.total.inc();
    // Another endpoint: what was counted stays, and nothing else is made anew.
    world.tell(web, &[service("web", "{ip: 10.96.0.1}"), pod("web", "10.0.0.3"), pod("web", "10.0.0.5")]);
    let after = of(web);
    assert_eq!(after.next_cluster().unwrap().endpoints().len(), 2);
    assert_eq!(
        before.next_cluster().unwrap().endpoints().len(),
        1,
        "an open connection keeps what it began with"
    );
    assert_eq!((after.metrics.opened.get(), after.next_cluster().unwrap().state.metrics.total.get()), (1, 1));
    assert!(Arc::ptr_eq(&other, &of(db)));
    assert_eq!(world.running.documents(), world.running.plan.documents + 5);
    world.running.untell(&Asked::At(at(web)));
    assert_eq!((world.cluster(web), world.cluster(db).as_deref()), (None, Some("default_db___msvc_80")));
    assert_eq!(world.running.told_clusters().len(), 1);
    drop((before, after));
    let states = world.registry.0.clusters.lock().unwrap();
    assert!(
        states.values().filter(|state| state.strong_count() != 0).count() <= world.running.clusters.len() + 1
    );
}

#[test]
fn members_and_workloads_are_known_as_long_as_a_destination_names_them() {
    let world = World::new("");
    let (pod_at, service_at) = ("10.0.0.3:80", "10.96.0.1:80");
    let ip = at(pod_at).ip();
    world.tell(pod_at, &[pod("web", "10.0.0.3")]);
    world.tell(service_at, &[service("web", "{ip: 10.96.0.1}"), pod("web", "10.0.0.3")]);
    let member = world.running.member_at(&at(pod_at)).unwrap();
    assert_eq!(member.service(), "web");
    assert!(world.running.is_workload(&ip) && !world.running.is_workload(&at("10.0.0.9:1").ip()));
    world.running.untell(&Asked::At(at(pod_at)));
    assert!(world.running.member_at(&at(pod_at)).is_none(), "it is asked for at its own address");
    assert!(world.running.is_workload(&ip), "the service has it still");
    world.running.untell(&Asked::At(at(service_at)));
    assert!(!world.running.is_workload(&ip));
}

#[test]
fn equal_clusters_are_one_and_names_in_statistics_are_not_shared_by_others() {
    let world = World::new("");
    let documents = |ip: &str| [service("web", "{ip: 10.96.0.1}, {ip: 'fd00::9'}"), pod("web", ip)];
    world.tell("10.96.0.1:80", &documents("10.0.0.3"));
    world.tell("[fd00::9]:80", &documents("10.0.0.3"));
    let cluster =
        |to: &str| Arc::clone(world.running.listener_for(Outbound, at(to)).unwrap().next_cluster().unwrap());
    assert!(Arc::ptr_eq(&cluster("10.96.0.1:80"), &cluster("[fd00::9]:80")));
    // One of them changes first.
    world.tell("10.96.0.1:80", &documents("10.0.0.4"));
    let (new, old) = (cluster("10.96.0.1:80"), cluster("[fd00::9]:80"));
    assert!(
        !Arc::ptr_eq(&new, &old) && Arc::ptr_eq(&new.state, &old.state) && new.stat_name == old.stat_name
    );
    assert_eq!(world.running.told_clusters().len(), 1, "shown once");
    // `localhost:80` is the pod's own: in statistics it is `localhost_80`.
    let outbound = format!(
        "---\n{}",
        HERE.replace(
            "inbound:",
            "outbound: [{address: 240.9.9.9, port: 1, tags: {kuma.io/service: localhost_80}}], inbound:"
        )
    );
    let world = World::new("");
    let text = outbound.strip_prefix("---\n").unwrap().trim().to_owned();
    let plan =
        world.plan("240.9.9.9:1", &[text, pod("localhost_80", "10.0.0.3").replace("localhost_80-", "l-")]);
    assert_eq!(&*plan.calls[0].clusters[0].name, "localhost_80");
    world.running.tell(Asked::read("240.9.9.9:1"), plan, 2);
    let all = world.running.all_clusters();
    let stat_names: std::collections::BTreeSet<_> = all.iter().map(|one| &*one.stat_name).collect();
    assert_eq!(stat_names.len(), all.len(), "{stat_names:?}");
}

#[test]
fn names_that_are_told_stand_beside_those_of_the_plan_and_keep_their_addresses() {
    let world = World::new(GENERATOR);
    assert_eq!(world.running.names().find("web.in.mesh"), None);
    assert!(Arc::ptr_eq(&world.running.names(), &world.running.plan.names));
    world.tell("web.in.mesh", &[service("web", ""), pod("web", "10.0.0.3")]);
    let addresses = |host: &str| world.running.names().find(host).map(|name| Arc::clone(&name.addresses));
    let of_web = addresses("web.in.mesh").unwrap();
    assert_eq!(of_web.len(), 2);
    for ip in of_web.iter() {
        let to = SocketAddr::new(*ip, 80).to_string();
        assert_eq!(world.cluster(&to).as_deref(), Some("default_web___msvc_80"), "{to}");
    }
    // Two names of one service have its addresses; one of them goes, and the other one's stay.
    let names = GENERATOR.replace("name: g", "name: h").replace(".in.mesh", ".other.mesh");
    let both = World::new(&format!("{GENERATOR}{names}"));
    for host in ["web.in.mesh", "web.other.mesh"] {
        both.tell(host, &[service("web", ""), pod("web", "10.0.0.3")]);
    }
    let ip = both.running.names().find("web.in.mesh").unwrap().addresses[0];
    assert_eq!(both.running.names().find("web.other.mesh").unwrap().addresses[0], ip);
    both.running.untell(&Asked::Name("web.in.mesh".into()));
    assert!(both.running.names().find("web.in.mesh").is_none());
    assert!(both.cluster(&SocketAddr::new(ip, 80).to_string()).is_some());
    both.running.untell(&Asked::Name("web.other.mesh".into()));
    assert!(both.cluster(&SocketAddr::new(ip, 80).to_string()).is_none());
    assert!(Arc::ptr_eq(&both.running.names(), &both.running.plan.names));
}

#[test]
fn a_page_of_names_and_a_change_of_them_do_not_wait_for_each_other() {
    let world = World::new(GENERATOR);
    world.tell("web.in.mesh", &[service("web", ""), pod("web", "10.0.0.3")]);
    let (ended, ends) = std::sync::mpsc::channel();
    let (pages, changes) = (Arc::clone(&world.running), Arc::clone(&world.running));
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let page_ended = ended.clone();
    std::thread::spawn(move || {
        while !over.load(Relaxed) {
            assert!(pages.whole_plan().names.find("web.in.mesh").is_some());
        }
        page_ended.send(()).unwrap();
    });
    std::thread::spawn(move || {
        for _ in 0..50_000 {
            changes.untell(&Asked::Name("other.in.mesh".into()));
        }
        is_over.store(true, Relaxed);
        ended.send(()).unwrap();
    });
    for _ in 0..2 {
        ends.recv_timeout(Duration::from_secs(120)).expect("neither waits for the other");
    }
}

#[test]
fn states_of_destinations_that_come_and_go_do_not_pile_up() {
    let world = World::new("");
    for number in 0..500 {
        let (name, ip) = (format!("s{number}"), format!("10.96.{}.{}", number / 250, number % 250 + 1));
        let to = format!("{ip}:80");
        world.tell(&to, &[service(&name, &format!("{{ip: {ip}}}")), pod(&name, "10.0.0.3")]);
        world.running.untell(&Asked::At(at(&to)));
    }
    let (clusters, listeners) =
        (world.registry.0.clusters.lock().unwrap().len(), world.registry.0.listeners.lock().unwrap().len());
    assert!(clusters < 100 && listeners < 100, "{clusters} {listeners}");
}

#[test]
fn a_destination_may_stay_as_it_was_in_the_plan_before() {
    let world = World::new("");
    world.tell("10.96.0.1:80", &[service("web", "{ip: 10.96.0.1}"), pod("web", "10.0.0.3")]);
    let next = world.registry.open(compile(&world.config, &world.found).unwrap());
    next.tell_again(&Asked::read("10.96.0.1:80"), &world.running);
    next.tell_again(&Asked::read("10.96.0.2:80"), &world.running);
    assert!(next.listener_for(Outbound, at("10.96.0.1:80")).is_some());
    assert!(next.listener_for(Outbound, at("10.96.0.2:80")).is_none());
}

#[test]
fn checks_idle_times_and_everything_for_pages() {
    let policies = "---\n{type: MeshHealthCheck, name: c, spec: {to: [{targetRef: {kind: MeshService, name: web}, default: {interval: 10s, timeout: 2s, tcp: {}}}]}}\n---\n{type: MeshTimeout, name: t, spec: {to: [{targetRef: {kind: MeshService, name: web}, default: {idleTimeout: 7s}}]}}\n";
    let world = World::new(policies);
    assert!(!world.tell("10.96.0.2:80", &[service("db", "{ip: 10.96.0.2}"), pod("db", "10.0.0.4")]));
    assert_ne!(world.running.shortest_idle_timeout(), Some(Duration::from_secs(7)));
    assert!(world.tell("10.96.0.1:80", &[service("web", "{ip: 10.96.0.1}"), pod("web", "10.0.0.3")]));
    assert_eq!(world.running.shortest_idle_timeout(), Some(Duration::from_secs(7)));
    let checked = world.running.checked_clusters();
    assert_eq!(checked.iter().map(|one| &*one.plan.name).collect::<Vec<_>>(), ["default_web___msvc_80"]);
    let plan = world.running.whole_plan();
    assert_eq!(
        (plan.listener_count(), plan.cluster_count()),
        (world.running.listener_count(), world.running.cluster_count())
    );
    assert!(world.running.used_listeners().iter().any(|one| &*one.plan.name == "outbound:10.96.0.1:80"));
    world.running.untell(&Asked::read("10.96.0.1:80"));
    assert_ne!(world.running.shortest_idle_timeout(), Some(Duration::from_secs(7)));
}
