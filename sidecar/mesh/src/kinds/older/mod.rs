// SPDX-License-Identifier: Apache-2.0
//! `Timeout`, `CircuitBreaker`, `Retry`, `HealthCheck`, `RateLimit`, `FaultInjection`, `TrafficRoute` and `TrafficLog` of Kuma
//! up to 2.x, read into what the newer policies say of connections.
//!
//! Of these one policy holds for each destination: the one whose selectors of pods and destinations say most together.

mod circuit_breaker;
mod fault_injection;
mod health_check;
mod http_route;
mod rate_limit;
mod retry;
mod timeout;
mod traffic_log;
mod traffic_route;
mod way;

pub use circuit_breaker::*;
pub use fault_injection::*;
pub use health_check::*;
pub use http_route::{OlderHeaders, OlderHttpMatch, OlderHttpRoute, OlderText};
pub use rate_limit::*;
pub use retry::*;
pub use timeout::*;
pub use traffic_log::*;
pub use traffic_route::*;
pub use way::OlderShare;

use crate::kinds::FromSpec;
use crate::kinds::proxy_template::Selector;
use crate::merge::Merge;
use crate::model::tags::{SERVICE, Tags};
use crate::read::At;
use crate::read::part::Part;

/// A policy about the connections of some pods to some services.
pub trait OlderPolicy: FromSpec {
    /// Values of the newer kind for a connection.
    type Conf: Merge;

    /// Returns the selectors of pods, and those of services.
    fn selectors(&self) -> [&[Selector]; 2];

    /// Returns what the policy says of these connections.
    fn conf(&self) -> Self::Conf;

    /// Returns the fields that have no effect.
    fn passed_over(&self) -> Vec<&'static str>;
}

/// Returns how much selectors say of a subject that has one of these sets of tags: tags with a value, then tags with any;
/// `None` where none fits. Without any set only a selector that takes any value fits.
pub fn fit(selectors: &[Selector], tags: &[&Tags]) -> Option<[usize; 2]> {
    let rank = |Selector { tags: wanted }: &Selector| {
        let any = wanted.0.values().filter(|value| *value == "*").count();
        let fits =
            if tags.is_empty() { any == wanted.0.len() } else { tags.iter().any(|tags| wanted.select(tags)) };
        fits.then_some([wanted.0.len() - any, any])
    };
    selectors.iter().filter_map(rank).max()
}

/// Checks the selectors: each names a service, and one of destinations nothing else.
fn check_selectors(part: &Part<'_>, at: &mut At<'_>) {
    for list in ["sources", "destinations"] {
        let Ok(selectors) = part.items(list) else { continue };
        if selectors.is_empty() && part.has(list) == Ok(true) {
            part.problem(at, list, "no selector", "at least one");
        }
        for selector in selectors {
            let tags = selector.field("match");
            if tags.has(SERVICE) == Ok(false) {
                tags.problem(at, SERVICE, "nothing", "this field is required; \"*\" is every service");
            }
            for (tag, _) in tags.texts().filter(|(tag, _)| list == "destinations" && *tag != SERVICE) {
                tags.problem(
                    at,
                    tag,
                    "a tag beside the service",
                    "the service alone: a policy is about all of it",
                );
            }
        }
    }
}

/// Checks the selectors of requests by both ends: there are some, and each has a tag.
fn check_ends(part: &Part<'_>, at: &mut At<'_>) {
    for list in ["sources", "destinations"] {
        if part.has(list) == Ok(true) && part.field(list).is_empty() == Some(true) {
            part.problem(at, list, "no selector", "at least one");
        }
        for selector in part.items(list).unwrap_or_default() {
            if selector.field("match").is_empty() == Some(true) {
                const ALLOWED: &str = "at least one tag; kuma.io/service: '*' is every service";
                selector.problem(at, "match", "no tags", ALLOWED);
            }
        }
    }
}
