// SPDX-License-Identifier: Apache-2.0
//! `TrafficRoute`, the ancestor of MeshTCPRoute.

use super::{OlderHttpRoute, OlderPolicy, check_selectors, http_route};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_load_balancing_strategy::OlderLoadBalancer;
use crate::kinds::destination::check_says_something;
use crate::kinds::proxy_template::Selector;
use crate::model::tags::{SERVICE, Tags};
use crate::read::part::Part;
use crate::read::{At, fields};
use crate::target::Target;

/// Most shares of a split, as of the backends of a MeshTCPRoute.
const MOST_SHARES: usize = 100;

fields! {
    /// Services that the connections of some pods to some services go to.
    pub struct TrafficRoute {
        /// The pods by their tags.
        sources: required Vec<Selector> = "sources",
        /// The services.
        destinations: required Vec<Selector> = "destinations",
        /// The services that these connections go to.
        conf: required OlderRoute = "conf",
    }
}

fields! {
    /// Services that connections go to.
    pub struct OlderRoute {
        /// The service by its tags; "*" takes the value of the outbound.
        destination: optional Tags = "destination",
        /// Several services, each with its share.
        split: optional Vec<OlderShare> = "split",
        /// Routes of HTTP requests, without effect: connections are forwarded as TCP.
        http: default Vec<OlderHttpRoute> = "http",
        /// The choice of an endpoint, where no MeshLoadBalancingStrategy says one.
        load_balancer: optional OlderLoadBalancer = "loadBalancer",
    }
}

fields! {
    /// A service and its share of the connections.
    pub struct OlderShare {
        /// The share, beside the weights of the others; 0 = none.
        weight: required u32 = "weight",
        /// The service by its tags; "*" takes the value of the outbound.
        destination: required Tags = "destination",
    }
}

impl OlderPolicy for TrafficRoute {
    type Conf = Vec<OlderShare>;

    fn selectors(&self) -> [&[Selector]; 2] {
        [&self.sources, &self.destinations]
    }

    fn conf(&self) -> Vec<OlderShare> {
        let OlderRoute { destination, split, .. } = &self.conf;
        let whole = destination.iter().map(|tags| OlderShare { weight: 1, destination: tags.clone() });
        whole.chain(split.iter().flatten().cloned()).collect()
    }

    fn passed_over(&self) -> Vec<&'static str> {
        if self.conf.http.is_empty() { Vec::new() } else { vec!["http"] }
    }
}

impl Resource for TrafficRoute {
    const NAME: &'static str = "TrafficRoute";

    fn target(&self) -> Target<'_> {
        Target::Selectors(self.sources.iter().map(|selector| &selector.tags).collect())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        check_selectors(part, at);
        let conf = part.field("conf");
        check_way(&conf, at);
        for route in conf.items("http").unwrap_or_default() {
            http_route::check(&route, at);
        }
        if conf.has("loadBalancer") == Ok(true) {
            OlderLoadBalancer::check(&conf.field("loadBalancer"), at);
        }
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
