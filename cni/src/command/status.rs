// SPDX-License-Identifier: Apache-2.0
//! STATUS: whether ADD would work on this node. Cheap and without a trace: containerd 2 asks every 5 s.

use crate::log::{Level, Line, Log};
use crate::pod::{Annotations, Settings, SettingsError, decide_policy};
use crate::protocol::{Code, Failure, NetConf};
use crate::redirect::engine;

use super::CommandError;

/// Fails with [`Code::NotReady`] where no engine works here, and with [`Code::Config`] where no ADD could follow the
/// node's defaults.
pub fn status(conf: &NetConf<'_>) -> Result<(), Failure> {
    let wrong = |error: SettingsError| CommandError::Decision(error.into());
    let defaults = Settings::of_node(conf.redirect, &conf.locked).map_err(wrong)?;
    // As for a pod that says nothing but that it is onboarded: so each value is looked at too.
    let onboarded = Annotations::from([("culvert.dev/redirect".to_owned(), "enabled".to_owned())]);
    decide_policy(&onboarded, &defaults).map_err(wrong)?;
    // A line only at level debug: asked every 5 s, it would fill the log.
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
