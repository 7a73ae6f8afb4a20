//! A sidecar that is told to end: requests in flight get their answers, and kept connections are served on.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Result, ensure};
use culvert_tests::server::Behaviour;
use culvert_tests::{Actor, Family, eventually};
use rustix::process::Signal;

use super::PATIENCE;
use super::origin::Asked;
use super::reload::ask;
use crate::http_ports::{Way, World};

/// Requests in flight, and clients that go on, each way.
const EACH: u64 = 4;

/// Answers at once, but a request for `/slow` only when it is let.
struct Origin {
    slow: Arc<AtomicU64>,
    release: std::sync::mpsc::Sender<()>,
}

impl Origin {
    fn new() -> (Self, impl Behaviour) {
        let (slow, (release, released)) = (Arc::new(AtomicU64::new(0)), channel());
        let released = Mutex::new(released);
        let counted = Arc::clone(&slow);
        let behaviour = move |stream: TcpStream| {
            let mut answers = stream.try_clone()?;
            let mut requests = BufReader::new(stream);
            while let Some(mut asked) = Asked::head(&mut requests)? {
                asked.read_body(&mut requests)?;
                if asked.first.starts_with("GET /slow ") {
                    counted.fetch_add(1, Ordering::Relaxed);
                    let _ = released.lock().expect("no panic").recv_timeout(PATIENCE);
                }
                answers.write_all(asked.answer("ok").as_bytes())?;
                if !asked.goes_on() {
                    break;
                }
            }
            Ok(())
        };
        (Self { slow, release }, behaviour)
    }
}

fn asks_until(actor: Actor<'_>, world: &World, way: Way, over: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let mut stream = actor.connect(way.called(world.family))?;
    stream.set_nodelay(true)?;
    while !over.load(Ordering::Relaxed) {
        ask(&mut stream)?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn requests_in_flight_and_on_kept_connections_are_answered_while_the_sidecar_drains() -> Result<()> {
    let world = World::of(Family::V4)?;
    let mut sidecar = world.sidecar(&["--drain-delay", "1s", "--drain-time", "60s"])?;
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let (origins, behaviours): (Vec<_>, Vec<_>) = Way::ALL.map(|_| Origin::new()).into_iter().unzip();
    let servers = Way::ALL
        .into_iter()
        .zip(behaviours)
        .map(|(way, behaviour)| world.serve(way, behaviour))
        .collect::<Result<Vec<_>>>()?;
    let mut in_flight = Vec::new();
    for way in Way::ALL {
        for _ in 0..EACH {
            let mut stream = world.connect(way)?;
            stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            in_flight.push(stream);
        }
    }
    eventually!(origins.iter().all(|origin| origin.slow.load(Ordering::Relaxed) == EACH), PATIENCE);
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for way in Way::ALL {
            for _ in 0..EACH {
                let (world, over, done) = (&world, &over, &done);
                clients.push(scope.spawn(move || asks_until(world.client(way), world, way, over, done)));
            }
        }
        let drains = || -> Result<()> {
            eventually!(done.load(Ordering::Relaxed) > 100, PATIENCE);
            sidecar.signal(Signal::TERM)?;
            let is_refused = || {
                let connected = world.lab.peer.connect(Way::Inbound.called(world.family));
                connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            };
            eventually!(is_refused(), PATIENCE);
            // Its listener is closed; what was open is served.
            let before = done.load(Ordering::Relaxed);
            eventually!(done.load(Ordering::Relaxed) > before + 100, PATIENCE);
            Ok(())
        };
        let drained = drains();
        over.store(true, Ordering::Relaxed);
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))?;
        drained
    })?;
    for origin in &origins {
        (0..EACH).try_for_each(|_| origin.release.send(()))?;
    }
    for mut stream in in_flight {
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok 0"), "{answer:?}");
    }
    drop(servers);
    ensure!(sidecar.wait(PATIENCE)?.code() == Some(0), "{}", sidecar.stderr().text());
    let not_well =
        sidecar.access_log().into_iter().find(|record| record["reason"] != "ok" && record["bytes_sent"] != 0);
    ensure!(not_well.is_none(), "{not_well:?}");
    Ok(())
}
