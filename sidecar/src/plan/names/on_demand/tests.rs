// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::plan::{MOST_ATTEMPTS, Member};
use culvert_mesh::model::tags::Tags;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A service with one endpoint at this port.
fn called(name: &str, port: u16, idle_timeout: Option<Duration>) -> Called {
    let member = Arc::new(Member { dataplane: name.into(), tags: Arc::new(Tags::default()), ids: None });
    let cluster = ClusterPlan {
        name: name.into(),
        origin: Origin::Outbound,
        upstream: Discovery::Endpoints(vec![EndpointPlan { address: ([10, 0, 0, 9], port).into(), member }]),
        thresholds: Default::default(),
        connect_timeout: Some(Duration::from_secs(5)),
        most_attempts: MOST_ATTEMPTS,
        outlier: None,
        balance: Balance::default(),
        health: None,
    };
    Called { cluster, service: name.into(), idle_timeout, serve: Serve::Tcp, http: None }
}

fn found(lines: &OnDemand, to: &str) -> Option<String> {
    let at = lines.find(to.parse().unwrap())?;
    let (listener, cluster) = (lines.listener(at), lines.cluster(lines.cluster_of(at)));
    assert_eq!(listener.cluster.as_ref(), Some(&cluster.name));
    Some(format!("{} → {}", listener.name, cluster.name))
}

#[test]
fn every_address_of_a_service_leads_to_the_listener_of_its_port() {
    let mut lines = Lines::default();
    for (number, name) in ["web", "db", "cache"].iter().enumerate() {
        let own = IpAddr::from([240, 0, 0, 3 - u8::try_from(number).unwrap()]);
        let other = ip(&format!("fd00:fd00::{number}"));
        assert!(lines.add(SocketAddr::new(own, 80), called(name, 80, None)));
        assert!(lines.add(SocketAddr::new(own, 8080), called(name, 80, None)));
        lines.lead(&[own, other], own);
    }
    // Without a listener: it is made out with the plan.
    lines.lead(&[ip("240.0.0.200"), ip("fd00:fd00::c8")], ip("240.0.0.200"));
    let all = lines.finish(&[]);
    assert_eq!((all.listeners(), all.new_clusters().count(), all.sorts.len()), (6, 3, 1));
    for (to, expected) in [
        ("240.0.0.3:80", Some("outbound:240.0.0.3:80 → web")),
        ("240.0.0.3:8080", Some("outbound:240.0.0.3:8080 → web")),
        ("[fd00:fd00::]:8080", Some("outbound:240.0.0.3:8080 → web")),
        ("240.0.0.2:80", Some("outbound:240.0.0.2:80 → db")),
        ("[fd00:fd00::2]:80", Some("outbound:240.0.0.1:80 → cache")),
        ("240.0.0.3:81", None),
        ("240.0.0.4:80", None),
        ("240.0.0.0:80", None),
        ("[fd00:fd00::c8]:80", None),
        ("[fd00:fd00::3]:80", None),
    ] {
        assert_eq!(found(&all, to).as_deref(), expected, "{to}");
    }
}

#[test]
fn of_services_that_share_an_address_each_has_its_ports_and_its_own_address_comes_first() {
    let mut lines = Lines::default();
    assert!(lines.add("10.0.0.1:80".parse().unwrap(), called("one", 80, None)));
    lines.lead(&[ip("10.0.0.1"), ip("fd00::1")], ip("10.0.0.1"));
    assert!(lines.add("[fd00::1]:80".parse().unwrap(), called("two", 80, None)));
    assert!(lines.add("[fd00::1]:81".parse().unwrap(), called("two", 80, None)));
    lines.lead(&[ip("fd00::1")], ip("fd00::1"));
    assert!(lines.add("10.0.0.1:82".parse().unwrap(), called("three", 80, None)));
    let all = lines.finish(&[]);
    for (to, expected) in [
        ("[fd00::1]:80", "outbound:[fd00::1]:80 → two"),
        ("[fd00::1]:81", "outbound:[fd00::1]:81 → two"),
        ("[fd00::1]:82", "outbound:10.0.0.1:82 → three"),
        ("10.0.0.1:80", "outbound:10.0.0.1:80 → one"),
    ] {
        assert_eq!(found(&all, to).as_deref(), Some(expected), "{to}");
    }
}

#[test]
fn what_a_line_cannot_say_is_not_taken() {
    let mut lines = Lines::default();
    let address = |port| SocketAddr::new(ip("240.0.0.1"), port);
    assert!(lines.add(address(80), called("web", 80, None)));
    // Another cluster, and other settings of the same.
    assert!(!lines.add(address(81), called("web", 81, None)));
    assert!(!lines.add(address(81), called("web", 80, Some(Duration::from_secs(1)))));
    let mut other = called("other", 80, None);
    other.cluster.balance.by_source = true;
    assert!(!lines.add(address(82), other));
    let mut other = called("other", 80, None);
    other.cluster.upstream = Discovery::External(Vec::new());
    assert!(!lines.add(address(82), other));
    let all = lines.finish(&[Arc::new(called("web", 80, None).cluster)]);
    assert_eq!((all.listeners(), all.clusters.len(), all.new_clusters().count()), (1, 1, 0));
    assert!(all.is_made_out(0));
}

#[test]
fn thousands_of_sorts_are_not_compared_with_each_other() {
    let mut lines = Lines::default();
    for number in 0..1000_u16 {
        let called = called(&format!("web-{number}"), 80, Some(Duration::from_secs(u64::from(number % 100))));
        assert!(lines.add(SocketAddr::new(ip("240.0.0.1"), number), called));
    }
    let all = lines.finish(&[]);
    assert_eq!(all.sorts.len(), 1000, "100 are more than are compared");
    assert_eq!(all.shortest_idle_timeout(), Some(Duration::ZERO));
    let timeout = |at: usize| all.listener(at).idle_timeout.unwrap().as_secs();
    assert!((0..1000).all(|at| timeout(at) == u64::from(all.listener(at).address.port() % 100)));
}
