// SPDX-License-Identifier: Apache-2.0
//! ADD: decide, plan, program, read back, and hand prevResult on.

use std::path::Path;
use std::time::{Duration, Instant};

use super::CommandError;
use crate::attachment::{Record, Records};
use crate::log::{Level, Line, Log};
use crate::netns::Netns;
use crate::pod::{self, Decision};
use crate::protocol::{Attachment, Code, Failure, NetConf, result_reply};
use crate::redirect::owner::Owner;
use crate::redirect::policy::Policy;
use crate::redirect::{self, Footprint, Outcome};

/// The contract's 5 s for an answer, less what reading stdin may take.
const WORK_WITHIN: Duration = Duration::from_secs(3);

/// Answer with prevResult once the pod's rules are in, or at once if there is nothing to do.
pub fn add(attachment: &Attachment, conf: &NetConf<'_>) -> Result<Vec<u8>, Failure> {
    let log = Log::new(conf.log_level, &conf.log_file);
    for warning in &conf.warnings {
        log.write(&Line::new(Level::Warn).field("verb", "ADD").field("warning", warning));
    }
    let started = Instant::now();
    let result = decide_and_install(attachment, conf, &log);
    let elapsed = format!("{}us", started.elapsed().as_micros());
    match &result {
        Ok((line, _)) => {
            log.write(&about(line.0, attachment, line.1).field("took", elapsed).field("result", "ok"))
        }
        Err(failure) => {
            let line = about(Level::Error, attachment, "").field("took", elapsed);
            log.write(&line.field("code", failure.code as i32).field("result", &failure.message));
        }
    }
    result.map(|(_, document)| document)
}

type Told = (Level, &'static str);

fn decide_and_install(
    attachment: &Attachment,
    conf: &NetConf<'_>,
    log: &Log,
) -> Result<(Told, Vec<u8>), Failure> {
    let Some(prev_result) = &conf.prev_result else {
        let message = "prevResult is missing: culvert-cni is a chained plugin and must stand behind the one that makes \
                       the pod's interface";
        return Err(Failure::new(Code::Config, message));
    };
    let told = match pod::decide(conf, &attachment.args).map_err(CommandError::from)? {
        Decision::PassThrough(reason @ pod::Reason::Unknown) => (Level::Warn, reason.as_str()),
        Decision::PassThrough(reason) => (Level::Info, reason.as_str()),
        Decision::Redirect(policy) => {
            let (outcome, footprint) = install(attachment, &policy)?;
            remember(attachment, conf, footprint, log);
            (Level::Info, told(outcome))
        }
    };
    Ok((told, result_reply(conf.version, prev_result)))
}

fn install(attachment: &Attachment, policy: &Policy) -> Result<(Outcome, Footprint), CommandError> {
    let netns = Netns::open(Path::new(attachment.netns.as_deref().unwrap_or_default()))?;
    let owner = Owner::new(&attachment.container_id, &attachment.ifname);
    let policy = policy.clone();
    Ok(netns.enter(WORK_WITHIN, move || redirect::install(&policy, &owner))??)
}

/// Write the attachment's record. Without one, DEL goes by the note that is kept with the rules.
fn remember(attachment: &Attachment, conf: &NetConf<'_>, footprint: Footprint, log: &Log) {
    let records = Records::new(&conf.state_dir);
    let footprint = match records.read(&conf.name, attachment) {
        Some(earlier) => footprint.after(&earlier.footprint),
        None => footprint,
    };
    let record = Record {
        network: conf.name.clone(),
        container_id: attachment.container_id.clone(),
        ifname: attachment.ifname.clone(),
        netns: attachment.netns.clone().unwrap_or_default(),
        pod: pod_name(attachment),
        engine: "nftables".to_owned(),
        footprint,
    };
    if let Err(error) = records.write(&record) {
        let folder = conf.state_dir.display();
        let warning = format!("the attachment's record cannot be written to {folder}: {error}");
        log.write(&about(Level::Warn, attachment, "").field("warning", warning));
    }
}

const fn told(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "redirected",
        Outcome::Unchanged => "redirected already",
        Outcome::Replaced => "redirected anew",
    }
}

fn about(level: Level, attachment: &Attachment, decision: &str) -> Line {
    Line::new(level)
        .field("verb", "ADD")
        .maybe("pod", pod_name(attachment))
        .field("container", &attachment.container_id)
        .field("ifname", &attachment.ifname)
        .maybe("decision", (!decision.is_empty()).then_some(decision))
}

pub(super) fn pod_name(attachment: &Attachment) -> Option<String> {
    let args = &attachment.args;
    Some(format!("{}/{}", args.pod_namespace.as_deref()?, args.pod_name.as_deref()?))
}
