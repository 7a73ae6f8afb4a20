//! Beside NAT rules and filters of the pod's own: Docker's, KubeVirt's, a redirect from 80 to 8080.

use std::process::Command;

use anyhow::{Result, ensure};
use culvert_tests::server::who;
use culvert_tests::{Family, Host, Lab, Landing};

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
                    rows.row(&what, peer, (family.pod(), 80), culvert_tests::Landed::Refused)?;
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
        rows.row("closed", peer, (family.pod(), 80), culvert_tests::Landed::Refused)?;
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

by_every_engine! {
    a_port_that_docker_publishes_is_served_through_the_sidecar,
}
