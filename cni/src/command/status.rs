// SPDX-License-Identifier: Apache-2.0
//! STATUS: whether ADD would work on this node. Cheap and without a trace: containerd 2 asks every 5 s.

use crate::pod::Settings;
use crate::protocol::{Code, Failure, NetConf};
use crate::redirect::engine;

use super::CommandError;

/// Fails with [`Code::NotReady`] where no engine works here, and with [`Code::Config`] where no ADD could follow the
/// node's defaults.
pub fn status(conf: &NetConf<'_>) -> Result<(), Failure> {
    Settings::of_node(conf.redirect, &conf.locked).map_err(|error| CommandError::Decision(error.into()))?;
    match engine::any_available() {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(Code::NotReady, error.to_string())),
    }
}
