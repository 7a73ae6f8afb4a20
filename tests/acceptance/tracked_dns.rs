//! DNS that `redirect-dns` does not capture stays tracked: a stateful filter lets its answers in, and a masqueraded client of
//! the pod gets them.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::UdpEcho;
use culvert_tests::until::{DEADLINE, uninterrupted};
use culvert_tests::{Family, Host, Lab};

use crate::support::{APP, SIDECAR, by_every_engine};

/// A uid whose DNS is excluded.
const EXCLUDED: u32 = 4321;
/// A filter as every hardened image has it: what answers may come in.
const STATEFUL: &str = "add table inet guard; \
     add chain inet guard in { type filter hook input priority 0; policy drop; }; \
     add rule inet guard in iif lo accept; \
     add rule inet guard in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; \
     add rule inet guard in ct state established,related accept";
/// Clients behind the pod leave with its address, as Docker and KubeVirt have them.
const MASQUERADE: &str = "add table inet clients; \
     add chain inet clients post { type nat hook postrouting priority 100; }; \
     add rule inet clients post oifname eth0 masquerade";
/// All servers, one of several, and none.
const VALUES: [&str; 3] = ["all", "192.0.2.10,2001:db8::10", "192.0.2.77,2001:db8::77"];

fn nft(host: &Host, script: &str) -> Result<()> {
    let ran = host.namespace().run(|| Command::new("nft").arg(script).output())?;
    ensure!(ran.status.success(), "nft {script}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// A pod with these rules and a sidecar's DNS server, and a server outside.
struct World {
    lab: Lab,
    _servers: Vec<UdpEcho>,
}

impl World {
    fn new(engine: &str, dns: &str, rules: &str) -> Result<Self> {
        let lab = Lab::new()?;
        nft(&lab.pod, rules)?;
        let excluded = ("exclude-outbound-ports-for-uids", "udp:53:4321");
        lab.add(&[("engine", engine), ("redirect-dns", dns), excluded])?.expect_success();
        let mut servers = Vec::new();
        for family in Family::BOTH {
            let outside = lab.peer.udp((family.outside(), 53))?;
            servers.push(UdpEcho::answering(outside, |_| "outside".into())?);
            let own = lab.pod.as_uid(SIDECAR).udp((family.loopback(), 15_053))?;
            servers.push(UdpEcho::answering(own, |_| "sidecar".into())?);
        }
        Ok(Self { lab, _servers: servers })
    }

    /// The server that answers a host's uid.
    fn answer(&self, host: &Host, uid: u32, family: Family) -> Result<String> {
        let (answer, _) = host.as_uid(uid).ask_udp((family.outside(), 53), b"?")?;
        Ok(String::from_utf8(answer)?)
    }
}

fn a_stateful_filter_lets_every_answer_in(engine: &str) -> Result<()> {
    for dns in VALUES {
        let world = World::new(engine, dns, STATEFUL)?;
        let captured = if dns == VALUES[2] { "outside" } else { "sidecar" };
        for family in Family::BOTH {
            for (uid, by) in [(SIDECAR, "outside"), (EXCLUDED, "outside"), (APP, captured)] {
                let answer = world.answer(&world.lab.pod, uid, family);
                let answer = answer.with_context(|| format!("redirect-dns {dns}, {family}, uid {uid}"))?;
                assert_eq!(answer, by, "redirect-dns {dns}, {family}, uid {uid}");
            }
        }
    }
    Ok(())
}

fn a_masqueraded_client_gets_its_answer(engine: &str) -> Result<()> {
    for dns in VALUES {
        let mut world = World::new(engine, dns, MASQUERADE)?;
        world.lab.pod.set_sysctl("net.ipv4.ip_forward", "1")?;
        world.lab.pod.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let client = world.lab.another_peer()?;
        for family in Family::BOTH {
            let answer = world.answer(&client, APP, family);
            let answer = answer.with_context(|| format!("redirect-dns {dns}, {family}"))?;
            assert_eq!(answer, "outside", "redirect-dns {dns}, {family}");
        }
    }
    Ok(())
}

/// A resolver that keeps its socket, in a pod whose DNS was tracked before the rules came.
fn a_socket_that_is_older_than_the_rules_is_captured(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    nft(&lab.pod, MASQUERADE)?;
    for family in Family::BOTH {
        let _outside = UdpEcho::answering(lab.peer.udp((family.outside(), 53))?, |_| "outside".into())?;
        let resolver = lab.pod.as_uid(APP);
        let socket = resolver.udp((family.any(), 0))?;
        resolver.run(|| socket.connect((family.outside(), 53)))?;
        let ask = || -> Result<String> {
            let mut answer = [0; 64];
            socket.set_read_timeout(Some(DEADLINE))?;
            resolver.run(|| socket.send(b"?"))?;
            let length = uninterrupted(|| socket.recv(&mut answer))?;
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        };
        assert_eq!(ask()?, "outside", "{family}");
        lab.add(&[("engine", engine), ("redirect-dns", "all")])?.expect_success();
        let own = lab.pod.as_uid(SIDECAR).udp((family.loopback(), 15_053))?;
        let _sidecar = UdpEcho::answering(own, |_| "sidecar".into())?;
        assert_eq!(ask()?, "sidecar", "{family}");
        lab.del()?.expect_success();
        assert_eq!(ask()?, "outside", "{family}");
    }
    Ok(())
}

by_every_engine! {
    a_stateful_filter_lets_every_answer_in,
    a_masqueraded_client_gets_its_answer,
    a_socket_that_is_older_than_the_rules_is_captured,
}
