// SPDX-License-Identifier: Apache-2.0
//! `MeshMultiZoneService`: `MeshService`s that are one service.

use super::port::check_ports;
use super::{LabelSelector, ServicePort};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::dataplane::Protocol;
use crate::read::part::Part;
use crate::read::{At, fields};

fields! {
    /// MeshServices that are one service, and its ports.
    pub struct MeshMultiZoneService {
        /// The MeshServices.
        selector: required MultiZoneSelector = "selector",
        /// Ports that callers dial; of each MeshService the port with the same number is behind it.
        ports: required Vec<ServicePort> = "ports",
    }
}

fields! {
    /// MeshServices that are one service.
    pub struct MultiZoneSelector {
        /// The MeshServices by their labels, at least one.
        mesh_service: required LabelSelector = "meshService",
    }
}

impl Resource for MeshMultiZoneService {
    const NAME: &'static str = "MeshMultiZoneService";
    const HAS_SPEC: bool = true;
    const HAS_STATUS: bool = true;

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let services = part.field("selector").field("meshService");
        let labels = services.field("matchLabels");
        if services.has("matchLabels") == Ok(false) || labels.is_empty() == Some(true) {
            services.problem(at, "matchLabels", "none", "at least one label of the MeshServices");
        }
        let Ok(ports) = part.items("ports") else { return };
        if ports.is_empty() && part.has("ports") == Ok(true) {
            part.problem(at, "ports", "an empty list", "at least one port");
        }
        for port in &ports {
            if port.get("name") == Ok(Some(String::new())) {
                port.problem(at, "name", "\"\"", "the name of the port, or no such field");
            }
            port.check::<Protocol>("appProtocol", at);
        }
        check_ports(part, at);
    }
}
