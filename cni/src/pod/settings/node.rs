// SPDX-License-Identifier: Apache-2.0
//! Defaults of the node, and the annotations as the runtime passes them.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::table::SETTINGS;
use crate::metadata::Annotations;
use crate::protocol::{Fields, Text, repeated};
use crate::shown::shown;

/// Settings that cannot be followed: CNI code 7. One line for each, with its name, its value and the allowed values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct SettingsError(pub(super) Vec<String>);

impl From<String> for SettingsError {
    fn from(line: String) -> Self {
        Self(vec![line])
    }
}

/// Defaults of the node: the conflist's `redirect` and `locked`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub(super) values: BTreeMap<&'static str, String>,
    pub(super) locked: Vec<&'static str>,
}

impl Settings {
    /// Read the conflist's `redirect` (an object of strings, numbers and booleans) and `locked`.
    pub fn of_node(redirect: Option<&RawValue>, locked: &[String]) -> Result<Self, SettingsError> {
        let allowed = || SETTINGS.iter().map(|setting| setting.key).collect::<Vec<_>>().join(", ");
        let mut errors = Vec::new();
        let mut values = BTreeMap::new();
        let fields = match redirect.map(|raw| serde_json::from_str::<Fields<'_>>(raw.get())) {
            None => Vec::new(),
            Some(Ok(Fields(fields))) => fields,
            Some(Err(_)) => {
                let it_is = redirect.map(|raw| shown(raw.get())).unwrap_or_default();
                return Err(format!("the conflist's redirect is no JSON object: it is {it_is}").into());
            }
        };
        if let Some(key) = repeated(&fields) {
            errors.push(format!("a key of redirect is in the conflist twice: {}", shown(key)));
        }
        for (key, raw) in &fields {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.key.eq_ignore_ascii_case(key)) else {
                errors.push(format!(
                    "unknown in the conflist's redirect: {} (known are {})",
                    shown(key),
                    allowed()
                ));
                continue;
            };
            match scalar(raw) {
                Some(value) => drop(values.insert(setting.key, value)),
                None => errors.push(format!(
                    "redirect.{key} in the conflist must be a string, a number, true or false: it is {}",
                    shown(raw.get())
                )),
            }
        }
        let mut locked_keys = Vec::new();
        for key in locked {
            match SETTINGS.iter().find(|setting| setting.key == key) {
                Some(setting) => locked_keys.push(setting.key),
                None => errors.push(format!(
                    "unknown in the conflist's locked: {} (known are {})",
                    shown(key),
                    allowed()
                )),
            }
        }
        if errors.is_empty() { Ok(Self { values, locked: locked_keys }) } else { Err(SettingsError(errors)) }
    }
}

/// Parse the annotations in `runtimeConfig`: an object of strings, or `null` for none.
pub(crate) fn parse_annotations(raw: Option<&RawValue>) -> Result<Annotations, SettingsError> {
    let Some(raw) = raw else { return Ok(Annotations::new()) };
    let wrong = |what: String| SettingsError(vec![format!("runtimeConfig's pod annotations {what}")]);
    let Fields(fields) = serde_json::from_str(raw.get())
        .map_err(|_| wrong(format!("are no JSON object: they are {}", shown(raw.get()))))?;
    if let Some(key) = repeated(&fields) {
        return Err(wrong(format!("hold a key twice: {}", shown(key))));
    }
    let text = |(key, value): (String, &RawValue)| match serde_json::from_str(value.get()) {
        Ok(Text(text)) => Ok((key, text)),
        Err(_) => Err(wrong(format!("hold a value that is no string, under {}", shown(key)))),
    };
    fields.into_iter().map(text).collect()
}

/// Returns a string, number or boolean in the spelling of an annotation.
fn scalar(raw: &RawValue) -> Option<String> {
    match serde_json::from_str(raw.get()).ok()? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(true) => Some("enabled".to_owned()),
        serde_json::Value::Bool(false) => Some("disabled".to_owned()),
        _ => None,
    }
}
