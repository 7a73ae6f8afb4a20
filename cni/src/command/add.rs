// SPDX-License-Identifier: Apache-2.0
//! ADD: decide, plan, program, read back, and hand prevResult on.

use std::path::Path;
use std::time::{Duration, Instant};

use super::budget::WORK_WITHIN;
use super::error::CommandError;
use super::report;
use crate::agent::{Report, client};
use crate::attachment::{Considered, NO_ENGINE, Record, Records};
use crate::log::{Level, Line, Log};
use crate::metadata::{Annotations, PodRef};
use crate::netns::{Netns, NetnsId};
use crate::pod::{self, Decided, Decision, Resolved};
use crate::protocol::{Attachment, Code, Failure, NetConf, PrevResult, result_reply};
use crate::redirect::engine::Engine;
use crate::redirect::loopback::HopAddress;
use crate::redirect::owner::Owner;
use crate::redirect::policy::{IpFamilies, Policy};
use crate::redirect::{self, Footprint, Installed, Namespace};

/// The part of ADD's log line that the report to the agent does not have.
#[derive(Default)]
struct Details {
    from_agent: bool,
    installed: Option<(Installed, IpFamilies)>,
    /// NAT rules and drop policies of other programs in the pod.
    beside: Vec<String>,
    warnings: Vec<String>,
    phases: Vec<(&'static str, Duration)>,
}

/// Answer with prevResult once the pod's rules are in, or at once if the pod is not redirected.
pub(super) fn add(attachment: &Attachment, conf: &NetConf<'_>) -> Result<Vec<u8>, Failure> {
    let started = Instant::now();
    let mut report = report::report("ADD", attachment, conf);
    let mut details = Details { warnings: conf.warnings.clone(), ..Details::default() };
    let result = work(attachment, conf, &mut report, &mut details);
    report.code = result.as_ref().err().map_or(0, |failure| failure.code as i32);
    report.took_us = report::micros(started.elapsed());
    Log::new(conf.log_level, &conf.log_file).write(&line(&report, &details, &result));
    client::report(&conf.agent_socket, report);
    result
}

/// Answer with prevResult on a node that culvert was uninstalled from.
pub(super) fn pass_through(attachment: &Attachment, conf: &NetConf<'_>) -> Result<Vec<u8>, Failure> {
    let report = Report {
        decision: Some("pass through".to_owned()),
        reason: Some("culvert was uninstalled from this node".to_owned()),
        ..report::report("ADD", attachment, conf)
    };
    let line = report::line(Level::Info, &report).field("result", "ok");
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

fn work(
    attachment: &Attachment,
    conf: &NetConf<'_>,
    report: &mut Report,
    details: &mut Details,
) -> Result<Vec<u8>, Failure> {
    let prev_result = prev_result(conf)?;
    let started = Instant::now();
    let ask = |pod: &PodRef| client::annotations(&conf.agent_socket, pod);
    let resolved =
        details.phase("decide", || pod::decide(conf, &attachment.args, ask)).map_err(CommandError::from)?;
    let Resolved { decided: Decided { decision, warnings, sources }, annotations, from_agent } = resolved;
    details.warnings.extend(warnings);
    details.from_agent = from_agent;
    match decision {
        Decision::PassThrough(reason) => {
            report.decision = Some("pass through".to_owned());
            report.reason = Some(reason.as_str().to_owned());
            if reason == pod::Reason::Unknown {
                // `culvert-install status` lists such pods, also on a node without an agent; it finds them by the record.
                details.remember(conf, &record(attachment, conf, NO_ENGINE, Footprint::nothing()));
            }
        }
        Decision::Redirect(policy) => {
            report.decision = Some("redirect".to_owned());
            report.reason = sources.get("redirect").cloned();
            // The wait for the node agent counts against the same budget.
            let limit = WORK_WITHIN.saturating_sub(started.elapsed());
            redirect_pod(attachment, conf, &policy, annotations.as_ref(), limit, details)?;
            report.engine =
                details.installed.as_ref().map(|(installed, _)| installed.engine.name().to_owned());
        }
    }
    Ok(result_reply(conf.version, prev_result))
}

fn redirect_pod(
    attachment: &Attachment,
    conf: &NetConf<'_>,
    policy: &Policy,
    annotations: Option<&Annotations>,
    limit: Duration,
    details: &mut Details,
) -> Result<(), CommandError> {
    let earlier = Records::new(&conf.state_dir).read(&conf.name, attachment);
    let (installed, beside, netns_id) =
        details.phase("program", || install(attachment, policy, earlier.as_ref(), limit))?;
    let footprint = match earlier {
        Some(earlier) => installed.footprint.clone().after(&earlier.footprint),
        None => installed.footprint.clone(),
    };
    let record = Record {
        netns_id,
        considered: annotations.and_then(|annotations| Considered::new(conf, annotations)),
        ..record(attachment, conf, installed.engine.name(), footprint)
    };
    details.installed = Some((installed, policy.families));
    details.beside = beside;
    details.remember(conf, &record);
    Ok(())
}

fn install(
    attachment: &Attachment,
    policy: &Policy,
    earlier: Option<&Record>,
    limit: Duration,
) -> Result<(Installed, Vec<String>, Option<NetnsId>), CommandError> {
    let netns = Netns::open(Path::new(attachment.netns.as_deref().unwrap_or_default()))?;
    let id = netns.id().ok();
    let owner = Owner::new(&attachment.container_id, &attachment.ifname);
    let policy = policy.clone();
    let earlier = earlier.and_then(|record| Engine::by_name(&record.engine, IpFamilies::Dual));
    let work = move || {
        redirect::install(&policy, &owner, earlier, Namespace::New)
            .map(|installed| (installed, redirect::beside::others()))
    };
    let (installed, beside) = netns.enter(limit, work)??;
    Ok((installed, beside, id))
}

fn record(attachment: &Attachment, conf: &NetConf<'_>, engine: &str, footprint: Footprint) -> Record {
    Record {
        network: conf.name.clone(),
        container_id: attachment.container_id.clone(),
        ifname: attachment.ifname.clone(),
        netns: attachment.netns.clone().unwrap_or_default(),
        pod: attachment.args.pod_display_name(),
        engine: engine.to_owned(),
        footprint,
        netns_id: None,
        considered: None,
    }
}

impl Details {
    fn phase<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.phases.push((name, started.elapsed()));
        result
    }

    /// Write the attachment's record. A failure is only a warning: without a record, DEL goes by the note that is kept with
    /// the rules.
    fn remember(&mut self, conf: &NetConf<'_>, record: &Record) {
        let written = self.phase("record", || Records::new(&conf.state_dir).write(record));
        let folder = conf.state_dir.display();
        let warning = |error| format!("the attachment's record cannot be written to {folder}: {error}");
        self.warnings.extend(written.err().map(warning));
    }
}

fn line(report: &Report, details: &Details, result: &Result<Vec<u8>, Failure>) -> Line {
    let Details { from_agent, installed, beside, warnings, phases } = details;
    let level = match result {
        Err(_) => Level::Error,
        Ok(_) if !warnings.is_empty() => Level::Warn,
        Ok(_) => Level::Info,
    };
    let mut line = report::line(level, report)
        .maybe("annotations", from_agent.then_some("from the node agent"))
        .maybe("engine", report.engine.as_ref());
    if let Some((Installed { engine: _, outcome, footprint, left_out: _ }, families)) = installed {
        let ipv6 = match footprint.hop_address {
            _ if !families.with_v6() => "direct",
            HopAddress::Off => "off",
            HopAddress::Added | HopAddress::Present => "redirected",
        };
        line = line
            .field("rules", outcome)
            .field("ipv6", ipv6)
            .maybe("beside", (!beside.is_empty()).then(|| beside.join("; ")));
    }
    for (name, duration) in phases {
        line = line.field(&format!("{name}_us"), duration.as_micros());
    }
    line = line
        .field("took_us", report.took_us)
        .maybe("warning", (!warnings.is_empty()).then(|| warnings.join("; ")));
    match result {
        Ok(_) => line.field("result", "ok"),
        Err(Failure { code, message, .. }) => line.field("code", *code as i32).field("result", message),
    }
}
