// SPDX-License-Identifier: Apache-2.0
//! The plugin's log: a line or two per invocation, to `logFile` and to stderr. An error of the log never fails a verb.
//!
//! Written by hand rather than through `tracing`: setting up a subscriber would cost more than all the other work of a
//! process that lives for two milliseconds.

use std::fmt::{Display, Write as _};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use nix::fcntl::OFlag;

/// Size at which the file is renamed to `….1`, in bytes; the log takes at most twice as much.
const ROTATE_AT: u64 = 8 << 20;

/// Severity of a line; a log of one level also has the lines of the levels above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// A verb that failed.
    Error,
    /// Something that an operator should act on.
    Warn,
    /// A verb that succeeded, with its decision.
    Info,
    /// Details for finding a fault.
    Debug,
}

impl Level {
    /// Parse the name of a level, as `logLevel` in the conflist has it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug].into_iter().find(|level| level.as_str() == text)
    }

    /// Returns the name that `logLevel` has for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// One line: `time level key=value …`.
#[derive(Debug)]
pub(crate) struct Line {
    level: Level,
    text: String,
}

impl Line {
    /// Begin a line without fields.
    pub(crate) fn new(level: Level) -> Self {
        Self { level, text: String::new() }
    }

    /// Append a field; a value with white space, quotes or control characters is quoted and escaped.
    pub(crate) fn field(mut self, key: &str, value: impl Display) -> Self {
        let value = value.to_string();
        let plain =
            !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        // Writing to a String cannot fail.
        let _ =
            if plain { write!(self.text, " {key}={value}") } else { write!(self.text, " {key}={value:?}") };
        self
    }

    /// Append a field if there is a value.
    pub(crate) fn maybe(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.field(key, value),
            None => self,
        }
    }
}

/// Destination of log lines.
#[derive(Debug)]
pub(crate) struct Log {
    level: Level,
    file: Option<PathBuf>,
}

impl Log {
    /// Log lines of `level` and above to `file`, or to stderr only if the path is empty.
    pub(crate) fn new(level: Level, file: &Path) -> Self {
        Self { level, file: (!file.as_os_str().is_empty()).then(|| file.to_owned()) }
    }

    /// Write `line` to stderr and to the file, unless it is below the log's level.
    pub(crate) fn write(&self, line: &Line) {
        if line.level > self.level {
            return;
        }
        let text = format!("{} {}{}\n", rfc3339(SystemTime::now(), 3), line.level.as_str(), line.text);
        // Neither a closed stderr nor a full disk may fail a pod.
        let _ = std::io::stderr().write_all(format!("culvert-cni: {text}").as_bytes());
        if let Some(file) = &self.file {
            let _ = append(file, text.as_bytes());
        }
    }
}

/// Append the line in one write, so that lines of concurrent plugins do not mix.
fn append(path: &Path, line: &[u8]) -> std::io::Result<()> {
    let open = || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            // Without O_NONBLOCK a FIFO in the file's place would block the plugin.
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
            .open(path)
    };
    let mut file = match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            open()?
        }
        other => other?,
    };
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() > ROTATE_AT {
        let mut rotated = path.as_os_str().to_owned();
        rotated.push(".1");
        // Of two plugins that rotate at the same moment, the second may move the new, small file over the rotated one.
        // Losing old lines is better than a lock that every pod's start would have to wait for.
        std::fs::rename(path, PathBuf::from(rotated))?;
        file = open()?;
    }
    file.write_all(line)
}

/// Format `time` in UTC as RFC 3339, with `digits` digits of the second's fraction.
pub fn rfc3339(time: SystemTime, digits: usize) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    // Only a clock beyond the year 9999 is out of range.
    let timestamp = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
    format!("{timestamp:.digits$}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_does() {
        let rows = [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400_999, 0, "2000-02-29T00:00:00Z"),
            (1_709_208_000_000, 3, "2024-02-29T12:00:00.000Z"),
            (1_795_298_399_042, 3, "2026-11-21T21:59:59.042Z"),
        ];
        for (millis, digits, text) in rows {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(millis), digits), text);
        }
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1), 0), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_value_cannot_break_out_of_its_line() {
        let line = Line::new(Level::Info).field("pod", "a\nerror pod=\"b\"").field("verb", "ADD");
        assert_eq!(line.text, " pod=\"a\\nerror pod=\\\"b\\\"\" verb=ADD");
    }
}
