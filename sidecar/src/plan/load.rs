// SPDX-License-Identifier: Apache-2.0
//! Files of mesh documents → [`Plan`].

use crate::options::config::Config;
use crate::plan::Plan;
use crate::plan::compile::{self, CompileError};
use culvert_mesh::load::{self, LoadError, Loaded, MOST_ERRORS};
use std::path::PathBuf;

/// Error of documents that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A file or document is wrong by itself.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Documents are wrong together.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// There are more errors than are reported.
    #[error("and {0} more errors")]
    More(usize),
}

/// Reads files of documents and compiles them with the options.
///
/// # Errors
/// Every error of the documents, but at most [`MOST_ERRORS`].
pub(crate) fn load(config: &Config, paths: &[PathBuf]) -> Result<Plan, Vec<PlanError>> {
    let Loaded { found, errors, more, .. } = load::load(&config.context(), paths);
    let mut errors: Vec<PlanError> = errors.into_iter().map(Into::into).collect();
    let plan = match compile::compile(config, &found) {
        Ok(plan) if errors.is_empty() => return Ok(plan),
        Ok(_) => Vec::new(),
        Err(together) => together,
    };
    errors.extend(plan.into_iter().map(PlanError::from));
    let more = more + errors.len().saturating_sub(MOST_ERRORS);
    if more > 0 {
        errors.truncate(MOST_ERRORS);
        errors.push(PlanError::More(more));
    }
    Err(errors)
}

#[cfg(test)]
mod tests {
    use super::load;
    use crate::options::Options;
    use crate::options::config::Config;
    use clap::Parser;
    use std::fs;

    fn config(arguments: &[&str]) -> Config {
        let arguments = ["culvert-sidecar", "--resources=/mesh"].iter().chain(arguments);
        Options::try_parse_from(arguments).unwrap().check().unwrap()
    }

    #[test]
    fn no_dataplane_is_missed_that_may_be_in_what_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&["--dataplane=app"]);
        let missed = |text: &str| {
            fs::write(folder.path().join("a.yaml"), format!("{text}\n---\n{{type: Mesh, name: default}}\n"))
                .unwrap();
            let Err(errors) = load(&config, &[folder.path().into()]) else { panic!("{text}") };
            let words: Vec<_> = errors.iter().map(ToString::to_string).collect();
            words.iter().any(|error| error.starts_with("--dataplane app: no document"))
        };
        for may_be in [
            "name: app\ntype: [",
            "{type: Dataplan, name: app}",
            "{type: Dataplane, name: 5}",
            "{type: Dataplane, name: app, mesh: 5}",
            "{type: Dataplane, name: app}",
            "{type: Dataplane, name: app, networking: {address: here}}",
        ] {
            assert!(!missed(may_be), "{may_be}");
        }
        for is_not in [
            "name: web\ntype: [",
            "{type: TrafficRoute, name: web}",
            "{type: Mesh, name: 5}",
            "{type: Dataplane, name: app, mesh: other, networking: {address: here}}",
            "{type: Dataplane, name: web, networking: {address: here}}",
            "",
        ] {
            assert!(missed(is_not), "{is_not}");
        }
    }
}
