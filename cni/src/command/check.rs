// SPDX-License-Identifier: Apache-2.0
//! CHECK: compare the kernel's state with what ADD would write. Changes nothing.

use std::path::Path;

use super::budget::WORK_WITHIN;
use super::error::CommandError;
use super::report;
use crate::agent::client;
use crate::attachment::Records;
use crate::log::{Level, Log};
use crate::metadata::PodRef;
use crate::netns::Netns;
use crate::pod::{self, Decision};
use crate::protocol::{Attachment, Code, Failure, NetConf};
use crate::redirect::engine::{self, Engine};
use crate::redirect::policy::Policy;
use crate::redirect::{self, RedirectError};

/// Fail with [`Code::Drift`] if the two differ, with one line in the details for each difference.
pub(super) fn check(attachment: &Attachment, conf: &NetConf<'_>) -> Result<(), Failure> {
    if conf.prev_result.is_none() {
        return Err(Failure::new(
            Code::Config,
            "prevResult is missing: CHECK is asked with the result of ADD",
        ));
    }
    let result = drift(attachment, conf);
    let report = report::report("CHECK", attachment, conf);
    let log = Log::new(conf.log_level, &conf.log_file);
    match &result {
        Ok(()) => log.write(&report::line(Level::Info, &report).field("result", "ok")),
        Err(Failure { code, message, details }) => {
            let line =
                report::line(Level::Warn, &report).field("code", *code as i32).field("result", message);
            log.write(&line.maybe("drift", (!details.is_empty()).then_some(details)));
        }
    }
    result
}

fn drift(attachment: &Attachment, conf: &NetConf<'_>) -> Result<(), Failure> {
    let ask = |pod: &PodRef| client::annotations(&conf.agent_socket, pod);
    let resolved = pod::decide(conf, &attachment.args, ask).map_err(CommandError::from)?;
    let Decision::Redirect(policy) = resolved.decided.decision else { return Ok(()) };
    let recorded = Records::new(&conf.state_dir).read(&conf.name, attachment).map(|record| record.engine);
    let differences = compare(attachment, *policy, recorded)?;
    if differences.is_empty() {
        return Ok(());
    }
    Err(Failure {
        code: Code::Drift,
        message: format!("the pod's redirect differs from what ADD wrote, in {} places", differences.len()),
        details: differences.join("\n"),
    })
}

fn compare(
    attachment: &Attachment,
    policy: Policy,
    recorded: Option<String>,
) -> Result<Vec<String>, CommandError> {
    let netns = Netns::open(Path::new(attachment.netns.as_deref().unwrap_or_default()))?;
    let work = move || -> Result<Vec<String>, RedirectError> {
        // The recorded engine; without a record, the first one that ADD would try.
        let engine = match recorded.and_then(|name| Engine::by_name(&name, policy.families)) {
            Some(engine) => Some(engine),
            None => engine::candidates(&policy)?.into_iter().next(),
        };
        redirect::verify(&policy, engine.unwrap_or(Engine::Nftables))
    };
    Ok(netns.enter(WORK_WITHIN, work)??)
}
