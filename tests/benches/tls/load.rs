//! The loads: bulk both ways, connections one after the other, idle ones. Clients are rustls' usual, blocking kind.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_tests::Host;
use culvert_tests::authority::Credentials;
use culvert_tests::tls::{Client, MESH};

const POD: &str = "10.77.0.2";
const SMALL: u16 = 8080;
/// A stream that moves nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients at a time: enough to keep two threads busy.
const CLIENTS: usize = 4;
const CHUNK: usize = 64 * 1024;

/// Bytes to the application.
pub const UP: u16 = 8081;
/// Bytes to the client.
pub const DOWN: u16 = 8082;

/// The application's servers; they run until the process ends.
#[derive(Debug)]
pub struct Servers;

impl Servers {
    pub fn start(pod: &Host) -> Result<Self> {
        let app = pod.as_uid(1000);
        serve(app.listen(("0.0.0.0", SMALL))?, |mut stream| {
            let mut asked = [0; 64];
            while stream.read_exact(&mut asked).is_ok() && stream.write_all(&[b'a'; 128]).is_ok() {}
        });
        serve(app.listen(("0.0.0.0", UP))?, |mut stream| {
            let mut chunk = vec![0; 256 * 1024];
            while matches!(stream.read(&mut chunk), Ok(1..)) {}
        });
        serve(app.listen(("0.0.0.0", DOWN))?, |mut stream| {
            let chunk = vec![b'x'; 128 * 1024];
            while stream.write_all(&chunk).is_ok() {}
        });
        Ok(Self)
    }
}

fn serve(listener: TcpListener, with: fn(TcpStream)) {
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let _ = stream.set_nodelay(true);
            thread::spawn(move || with(stream));
        }
    });
}

/// The clients.
#[derive(Debug)]
pub struct Load {
    fresh: Client,
    resuming: Client,
}

fn dial(port: u16) -> Result<TcpStream> {
    let at = (POD, port);
    let stream = TcpStream::connect(at).with_context(|| format!("cannot connect to {at:?}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl Load {
    pub fn new(credentials: &Credentials) -> Result<Self> {
        let client = Client::new(&[MESH], Some(credentials))?;
        Ok(Self { fresh: client.without_sessions(), resuming: client })
    }

    /// Streams as fast as they go; gigabits that the client sent or got.
    pub fn bulk(&self, port: u16, lasting: Duration) -> Result<f64> {
        let moved = AtomicU64::new(0);
        let start = Instant::now();
        thread::scope(|scope| {
            let streams: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        let mut stream = self.fresh.over(dial(port)?)?;
                        let mut chunk = vec![b'x'; CHUNK];
                        while start.elapsed() < lasting {
                            let n = match port {
                                UP => stream.write_all(&chunk).map(|()| CHUNK)?,
                                _ => stream.read(&mut chunk)?,
                            };
                            moved.fetch_add(n as u64, Ordering::Relaxed);
                        }
                        Ok(())
                    })
                })
                .collect();
            streams.into_iter().try_for_each(|one| one.join().expect("no panic"))
        })?;
        Ok(moved.load(Ordering::Relaxed) as f64 * 8.0 / 1e9)
    }

    /// A connection per question, some at a time; how many there were.
    pub fn handshakes(&self, resumed: bool, lasting: Duration) -> Result<u64> {
        let client = if resumed { &self.resuming } else { &self.fresh };
        let done = AtomicU64::new(0);
        let start = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        while start.elapsed() < lasting {
                            let mut stream = client.over(dial(SMALL)?)?;
                            ask(&mut stream)?;
                            let was = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
                            // The first of each client has nothing to resume yet.
                            if was != resumed && done.load(Ordering::Relaxed) > 4 * CLIENTS as u64 {
                                bail!("resumed: {was}, expected: {resumed}");
                            }
                            stream.conn.send_close_notify();
                            let _ = stream.flush();
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    })
                })
                .collect();
            clients.into_iter().try_for_each(|one| one.join().expect("no panic"))
        })?;
        Ok(done.into_inner())
    }

    /// So many connections that said something once.
    pub fn idle(&self, count: usize) -> Result<Vec<Arc<dyn Send + Sync>>> {
        let mut held: Vec<Arc<dyn Send + Sync>> = Vec::new();
        for _ in 0..count {
            let mut stream = self.fresh.over(dial(SMALL)?)?;
            ask(&mut stream)?;
            held.push(Arc::new(std::sync::Mutex::new(stream)));
        }
        Ok(held)
    }
}

fn ask(stream: &mut (impl Read + Write)) -> Result<()> {
    stream.write_all(&[b'q'; 64])?;
    stream.read_exact(&mut [0; 128]).context("no answer")
}
