// SPDX-License-Identifier: Apache-2.0
//! Mesh documents: Kuma's YAML, as far as culvert does what it says. Pure but for [`load`], which reads files.
//!
//! ```text
//! files ─▶ text ─▶ trees of values ─▶ typed documents ─▶ the policies in effect for a pod
//! ```
//!
//! Rooms, from top to bottom. A room imports only rooms with a lower number.
//!
//! | level | room | holds |
//! |---|---|---|
//! | 6 | `load` | files and folders → documents, and their fingerprints |
//! | 6 | `select` | the policies in effect for a pod, in their order |
//! | 5 | `document` | a document of any kind in both spellings: kind, mesh, name, labels, place |
//! | 4 | `kinds` | one module a kind, and the one list of kinds: name, reader, checks, schema, target |
//! | 3 | `target` | `targetRef`: the pods that a policy is about |
//! | 2 | `read` | YAML → typed structs with every error and its place; JSON Schemas from the same definitions |
//! | 1 | `context` | the pod that documents are read for |
//! | 1 | `merge` | field-by-field merge of what several policies say |
//! | 1 | `model` | plain data that documents and those who act by them both know |

pub mod context;
pub mod document;
pub mod kinds;
pub mod load;
pub mod merge;
pub mod model;
mod read;
pub mod select;
pub mod target;

/// Compiles the example of the page.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
