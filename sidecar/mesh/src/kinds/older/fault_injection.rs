// SPDX-License-Identifier: Apache-2.0
//! `FaultInjection`, the ancestor of MeshFaultInjection.

use super::check_ends;
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::faults::{FaultStatus, HttpFault};
use crate::kinds::connections::mesh_retry::is_known_status;
use crate::kinds::destination::check_says_something;
use crate::kinds::proxy_template::Selector;
use crate::read::part::Part;
use crate::read::{At, fields};
use crate::target::Target;

/// Tag with the protocol of an inbound.
const PROTOCOL: &str = "kuma.io/protocol";

fields! {
    /// Faults of the HTTP requests to some services. All that are about an inbound hold.
    pub struct FaultInjection {
        /// The callers by their tags: one of these has to fit.
        sources: required Vec<Selector> = "sources",
        /// The inbounds by their tags: one of these has to fit.
        destinations: required Vec<Selector> = "destinations",
        /// The fault.
        conf: required HttpFault = "conf",
    }
}

impl Resource for FaultInjection {
    const NAME: &'static str = "FaultInjection";

    /// The pods that are called: faults are injected where requests come in.
    fn target(&self) -> Target<'_> {
        Target::Selectors(self.destinations.iter().map(|selector| &selector.tags).collect())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        check_ends(part, at);
        for selector in part.items("destinations").unwrap_or_default() {
            let tags = selector.field("match");
            if tags.is_empty() == Some(true) {
                continue;
            }
            let found = match tags.get::<String>(PROTOCOL) {
                Ok(None) => "nothing".to_owned(),
                Ok(Some(other)) if !["http", "http2", "grpc"].contains(&other.as_str()) => {
                    format!("{other:?}")
                }
                _ => continue,
            };
            tags.problem(at, PROTOCOL, found, "http, http2 or grpc: only their requests have faults");
        }
        let conf = part.field("conf");
        check_says_something(&conf, &["delay", "abort", "responseBandwidth"], at);
        let abort = conf.field("abort");
        if let Ok(Some(FaultStatus(status))) = abort.get("httpStatus")
            && !is_known_status(status)
        {
            abort.problem(at, "httpStatus", status.to_string(), "a status that HTTP has, as 503");
        }
    }
}
