//! The landing of each connection of a pod with defaults, in both families and by every engine.

use std::time::{Duration, Instant};

use anyhow::Result;
use culvert_tests::server::{UdpEcho, who};
use culvert_tests::{Family, Host, Lab, Landed, Landing};

use crate::support::{APP, Rows, SIDECAR, by_every_engine, seen};

/// A pod with defaults, and a listener in the sidecar's place.
fn onboarded(engine: &str) -> Result<(Lab, Landing)> {
    let lab = Lab::new()?;
    lab.add(&[("engine", engine)])?.expect_success();
    let landing = Landing::new(&lab.pod)?;
    Ok((lab, landing))
}

fn what_an_application_sends_outside_goes_to_the_sidecar(engine: &str) -> Result<()> {
    let (lab, landing) = onboarded(engine)?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        for uid in [0, 1, APP, SIDECAR - 1, SIDECAR + 1, 65_534, u32::MAX - 1] {
            rows.outbound(&format!("uid {uid}"), lab.pod.as_uid(uid), (family.outside(), 80))?;
        }
        rows.outbound("application", lab.pod.as_uid(APP), (family.peer(), 443))?;
        // The redirect knows addresses, not services: the sidecar's port numbers elsewhere are ports like any other.
        for port in [1, 22, 53, 15_001, 15_006, 15_020, 65_535] {
            rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), port))?;
        }
    }
    Ok(())
}

fn what_the_sidecar_sends_outside_goes_there(engine: &str) -> Result<()> {
    let (lab, mut landing) = onboarded(engine)?;
    for family in Family::BOTH {
        landing.target(&lab.peer, (family.outside(), 80))?;
        landing.target(&lab.peer, (family.peer(), 80))?;
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("sidecar", lab.pod.as_uid(SIDECAR), (family.outside(), 80))?;
        rows.direct("sidecar", lab.pod.as_uid(SIDECAR), (family.peer(), 80))?;
        rows.row("sidecar", lab.pod.as_uid(SIDECAR), (family.outside(), 81), Landed::Refused)?;
    }
    Ok(())
}

fn what_stays_on_loopback_is_left_alone(engine: &str) -> Result<()> {
    let (lab, mut landing) = onboarded(engine)?;
    let mut places: Vec<(_, u16)> = Family::BOTH.map(|family| (family.loopback(), 8080)).into();
    places.extend([
        ("127.0.0.1".parse()?, 80),
        ("127.0.0.2".parse()?, 8080),
        ("127.255.255.254".parse()?, 8080),
    ]);
    places.extend(Family::BOTH.map(|family| (family.hop(), 8080)));
    for place in &places {
        landing.target(&lab.pod, *place)?;
    }
    let mut rows = Rows::of(&landing);
    for place in places {
        rows.direct("application", lab.pod.as_uid(APP), place)?;
        rows.direct("root", lab.pod.as_root(), place)?;
    }
    for family in Family::BOTH {
        rows.direct("sidecar", lab.pod.as_uid(SIDECAR), (family.loopback(), 8080))?;
        rows.row("nobody listens", lab.pod.as_uid(APP), (family.loopback(), 81), Landed::Refused)?;
    }
    Ok(())
}

fn an_application_reaches_its_own_pod_directly(engine: &str) -> Result<()> {
    let (lab, mut landing) = onboarded(engine)?;
    let own = own_addresses(&lab.pod)?;
    for address in &own {
        landing.target(&lab.pod, (*address, 8080))?;
    }
    let mut rows = Rows::of(&landing);
    for address in own {
        rows.direct("application", lab.pod.as_uid(APP), (address, 8080))?;
        rows.direct("root", lab.pod.as_root(), (address, 8080))?;
        rows.row("nobody listens", lab.pod.as_uid(APP), (address, 81), Landed::Refused)?;
    }
    Ok(())
}

fn the_sidecars_inbound_hop_reaches_the_application(engine: &str) -> Result<()> {
    let (lab, mut landing) = onboarded(engine)?;
    let own = own_addresses(&lab.pod)?;
    for address in &own {
        landing.target(&lab.pod, (*address, 8080))?;
    }
    let mut rows = Rows::of(&landing);
    for address in own {
        let hop = Family::of(address).hop();
        rows.direct("hop", lab.pod.as_uid(SIDECAR).from(hop), (address, 8080))?;
        rows.row("hop to a closed port", lab.pod.as_uid(SIDECAR).from(hop), (address, 81), Landed::Refused)?;
    }
    Ok(())
}

fn a_call_of_the_sidecar_to_its_own_pod_passes_the_inbound_rules(engine: &str) -> Result<()> {
    let (lab, landing) = onboarded(engine)?;
    let mut rows = Rows::of(&landing);
    for address in own_addresses(&lab.pod)? {
        rows.inbound("sidecar", lab.pod.as_uid(SIDECAR), (address, 8080))?;
    }
    for family in Family::BOTH {
        rows.inbound("sidecar", lab.pod.as_uid(SIDECAR), (family.hop(), 8080))?;
        rows.inbound(
            "sidecar from the hop",
            lab.pod.as_uid(SIDECAR).from(family.hop()),
            (family.hop(), 8080),
        )?;
    }
    rows.inbound("sidecar", lab.pod.as_uid(SIDECAR), "127.0.0.2:8080")?;
    Ok(())
}

fn what_a_peer_sends_to_the_pod_goes_to_the_sidecar(engine: &str) -> Result<()> {
    let mut lab = Lab::new()?;
    let second = lab.another_peer()?;
    lab.pod.add_address("eth0", "10.77.0.9/24")?;
    lab.pod.add_address("eth0", "fd77::9/64")?;
    lab.add(&[("engine", engine)])?.expect_success();
    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        // A listener there makes no difference.
        landing.target(&lab.pod, (family.pod(), 8080))?;
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        for port in [1, 22, 80, 8080, 9901, 15_001, 65_535] {
            rows.inbound("peer", lab.peer.as_root(), (family.pod(), port))?;
            rows.inbound("second peer", second.as_root(), (family.pod(), port))?;
        }
        rows.inbound("from outside", lab.peer.as_root().from(family.outside()), (family.pod(), 80))?;
    }
    rows.inbound("peer, second address", lab.peer.as_root(), "10.77.0.9:80")?;
    rows.inbound("peer, second address", lab.peer.as_root(), "[fd77::9]:80")?;
    rows.inbound("second interface", second.as_root(), "10.77.1.2:80")?;
    rows.inbound("second interface", second.as_root(), "[fd77:1::2]:80")?;
    Ok(())
}

fn the_status_port_is_reached_directly(engine: &str) -> Result<()> {
    let (lab, mut landing) = onboarded(engine)?;
    for family in Family::BOTH {
        landing.target(&lab.pod, (family.pod(), 15_020))?;
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("peer", lab.peer.as_root(), (family.pod(), 15_020))?;
    }
    Ok(())
}

fn link_local_neighbours_are_reached_directly(engine: &str) -> Result<()> {
    let (lab, mut landing) = onboarded(engine)?;
    let (here, there) = (lab.pod.interface_index("eth0")?, lab.peer.interface_index("eth0")?);
    landing.target(&lab.peer, &*format!("[fe80::1%{there}]:80"))?;
    let mut rows = Rows::of(&landing);
    for uid in [0, APP, SIDECAR] {
        rows.direct(&format!("uid {uid}"), lab.pod.as_uid(uid), &*format!("[fe80::1%{here}]:80"))?;
    }
    Ok(())
}

fn what_the_pod_forwards_for_others_is_untouched(engine: &str) -> Result<()> {
    let mut lab = Lab::new()?;
    let second = lab.another_peer()?;
    for family in Family::BOTH {
        lab.peer
            .add_route(if family == Family::V4 { "10.77.1.0/24" } else { "fd77:1::/64" }, family.pod())?;
    }
    lab.pod.set_sysctl("net.ipv4.ip_forward", "1")?;
    lab.pod.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    lab.add(&[("engine", engine)])?.expect_success();
    let _sidecar = Landing::new(&lab.pod)?;
    for (family, source) in [(Family::V4, "10.77.1.1"), (Family::V6, "fd77:1::1")] {
        let _server = lab.peer.serve((family.outside(), 80), who())?;
        let seen = seen(second.connect((family.outside(), 80))?)?;
        assert_eq!(seen.ip(), source.parse::<std::net::IpAddr>()?, "{family}");
    }
    Ok(())
}

fn datagrams_are_untouched(engine: &str) -> Result<()> {
    let (lab, _landing) = onboarded(engine)?;
    for family in Family::BOTH {
        for port in [53, 443, 8080] {
            let _outside = UdpEcho::start(lab.peer.udp((family.outside(), port))?)?;
            let (answer, from) = lab.pod.as_uid(APP).ask_udp((family.outside(), port), b"out")?;
            assert_eq!((answer.as_slice(), from), (&b"out"[..], (family.outside(), port).into()));

            let _inside = UdpEcho::start(lab.pod.udp((family.pod(), port))?)?;
            let (answer, from) = lab.peer.as_root().ask_udp((family.pod(), port), b"in")?;
            assert_eq!((answer.as_slice(), from), (&b"in"[..], (family.pod(), port).into()));
        }
    }
    Ok(())
}

fn until_the_sidecar_listens_connections_are_refused_at_once(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("engine", engine)])?.expect_success();
    for family in Family::BOTH {
        let _outside = lab.peer.serve((family.outside(), 80), who())?;
        let _inside = lab.pod.serve((family.pod(), 8080), who())?;
        for (actor, to) in
            [(lab.pod.as_uid(APP), (family.outside(), 80)), (lab.peer.as_root(), (family.pod(), 8080))]
        {
            let start = Instant::now();
            let error = actor.connect(to).expect_err("nobody is there");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{family}");
            assert!(start.elapsed() < Duration::from_millis(500), "{family}: {:?}", start.elapsed());
        }
    }
    Ok(())
}

fn a_pod_without_ipv6_is_redirected_in_ipv4(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.pod.set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    lab.add(&[("engine", engine)])?.expect_success();
    let landing = Landing::new(&lab.pod)?;
    let mut rows = Rows::of(&landing);
    rows.outbound("application", lab.pod.as_uid(APP), "192.0.2.10:80")?;
    rows.inbound("peer", lab.peer.as_root(), "10.77.0.2:80")?;
    assert_eq!(lab.pod.addresses("lo")?, [Family::V4.loopback()]);
    Ok(())
}

by_every_engine! {
    what_an_application_sends_outside_goes_to_the_sidecar,
    what_the_sidecar_sends_outside_goes_there,
    what_stays_on_loopback_is_left_alone,
    an_application_reaches_its_own_pod_directly,
    the_sidecars_inbound_hop_reaches_the_application,
    a_call_of_the_sidecar_to_its_own_pod_passes_the_inbound_rules,
    what_a_peer_sends_to_the_pod_goes_to_the_sidecar,
    the_status_port_is_reached_directly,
    link_local_neighbours_are_reached_directly,
    what_the_pod_forwards_for_others_is_untouched,
    datagrams_are_untouched,
    until_the_sidecar_listens_connections_are_refused_at_once,
    a_pod_without_ipv6_is_redirected_in_ipv4,
}

/// The addresses of `eth0` that need no scope.
fn own_addresses(pod: &Host) -> Result<Vec<std::net::IpAddr>> {
    pod.add_address("eth0", "10.77.0.9/24")?;
    pod.add_address("eth0", "fd77::9/64")?;
    let mut own: Vec<_> = Family::BOTH.map(Family::pod).into();
    own.extend(["10.77.0.9".parse::<std::net::IpAddr>()?, "fd77::9".parse()?]);
    Ok(own)
}
