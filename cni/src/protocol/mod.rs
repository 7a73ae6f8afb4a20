// SPDX-License-Identifier: Apache-2.0
//! The CNI wire: the runtime's environment and configuration on stdin, and the reply on stdout.
//!
//! Source: the CNI specification 1.1.0. prevResult is handed on as raw JSON, since real plugins write results that do not
//! follow the specification to the letter, and parsing would lose parts of them.

mod config;
mod error;
mod reply;
mod request;
mod version;

pub use config::{Fields, NetConf, POD_ANNOTATIONS, repeated};
pub(crate) use config::{OnUnknown, PrevResult, Text, ValidAttachment, utf8};
pub(crate) use error::{Code, Failure};
pub(crate) use reply::version_reply;
pub use reply::{error_reply, is_json, result_reply};
pub use request::{Attachment, CniArgs};
pub(crate) use request::{EnvironmentError, MAX_STDIN, Strings, Verb};
pub use version::CniVersion;
