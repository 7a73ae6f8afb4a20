// SPDX-License-Identifier: Apache-2.0
//! ADD: decide, plan, program, read back, and hand prevResult on.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{CommandError, WORK_WITHIN, pod_name};
use crate::agent::{self, client};
use crate::attachment::{Considered, NO_ENGINE, Record, Records};
use crate::log::{Level, Line, Log};
use crate::netns::{Netns, NetnsId};
use crate::pod::{self, Decided, Decision};
use crate::protocol::{Attachment, Code, Failure, NetConf, PrevResult, result_reply};
use crate::redirect::engine::Engine;
use crate::redirect::loopback::HopAddress;
use crate::redirect::owner::Owner;
use crate::redirect::policy::{IpFamilies, Policy};
use crate::redirect::{self, Footprint, Installed, Namespace};

/// What ADD says of itself in the log, one line.
#[derive(Default)]
struct Report {
    decision: Option<&'static str>,
    reason: Option<String>,
    from_agent: bool,
    installed: Option<(Installed, IpFamilies)>,
    warnings: Vec<String>,
    phases: Vec<(&'static str, Duration)>,
}

/// Answer with prevResult once the pod's rules are in, or at once if there is nothing to do.
pub fn add(attachment: &Attachment, conf: &NetConf<'_>) -> Result<Vec<u8>, Failure> {
    let started = Instant::now();
    let mut report = Report { warnings: conf.warnings.clone(), ..Report::default() };
    let result = work(attachment, conf, &mut report);
    let took = started.elapsed();
    Log::new(conf.log_level, &conf.log_file).write(&line(attachment, &report, &result, took));
    client::report(&conf.agent_socket, told(attachment, conf, &report, &result, took));
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
    let started = Instant::now();
    let ask = |pod: &agent::PodRef| client::annotations(&conf.agent_socket, pod);
    let considered =
        report.phase("decide", || pod::decide(conf, &attachment.args, ask)).map_err(CommandError::from)?;
    let pod::Considered { decided: Decided { decision, warnings, sources }, annotations, from_agent } =
        considered;
    report.warnings.extend(warnings);
    report.from_agent = from_agent;
    let records = Records::new(&conf.state_dir);
    match decision {
        Decision::PassThrough(reason) => {
            report.decision = Some("pass through");
            report.reason = Some(reason.as_str().to_owned());
            if reason == pod::Reason::Unknown {
                // Such a pod has to be found by `culvert-install status` also where no agent runs.
                let record = record(attachment, conf, NO_ENGINE, Footprint::nothing());
                let remembered = report.phase("record", || remember(&records, conf, &record));
                report.warnings.extend(remembered.err());
            }
        }
        Decision::Redirect(policy) => {
            report.decision = Some("redirect");
            report.reason = sources.get("redirect").cloned();
            let earlier = records.read(&conf.name, attachment);
            // Whoever waited for the node agent has less left for the rules.
            let limit = WORK_WITHIN.saturating_sub(started.elapsed());
            let (installed, netns_id) =
                report.phase("program", || install(attachment, &policy, earlier.as_ref(), limit))?;
            report.installed = Some((installed.clone(), policy.families));
            let Installed { engine, outcome: _, footprint, left_out: _ } = installed;
            let footprint = match earlier {
                Some(earlier) => footprint.after(&earlier.footprint),
                None => footprint,
            };
            let record = Record {
                netns_id,
                considered: annotations.and_then(|annotations| Considered::new(conf, &annotations)),
                ..record(attachment, conf, engine.name(), footprint)
            };
            let remembered = report.phase("record", || remember(&records, conf, &record));
            report.warnings.extend(remembered.err());
        }
    }
    Ok(result_reply(conf.version, prev_result))
}

fn install(
    attachment: &Attachment,
    policy: &Policy,
    earlier: Option<&Record>,
    limit: Duration,
) -> Result<(Installed, Option<NetnsId>), CommandError> {
    let netns = Netns::open(Path::new(attachment.netns.as_deref().unwrap_or_default()))?;
    let id = netns.id().ok();
    let owner = Owner::new(&attachment.container_id, &attachment.ifname);
    let policy = policy.clone();
    let earlier = earlier.and_then(|record| Engine::by_name(&record.engine, IpFamilies::Dual));
    let work = move || redirect::install(&policy, &owner, earlier, Namespace::New);
    Ok((netns.enter(limit, work)??, id))
}

fn record(attachment: &Attachment, conf: &NetConf<'_>, engine: &str, footprint: Footprint) -> Record {
    Record {
        network: conf.name.clone(),
        container_id: attachment.container_id.clone(),
        ifname: attachment.ifname.clone(),
        netns: attachment.netns.clone().unwrap_or_default(),
        pod: pod_name(attachment),
        engine: engine.to_owned(),
        footprint,
        netns_id: None,
        considered: None,
    }
}

/// Write the attachment's record. Without one, DEL goes by the note that is kept with the rules: so a failure is a warning.
fn remember(records: &Records, conf: &NetConf<'_>, record: &Record) -> Result<(), String> {
    let folder = conf.state_dir.display();
    records
        .write(record)
        .map_err(|error| format!("the attachment's record cannot be written to {folder}: {error}"))
}

/// The same for the node agent.
fn told(
    attachment: &Attachment,
    conf: &NetConf<'_>,
    report: &Report,
    result: &Result<Vec<u8>, Failure>,
    took: Duration,
) -> agent::Report {
    agent::Report {
        verb: "ADD".to_owned(),
        network: conf.name.clone(),
        container_id: attachment.container_id.clone(),
        ifname: attachment.ifname.clone(),
        pod: pod_name(attachment),
        decision: report.decision.map(str::to_owned),
        reason: report.reason.clone(),
        engine: report.installed.as_ref().map(|(installed, _)| installed.engine.name().to_owned()),
        code: result.as_ref().err().map_or(0, |failure| failure.code as i32),
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }
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
    let Report { decision, reason, from_agent, installed, warnings, phases } = report;
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
        .maybe("reason", reason.as_ref())
        .maybe("annotations", from_agent.then_some("from the node agent"));
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
