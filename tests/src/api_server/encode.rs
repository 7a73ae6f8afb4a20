// SPDX-License-Identifier: Apache-2.0
//! Kubernetes' JSON: refusals, lists, partial objects, events of watches, times.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// A refusal, as Kubernetes' `Status` says it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    /// `NotFound`
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) details: Value,
}

impl Refusal {
    /// A refusal with the usual reason of its code.
    pub(super) fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, reason: reason(code), message: message.into(), details: Value::Null }
    }

    pub(super) fn because(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }

    pub(super) fn about(self, details: Value) -> Self {
        Self { details, ..self }
    }

    pub(super) fn status(&self) -> Value {
        let Self { code, reason, message, details } = self;
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code,
        });
        if !details.is_null() {
            status["details"] = details.clone();
        }
        status
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        410 => "Expired",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}

/// The refusal of a version that is forgotten.
pub(super) fn expired(asked: u64, oldest: u64) -> Refusal {
    Refusal::new(410, format!("too old resource version: {asked} ({oldest})"))
}

/// The form in which an object is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    Whole,
    /// `PartialObjectMetadata`
    Partial,
    /// As an item of a list of Kubernetes' own kinds, which names kind and version once for all items.
    Bare,
}

/// An object in a form, as JSON.
pub(super) fn text(form: Form, object: &Value) -> String {
    match (form, object) {
        // A `Status` in a watch stays as it is.
        (Form::Partial, _) if object["kind"] != "Status" => format!(
            "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{}}}",
            object["metadata"]
        ),
        (Form::Bare, Value::Object(members)) => {
            let members = members.iter().filter(|(key, _)| *key != "kind" && *key != "apiVersion");
            // No key of Kubernetes at this level needs an escape.
            let members: Vec<String> = members.map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        }
        _ => object.to_string(),
    }
}

/// A line of a watch.
pub(super) fn event(change: &str, form: Form, object: &Value) -> String {
    format!("{{\"type\":\"{change}\",\"object\":{}}}\n", text(form, object))
}

/// Time as Kubernetes writes it: RFC 3339 in whole seconds.
pub(super) fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    at(seconds)
}

/// The civil date of a second, by Howard Hinnant's `civil_from_days`.
pub(super) fn at(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here, so that the leap day is the last.
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
