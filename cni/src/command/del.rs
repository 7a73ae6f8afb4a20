// SPDX-License-Identifier: Apache-2.0
//! DEL: forget the attachment, and remove our rules from a network namespace that lives on. Never an error: an error would
//! keep the runtime from removing the pod.

use std::path::Path;
use std::time::Instant;

use super::budget::WORK_WITHIN;
use super::report;
use crate::agent::client;
use crate::attachment::{Record, Records};
use crate::log::{Level, Log};
use crate::netns::{Netns, NetnsError};
use crate::protocol::{Attachment, NetConf};
use crate::redirect::engine::{self, Engine};
use crate::redirect::owner::Owner;
use crate::redirect::policy::IpFamilies;
use crate::redirect::{self, RedirectError};

/// Carry out DEL for `attachment`; failures become warnings in the log.
pub(super) fn del(attachment: &Attachment, conf: &NetConf<'_>) {
    let started = Instant::now();
    let log = Log::new(conf.log_level, &conf.log_file);
    let records = Records::new(&conf.state_dir);
    let record = records.read(&conf.name, attachment);
    let others = records.others_of(&conf.name, attachment);
    let mut errors = Vec::new();

    let decision = match (&attachment.netns, others.into_iter().next()) {
        (None, _) => "no namespace given",
        (Some(_), Some(other)) => {
            errors.extend(hand_over(&records, record.as_ref(), other).err());
            "kept for the container's other attachment"
        }
        (Some(netns), None) => match clean(netns, attachment, record) {
            Ok((decision, failed)) => {
                errors.extend(failed);
                decision
            }
            // The common case: the namespace went with the sandbox, and the rules with it.
            Err(NetnsError::Open { .. } | NetnsError::NotANamespace(_)) => "the namespace is gone",
            Err(error) => {
                errors.push(error.to_string());
                "not removed"
            }
        },
    };
    errors.extend(records.remove(&conf.name, attachment).err().map(|error| error.to_string()));

    let level = if errors.is_empty() { Level::Info } else { Level::Warn };
    let mut report = report::report("DEL", attachment, conf);
    report.decision = Some(decision.to_owned());
    report.took_us = report::micros(started.elapsed());
    log.write(
        &report::line(level, &report)
            .field("took_us", report.took_us)
            .maybe("warning", (!errors.is_empty()).then(|| errors.join("; ")))
            .field("result", "ok"),
    );
    client::report(&conf.agent_socket, report);
}

/// Add this attachment's changes to the record of the container's `other` attachment, whose DEL will undo them.
fn hand_over(records: &Records, record: Option<&Record>, mut other: Record) -> Result<(), String> {
    let Some(record) = record else { return Ok(()) };
    other.footprint = other.footprint.after(&record.footprint);
    records.write(&other).map_err(|error| error.to_string())
}

/// Remove the rules in the namespace if they carry this container's id.
fn clean(
    netns: &str,
    attachment: &Attachment,
    record: Option<Record>,
) -> Result<(&'static str, Vec<String>), NetnsError> {
    let owner = Owner::new(&attachment.container_id, &attachment.ifname);
    let recorded = record.as_ref().and_then(|record| Engine::by_name(&record.engine, IpFamilies::Dual));
    let footprint = record.map(|record| record.footprint);
    let work = move || -> Result<(&'static str, Vec<RedirectError>), RedirectError> {
        let nothing = ("no rules there", Vec::new());
        let Some(engine) = recorded.map_or_else(engine::present, |engine| Ok(Some(engine)))? else {
            return Ok(nothing);
        };
        let Some(found) = engine.owner()? else { return Ok(nothing) };
        let Some(found) = found.filter(|found| found.container == owner.container) else {
            return Ok(("the rules there are another's", Vec::new()));
        };
        // Without a record other attachments are unknown, so only the DEL of the attachment in the note removes the rules.
        if footprint.is_none() && found.ifname != owner.ifname {
            return Ok(("the rules there are another interface's", Vec::new()));
        }
        Ok(("removed", redirect::remove(engine, footprint.as_ref())))
    };
    Ok(match Netns::open(Path::new(netns))?.enter(WORK_WITHIN, work)? {
        Ok((decision, failed)) => (decision, failed.iter().map(ToString::to_string).collect()),
        Err(error) => ("not removed", vec![error.to_string()]),
    })
}
