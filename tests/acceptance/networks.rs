//! Lists of ports, networks, uids and interfaces, and one family alone, in both families and by every engine.

use std::collections::BTreeSet;

use anyhow::Result;
use culvert_tests::{Family, Host, Knock, Lab, Landed, Landing, Segment};

use crate::support::{APP, Rows, SIDECAR, by_every_engine};

/// A pod with these annotations, a listener in the sidecar's place, and servers outside and in the pod at these ports.
fn pod_with(engine: &str, annotations: &[(&str, &str)], ports: &[u16]) -> Result<(Lab, Landing)> {
    let lab = Lab::new()?;
    lab.add(&[annotations, &[("engine", engine)]].concat())?.expect_success();
    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        for port in ports {
            landing.target(&lab.peer, (family.outside(), *port))?;
            landing.target(&lab.peer, (family.peer(), *port))?;
            landing.target(&lab.pod, (family.pod(), *port))?;
        }
    }
    Ok((lab, landing))
}

fn peers_in_excluded_networks_reach_the_pod_directly(engine: &str) -> Result<()> {
    // A list, and whether it holds the outside address and the neighbour's.
    for (list, outside, neighbour) in [
        ("192.0.2.10,2001:db8::10", true, false),
        ("192.0.2.0/24, 2001:db8::/32", true, false),
        ("10.77.0.1/32,fd77::1/128", false, true),
        ("10.0.0.0/8,fd00::/8,192.0.2.8/30,2001:db8::10/124", true, true),
        ("192.0.2.11,192.0.2.0/29,2001:db8::11,2001:db8::/125", false, false),
        ("0.0.0.0/0,::/0", true, true),
    ] {
        let (lab, landing) = pod_with(engine, &[("exclude-inbound-cidrs", list)], &[8080])?;
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            for (source, excluded) in [(family.outside(), outside), (family.peer(), neighbour)] {
                let (what, peer) = (format!("{list}: from {source}"), lab.peer.as_root().from(source));
                if excluded {
                    rows.direct(&what, peer, (family.pod(), 8080))?;
                } else {
                    rows.inbound(&what, peer, (family.pod(), 8080))?;
                }
            }
            // It is about who calls, not about who is called.
            rows.outbound(list, lab.pod.as_uid(APP), (family.outside(), 8080))?;
            rows.inbound(list, lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
        }
    }
    Ok(())
}

fn excluded_networks_are_reached_directly(engine: &str) -> Result<()> {
    for (list, outside, neighbour) in [
        ("192.0.2.10,2001:db8::10", true, false),
        ("192.0.2.0/24, 2001:db8::/32", true, false),
        ("10.77.0.1/32,fd77::1/128", false, true),
        ("10.0.0.0/8,fd00::/8,192.0.2.8/30,2001:db8::10/124", true, true),
        ("192.0.2.11,192.0.2.0/29,2001:db8::11,2001:db8::/125", false, false),
        ("0.0.0.0/0,::/0", true, true),
    ] {
        let (lab, landing) = pod_with(engine, &[("exclude-outbound-cidrs", list)], &[8080])?;
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            for (destination, excluded) in [(family.outside(), outside), (family.peer(), neighbour)] {
                for actor in [lab.pod.as_uid(APP), lab.pod.as_root()] {
                    if excluded {
                        rows.direct(list, actor, (destination, 8080))?;
                    } else {
                        rows.outbound(list, actor, (destination, 8080))?;
                    }
                }
            }
            // It is about who is called, not about who calls.
            rows.inbound(list, lab.peer.as_root(), (family.pod(), 8080))?;
            rows.inbound(list, lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
        }
    }
    Ok(())
}

fn networks_of_one_family_say_nothing_about_the_other(engine: &str) -> Result<()> {
    for (family, inbound, outbound) in
        [(Family::V4, "10.0.0.0/8", "192.0.2.10"), (Family::V6, "fd00::/8", "2001:db8::10")]
    {
        let annotations = [("exclude-inbound-cidrs", inbound), ("exclude-outbound-cidrs", outbound)];
        let (lab, landing) = pod_with(engine, &annotations, &[8080])?;
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let mut rows = Rows::of(&landing);
        rows.direct("excluded", lab.pod.as_uid(APP), (family.outside(), 8080))?;
        rows.direct("excluded", lab.peer.as_root(), (family.pod(), 8080))?;
        rows.outbound("the other family", lab.pod.as_uid(APP), (other.outside(), 8080))?;
        rows.inbound("the other family", lab.peer.as_root(), (other.pod(), 8080))?;
    }
    Ok(())
}

fn only_included_inbound_ports_reach_the_sidecar(engine: &str) -> Result<()> {
    // With an exclude list beside it, which is then not consulted, and the status port, which is never redirected.
    let annotations = [
        ("include-inbound-ports", "80, 443,8000-8003,15020"),
        ("exclude-inbound-ports", "80,8001,9000"),
        ("exclude-inbound-cidrs", "192.0.2.10,2001:db8::10"),
    ];
    let (lab, mut landing) = pod_with(engine, &annotations, &[80, 81, 442, 7999, 8002, 8004, 9000])?;
    for family in Family::BOTH {
        landing.target(&lab.pod, (family.pod(), 15_020))?;
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        for port in [80, 443, 8000, 8001, 8003] {
            rows.inbound("included", lab.peer.as_root(), (family.pod(), port))?;
        }
        for port in [81, 442, 7999, 8004, 9000, 15_020] {
            rows.direct("not included", lab.peer.as_root(), (family.pod(), port))?;
        }
        let excluded = lab.peer.as_root().from(family.outside());
        rows.direct("an excluded source, included port", excluded, (family.pod(), 8002))?;
        rows.row("not included, closed", lab.peer.as_root(), (family.pod(), 22), Landed::Refused)?;
        for port in [80, 81, 9000] {
            rows.inbound("the sidecar's own", lab.pod.as_uid(SIDECAR), (family.pod(), port))?;
            rows.outbound("the application's", lab.pod.as_uid(APP), (family.outside(), port))?;
        }
    }
    says_that_an_include_list_wins(&lab, "exclude-inbound-ports");
    Ok(())
}

fn only_included_outbound_ports_reach_the_sidecar(engine: &str) -> Result<()> {
    let annotations = [
        ("include-outbound-ports", "80, 443,8000-8003"),
        ("exclude-outbound-ports", "80,8001,9000"),
        ("exclude-outbound-cidrs", "10.77.0.1,fd77::1"),
        ("exclude-outbound-ports-for-uids", "tcp:80:2000"),
    ];
    let (lab, landing) = pod_with(engine, &annotations, &[80, 81, 442, 7999, 8004, 9000])?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        for port in [80, 443, 8000, 8001, 8003] {
            rows.outbound("included", lab.pod.as_uid(APP), (family.outside(), port))?;
        }
        for port in [81, 442, 7999, 8004, 9000] {
            rows.direct("not included", lab.pod.as_uid(APP), (family.outside(), port))?;
        }
        rows.direct("an excluded destination, included port", lab.pod.as_uid(APP), (family.peer(), 80))?;
        rows.direct("an excluded uid, included port", lab.pod.as_uid(2000), (family.outside(), 80))?;
        rows.row("not included, closed", lab.pod.as_uid(APP), (family.outside(), 22), Landed::Refused)?;
        for port in [80, 81, 9000] {
            rows.inbound("the sidecar's own", lab.pod.as_uid(SIDECAR), (family.pod(), port))?;
            rows.inbound("a peer's", lab.peer.as_root(), (family.pod(), port))?;
        }
    }
    says_that_an_include_list_wins(&lab, "exclude-outbound-ports");
    Ok(())
}

fn says_that_an_include_list_wins(lab: &Lab, unused: &str) {
    let log = lab.plugin_log();
    assert!(log.lines().any(|line| line.contains("warn") && line.contains(unused)), "{log}");
}

fn a_list_may_be_long(engine: &str) -> Result<()> {
    // iptables' own lists end at 15 ports.
    for count in [16, 40, 1000] {
        let ports: Vec<u16> = (0..count).map(|n| 3000 + 2 * n).collect();
        let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let (first, last) = (ports[0], ports[ports.len() - 1]);
        let tried: BTreeSet<u16> = [first, ports[14], ports[15], last].into();
        let lab = Lab::new()?;
        let annotations =
            [("engine", engine), ("exclude-inbound-ports", &list), ("exclude-outbound-ports", &list)];
        lab.add(&annotations)?.expect_success();
        let mut landing = Landing::new(&lab.pod)?;
        for family in Family::BOTH {
            for &port in &tried {
                landing.target(&lab.peer, (family.outside(), port))?;
                landing.target(&lab.pod, (family.pod(), port))?;
            }
        }
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            for &port in &tried {
                rows.direct("in the list", lab.pod.as_uid(APP), (family.outside(), port))?;
                rows.direct("in the list", lab.peer.as_root(), (family.pod(), port))?;
            }
            for port in [first - 1, first + 1, last + 1] {
                rows.outbound("beside it", lab.pod.as_uid(APP), (family.outside(), port))?;
                rows.inbound("beside it", lab.peer.as_root(), (family.pod(), port))?;
            }
        }
    }
    Ok(())
}

fn excluded_uids_reach_their_ports_directly(engine: &str) -> Result<()> {
    // Exclusions, with uids and ports that they are about, and ones that they are not.
    type Who = &'static [(u32, u16)];
    let table: [(&str, Who, Who); 8] = [
        ("tcp:80,443:1234", &[(1234, 80), (1234, 443)], &[(1234, 81), (1235, 80), (1233, 443), (0, 80)]),
        ("80:1234", &[(1234, 80)], &[(1234, 443), (1000, 80)]),
        ("*:*:1000-1010", &[(1000, 80), (1005, 443), (1010, 7000)], &[(999, 80), (1011, 80)]),
        ("tcp:7000-7002,80:2000-2001", &[(2000, 7001), (2001, 80)], &[(2000, 7003), (2002, 80)]),
        ("udp:80:1000", &[], &[(1000, 80)]),
        ("tcp,udp:80:4294967294", &[(4_294_967_294, 80)], &[(65_534, 80), (4_294_967_293, 80)]),
        ("*:443:65536-200000", &[(65_536, 443), (131_072, 443), (200_000, 443)], &[(200_001, 443), (0, 443)]),
        (
            "tcp:80:1000; tcp:443:1001 ;udp:53:1-9000",
            &[(1000, 80), (1001, 443)],
            &[(1000, 443), (1001, 80), (9000, 80)],
        ),
    ];
    for (list, excluded, others) in table {
        let annotations = [("exclude-outbound-ports-for-uids", list)];
        let (lab, landing) = pod_with(engine, &annotations, &[80, 81, 443, 7000, 7001, 7003])?;
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            for (uid, port) in excluded {
                let what = format!("{list}: uid {uid}");
                rows.direct(&what, lab.pod.as_uid(*uid), (family.outside(), *port))?;
            }
            for (uid, port) in others {
                let what = format!("{list}: uid {uid}");
                rows.outbound(&what, lab.pod.as_uid(*uid), (family.outside(), *port))?;
            }
            rows.inbound(list, lab.peer.as_root(), (family.pod(), 80))?;
        }
    }
    Ok(())
}

fn no_exclusion_lets_the_sidecar_call_its_own_pod_past_the_inbound_rules(engine: &str) -> Result<()> {
    for annotations in [
        &[("exclude-outbound-ports-for-uids", "*:*:5678;*:*:1-60000")][..],
        &[("exclude-outbound-cidrs", "0.0.0.0/0,::/0"), ("exclude-inbound-cidrs", "0.0.0.0/0,::/0")],
        &[("exclude-outbound-ports", "1-65535"), ("exclude-inbound-ports", "1-65535")],
        &[("include-outbound-ports", "9999"), ("include-inbound-ports", "9999")],
        &[("redirect-outbound", "disabled"), ("exclude-inbound-ports", "8080")],
        &[("virtual-interfaces", "lo:192.0.2.0/24,eth+:10.77.0.0/24"), ("redirect-dns", "all")],
    ] {
        let (lab, landing) = pod_with(engine, annotations, &[8080])?;
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            let what = format!("{annotations:?}");
            rows.inbound(&what, lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
            rows.inbound(&what, lab.pod.as_uid(SIDECAR), (family.hop(), 8080))?;
            rows.direct(&what, lab.pod.as_uid(SIDECAR).from(family.hop()), (family.pod(), 8080))?;
        }
    }
    Ok(())
}

/// A pod that forwards for a second neighbour behind its `eth1`, and the neighbour.
fn with_a_guest(engine: &str, virtual_interfaces: &str) -> Result<(Lab, Host)> {
    let mut lab = Lab::new()?;
    let guest = lab.another_peer()?;
    lab.peer.add_route("10.77.1.0/24", Family::V4.pod())?;
    lab.peer.add_route("fd77:1::/64", Family::V6.pod())?;
    lab.pod.set_sysctl("net.ipv4.ip_forward", "1")?;
    lab.pod.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    lab.add(&[("engine", engine), ("virtual-interfaces", virtual_interfaces)])?.expect_success();
    Ok((lab, guest))
}

fn what_comes_from_behind_a_virtual_interface_counts_as_the_pods_own(engine: &str) -> Result<()> {
    for list in ["eth1:10.77.1.0/24,eth1:fd77:1::/64", "eth1+:10.77.1.0/24, eth1+:fd77:1::/64"] {
        let (lab, guest) = with_a_guest(engine, list)?;
        let landing = Landing::new(&lab.pod)?;
        let mut rows = Rows::of(&landing);
        for (family, inside) in [(Family::V4, "10.77.1.2:80"), (Family::V6, "[fd77:1::2]:80")] {
            for port in [80, 443, 15_006, 15_020] {
                rows.outbound("to outside", guest.as_root(), (family.outside(), port))?;
            }
            rows.outbound("to a neighbour of the pod", guest.as_root(), (family.peer(), 80))?;
            rows.outbound("to the pod by an address elsewhere", guest.as_root(), (family.pod(), 80))?;
            rows.inbound("to the pod by an address inside", guest.as_root(), inside)?;
            rows.inbound("from elsewhere", lab.peer.as_root(), (family.pod(), 80))?;
        }
    }
    Ok(())
}

fn what_stays_within_a_virtual_interfaces_network_follows_the_other_rows(engine: &str) -> Result<()> {
    // The networks hold the pod's other neighbour as well: what is forwarded to it is untouched.
    let (lab, guest) = with_a_guest(engine, "eth1:10.77.0.0/16,eth1:fd77::/16")?;
    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        landing.target(&lab.peer, (family.peer(), 80))?;
        landing.target(&lab.pod, (family.pod(), 15_020))?;
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("forwarded", guest.as_root(), (family.peer(), 80))?;
        rows.outbound("to outside", guest.as_root(), (family.outside(), 80))?;
        rows.inbound("to the pod", guest.as_root(), (family.pod(), 80))?;
        rows.direct("to the status port", guest.as_root(), (family.pod(), 15_020))?;
    }
    Ok(())
}

fn another_interface_is_no_virtual_one(engine: &str) -> Result<()> {
    for list in ["docker0:10.77.1.0/24,docker0:fd77:1::/64", "et:10.77.1.0/24,et:fd77:1::/64"] {
        let (lab, guest) = with_a_guest(engine, list)?;
        let mut landing = Landing::new(&lab.pod)?;
        for family in Family::BOTH {
            landing.target(&lab.peer, (family.outside(), 80))?;
        }
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            rows.direct(list, guest.as_root(), (family.outside(), 80))?;
            rows.inbound(list, guest.as_root(), (family.pod(), 80))?;
        }
    }
    Ok(())
}

fn a_forged_packet_from_behind_a_virtual_interface_reaches_nothing(engine: &str) -> Result<()> {
    let (lab, guest) = with_a_guest(engine, "eth1:10.77.1.0/24,eth1:fd77:1::/64")?;
    let landing = Landing::new(&lab.pod)?;
    let (wire, pod) = (guest.wire_of("eth0")?, lab.pod.mac("eth1")?);
    let heard = Segment::syn("10.77.1.1:4000", "192.0.2.10:80");
    assert_eq!(wire.knock(pod, heard)?, Knock::Accepted);
    for (source, destination) in [
        ("10.77.1.1:4001", "127.0.0.1:8080"),
        ("10.77.1.1:4002", "127.0.0.6:8080"),
        ("[fd77:1::1]:4003", "[::1]:8080"),
        ("[fd77:1::1]:4004", "[::6]:8080"),
    ] {
        assert_eq!(wire.knock(pod, Segment::syn(source, destination))?, Knock::Silence, "to {destination}");
    }
    assert!(landing.accepted().values().sum::<usize>() <= 1, "{:?}", landing.accepted());
    Ok(())
}

fn one_family_alone_leaves_the_other_direct(engine: &str) -> Result<()> {
    for (mode, redirected) in [
        ("ipv4", &[Family::V4][..]),
        ("ipv6", &[Family::V6]),
        ("dual", &Family::BOTH),
        ("dualstack", &Family::BOTH),
    ] {
        let (lab, landing) = pod_with(engine, &[("ip-family", mode)], &[8080])?;
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            if redirected.contains(&family) {
                rows.outbound(mode, lab.pod.as_uid(APP), (family.outside(), 8080))?;
                rows.inbound(mode, lab.peer.as_root(), (family.pod(), 8080))?;
                rows.inbound(mode, lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
                rows.direct(mode, lab.pod.as_uid(SIDECAR).from(family.hop()), (family.pod(), 8080))?;
            } else {
                rows.direct(mode, lab.pod.as_uid(APP), (family.outside(), 8080))?;
                rows.direct(mode, lab.peer.as_root(), (family.pod(), 8080))?;
                rows.direct(mode, lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
            }
            rows.direct(mode, lab.pod.as_uid(SIDECAR), (family.outside(), 8080))?;
            rows.direct(mode, lab.pod.as_uid(APP), (family.pod(), 8080))?;
        }
        drop(rows);
        let has_hop = lab.pod.addresses("lo")?.contains(&Family::V6.hop());
        assert_eq!(has_hop, redirected.contains(&Family::V6), "::6 with ip-family {mode}");
        lab.del()?.expect_success();
        assert_eq!(lab.pod.addresses("lo")?, Family::BOTH.map(Family::loopback), "{mode}");
    }
    Ok(())
}

fn ipv6_alone_in_a_pod_without_it_is_an_error(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.pod.set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    let error = lab.add(&[("engine", engine), ("ip-family", "ipv6")])?.expect_error(101);
    assert!(error.msg.contains("ip-family"), "{}", error.msg);
    assert!(lab.pod.ruleset()?.is_empty());
    lab.add(&[("engine", engine), ("ip-family", "ipv4")])?.expect_success();
    Ok(())
}

by_every_engine! {
    peers_in_excluded_networks_reach_the_pod_directly,
    excluded_networks_are_reached_directly,
    networks_of_one_family_say_nothing_about_the_other,
    only_included_inbound_ports_reach_the_sidecar,
    only_included_outbound_ports_reach_the_sidecar,
    a_list_may_be_long,
    excluded_uids_reach_their_ports_directly,
    no_exclusion_lets_the_sidecar_call_its_own_pod_past_the_inbound_rules,
    what_comes_from_behind_a_virtual_interface_counts_as_the_pods_own,
    what_stays_within_a_virtual_interfaces_network_follows_the_other_rows,
    another_interface_is_no_virtual_one,
    a_forged_packet_from_behind_a_virtual_interface_reaches_nothing,
    one_family_alone_leaves_the_other_direct,
    ipv6_alone_in_a_pod_without_it_is_an_error,
}
