//! PERMISSIVE and servers that speak first: a member is a member however late its ClientHello comes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::tls::{Client, MESH};
use culvert_tests::until::uninterrupted;
use culvert_tests::{Host, Sidecar};
use rustix::process::Signal;

use super::{GREETING, SERVER, SPEAKS, World, talks};
use crate::support::{APP, SIDECAR};

/// Connects of one row.
const CONNECTS: usize = 1000;

/// The longest that an answer may take on a busy machine.
const A_WHILE: Duration = Duration::from_secs(60);

/// Connects of a member's application under a condition.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    at_once: usize,
    /// Packets with data that are lost, of a thousand, at each end.
    lost: u32,
    /// The client's sidecar runs for 30 of each 180 ms, as one that used up the CPU limit of its cgroup.
    throttled: bool,
}

const QUIET: Row = Row { at_once: 20, lost: 0, throttled: false };

/// Connects so many at once, all of which wait for the server's greeting. Returns the failures.
fn burst(world: &World, at_once: usize) -> Vec<String> {
    let talk = |stream: std::io::Result<TcpStream>| -> Result<()> {
        let stream = stream?;
        stream.set_read_timeout(Some(A_WHILE))?;
        talks(stream)
    };
    world.client.as_uid(APP).run(|| {
        let mut failures = Vec::new();
        let mut left = CONNECTS;
        while left > 0 {
            let now = left.min(at_once);
            let connected: Vec<_> = (0..now).map(|_| TcpStream::connect((SERVER, SPEAKS))).collect();
            failures
                .extend(connected.into_iter().filter_map(|stream| talk(stream).err()).map(|e| e.to_string()));
            left -= now;
        }
        failures
    })
}

/// The connections that the sidecar took for plain ones: each was sent the greeting in clear.
fn plain(sidecar: &Sidecar<'_>) -> Result<u64> {
    sidecar.stat("listener_manager.inbound.spoken.plain.downstream_cx_total")
}

/// Drops so many of a thousand packets with data that come in. Not those of a connect: a SYN that is lost four times is a
/// connect timeout, with TLS or without.
fn lose(host: &Host, per_mille: u32) -> Result<()> {
    let rules = format!(
        "table inet loss {{ chain c {{ type filter hook prerouting priority -400;\n\
         iifname \"eth*\" meta l4proto tcp meta length > 100 numgen random mod 1000 < {per_mille} counter drop\n}}\n}}"
    );
    let ran = host.namespace().run(|| Command::new("nft").arg(&rules).output())?;
    ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// Stops and continues a process in turn, until the sender is dropped.
fn throttle(sidecar: &Sidecar<'_>, over: &Receiver<()>) -> Result<()> {
    while over.recv_timeout(Duration::from_millis(30)) == Err(RecvTimeoutError::Timeout) {
        sidecar.signal(Signal::STOP)?;
        thread::park_timeout(Duration::from_millis(150));
        sidecar.signal(Signal::CONT)?;
    }
    Ok(())
}

/// Runs the rows. No connect fails, and no greeting leaks.
fn hold(rows: &[Row]) -> Result<()> {
    let mut failed = Vec::new();
    for row in rows {
        let world = World::new("PERMISSIVE", "")?;
        let (sidecar, client, _servers) =
            (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
        if row.lost > 0 {
            lose(&world.client, row.lost)?;
            lose(&world.lab.pod, row.lost)?;
        }
        let (over, ends) = channel();
        let failures = thread::scope(|scope| -> Result<_> {
            let throttling = row.throttled.then(|| scope.spawn(|| throttle(&client, &{ ends })));
            let failures = burst(&world, row.at_once);
            drop(over);
            throttling.map_or(Ok(()), |one| one.join().expect("no panic"))?;
            Ok(failures)
        })?;
        let leaked = plain(&sidecar)?;
        println!("{row:?}: {} of {CONNECTS} failed, {leaked} greetings in clear", failures.len());
        if !failures.is_empty() || leaked != 0 {
            failed.push((row, failures.len(), leaked));
        }
    }
    assert_eq!(failed, [], "failures, greetings in clear");
    Ok(())
}

#[test]
fn no_member_of_a_burst_is_taken_for_a_plain_client() -> Result<()> {
    hold(&[20, 100, 800].map(|at_once| Row { at_once, ..QUIET }))
}

#[test]
fn no_member_whose_packets_are_lost_is_taken_for_a_plain_client() -> Result<()> {
    hold(&[10, 50].map(|lost| Row { lost, at_once: 100, ..QUIET }))
}

#[test]
fn no_member_is_taken_for_a_plain_client_under_a_cpu_limit() -> Result<()> {
    hold(&[Row { throttled: true, at_once: 100, ..QUIET }])
}

#[test]
fn a_hello_that_comes_seconds_late_is_a_members() -> Result<()> {
    let world = World::new("PERMISSIVE", "")?;
    let (sidecar, _servers) = (world.server_sidecar(&[])?, world.servers()?);
    // The sidecar's uid goes out directly: a member whose own sidecar is slow.
    let stream = world.client.as_uid(SIDECAR).connect((SERVER, SPEAKS))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let heard = uninterrupted(|| (&stream).read(&mut [0; 64]));
    ensure!(heard.is_err(), "{heard:?}: the greeting came in clear");
    stream.set_read_timeout(Some(A_WHILE))?;
    talks(Client::new(&[MESH], Some(&world.authority.service("client")?))?.over(stream)?)?;
    assert_eq!(plain(&sidecar)?, 0);
    Ok(())
}

#[test]
fn a_plain_client_at_a_members_address_is_served_at_its_first_byte_or_in_the_time_of_a_handshake()
-> Result<()> {
    let world = World::new("PERMISSIVE", "")?;
    let (sidecar, _servers) = (world.server_sidecar(&[])?, world.servers()?);
    let connect = || world.client.as_uid(SIDECAR).connect((SERVER, SPEAKS));
    let start = Instant::now();
    talks(connect()?).context("speaks first itself")?;
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let start = Instant::now();
    let mut silent = connect()?;
    silent.set_read_timeout(Some(A_WHILE))?;
    let mut heard = [0; GREETING.len()];
    silent.read_exact(&mut heard)?;
    assert!(start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
    silent.write_all(b"x")?;
    silent.read_exact(&mut [0])?;
    assert_eq!(plain(&sidecar)?, 2);
    Ok(())
}

/// A reload that has nothing to do with a member keeps its address. One without its document takes the address away.
#[test]
fn the_addresses_of_members_follow_the_documents() -> Result<()> {
    let world = World::new("PERMISSIVE", "")?;
    let (sidecar, _servers) = (world.server_sidecar(&[])?, world.servers()?);
    let late = |from: &str, more: &str| -> Result<bool> {
        let reloads = || sidecar.stat("config_reloaded");
        let before = reloads()?;
        world.write("PERMISSIVE", more)?;
        culvert_tests::eventually!(reloads().is_ok_and(|now| now > before), A_WHILE);
        let stream = world.lab.peer.as_root().from(from).connect((SERVER, SPEAKS))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(uninterrupted(|| (&stream).read(&mut [0; 64])).is_err())
    };
    let gateway = "---\n{type: Dataplane, name: gateway, networking: {address: 10.77.0.1, \
                   gateway: {tags: {kuma.io/service: gateway}}}}\n";
    let other = "---\n{type: Dataplane, name: other, networking: {address: 10.9.9.9, \
                 inbound: [{port: 80, tags: {kuma.io/service: other}}]}}\n";
    assert!(late("10.77.0.1", gateway)?, "a gateway, which offers nothing");
    assert!(late("10.77.0.1", &format!("{gateway}{other}"))?, "another document is new");
    assert!(!late("10.77.0.1", other)?, "its document is gone");
    Ok(())
}
