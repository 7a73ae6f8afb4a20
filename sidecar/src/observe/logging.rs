// SPDX-License-Identifier: Apache-2.0
//! Logs go to stderr; stdout is for the access log. The level can be changed while the sidecar runs.
//!
//! A thread of its own writes them: a reader that is stuck (the container runtime's, on a full disk) must not stop
//! connections at any level. When it cannot keep up, lines are left out and the log says how many.

use crate::observe::flush;
use crate::observe::one_line::{Escape, escaped};
use crate::options::config::{LogFormat, LogLevel};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Lines that may wait to be written: some 1 MB, and a burst of connections at level debug.
const QUEUE: usize = 4096;

/// Changes the level, and ends the log.
#[derive(Clone)]
pub struct LogControl {
    level: reload::Handle<LevelFilter, Registry>,
    lines: Option<Lines>,
}

/// Queue to the thread that writes.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Message>,
    /// Lines left out since the last one written.
    left_out: Arc<AtomicU64>,
    /// Notation of what must not begin a line of its own.
    escape: Escape,
}

enum Message {
    /// A line with its line feed.
    Line(Vec<u8>),
    /// Answer once all earlier lines are written.
    End(SyncSender<()>),
}

// === impl Lines ===

impl Lines {
    /// Starts the thread that writes.
    fn start(out: impl Write + Send + 'static, escape: Escape) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let left_out = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&left_out);
        std::thread::Builder::new().name("log".into()).spawn(move || write_all(&lines, &counted, out))?;
        Ok(Self { queue, left_out, escape })
    }
}

/// The formatter hands over one line at a time.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(whole(line, self.escape))).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps an event in one line, whatever names it has in it.
fn whole(line: &[u8], escape: Escape) -> Vec<u8> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    match std::str::from_utf8(text).map(|text| escaped(text, escape)) {
        Ok(Cow::Owned(text)) => (text + "\n").into_bytes(),
        Ok(Cow::Borrowed(_)) | Err(_) => line.to_vec(),
    }
}

fn write_all(lines: &Receiver<Message>, left_out: &AtomicU64, mut out: impl Write) {
    for message in lines {
        match message {
            // There is no other place to report that stderr cannot be written.
            Message::Line(line) => _ = out.write_all(&line),
            Message::End(written) => _ = written.send(()),
        }
        let lines = left_out.swap(0, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(lines, "the log could not keep up, so lines were left out");
        }
    }
}

// === impl LogControl ===

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogControl")
    }
}

impl LogControl {
    /// Changes the level; `false` when logging was never started.
    pub fn set(&self, level: LogLevel) -> bool {
        self.level.reload(LevelFilter::from(level)).is_ok()
    }

    /// The level; `None` when logging was never started.
    pub fn level(&self) -> Option<LevelFilter> {
        self.level.clone_current()
    }

    /// Writes out all lines so far, within `deadline`.
    pub fn finish(&self, deadline: Duration) {
        if let Some(lines) = &self.lines {
            flush::write_out(&lines.queue, Message::End, deadline);
        }
    }

    /// A control that nothing listens to, for tests.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        Self { level: reload::Layer::new(LevelFilter::INFO).1, lines: None }
    }
}

/// Starts logging. A second call in one process, as in a test, changes nothing.
pub fn start(level: LogLevel, format: LogFormat) -> LogControl {
    let (filter, level) = reload::Layer::new(LevelFilter::from(level));
    let escape = match format {
        LogFormat::Text => Escape::Text,
        LogFormat::Json => Escape::Json,
    };
    let lines = Lines::start(io::stderr(), escape).ok();
    let writer = match lines.clone() {
        Some(lines) => BoxMakeWriter::new(move || lines.clone()),
        // Without a thread the start fails soon, and its error has to be seen.
        None => BoxMakeWriter::new(io::stderr),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let layer = match format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    LogControl { level, lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_find_no_place_are_left_out_and_delay_no_connection() {
        let (queue, _unread) = sync_channel(1);
        let mut lines = Lines { queue, left_out: Arc::default(), escape: Escape::Text };
        for _ in 0..3 {
            lines.write_all(b"line\n").unwrap();
        }
        assert_eq!(lines.left_out.load(Ordering::Relaxed), 2);
    }
}
