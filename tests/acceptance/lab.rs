//! The lab itself, without the plugin: what the other tests rely on.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use culvert_tests::process::Process;
use culvert_tests::process::lab_exec;
use culvert_tests::server::{UdpEcho, echo, who};
use culvert_tests::{Family, Host, Knock, Lab, Landed, Landing, Segment, eventually};

fn ask(mut stream: impl Read) -> Result<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_pod_reaches_its_peer_and_the_outside() -> Result<()> {
    let lab = Lab::new()?;
    for family in Family::BOTH {
        for address in [family.peer(), family.outside()] {
            let server = lab.peer.serve((address, 80), who())?;
            let seen = ask(lab.pod.connect(&server)?)?;
            assert_eq!(seen.parse::<std::net::SocketAddr>()?.ip(), family.pod(), "{family} to {address}");
        }
    }
    Ok(())
}

#[test]
fn a_peer_reaches_the_pod() -> Result<()> {
    let mut lab = Lab::new()?;
    let second = lab.another_peer()?;
    for family in Family::BOTH {
        let _server = lab.pod.serve((family.pod(), 80), echo())?;
        for peer in [&lab.peer, &second] {
            let mut stream = peer.connect((family.pod(), 80))?;
            stream.write_all(b"hello")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            assert_eq!(&answer, b"hello", "{family} from {}", peer.name());
        }
    }
    Ok(())
}

#[test]
fn a_pod_reaches_a_link_local_neighbour() -> Result<()> {
    let lab = Lab::new()?;
    let server = lab.peer.serve(&*format!("[fe80::1%{}]:80", lab.peer.interface_index("eth0")?), who())?;
    let seen = ask(lab.pod.connect(&*format!("[fe80::1%{}]:80", lab.pod.interface_index("eth0")?))?)?;
    assert!(seen.starts_with("[fe80::"), "{seen}");
    assert_eq!(server.accepted(), 1);
    Ok(())
}

#[test]
fn datagrams_go_both_ways() -> Result<()> {
    let lab = Lab::new()?;
    for family in Family::BOTH {
        let _server = UdpEcho::start(lab.peer.udp((family.outside(), 53))?)?;
        let (answer, sender) = lab.pod.as_uid(1000).ask_udp((family.outside(), 53), b"question")?;
        assert_eq!((answer.as_slice(), sender), (&b"question"[..], (family.outside(), 53).into()));
    }
    Ok(())
}

#[test]
fn a_connection_belongs_to_the_uid_that_opened_it() -> Result<()> {
    let lab = Lab::new()?;
    for (family, file) in [(Family::V4, "tcp"), (Family::V6, "tcp6")] {
        let server = lab.peer.serve((family.outside(), 80), echo())?;
        let stream = lab.pod.as_uid(4321).connect(&server)?;
        let port = format!(":{:04X}", stream.local_addr()?.port());
        let table = lab.pod.proc_net(file)?;
        let line = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|fields| fields.get(1).is_some_and(|local| local.ends_with(&port)))
            .expect("the connection is in the table");
        assert_eq!(line[7], "4321", "{family}: column uid of /proc/net/{file}");
    }
    Ok(())
}

#[test]
fn a_connection_leaves_from_the_source_that_was_asked_for() -> Result<()> {
    let lab = Lab::new()?;
    lab.pod.add_address("eth0", "10.77.0.9/24")?;
    let server = lab.peer.serve("192.0.2.10:80", who())?;
    let seen = ask(lab.pod.as_uid(1000).from("10.77.0.9").connect(&server)?)?;
    assert!(seen.starts_with("10.77.0.9:"), "{seen}");
    Ok(())
}

#[test]
fn a_landing_distinguishes_direct_refused_and_unanswered() -> Result<()> {
    let lab = Lab::new()?;
    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        landing.target(&lab.peer, (family.outside(), 80))?;
        let application = lab.pod.as_uid(1000);
        assert_eq!(landing.of(application, (family.outside(), 80))?, Landed::Direct);
        assert_eq!(landing.of(application, (family.outside(), 81))?, Landed::Refused);
        assert_eq!(landing.of(application, (family.pod(), 15001))?, Landed::Lost);
    }
    assert_eq!(landing.of(lab.pod.as_uid(1000), "10.77.0.77:80")?, Landed::TimedOut);
    Ok(())
}

#[test]
fn a_forged_request_is_accepted_by_an_open_port() -> Result<()> {
    let lab = Lab::new()?;
    let wire = lab.peer.wire_of("eth0")?;
    let pod = lab.pod.mac("eth0")?;
    for family in Family::BOTH {
        let _server = lab.pod.serve((family.pod(), 80), echo())?;
        let source = (family.peer(), 4444);
        assert_eq!(wire.knock(pod, Segment::syn(source, (family.pod(), 80)))?, Knock::Accepted, "{family}");
        assert_eq!(wire.knock(pod, Segment::syn(source, (family.pod(), 81)))?, Knock::Refused, "{family}");
    }
    Ok(())
}

#[test]
fn a_program_runs_in_the_pod_without_privileges() -> Result<()> {
    let lab = Lab::new()?;
    let mut command = lab_exec::command(lab.pod.namespace(), 5678, Some(1234), Path::new("/bin/cat"))?;
    command.args(["/proc/self/status", "/proc/self/limits", "/proc/self/net/fib_trie"]);
    let mut cat = Process::start(command)?;
    assert!(cat.wait(Duration::from_secs(5))?.success());
    let printed = cat.stdout().text();
    for line in [
        "Uid:\t5678\t5678\t5678\t5678",
        "Gid:\t5678\t5678\t5678\t5678",
        "Groups:\t ",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Max open files            1234",
        "10.77.0.2",
    ] {
        assert!(printed.contains(line), "no {line:?} in\n{printed}");
    }
    Ok(())
}

#[test]
fn a_program_ends_with_the_thread_that_started_it() -> Result<()> {
    let lab = Lab::new()?;
    let mut process = thread::scope(|scope| {
        let start = || {
            let mut command = lab_exec::command(lab.pod.namespace(), 5678, None, Path::new("/bin/sleep"))?;
            command.arg("60");
            let process = Process::start(command)?;
            // Only once it sleeps has it asked to be killed with its parent.
            let name = format!("/proc/{}/comm", process.pid());
            eventually!(std::fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep"));
            anyhow::Ok(process)
        };
        scope.spawn(start).join().expect("the thread does not panic")
    })?;
    let status = process.wait(Duration::from_secs(5))?;
    assert_eq!(culvert_tests::process::describe(status), "killed by signal 9");
    Ok(())
}

#[test]
fn nothing_is_left_behind_after_a_panic() -> Result<()> {
    // A namespace ends with the last thing in it, and takes its end of a cable along: that is how one outside sees it.
    let witness = Host::new("witness")?;
    let mut namespaces = Vec::new();
    let mut sleeper = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        let mut lab = Lab::new()?;
        let second = lab.another_peer()?;
        for (number, host) in [&lab.pod, &lab.peer, &lab.node, &second].into_iter().enumerate() {
            witness.wire(&format!("to{number}"), host, "witness")?;
            namespaces.push(host.namespace().id()?);
        }
        let server = lab.peer.serve("192.0.2.10:80", echo())?;
        let _waiting = lab.pod.as_uid(1000).connect(&server)?;
        let mut command = lab_exec::command(lab.pod.namespace(), 5678, None, Path::new("/bin/sleep"))?;
        command.arg("60");
        let process = Process::start(command)?;
        sleeper = process.pid();
        panic!("on purpose");
    }));
    assert!(panicked.is_err(), "{panicked:?}");
    assert_eq!(namespaces.len(), 4);
    assert!(!Path::new(&format!("/proc/{sleeper}")).exists(), "the process is still there");
    // The kernel removes a namespace in the background.
    eventually!(witness.interfaces().is_ok_and(|left| left == ["lo"]), Duration::from_secs(10));
    Ok(())
}

#[test]
fn the_machines_own_namespace_is_not_touched() -> Result<()> {
    let links = || Command::new("/bin/cat").arg("/proc/net/dev").output();
    let names = |output: std::process::Output| -> Vec<String> {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
    };
    let before = names(links()?);
    let lab = Lab::new()?;
    assert_eq!(names(links()?), before);
    drop(lab);
    assert_eq!(names(links()?), before);
    Ok(())
}
