// SPDX-License-Identifier: Apache-2.0
//! `RateLimit`, the ancestor of MeshRateLimit, which is about HTTP requests alone.

use super::check_ends;
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::check_header;
use crate::kinds::destination::Positive;
use crate::kinds::proxy_template::Selector;
use crate::read::part::Part;
use crate::read::{At, Span, fields};
use crate::target::Target;

fields! {
    /// The rate of the HTTP requests to some services, by their callers.
    pub struct RateLimit {
        /// The callers by their tags. Those of one selector count together.
        sources: required Vec<Selector> = "sources",
        /// The inbounds by their tags: one of these has to fit.
        destinations: required Vec<Selector> = "destinations",
        /// The rate.
        conf: required OlderRates = "conf",
    }
}

fields! {
    /// Rates by protocol.
    pub struct OlderRates {
        /// The rate of requests, on a port of HTTP. Absent: there is no limit.
        http: optional OlderHttpRate = "http",
    }
}

fields! {
    /// The rate of requests.
    pub struct OlderHttpRate {
        /// Requests in a time: so many at once, and so many again in each interval.
        requests: required Positive = "requests",
        /// The time, above 0.
        interval: required Span = "interval",
        /// The answer to requests above the rate.
        on_rate_limit: optional OlderOnRateLimit = "onRateLimit",
    }
}

fields! {
    /// The answer to requests above the rate.
    pub struct OlderOnRateLimit {
        /// Status of the answer, 400 to 599. Default: 429.
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
        /// True: it is added to others of its name, which it replaces by default.
        append: optional bool = "append",
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
            if header.field("value").is_text("") {
                header.problem(at, "value", "an empty text", "a text");
            }
            check_header(&header, "key", at);
        }
    }
}
