// SPDX-License-Identifier: Apache-2.0
//! `rules[].matches[]` of the policies about connections: callers, or names that they ask for.

use crate::kinds::mesh_traffic_permission::SpiffeMatch;
use crate::read::part::Part;
use crate::read::{At, fields, words};

fields! {
    /// Requests of some callers, or for some names.
    pub struct InboundMatch {
        /// Identity of the caller, or beginning of it.
        spiffe_id: optional SpiffeMatch = "spiffeID",
        /// Server name that the caller asks for by TLS.
        sni: optional ServerNameMatch = "sni",
    }
}

fields! {
    /// A server name.
    pub struct ServerNameMatch {
        /// Exact: the value is the whole name.
        kind: required ServerNameMatchKind = "type",
        /// The name.
        value: required String = "value",
    }
}

words! {
    /// Comparison of a value with a server name.
    pub enum ServerNameMatchKind {
        /// The value is the whole name.
        Exact = "Exact",
    }
}

/// Checks the matches of a rule. Fields of its `default` that hold for a connection as a whole are wrong beside them: TCP is
/// counted and timed before a caller is known.
pub(super) fn check(rule: &Part<'_>, default: &Part<'_>, of_connections: &[&str], at: &mut At<'_>) {
    let matches = rule.items("matches").unwrap_or_default();
    for one in &matches {
        if one.has("spiffeID") == Ok(false) && one.has("sni") == Ok(false) {
            one.problem_here(at, "neither spiffeID nor sni", "at least one of spiffeID, sni");
        }
        let id = one.field("spiffeID");
        if let Ok(value) = id.need::<String>("value")
            && !value.starts_with("spiffe://")
        {
            id.problem(at, "value", format!("{value:?}"), "spiffe:// and so on");
        }
    }
    for field in of_connections.iter().filter(|field| !matches.is_empty() && default.has(field) == Ok(true)) {
        const ALLOWED: &str =
            "a rule without matches: this is decided for a connection before a caller is known";
        default.problem(at, field, "it beside matches", ALLOWED);
    }
}
