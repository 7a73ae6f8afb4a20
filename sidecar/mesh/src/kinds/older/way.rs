// SPDX-License-Identifier: Apache-2.0
//! `destination` and `split` of a TrafficRoute: of all connections, or of some requests.

use crate::kinds::destination::check_says_something;
use crate::model::tags::{SERVICE, Tags};
use crate::read::part::Part;
use crate::read::{At, fields};

/// Most shares of a split, as of the backends of a MeshTCPRoute.
const MOST_SHARES: usize = 100;

fields! {
    /// A service and its share of the connections.
    pub struct OlderShare {
        /// The share, beside the weights of the others; 0 = none.
        weight: required u32 = "weight",
        /// The service by its tags; "*" takes the value of the outbound.
        destination: required Tags = "destination",
    }
}

/// Notes problems of `destination` and `split` together, of all connections or of some requests.
pub(super) fn check_way(conf: &Part<'_>, at: &mut At<'_>) {
    check_says_something(conf, &["destination", "split"], at);
    if conf.has("destination") == Ok(true) && conf.has("split") == Ok(true) {
        conf.problem(at, "split", "split beside destination", "one or the other");
    }
    has_service(&conf.field("destination"), at);
    let Ok(split) = conf.items("split") else { return };
    if split.is_empty() && conf.has("split") == Ok(true) {
        conf.problem(at, "split", "an empty list", "at least one share");
    }
    if split.len() > MOST_SHARES {
        let found = format!("a list of {}", split.len());
        conf.problem(at, "split", found, format!("at most {MOST_SHARES} of them"));
    }
    for share in &split {
        has_service(&share.field("destination"), at);
    }
    let weights: Result<Vec<_>, _> = split.iter().map(|share| share.need::<u32>("weight")).collect();
    if weights.is_ok_and(|all| !all.is_empty() && all.iter().all(|weight| *weight == 0)) {
        conf.problem(at, "split", "weights of 0 alone", "at least one weight above 0");
    }
}

fn has_service(destination: &Part<'_>, at: &mut At<'_>) {
    if destination.has(SERVICE) == Ok(false) {
        destination.problem(at, SERVICE, "nothing", "this field is required; \"*\" is the outbound's own");
    }
}
