// SPDX-License-Identifier: Apache-2.0
//! Names that both the reader of documents and their schemas know.

/// Mesh of a document that does not name one.
pub(crate) const DEFAULT_MESH: &str = "default";

/// Group and version of Kuma's documents in Kubernetes' spelling.
pub(crate) const API_VERSION: &str = "kuma.io/v1alpha1";

/// Fields that Kuma writes into a document of the universal spelling beside its contents.
pub(crate) const UNIVERSAL_BOOKKEEPING: [&str; 4] = ["creationTime", "modificationTime", "kri", "status"];
