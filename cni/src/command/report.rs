// SPDX-License-Identifier: Apache-2.0
//! The outcome of a verb: one log line, and one report to the node agent, from the same values.

use std::time::Duration;

use crate::agent::Report;
use crate::log::{Level, Line};
use crate::protocol::{Attachment, NetConf};

/// Begin the report of `verb` with the names of the attachment.
pub(super) fn report(verb: &str, attachment: &Attachment, conf: &NetConf<'_>) -> Report {
    Report {
        verb: verb.to_owned(),
        network: conf.name.clone(),
        container_id: attachment.container_id.clone(),
        ifname: attachment.ifname.clone(),
        pod: attachment.args.pod_display_name(),
        ..Report::default()
    }
}

/// Begin the log line of `report`: its verb, its names, and the decision where there is one.
pub(super) fn line(level: Level, report: &Report) -> Line {
    Line::new(level)
        .field("verb", &report.verb)
        .maybe("pod", report.pod.as_ref())
        .field("container", &report.container_id)
        .field("ifname", &report.ifname)
        .maybe("decision", report.decision.as_ref())
        .maybe("reason", report.reason.as_ref())
}

pub(super) fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
