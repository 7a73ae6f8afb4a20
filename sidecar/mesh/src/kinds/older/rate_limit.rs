// SPDX-License-Identifier: Apache-2.0
//! `RateLimit`, the ancestor of MeshRateLimit, which is about HTTP requests alone.

use super::check_ends;
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::proxy_template::Selector;
use crate::read::part::Part;
use crate::read::{At, Span, fields};
use crate::target::Target;

fields! {
    /// The rate of HTTP requests to some services, without effect.
    pub struct RateLimit {
        /// The clients by their tags.
        sources: required Vec<Selector> = "sources",
        /// The pods by their tags.
        destinations: required Vec<Selector> = "destinations",
        /// The rate.
        conf: required OlderRates = "conf",
    }
}

fields! {
    /// Rates by protocol.
    pub struct OlderRates {
        /// The rate of requests.
        http: optional OlderHttpRate = "http",
    }
}

fields! {
    /// The rate of requests.
    pub struct OlderHttpRate {
        /// Requests in a time.
        requests: required u32 = "requests",
        /// The time.
        interval: required Span = "interval",
        /// The answer to requests above the rate.
        on_rate_limit: optional OlderOnRateLimit = "onRateLimit",
    }
}

fields! {
    /// The answer to requests above the rate.
    pub struct OlderOnRateLimit {
        /// Status of the answer.
        status: optional u32 = "status",
        /// Headers of the answer.
        headers: optional Vec<OlderRateHeader> = "headers",
    }
}

fields! {
    /// A header of an answer.
    pub struct OlderRateHeader {
        /// Name of the header.
        key: required String = "key",
        /// Its value.
        value: required String = "value",
        /// True: it is added to others of its name.
        append: optional bool = "append",
    }
}

impl RateLimit {
    /// Returns the fields that have no effect.
    pub fn passed_over(&self) -> Vec<&'static str> {
        if self.conf.http.is_some() { vec!["http"] } else { Vec::new() }
    }
}

impl Resource for RateLimit {
    const NAME: &'static str = "RateLimit";

    /// The pods that are called: the rate is counted where requests come in.
    fn target(&self) -> Target<'_> {
        Target::Selectors(self.destinations.iter().map(|selector| &selector.tags).collect())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        check_ends(part, at);
        let http = part.field("conf").field("http");
        if let Ok(Some(interval)) = http.get::<Span>("interval")
            && interval.get().is_none()
        {
            http.problem(at, "interval", "0", "a duration above 0");
        }
        for header in http.field("onRateLimit").items("headers").unwrap_or_default() {
            for field in ["key", "value"].into_iter().filter(|field| header.field(field).is_text("")) {
                header.problem(at, field, "an empty text", "a text");
            }
        }
    }
}
