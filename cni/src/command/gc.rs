// SPDX-License-Identifier: Apache-2.0
//! GC: remove the records of attachments that the runtime no longer knows. Rules die with their namespace; only records can
//! be stale.

use crate::attachment::Records;
use crate::log::{Level, Line, Log};
use crate::protocol::{Code, Failure, NetConf};

/// Remove stale records of the configuration's network. Continues after a failure and returns all of them.
pub(super) fn gc(conf: &NetConf<'_>) -> Result<(), Failure> {
    let Some(valid) = &conf.valid_attachments else {
        let message = "cni.dev/valid-attachments is missing: without it GC would forget every attachment";
        return Err(Failure::new(Code::Config, message));
    };
    let (removed, errors) = Records::new(&conf.state_dir).retain(&conf.name, valid);
    let log = Log::new(conf.log_level, &conf.log_file);
    log.write(
        &Line::new(Level::Info).field("verb", "GC").field("network", &conf.name).field("removed", removed),
    );
    if errors.is_empty() {
        return Ok(());
    }
    let details = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let folder = conf.state_dir.display();
    let message = format!("{} records in {folder} could not be removed", errors.len());
    Err(Failure { code: Code::Io, message, details })
}
