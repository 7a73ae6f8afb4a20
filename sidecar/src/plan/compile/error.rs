// SPDX-License-Identifier: Apache-2.0
//! Errors of documents that are wrong together.

use culvert_mesh::document::DocumentError;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The pod's own document is not there.
    #[error(
        "--dataplane {name}: no document is a Dataplane of this name in mesh {mesh:?} (--mesh); {}",
        if there.is_empty() { "there is none in that mesh".into() } else { format!("there are: {}", there.join(", ")) }
    )]
    NoDataplane {
        /// The name that was looked for.
        name: String,
        /// The mesh that it was looked for in.
        mesh: String,
        /// Some that are there.
        there: Vec<String>,
    },
    /// More than one document may be meant.
    #[error("--dataplane {name}: found several Dataplanes of this name in mesh {mesh:?}; allowed: one of {}", there.join(", "))]
    Ambiguous {
        /// The name that was looked for.
        name: String,
        /// The mesh that it was looked for in.
        mesh: String,
        /// How they are told apart.
        there: Vec<String>,
    },
}
