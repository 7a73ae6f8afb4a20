// SPDX-License-Identifier: Apache-2.0
use std::net::IpAddr;
use std::time::Duration;

use culvert_control::MAX_TRAFFIC;
use culvert_control::messages::{Report, Traffic as Entry};
use serde_json::json;

use super::*;
use crate::controller::world::{Pod, Put, RawService, Service, World};

fn pod(namespace: &str, name: &str, ip: &str, sidecar: bool) -> Pod {
    let workload = name.rsplit_once('-').unwrap().0;
    let own = json!([{ "name": "culvert-sidecar", "image": "culvert:1", "args": ["--control=https://x"] }]);
    let pod = json!({
        "metadata": { "name": name, "namespace": namespace, "generateName": format!("{workload}-") },
        "spec": { "containers": [], "initContainers": if sidecar { own } else { json!([]) } },
        "status": { "phase": "Running", "podIPs": [{ "ip": ip }] },
    });
    Pod::read(serde_json::from_value(pod).unwrap()).unwrap()
}

/// `web` and `db` of the shop with sidecars, `cron` without one, and a Service in front of `db`.
fn world() -> World {
    let mut world = World::default();
    for (name, ip, sidecar) in
        [("web-1", "10.0.0.1", true), ("db-0", "10.0.0.2", true), ("cron-7", "10.0.0.3", false)]
    {
        world.put(Put::Pod(pod("shop", name, ip, sidecar)));
    }
    let service = json!({
        "metadata": { "name": "db", "namespace": "shop" },
        "spec": { "clusterIP": "10.96.0.2", "selector": { "app": "db" }, "ports": [{ "port": 80 }] },
    });
    let service: RawService = serde_json::from_value(service).unwrap();
    world.put(Put::Service(Service::read(service).unwrap()));
    world
}

fn entry(outbound: bool, address: &str, ended: u64) -> Entry {
    let address = match address.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    Entry { outbound, address, port: 80, ended, ..Entry::default() }
}

fn of(traffic: Vec<Entry>) -> Report {
    Report { traffic, left_out: 0 }
}

/// Reads what `web-1` reports.
fn reported(report: Report) -> Read {
    let world = world();
    read(&world, world.pod(&Key::new("shop", "web-1")).unwrap(), report)
}

fn workload(name: &str) -> Node {
    Node::Workload(Key::new("shop", name))
}

fn ends(client: &Node, server: &Node) -> Ends {
    Ends { client: client.clone(), server: server.clone() }
}

fn seen(client: &Node, server: &Node, ended: u64, open: u64) -> Seen {
    let counts = Counts { ended, ..Counts::default() };
    let told = Amount { counts, open };
    Seen {
        ends: ends(client, server),
        told,
        echo: Amount::default(),
        past: Counts::default(),
        reporter: None,
    }
}

fn note(traffic: &mut Traffic, now: Instant, seen: Vec<Seen>, held: &mut Held) {
    traffic.note(now, Read { seen, left_out: 0 }, held);
}

fn sorted(traffic: &mut Traffic, now: Instant) -> Vec<(Ends, u64, u64)> {
    let mut edges: Vec<_> =
        traffic.edges(now).into_iter().map(|(ends, of)| (ends, of.told.counts.ended, of.told.open)).collect();
    edges.sort();
    edges
}

#[test]
fn addresses_are_workloads_services_or_outside() {
    let addresses =
        ["10.0.0.2", "::ffff:10.0.0.2", "10.0.0.3", "10.96.0.2", "192.0.2.1", "127.0.0.1", "fd00::9"];
    let read = reported(of(addresses.map(|at| entry(true, at, 1)).into()));
    let service = || Node::Service(Key::new("shop", "db"));
    let expected = [
        workload("db"),
        workload("db"),
        workload("cron"),
        service(),
        Node::Outside,
        Node::Outside,
        Node::Outside,
    ];
    let found: Vec<_> = read.seen.iter().map(|seen| &seen.ends).collect();
    assert_eq!(found, expected.each_ref().map(|server| ends(&workload("web"), server)).each_ref());
    assert!(read.seen.iter().all(|seen| seen.reporter.is_none()));
}

#[test]
fn an_inbound_connection_names_the_pod_that_reports_it_too() {
    let read = reported(of(["10.0.0.2", "10.0.0.3", "192.0.2.1"].map(|at| entry(false, at, 1)).into()));
    let clients = [workload("db"), workload("cron"), Node::Outside];
    let found: Vec<_> = read.seen.iter().map(|seen| (&seen.ends, seen.reporter.clone())).collect();
    let expected = clients.each_ref().map(|client| ends(client, &workload("web")));
    assert_eq!(found[0], (&expected[0], Some(Key::new("shop", "db-0"))));
    assert_eq!(found[1..], [(&expected[1], None), (&expected[2], None)]);
    // Those that went past the sidecar of that pod are known to its server alone.
    let past = Entry { plain: 2, plain_failed: 9, ..entry(false, "10.0.0.2", 3) };
    let past = reported(of(vec![past])).seen[0].past;
    assert_eq!(past, Counts { ended: 2, failed: 2, ..Counts::default() });
}

#[test]
fn a_report_of_rubbish_is_read_as_far_as_it_goes() {
    let mut lies = entry(true, "10.0.0.2", 2);
    (lies.failed, lies.tls) = (u64::MAX, 7);
    let mut nowhere = entry(true, "10.0.0.2", 5);
    nowhere.address = vec![10, 0, 0];
    let mut endless = nowhere.clone();
    endless.ended = u64::MAX;
    let read = reported(Report { traffic: vec![lies, nowhere, endless], left_out: 9 });
    assert_eq!(read.seen.len(), 1);
    assert_eq!(read.seen[0].told.counts, Counts { ended: 2, failed: 2, tls: 2, bytes: 0 });
    assert_eq!(read.left_out, u64::MAX);
    let many = (0..MAX_TRAFFIC + 3).map(|_| entry(true, "10.0.0.2", 1)).collect();
    let read = reported(of(many));
    assert_eq!((read.seen.len(), read.left_out), (MAX_TRAFFIC, 3));
}

#[test]
fn connections_count_for_five_minutes() {
    let (web, db) = (workload("web"), workload("db"));
    let mut traffic = Traffic::default();
    let (began, mut held) = (traffic.began, Held::default());
    let at = |seconds| began + Duration::from_secs(seconds);
    note(&mut traffic, at(10), vec![seen(&web, &db, 20, 0)], &mut held);
    let [(_, first)] = traffic.edges(at(15)).try_into().unwrap();
    // The first report was about 5 s, and 5 more have gone by.
    assert_eq!((first.told.counts.ended, first.seconds, first.age), (20, 10, 5));
    note(&mut traffic, at(200), vec![seen(&web, &db, 30, 0)], &mut held);
    let [(_, both)] = traffic.edges(at(200)).try_into().unwrap();
    assert_eq!((both.told.counts.ended, both.seconds, both.age), (50, 195, 0));
    // The bucket of the first ends, and the ten that count cover 270 s and what has gone by of the last one.
    let [(_, last)] = traffic.edges(at(310)).try_into().unwrap();
    assert_eq!((last.told.counts.ended, last.seconds), (30, 280));
    assert_eq!(traffic.edges(at(200 + 300)), []);
    assert!(traffic.edges.is_empty(), "it is forgotten, not only left out");
}

#[test]
fn open_connections_are_those_of_each_streams_last_report() {
    let (web, db, cron) = (workload("web"), workload("db"), workload("cron"));
    let mut traffic = Traffic::default();
    let now = traffic.began;
    let (mut one, mut two) = (Held::default(), Held::default());
    // Two ports of the same workload.
    note(&mut traffic, now, vec![seen(&web, &db, 1, 3), seen(&web, &db, 0, 2)], &mut one);
    note(&mut traffic, now, vec![seen(&web, &db, 0, 4)], &mut two);
    assert_eq!(sorted(&mut traffic, now), [(ends(&web, &db), 1, 9)]);
    note(&mut traffic, now, vec![seen(&web, &db, 2, 1), seen(&web, &cron, 0, 0)], &mut one);
    assert_eq!(sorted(&mut traffic, now), [(ends(&web, &db), 3, 5)]);
    // Long after, it is there for as long as a stream has it open.
    let later = now + Duration::from_secs(3600);
    assert_eq!(sorted(&mut traffic, later), [(ends(&web, &db), 0, 5)]);
    traffic.release(&mut one);
    traffic.release(&mut one);
    assert_eq!(sorted(&mut traffic, later), [(ends(&web, &db), 0, 4)]);
    traffic.release(&mut two);
    assert_eq!(sorted(&mut traffic, later), []);
}

#[test]
fn counts_saturate() {
    let (web, db) = (workload("web"), workload("db"));
    let mut traffic = Traffic::default();
    let (now, mut held) = (traffic.began, Held::default());
    for second in [0, 40] {
        let all = Counts { ended: u64::MAX, failed: u64::MAX, tls: u64::MAX, bytes: u64::MAX };
        let seen = [(); 2].map(|()| Seen {
            ends: ends(&web, &db),
            told: Amount { counts: all, open: u64::MAX },
            echo: Amount { counts: all, open: u64::MAX },
            past: all,
            reporter: None,
        });
        let report = Read { seen: seen.into(), left_out: u64::MAX };
        traffic.note(now + Duration::from_secs(second), report, &mut held);
    }
    let now = now + Duration::from_secs(40);
    let [(_, of)] = traffic.edges(now).try_into().unwrap();
    assert_eq!((of.told.counts.ended, of.told.counts.bytes, of.told.open), (u64::MAX, u64::MAX, u64::MAX));
    assert_eq!(traffic.left_out(now), u64::MAX);
    traffic.release(&mut held);
    assert_eq!(traffic.edges(now)[0].1.told.open, 0);
}

#[test]
fn the_least_recently_seen_edges_give_their_places() {
    const MOST: usize = 32;
    let web = workload("web");
    let mut traffic = Traffic::of_at_most(MOST);
    let (began, mut held) = (traffic.began, Held::default());
    let names: Vec<String> = (0..10 * MOST).map(|n| format!("w{n}")).collect();
    for (second, name) in names.iter().enumerate() {
        // Five in a second.
        let now = began + Duration::from_secs(second as u64 / 5);
        note(&mut traffic, now, vec![seen(&web, &workload(name), 1, 0)], &mut held);
        // One that is used all the time.
        note(&mut traffic, now, vec![seen(&web, &workload("db"), 1, 0)], &mut held);
        assert!(traffic.edges.len() <= MOST);
    }
    assert!(traffic.edges.len() > MOST - MOST / GOES - 2, "no more go than have to");
    let last = workload(names.last().unwrap());
    assert!(traffic.edges.contains_key(&ends(&web, &last)));
    assert!(traffic.edges.contains_key(&ends(&web, &workload("db"))));
    assert!(!traffic.edges.contains_key(&ends(&web, &workload("w0"))));
}

#[test]
fn the_word_of_the_server_is_an_echo_where_the_client_may_be_heard_elsewhere() {
    let all = Counts { ended: 10, failed: 3, tls: 5, bytes: 100 };
    let past = Counts { ended: 4, failed: 2, ..Counts::default() };
    let (web, db) = (workload("web"), workload("db"));
    let inbound = || Seen { told: Amount { counts: all, open: 2 }, past, ..seen(&web, &db, 0, 0) };
    let mut here = inbound();
    here.leave_to_client(false);
    assert_eq!((here.told, here.echo), (Amount { counts: past, open: 0 }, Amount::default()));
    let mut elsewhere = inbound();
    elsewhere.leave_to_client(true);
    let rest = Counts { ended: 6, failed: 1, tls: 5, bytes: 100 };
    assert_eq!(
        (elsewhere.told, elsewhere.echo),
        (Amount { counts: past, open: 0 }, Amount { counts: rest, open: 2 })
    );
    let mut traffic = Traffic::default();
    let (now, mut held) = (traffic.began, Held::default());
    note(&mut traffic, now, vec![elsewhere], &mut held);
    let [(_, of)] = traffic.edges(now).try_into().unwrap();
    assert_eq!((of.told.counts, of.echo), (past, Amount { counts: rest, open: 2 }));
    traffic.release(&mut held);
    assert_eq!(traffic.edges(now)[0].1.echo.open, 0);
    // It is forgotten with the rest.
    assert_eq!(traffic.edges(now + COVERS), []);
}
