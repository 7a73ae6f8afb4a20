// SPDX-License-Identifier: Apache-2.0
//! The sidecar's end beside an application that ends in its own time, as in a pod without native sidecars.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_tests::pod::sidecar::Sidecar;
use culvert_tests::server::echo;
use culvert_tests::{Actor, Family, Lab, eventually};
use rustix::process::Signal;

use crate::support::APP;

const SOON: Duration = Duration::from_secs(10);
/// Far longer than any test waits: what ends before it has ended by itself.
const LONG: &str = "300s";
/// A state of `/proc/net/tcp`.
const TIME_WAIT: &str = "06";

/// A lab whose pod is onboarded.
fn onboarded() -> Result<Lab> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    Ok(lab)
}

/// Asks for the end, and returns once inbound is closed: the delay is over.
fn terminate(lab: &Lab, sidecar: &Sidecar<'_>) -> Result<()> {
    sidecar.signal(Signal::TERM)?;
    eventually!(lab.peer.connect((Family::V4.pod(), 80)).is_err(), SOON);
    Ok(())
}

fn talks(actor: Actor<'_>, family: Family) -> Result<()> {
    let mut stream = actor.connect((family.outside(), 80))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

fn ends(sidecar: &mut Sidecar<'_>) -> Result<()> {
    let status = sidecar.wait(SOON)?;
    assert_eq!(status.code(), Some(0), "{}", sidecar.stderr().text());
    Ok(())
}

/// No connection is open when the delay is over: as long as the application listens, it may still send.
#[test]
fn an_application_that_flushes_after_the_delay_is_served_until_it_ends() -> Result<()> {
    for family in Family::BOTH {
        let lab = onboarded()?;
        let mut sidecar =
            lab.pod.sidecar().options(["--drain-delay", "100ms", "--drain-time", LONG]).start()?;
        let _outside = lab.peer.serve((family.outside(), 80), echo())?;
        let listening = lab.pod.as_uid(APP).listen((family.pod(), 8080))?;
        terminate(&lab, &sidecar)?;
        // The sidecar has looked, and says by what the pod is held.
        let line = format!("uid {APP} holds a TCP socket with local port 8080");
        let told = sidecar.stderr().wait_for(SOON, |said| said.contains(&line).then_some(()));
        assert!(told.is_some(), "{family}: {}", sidecar.stderr().text());
        for _ in 0..3 {
            talks(lab.pod.as_uid(APP), family).with_context(|| format!("{family}: after the delay"))?;
        }
        assert!(sidecar.is_running()?, "{family}: {}", sidecar.stderr().text());
        drop(listening);
        ends(&mut sidecar).with_context(|| family.to_string())?;
    }
    Ok(())
}

/// A connection that the rules leave alone holds the pod as well, whichever user has it.
#[test]
fn any_socket_of_another_user_counts_and_its_end_is_noticed() -> Result<()> {
    let lab = onboarded()?;
    for uid in [0, APP] {
        let mut sidecar = lab.pod.sidecar().options(["--drain-delay", "0s", "--drain-time", LONG]).start()?;
        // To a loopback server: never redirected.
        let local = lab.pod.as_root().listen("127.0.0.1:7000")?;
        let held = lab.pod.as_uid(uid).connect("127.0.0.1:7000")?;
        let (accepted, _) = local.accept()?;
        drop((local, accepted));
        terminate(&lab, &sidecar)?;
        let line = format!("uid {uid} holds a TCP socket");
        let told = sidecar.stderr().wait_for(SOON, |said| said.contains(&line).then_some(()));
        assert!(told.is_some(), "uid {uid}: {}", sidecar.stderr().text());
        assert!(sidecar.is_running()?, "uid {uid}");
        drop(held);
        ends(&mut sidecar).with_context(|| format!("uid {uid}"))?;
    }
    Ok(())
}

/// A native sidecar gets its signal when the application has ended. What the kernel keeps of it holds nothing.
#[test]
fn once_the_application_has_ended_the_sidecar_ends_at_once() -> Result<()> {
    let lab = onboarded()?;
    let mut sidecar = lab.pod.sidecar().options(["--drain-delay", "0s", "--drain-time", LONG]).start()?;
    for family in Family::BOTH {
        let _outside = lab.peer.serve((family.outside(), 80), echo())?;
        for _ in 0..50 {
            talks(lab.pod.as_uid(APP), family)?;
        }
    }
    let waiting = |file| {
        let table = lab.pod.proc_net(file).unwrap_or_default();
        table.lines().filter(|row| row.split_whitespace().nth(3) == Some(TIME_WAIT)).count()
    };
    eventually!(waiting("tcp") + waiting("tcp6") >= 100, SOON);
    sidecar.signal(Signal::TERM)?;
    ends(&mut sidecar)
}

/// `SIGTERM`, `--drain-time` and the admin end the wait for an application that stays.
#[test]
fn an_application_that_stays_holds_the_pod_no_longer_than_asked() -> Result<()> {
    let lab = onboarded()?;
    let _listening = lab.pod.as_uid(APP).listen("[::]:8080")?;
    type End = fn(&Sidecar<'_>) -> Result<()>;
    let ways: [(&str, &str, End); 3] = [
        ("a second SIGTERM", LONG, |sidecar| sidecar.signal(Signal::TERM)),
        ("quitquitquit", LONG, |sidecar| sidecar.admin_post("/quitquitquit").map(drop)),
        ("the drain time", "1s", |_| Ok(())),
    ];
    for (name, time, end) in ways {
        let mut sidecar = lab.pod.sidecar().options(["--drain-delay", "0s", "--drain-time", time]).start()?;
        let begun = Instant::now();
        terminate(&lab, &sidecar)?;
        let told = sidecar.stderr().wait_for(SOON, |said| said.contains("outbound serves on").then_some(()));
        assert!(told.is_some(), "{name}: {}", sidecar.stderr().text());
        assert!(sidecar.is_running()?, "{name}: {}", sidecar.stderr().text());
        end(&sidecar)?;
        ends(&mut sidecar).context(name)?;
        if time != LONG {
            assert!(begun.elapsed() >= Duration::from_secs(1), "{name}: {:?}", begun.elapsed());
        }
    }
    Ok(())
}

/// The application writes its last bytes and is gone before the sidecar has even accepted.
#[test]
fn the_last_words_of_an_application_that_is_gone_are_passed_on() -> Result<()> {
    const CONNECTIONS: usize = 40;
    let lab = onboarded()?;
    let mut sidecar = lab.pod.sidecar().options(["--drain-delay", "0s", "--drain-time", LONG]).start()?;
    let (heard, hears) = mpsc::channel();
    let _outside = lab.peer.serve("192.0.2.10:80", move |mut stream: TcpStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let _ = heard.send(text);
        Ok(())
    })?;
    // Stopped, it accepts nothing: the kernel does, and the signal waits too.
    sidecar.signal(Signal::STOP)?;
    for number in 0..CONNECTIONS {
        let mut stream = lab.pod.as_uid(APP).connect("192.0.2.10:80")?;
        write!(stream, "{number}")?;
        stream.shutdown(Shutdown::Write)?;
    }
    sidecar.signal(Signal::TERM)?;
    sidecar.signal(Signal::CONT)?;
    ends(&mut sidecar)?;
    let mut numbers: Vec<usize> = hears.try_iter().filter_map(|text| text.parse().ok()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..CONNECTIONS).collect::<Vec<_>>(), "{}", sidecar.stdout().text());
    Ok(())
}
