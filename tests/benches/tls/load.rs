//! The loads: bulk both ways, connections one after the other, idle ones, and a crowd beside one that was there before.
//! TLS clients and servers are rustls' usual, blocking kind.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::Family;
use culvert_tests::tls::authority::Credentials;
use culvert_tests::tls::{Client, MESH};
use rustls::{ClientConnection, HandshakeKind, StreamOwned};

use super::servers::{Port, RESUMED};

/// A stream that moves nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients at a time: enough to keep two threads busy.
const CLIENTS: usize = 4;
/// Clients of a crowd.
const CROWD: usize = 64;
const CHUNK: usize = 64 * 1024;

/// The proxy's side of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// A member dials the pod; its application speaks plainly.
    Terminates,
    /// The pod's application speaks plainly and dials a member.
    Originates,
}

/// The clients of a load, each on a thread of its own.
#[derive(Debug)]
pub(crate) struct Load {
    fresh: Client,
    resuming: Client,
}

/// An open connection of a client.
trait Stream: Read + Write + Send {
    /// Says that it is done.
    fn finish(&mut self);
    /// Returns true if its session was resumed; `None` where TLS does not say.
    fn resumed(&self) -> Option<bool>;
}

impl Stream for TcpStream {
    fn finish(&mut self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }

    fn resumed(&self) -> Option<bool> {
        None
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
    }

    fn resumed(&self) -> Option<bool> {
        Some(self.conn.handshake_kind() == Some(HandshakeKind::Resumed))
    }
}

/// The times that an established connection waited for its answers.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    pub median: Duration,
    pub p99: Duration,
    pub longest: Duration,
    /// Handshakes that other clients make meanwhile.
    pub handshakes: u64,
}

impl Load {
    pub(crate) fn new(credentials: &Credentials) -> Result<Self> {
        let client = Client::new(&[MESH], Some(credentials))?;
        Ok(Self { fresh: client.without_sessions(), resuming: client })
    }

    fn open(&self, side: Side, port: Port) -> Result<Box<dyn Stream>> {
        let ip = match side {
            Side::Terminates => Family::V4.pod(),
            Side::Originates => Family::V4.peer(),
        };
        let at = (ip, port as u16);
        let stream = TcpStream::connect(at).with_context(|| format!("cannot connect to {at:?}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let client = if port == Port::Again { &self.resuming } else { &self.fresh };
        Ok(match side {
            Side::Terminates => Box::new(client.over(stream)?),
            Side::Originates => Box::new(stream),
        })
    }

    /// Streams as fast as they go; gigabits that the client sent or got.
    pub(crate) fn bulk(&self, side: Side, port: Port, streams: usize, lasting: Duration) -> Result<f64> {
        let moved = AtomicU64::new(0);
        let start = Instant::now();
        in_parallel(streams, || {
            let mut stream = self.open(side, port)?;
            let mut chunk = vec![b'x'; CHUNK];
            while start.elapsed() < lasting {
                let n = match port {
                    Port::Up => stream.write_all(&chunk).map(|()| CHUNK)?,
                    _ => stream.read(&mut chunk)?,
                };
                moved.fetch_add(n as u64, Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(moved.load(Ordering::Relaxed) as f64 * 8.0 / 1e9)
    }

    /// A connection per question, some at a time; how many there were.
    pub(crate) fn handshakes(&self, side: Side, port: Port, lasting: Duration) -> Result<u64> {
        let (done, start) = (AtomicU64::new(0), Instant::now());
        let before = RESUMED.load(Ordering::Relaxed);
        in_parallel(CLIENTS, || {
            while start.elapsed() < lasting {
                self.visit(side, port, &done)?;
            }
            Ok(())
        })?;
        let done = done.into_inner();
        if side == Side::Originates {
            let resumed = RESUMED.load(Ordering::Relaxed) - before;
            let as_meant = if port == Port::Again { resumed > done * 9 / 10 } else { resumed == 0 };
            ensure!(as_meant, "{resumed} of {done} sessions were resumed");
        }
        Ok(done)
    }

    fn visit(&self, side: Side, port: Port, done: &AtomicU64) -> Result<()> {
        let mut stream = self.open(side, port)?;
        ask(&mut stream)?;
        // The first of each client has nothing to resume yet.
        if let Some(was) = stream.resumed()
            && was != (port == Port::Again)
            && done.load(Ordering::Relaxed) > 4 * CLIENTS as u64
        {
            bail!("resumed: {was}, to the port {port:?}");
        }
        stream.finish();
        done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Asks and asks on one connection, while a crowd makes connections as fast as it may. The crowd's own arithmetic yields
    /// to all of them, so that the waits are the proxy's.
    pub(crate) fn beside_a_crowd(&self, side: Side, lasting: Duration) -> Result<Waits> {
        let mut established = self.open(side, Port::Small)?;
        ask(&mut established)?;
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let waits = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let crowd: Vec<_> = (0..CROWD)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        rustix::process::setpriority_process(None, 19)?;
                        while !stop.load(Ordering::Relaxed) {
                            self.visit(side, Port::Small, &done)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            let asked = (|| -> Result<()> {
                let start = Instant::now();
                while start.elapsed() < lasting {
                    let begun = Instant::now();
                    ask(&mut established)?;
                    waits.lock().expect("nobody panics").push(begun.elapsed());
                    thread::park_timeout(Duration::from_millis(1));
                }
                Ok(())
            })();
            stop.store(true, Ordering::Relaxed);
            crowd.into_iter().try_for_each(|one| one.join().expect("no panic"))?;
            asked
        })?;
        let mut waits = waits.into_inner().expect("nobody panics");
        waits.sort();
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
        Ok(Waits { median: at(0.5), p99: at(0.99), longest: at(1.0), handshakes: done.into_inner() })
    }

    /// So many connections that said something once.
    pub(crate) fn idle(&self, count: usize) -> Result<Vec<impl Send + use<>>> {
        let one = |_| {
            let mut stream = self.open(Side::Terminates, Port::Small)?;
            ask(&mut stream)?;
            Ok(stream)
        };
        (0..count).map(one).collect()
    }
}

fn in_parallel(count: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        threads.into_iter().try_for_each(|one| one.join().expect("no panic"))
    })
}

fn ask(stream: &mut (impl Read + Write)) -> Result<()> {
    stream.write_all(&[b'q'; 64])?;
    stream.read_exact(&mut [0; 128]).map_err(no_answer)?;
    Ok(())
}

fn no_answer(error: io::Error) -> anyhow::Error {
    anyhow::Error::from(error).context("no answer")
}
