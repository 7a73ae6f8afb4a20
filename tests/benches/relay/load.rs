//! The loads: requests of 64 bytes that are answered by 128, on one thread with one epoll each side; bulk; idle.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_tests::Host;
use rustix::event::Timespec;
use rustix::event::epoll::{CreateFlags, Event, EventData, EventFlags, add, create, wait};
use socket2::{SockRef, Socket};

const REQUEST: [u8; 64] = [b'q'; 64];
const ANSWER: [u8; 128] = [b'a'; 128];
/// A stream that moves nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// The servers at the far end; they run until the process ends.
#[derive(Debug)]
pub(crate) struct Servers {
    small: SocketAddr,
    sink: SocketAddr,
    swallowed: Arc<AtomicU64>,
}

/// A sink's address and what came in there.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    at: SocketAddr,
    swallowed: Arc<AtomicU64>,
}

/// The outcome of a load.
#[derive(Debug)]
pub(crate) struct Paced {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Servers {
    pub(crate) fn start(host: &Host) -> Result<Self> {
        let (small, sink) = (host.listen("192.0.2.10:8080")?, host.listen("192.0.2.10:8081")?);
        SockRef::from(&small).listen(4096)?;
        let addresses = (small.local_addr()?, sink.local_addr()?);
        let swallowed = Arc::new(AtomicU64::new(0));
        thread::Builder::new().name("answers".into()).spawn(move || answer_all(&small))?;
        thread::Builder::new().name("sink".into()).spawn({
            let swallowed = Arc::clone(&swallowed);
            move || swallow_all(&sink, &swallowed)
        })?;
        Ok(Self { small: addresses.0, sink: addresses.1, swallowed })
    }

    pub(crate) fn small(&self) -> SocketAddr {
        self.small
    }

    pub(crate) fn sink(&self) -> Sink {
        Sink { at: self.sink, swallowed: Arc::clone(&self.swallowed) }
    }
}

fn watch(epoll: &OwnedFd, what: impl rustix::fd::AsFd, number: usize) -> io::Result<()> {
    Ok(add(epoll, what, EventData::new_u64(number as u64), EventFlags::IN)?)
}

/// The ready ones, as the numbers given to [`watch`].
fn ready(epoll: &OwnedFd, events: &mut Vec<Event>, within: Duration) -> io::Result<()> {
    events.clear();
    let within = Timespec::try_from(within).map_err(io::Error::other)?;
    match wait(epoll, rustix::buffer::spare_capacity(events), Some(&within)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn answer_all(listener: &TcpListener) -> io::Result<()> {
    const LISTENER: usize = usize::MAX;
    let epoll = create(CreateFlags::CLOEXEC)?;
    listener.set_nonblocking(true)?;
    watch(&epoll, listener, LISTENER)?;
    let mut open: Vec<Option<TcpStream>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Vec::with_capacity(256);
    let mut buffer = [0; 4096];
    loop {
        ready(&epoll, &mut events, PATIENCE)?;
        for event in &events {
            let number = event.data.u64() as usize;
            if number == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let place = free.pop().unwrap_or_else(|| {
                        open.push(None);
                        open.len() - 1
                    });
                    watch(&epoll, &stream, place)?;
                    open[place] = Some(stream);
                }
                continue;
            }
            let Some(mut stream) = open[number].as_ref() else { continue };
            let over = match stream.read(&mut buffer) {
                Ok(0) => true,
                Ok(n) => stream.write_all(&ANSWER[..ANSWER.len() * n / REQUEST.len()]).is_err(),
                Err(error) => error.kind() != ErrorKind::WouldBlock,
            };
            if over {
                open[number] = None;
                free.push(number);
            }
        }
    }
}

fn swallow_all(listener: &TcpListener, swallowed: &Arc<AtomicU64>) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        let swallowed = Arc::clone(swallowed);
        thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                swallowed.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
    }
}

/// A connection under way or open. Not waited for: a new one per request must not serialise on the handshake.
fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// So many connections, each asking again as soon as it was answered.
pub(crate) fn requests(to: SocketAddr, connections: usize, lasting: Duration) -> Result<Paced> {
    let epoll = create(CreateFlags::CLOEXEC)?;
    let mut streams = Vec::new();
    for number in 0..connections {
        let stream = dial(to).context("cannot connect")?;
        watch(&epoll, &stream, number)?;
        streams.push((stream, 0, Instant::now()));
    }
    let mut times = Vec::with_capacity(1 << 20);
    let mut events = Vec::with_capacity(256);
    let mut buffer = [0; 4096];
    let start = Instant::now();
    for (stream, _, asked) in &mut streams {
        *asked = Instant::now();
        stream.write_all(&REQUEST)?;
    }
    while start.elapsed() < lasting {
        ready(&epoll, &mut events, PATIENCE)?;
        anyhow::ensure!(!events.is_empty(), "no answer within {PATIENCE:?}");
        for event in &events {
            let (stream, got, asked) = &mut streams[event.data.u64() as usize];
            match stream.read(&mut buffer) {
                Ok(0) => anyhow::bail!("closed"),
                Ok(n) => *got += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            if *got >= ANSWER.len() {
                let now = Instant::now();
                times.push(now - *asked);
                (*got, *asked) = (0, now);
                stream.write_all(&REQUEST)?;
            }
        }
    }
    Ok(paced(times, start.elapsed()))
}

/// A new connection per request, so many under way at a time.
pub(crate) fn connections(to: SocketAddr, at_a_time: usize, lasting: Duration) -> Result<Paced> {
    let start = Instant::now();
    let workers: Vec<_> = (0..at_a_time).map(|_| move || one_after_the_other(to, start, lasting)).collect();
    let times = thread::scope(|scope| {
        let running: Vec<_> = workers.into_iter().map(|worker| scope.spawn(worker)).collect();
        running.into_iter().map(|one| one.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    Ok(paced(times.into_iter().flatten().collect(), start.elapsed()))
}

fn one_after_the_other(to: SocketAddr, start: Instant, lasting: Duration) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut answer = [0; ANSWER.len()];
    while start.elapsed() < lasting {
        let asked = Instant::now();
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("cannot connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&REQUEST)?;
        stream.read_exact(&mut answer).context("no answer")?;
        times.push(asked.elapsed());
    }
    Ok(times)
}

fn paced(mut times: Vec<Duration>, lasted: Duration) -> Paced {
    times.sort_unstable();
    let at = |share: f64| {
        let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    Paced { per_second: times.len() as f64 / lasted.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99) }
}

/// So many streams that send as fast as they can; gigabits per second that came in.
pub(crate) fn bulk(to: Sink, streams: usize, lasting: Duration) -> Result<f64> {
    let opened: Vec<_> =
        (0..streams).map(|_| TcpStream::connect_timeout(&to.at, PATIENCE)).collect::<io::Result<_>>()?;
    let before = to.swallowed.load(Ordering::Relaxed);
    let start = Instant::now();
    thread::scope(|scope| {
        for mut stream in opened {
            scope.spawn(move || {
                let chunk = vec![b'x'; 128 * 1024];
                let _ = stream.set_write_timeout(Some(PATIENCE));
                while start.elapsed() < lasting && stream.write_all(&chunk).is_ok() {}
                // Not the queue's rest: the next load is to start on an empty cable.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            });
        }
    });
    let bytes = to.swallowed.load(Ordering::Relaxed) - before;
    Ok(bytes as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64())
}

/// So many connections that said something once.
pub(crate) fn idle(to: SocketAddr, count: usize) -> Result<Vec<Socket>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.write_all(&REQUEST)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut [0; ANSWER.len()])?;
        held.push(stream.into());
    }
    Ok(held)
}
