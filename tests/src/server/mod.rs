//! Servers for tests: each is a function over one accepted connection, on a thread of its own.

pub mod payload;

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use socket2::SockRef;

use crate::family::{At, unmapped};
use crate::server::payload::{Checksum, Payload};
use crate::until::uninterrupted;

/// The longest that a server waits for its client: longer than any test does, so that the client's end is what fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The behaviour of a server on one connection. When it returns, the connection is closed.
pub trait Behaviour: Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static {}

impl<F: Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static> Behaviour for F {}

/// A running server. Dropped, it stops listening, ends its connections and waits for its threads: a thread that is
/// left behind would keep the namespace alive.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<ServerState>,
    stop: OwnedFd,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct ServerState {
    accepted: AtomicUsize,
    open: Mutex<HashMap<usize, TcpStream>>,
}

impl ServerState {
    fn open(&self) -> MutexGuard<'_, HashMap<usize, TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Serves the connections of a listener.
    pub fn start(listener: TcpListener, behaviour: impl Behaviour) -> Result<Self> {
        let address = listener.local_addr()?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let shared = Arc::new(ServerState::default());
        let behaviour = Arc::new(behaviour);
        listener.set_nonblocking(true)?;
        let acceptor = thread::Builder::new().name(format!("server {address}")).spawn({
            let shared = Arc::clone(&shared);
            move || accept_all(&listener, &stopped, &shared, &behaviour)
        })?;
        Ok(Self { address, shared, stop, acceptor: Some(acceptor) })
    }

    /// Returns the address that it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Returns the number of connections that are still served.
    pub fn open(&self) -> usize {
        self.shared.open().len()
    }
}

impl At for Server {
    fn at(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    stopped: &OwnedFd,
    shared: &Arc<ServerState>,
    behaviour: &Arc<impl Behaviour>,
) {
    let mut workers = Vec::new();
    loop {
        let mut waited = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        if poll(&mut waited, None).is_err() {
            continue;
        }
        if !waited[1].revents().is_empty() {
            break;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let Ok(second) = stream.try_clone() else { continue };
        shared.open().insert(number, second);
        let (shared, behaviour) = (Arc::clone(shared), Arc::clone(behaviour));
        // A thread that ended keeps its stack until it is joined or forgotten, and a process has at most 65,530 mappings.
        if workers.len() % 256 == 255 {
            workers.retain(|worker: &thread::JoinHandle<()>| !worker.is_finished());
        }
        workers.push(thread::spawn(move || {
            // What a peer does wrong is for the test to notice, at its own end.
            let _ = prepare(&stream).and_then(|()| behaviour(stream));
            shared.open().remove(&number);
        }));
    }
    for stream in shared.open().values() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for worker in workers {
        let _ = worker.join();
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Sends back what comes, and ends when the peer does.
pub fn echo() -> impl Behaviour {
    |mut stream| {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match uninterrupted(|| stream.read(&mut buffer))? {
                0 => return Ok(()),
                n => stream.write_all(&buffer[..n])?,
            }
        }
    }
}

/// Says something before the client does, as SMTP and MySQL servers do, then echoes.
pub fn speaks_first(greeting: &str) -> impl Behaviour {
    let greeting = greeting.to_owned();
    move |mut stream| {
        stream.write_all(greeting.as_bytes())?;
        echo()(stream)
    }
}

/// Answers each byte with the same one twice, a write each, as many servers send head and body of an answer: the kernel keeps
/// the second back until the first is acknowledged (Nagle).
pub fn answers_in_two_writes() -> impl Behaviour {
    |mut stream| {
        let mut byte = [0];
        while uninterrupted(|| stream.read(&mut byte))? == 1 {
            stream.write_all(&byte)?;
            stream.write_all(&byte)?;
        }
        Ok(())
    }
}

/// Says which peer it sees, and closes.
pub fn who() -> impl Behaviour {
    |mut stream| {
        let peer = unmapped(stream.peer_addr()?);
        stream.write_all(peer.to_string().as_bytes())
    }
}

/// Reads until the client's half is closed, and only then answers with what it read.
pub fn answers_at_the_end() -> impl Behaviour {
    |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)
    }
}

/// Says `farewell` and closes its own half, then reads on until the client's end and hands what came to `hears`.
pub fn closes_first(farewell: &str, hears: std::sync::mpsc::Sender<Vec<u8>>) -> impl Behaviour {
    let farewell = farewell.to_owned();
    let hears = Mutex::new(hears);
    move |mut stream| {
        stream.write_all(farewell.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        let _ = hears.lock().unwrap_or_else(PoisonError::into_inner).send(all);
        Ok(())
    }
}

/// Resets the connection at once.
pub fn resets() -> impl Behaviour {
    |stream| SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// Resets the connection after the first byte came.
pub fn resets_after_a_byte() -> impl Behaviour {
    |mut stream| {
        stream.read_exact(&mut [0])?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))
    }
}

/// Takes the connection and does nothing with it until the peer ends it.
pub fn silent() -> impl Behaviour {
    |mut stream: TcpStream| {
        stream.set_read_timeout(None)?;
        // Not read: what the peer sends. Its end is an event of its own.
        let mut waited = [PollFd::new(&stream, PollFlags::RDHUP)];
        poll(&mut waited, None)?;
        stream.flush()
    }
}

/// Reads `chunk` bytes at a time with a `pause` between, then answers with length and checksum of all.
pub fn reads_slowly(chunk: usize, pause: Duration) -> impl Behaviour {
    move |mut stream| {
        let (mut sum, mut buffer) = (Checksum::default(), vec![0; chunk]);
        loop {
            match uninterrupted(|| stream.read(&mut buffer))? {
                0 => break,
                n => sum.add(&buffer[..n]),
            }
            thread::park_timeout(pause);
        }
        stream.write_all(sum.to_string().as_bytes())
    }
}

/// Takes everything, then answers with length and checksum of it.
pub fn sink() -> impl Behaviour {
    |mut stream| {
        let sum = Checksum::of(&mut stream)?;
        stream.write_all(sum.to_string().as_bytes())
    }
}

/// Sends a payload and closes.
pub fn source(payload: Payload) -> impl Behaviour {
    move |mut stream| payload.write_to(&mut stream)
}

/// Sends a payload while it takes one, then answers with length and checksum of what it took.
pub fn exchanges(payload: Payload) -> impl Behaviour {
    move |mut stream| {
        let mut incoming = stream.try_clone()?;
        let taken = thread::spawn(move || Checksum::of(&mut incoming));
        payload.write_to(&mut stream)?;
        let sum = taken.join().map_err(|_| io::Error::other("the reader panicked"))??;
        stream.write_all(sum.to_string().as_bytes())
    }
}

/// HTTP/1.1 with keep-alive: answers every request with 200, and with `words`, the request and the client's address.
pub fn http(words: &str) -> impl Behaviour {
    let words = words.to_owned();
    move |stream| {
        let client = unmapped(stream.peer_addr()?);
        let mut answers = stream.try_clone()?;
        let mut requests = BufReader::new(stream);
        loop {
            let Some(first) = read_head(&mut requests)? else { return Ok(()) };
            let what = first.trim_end().trim_end_matches(" HTTP/1.1");
            let body = format!("{words}: {what} from {client}\n");
            write!(
                answers,
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
    }
}

/// Reads a request's head and returns its first line, `None` at the end of the connection.
fn read_head(requests: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut first = String::new();
    if requests.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        match requests.read_line(&mut line)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            _ if line.trim().is_empty() => return Ok(Some(first)),
            _ => {}
        }
    }
}

/// Answers each datagram, with itself if nothing else was said, until dropped.
#[derive(Debug)]
pub struct UdpEcho {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Serves one socket on a thread until it ends.
    pub fn start(socket: std::net::UdpSocket) -> Result<Self> {
        Self::answering(socket, <[u8]>::to_vec)
    }

    /// Serves a socket with other answers.
    pub fn answering(
        socket: std::net::UdpSocket,
        answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            loop {
                let mut waited = [
                    PollFd::new(&socket, PollFlags::IN),
                    PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN),
                ];
                if poll(&mut waited, None).is_ok() && !waited[1].revents().is_empty() {
                    return;
                }
                if let Ok((length, sender)) = uninterrupted(|| socket.recv_from(&mut buffer)) {
                    let _ = socket.send_to(&answer(&buffer[..length]), sender);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
