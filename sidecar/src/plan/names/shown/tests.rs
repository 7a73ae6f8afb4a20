// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::net::addrs::Direction;
use crate::options::Options;
use crate::plan::balance::Balance;
use crate::plan::names::RefusedName;
use crate::plan::{MOST_ATTEMPTS, Member, Origin, Serve, Share};
use clap::Parser;
use culvert_mesh::model::tags::Tags;

fn config(arguments: &[&str]) -> Config {
    let arguments = ["culvert-sidecar", "--resources=/mesh"].iter().chain(arguments);
    Options::try_parse_from(arguments).unwrap().check().unwrap()
}

fn cluster(name: &str, endpoints: usize) -> Arc<ClusterPlan> {
    let endpoint = |number: usize| EndpointPlan {
        address: ([10, 0, (number / 250) as u8, (number % 250) as u8], 8080).into(),
        member: Arc::new(Member {
            dataplane: format!("{name}-{number}").into(),
            tags: Arc::new(Tags::default()),
            ids: None,
        }),
    };
    Arc::new(ClusterPlan {
        name: name.into(),
        origin: Origin::Outbound,
        upstream: Discovery::Endpoints((0..endpoints).map(endpoint).collect()),
        thresholds: Default::default(),
        connect_timeout: None,
        most_attempts: MOST_ATTEMPTS,
        outlier: None,
        balance: Balance::default(),
        health: None,
    })
}

fn listener(name: &str, address: &str, clusters: &[(&str, u32)]) -> Arc<ListenerPlan> {
    let share = |(cluster, weight): &(&str, u32)| Share { cluster: (*cluster).into(), weight: *weight };
    Arc::new(ListenerPlan {
        name: name.into(),
        direction: Direction::Outbound,
        origin: Origin::Outbound,
        address: address.parse().unwrap(),
        binds: false,
        serve: Serve::Tcp,
        http: None,
        cluster: clusters.first().map(|(cluster, _)| (*cluster).into()),
        split: if clusters.len() > 1 { clusters.iter().map(share).collect() } else { Vec::new() },
        idle_timeout: None,
        service: None,
        rate: None,
    })
}

fn name(host: &str, addresses: &[&str], ports: &[(u16, Option<&str>)]) -> MeshName {
    MeshName {
        host: host.into(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        ttl: 30,
        ports: ports
            .iter()
            .map(|(port, name)| NamePort { port: *port, name: name.map(Into::into) })
            .collect(),
        service: "MeshService backend".into(),
        by: "HostnameGenerator local".into(),
    }
}

/// Names with one cluster, a split, a denied port and none, and one that is refused.
fn plan() -> Plan {
    let names = MeshNames {
        names: vec![
            name("backend.mesh", &["240.0.0.9", "fd00:fd00::9"], &[(80, Some("http")), (81, None)]),
            name("closed.mesh", &["240.0.0.10"], &[(80, None), (81, None)]),
            name("nothing.mesh", &[], &[]),
            name("same.mesh", &["240.0.0.9"], &[(80, None)]),
        ],
        refused: vec![RefusedName {
            host: "twice.mesh".into(),
            why: "HostnameGenerator one and HostnameGenerator two\nclaim it".into(),
        }],
        ..MeshNames::default()
    };
    Plan {
        listeners: vec![
            listener("to-backend", "240.0.0.9:80", &[("backend", 1)]),
            listener("split", "240.0.0.9:81", &[("backend", 9), ("canary", 1)]),
            listener("closed", "240.0.0.10:80", &[]),
        ],
        clusters: vec![cluster("backend", 2), cluster("canary", 300)],
        names: Arc::new(names),
        ..Plan::default()
    }
}

fn unhealthy(of: &str) -> Healths {
    match of {
        "backend" => {
            [("10.0.0.0:8080".parse().unwrap(), "healthy"), ("10.0.0.1:8080".parse().unwrap(), "ejected")]
                .into()
        }
        _ => Healths::new(),
    }
}

fn around(config: &Config, reaches: Option<[bool; 2]>) -> Surroundings<'_> {
    let servers = vec!["10.96.0.10:53".parse().unwrap(), "[fd00::a]:53".parse().unwrap()];
    Surroundings { config, pod: reaches.map(|reaches| PodNames { servers, reaches }) }
}

fn said(asked: &str, arguments: &[&str], reaches: Option<[bool; 2]>) -> (bool, String) {
    let (plan, config) = (plan(), config(arguments));
    let answer = Directory::new(&plan, &unhealthy).resolve(asked, &around(&config, reaches)).unwrap();
    (answer.exists(), answer.to_string())
}

const RUNS: [&str; 2] = ["--dataplane=here", "--dns-port=15053"];

#[test]
fn a_name_is_told_with_everything_that_it_leads_to() {
    for asked in ["backend.mesh", "BACKEND.Mesh."] {
        let (exists, text) = said(asked, &RUNS, Some([true, true]));
        assert!(exists);
        let (text, rest) = text.split_once("      10.0.0.1:8080    Dataplane canary-1\n").unwrap();
        assert_eq!(
            text,
            "\
backend.mesh
  addresses  240.0.0.9, fd00:fd00::9, for 30 s
  service    MeshService backend
  made by    HostnameGenerator local
  port 80 (http), listener to-backend
    cluster backend: 2 endpoints
      10.0.0.0:8080  Dataplane backend-0  healthy
      10.0.0.1:8080  Dataplane backend-1  ejected
  port 81, listener split
    cluster backend, 9 of 10 connections: 2 endpoints
      10.0.0.0:8080  Dataplane backend-0  healthy
      10.0.0.1:8080  Dataplane backend-1  ejected
    cluster canary, 1 of 10 connections: 300 endpoints
      10.0.0.0:8080    Dataplane canary-0
"
        );
        assert!(rest.ends_with("Dataplane canary-255\n      and 44 more\n"), "{rest}");
    }
    let (exists, text) = said("closed.mesh", &RUNS, Some([true, true]));
    let denied =
        |port, listener| format!("  port {port}, listener {listener}\n    every connection is denied\n");
    assert!(
        exists && text.ends_with(&(denied(80, "closed") + &denied(81, "outbound:240.0.0.10:81"))),
        "{text}"
    );
    let (exists, text) = said("nothing.mesh", &RUNS, Some([true, true]));
    assert!(
        exists
            && text.contains("  addresses  none, for 30 s\n")
            && text.ends_with("  no port can be called\n"),
        "{text}"
    );
}

#[test]
fn servers_outside_of_the_mesh_have_the_document_that_names_them() {
    let mut plan = plan();
    let endpoint = |host, address: &str| ExternalEndpoint {
        address: address.parse().unwrap(),
        host,
        tls: None,
        priority: 0,
        document: "MeshExternalService shop".into(),
    };
    let path: Arc<std::path::Path> = Arc::from(std::path::Path::new("/run/shop.sock"));
    let mut cluster = ClusterPlan::clone(&plan.clusters[0]);
    cluster.upstream = Discovery::External(vec![
        endpoint(ExternalHost::Address, "10.0.0.1:8080"),
        endpoint(ExternalHost::Name("shop.example".into()), "192.0.2.7:443"),
        endpoint(ExternalHost::Socket(path), "[100::7]:0"),
    ]);
    plan.clusters[0] = Arc::new(cluster);
    let config = config(&RUNS);
    let answer = Directory::new(&plan, &unhealthy).resolve("same.mesh", &around(&config, None)).unwrap();
    let text = answer.to_string();
    assert!(
        text.ends_with(
            "\
    cluster backend: 3 endpoints
      10.0.0.1:8080   MeshExternalService shop  ejected
      192.0.2.7:443   MeshExternalService shop, shop.example
      /run/shop.sock  MeshExternalService shop
"
        ),
        "{text}"
    );
}

#[test]
fn what_keeps_a_name_from_being_used_is_told_with_it() {
    for (arguments, reaches, expected) in [
        (&RUNS[..], Some([true, true]), ""),
        (
            &RUNS,
            Some([true, false]),
            "  the pod has no route to the mesh's IPv6 addresses: a query for AAAA is answered without one\n",
        ),
        (
            &RUNS,
            Some([false, true]),
            "  the pod has no route to the mesh's IPv4 addresses: a query for A is answered without one\n",
        ),
        (
            &RUNS[..1],
            Some([true, true]),
            "  the sidecar answers no DNS (--dns-port is 0): applications cannot look it up\n",
        ),
        // Without a sidecar nothing is known about its pod.
        (&RUNS[..1], None, ""),
    ] {
        let (exists, text) = said("backend.mesh", arguments, reaches);
        assert!(exists && text.ends_with(&format!("      and 44 more\n{expected}")), "{arguments:?} {text}");
    }
    // One that has no address of the family is not kept from anything.
    let (_, text) = said("closed.mesh", &RUNS, Some([true, false]));
    assert!(!text.contains("no route"), "{text}");
}

#[test]
fn an_address_has_the_names_that_share_it() {
    for (asked, names) in [
        ("240.0.0.9", &["backend.mesh", "same.mesh"][..]),
        ("::ffff:240.0.0.9", &["backend.mesh", "same.mesh"]),
        ("fd00:fd00::9", &["backend.mesh"]),
    ] {
        let (plan, config) = (plan(), config(&RUNS));
        let answer =
            Directory::new(&plan, &unhealthy).resolve(asked, &around(&config, Some([true, true]))).unwrap();
        assert_eq!(answer.names.iter().map(|name| &*name.name).collect::<Vec<_>>(), names, "{asked}");
    }
    let (exists, text) = said("240.0.0.77", &RUNS, None);
    assert_eq!(
        (exists, text.as_str()),
        (false, "240.0.0.77 is not there\n  it is the address of no name of the mesh\n")
    );
}

#[test]
fn why_a_name_does_not_exist_is_told() {
    for (asked, arguments, reaches, expected) in [
        (
            "Twice.mesh",
            &RUNS[..],
            Some([true, true]),
            "  refused: HostnameGenerator one and HostnameGenerator two\\nclaim it\n  it is no name of the mesh: a query for it is forwarded to 10.96.0.10:53, [fd00::a]:53\n",
        ),
        (
            "backend",
            &RUNS,
            None,
            "  it is no name of the mesh: the sidecar forwards a query for it to the servers of its resolv.conf\n  names that look like it: backend.mesh\n",
        ),
        (
            "example.com",
            &RUNS[..1],
            Some([true, true]),
            "  the sidecar answers no DNS (--dns-port is 0): applications cannot look it up\n",
        ),
    ] {
        let (exists, text) = said(asked, arguments, reaches);
        assert!(!exists);
        assert_eq!(text, format!("{asked} is not there\n{expected}"));
    }
}

#[test]
fn where_the_pod_has_no_name_at_all_the_options_or_its_dataplane_are_named() {
    let plan = Plan::default();
    let none = |_: &str| Healths::new();
    for (arguments, reason) in [
        (&[][..], "without --dataplane"),
        (&["--dataplane=here", "--outbound-port=0"], "--outbound-port is 0"),
        (&["--dataplane=here"], "transparentProxying"),
    ] {
        let config = config(arguments);
        let answer = Directory::new(&plan, &none).resolve("web.mesh", &around(&config, None)).unwrap();
        assert!(answer.notes[0].contains(reason), "{:?}", answer.notes);
    }
    let config = config(&RUNS);
    let alone =
        Surroundings { config: &config, pod: Some(PodNames { servers: Vec::new(), reaches: [true; 2] }) };
    let answer = Directory::new(&plan, &none).resolve("web.mesh", &alone).unwrap();
    assert!(answer.notes[1].contains("/etc/resolv.conf names no server"), "{:?}", answer.notes);
}

#[test]
fn text_that_is_no_name_is_an_error() {
    let (plan, config) = (plan(), config(&RUNS));
    let directory = Directory::new(&plan, &unhealthy);
    let label = "a".repeat(63);
    for good in ["a", "a.b.", "_http._tcp.web", &label, &[label.as_str(); 3].join("."), "1.2.3", "::1"] {
        assert!(directory.resolve(good, &around(&config, None)).is_ok(), "{good}");
    }
    for wrong in [
        "",
        ".",
        "a..b",
        ".a",
        "a b",
        "a/b",
        "ä",
        "a\n",
        &"a".repeat(64),
        &[label.as_str(); 4].join("."),
        "[::1]",
        "a:80",
    ] {
        let error = directory.resolve(wrong, &around(&config, None)).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{wrong:?} is no name: ")), "{error}");
    }
}

#[test]
fn the_list_has_a_row_for_each_port_and_is_cut_to_pages() {
    let plan = plan();
    let list = Directory::new(&plan, &unhealthy).list(1, |_| true).to_string();
    assert_eq!(
        list,
        "\
4 of 4 names, page 1 of 1
backend.mesh  240.0.0.9, fd00:fd00::9  80 http  backend: 2 (1 healthy, 1 ejected)
                                       81       backend 9/10: 2 (1 healthy, 1 ejected); canary 1/10: 300
closed.mesh   240.0.0.10               80       denied
                                       81       denied
nothing.mesh  none                     no port
same.mesh     240.0.0.9                80       backend: 2 (1 healthy, 1 ejected)

names that do not exist: 1
  twice.mesh: HostnameGenerator one and HostnameGenerator two\\nclaim it
"
    );
    let list = Directory::new(&plan, &unhealthy).list(7, |text| text.contains("same"));
    assert_eq!((list.matching, list.page, list.names.len(), list.refused_total), (1, 1, 1, 0));
}

#[test]
fn of_ten_thousand_names_a_page_is_shown_and_a_filter_finds_the_rest() {
    let mut all = plan();
    let host = |number: usize| format!("web-{number:05}.mesh");
    all.names = Arc::new(MeshNames {
        names: (0..10_000).map(|number| name(&host(number), &["240.0.0.9"], &[(81, None)])).collect(),
        refused: (0..100).map(|number| RefusedName { host: host(number).into(), why: "no".into() }).collect(),
        ..MeshNames::default()
    });
    let directory = Directory::new(&all, &unhealthy);
    let first = directory.list(1, |_| true);
    assert_eq!(
        (first.matching, first.pages, first.names.len(), first.refused.len()),
        (10_000, 50, NAMES_A_PAGE, MOST_REFUSED)
    );
    assert_eq!(first.names[0].ports[0].clusters[1].endpoints.len(), FEW_ENDPOINTS);
    let bytes = serde_json::to_vec(&first).unwrap().len();
    assert!(bytes < 1 << 20, "{bytes}");
    for page in [50, 51, usize::MAX] {
        let last = directory.list(page, |_| true);
        assert_eq!((last.page, last.names[199].name.as_str()), (50, "web-09999.mesh"), "{page}");
    }
    assert_eq!(directory.list(0, |_| true).page, 1);
    let few = directory.list(1, |text| text.contains("0777"));
    assert_eq!((few.matching, few.pages), (11, 1));
}
