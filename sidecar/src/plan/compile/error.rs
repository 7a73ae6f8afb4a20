// SPDX-License-Identifier: Apache-2.0
//! Errors of documents that are wrong together.

use culvert_mesh::document::DocumentError;

/// Error of documents that make no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A document contradicts another one.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The mesh itself is missing: without it nothing says who may call and where calls may go.
    #[error(
        "--mesh {mesh}: no document is a Mesh of this name; {}",
        if there.is_empty() { "there is no Mesh".into() } else { format!("there are: {}", there.join(", ")) }
    )]
    NoMesh {
        /// The name that was looked for.
        mesh: String,
        /// Some that are there.
        there: Vec<String>,
    },
    /// The pod's own Dataplane is missing.
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
    /// Several Dataplanes have the pod's name.
    #[error("--dataplane {name}: found several Dataplanes of this name in mesh {mesh:?}; allowed: one of {}", there.join(", "))]
    Ambiguous {
        /// The name that was looked for.
        name: String,
        /// The mesh that it was looked for in.
        mesh: String,
        /// Their names with the namespace.
        there: Vec<String>,
    },
}
