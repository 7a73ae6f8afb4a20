//! Documents that change while clients are served: connections keep what they began with, and no request is lost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Actor, Family, eventually};

use super::origin::http_1;
use crate::documents::SOON;
use crate::http_ports::{Way, World};

const ROUNDS: u64 = 10;
/// Answers between two changes.
const BETWEEN: u64 = 100;

/// Asks once on a connection, and gets the whole answer.
pub(super) fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nfour")?;
    let expected = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nok 4";
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).context("no whole answer")?;
    ensure!(answer == expected, "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Asks until it is told to stop: on one connection, or on one for each request.
fn asks(
    actor: Actor<'_>,
    world: &World,
    way: Way,
    keeps: bool,
    stop: &AtomicBool,
    done: &AtomicU64,
) -> Result<()> {
    let connect = || -> Result<TcpStream> {
        let stream = actor.connect(way.called(world.family))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let mut stream = connect()?;
    while !stop.load(Ordering::Relaxed) {
        ask(&mut stream).with_context(|| format!("{way:?}, keeps: {keeps}"))?;
        done.fetch_add(1, Ordering::Relaxed);
        if !keeps {
            stream = connect()?;
        }
    }
    Ok(())
}

#[test]
fn changed_documents_lose_no_request() -> Result<()> {
    let world = World::of(Family::V4)?;
    let sidecar = world.sidecar(&[])?;
    let _servers: Vec<_> =
        Way::ALL.into_iter().map(|way| world.serve(way, http_1())).collect::<Result<_>>()?;
    let (stop, done) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for (way, done) in Way::ALL.into_iter().zip(&done) {
            for keeps in [true, true, false, false] {
                let (world, stop) = (&world, &stop);
                clients.push(scope.spawn(move || asks(world.client(way), world, way, keeps, stop, done)));
            }
        }
        let changes = || -> Result<()> {
            for round in 1..=ROUNDS {
                let before = done.each_ref().map(|done| done.load(Ordering::Relaxed));
                let goes_on = || {
                    done.iter()
                        .zip(before)
                        .all(|(done, before)| done.load(Ordering::Relaxed) >= before + BETWEEN)
                };
                let one_failed = || clients.iter().any(thread::ScopedJoinHandle::is_finished);
                eventually!(goes_on() || one_failed(), SOON);
                world.speaks(if round % 2 == 1 { "tcp" } else { "http" })?;
                eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == round), SOON);
            }
            Ok(())
        };
        let changed = changes();
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))?;
        changed
    })
}
