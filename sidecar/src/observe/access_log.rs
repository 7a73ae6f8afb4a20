// SPDX-License-Identifier: Apache-2.0
//! The closing record of each connection, and the log that it goes to.
//!
//! Connections hand their record to a bounded queue and never wait; a thread of its own writes it, as a pipe or a disk
//! may block. When the writer cannot keep up, or cannot write, records are dropped and counted.

use crate::metrics::{Counter, metrics};
use crate::net::addrs::{ClientAddr, DialAddr, Direction, OrigDst};
use crate::net::clock::rfc3339;
use crate::net::throttle::Throttle;
use crate::observe::close_reason::CloseReason;
use crate::observe::flush;
use crate::observe::log_file::{Followed, LOOK_EVERY, LogFile, Output};
use crate::observe::spoken::Known;
use crate::options::config::AccessLog;
use culvert_mesh::model::spiffe::SpiffeId;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, SystemTime};

/// Records that may wait for the writer: some 3 MB, and half a second of a busy pod.
const QUEUE: usize = 8192;
/// Bytes that are written in one go.
const BATCH: usize = 64 * 1024;
/// Time between two warnings that records cannot be written.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The closing record of a connection. Destination and cluster are missing where it was refused before they were known.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Unique in this process, ascending.
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    pub(crate) client: ClientAddr,
    pub(crate) orig_dst: Option<OrigDst>,
    pub(crate) dial: Option<DialAddr>,
    pub(crate) cluster: Option<Arc<str>>,
    /// Bytes from the client to the server.
    pub(crate) bytes_sent: u64,
    /// Bytes from the server to the client.
    pub(crate) bytes_recv: u64,
    pub(crate) ended: SystemTime,
    pub(crate) duration: Duration,
    /// Protocol and peer, where a mesh's mTLS asks for them.
    pub(crate) known: Option<Arc<Known>>,
    pub(crate) reason: CloseReason,
    /// Error behind the reason, in words.
    pub(crate) error: Option<String>,
}

/// A record as JSON. Programs that parse the log rely on these names.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    id: u64,
    direction: &'static str,
    #[serde(rename = "src.addr")]
    src: String,
    orig_dst: Option<String>,
    #[serde(rename = "dst.addr")]
    dst: Option<String>,
    cluster: Option<&'a str>,
    bytes_sent: u64,
    bytes_recv: u64,
    /// In seconds.
    duration: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Record {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self {
            id,
            direction,
            client,
            orig_dst,
            dial,
            cluster,
            bytes_sent,
            bytes_recv,
            ended,
            duration,
            known,
            reason,
            error,
        } = self;
        let micros = ended.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_micros();
        let line = Line {
            time: format!("{}.{micros:06}Z", rfc3339(*ended).trim_end_matches('Z')),
            id: *id,
            direction: direction.name(),
            src: client.to_string(),
            orig_dst: orig_dst.map(|addr| addr.to_string()),
            dst: dial.map(|addr| addr.to_string()),
            cluster: cluster.as_deref(),
            bytes_sent: *bytes_sent,
            bytes_recv: *bytes_recv,
            duration: duration.as_micros() as f64 / 1e6,
            tls: known.as_ref().map(|known| known.spoken.name()),
            peer: known.as_ref().and_then(|known| known.peer.as_ref()).map(SpiffeId::as_str),
            reason: reason.name(),
            error: error.as_deref(),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    }
}

/// A log that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write the access log to {path} (--access-log): {source}; name a file that uid {uid} may write, or stdout"
)]
pub struct AccessLogError {
    path: std::path::PathBuf,
    uid: nix::unistd::Uid,
    source: io::Error,
}

metrics! {
    /// Losses of the access log.
    #[derive(Clone, Default)]
    pub(crate) struct AccessLogMetrics {
        dropped: Counter = "access_log_dropped",
            "Closing records that the access log could not keep up with, could not write, or wrote to a file that was removed"
            => "access_log.dropped";
    }
}

/// The access log, as connections see it.
#[derive(Debug)]
pub(crate) struct AccessLogger {
    queue: Option<SyncSender<Message>>,
    metrics: AccessLogMetrics,
}

#[derive(Debug)]
enum Message {
    Record(Record),
    /// Look for the file of the log's name.
    Reopen,
    /// Write out the queue, answer, and end.
    End(SyncSender<()>),
}

impl AccessLogger {
    /// Opens the log and starts its writer; no thread where it is off.
    ///
    /// # Errors
    /// The file cannot be opened, or a thread not started. A retry helps only after the cause was removed.
    pub(crate) fn start(target: &AccessLog, metrics: AccessLogMetrics) -> Result<Self, AccessLogError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AccessLogError { path, uid: nix::unistd::geteuid(), source }
        };
        let out: Box<dyn Output + Send> = match target {
            AccessLog::Off => return Ok(Self { queue: None, metrics }),
            // Not std's handle: its buffer hides how much of a line was written, and a cut line has to be counted.
            AccessLog::Stdout => {
                let out = io::stdout().as_fd().try_clone_to_owned().map_err(failed("stdout".as_ref()))?;
                Box::new(File::from(out))
            }
            AccessLog::File(path) => Box::new(LogFile::open(path).map_err(failed(path))?),
        };
        let (queue, records) = sync_channel(QUEUE);
        let mut log = Log { out, metrics: metrics.clone(), cut: false, warnings: Throttle::new(LOG_EVERY) };
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&records, &mut log))
            .map_err(failed("a thread of its own".as_ref()))?;
        Ok(Self { queue: Some(queue), metrics })
    }

    /// Returns true when records are written.
    pub(crate) fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands a record over. Never waits: a record that finds the queue full is dropped and counted.
    pub(crate) fn record(&self, record: Record) {
        if let Some(queue) = &self.queue
            && queue.try_send(Message::Record(record)).is_err()
        {
            self.metrics.dropped.inc();
        }
    }

    /// Looks for the file of the log's name. With a full queue the writer does so by itself, within a second.
    pub(crate) fn reopen(&self) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(Message::Reopen);
        }
    }

    /// Writes out all records so far, within `deadline`, as a pipe may have no reader any more.
    pub(crate) fn finish(&self, deadline: Duration) {
        if let Some(queue) = &self.queue {
            flush::write_out(queue, Message::End, deadline);
        }
    }
}

/// Writes until the end: all queued records in one go, then waits for more.
fn write_all(records: &Receiver<Message>, log: &mut Log<impl Output>) {
    let mut batch = Vec::new();
    let mut done = None;
    while let Some(message) = next(records, log, &mut batch) {
        match message {
            // Writing to a Vec does not fail.
            Message::Record(record) => _ = record.write(&mut batch),
            Message::Reopen => log.follow(),
            Message::End(written) => {
                done = Some(written);
                break;
            }
        }
        if batch.len() >= BATCH {
            log.put(&mut batch);
        }
    }
    log.put(&mut batch);
    if let Some(written) = done {
        let _ = written.send(());
    }
}

/// Returns the next message, for which it waits once what came before is written. `None` when no more will come.
fn next(records: &Receiver<Message>, log: &mut Log<impl Output>, batch: &mut Vec<u8>) -> Option<Message> {
    match records.try_recv() {
        Ok(message) => return Some(message),
        Err(TryRecvError::Disconnected) => return None,
        Err(TryRecvError::Empty) => log.put(batch),
    }
    while log.out.is_followed() {
        match records.recv_timeout(LOOK_EVERY) {
            Ok(message) => return Some(message),
            Err(RecvTimeoutError::Disconnected) => return None,
            // A file that is away is made again, though no connection has ended.
            Err(RecvTimeoutError::Timeout) => log.follow(),
        }
    }
    records.recv().ok()
}

/// The file or pipe of the log, and the state of its last line.
struct Log<W> {
    out: W,
    metrics: AccessLogMetrics,
    /// True when the last write ended within a line.
    cut: bool,
    warnings: Throttle,
}

impl<W: Output> Log<W> {
    /// Changes to another file if the log's name stands for one.
    fn follow(&mut self) {
        let followed = self.out.follow();
        self.note(followed);
    }

    fn note(&mut self, followed: Followed) {
        self.metrics.dropped.inc_by(followed.lost);
        // A new file has no line that was cut.
        self.cut &= !followed.reopened;
    }

    /// Writes lines. Those that a full disk or a closed pipe does not take are dropped, so that the queue does not fill up.
    fn put(&mut self, lines: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let followed = self.out.follow_when_due();
        self.note(followed);
        if self.cut {
            // What comes next begins a line of its own.
            lines.insert(0, b'\n');
        }
        let mut rest = lines.as_slice();
        while !rest.is_empty() {
            let error = match self.out.write(rest) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(written) => {
                    self.cut = rest[written - 1] != b'\n';
                    rest = &rest[written..];
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let ends = rest.iter().filter(|byte| **byte == b'\n').count();
            // The end of a line that was cut earlier is not one more.
            let counted_before = usize::from(rest.len() == lines.len() && lines[0] == b'\n');
            self.metrics.dropped.inc_by((ends - counted_before) as u64);
            if self.warnings.ready() {
                tracing::warn!(%error, "cannot write the access log; what is lost is counted as access_log_dropped");
            }
            break;
        }
        lines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reason: CloseReason, error: Option<&str>) -> Record {
        Record {
            id: 7,
            direction: Direction::Outbound,
            client: ClientAddr::new("10.0.0.2:4000".parse().unwrap()),
            orig_dst: Some(OrigDst::new("[2001:db8::1]:443".parse().unwrap())),
            dial: Some(DialAddr::new("[2001:db8::1]:443".parse().unwrap())),
            cluster: Some("outbound:passthrough:ipv6".into()),
            bytes_sent: 5,
            bytes_recv: 70_000,
            ended: SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_225_600_000_042),
            duration: Duration::from_micros(1_234_567),
            known: None,
            reason,
            error: error.map(Into::into),
        }
    }

    #[test]
    fn a_record_is_one_line_with_stable_names() {
        let mut out = Vec::new();
        record(CloseReason::Ok, None).write(&mut out).unwrap();
        record(CloseReason::ConnectRefused, Some("\"quoted\"\nand broken")).write(&mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn what_was_handed_over_is_written_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLogger::start(&AccessLog::File(path.clone()), AccessLogMetrics::default()).unwrap();
        for _ in 0..100 {
            log.record(record(CloseReason::Ok, None));
        }
        assert_eq!(log.metrics.dropped.get(), 0);
        log.finish(Duration::from_secs(10));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 100);
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        }
    }

    #[test]
    fn a_writer_that_is_stuck_drops_records_and_delays_no_connection() {
        let (queue, _unread) = sync_channel(1);
        let log = AccessLogger { queue: Some(queue), metrics: AccessLogMetrics::default() };
        for dropped in [0, 1] {
            log.record(record(CloseReason::Ok, None));
            assert_eq!(log.metrics.dropped.get(), dropped);
        }
    }

    /// Takes so many bytes, and then no more until it is given room.
    struct Disk {
        holds: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.holds.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for Disk {}

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_later_lines_are_whole() {
        let disk = Disk { holds: Vec::new(), room: 7 };
        let metrics = AccessLogMetrics::default();
        let mut log = Log { out: disk, metrics, cut: false, warnings: Throttle::new(LOG_EVERY) };
        let put = |log: &mut Log<Disk>, lines: &str| {
            log.put(&mut lines.as_bytes().to_vec());
            log.metrics.dropped.get()
        };
        assert_eq!(put(&mut log, "one\ntwo2\nthree\n"), 2, "the second was cut");
        assert_eq!(put(&mut log, "four\nfive\n"), 4);
        log.out.room = 100;
        assert_eq!(put(&mut log, "six\n"), 4);
        assert_eq!(put(&mut log, "seven\n"), 4);
        assert_eq!(String::from_utf8(log.out.holds).unwrap(), "one\ntwo\nsix\nseven\n");
    }

    #[test]
    fn a_record_that_cannot_be_written_is_counted() {
        let metrics = AccessLogMetrics::default();
        let log = AccessLogger::start(&AccessLog::File("/dev/full".into()), metrics.clone()).unwrap();
        for _ in 0..3 {
            log.record(record(CloseReason::Ok, None));
        }
        log.finish(Duration::from_secs(10));
        assert_eq!(metrics.dropped.get(), 3);
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_named() {
        let target = AccessLog::File("/proc/no/such/file".into());
        let error = AccessLogger::start(&target, AccessLogMetrics::default()).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot write the access log to /proc/no/such/file (--access-log)"),
            "{error}"
        );
    }
}
