// SPDX-License-Identifier: Apache-2.0
//! Answers in JSON, beside those of the server.

pub(super) use culvert_serve::metrics::metrics;
pub(super) use culvert_serve::reply::{Reply, not_found, of_type, text, wrong_method};
use hyper::StatusCode;

/// JSON, indented for people.
pub(super) fn json(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => of_type(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
