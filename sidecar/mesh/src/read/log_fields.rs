// SPDX-License-Identifier: Apache-2.0
//! Readers of the fields that the traffic log has.

use crate::model::log_template::{LONGEST_FORMAT, Template};
use crate::read::{At, Read};
use serde_json::{Value, json};

impl Read for Template {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let text = String::read(value, at)?;
        match Self::parse(&text) {
            Ok(template) => Some(template),
            Err((found, allowed)) => {
                at.problem(found, allowed);
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "maxLength": LONGEST_FORMAT})
    }
}
