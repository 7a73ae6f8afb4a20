// SPDX-License-Identifier: Apache-2.0
//! Sources of the documents in force, as part of `/config_dump`: files, the controller, and what stands in for both.

use crate::connection::proxy::Proxy;
use crate::control::Control;
use crate::plan::stand_in::StandIns;
use serde_json::{Value, json};

/// Describes the sources, of a sidecar with a controller.
pub(super) fn dump(proxy: &Proxy, control: &Control) -> Value {
    let (controller, state) = control.words();
    let in_force = control.in_force();
    let told: Vec<&str> = in_force.iter().map(|text| control.name_of(text)).collect();
    let StandIns { mesh, dataplane } = proxy.running.load().plan.stand_ins;
    json!({
        "@type": "type.googleapis.com/culvert.control.v1.SourcesDump",
        "files": proxy.config.resources,
        "controller": {"address": controller, "state": state, "documents": told, "refused": control.bad()},
        "stand_ins": {"mesh": mesh, "dataplane": dataplane},
    })
}
