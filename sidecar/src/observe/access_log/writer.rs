// SPDX-License-Identifier: Apache-2.0
//! A log of records, as the access log is one.
//!
//! Connections hand their record to a bounded queue and never wait; a thread of its own writes it, as a pipe or a disk
//! may block. When the writer cannot keep up, or cannot write, records are dropped and counted.

use crate::metrics::Counter;
use crate::net::throttle::Throttle;
use crate::observe::flush;
use crate::observe::log_file::{Followed, LOOK_EVERY, LogFile, Output};
use crate::options::config::AccessLog;
use std::fmt;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

/// Records that may wait for the writer: some 3 MB, and half a second of a busy pod.
const QUEUE: usize = 8192;
/// Bytes that are written in one go.
const BATCH: usize = 64 * 1024;
/// Time between two warnings that records cannot be written.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// A record of a log, with the words for that log.
pub(crate) trait LogRecord: fmt::Debug + Send + 'static {
    /// Name of the log, for people.
    const LOG: &'static str;
    /// Option that names its file.
    const OPTION: &'static str;
    /// Name of its thread.
    const THREAD: &'static str;
    /// Metric of what is lost.
    const LOST: &'static str;

    /// Writes one line, its end included. Writing to a Vec does not fail.
    fn write(&self, out: &mut Vec<u8>) -> io::Result<()>;
}

/// A log that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write the {log} to {path} ({option}): {source}; name a file that uid {uid} may write, or stdout"
)]
pub struct RecordLogError {
    log: &'static str,
    option: &'static str,
    path: PathBuf,
    uid: nix::unistd::Uid,
    source: io::Error,
}

/// A log, as connections see it.
#[derive(Debug)]
pub(crate) struct RecordLogger<R> {
    queue: Option<SyncSender<Message<R>>>,
    dropped: Counter,
}

#[derive(Debug)]
enum Message<R> {
    /// In a box, so that the places of the queue, all of which are there from the start, take 0.3 MB and not 1.7.
    Record(Box<R>),
    /// Look for the file of the log's name.
    Reopen,
    /// Write out the queue, answer, and end.
    End(SyncSender<()>),
}

impl<R: LogRecord> RecordLogger<R> {
    /// One that is off.
    #[cfg(test)]
    pub(crate) fn off() -> Self {
        Self { queue: None, dropped: Counter::default() }
    }

    /// Opens the log and starts its writer; no thread where it is off.
    ///
    /// # Errors
    /// The file cannot be opened, or a thread not started. A retry helps only after the cause was removed.
    pub(crate) fn start(target: &AccessLog, dropped: Counter) -> Result<Self, RecordLogError> {
        let failed = |path: &Path| {
            let (log, option, path) = (R::LOG, R::OPTION, path.to_owned());
            move |source| RecordLogError { log, option, path, uid: nix::unistd::geteuid(), source }
        };
        let out: Box<dyn Output + Send> = match target {
            AccessLog::Off => return Ok(Self { queue: None, dropped }),
            // Not std's handle: its buffer hides how much of a line was written, and a cut line has to be counted.
            AccessLog::Stdout => {
                let out = io::stdout().as_fd().try_clone_to_owned().map_err(failed("stdout".as_ref()))?;
                Box::new(File::from(out))
            }
            AccessLog::File(path) => Box::new(LogFile::open(path).map_err(failed(path))?),
        };
        let (queue, records) = sync_channel(QUEUE);
        let mut log = Log::<_, R>::new(out, dropped.clone());
        std::thread::Builder::new()
            .name(R::THREAD.into())
            .spawn(move || write_all(&records, &mut log))
            .map_err(failed("a thread of its own".as_ref()))?;
        Ok(Self { queue: Some(queue), dropped })
    }

    /// Returns true when records are written.
    pub(crate) fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands a record over. Never waits: a record that finds the queue full is dropped and counted.
    pub(crate) fn record(&self, record: R) {
        if let Some(queue) = &self.queue
            && queue.try_send(Message::Record(Box::new(record))).is_err()
        {
            self.dropped.inc();
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
fn write_all<R: LogRecord>(records: &Receiver<Message<R>>, log: &mut Log<impl Output, R>) {
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
fn next<R: LogRecord>(
    records: &Receiver<Message<R>>,
    log: &mut Log<impl Output, R>,
    batch: &mut Vec<u8>,
) -> Option<Message<R>> {
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
struct Log<W, R> {
    out: W,
    dropped: Counter,
    /// True when the last write ended within a line.
    cut: bool,
    warnings: Throttle,
    of: PhantomData<R>,
}

impl<W: Output, R: LogRecord> Log<W, R> {
    fn new(out: W, dropped: Counter) -> Self {
        Self { out, dropped, cut: false, warnings: Throttle::new(LOG_EVERY), of: PhantomData }
    }

    /// Changes to another file if the log's name stands for one.
    fn follow(&mut self) {
        let followed = self.out.follow();
        self.note(followed);
    }

    fn note(&mut self, followed: Followed) {
        self.dropped.inc_by(followed.lost);
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
            self.dropped.inc_by((ends - counted_before) as u64);
            if self.warnings.ready() {
                let (log, lost) = (R::LOG, R::LOST);
                tracing::warn!(%error, "cannot write the {log}; what is lost is counted as {lost}");
            }
            break;
        }
        lines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A record that is a number.
    #[derive(Debug)]
    struct Number(u32);

    impl LogRecord for Number {
        const LOG: &'static str = "log of numbers";
        const OPTION: &'static str = "--number-log";
        const THREAD: &'static str = "number-log";
        const LOST: &'static str = "number_log_dropped";

        fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
            writeln!(out, "{}", self.0)
        }
    }

    #[test]
    fn what_was_handed_over_is_written_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = RecordLogger::start(&AccessLog::File(path.clone()), Counter::default()).unwrap();
        for number in 0..100 {
            log.record(Number(number));
        }
        assert_eq!(log.dropped.get(), 0);
        log.finish(Duration::from_secs(10));
        let text = std::fs::read_to_string(path).unwrap();
        let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_writer_that_is_stuck_drops_records_and_delays_no_connection() {
        let (queue, _unread) = sync_channel(1);
        let log = RecordLogger { queue: Some(queue), dropped: Counter::default() };
        for dropped in [0, 1] {
            log.record(Number(1));
            assert_eq!(log.dropped.get(), dropped);
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
        let mut log = Log::<_, Number>::new(disk, Counter::default());
        let put = |log: &mut Log<Disk, Number>, lines: &str| {
            log.put(&mut lines.as_bytes().to_vec());
            log.dropped.get()
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
        let dropped = Counter::default();
        let log = RecordLogger::start(&AccessLog::File("/dev/full".into()), dropped.clone()).unwrap();
        for number in 0..3 {
            log.record(Number(number));
        }
        log.finish(Duration::from_secs(10));
        assert_eq!(dropped.get(), 3);
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_named() {
        let target = AccessLog::File("/proc/no/such/file".into());
        let error = RecordLogger::<Number>::start(&target, Counter::default()).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot write the log of numbers to /proc/no/such/file (--number-log)"),
            "{error}"
        );
    }
}
