// SPDX-License-Identifier: Apache-2.0
//! Writes lines to files and TCP servers. A connection hands its line to a bounded queue and never waits; each target has
//! a thread of its own, as a disk or a server may block. A line that finds its queue full is dropped and counted.

use super::Target;
use crate::metrics::{Counter, metrics};
use crate::observe::flush;
use crate::observe::log_file::{LOOK_EVERY, LogFile, Output};
use culvert_mesh::model::address::{Host, HostPort};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that may wait: one second of a busy pod, some 2 MB.
const QUEUE: usize = 8192;
/// Most targets of one configuration: each is a thread.
pub const MOST_TARGETS: usize = 16;
/// Time for a TCP server to accept a connection, and to take a write.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried: each may take [`PATIENCE`], and meanwhile no line is written.
const MOST_ADDRESSES: usize = 3;
/// Between two tries to reach it.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes that are written at once.
const BATCH: usize = 64 * 1024;

metrics! {
    /// Losses of the traffic logs.
    #[derive(Clone, Default)]
    pub(crate) struct TrafficLogMetrics {
        dropped: Counter = "traffic_log_dropped",
            "Lines of traffic logs dropped because their target could not keep up, or written to a file that was removed"
            => "traffic_log.dropped";
    }
}

/// All targets in use.
#[derive(Debug, Default)]
pub(crate) struct TrafficLogger {
    queues: Mutex<BTreeMap<Target, SyncSender<Message>>>,
    metrics: TrafficLogMetrics,
}

#[derive(Debug)]
enum Message {
    Line(String),
    /// Look for the file of the target's name.
    Reopen,
    /// Write out the queue, answer, and end.
    End(SyncSender<()>),
}

impl TrafficLogger {
    /// Has no target yet.
    pub(crate) fn new(metrics: TrafficLogMetrics) -> Self {
        Self { queues: Mutex::default(), metrics }
    }

    /// Starts what is new among `targets`; what is no longer among them ends when its queue is written.
    ///
    /// # Errors
    /// A thread cannot be started. The targets before stay in use; a retry is safe.
    pub(crate) fn use_only(&self, targets: &[Target]) -> io::Result<()> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        for target in targets {
            if queues.contains_key(target) {
                continue;
            }
            let (queue, lines) = sync_channel(QUEUE);
            let mut writer = TargetWriter::new(target.clone(), self.metrics.clone());
            std::thread::Builder::new().name("traffic-log".into()).spawn(move || writer.write_all(&lines))?;
            queues.insert(target.clone(), queue);
        }
        // A sender that is dropped ends its thread, after what it was given.
        queues.retain(|target, _| targets.contains(target));
        Ok(())
    }

    /// Hands a line over. Never waits.
    pub(crate) fn send(&self, target: &Target, line: String) {
        let queue = self.queues.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned();
        // A connection that outlived its configuration has no target any more.
        let Some(queue) = queue else { return };
        if queue.try_send(Message::Line(line)).is_err() {
            self.metrics.dropped.inc();
        }
    }

    /// Looks for the files of the targets' names. With a full queue a writer does so by itself, within a second.
    pub(crate) fn reopen(&self) {
        for queue in self.queues.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = queue.try_send(Message::Reopen);
        }
    }

    /// Writes out all lines so far, within `deadline`.
    pub(crate) fn finish(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        let queues = std::mem::take(&mut *self.queues.lock().unwrap_or_else(PoisonError::into_inner));
        // All writers end at the same time, so that one that is stuck costs the others nothing.
        let ends: Vec<_> =
            queues.values().filter_map(|queue| flush::send_end(queue, Message::End, until)).collect();
        for written in ends {
            flush::wait(&written, until);
        }
    }
}

struct TargetWriter {
    target: Target,
    metrics: TrafficLogMetrics,
    out: Option<Box<dyn Output + Send>>,
    /// Time of the last try to open it.
    tried: Option<Instant>,
    /// It was said that it cannot be opened.
    warned: bool,
    /// Lines to write, and how many they are.
    batch: String,
    count: u64,
}

impl TargetWriter {
    fn new(target: Target, metrics: TrafficLogMetrics) -> Self {
        Self { target, metrics, out: None, tried: None, warned: false, batch: String::new(), count: 0 }
    }

    /// Writes until the end: all queued lines in one go, then waits for more.
    fn write_all(&mut self, lines: &Receiver<Message>) {
        while let Some(first) = self.wait(lines) {
            let mut next = Some(first);
            let mut done = None;
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        self.batch.push_str(&line);
                        self.count += 1;
                    }
                    Message::Reopen => self.reopen(),
                    Message::End(written) => {
                        done = Some(written);
                        break;
                    }
                }
                next = if self.batch.len() < BATCH { lines.try_recv().ok() } else { None };
            }
            self.write();
            if let Some(written) = done {
                let _ = written.send(());
                return;
            }
        }
    }

    /// Waits for the next message; `None` when no more will come.
    fn wait(&mut self, lines: &Receiver<Message>) -> Option<Message> {
        while self.out.as_ref().is_some_and(|out| out.is_followed()) {
            match lines.recv_timeout(LOOK_EVERY) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.follow(),
            }
        }
        lines.recv().ok()
    }

    fn follow(&mut self) {
        if let Some(out) = &mut self.out {
            self.metrics.dropped.inc_by(out.follow().lost);
        }
    }

    /// Looks for the file at once, and tries what could not be opened again.
    fn reopen(&mut self) {
        self.tried = None;
        self.follow();
    }

    /// Writes the batch. A target that is away is tried again now and then; meanwhile lines are dropped rather than piled
    /// up.
    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.out.is_none() && self.tried.is_none_or(|at| at.elapsed() >= RETRY) {
            self.tried = Some(Instant::now());
            match open(&self.target) {
                Ok(opened) => (self.out, self.warned) = (Some(opened), false),
                // Once, until it worked again: it may be away for long.
                Err(error) if !std::mem::replace(&mut self.warned, true) => {
                    tracing::warn!(target = %self.target, %error, "cannot write the traffic log; trying again");
                }
                Err(_) => {}
            }
        }
        let failed = match &mut self.out {
            Some(out) => {
                self.metrics.dropped.inc_by(out.follow_when_due().lost);
                out.write_all(self.batch.as_bytes()).and_then(|()| out.flush()).is_err()
            }
            None => true,
        };
        if failed {
            self.out = None;
            self.metrics.dropped.inc_by(self.count);
        }
        self.batch.clear();
        self.count = 0;
    }
}

fn open(target: &Target) -> io::Result<Box<dyn Output + Send>> {
    Ok(match target {
        Target::File(path) if path == "/dev/stdout" => Box::new(io::stdout()),
        Target::File(path) if path == "/dev/stderr" => Box::new(io::stderr()),
        Target::File(path) => Box::new(LogFile::open(path)?),
        Target::Tcp(server) => {
            let stream = connect(server)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Box::new(stream)
        }
    })
}

/// Connects to the first address of the server that takes the connection.
fn connect(HostPort { host, port }: &HostPort) -> io::Result<TcpStream> {
    let addresses = match host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, *port)],
        // On this thread, which may wait: resolv.conf says for how long. A server that moved is found again, as each
        // connect asks anew.
        Host::Name(name) => (&**name, *port).to_socket_addrs()?.take(MOST_ADDRESSES).collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    #[test]
    fn a_file_and_a_server_get_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log").display().to_string();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let targets = [Target::File(path.clone()), Target::Tcp(server.local_addr().unwrap().into())];
        let logger = TrafficLogger::default();
        logger.use_only(&targets).unwrap();
        for target in &targets {
            for line in ["one\n", "two\n"] {
                logger.send(target, line.into());
            }
        }
        let (stream, _) = server.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!([lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()], ["one", "two"]);
        logger.finish(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo\n");
        assert_eq!(logger.metrics.dropped.get(), 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_delay_no_sender() {
        let logger = TrafficLogger::default();
        let target = Target::File("/proc/no/such/file".into());
        logger.use_only(std::slice::from_ref(&target)).unwrap();
        let start = Instant::now();
        for _ in 0..2 * QUEUE {
            logger.send(&target, "line\n".into());
        }
        logger.finish(Duration::from_secs(10));
        assert_eq!(logger.metrics.dropped.get(), 2 * QUEUE as u64);
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_server_is_found_by_its_name() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let target = Target::Tcp(HostPort { host: Host::parse("localhost").unwrap(), port });
        assert_eq!(target.to_string(), format!("tcp://localhost:{port}"));
        let logger = TrafficLogger::default();
        logger.use_only(std::slice::from_ref(&target)).unwrap();
        logger.send(&target, "one\n".into());
        let (stream, _) = server.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(BufReader::new(stream).lines().next().unwrap().unwrap(), "one");
    }

    #[test]
    fn a_file_that_is_renamed_or_removed_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let target = Target::File(path.display().to_string());
        let logger = TrafficLogger::default();
        logger.use_only(std::slice::from_ref(&target)).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let holds = |text: &str| {
            while std::fs::read_to_string(&path).ok().as_deref() != Some(text) {
                assert!(Instant::now() < until, "{text:?}");
                std::thread::yield_now();
            }
        };
        logger.send(&target, "one\n".into());
        holds("one\n");
        // By itself, without a line to write.
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        holds("");
        logger.send(&target, "two\n".into());
        holds("two\n");
        std::fs::remove_file(&path).unwrap();
        logger.reopen();
        holds("");
        logger.finish(Duration::from_secs(10));
    }

    #[test]
    fn a_target_that_is_no_longer_used_ends_after_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let target = Target::File(path.display().to_string());
        let logger = TrafficLogger::default();
        logger.use_only(std::slice::from_ref(&target)).unwrap();
        logger.send(&target, "last\n".into());
        logger.use_only(&[]).unwrap();
        logger.send(&target, "too late\n".into());
        let until = Instant::now() + Duration::from_secs(10);
        while std::fs::read_to_string(&path).unwrap_or_default() != "last\n" {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
    }
}
