// SPDX-License-Identifier: Apache-2.0
//! Mesh documents: Kuma's YAML, as far as culvert does what it says.
//!
//! ```text
//! files ─▶ text ─▶ values ─▶ typed documents ─▶ compile ─▶ Plan
//! ```
//! Each kind has a file; [`read`] has what they are made of. Everything but [`files`] is pure.

pub mod compile;
pub mod dataplane;
pub mod document;
pub mod files;
mod log_fields;
mod logs;
pub mod mesh;
pub mod mesh_access_log;
pub mod mesh_tls;
pub mod mesh_traffic_permission;
pub mod part;
mod patch;
pub mod problems;
pub mod proxy_template;
pub mod read;
mod security;
pub mod target;
pub mod yaml;

pub(crate) use read::fields;

use crate::options::config::Config;
use crate::plan::Plan;
use compile::CompileError;
use files::{LoadError, Loaded};
use std::path::PathBuf;

/// Most errors that are told: in thousands of documents of a broken generator they are the same.
const MOST_ERRORS: usize = 200;

/// Why documents cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// One of them.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// All of them together.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// There are more errors than are told.
    #[error("and {0} more errors")]
    More(usize),
}

/// Files → plan.
///
/// # Errors
/// Everything that is wrong.
pub fn plan(config: &Config, paths: &[PathBuf]) -> Result<Plan, Vec<ResourceError>> {
    let Loaded { found, errors } = files::load(config, paths);
    let mut errors: Vec<ResourceError> = errors.into_iter().map(Into::into).collect();
    let plan = match compile::compile(config, &found) {
        Ok(plan) if errors.is_empty() => return Ok(plan),
        Ok(_) => Vec::new(),
        Err(together) => together,
    };
    errors.extend(plan.into_iter().map(ResourceError::from));
    if errors.len() > MOST_ERRORS {
        let more = errors.len() - MOST_ERRORS;
        errors.truncate(MOST_ERRORS);
        errors.push(ResourceError::More(more));
    }
    Err(errors)
}
