// SPDX-License-Identifier: Apache-2.0
//! A living pod is verified and repaired in place: the engine's `repair`, in the lab.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;

use anyhow::{Result, bail, ensure};
use culvert_cni::redirect::engine::Engine;
use culvert_cni::redirect::nftables;
use culvert_cni::redirect::owner::Owner;
use culvert_cni::redirect::policy::{IpFamilies, Policy};
use culvert_cni::redirect::repair::{self, Mode, State};
use culvert_tests::pod::landing::original_destination;
use culvert_tests::pod::plugin::CONTAINER_ID;
use culvert_tests::pod::sidecar::UID;
use culvert_tests::{Family, Host, Lab, server};

fn check(pod: &Host, recorded: Option<Engine>, mode: Mode) -> Result<State> {
    let owner = Owner::new(CONTAINER_ID, "eth0");
    let checked = pod.namespace().run(|| repair::check(&Policy::default(), &owner, recorded, mode))?;
    Ok(checked.state)
}

fn nft(pod: &Host, words: &[&str]) -> Result<()> {
    let ran = pod.namespace().run(|| Command::new("nft").args(words).output())?;
    ensure!(ran.status.success(), "nft {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// A pod's own list is a safe sysctl, which the runtime writes after ADD.
#[test]
fn a_pods_own_reserved_ports_are_completed_and_kept() -> Result<()> {
    const NAME: &str = "net.ipv4.ip_local_reserved_ports";
    for own in ["", "8000-8010,15006"] {
        let lab = Lab::new()?;
        lab.add(&[])?.expect_success();
        lab.pod.set_sysctl("net.netfilter.nf_conntrack_tcp_loose", "1")?;
        lab.pod.set_sysctl(NAME, &format!("{own}\n"))?;
        match check(&lab.pod, None, Mode::Report)? {
            State::Incomplete(Engine::Nftables, lines) => {
                assert!(lines.iter().all(|line| line.contains("reserved_ports")), "{lines:?}")
            }
            other => bail!("{own}: {other:?}"),
        }
        assert_eq!(lab.pod.sysctl(NAME)?, own, "a report changes nothing");
        let State::Completed(completed) = check(&lab.pod, None, Mode::Repair)? else {
            bail!("not completed")
        };
        let kept = &completed.footprint.sysctls;
        assert_eq!(kept.iter().map(|sysctl| sysctl.before.as_str()).collect::<Vec<_>>(), [own]);
        assert_eq!(check(&lab.pod, None, Mode::Report)?, State::Well(Engine::Nftables));
        // No open connection has to be kept from being redirected.
        assert_eq!(lab.pod.sysctl("net.netfilter.nf_conntrack_tcp_loose")?, "1");
        for port in own.split_terminator(',') {
            assert!(lab.pod.sysctl(NAME)?.contains(port.split('-').next().unwrap_or(port)), "{port} is gone");
        }
    }
    Ok(())
}

/// Beside each other's rules, both would apply.
#[test]
fn rules_of_a_second_engine_are_reported_and_removed() -> Result<()> {
    for second in ["iptables-nft", "iptables-legacy"] {
        let lab = Lab::new()?;
        lab.add(&[])?.expect_success();
        let rules = lab.pod.ruleset()?;
        let saved = |variant: &str| -> Result<String> {
            let words = format!("{}-save", second.replace("iptables", variant));
            let ran = lab.pod.namespace().run(|| Command::new(words).output())?;
            Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
        };
        // As if both had been written at once: the last one would have removed the first.
        let chain = ["-t", "nat", "-N", "CULVERT_OUTBOUND"];
        let ran = lab.pod.namespace().run(|| Command::new(second).args(chain).output())?;
        ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        match check(&lab.pod, Some(Engine::Nftables), Mode::Report)? {
            State::Differs(lines) => assert_eq!(lines, [format!("rules by {second} are there too")]),
            other => bail!("{second}: {other:?}"),
        }
        let State::Repaired(_) = check(&lab.pod, Some(Engine::Nftables), Mode::Repair)? else {
            bail!("{second}: not repaired")
        };
        assert!(!saved("iptables")?.contains("CULVERT"), "{second}: {}", saved("iptables")?);
        assert!(lab.pod.ruleset()?.says_the_same_as(&rules) || second == "iptables-nft");
    }
    Ok(())
}

/// Two attachments of one namespace, by two engines at once.
#[test]
fn two_engines_at_once_leave_the_rules_of_one() -> Result<()> {
    for second in ["iptables-nft", "iptables-legacy"] {
        for round in 0..4 {
            let lab = Lab::new()?;
            let add = |ifname: &str, engine: &str| -> Result<()> {
                let call = lab.invoke("ADD")?.redirect().env("CNI_IFNAME", ifname);
                call.annotations(&[("engine", engine)]).run()?.expect_success();
                Ok(())
            };
            thread::scope(|scope| -> Result<()> {
                let first = scope.spawn(|| add("eth0", "nftables"));
                add("net1", second)?;
                first.join().expect("no panic")
            })?;
            let present = lab.pod.namespace().run(|| -> Result<usize> {
                let nftables = Engine::Nftables.owner()?.is_some();
                let second = Engine::by_name(second, IpFamilies::Dual).expect("an engine").owner()?.is_some();
                Ok(usize::from(nftables) + usize::from(second))
            })?;
            assert_eq!(present, 1, "{second}, round {round}");
        }
    }
    Ok(())
}

#[test]
fn every_damage_is_reported_and_repaired() -> Result<()> {
    type Damage = fn(&Host) -> Result<()>;
    let damages: [(&str, &str, Damage); 8] = [
        ("all rules flushed", "is missing", |pod| nft(pod, &["flush", "ruleset"])),
        ("our table deleted", "is missing", |pod| nft(pod, &["delete", "table", "inet", "culvert"])),
        ("a chain flushed", "missing", |pod| nft(pod, &["flush", "chain", "inet", "culvert", "outbound"])),
        ("a rule before ours", "is another than", |pod| {
            nft(pod, &["insert", "rule", "inet", "culvert", "outbound", "tcp", "dport", "80", "return"])
        }),
        ("a rule behind ours", "not ours", |pod| {
            nft(pod, &["add", "rule", "inet", "culvert", "outbound", "counter"])
        }),
        ("a sysctl", "close_wait", |pod| {
            pod.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_close_wait", "60")
        }),
        ("another sysctl", "tcp_timeout_close is 10", |pod| {
            pod.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "10")
        }),
        ("::6", "::6", |pod| {
            pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "1")?;
            pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "0")
        }),
    ];
    for (what, told, damage) in damages {
        let lab = Lab::new()?;
        lab.add(&[])?.expect_success();
        assert_eq!(check(&lab.pod, None, Mode::Repair)?, State::Well(Engine::Nftables), "{what}");
        damage(&lab.pod)?;
        let before = lab.pod.ruleset()?;
        match check(&lab.pod, None, Mode::Report)? {
            State::Differs(lines) => {
                assert!(lines.iter().any(|line| line.contains(told)), "{what}: {lines:?}")
            }
            other => bail!("{what}: {other:?}"),
        }
        assert_eq!(lab.pod.ruleset()?, before, "{what}: a report changes nothing");
        match check(&lab.pod, Some(Engine::Nftables), Mode::Repair)? {
            State::Repaired(repaired) => assert!(!repaired.differences.is_empty(), "{what}"),
            other => bail!("{what}: {other:?}"),
        }
        assert_eq!(check(&lab.pod, None, Mode::Report)?, State::Well(Engine::Nftables), "{what}");
        // Still the pod's own: the plugin takes them away.
        lab.del()?.expect_success();
        assert!(lab.pod.ruleset()?.is_empty(), "{what}");
    }
    Ok(())
}

#[test]
fn ipv6_that_appears_later_is_redirected_too() -> Result<()> {
    let lab = Lab::new()?;
    lab.pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "1")?;
    lab.add(&[])?.expect_success();
    assert_eq!(check(&lab.pod, None, Mode::Report)?, State::Well(Engine::Nftables));
    lab.pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "0")?;
    assert_eq!(
        check(&lab.pod, None, Mode::Report)?,
        State::Differs(vec!["address ::6 is missing on lo".to_owned()])
    );
    assert!(matches!(check(&lab.pod, None, Mode::Repair)?, State::Repaired(_)));
    assert!(lab.pod.addresses("lo")?.contains(&"::6".parse()?));
    Ok(())
}

#[test]
fn rules_that_were_written_for_another_are_left_alone() -> Result<()> {
    let lab = Lab::new()?;
    lab.invoke("ADD")?
        .redirect()
        .env("CNI_CONTAINERID", "another")
        .annotations(&[("inbound-port", "16006")])
        .run()?
        .expect_success();
    let before = lab.pod.ruleset()?;
    match check(&lab.pod, None, Mode::Repair)? {
        State::Anothers(owner) => assert!(owner.contains("container=another"), "{owner}"),
        other => bail!("{other:?}"),
    }
    assert_eq!(lab.pod.ruleset()?, before);
    Ok(())
}

#[test]
fn the_kernels_generation_counts_changes_and_no_reads() -> Result<()> {
    let lab = Lab::new()?;
    let count = || lab.pod.namespace().run(nftables::generation);
    lab.add(&[])?.expect_success();
    let before = count()?;
    assert!(before.is_some(), "this kernel counts");
    check(&lab.pod, None, Mode::Repair)?;
    lab.pod.ruleset()?;
    assert_eq!(count()?, before);
    nft(&lab.pod, &["flush", "chain", "inet", "culvert", "outbound"])?;
    let flushed = count()?;
    assert_ne!(flushed, before);
    // What iptables-nft does counts too.
    let ran = lab.pod.namespace().run(|| Command::new("iptables-nft").args(["-N", "OTHER"]).output())?;
    assert!(ran.status.success(), "{ran:?}");
    assert_ne!(count()?, flushed);
    Ok(())
}

/// Says something on an open connection and hears it back.
fn is_alive(stream: &mut TcpStream, words: &str) -> Result<()> {
    stream.write_all(words.as_bytes())?;
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard)?;
    ensure!(heard == words.as_bytes(), "{words:?}: {:?}", String::from_utf8_lossy(&heard));
    Ok(())
}

/// In the sidecar's place: an echo that notes where a connection was going.
fn sidecar_echo(lab: &Lab) -> Result<(server::Server, std::sync::mpsc::Receiver<Option<SocketAddr>>)> {
    let (note, noted) = std::sync::mpsc::channel();
    let echo = server::echo();
    let behaviour = move |stream: TcpStream| {
        let _ = note.send(original_destination(&stream));
        echo(stream)
    };
    Ok((lab.pod.as_uid(UID).serve(("::", 15001), behaviour)?, noted))
}

#[test]
fn connections_older_than_the_rules_go_on_and_newer_ones_are_redirected() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::new()?;
        let outside = SocketAddr::from((family.outside(), 8080));
        let _echo = lab.peer.serve(outside, server::echo())?;
        let _own = lab.pod.serve((family.pod(), 7000), server::echo())?;
        let mut out = lab.pod.as_uid(1000).connect(outside)?;
        let mut into = lab.peer.connect((family.pod(), 7000))?;
        is_alive(&mut out, "before")?;
        is_alive(&mut into, "before")?;
        match check(&lab.pod, None, Mode::Repair)? {
            State::Repaired(repaired) => {
                let told: Vec<_> = repaired.established.iter().map(|open| open.remote).collect();
                assert!(told.contains(&outside), "{family}: {told:?}");
                assert_eq!(told.len(), 2, "{family}: {told:?}");
            }
            other => bail!("{family}: {other:?}"),
        }
        let (_sidecar, noted) = sidecar_echo(&lab)?;
        for words in ["after", &"much ".repeat(2000)] {
            is_alive(&mut out, words)?;
            is_alive(&mut into, words)?;
        }
        let mut new = lab.pod.as_uid(1000).connect(outside)?;
        is_alive(&mut new, "new")?;
        assert_eq!(noted.try_iter().collect::<Vec<_>>(), [Some(outside)], "{family}");
    }
    Ok(())
}

#[test]
fn redirected_connections_that_are_quiet_meanwhile_survive_a_flush_and_its_repair() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::new()?;
        lab.add(&[])?.expect_success();
        let outside = SocketAddr::from((family.outside(), 8080));
        let (_sidecar, noted) = sidecar_echo(&lab)?;
        let mut open = lab.pod.as_uid(1000).connect(outside)?;
        is_alive(&mut open, "before")?;
        assert_eq!(noted.recv()?, Some(outside), "{family}");
        nft(&lab.pod, &["flush", "ruleset"])?;
        assert!(matches!(check(&lab.pod, None, Mode::Repair)?, State::Repaired(_)), "{family}");
        for words in ["after", &"much ".repeat(2000)] {
            is_alive(&mut open, words)?;
        }
        // And a rule that was damaged is replaced under a connection that is not quiet at all.
        nft(&lab.pod, &["add", "rule", "inet", "culvert", "outbound", "counter"])?;
        is_alive(&mut open, "damaged")?;
        assert!(matches!(check(&lab.pod, None, Mode::Repair)?, State::Repaired(_)), "{family}");
        is_alive(&mut open, "repaired")?;
    }
    Ok(())
}
