// SPDX-License-Identifier: Apache-2.0
//! ADD: decide, plan, program, read back, and hand prevResult on.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{CommandError, WORK_WITHIN, pod_name};
use crate::attachment::{Record, Records};
use crate::log::{Level, Line, Log};
use crate::netns::Netns;
use crate::pod::{self, Decided, Decision};
use crate::protocol::{Attachment, Code, Failure, NetConf, PrevResult, result_reply};
use crate::redirect::engine::Engine;
use crate::redirect::loopback::HopAddress;
use crate::redirect::owner::Owner;
use crate::redirect::policy::{IpFamilies, Policy};
use crate::redirect::{self, Installed, Namespace};

/// What ADD says of itself in the log, one line.
#[derive(Default)]
struct Report {
    decision: Option<&'static str>,
    reason: Option<String>,
    installed: Option<(Installed, IpFamilies)>,
    warnings: Vec<String>,
    phases: Vec<(&'static str, Duration)>,
}

/// Answer with prevResult once the pod's rules are in, or at once if there is nothing to do.
pub fn add(attachment: &Attachment, conf: &NetConf<'_>) -> Result<Vec<u8>, Failure> {
    let started = Instant::now();
    let mut report = Report { warnings: conf.warnings.clone(), ..Report::default() };
    let result = work(attachment, conf, &mut report);
    Log::new(conf.log_level, &conf.log_file).write(&line(attachment, &report, &result, started.elapsed()));
    result
}

/// Answer with prevResult: culvert was taken off this node, and what is left of it redirects nobody.
pub fn pass_through(attachment: &Attachment, conf: &NetConf<'_>) -> Result<Vec<u8>, Failure> {
    let line = Line::new(Level::Info)
        .field("verb", "ADD")
        .maybe("pod", pod_name(attachment))
        .field("container", &attachment.container_id)
        .field("ifname", &attachment.ifname)
        .field("decision", "pass through")
        .field("reason", "culvert was uninstalled from this node")
        .field("result", "ok");
    Log::new(conf.log_level, &conf.log_file).write(&line);
    prev_result(conf).map(|prev_result| result_reply(conf.version, prev_result))
}

fn prev_result<'a>(conf: &'a NetConf<'_>) -> Result<&'a PrevResult<'a>, Failure> {
    conf.prev_result.as_ref().ok_or_else(|| {
        let message = "prevResult is missing: culvert-cni is a chained plugin and must stand behind the one that makes \
                       the pod's interface";
        Failure::new(Code::Config, message)
    })
}

fn work(attachment: &Attachment, conf: &NetConf<'_>, report: &mut Report) -> Result<Vec<u8>, Failure> {
    let prev_result = prev_result(conf)?;
    let decided =
        report.phase("decide", || pod::decide(conf, &attachment.args)).map_err(CommandError::from)?;
    let Decided { decision, warnings, sources } = decided;
    report.warnings.extend(warnings);
    match decision {
        Decision::PassThrough(reason) => {
            report.decision = Some("pass through");
            report.reason = Some(reason.as_str().to_owned());
            if reason == pod::Reason::Unknown {
                report.warnings.push(
                    "the runtime passed no annotations: nobody knows whether this pod is onboarded".into(),
                );
            }
        }
        Decision::Redirect(policy) => {
            report.decision = Some("redirect");
            report.reason = sources.get("redirect").cloned();
            let records = Records::new(&conf.state_dir);
            let earlier = records.read(&conf.name, attachment);
            let installed = report.phase("program", || install(attachment, &policy, earlier.as_ref()))?;
            report.installed = Some((installed.clone(), policy.families));
            let remembered =
                report.phase("record", || remember(attachment, conf, &records, earlier, installed));
            report.warnings.extend(remembered.err());
        }
    }
    Ok(result_reply(conf.version, prev_result))
}

fn install(
    attachment: &Attachment,
    policy: &Policy,
    earlier: Option<&Record>,
) -> Result<Installed, CommandError> {
    let netns = Netns::open(Path::new(attachment.netns.as_deref().unwrap_or_default()))?;
    let owner = Owner::new(&attachment.container_id, &attachment.ifname);
    let policy = policy.clone();
    let earlier = earlier.and_then(|record| Engine::by_name(&record.engine, IpFamilies::Dual));
    Ok(netns.enter(WORK_WITHIN, move || redirect::install(&policy, &owner, earlier, Namespace::New))??)
}

/// Write the attachment's record. Without one, DEL goes by the note that is kept with the rules: so a failure is a warning.
fn remember(
    attachment: &Attachment,
    conf: &NetConf<'_>,
    records: &Records,
    earlier: Option<Record>,
    installed: Installed,
) -> Result<(), String> {
    let Installed { engine, outcome: _, footprint, left_out: _ } = installed;
    let footprint = match earlier {
        Some(earlier) => footprint.after(&earlier.footprint),
        None => footprint,
    };
    let record = Record {
        network: conf.name.clone(),
        container_id: attachment.container_id.clone(),
        ifname: attachment.ifname.clone(),
        netns: attachment.netns.clone().unwrap_or_default(),
        pod: pod_name(attachment),
        engine: engine.name().to_owned(),
        footprint,
    };
    let folder = conf.state_dir.display();
    records
        .write(&record)
        .map_err(|error| format!("the attachment's record cannot be written to {folder}: {error}"))
}

impl Report {
    fn phase<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.phases.push((name, started.elapsed()));
        result
    }
}

fn line(attachment: &Attachment, report: &Report, result: &Result<Vec<u8>, Failure>, took: Duration) -> Line {
    let Report { decision, reason, installed, warnings, phases } = report;
    let level = match result {
        Err(_) => Level::Error,
        Ok(_) if !warnings.is_empty() => Level::Warn,
        Ok(_) => Level::Info,
    };
    let mut line = Line::new(level)
        .field("verb", "ADD")
        .maybe("pod", pod_name(attachment))
        .field("container", &attachment.container_id)
        .field("ifname", &attachment.ifname)
        .maybe("decision", *decision)
        .maybe("reason", reason.as_ref());
    if let Some((Installed { engine, outcome, footprint, left_out: _ }, families)) = installed {
        let ipv6 = match footprint.hop_address {
            _ if !families.with_v6() => "direct",
            HopAddress::Off => "off",
            HopAddress::Added | HopAddress::Present => "redirected",
        };
        line = line.field("engine", engine.name()).field("rules", outcome).field("ipv6", ipv6);
    }
    for (name, duration) in phases {
        line = line.field(&format!("{name}_us"), duration.as_micros());
    }
    line = line
        .field("took_us", took.as_micros())
        .maybe("warning", (!warnings.is_empty()).then(|| warnings.join("; ")));
    match result {
        Ok(_) => line.field("result", "ok"),
        Err(Failure { code, message, .. }) => line.field("code", *code as i32).field("result", message),
    }
}
