// SPDX-License-Identifier: Apache-2.0
//! The plugin's log: a line or two per invocation, to `logFile` and to stderr. Never a reason to fail.
//!
//! By hand rather than through `tracing`: a subscriber would cost a process that lives for two milliseconds more than all
//! of its other work.

use std::fmt::{Display, Write as _};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;

/// Above this size the file becomes `….1`, in bytes; so the log takes at most twice as much.
const ROTATE_AT: u64 = 8 << 20;

/// How much a line matters; a log of one level holds those above it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The verb failed.
    Error,
    /// An operator should look.
    Warn,
    /// What was done.
    Info,
    /// What is only of use to who looks for a fault.
    Debug,
}

impl Level {
    /// The level that `text` names.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug].into_iter().find(|level| level.as_str() == text)
    }

    /// The level's name.
    pub const fn as_str(self) -> &'static str {
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
pub struct Line {
    level: Level,
    text: String,
}

impl Line {
    /// Begin a line.
    pub fn new(level: Level) -> Self {
        Self { level, text: String::new() }
    }

    /// Append a field; a value with white space, quotes or control characters is quoted and escaped.
    pub fn field(mut self, key: &str, value: impl Display) -> Self {
        let value = value.to_string();
        let plain =
            !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        // Writing to a String cannot fail.
        let _ =
            if plain { write!(self.text, " {key}={value}") } else { write!(self.text, " {key}={value:?}") };
        self
    }

    /// Append a field if there is a value.
    pub fn maybe(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.field(key, value),
            None => self,
        }
    }
}

/// Where lines go.
#[derive(Debug)]
pub struct Log {
    level: Level,
    file: Option<PathBuf>,
}

impl Log {
    /// A log of `level` in `file`; an empty path: stderr only.
    pub fn new(level: Level, file: &Path) -> Self {
        Self { level, file: (!file.as_os_str().is_empty()).then(|| file.to_owned()) }
    }

    /// Write `line` to the file, and to stderr unless it is below the level.
    pub fn write(&self, line: &Line) {
        if line.level > self.level {
            return;
        }
        let text = format!("{} {}{}\n", now(), line.level.as_str(), line.text);
        // Neither a closed stderr nor a full disk may fail a pod.
        let _ = std::io::stderr().write_all(format!("culvert-cni: {text}").as_bytes());
        if let Some(file) = &self.file {
            let _ = append(file, text.as_bytes());
        }
    }
}

/// One write of one line: concurrent plugins don't mix theirs.
fn append(path: &Path, line: &[u8]) -> std::io::Result<()> {
    let open = || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            // A FIFO in the file's place must not make us wait.
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
        // Two plugins that rotate at once move the same file once; the second finds a new, small one.
        std::fs::rename(path, PathBuf::from(rotated))?;
        file = open()?;
    }
    file.write_all(line)
}

/// The time in UTC, to the millisecond, as RFC 3339 writes it.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date, `days` days after 1970-01-01 (Gregorian): years of 365.2425 days, counted from March.
pub fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let rows =
            [(0, (1970, 1, 1)), (11_016, (2000, 2, 29)), (19_782, (2024, 2, 29)), (20_778, (2026, 11, 21))];
        for (days, date) in rows {
            assert_eq!(civil(days), date, "{days} days");
        }
    }

    #[test]
    fn a_value_cannot_break_out_of_its_line() {
        let line = Line::new(Level::Info).field("pod", "a\nerror pod=\"b\"").field("verb", "ADD");
        assert_eq!(line.text, " pod=\"a\\nerror pod=\\\"b\\\"\" verb=ADD");
    }
}
