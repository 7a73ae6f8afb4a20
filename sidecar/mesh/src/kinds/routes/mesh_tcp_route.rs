// SPDX-License-Identifier: Apache-2.0
//! `MeshTCPRoute`: services that the connections of some pods go to.

use super::BackendRef;
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::destination::{ConnectionPolicy, ToKind, ToRef};
use crate::merge::Merge;
use crate::read::part::Part;
use crate::read::{At, AtMostOne, Read, fields};
use crate::target::{PodsOrGateway, Target};
use serde_json::Value;

/// Most backends of a rule: each is a cluster with statistics, for each outbound that the rule is about.
const MOST_BACKENDS: usize = 100;

fields! {
    /// Services that the connections of some pods go to.
    pub struct MeshTcpRoute {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional PodsOrGateway = "targetRef",
        /// Connections from these pods.
        to: default Vec<RouteTo> = "to",
    }
}

/// Connections to some destinations, and the services that they go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTo {
    /// The destinations.
    pub target_ref: ToRef,
    /// The services that their connections go to.
    pub conf: RouteConf,
}

fields! {
    struct RawTo {
        target_ref: required ToRef = "targetRef",
        rules: optional AtMostOne<RouteRule> = "rules",
    }
}

fields! {
    /// Services that all connections to a destination go to.
    pub struct RouteRule {
        /// The services.
        default: required RouteConf = "default",
    }
}

fields! {
    /// Services that connections go to.
    pub struct RouteConf {
        /// The services, each with its share. None, as of an entry without a rule: the destination itself.
        backends: default Vec<BackendRef> = "backendRefs",
    }
}

/// The deciding route holds as a whole: another's backends would shift its shares.
impl Merge for RouteConf {
    fn over(self, _: Self) -> Self {
        self
    }
}

impl Read for RouteTo {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let RawTo { target_ref, rules } = RawTo::read(value, at)?;
        let rule = rules.and_then(|rules| rules.0);
        // As in Kuma an entry without a rule leads to the destination itself, whatever wider routes say.
        let conf = rule.map_or_else(|| RouteConf { backends: Vec::new() }, |rule| rule.default);
        Some(Self { target_ref, conf })
    }

    fn schema() -> Value {
        RawTo::schema()
    }
}

impl ConnectionPolicy for MeshTcpRoute {
    type Conf = RouteConf;

    fn to(&self) -> impl DoubleEndedIterator<Item = (&ToRef, &RouteConf)> {
        self.to.iter().map(|to| (&to.target_ref, &to.conf))
    }

    fn inbound(&self) -> impl DoubleEndedIterator<Item = &RouteConf> {
        std::iter::empty()
    }

    fn passed_over(&self) -> Vec<&'static str> {
        Vec::new()
    }
}

impl Resource for MeshTcpRoute {
    const NAME: &'static str = "MeshTCPRoute";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        PodsOrGateway::target(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let target = part.field("targetRef");
        PodsOrGateway::check(&target, at);
        let gateway = PodsOrGateway::is_elsewhere(&target);
        if !gateway && target.has("sectionName") == Ok(true) {
            let allowed = "whole pods: calls in to leave a pod, not an inbound";
            target.problem(at, "sectionName", "an inbound", allowed);
        }
        let Ok(to) = part.items("to") else { return };
        if to.is_empty() {
            part.problem(at, "to", "no entry", "at least one");
        }
        for entry in to {
            check_destination(&entry.field("targetRef"), gateway, at);
            for rule in entry.items("rules").unwrap_or_default() {
                check_backends(&rule.field("default"), at);
            }
        }
    }
}

fn check_destination(destination: &Part<'_>, gateway: bool, at: &mut At<'_>) {
    ToRef::check(destination, false, at);
    let Ok(Some(kind)) = destination.get::<ToKind>("kind") else { return };
    if kind == ToKind::Mesh && !gateway {
        let allowed = "MeshService, MeshExternalService, MeshMultiZoneService";
        destination.problem(at, "kind", "\"Mesh\"", allowed);
    }
    if kind != ToKind::Mesh && gateway {
        destination.problem(at, "kind", "a service, of a route of a MeshGateway", "Mesh");
    }
}

fn check_backends(conf: &Part<'_>, at: &mut At<'_>) {
    let Ok(backends) = conf.items("backendRefs") else { return };
    if backends.is_empty() {
        conf.problem(at, "backendRefs", "no backend", "at least one");
    }
    if backends.len() > MOST_BACKENDS {
        let found = format!("a list of {}", backends.len());
        conf.problem(at, "backendRefs", found, format!("at most {MOST_BACKENDS} of them"));
    }
    for backend in &backends {
        BackendRef::check(backend, at);
    }
    let weights: Result<Vec<_>, _> = backends.iter().map(|backend| backend.get::<u32>("weight")).collect();
    if weights.is_ok_and(|all| !all.is_empty() && all.iter().all(|weight| *weight == Some(0))) {
        conf.problem(at, "backendRefs", "weights of 0 alone", "at least one weight above 0");
    }
}
