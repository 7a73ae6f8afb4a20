//! Beside NAT rules and filters of the pod's own: Docker's, KubeVirt's, a redirect from 80 to 8080.

use std::process::Command;

use anyhow::{Result, ensure};
use culvert_tests::server::who;
use culvert_tests::until::{DEADLINE, until_some};
use culvert_tests::{At, Family, Host, Lab, Landed, Landing};

use crate::support::{Rows, SIDECAR, by_every_engine, seen};

fn run(host: &Host, words: &[&str]) -> Result<()> {
    let ran = host.namespace().run(|| Command::new(words[0]).args(&words[1..]).output())?;
    ensure!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

fn nft(host: &Host, script: &str) -> Result<()> {
    run(host, &["nft", script])
}

/// NAT rules that lead a peer's connection to port 80 to an application that listens elsewhere.
const OF_THE_POD: [(&str, &str); 4] = [
    (
        "a redirect of the pod",
        "add table inet own; add chain inet own pre { type nat hook prerouting priority -100; }; \
         add rule inet own pre tcp dport 80 redirect to :8080",
    ),
    (
        "a redirect right behind culvert's",
        "add table inet own; add chain inet own pre { type nat hook prerouting priority -109; }; \
         add rule inet own pre tcp dport 80 redirect to :8080",
    ),
    (
        "Docker's published port",
        "add table inet own; add chain inet own pre { type nat hook prerouting priority -100; }; \
         add rule inet own pre fib daddr type local tcp dport 80 dnat ip to 10.77.1.1:8080; \
         add rule inet own pre fib daddr type local tcp dport 80 dnat ip6 to [fd77:1::1]:8080",
    ),
    (
        "KubeVirt's masquerade",
        "add table inet own; add chain inet own pre { type nat hook prerouting priority -100; }; \
         add rule inet own pre iifname eth0 tcp dport != 49152 dnat ip to 10.77.1.1; \
         add rule inet own pre iifname eth0 tcp dport != 49152 dnat ip6 to fd77:1::1",
    ),
];

/// A peer that gets through must not have come to the application by itself.
#[test]
fn what_closed_ports_refuses_reaches_nothing_whatever_nat_rules_the_pod_has() -> Result<()> {
    for include in [&[][..], &[("include-inbound-ports", "70-90,8080")]] {
        for (what, rules) in OF_THE_POD {
            for rules_first in [true, false] {
                let mut lab = Lab::new()?;
                let guest = lab.another_peer()?;
                lab.pod.set_sysctl("net.ipv4.ip_forward", "1")?;
                lab.pod.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
                let annotations = [&[("closed-ports", "refuse")], include].concat();
                if rules_first {
                    nft(&lab.pod, rules)?;
                }
                lab.add(&annotations)?.expect_success();
                if !rules_first {
                    nft(&lab.pod, rules)?;
                }
                let mut landing = Landing::new(&lab.pod)?;
                for family in Family::BOTH {
                    landing.target(&lab.pod, (family.pod(), 8080))?;
                    let behind = if family == Family::V4 { "10.77.1.1" } else { "fd77:1::1" };
                    for port in [80, 8080] {
                        landing.target(&guest, (behind.parse::<std::net::IpAddr>()?, port))?;
                    }
                }
                let mut rows = Rows::of(&landing);
                for family in Family::BOTH {
                    let what = format!("{what}, rules first {rules_first}, {include:?}");
                    let peer = lab.peer.as_root();
                    rows.row(&what, peer, (family.pod(), 80), Landed::Refused)?;
                    rows.inbound(&what, peer, (family.pod(), 8080))?;
                }
            }
        }
    }
    Ok(())
}

/// An application that begins to listen after culvert's chain looked, and before the kernel does.
#[test]
fn what_closed_ports_did_not_redirect_is_reset_on_delivery() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("closed-ports", "refuse"), ("exclude-inbound-ports", "9000")])?.expect_success();
    // In place of that moment: the look finds nothing.
    nft(&lab.pod, "flush chain inet culvert inbound")?;
    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        for port in [80, 9000, 15_020] {
            landing.target(&lab.pod, (family.pod(), port))?;
        }
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        let peer = lab.peer.as_root();
        rows.row("closed", peer, (family.pod(), 80), Landed::Refused)?;
        rows.direct("excluded", peer, (family.pod(), 9000))?;
        rows.direct("status", peer, (family.pod(), 15_020))?;
    }
    Ok(())
}

/// Docker publishes 8080: arriving connections go to the container, and so do those of the pod to its own address. Its proxy
/// listens on the port for what the rules do not get.
fn publish(pod: &Host, engine: &str) -> Result<()> {
    let rules = |program: &str, own: &str, to: &str| -> Result<()> {
        for words in [
            "-N DOCKER".to_owned(),
            "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER".to_owned(),
            format!("-A OUTPUT ! -d {own} -m addrtype --dst-type LOCAL -j DOCKER"),
            format!("-A DOCKER -p tcp --dport 8080 -j DNAT --to-destination {to}"),
        ] {
            let words: Vec<&str> = [program, "-w", "-t", "nat"].into_iter().chain(words.split(' ')).collect();
            run(pod, &words)?;
        }
        Ok(())
    };
    // Next to nftables the programs of today; next to iptables those of the same kind.
    let variant = if engine == "iptables-legacy" { "legacy" } else { "nft" };
    rules(&format!("iptables-{variant}"), "127.0.0.0/8", "10.77.1.1:80")?;
    rules(&format!("ip6tables-{variant}"), "::1/128", "[fd77:1::1]:80")
}

fn a_port_that_docker_publishes_is_served_through_the_sidecar(engine: &str) -> Result<()> {
    for rules_first in [true, false] {
        let mut lab = Lab::new()?;
        let container = lab.another_peer()?;
        lab.pod.set_sysctl("net.ipv4.ip_forward", "1")?;
        lab.pod.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        if rules_first {
            publish(&lab.pod, engine)?;
        }
        lab.add(&[("engine", engine)])?.expect_success();
        if !rules_first {
            publish(&lab.pod, engine)?;
        }
        let sidecar = lab.pod.sidecar().start()?;
        for family in Family::BOTH {
            let proxy = lab.pod.serve((family.any(), 8080), who())?;
            let inside = if family == Family::V4 { "10.77.1.1" } else { "fd77:1::1" };
            let _container = container.serve((inside.parse::<std::net::IpAddr>()?, 80), who())?;
            let hop = seen(lab.peer.connect((family.pod(), 8080))?)?;
            assert_eq!(hop.ip(), family.hop(), "{family}, rules first {rules_first}");
            assert_eq!(proxy.accepted(), 1);
            // From the pod itself Docker's rules lead into the container, as without culvert.
            let client = seen(lab.pod.as_uid(SIDECAR + 1).connect((family.pod(), 8080))?)?;
            assert_ne!(client.ip(), family.hop(), "{family}");
            assert_eq!(proxy.accepted(), 1, "{family}");
        }
        drop(sidecar);
    }
    Ok(())
}

/// The advice of ANNOTATIONS.md for a filter that lets only the application's port in.
fn a_filter_lets_in_by_the_original_port(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("engine", engine)])?.expect_success();
    nft(
        &lab.pod,
        "add table inet guard; add chain inet guard in { type filter hook input priority 0; policy drop; }; \
         add rule inet guard in iif lo accept; add rule inet guard in icmpv6 type != echo-request accept; \
         add rule inet guard in ct state established accept; \
         add rule inet guard in tcp dport 8080 accept",
    )?;
    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        landing.target(&lab.pod, (family.pod(), 8080))?;
    }
    for (what, expected) in [("only 8080", None), ("by the original port", Some(()))] {
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            let peer = lab.peer.as_root();
            match expected {
                None => rows.row(what, peer, (family.pod(), 8080), Landed::TimedOut)?,
                Some(()) => rows.inbound(what, peer, (family.pod(), 8080))?,
            }
            rows.row(what, peer, (family.pod(), 8081), Landed::TimedOut)?;
        }
        nft(&lab.pod, "add rule inet guard in meta l4proto tcp ct original proto-dst 8080 accept")?;
    }
    Ok(())
}

/// The advice of ANNOTATIONS.md for an application that listens on 8080 behind a rule for 80.
fn an_own_redirect_works_where_its_port_is_excluded(engine: &str) -> Result<()> {
    for (annotations, expected) in
        [(&[][..], None), (&[("exclude-inbound-ports", "80")], Some(Landed::Direct))]
    {
        let lab = Lab::new()?;
        nft(&lab.pod, OF_THE_POD[0].1)?;
        let outcome = lab.add(&[annotations, &[("engine", engine)]].concat())?;
        outcome.expect_success();
        assert!(
            lab.plugin_log().contains("NAT in table inet own, chain pre: 1 rule"),
            "{}",
            lab.plugin_log()
        );
        let mut landing = Landing::new(&lab.pod)?;
        for family in Family::BOTH {
            landing.target(&lab.pod, (family.pod(), 8080))?;
        }
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            let peer = lab.peer.as_root();
            let to = (family.pod(), 80).at();
            rows.row("80", peer, to, expected.unwrap_or(Landed::Inbound(to)))?;
            rows.inbound("8080", peer, (family.pod(), 8080))?;
        }
    }
    Ok(())
}

/// KubeVirt's rules for a machine in a mesh: its `sidecar.istio.io/inject` leaves arriving connections to a sidecar, and leads
/// the hop from 127.0.0.6 to the guest.
const KUBEVIRT_IN_A_MESH: &str = "add table ip nat; \
     add chain ip nat output { type nat hook output priority -100; }; \
     add chain ip nat postrouting { type nat hook postrouting priority 100; }; \
     add rule ip nat output ip daddr { 127.0.0.1, 10.77.0.2 } tcp dport 8080 counter dnat to 10.77.1.1; \
     add rule ip nat postrouting oifname k6t-eth0 tcp dport 8080 ip saddr { 127.0.0.1, 127.0.0.6 } counter snat to 10.77.1.2";

/// The advice of ANNOTATIONS.md for a guest.
fn a_guest_of_kubevirt_is_reached_through_the_sidecar(engine: &str) -> Result<()> {
    let mut lab = Lab::new()?;
    let guest = lab.another_peer()?;
    for words in [
        &["ip", "link", "set", "dev", "eth1", "down"][..],
        &["ip", "link", "set", "dev", "eth1", "name", "k6t-eth0"],
        &["ip", "link", "set", "dev", "k6t-eth0", "up"],
    ] {
        run(&lab.pod, words)?;
    }
    lab.pod.set_sysctl("net.ipv4.ip_forward", "1")?;
    lab.pod.set_sysctl("net.ipv4.conf.all.route_localnet", "1")?;
    nft(&lab.pod, KUBEVIRT_IN_A_MESH)?;
    lab.add(&[("engine", engine), ("virtual-interfaces", "k6t-eth0:10.77.1.0/24")])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    let _application = guest.serve("10.77.1.1:8080", who())?;
    // The cable was pulled a moment ago.
    let client = until_some(DEADLINE, || seen(lab.peer.connect("10.77.0.2:8080").ok()?).ok());
    assert_eq!(client.map(|client| client.ip()), Some("10.77.1.2".parse()?));
    assert!(sidecar.stat("cluster.inbound_passthrough_ipv4.upstream_cx_total")? > 0);
    Ok(())
}

by_every_engine! {
    a_guest_of_kubevirt_is_reached_through_the_sidecar,
    a_filter_lets_in_by_the_original_port,
    an_own_redirect_works_where_its_port_is_excluded,
    a_port_that_docker_publishes_is_served_through_the_sidecar,
}
