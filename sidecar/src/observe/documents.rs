// SPDX-License-Identifier: Apache-2.0
//! What became of the mesh documents, for the admin page: what is in force, and what could not be used.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// Errors that are kept.
const KEPT: usize = 32;

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// When what is in force was loaded.
    pub loaded: Option<SystemTime>,
    /// Files that were looked at.
    pub files: usize,
    /// Why the last change could not be used; empty when it could.
    pub errors: Vec<String>,
    /// When that was.
    pub failed: Option<Instant>,
}

/// What is known of the documents.
#[derive(Debug, Default)]
pub struct Documents(Mutex<Status>);

impl Documents {
    /// They are in force.
    pub fn loaded(&self, files: usize) {
        *self.status() = Status { loaded: Some(SystemTime::now()), files, ..Status::default() };
    }

    /// They cannot be used; what was in force stays.
    pub fn failed<E: ToString>(&self, errors: &[E]) {
        let mut status = self.status();
        status.errors = errors.iter().take(KEPT).map(ToString::to_string).collect();
        if errors.len() > KEPT {
            status.errors.push(format!("and {} more errors", errors.len() - KEPT));
        }
        status.failed = Some(Instant::now());
    }

    /// The same files as before are there again.
    pub fn as_before(&self) {
        let mut status = self.status();
        status.errors.clear();
        status.failed = None;
    }

    /// What is known.
    pub fn get(&self) -> Status {
        self.status().clone()
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
