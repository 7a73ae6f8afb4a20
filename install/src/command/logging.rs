// SPDX-License-Identifier: Apache-2.0
//! Logs of the long-running commands.

/// Writes one line an event to stderr, from level info up.
pub(in crate::command) fn start_logging() {
    use tracing_subscriber::fmt;
    let lines = fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    // A second start in one process, as in a test, changes nothing.
    let _ = lines.with_max_level(tracing::Level::INFO).try_init();
}
