//! Connections of the sidecar's own that come back to it by an old decision of conntrack.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::echo;
use culvert_tests::{Actor, Family, Lab, Sidecar, eventually};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::support::{APP, by_every_engine};

const SOON: Duration = Duration::from_secs(10);
/// The ports that the application uses first, and the sidecar afterwards.
const OLD: std::ops::Range<u16> = 42_000..42_008;

/// Connects from a port of the test's choice.
fn connect_from(actor: Actor<'_>, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    actor.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.set_read_timeout(Some(SOON))?;
        socket.connect_timeout(&to.into(), SOON)?;
        Ok(socket.into())
    })
}

/// Says and hears one byte.
fn talks(connected: io::Result<TcpStream>) -> io::Result<()> {
    let mut stream = connected?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn own_connections_refused(sidecar: &Sidecar<'_>) -> Result<u64> {
    let metrics = sidecar.metrics()?;
    let series = "culvert_loop_rejected_total{direction=\"outbound\",guard=\"own_connection\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(series));
    Ok(value.with_context(|| format!("no {series}"))?.parse()?)
}

/// Sets the ports from which the kernel chooses.
fn ports(lab: &Lab, first: u16, last: u16) -> Result<()> {
    lab.pod.set_sysctl("net.ipv4.ip_local_port_range", &format!("{first} {last}"))
}

/// A server resets what the application sends from some ports. Then the sidecar calls that server from the same ports, while
/// conntrack still knows them as redirected.
fn a_connection_of_its_own_that_comes_back_is_ended_as_a_loop(engine: &str) -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::new()?;
        lab.add(&[("engine", engine)])?.expect_success();
        // The kernel's default, by which an old decision outlives its connection.
        lab.pod.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "10")?;
        let sidecar = lab.pod.sidecar().start()?;
        let (pod, to) = (family.pod(), SocketAddr::new(family.outside(), 80));
        let answers = Arc::new(AtomicBool::new(false));
        let server = lab.peer.serve(to, resets_until(&answers))?;
        let app = lab.pod.as_uid(APP);
        ports(&lab, 41_000, 41_999)?;
        for port in OLD {
            let ended =
                talks(connect_from(app, SocketAddr::new(pod, port), to)).map_err(|error| error.kind());
            ensure!(matches!(ended, Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{ended:?}");
        }
        let closed = || sidecar.access_log().len();
        eventually!(closed() == OLD.len(), SOON);
        answers.store(true, Ordering::Relaxed);
        ports(&lab, OLD.start, OLD.end - 1)?;
        let before = server.accepted();
        let ended = talks(connect_from(app, SocketAddr::new(pod, 43_000), to)).map_err(|error| error.kind());
        ensure!(matches!(ended, Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{ended:?}");
        // One for the application, the sidecar's own, and the one for that, which goes no further: a client that looks like
        // the sidecar once may be the application.
        eventually!(closed() >= OLD.len() + 3, SOON);
        let records = sidecar.access_log().split_off(OLD.len());
        let looped: Vec<_> = records.iter().filter(|record| record["reason"] == "loop").collect();
        ensure!(records.len() == 3 && looped.len() == 1, "{family}: {records:#?}");
        let (error, client) = (looped[0]["error"].to_string(), looped[0]["src.addr"].to_string());
        ensure!(error.contains("own connection") && error.contains(&to.to_string()), "{error}");
        ensure!(client.contains(":420"), "{client}");
        ensure!(own_connections_refused(&sidecar)? == 1);
        ensure!(sidecar.stat("listener_manager.outbound.loop_rejected")? == 1);
        eventually!(sidecar.stderr().text().contains("nf_conntrack_tcp_timeout_close"), SOON);
        ensure!(server.accepted() == before, "{family}: the server was reached");
        ports(&lab, 41_000, 41_999)?;
        talks(connect_from(app, SocketAddr::new(pod, 43_001), to)).context("from ports without a past")?;
    }
    Ok(())
}

by_every_engine! {
    a_connection_of_its_own_that_comes_back_is_ended_as_a_loop,
}

/// Resets each connection, later echoes one byte.
fn resets_until(answers: &Arc<AtomicBool>) -> impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static {
    let answers = Arc::clone(answers);
    move |mut stream| {
        if !answers.load(Ordering::Relaxed) {
            return SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)
    }
}

#[test]
fn the_application_may_share_each_port_of_the_sidecar_for_another_destination() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    let app = lab.pod.as_uid(APP);
    for family in Family::BOTH {
        let of = |port| SocketAddr::new(family.outside(), port);
        let _servers = [lab.peer.serve(of(80), echo())?, lab.peer.serve(of(81), echo())?];
        ports(&lab, OLD.start, OLD.end - 1)?;
        let mut open = Vec::new();
        for port in 43_000..43_000 + u16::try_from(OLD.len())? {
            let stream = connect_from(app, SocketAddr::new(family.pod(), port), of(80))?;
            talks(stream.try_clone())?;
            open.push(stream);
        }
        // The sidecar has a connection from each of these ports by now, and the kernel gives the application the same ones;
        // not all of them, as each of these connections leaves two in TIME_WAIT.
        for _ in 0..3 {
            let stream = app.connect(of(81))?;
            ensure!(OLD.contains(&stream.local_addr()?.port()));
            talks(Ok(stream)).with_context(|| format!("{family}"))?;
        }
        ports(&lab, 41_000, 41_999)?;
    }
    ensure!(sidecar.stat("loop_rejected")? == 0);
    Ok(())
}

/// Where the application calls two servers from one port, conntrack gives the second call another port towards the sidecar. It
/// may be that of a socket of the sidecar's to the same server: here one of three is, as both have to take ports below 1024.
#[test]
fn a_call_that_gets_a_port_of_the_sidecars_by_chance_is_served() -> Result<()> {
    const HELD: u16 = 150;
    const CALLS: usize = 30;
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    lab.pod.set_sysctl("net.ipv4.ip_unprivileged_port_start", "0")?;
    let sidecar = lab.pod.sidecar().start()?;
    let (app, pod) = (lab.pod.as_uid(APP), Family::V4.pod());
    let to = |port| SocketAddr::new(Family::V4.outside(), port);
    let _servers = [lab.peer.serve(to(80), echo())?, lab.peer.serve(to(81), echo())?];
    ports(&lab, 600, 1023)?;
    let mut held = Vec::new();
    for port in 43_000..43_000 + HELD {
        let stream = connect_from(app, SocketAddr::new(pod, port), to(81))?;
        talks(stream.try_clone())?;
        held.push(stream);
    }
    let mut calls = 0;
    for port in (600..1024).filter(|port| port % 2 == 1).chain((600..1024).filter(|port| port % 2 == 0)) {
        let from = SocketAddr::new(pod, port);
        // Ports that the sidecar has are not free.
        let (Ok(first), Ok(second)) = (connect_from(app, from, to(80)), connect_from(app, from, to(81)))
        else {
            continue;
        };
        talks(Ok(first)).with_context(|| format!("from {port}"))?;
        talks(Ok(second)).with_context(|| format!("from {port}, the second"))?;
        calls += 1;
        if calls == CALLS {
            break;
        }
    }
    ensure!(calls == CALLS, "only {calls} ports were free");
    ensure!(sidecar.stat("loop_rejected")? == 0);
    Ok(())
}
