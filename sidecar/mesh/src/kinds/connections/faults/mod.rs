// SPDX-License-Identifier: Apache-2.0
//! `MeshFaultInjection`: faults of the HTTP requests to some pods, for tests of their callers.

mod values;

pub use values::{Bandwidth, FaultStatus};

use super::{InboundMatch, inbound_match};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::destination;
use crate::kinds::mesh_traffic_permission::check_callers;
use crate::merge::merge_fields;
use crate::model::labels::Labels;
use crate::model::percentage::Percentage;
use crate::read::part::Part;
use crate::read::{At, Span, fields};
use crate::target::{PodsOrGateway, ProxyType, Target, TargetKind, TargetRef, WholeMesh};

fields! {
    /// Faults of the HTTP requests to some pods.
    pub struct MeshFaultInjection {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrGateway = "targetRef",
        /// Requests of some callers. Of several items about a caller the last one holds.
        from: default Vec<FaultFrom> = "from",
        /// Requests of some callers, in the newer spelling. All that fit a caller hold.
        rules: default Vec<FaultRule> = "rules",
        /// Faults of Kuma's built-in gateways, which are proxies of their own.
        to: no_effect Vec<FaultTo> = "to",
    }
}

fields! {
    /// Requests of some callers, and their faults.
    pub struct FaultFrom {
        /// The callers: Mesh, MeshSubset, MeshService or MeshServiceSubset.
        target_ref: required TargetRef = "targetRef",
        /// Their faults.
        default: default FaultConf = "default",
    }
}

fields! {
    /// Requests of callers by their identity, and their faults.
    pub struct FaultRule {
        /// The callers: one of these has to fit. Absent: every caller.
        matches: default Vec<InboundMatch> = "matches",
        /// Their faults.
        default: default FaultConf = "default",
    }
}

fields! {
    /// Requests of a gateway.
    pub struct FaultTo {
        /// Only Mesh.
        target_ref: required WholeMesh = "targetRef",
        /// Their faults.
        default: default FaultConf = "default",
    }
}

fields! {
    /// Faults by protocol.
    pub struct FaultConf {
        /// Faults of HTTP requests, in the order in which a request meets them. Absent: left to wider policies; empty: none.
        http: optional Vec<HttpFault> = "http",
    }
}

impl Default for FaultConf {
    /// Leaves everything to wider policies.
    fn default() -> Self {
        Self { http: None }
    }
}

merge_fields!(FaultConf { http });

fields! {
    /// A fault of HTTP requests: each part that it has is drawn by itself.
    pub struct HttpFault {
        /// An answer in place of the server's.
        abort: optional AbortFault = "abort",
        /// A wait before the request is forwarded.
        delay: optional DelayFault = "delay",
        /// A slow response.
        response_bandwidth: optional BandwidthFault = "responseBandwidth",
    }
}

fields! {
    /// An answer in place of the server's.
    pub struct AbortFault {
        /// Status of the answer, 200 to 599.
        http_status: required FaultStatus = "httpStatus",
        /// Share of the requests.
        percentage: required Percentage = "percentage",
    }
}

fields! {
    /// A wait before a request is forwarded.
    pub struct DelayFault {
        /// The time; 0s = none.
        value: required Span = "value",
        /// Share of the requests.
        percentage: required Percentage = "percentage",
    }
}

fields! {
    /// A slow response.
    pub struct BandwidthFault {
        /// The most that a second carries, as "50mbps" or "100 kbps".
        limit: required Bandwidth = "limit",
        /// Share of the requests.
        percentage: required Percentage = "percentage",
    }
}

/// An entry of a MeshFaultInjection about the requests to its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultEntry<'p> {
    /// List that it stands in: `from` or `rules`.
    pub list: &'static str,
    /// Place in its list.
    pub index: usize,
    /// Its callers.
    pub callers: FaultCallers<'p>,
    /// Their faults.
    pub conf: &'p FaultConf,
}

/// Callers of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCallers<'p> {
    /// `from[].targetRef`: all callers, or those with some tags.
    Tagged(&'p TargetRef),
    /// `rules[].matches[]`: one of them fits; without any all callers.
    Matching(&'p [InboundMatch]),
}

impl MeshFaultInjection {
    /// Returns the entries about requests to the pods, in the order of the document. They stand in one of the two lists.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = FaultEntry<'_>> {
        let from = self.from.iter().enumerate().map(|(index, item)| FaultEntry {
            list: "from",
            index,
            callers: FaultCallers::Tagged(&item.target_ref),
            conf: &item.default,
        });
        let rules = self.rules.iter().enumerate().map(|(index, item)| FaultEntry {
            list: "rules",
            index,
            callers: FaultCallers::Matching(&item.matches),
            conf: &item.default,
        });
        from.chain(rules)
    }
}

impl Resource for MeshFaultInjection {
    const NAME: &'static str = "MeshFaultInjection";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrGateway::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let target = part.field("targetRef");
        PodsOrGateway::check(&target, at);
        destination::check_entries(part, at);
        if part.items("to").is_ok_and(|items| !items.is_empty()) && !has_gateways(&target) {
            part.problem(at, "to", "entries", "from or rules: faults are injected where requests come in");
        }
        for from in part.items("from").unwrap_or_default() {
            check_callers(&from, at);
        }
        for rule in part.items("rules").unwrap_or_default() {
            inbound_match::check(&rule, &rule.field("default"), &[], at);
        }
    }
}

/// Returns true if gateways may be among the pods, or if that cannot be read.
fn has_gateways(target: &Part<'_>) -> bool {
    if PodsOrGateway::is_elsewhere(target) {
        return true;
    }
    match target.get::<TargetKind>("kind") {
        Ok(Some(TargetKind::Mesh | TargetKind::MeshSubset)) => {
            let kinds = target.get::<Vec<ProxyType>>("proxyTypes");
            !matches!(kinds, Ok(Some(kinds)) if !kinds.is_empty() && !kinds.contains(&ProxyType::Gateway))
        }
        Ok(Some(TargetKind::Dataplane)) => {
            let labels = target.get::<Labels>("labels");
            !matches!(labels, Ok(labels) if labels.as_ref().and_then(|of| of.get("kuma.io/proxy-type")) != Some("gateway"))
        }
        Ok(Some(TargetKind::MeshService | TargetKind::MeshServiceSubset)) => false,
        Ok(None) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests;
