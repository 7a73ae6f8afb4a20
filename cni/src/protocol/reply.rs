// SPDX-License-Identifier: Apache-2.0
//! Replies on stdout: one JSON document each.

use cni_plugin::reply::{ErrorReply, VersionReply};
use semver::Version;
use serde_json::value::RawValue;

use super::config::PrevResult;
use super::error::Failure;
use super::version::CniVersion;

/// The reply to VERSION: the version that the runtime asked in, and all supported ones.
pub(crate) fn version_reply(asked_in: CniVersion) -> Vec<u8> {
    let supported_versions = CniVersion::ALL.into_iter().map(semver).collect();
    to_json(&VersionReply { cni_version: semver(asked_in), supported_versions })
}

/// The reply to a verb that failed.
pub fn error_reply(version: CniVersion, failure: &Failure) -> Vec<u8> {
    to_json(&ErrorReply {
        cni_version: semver(version),
        code: failure.code as i32,
        msg: &failure.message,
        details: failure.details.clone(),
    })
}

/// The reply to ADD: prevResult byte by byte.
///
/// One value is corrected: a `cniVersion` that is not the configuration's. libcni parses a result by the version in it, and
/// a result without a version as 0.1.0.
pub fn result_reply(version: CniVersion, prev_result: &PrevResult<'_>) -> Vec<u8> {
    let asked = format!("\"{version}\"");
    let has_version = prev_result.fields.iter().any(|(key, _)| key == "cniVersion");
    if prev_result.fields.iter().any(|(key, value)| key == "cniVersion" && value.get() == asked) {
        return prev_result.raw.get().as_bytes().to_vec();
    }
    let version_field = (!has_version).then_some(("cniVersion", asked.as_str()));
    let kept = prev_result.fields.iter().map(|(key, value): &(String, &RawValue)| {
        (key.as_str(), if key == "cniVersion" { asked.as_str() } else { value.get() })
    });
    let fields: Vec<String> = version_field
        .into_iter()
        .chain(kept)
        .map(|(key, value)| format!("{}:{value}", quoted(key)))
        .collect();
    format!("{{{}}}", fields.join(",")).into_bytes()
}

/// Returns true if `reply` is one JSON document; for tests.
pub fn is_json(reply: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(reply).is_ok()
}

fn quoted(key: &str) -> String {
    serde_json::to_string(key).unwrap_or_else(|_| "\"\"".to_owned())
}

fn semver(version: CniVersion) -> Version {
    let mut parts = version.as_str().split('.').map(|part| part.parse().unwrap_or_default());
    let mut next = || parts.next().unwrap_or_default();
    Version::new(next(), next(), next())
}

fn to_json(reply: &impl serde::Serialize) -> Vec<u8> {
    // Strings and numbers only: serde_json cannot fail on these.
    serde_json::to_vec(reply).unwrap_or_default()
}
