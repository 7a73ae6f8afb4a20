// SPDX-License-Identifier: Apache-2.0
//! Files of mesh documents → [`Plan`].

pub(crate) mod destination;

use crate::net::resolve::Names;
use crate::options::config::Config;
use crate::plan::Plan;
use crate::plan::compile::{self, CompileError};
use crate::plan::names::{Standing, lookup};
use crate::plan::stand_in::{self, LabelsError};
use culvert_mesh::document::Found;
use culvert_mesh::load::{self, LoadError, Loaded, MOST_ERRORS, Sources, Text};
use std::path::PathBuf;
use std::time::Instant;

/// Warnings that are kept: each is a line of the log at every reload.
const MOST_WARNINGS: usize = 200;

/// Error of documents that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A file or document is wrong by itself.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Documents are wrong together.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The pod's labels cannot be read.
    #[error(transparent)]
    Labels(#[from] LabelsError),
    /// There are more errors than are reported.
    #[error("and {0} more errors")]
    More(usize),
}

impl PlanError {
    /// Returns the file, or what stands for one, with the document that is wrong.
    pub(crate) fn source(&self) -> Option<&str> {
        match self {
            Self::Load(LoadError::File { path, .. }) => path.to_str(),
            Self::Load(LoadError::Document(error)) | Self::Compile(CompileError::Document(error)) => {
                Some(&error.place.file)
            }
            Self::Compile(_) | Self::Labels(_) | Self::More(_) => None,
        }
    }
}

/// Everything that a plan is read from, beside the options.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PlanSources<'f> {
    /// Files and folders.
    pub(crate) paths: &'f [PathBuf],
    /// Documents of the controller.
    pub(crate) texts: &'f [Text],
    /// Looks names up; `None` = no name is looked up.
    pub(crate) names: Option<&'f Names>,
    /// True where the plan in force has a Mesh document, whose loss is an error.
    pub(crate) had_mesh: bool,
}

/// Reads files of documents and compiles them with the options. Without `names` no name is looked up.
///
/// # Errors
/// Every error of the documents, but at most [`MOST_ERRORS`].
pub(crate) fn load(
    config: &Config,
    paths: &[PathBuf],
    names: Option<&Names>,
) -> Result<Plan, Vec<PlanError>> {
    read(config, &PlanSources { paths, names, ..PlanSources::default() }, &Standing::default())
        .map(|(plan, _)| plan)
}

/// Gives names of the mesh their addresses by what the pod has until now, and returns the documents too.
pub(crate) fn read(
    config: &Config,
    from: &PlanSources<'_>,
    standing: &Standing,
) -> Result<(Plan, Found), Vec<PlanError>> {
    let start = Instant::now();
    let &PlanSources { paths, texts, names, had_mesh } = from;
    // A controller keeps them in a volume that is empty until the controller was there.
    let may_be_absent = config.control.is_some() && !config.checks_only;
    let mut loaded = load::load(&config.context(), &Sources { paths, may_be_absent, texts });
    let stand_ins = stand_in::add(config, &mut loaded, had_mesh);
    let Loaded { mut found, errors, more, replaced, .. } = loaded;
    let mut errors: Vec<PlanError> = errors.into_iter().map(Into::into).collect();
    let stand_ins = stand_ins.map_err(|error| errors.push(error.into())).unwrap_or_default();
    // Documents with errors make no plan, so their names need not be awaited.
    let named = lookup::put_in(&mut found, config, names.filter(|_| errors.is_empty()));
    errors.extend(named.errors.into_iter().map(|error| CompileError::from(error).into()));
    let read = start.elapsed();
    let compiled = compile::compile_after(config, &found, standing);
    let (read_us, compiled_us) = (read.as_micros(), (start.elapsed() - read).as_micros());
    tracing::debug!(
        documents = found.documents.len(),
        read_us,
        compiled_us,
        "documents were read and compiled"
    );
    let plan = match compiled {
        Ok(mut plan) if errors.is_empty() => {
            plan.stand_ins = stand_ins;
            plan.documents -= stand_ins.count();
            plan.warnings.extend(named.warnings);
            plan.warnings.extend(replaced);
            let more = plan.warnings.len().saturating_sub(MOST_WARNINGS);
            if more > 0 {
                plan.warnings.truncate(MOST_WARNINGS);
                plan.warnings.push(format!("and {more} more warnings"));
            }
            // A line a kind and field of a fixed list, so that none is cut.
            plan.warnings.extend(found.left_out.warnings());
            plan.left_out = found.left_out.count();
            return Ok((plan, found));
        }
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
    fn of_many_warnings_and_errors_a_part_is_kept_and_the_rest_counted() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(folder.path().join("a.yaml"), text).unwrap();
        let template = |number: usize| {
            format!(
                "---\n{{type: ProxyTemplate, name: p{number}, selectors: [{{match: {{kuma.io/service: x}}}}], conf: {{imports: [default-proxy]}}}}\n"
            )
        };
        write(
            &(0..250)
                .fold("{type: Mesh, name: default}\n".to_owned(), |text, number| text + &template(number)),
        );
        let warnings = load(&config(&[]), &[folder.path().into()], None).unwrap().warnings;
        assert_eq!((warnings.len(), warnings[200].as_str()), (201, "and 50 more warnings"));
        write(&"---\n{type: Mesh, name: default, mtls: 5}\n".repeat(201));
        let errors = load(&config(&[]), &[folder.path().into()], None).unwrap_err();
        // Each is wrong by itself, and all but the first are duplicates.
        assert_eq!((errors.len(), errors[200].to_string().as_str()), (201, "and 201 more errors"));
    }

    #[test]
    fn no_dataplane_is_missed_that_may_be_in_what_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&["--dataplane=app"]);
        let missed = |text: &str| {
            fs::write(folder.path().join("a.yaml"), format!("{text}\n---\n{{type: Mesh, name: default}}\n"))
                .unwrap();
            let Err(errors) = load(&config, &[folder.path().into()], None) else { panic!("{text}") };
            let words: Vec<_> = errors.iter().map(ToString::to_string).collect();
            words.iter().any(|error| error.starts_with("--dataplane app: no document"))
        };
        for may_be in [
            "name: app\ntype: [",
            "{type: Dataplan, name: app}",
            "{type: Dataplane, name: 5}",
            "{type: Dataplane, name: app, mesh: 5}",
            "{type: Dataplane, name: app}",
            "{type: Dataplane, name: app, networking: {address: here!}}",
        ] {
            assert!(!missed(may_be), "{may_be}");
        }
        for is_not in [
            "name: web\ntype: [",
            "{type: TrafficRoute, name: web}",
            "{type: Mesh, name: 5}",
            "{type: Dataplane, name: app, mesh: other, networking: {address: here!}}",
            "{type: Dataplane, name: web, networking: {address: here!}}",
            "",
        ] {
            assert!(missed(is_not), "{is_not}");
        }
    }
}
