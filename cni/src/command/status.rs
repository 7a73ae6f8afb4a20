// SPDX-License-Identifier: Apache-2.0
//! STATUS: can ADD work on this node? Cheap and without changes: containerd 2 asks every 5 s.

use super::error::CommandError;
use crate::log::{Level, Line, Log};
use crate::metadata::Annotations;
use crate::pod::{Settings, SettingsError, decide_policy};
use crate::protocol::{Code, Failure, NetConf};
use crate::redirect::engine;

/// Fail with [`Code::NotReady`] if no engine works here, and with [`Code::Config`] if the node's defaults are wrong, which
/// would fail every ADD.
pub(super) fn status(conf: &NetConf<'_>) -> Result<(), Failure> {
    let wrong = |error: SettingsError| CommandError::Decision(error.into());
    let defaults = Settings::of_node(conf.redirect, &conf.locked).map_err(wrong)?;
    // Decided as for a pod with no other annotation, so that each default's value is parsed too.
    let onboarded = Annotations::from([("culvert.dev/redirect".to_owned(), "enabled".to_owned())]);
    decide_policy(&onboarded, &defaults).map_err(wrong)?;
    // Success is logged at level debug only: every 5 s, it would fill the log.
    let line = |level, result: &str| Line::new(level).field("verb", "STATUS").field("result", result);
    let log = Log::new(conf.log_level, &conf.log_file);
    match engine::any_available() {
        Ok(engine) => {
            log.write(&line(Level::Debug, engine.name()));
            Ok(())
        }
        Err(error) => {
            log.write(&line(Level::Error, &error.to_string()));
            Err(Failure::new(Code::NotReady, error.to_string()))
        }
    }
}
