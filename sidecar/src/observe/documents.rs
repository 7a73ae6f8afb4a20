// SPDX-License-Identifier: Apache-2.0
//! State of the mesh documents, for the admin page: those in force, and a change that could not be used.

use crate::metrics::{Counter, Gauge, metrics};
use culvert_mesh::document::LeftOutCount;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// Errors that are kept.
const KEPT: usize = 32;

/// Documents in force, and the last change if it could not be used.
#[derive(Clone, Debug)]
pub(crate) struct DocumentStatus {
    /// Start of their use.
    pub(crate) loaded: SystemTime,
    pub(crate) files: usize,
    /// Errors of the last change; none when it could be used.
    pub(crate) errors: Vec<String>,
    pub(crate) failed: Option<Instant>,
}

impl DocumentStatus {
    fn in_force(files: usize) -> Self {
        Self { loaded: SystemTime::now(), files, errors: Vec::new(), failed: None }
    }
}

metrics! {
    /// Changes of the documents after the start.
    #[derive(Clone, Default)]
    pub(crate) struct DocumentMetrics {
        reloaded: Counter = "config_reloaded", "Changed documents that were put to use" => "config_reloaded";
        reload_failed: Counter = "config_reload_failed",
            "Changed documents that could not be used; the old configuration stays"
            => "config_reload_failed";
        reload_opened: Counter = "config_reload_opened",
            "Changed documents that were put to use and let more in or out than those before"
            => "config_reload_opened";
        left_out_documents: Gauge = "config_left_out",
            "Documents in force that have no effect on this pod as a whole, and fields without effect of the others"
            { what: "documents" }
            => "config_left_out_documents";
        left_out_fields: Gauge = "config_left_out" { what: "fields" } => "config_left_out_fields";
        stale: Gauge = "config_stale",
            "1 while the documents that are there cannot be used and earlier ones are in force"
            => "config_stale";
    }
}

/// State of the documents.
#[derive(Debug)]
pub(crate) struct Documents {
    status: Mutex<DocumentStatus>,
    metrics: DocumentMetrics,
}

impl Documents {
    /// Documents of the start, from so many files.
    pub(crate) fn new(files: usize, metrics: DocumentMetrics) -> Self {
        Self { status: Mutex::new(DocumentStatus::in_force(files)), metrics }
    }

    /// Notes that changed documents are in force.
    pub(crate) fn reloaded(&self, files: usize) {
        self.metrics.reloaded.inc();
        self.metrics.stale.set(0);
        *self.status() = DocumentStatus::in_force(files);
    }

    /// Sets the numbers of documents and fields in force that have no effect.
    pub(crate) fn left_out(&self, count: LeftOutCount) {
        let LeftOutCount { documents, fields } = count;
        for (gauge, number) in
            [(&self.metrics.left_out_documents, documents), (&self.metrics.left_out_fields, fields)]
        {
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }

    /// Counts changed documents that open something.
    pub(crate) fn opened(&self) {
        self.metrics.reload_opened.inc();
    }

    /// Notes that changed documents cannot be used; those before stay in force.
    pub(crate) fn reload_failed<E: ToString>(&self, errors: &[E]) {
        self.metrics.reload_failed.inc();
        self.metrics.stale.set(1);
        let mut status = self.status();
        status.errors = errors.iter().take(KEPT).map(ToString::to_string).collect();
        if errors.len() > KEPT {
            status.errors.push(format!("and {} more errors", errors.len() - KEPT));
        }
        status.failed = Some(Instant::now());
    }

    /// Notes that the files are again those in force.
    pub(crate) fn as_before(&self) {
        self.metrics.stale.set(0);
        let mut status = self.status();
        status.errors.clear();
        status.failed = None;
    }

    /// Changes that could not be used, so far.
    pub(crate) fn failures(&self) -> u64 {
        self.metrics.reload_failed.get()
    }

    pub(crate) fn get(&self) -> DocumentStatus {
        self.status().clone()
    }

    fn status(&self) -> MutexGuard<'_, DocumentStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
