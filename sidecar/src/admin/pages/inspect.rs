// SPDX-License-Identifier: Apache-2.0
//! `/inspect`: which documents decide what, as the command of that name shows it.

use crate::admin::query;
use crate::admin::reply::{self, Reply};
use crate::connection::proxy::Proxy;
use crate::plan::load::{self, PlanSources};
use crate::plan::names::Standing;
use crate::plan::report::{Caller, Report};
use hyper::StatusCode;

/// Path of the page.
pub(super) const PATH: &str = "/inspect";

/// A request's question.
struct Question {
    caller: Option<String>,
    json: bool,
}

impl Question {
    fn of(query: &str) -> Result<Self, String> {
        let mut question = Self { caller: None, json: false };
        for (key, value) in query::pairs(query) {
            match (key.as_str(), value.as_str()) {
                ("caller", id) => question.caller = Some(id.into()),
                ("format", "json") => question.json = true,
                ("format", "text") => question.json = false,
                _ => return Err("only ?caller=ID and ?format=text or json are known".into()),
            }
        }
        Ok(question)
    }
}

/// Reads the documents again and explains them. Reading takes a fifth of a second for 5,000 documents, and keeping them with
/// the plan would take more memory than the plan.
pub(super) fn page(proxy: &Proxy, query: &str) -> Reply {
    match looked(proxy, query) {
        Ok(reply) => reply,
        Err(wrong) => reply::text(StatusCode::BAD_REQUEST, wrong),
    }
}

fn looked(proxy: &Proxy, query: &str) -> Result<Reply, String> {
    let question = Question::of(query)?;
    let config = &proxy.config;
    let caller =
        question.caller.map(|id| Caller::new(config, &id).map_err(|error| format!("?caller={id}: {error}")));
    let caller = caller.transpose()?;
    let standing = Standing::of_pod(&proxy.running.load().plan.names);
    let texts = proxy.control.as_ref().map(|control| control.in_force()).unwrap_or_default();
    let had_mesh = !proxy.running.load().plan.stand_ins.mesh;
    let from = PlanSources { paths: &config.resources, texts: &texts, names: Some(&proxy.names), had_mesh };
    let read = load::read(config, &from, &standing);
    let (mut plan, found) = match read {
        Ok(read) => read,
        Err(errors) => {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            let words =
                "the documents have errors now, and earlier ones are in force, which cannot be explained";
            return Ok(reply::text(StatusCode::CONFLICT, format!("{words}:\n{}", errors.join("\n"))));
        }
    };
    let mut report = Report::of(config, &found, caller.as_ref());
    let running = proxy.running.load();
    // A reload adds warnings of its own.
    plan.warnings.clone_from(&running.plan.warnings);
    if plan != running.plan {
        report
            .notes
            .push("the files changed a moment ago: this is what they say, and it is not in force yet".into());
    }
    Ok(match question.json {
        true => reply::json(&report),
        false => reply::text(StatusCode::OK, report.to_string().trim_end()),
    })
}
