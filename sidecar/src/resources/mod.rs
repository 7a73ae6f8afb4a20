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
mod logs;
pub mod mesh;
pub mod mesh_access_log;
pub mod mesh_tls;
pub mod mesh_traffic_permission;
mod patch;
pub mod proxy_template;
pub mod read;
mod security;
pub mod target;
pub mod yaml;

pub(crate) use read::fields;

use crate::config::Config;
use crate::plan::Plan;
use compile::CompileError;
use files::LoadError;
use std::path::PathBuf;

/// Why documents cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// One of them.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// All of them together.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// Files → plan.
///
/// # Errors
/// Everything that is wrong.
pub fn plan(config: &Config, paths: &[PathBuf]) -> Result<Plan, Vec<ResourceError>> {
    let documents = files::load(paths).map_err(into)?;
    compile::compile(config, &documents).map_err(into)
}

fn into<E: Into<ResourceError>>(errors: Vec<E>) -> Vec<ResourceError> {
    errors.into_iter().map(Into::into).collect()
}
