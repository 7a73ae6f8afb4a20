// SPDX-License-Identifier: Apache-2.0
//! `TrafficRoute`, the ancestor of MeshTCPRoute.

use super::way::{OlderShare, check_way};
use super::{OlderHttpRoute, OlderPolicy, check_selectors, http_route};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_load_balancing_strategy::OlderLoadBalancer;
use crate::kinds::proxy_template::Selector;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, fields};
use crate::target::Target;

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
        /// Routes of HTTP requests, without effect.
        http: default Vec<OlderHttpRoute> = "http",
        /// The choice of an endpoint, where no MeshLoadBalancingStrategy says one.
        load_balancer: optional OlderLoadBalancer = "loadBalancer",
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
