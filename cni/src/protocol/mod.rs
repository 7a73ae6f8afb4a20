// SPDX-License-Identifier: Apache-2.0
//! The CNI wire: what a runtime says in the environment and on stdin, and what it gets back on stdout.
//!
//! Source: the CNI specification 1.1.0, and `prevResult` as real primaries write it: we hand it on as raw JSON, since
//! what we don't own we don't parse.

mod config;
mod error;
mod reply;
mod request;
mod version;

pub use config::{Fields, NetConf, OnUnknown, POD_ANNOTATIONS, PrevResult, ValidAttachment, repeated};
pub use error::{Code, Failure};
pub use reply::{error_reply, result_reply, version_reply};
pub use request::{Attachment, CniArgs, EnvironmentError, MAX_STDIN, Strings, Verb};
pub use version::CniVersion;
