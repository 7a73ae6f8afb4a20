// SPDX-License-Identifier: Apache-2.0
//! `culvert-sidecar validate PATH…`: checks documents as a start would, and runs nothing.

use crate::observe::one_line::one_line;
use crate::options::Options;
use crate::plan::Plan;
use crate::plan::load::{self, PlanError};
use std::fmt::Write;
use std::path::PathBuf;

/// Checks the documents below the paths, and returns warnings and a summary.
///
/// # Errors
/// Every error in the options or in the documents.
pub fn validate(options: Options, paths: &[PathBuf]) -> Result<String, Vec<String>> {
    let mut config = options.with_resources(paths).check().map_err(|errors| words(&errors))?;
    config.any_pod = config.dataplane.is_none();
    config.checks_only = true;
    let plan = load::load(&config, paths, None).map_err(|errors: Vec<PlanError>| words(&errors))?;
    let mut text = String::new();
    for warning in &plan.warnings {
        // Writing to a String does not fail.
        let _ = writeln!(text, "warning: {}", one_line(warning));
    }
    let whose = config.dataplane.map_or(String::new(), |name| format!(", Dataplane {name:?}"));
    let _ = write!(
        text,
        "{} documents are well-formed; mesh {:?}{whose}: {} listeners, {} clusters, passthrough {}",
        plan.documents,
        config.mesh,
        plan.listener_count(),
        plan.cluster_count(),
        passthrough(&plan)
    );
    Ok(text)
}

fn passthrough(plan: &Plan) -> String {
    match (plan.passthrough, plan.outside.exits().len()) {
        (true, _) => "on".into(),
        (false, 0) => "off".into(),
        (false, exits) => format!("off but for {exits} matches"),
    }
}

fn words<E: ToString>(errors: &[E]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}
