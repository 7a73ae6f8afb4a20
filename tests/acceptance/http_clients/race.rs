//! Servers that close idle connections at the time when clients use them again: the client is told by the end of its connection, and
//! by nothing else, so that its own logic tries again.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::Actor;
use culvert_tests::server::Behaviour;
use culvert_tests::until::uninterrupted;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::origin::Asked;
use crate::http_ports::{Way, World};

/// The silence after which the server closes.
const IDLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
const CLIENTS: u64 = 40;
const REQUESTS: u64 = 100;

/// Answers, and closes once nothing came for a while. The first request may take its time.
fn closes_idle_connections() -> impl Behaviour {
    |stream: TcpStream| {
        stream.set_nodelay(true)?;
        let mut answers = stream.try_clone()?;
        let mut requests = BufReader::new(stream.try_clone()?);
        while let Some(mut asked) = Asked::head(&mut requests)? {
            asked.read_body(&mut requests)?;
            answers.write_all(asked.answer("ok").as_bytes())?;
            // Not the socket's own time-out, which is a multiple of the kernel's tick.
            if poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&IDLE))? == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Tally {
    on_a_kept_connection: u64,
    found_closed: u64,
}

/// Asks, and reads the answer; false if the connection ended before its first byte.
fn ask(stream: &mut TcpStream) -> Result<bool> {
    let ended =
        |error: &io::Error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    match stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") {
        Err(error) if ended(&error) => return Ok(false),
        wrote => wrote?,
    }
    while !answer.ends_with(b"\r\n\r\nok 0") {
        match uninterrupted(|| stream.read(&mut part)) {
            Ok(0) if answer.is_empty() => return Ok(false),
            Err(error) if ended(&error) && answer.is_empty() => return Ok(false),
            read => {
                let n = read.context("a cut answer")?;
                answer.extend_from_slice(&part[..n]);
                let is_whole = n > 0 && "HTTP/1.1 200 ".bytes().zip(&answer).all(|(a, b)| a == *b);
                ensure!(is_whole, "{:?}", String::from_utf8_lossy(&answer));
            }
        }
    }
    Ok(true)
}

fn asks_again_and_again(actor: Actor<'_>, world: &World, way: Way, number: u64) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut kept: Option<TcpStream> = None;
    for request in 0..REQUESTS {
        if let Some(stream) = &mut kept {
            // Around the server's own time, on either side of it.
            thread::park_timeout(Duration::from_micros(14_000 + (request * 977 + number * 373) % 10_000));
            if ask(stream)? {
                tally.on_a_kept_connection += 1;
                continue;
            }
            tally.found_closed += 1;
        }
        let mut fresh = actor.connect(way.called(world.family))?;
        fresh.set_nodelay(true)?;
        ensure!(ask(&mut fresh)?, "a new connection got no answer");
        kept = Some(fresh);
    }
    Ok(tally)
}

#[test]
fn a_server_that_closes_idle_connections_costs_no_client_an_error() -> Result<()> {
    let world = World::of(culvert_tests::Family::V4)?;
    let _sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        let _server = world.serve(way, closes_idle_connections())?;
        let actor = world.client(way);
        let world = &world;
        let tallies = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| scope.spawn(move || asks_again_and_again(actor, world, way, number)))
                .collect();
            clients.into_iter().map(|client| client.join().expect("no panic")).collect::<Result<Vec<_>>>()
        })?;
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
        let (reused, closed) = (sum(|tally| tally.on_a_kept_connection), sum(|tally| tally.found_closed));
        println!("{way:?}: {reused} requests on kept connections, {closed} found closed");
        ensure!(
            reused > 0 && closed > 0,
            "{way:?}: {reused} on kept connections, {closed} found closed: no race"
        );
    }
    Ok(())
}
