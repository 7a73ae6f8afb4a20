// SPDX-License-Identifier: Apache-2.0
//! Logs go to stderr; stdout is for the access log. The level can be changed while the sidecar runs.

use crate::config::{LogFormat, LogLevel};
use std::fmt;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Changes the level.
#[derive(Clone)]
pub struct LogControl(reload::Handle<LevelFilter, Registry>);

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogControl")
    }
}

impl LogControl {
    /// Changes the level; `false` when logging was never started.
    pub fn set(&self, level: LogLevel) -> bool {
        self.0.reload(LevelFilter::from(level)).is_ok()
    }

    /// The level; `None` when logging was never started.
    pub fn level(&self) -> Option<LevelFilter> {
        self.0.clone_current()
    }

    /// A control that nothing listens to, for tests.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        Self(reload::Layer::new(LevelFilter::INFO).1)
    }
}

/// Starts logging. A second call in one process, as in a test, changes nothing.
pub fn start(level: LogLevel, format: LogFormat) -> LogControl {
    let (filter, handle) = reload::Layer::new(LevelFilter::from(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    LogControl(handle)
}
