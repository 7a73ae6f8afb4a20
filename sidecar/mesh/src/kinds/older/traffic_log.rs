// SPDX-License-Identifier: Apache-2.0
//! `TrafficLog`, the ancestor of MeshAccessLog.

use super::check_selectors;
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::proxy_template::Selector;
use crate::read::part::Part;
use crate::read::{At, fields};
use crate::target::Target;

fields! {
    /// Logs of the connections of some pods to some services. Of several the one holds whose selectors say most.
    pub struct TrafficLog {
        /// The pods by their tags.
        sources: required Vec<Selector> = "sources",
        /// The services.
        destinations: required Vec<Selector> = "destinations",
        /// The target of the lines. Absent: the Mesh's logging.defaultBackend.
        conf: optional TrafficLogConf = "conf",
    }
}

fields! {
    /// The target of the lines.
    pub struct TrafficLogConf {
        /// A backend of the Mesh's logging.backends. Absent: its defaultBackend.
        backend: optional String = "backend",
    }
}

impl TrafficLog {
    /// Returns the backend by its name; `None` for the Mesh's default.
    pub fn backend(&self) -> Option<&str> {
        self.conf.as_ref()?.backend.as_deref().filter(|name| !name.is_empty())
    }

    /// Returns the selectors of pods, and those of services.
    pub fn selectors(&self) -> [&[Selector]; 2] {
        [&self.sources, &self.destinations]
    }
}

impl Resource for TrafficLog {
    const NAME: &'static str = "TrafficLog";

    fn target(&self) -> Target<'_> {
        Target::Selectors(self.sources.iter().map(|selector| &selector.tags).collect())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        check_selectors(part, at);
    }
}
