//! The server that answers everything, and the client.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::event::Timespec;
use rustix::event::epoll::{CreateFlags, Event, EventData, EventFlags, add, create, wait};

/// Bytes before the question.
const HEADER: usize = 12;

/// A query without an answer for so long is lost, and another one takes its place.
const PATIENCE: Duration = Duration::from_secs(1);

/// Names that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// One of the mesh.
    Mesh,
    /// Another one each time, so that no cache could have it.
    Outside,
}

/// The outcome of a load.
#[derive(Debug)]
pub(crate) struct Load {
    pub answers: usize,
    pub lost: usize,
    pub lasted: Duration,
    /// Sorted.
    times: Vec<Duration>,
}

impl Load {
    /// Time in µs within which this share was answered.
    pub(crate) fn share(&self, share: f64) -> f64 {
        let place = ((self.times.len() as f64 * share) as usize).min(self.times.len().saturating_sub(1));
        self.times.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

/// Answers each query with one address, until the process ends.
pub(crate) fn serve(socket: UdpSocket) -> Result<()> {
    socket.set_read_timeout(None)?;
    thread::Builder::new().name("server".into()).spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let Some(end) = question_end(&buffer[..length]) else { continue };
            let mut answer = buffer[..end].to_vec();
            answer[2] |= 0x80;
            answer[3] = 0x80;
            answer[6..HEADER].fill(0);
            answer[7] = 1;
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 198, 51, 100, 1]);
            let _ = socket.send_to(&answer, from);
        }
    })?;
    Ok(())
}

fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    while *message.get(at)? != 0 {
        at += 1 + usize::from(message[at]);
    }
    Some(at + 5).filter(|end| *end <= message.len())
}

fn query(id: u16, asked: Asked, number: usize) -> Vec<u8> {
    let name = match asked {
        Asked::Mesh => "web.mesh".to_owned(),
        Asked::Outside => format!("q{number}.test"),
    };
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// A socket with the query that it waits for.
struct Client {
    socket: UdpSocket,
    id: u16,
    sent: Instant,
}

impl Client {
    fn ask(&mut self, asked: Asked, number: usize) -> io::Result<()> {
        self.id = self.id.wrapping_add(1);
        self.sent = Instant::now();
        self.socket.send(&query(self.id, asked, number)).map(|_| ())
    }

    /// Returns true once the answer is there.
    fn answered(&self, buffer: &mut [u8]) -> Result<bool> {
        loop {
            let length = match self.socket.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            // One that was given up for lost came after all.
            if buffer[..2] != self.id.to_be_bytes() {
                continue;
            }
            ensure!(
                buffer[3] & 0xf == 0 && buffer[7] > 0 && length > HEADER,
                "an answer of code {}",
                buffer[3] & 0xf
            );
            return Ok(true);
        }
    }
}

/// So many sockets, each asking again as soon as it was answered.
pub(crate) fn queries(to: SocketAddr, asked: Asked, at_a_time: usize, lasting: Duration) -> Result<Load> {
    let epoll = create(CreateFlags::CLOEXEC)?;
    let mut clients = Vec::new();
    let start = Instant::now();
    let mut number = 0;
    for place in 0..at_a_time {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        add(&epoll, &socket, EventData::new_u64(place as u64), EventFlags::IN)?;
        let mut client = Client { socket, id: 0, sent: start };
        client.ask(asked, number)?;
        number += 1;
        clients.push(client);
    }
    let mut load = Load { answers: 0, lost: 0, lasted: Duration::ZERO, times: Vec::with_capacity(1 << 20) };
    let mut events: Vec<Event> = Vec::with_capacity(256);
    let mut buffer = [0; 4096];
    let within = Timespec::try_from(PATIENCE / 10)?;
    while start.elapsed() < lasting {
        events.clear();
        match wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&within)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let client = &mut clients[event.data.u64() as usize];
            if client.answered(&mut buffer)? {
                load.times.push(client.sent.elapsed());
                client.ask(asked, number)?;
                number += 1;
            }
        }
        if events.len() < at_a_time {
            for client in clients.iter_mut().filter(|client| client.sent.elapsed() > PATIENCE) {
                load.lost += 1;
                client.ask(asked, number)?;
                number += 1;
            }
        }
    }
    load.lasted = start.elapsed();
    load.answers = load.times.len();
    load.times.sort_unstable();
    ensure!(load.answers > 0, "no answer within {lasting:?}");
    Ok(load)
}
