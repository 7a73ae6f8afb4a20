// SPDX-License-Identifier: Apache-2.0
//! DEL: forget the attachment, and remove our rules from a network namespace that lives on. Never an error: an error would
//! keep the runtime from removing the pod.

use std::path::Path;
use std::time::Instant;

use super::budget::WORK_WITHIN;
use super::report;
use crate::agent::client;
use crate::attachment::{Considered, Record, Records};
use crate::log::{Level, Log};
use crate::netns::{Netns, NetnsError};
use crate::pod::{Decided, Decision};
use crate::protocol::{Attachment, NetConf};
use crate::redirect::engine::{self, Engine};
use crate::redirect::owner::Owner;
use crate::redirect::policy::IpFamilies;
use crate::redirect::{self, Namespace, RedirectError};

/// Carry out DEL for `attachment`; failures become warnings in the log.
pub(super) fn del(attachment: &Attachment, conf: &NetConf<'_>) {
    let started = Instant::now();
    let log = Log::new(conf.log_level, &conf.log_file);
    let records = Records::new(&conf.state_dir);
    let record = records.read(&conf.name, attachment);
    let others = records.others_of(&conf.name, attachment);
    let mut errors = Vec::new();

    let netns = attachment.netns.clone().or_else(|| shared(&records, conf, attachment, record.as_ref()));
    let decision = match (netns, others.into_iter().next()) {
        (None, _) => "no namespace given",
        (Some(_), Some(other)) => {
            errors.extend(hand_over(&records, record.as_ref(), other).err());
            "kept for the container's other attachment"
        }
        (Some(netns), None) => match leave(&netns, attachment, &conf.name, &records) {
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

/// Returns the recorded namespace for a DEL that names none, if other containers live on in it.
fn shared(
    records: &Records,
    conf: &NetConf<'_>,
    attachment: &Attachment,
    record: Option<&Record>,
) -> Option<String> {
    let record = record.filter(|record| record.netns_id.is_some_and(|id| record.is_in(id)))?;
    let others = records.others_in(record.netns_id?, &conf.name, attachment);
    (!others.is_empty()).then(|| record.netns.clone())
}

/// Add this attachment's changes to the record of an attachment that stays, `other`, whose DEL will undo them.
fn hand_over(records: &Records, record: Option<&Record>, mut other: Record) -> Result<(), String> {
    let Some(record) = record else { return Ok(()) };
    other.footprint = other.footprint.after(&record.footprint);
    records.write(&other).map_err(|error| error.to_string())
}

/// A decision for the log, with the failures on the way.
type Left = (&'static str, Vec<String>);

/// Take this attachment's rules out of the namespace: remove them, or leave them to another container's attachment there.
///
/// Its record is read and removed within the namespace's turn: of two containers that leave at once, the first hands its
/// changes over to the second, and the second does not find the first.
fn leave(netns: &str, attachment: &Attachment, network: &str, records: &Records) -> Result<Left, NetnsError> {
    let namespace = Netns::open(Path::new(netns))?;
    let id = namespace.id().ok();
    let (records, network, attachment) = (records.clone(), network.to_owned(), attachment.clone());
    let work = move || -> Left {
        let record = records.read(&network, &attachment);
        let mut failed: Vec<String> = Vec::new();
        failed.extend(records.remove(&network, &attachment).err().map(|error| error.to_string()));
        let heir = id.and_then(|id| records.others_in(id, &network, &attachment).into_iter().next());
        if let Some(heir) = &heir {
            failed.extend(hand_over(&records, record.as_ref(), heir.clone()).err());
        }
        match rules(&attachment, record, heir) {
            Ok((decision, more)) => {
                failed.extend(more.iter().map(ToString::to_string));
                (decision, failed)
            }
            Err(error) => {
                failed.push(error.to_string());
                ("not removed", failed)
            }
        }
    };
    namespace.enter(WORK_WITHIN, work)
}

/// Remove the rules in this thread's namespace if they carry this container's id, or make them those of `heir`.
fn rules(
    attachment: &Attachment,
    record: Option<Record>,
    heir: Option<Record>,
) -> Result<(&'static str, Vec<RedirectError>), RedirectError> {
    let nothing = ("no rules there", Vec::new());
    let owner = Owner::new(&attachment.container_id, &attachment.ifname);
    let recorded = record.as_ref().and_then(|record| Engine::by_name(&record.engine, IpFamilies::Dual));
    let Some(engine) = recorded.map_or_else(engine::present, |engine| Ok(Some(engine)))? else {
        return Ok(nothing);
    };
    let Some(found) = engine.owner()? else { return Ok(nothing) };
    let Some(found) = found.filter(|found| found.container == owner.container) else {
        return Ok(("the rules there are another's", Vec::new()));
    };
    if let Some(heir) = heir {
        return Ok((pass_on(engine, &heir)?, Vec::new()));
    }
    // Without a record other attachments are unknown, so only the DEL of the attachment in the note removes the rules.
    if record.is_none() && found.ifname != owner.ifname {
        return Ok(("the rules there are another interface's", Vec::new()));
    }
    Ok(("removed", redirect::remove(engine, record.map(|record| record.footprint).as_ref())))
}

/// Replace the rules that `engine` has by those that `heir` asked for, with its note: the container that leaves may have
/// asked for others.
fn pass_on(engine: Engine, heir: &Record) -> Result<&'static str, RedirectError> {
    match heir.considered.as_ref().map(Considered::decide) {
        Some(Ok(Decided { decision: Decision::Redirect(policy), .. })) => {
            let owner = Owner::new(&heir.container_id, &heir.ifname);
            redirect::install(&policy, &owner, Some(engine), Namespace::New)?;
            Ok("left to another container")
        }
        // The record does not say which rules it asked for; these are better than none.
        _ => Ok("kept for another container"),
    }
}
