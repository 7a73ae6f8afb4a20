// SPDX-License-Identifier: Apache-2.0
//! Our entry: the keys that the plugin needs, and the node's defaults.

use std::path::Path;

use culvert_cni::pod::{Annotations, Settings, decide_policy};
use culvert_cni::protocol::{Fields, NetConf, POD_ANNOTATIONS};
use serde_json::{Value, json};

/// Type of the plugin in a conflist, and name of its binary.
pub(crate) const TYPE: &str = "culvert-cni";

/// Keys that an operator may not set: the first two are fixed, the others belong to the runtime.
const RESERVED: [&str; 6] = ["type", "capabilities", "name", "cniVersion", "prevResult", "runtimeConfig"];

/// Default of `--state-dir` in the plugin, so an entry does not repeat it.
const DEFAULT_STATE_DIR: &str = "/run/culvert";

/// Reasons why an entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    /// Not a JSON object.
    #[error("it must hold a JSON object with keys of the plugin's entry: {0}")]
    Json(String),
    /// A key that belongs to us or to the runtime.
    #[error("{0:?} is not for you to set: take it out")]
    Reserved(String),
    /// A key that stands twice.
    #[error("{0:?} stands there twice: which should count?")]
    Twice(String),
    /// A key that the plugin does not know.
    #[error("{0}")]
    Unknown(String),
    /// A value with which every pod would fail.
    #[error("the plugin would refuse every pod: {0}")]
    Refused(String),
}

/// Our entry: keys and JSON values in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry(Vec<(String, Value)>);

impl Entry {
    /// Builds the entry of a node whose attachments and socket lie in `state_dir`, with the operator's keys from the
    /// JSON object `settings`. Returns all errors at once.
    pub(crate) fn new(state_dir: &Path, settings: Option<&str>) -> Result<Self, Vec<EntryError>> {
        let mut entry = vec![
            ("type".to_owned(), json!(TYPE)),
            ("capabilities".to_owned(), json!({ POD_ANNOTATIONS: true })),
        ];
        let mut errors = Vec::new();
        let settings = match settings.map(serde_json::from_str::<Fields<'_>>).transpose() {
            Ok(fields) => fields.map(|Fields(fields)| fields).unwrap_or_default(),
            Err(error) => return Err(vec![EntryError::Json(error.to_string())]),
        };
        for (key, value) in settings {
            if RESERVED.contains(&key.as_str()) {
                errors.push(EntryError::Reserved(key));
            } else if entry.iter().any(|(there, _)| *there == key) {
                errors.push(EntryError::Twice(key));
            } else {
                match serde_json::from_str(value.get()) {
                    Ok(value) => entry.push((key, value)),
                    Err(error) => errors.push(EntryError::Json(error.to_string())),
                }
            }
        }
        if state_dir != Path::new(DEFAULT_STATE_DIR) {
            for (key, name) in [("stateDir", "attachments"), ("agentSocket", "agent.sock")] {
                if !entry.iter().any(|(there, _)| there == key) {
                    entry.push((key.to_owned(), json!(state_dir.join(name).to_string_lossy())));
                }
            }
        }
        let entry = Self(entry);
        if errors.is_empty() {
            errors = entry.refused();
        }
        if errors.is_empty() { Ok(entry) } else { Err(errors) }
    }

    /// Errors that the plugin itself reports for this entry and an onboarded pod without settings.
    fn refused(&self) -> Vec<EntryError> {
        let stdin = self.as_configuration();
        let conf = match NetConf::parse(stdin.as_bytes()) {
            Ok(conf) => conf,
            Err(failure) => return vec![EntryError::Refused(failure.message)],
        };
        let onboarded = Annotations::from([("culvert.dev/redirect".to_owned(), "enabled".to_owned())]);
        let decided = Settings::of_node(conf.redirect, &conf.locked)
            .and_then(|defaults| decide_policy(&onboarded, &defaults));
        let mut errors: Vec<_> = conf.warnings.iter().cloned().map(EntryError::Unknown).collect();
        errors.extend(decided.err().map(|error| EntryError::Refused(error.to_string())));
        errors
    }

    /// The entry as a runtime passes it to the plugin for STATUS: without a prevResult.
    pub(crate) fn as_configuration(&self) -> String {
        let mut whole = self.0.clone();
        whole.extend([("name".to_owned(), json!("culvert")), ("cniVersion".to_owned(), json!("1.1.0"))]);
        Self(whole).compact("")
    }

    /// Returns true if `text` is the same JSON, however it is written.
    pub(crate) fn is(&self, text: &str) -> bool {
        let own: serde_json::Map<_, _> = self.0.iter().cloned().collect();
        serde_json::from_str::<Value>(text).is_ok_and(|value| value == Value::Object(own))
    }

    #[cfg(test)]
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(there, _)| there == key).map(|(_, value)| value)
    }

    /// The entry on one line; `colon` is the white space behind a colon and a comma.
    pub(crate) fn compact(&self, colon: &str) -> String {
        let fields: Vec<_> = self.fields(colon).collect();
        match colon {
            "" => format!("{{{}}}", fields.join(",")),
            space => format!("{{{space}{}{space}}}", fields.join(&format!(",{space}"))),
        }
    }

    /// The entry with one key a line. `inner` goes before each key, `outer` before the closing brace; both include the
    /// line break.
    pub(super) fn lines(&self, inner: &str, outer: &str, colon: &str) -> String {
        let fields: Vec<_> = self.fields(colon).collect();
        format!("{{{inner}{}{outer}}}", fields.join(&format!(",{inner}")))
    }

    fn fields(&self, colon: &str) -> impl Iterator<Item = String> {
        self.0.iter().map(move |(key, value)| format!("{}:{colon}{value}", Value::from(key.as_str())))
    }
}
