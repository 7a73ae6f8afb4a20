// SPDX-License-Identifier: Apache-2.0
//! `TrafficPermission`: members of the mesh that may call some services, as Kuma 1 said it.

use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::proxy_template::Selector;
use crate::read::part::Part;
use crate::read::{At, fields};
use crate::target::Target;

fields! {
    /// Members that may call some services. Of the policies about an inbound the most specific holds, and no other; a MeshTrafficPermission about it replaces it.
    pub struct TrafficPermission {
        /// The callers by their tags: one of these has to fit.
        sources: required Vec<Selector> = "sources",
        /// The inbounds by their tags: one of these has to fit.
        destinations: required Vec<Selector> = "destinations",
    }
}

impl Resource for TrafficPermission {
    const NAME: &'static str = "TrafficPermission";

    fn target(&self) -> Target<'_> {
        Target::Selectors(self.destinations.iter().map(|selector| &selector.tags).collect())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        for list in ["sources", "destinations"] {
            let Ok(selectors) = part.items(list) else { continue };
            if selectors.is_empty() && part.has(list) == Ok(true) {
                part.problem(at, list, "an empty list", "at least one selector");
            }
            for selector in selectors {
                if selector.field("match").is_empty() == Some(true) {
                    selector.problem(
                        at,
                        "match",
                        "no tags",
                        "at least one tag; kuma.io/service: '*' is every service",
                    );
                }
            }
        }
    }
}
