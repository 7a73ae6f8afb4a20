// SPDX-License-Identifier: Apache-2.0
//! The node agent and pods that need it, beside a real containerd: those older than the plugin, those whose rules were flushed,
//! those whose runtime passes no annotations.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_cni::agent::{Answer, PodRef, Report, Request, client};
use culvert_tests::pod::landing::original_destination;
use culvert_tests::pod::sidecar::UID;
use culvert_tests::runtime::node::NODE;
use culvert_tests::runtime::{Agent, Node};
use culvert_tests::until::until_some;
use culvert_tests::{Family, Host, Lab, eventually, server};
use serde_json::{Value, json};

use super::leaving_nothing;

const ON: (&str, &str) = ("culvert.dev/redirect", "enabled");
/// The longest from a flush to rules that are whole again.
const HEALED_WITHIN: Duration = Duration::from_secs(5);
/// For what takes milliseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn is_covered(pod: &Host) -> Result<bool> {
    Ok(pod.ruleset()?.tables.iter().any(|table| table == "inet culvert"))
}

/// Takes all rules away; returns how long they stayed away.
fn flush(pod: &Host) -> Result<Duration> {
    let ran = pod.namespace().run(|| Command::new("nft").args(["flush", "ruleset"]).output())?;
    ensure!(ran.status.success(), "{ran:?}");
    let began = Instant::now();
    until_some(HEALED_WITHIN, || is_covered(pod).unwrap_or_default().then_some(()))
        .with_context(|| format!("not put right within {HEALED_WITHIN:?}"))?;
    Ok(began.elapsed())
}

fn is_alive(stream: &mut TcpStream, words: &str) -> Result<()> {
    stream.write_all(words.as_bytes())?;
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard)?;
    ensure!(heard == words.as_bytes(), "{words:?}: {:?}", String::from_utf8_lossy(&heard));
    Ok(())
}

/// `culvert-install status` as a program reads it: its exit code, and the pod's row.
fn status(node: &Node, pod: &str) -> Result<(Option<i32>, Value)> {
    let ran = node.run("status", &["--output", "json"])?;
    let answer: Value = serde_json::from_str(&ran.stdout).with_context(|| format!("{ran:?}"))?;
    let rows = answer["pods"].as_array().context("no pods")?;
    let row = rows.iter().find(|row| row["pod"] == pod).cloned();
    Ok((ran.status.code(), row.unwrap_or_default()))
}

#[test]
fn pods_older_than_the_plugin_and_flushed_pods_are_repaired_and_reported() -> Result<()> {
    leaving_nothing(
        || Node::start("1.0.0"),
        |node| {
            let world = node.world();
            let cluster = node.cluster()?;
            let taint = json!({ "key": "culvert.dev/agent-not-ready", "effect": "NoSchedule" });
            cluster.node(NODE, json!([taint, { "key": "other", "effect": "NoSchedule" }]));
            let client = node.client()?;
            let (old, plain) = (client.run("old")?, client.run_with("plain", &[])?);
            let (host, plain_host) = (old.host()?, plain.host()?);
            let outside = SocketAddr::from((Family::V4.outside(), 8080));
            let _echo = world.outside.serve(("::", 8080), server::echo())?;
            let mut open = host.as_uid(1000).connect(outside)?;
            is_alive(&mut open, "before")?;
            assert!(!is_covered(&host)?);
            // No agent runs yet: this is the command's own look.
            let (code, row) = status(node, "default/old")?;
            assert_eq!(
                (code, &row["state"], &row["onboarded"]),
                (Some(1), &json!("damaged"), &json!("yes")),
                "{row}"
            );

            let began = Instant::now();
            let agent = node.agent_in(&cluster, &["--hold-until-ready"])?;
            eventually!(is_covered(&host).unwrap_or_default(), SOON);
            println!("older than the plugin: put right {:?} after the agent's start", began.elapsed());
            let agent = agent.ready()?;
            is_alive(&mut open, "after")?;
            assert!(plain_host.ruleset()?.is_empty());
            assert!(!is_covered(&world.node)?, "the node's own");
            eventually!(cluster.taints(NODE) == json!([{ "key": "other", "effect": "NoSchedule" }]), SOON);

            // New connections are redirected, the old one goes on.
            let (note, noted) = mpsc::channel();
            let echo = server::echo();
            let _sidecar = host.as_uid(UID).serve(("::", 15001), move |stream: TcpStream| {
                let _ = note.send(original_destination(&stream));
                echo(stream)
            })?;
            let mut redirected = host.as_uid(1000).connect(outside)?;
            is_alive(&mut redirected, "new")?;
            assert_eq!(noted.recv_timeout(SOON)?, Some(outside));

            eventually!(cluster.events().len() == 1, SOON);
            let event = &cluster.events()[0];
            assert_eq!(
                (&event["reason"], &event["involvedObject"]["name"]),
                (&json!("RedirectRepaired"), &json!("old"))
            );
            assert_eq!(event["involvedObject"]["uid"], "uid-of-old");
            assert_eq!(agent.metric("culvert_agent_pods_repaired_total")?, 1.0);
            assert!(agent.log().contains("redirect repaired"), "{}", agent.log());
            let (code, row) = status(node, "default/old")?;
            assert_eq!(code, Some(0));
            assert_eq!(
                (&row["state"], &row["engine"], &row["repairs"]),
                (&json!("redirected"), &json!("nftables"), &json!(1)),
                "{row}"
            );
            assert!(row["verified"].is_string(), "{row}");
            let (_, row) = status(node, "default/plain")?;
            assert_eq!((&row["onboarded"], &row["reason"]), (&json!("no"), &json!("not onboarded")), "{row}");

            // A pod that the plugin made, flushed.
            let new = client.run("new")?;
            let new_host = new.host()?;
            assert!(is_covered(&new_host)?);
            eventually!(status(node, "default/new").is_ok_and(|(_, row)| row["state"] == "redirected"), SOON);
            // The rules are there before the agent has read them back: a flush in between would be one more damage of the same
            // repair. So each repair is over before the next flush.
            let repaired =
                |count: f64| agent.metric("culvert_agent_pods_repaired_total").is_ok_and(|now| now == count);
            println!("flushed: put right after {:?}", flush(&new_host)?);
            eventually!(repaired(2.0), SOON);
            println!("flushed again: put right after {:?}", flush(&new_host)?);
            eventually!(repaired(3.0), SOON);
            // A redirected connection was open all the while.
            println!("flushed with connections: put right after {:?}", flush(&host)?);
            eventually!(repaired(4.0), SOON);
            is_alive(&mut redirected, "flushed")?;
            is_alive(&mut open, "flushed")?;
            eventually!(cluster.events().len() == 4, SOON);
            let log = agent.terminate()?;
            assert_eq!(log.matches("redirect repaired").count(), 4, "{log}");

            // What a repair wrote, the plugin takes away with the pod.
            old.end()?;
            assert!(host.ruleset()?.is_empty());
            new.end()?;
            plain.end()?;
            let records = node.state().join("attachments");
            assert_eq!(std::fs::read_dir(records)?.count(), 0);
            assert!(world.addresses_in_use()?.is_empty());
            Ok(())
        },
    )
}

/// `--repair report` and `off`; and pods that only their records name.
#[test]
fn a_report_changes_nothing_and_records_do_where_there_is_no_runtime_to_ask() -> Result<()> {
    leaving_nothing(
        || Node::start("1.0.0"),
        |node| {
            let client = node.client()?;
            let agent = node.agent(&["--repair", "report"])?.ready()?;
            let pod = client.run("pod")?;
            let host = pod.host()?;
            eventually!(status(node, "default/pod").is_ok_and(|(_, row)| row["state"] == "redirected"), SOON);
            let ran = host.namespace().run(|| Command::new("nft").args(["flush", "ruleset"]).output())?;
            assert!(ran.status.success(), "{ran:?}");
            eventually!(
                status(node, "default/pod").is_ok_and(|(_, row)| row["state"] == "damaged"),
                HEALED_WITHIN
            );
            assert!(!is_covered(&host)?);
            assert_eq!(status(node, "default/pod")?.0, Some(1));
            agent.terminate()?;

            let agent = node.agent(&["--repair", "off"])?.ready()?;
            eventually!(status(node, "default/pod").is_ok_and(|(_, row)| row["state"] == "unknown"), SOON);
            assert!(!is_covered(&host)?);
            agent.kill()?;

            let agent = node.agent_of(Path::new("/run/nobody.sock"), None, &[])?.ready()?;
            eventually!(is_covered(&host).unwrap_or_default(), SOON);
            println!("by its record: put right after a flush in {:?}", flush(&host)?);
            // The rules are there before the agent has read them back.
            eventually!(status(node, "default/pod").is_ok_and(|(_, row)| row["state"] == "redirected"), SOON);
            agent.terminate()?;
            pod.end()
        },
    )
}

/// The agent as the chart runs it: what a container lacks it finds on the node that is mounted, and three capabilities do.
#[test]
fn an_agent_in_a_container_puts_pods_right_with_three_capabilities() -> Result<()> {
    leaving_nothing(
        || Node::start("1.0.0"),
        |node| {
            let client = node.client()?;
            let old = client.run("old")?;
            let host = old.host()?;
            assert!(!is_covered(&host)?);
            let agent = node.agent_in_a_container()?;
            let covered = until_some(SOON, || is_covered(&host).unwrap_or_default().then_some(()));
            assert!(covered.is_some(), "{}", agent.stderr().text());
            // Rules come first, then what conntrack has only with them.
            let close_wait = || host.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close_wait");
            eventually!(close_wait().is_ok_and(|seconds| seconds == "43200"), SOON);
            assert_eq!(host.sysctl("net.netfilter.nf_conntrack_tcp_loose")?, "0");
            let log = agent.stderr().text();
            eventually!(node.has_entry(), SOON);
            assert!(!is_covered(&node.world().node)?, "{log}");
            println!("in a container: put right after a flush in {:?}", flush(&host)?);
            drop(agent);
            old.end()
        },
    )
}

/// A pod's own list of reserved ports is a safe sysctl, which the runtime writes after the plugin's ADD.
#[test]
fn a_pods_own_reserved_ports_are_completed_without_a_word() -> Result<()> {
    const NAME: &str = "net.ipv4.ip_local_reserved_ports";
    leaving_nothing(
        || Node::start("1.0.0"),
        |node| {
            let client = node.client()?;
            node.agent(&[])?.ready()?.terminate()?;
            let pod = client.run("pod")?;
            let host = pod.host()?;
            assert!(host.sysctl(NAME)?.contains("15001"));
            host.set_sysctl(NAME, "8000-8010\n")?;
            let agent = node.agent(&[])?.ready()?;
            eventually!(host.sysctl(NAME).is_ok_and(|ports| ports.contains("15001")), SOON);
            assert!(host.sysctl(NAME)?.starts_with("8000-8010"), "{}", host.sysctl(NAME)?);
            let row = || status(node, "default/pod").map(|(_, row)| row);
            eventually!(row().is_ok_and(|row| row["reason"].to_string().contains("completed")), SOON);
            assert_eq!(row()?["state"], "redirected", "{}", row()?);
            assert_eq!(agent.metric("culvert_agent_pods_repaired_total")?, 0.0, "{}", agent.log());
            let log = agent.terminate()?;
            assert!(!log.contains("WARN") && !log.contains("repaired"), "{log}");
            // The plugin's DEL would give back the pod's own list, not the one before it.
            let folder = node.state().join("attachments");
            let record = std::fs::read_dir(folder)?.next().context("no record")??.path();
            let record: Value = serde_json::from_slice(&std::fs::read(record)?)?;
            let kept = record["footprint"]["sysctls"].as_array().context("no sysctls")?;
            let kept = kept.iter().find(|sysctl| sysctl["name"].to_string().contains("reserved_ports"));
            assert_eq!(kept.context("not kept")?["before"], "8000-8010");
            pod.end()
        },
    )
}

/// A pod that ends loses its rules a moment before the runtime forgets it.
#[test]
fn pods_that_end_are_not_put_right() -> Result<()> {
    leaving_nothing(
        || Node::start("1.0.0"),
        |node| {
            let client = node.client()?;
            let agent = node.agent(&[])?.ready()?;
            let began = Instant::now();
            let mut ended = 0;
            // Two pulses of three seconds at least.
            while began.elapsed() < Duration::from_secs(8) {
                let pod = client.run(&format!("short-{ended}"))?;
                assert!(is_covered(&pod.host()?)?);
                pod.end()?;
                ended += 1;
            }
            println!("{ended} pods came and went");
            assert_eq!(agent.metric("culvert_agent_pods_repaired_total")?, 0.0, "{}", agent.log());
            let log = agent.terminate()?;
            assert!(!log.contains("cannot be verified") && !log.contains("repaired"), "{log}");
            assert_eq!(std::fs::read_dir(node.state().join("attachments"))?.count(), 0);
            Ok(())
        },
    )
}

/// One line to the agent, and what it answers.
fn say(socket: &Path, bytes: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(bytes)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn attack(socket: &Path, agent: &Agent<'_>, pod: &PodRef) -> Result<()> {
    for bytes in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\x00\n",
        b"[[[[",
        b"{\"status\":{}",
        b"GET / HTTP/1.1\r\n\r\n",
        &[b'['; 15_000],
    ] {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(bytes)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(answer.is_empty() || answer.contains("error"), "{answer}");
    }
    // Too long, or never whole: answered with an error, and never reset.
    for (bytes, told) in [(&vec![b'x'; 1 << 20][..], "at most 16384 bytes"), (b"{\"ann", "within 1s")] {
        let answer = say(socket, bytes)?;
        assert!(answer.contains(told), "{answer}");
    }
    // Many who say nothing, or a byte now and then, and never read.
    let began = Instant::now();
    let idle: Vec<UnixStream> = (0..300).map(|_| UnixStream::connect(socket)).collect::<Result<_, _>>()?;
    let mut slow = UnixStream::connect(socket)?;
    slow.write_all(b"{\"ann")?;
    // 300 in places of 64, a second each: the plugin's own turn comes after some five.
    let found = until_some(Duration::from_secs(20), || client::annotations(socket, pod).ok());
    assert!(found.is_some(), "no answer beside {} idle connections", idle.len());
    println!("an answer {:?} after 300 idle connections", began.elapsed());
    drop((idle, slow));
    eventually!(client::annotations(socket, pod).is_ok(), SOON);
    assert_eq!(agent.get("/live")?.status, 200);
    Ok(())
}

/// The report of an ADD or a DEL: all that the agent sees of them.
fn report(number: u32) -> Report {
    Report {
        verb: if number.is_multiple_of(2) { "ADD" } else { "DEL" }.to_owned(),
        network: "lab".to_owned(),
        container_id: format!("{number:064x}"),
        ifname: "eth0".to_owned(),
        pod: Some(format!("shop/web-{number}")),
        decision: Some("redirect".to_owned()),
        took_us: 2000,
        ..Report::default()
    }
}

#[test]
fn the_agent_answers_for_a_runtime_that_passes_no_annotations() -> Result<()> {
    leaving_nothing(
        || Node::start("1.0.0"),
        |node| {
            let cluster = node.cluster()?;
            cluster.pod(NODE, "default", "web-0", "0b1c", &[ON, ("culvert.dev/exclude-inbound-ports", "22")]);
            let agent = node.agent_in(&cluster, &[])?.ready()?;
            let socket = node.state().join("agent.sock");
            assert_eq!(std::fs::metadata(&socket)?.permissions().mode() & 0o777, 0o600);
            eventually!(cluster.watches() == 1, SOON);

            let lab = Lab::new()?;
            let path = socket.to_str().context("a path")?;
            let add = || {
                Ok::<_, anyhow::Error>(
                    lab.invoke("ADD")?.without_config("runtimeConfig").config("agentSocket", path),
                )
            };
            add()?.run()?.expect_success();
            assert!(is_covered(&lab.pod)?);
            assert!(lab.plugin_log().contains("annotations=\"from the node agent\""), "{}", lab.plugin_log());
            lab.del()?.expect_success();

            // A pod that the API server does not know: onUnknown, within the second.
            let began = Instant::now();
            let stranger = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=stranger;K8S_POD_UID=1";
            add()?.env("CNI_ARGS", stranger).run()?.expect_success();
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            assert!(!is_covered(&lab.pod)?);
            assert!(lab.plugin_log().contains("told of no pod default/stranger"), "{}", lab.plugin_log());
            let refused = add()?.env("CNI_ARGS", stranger).config("onUnknown", "deny").run()?;
            refused.expect_error(11);
            lab.del()?.expect_success();
            eventually!(
                agent.metric("culvert_cni_adds_total{result=\"Unknown\"}").is_ok_and(|n| n == 1.0),
                SOON
            );
            assert_eq!(agent.metric("culvert_cni_adds_total{result=\"Redirected\"}")?, 1.0);
            assert_eq!(agent.metric("culvert_cni_adds_total{result=\"Failed\"}")?, 1.0);
            assert_eq!(agent.metric("culvert_cni_add_seconds_count")?, 3.0);

            let pod = PodRef { namespace: "default".into(), name: "web-0".into(), uid: Some("0b1c".into()) };
            attack(&socket, &agent, &pod)?;

            // An API server that is away changes nothing for those that are known.
            cluster.away(true);
            assert!(client::annotations(&socket, &pod).is_ok());
            cluster.away(false);

            let counted = || agent.metric("culvert_cni_add_seconds_count").unwrap_or_default();
            // Reports that find the kernel's queue full are lost, on a busy machine most of them; the attack's were none.
            let mut sent = 0..100_000;
            while counted() < 4000.0 {
                let mut some = sent.by_ref().take(10_000).peekable();
                ensure!(some.peek().is_some(), "{} reports of 100,000 were counted", counted());
                some.for_each(|number| client::report(&socket, report(number)));
            }
            let peak = agent.peak_memory()?;
            println!("{} ADDs: {} KiB at most", counted(), peak >> 10);
            assert!(peak <= 15 << 20, "{peak} bytes");

            // A socket that was removed comes back, and one that a killed agent left is replaced.
            std::fs::remove_file(&socket)?;
            eventually!(client::annotations(&socket, &pod).is_ok(), SOON);
            agent.kill()?;
            assert!(socket.exists());
            let agent = node.agent_in(&cluster, &[])?.ready()?;
            eventually!(client::annotations(&socket, &pod).is_ok(), SOON);
            match client::ask(&socket, &Request::Status {}, SOON)? {
                Answer::Status(status) => assert_eq!(status["node"], NODE),
                other => bail!("{other:?}"),
            }
            agent.terminate()?;
            assert!(!socket.exists());
            Ok(())
        },
    )
}

/// The chart's image holds no program but ours: what it cannot look at, it says everywhere.
#[test]
fn a_pod_of_iptables_is_reported_where_its_programs_are_missing() -> Result<()> {
    leaving_nothing(
        || Node::start("1.0.0"),
        |node| {
            node.agent(&[])?.ready()?.terminate()?;
            let client = node.client()?;
            let pod = client.run_with("old-school", &[ON, ("culvert.dev/engine", "iptables-nft")])?;
            let cluster = node.cluster()?;
            let agent = node.agent_without_iptables(&cluster)?.ready()?;
            let told = || -> Result<bool> {
                let (code, row) = status(node, "default/old-school")?;
                let reason = row["reason"].as_str().unwrap_or_default();
                Ok(code == Some(1) && row["state"] == "unknown" && reason.contains("no iptables"))
            };
            eventually!(told().unwrap_or_default(), SOON);
            ensure!(agent.metric("culvert_agent_pods_verified_total{result=\"Unknown\"}")? >= 1.0);
            // Once, and not at each look.
            eventually!(!cluster.events().is_empty(), SOON);
            let events = cluster.events();
            ensure!(events.len() == 1, "{events:?}");
            let event = &events[0];
            ensure!(event["reason"] == "RedirectUnknown", "{event}");
            ensure!(event["involvedObject"]["name"] == "old-school", "{event}");
            ensure!(event["message"].as_str().is_some_and(|told| told.contains("no iptables")), "{event}");
            let doctor: Value = serde_json::from_str(&node.run("doctor", &["--output", "json"])?.stdout)?;
            let check =
                doctor["checks"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "pods"));
            let check = check.context("no check of pods")?;
            ensure!(
                check["status"] == "degraded" && check.to_string().contains("default/old-school"),
                "{check}"
            );
            pod.end()?;
            agent.terminate().map(drop)
        },
    )
}
