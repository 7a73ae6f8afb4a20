//! Bulk streams over TLS, checked to the last byte: through both sidecars, and from a peer that cuts its records as it
//! likes and changes its keys in between.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{exchanges, sink};
use culvert_tests::tls::{Client, MESH};
use culvert_tests::until::uninterrupted;
use culvert_tests::{Checksum, Payload};
use rustls::{ClientConnection, StreamOwned};

use super::{OWN_TLS, SPEAKS, WAITS, World};
use crate::support::APP;

const STREAMS: u64 = 4;
const UP: usize = 24 << 20;
const DOWN: Payload = Payload { bytes: UP, seed: 0xd0 };

/// Numbers that look like chance, the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Reads odd pieces and rests now and then, so that everything on the way fills up.
fn read_by_chance(stream: &mut impl Read, mut chance: Chance, bytes: usize) -> io::Result<Checksum> {
    let (mut sum, mut left, mut buffer) = (Checksum::default(), bytes, vec![0; 200_000]);
    while left > 0 {
        let most = (1 + chance.below(buffer.len() as u64) as usize).min(left);
        match uninterrupted(|| stream.read(&mut buffer[..most]))? {
            0 => break,
            n => {
                sum.add(&buffer[..n]);
                left -= n;
            }
        }
        if chance.below(200) == 0 {
            thread::park_timeout(Duration::from_millis(chance.below(20)));
        }
    }
    Ok(sum)
}

/// Both ways at once through both sidecars.
fn exchange(mut stream: TcpStream, seed: u64) -> Result<()> {
    let up = Payload { bytes: UP + seed as usize * 1001, seed };
    let mut incoming = stream.try_clone()?;
    let heard = thread::spawn(move || read_by_chance(&mut incoming, Chance(seed), DOWN.bytes));
    up.write_to(&mut stream).context("sending")?;
    stream.shutdown(Shutdown::Write)?;
    let heard = heard.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?.context("receiving")?;
    ensure!(heard == DOWN.checksum(), "stream {seed}: got {heard} instead of {}", DOWN.checksum());
    confirms(&mut stream, up)
}

/// The peer's answer is what it should have got.
fn confirms(stream: &mut impl Read, sent: Payload) -> Result<()> {
    let mut told = String::new();
    stream.read_to_string(&mut told).context("the last words")?;
    let sent = sent.checksum().to_string();
    ensure!(told == sent, "the server got {told} instead of {sent}");
    Ok(())
}

/// Cuts what it writes by chance, and changes its key now and then.
struct Odd(StreamOwned<ClientConnection, TcpStream>, Chance);

impl Write for Odd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self(tls, chance) = self;
        if chance.below(40) == 0 && !tls.conn.is_handshaking() {
            tls.conn.refresh_traffic_keys().map_err(io::Error::other)?;
        }
        let most = if chance.below(30) == 0 { 50 } else { bytes.len() as u64 };
        tls.write(&bytes[..bytes.len().min(1 + chance.below(most.max(1)) as usize)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Sends all in odd records, ends its half in the session, and hears what the application makes of it.
fn upload_oddly(mut tls: Odd, seed: u64) -> Result<()> {
    let up = Payload { bytes: UP + seed as usize * 1001, seed };
    up.write_to(&mut tls).context("sending")?;
    let Odd(mut tls, _) = tls;
    tls.conn.send_close_notify();
    tls.flush()?;
    tls.sock.shutdown(Shutdown::Write)?;
    confirms(&mut tls, up)
}

#[test]
fn bulk_streams_arrive_to_the_last_byte_both_ways_at_once() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let (sidecar, client) = (world.server_sidecar(&[])?, world.client_sidecar()?);
    let app = world.lab.pod.as_uid(APP);
    let _servers = [
        app.serve(("0.0.0.0", SPEAKS), exchanges(DOWN))?,
        app.serve(("0.0.0.0", WAITS), sink())?,
        // Slower than its client.
        app.serve(("0.0.0.0", OWN_TLS), |mut stream: TcpStream| {
            let sum = read_by_chance(&mut stream, Chance(7), usize::MAX)?;
            stream.write_all(sum.to_string().as_bytes())
        })?,
    ];
    let odd = Client::new(&[MESH], Some(&world.authority.service("web")?))?;
    thread::scope(|scope| {
        let streams: Vec<_> = (1..=STREAMS)
            .map(|seed| {
                let (world, odd) = (&world, &odd);
                scope.spawn(move || -> Result<()> {
                    match seed % 2 {
                        0 => exchange(world.member(SPEAKS)?, seed),
                        _ => {
                            let port = if seed % 4 == 1 { WAITS } else { OWN_TLS };
                            upload_oddly(Odd(odd.over(world.stranger(port)?)?, Chance(seed)), seed)
                        }
                    }
                    .with_context(|| format!("stream {seed}"))
                })
            })
            .collect();
        streams
            .into_iter()
            .try_for_each(|stream| stream.join().map_err(|_| anyhow::anyhow!("a stream panicked"))?)
    })?;
    for sidecar in [&sidecar, &client] {
        let text = sidecar.stderr().text();
        ensure!(!text.contains("panicked"), "{text}");
    }
    Ok(())
}
