// SPDX-License-Identifier: Apache-2.0
//! Readers of the fields that the traffic log has.

use crate::model::log_template::{LONGEST_FORMAT, SocketTarget, Template};
use crate::read::{At, Read};
use serde_json::{Value, json};
use std::net::SocketAddr;

impl Read for SocketTarget {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let address = value.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        let address = address.filter(|address| address.port() != 0).map(Self);
        address.or_else(|| {
            at.wrong(value, "an IP address and a port, as 127.0.0.1:5000; names are not looked up")
        })
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

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
