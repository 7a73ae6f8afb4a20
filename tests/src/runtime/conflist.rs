// SPDX-License-Identifier: Apache-2.0
//! The network of a world's pods: Debian's reference plugins, and ours behind them.

use std::path::Path;

use serde_json::{Value, json};

use super::world::World;

/// The network's name.
pub const NETWORK: &str = "lab";

/// The bridge on the node; no one else's has this name.
pub const BRIDGE: &str = "culvert-lab0";

/// Every pod's two subnets; the bridge has `.1` and `::1`.
const SUBNETS: [&str; 2] = ["10.88.0.0/24", "fd88::/64"];

/// bridge → portmap → culvert-cni, written in this cniVersion. Further keys of our entry come from `entry`.
pub fn chain(world: &World, cni_version: &str, entry: &Value) -> Value {
    let mut ours = json!({
        "type": "culvert-cni",
        "capabilities": { crate::plugin::ANNOTATIONS: true },
        "logFile": log_file(world.folder()),
        "stateDir": state_dir(world.folder()),
        "agentSocket": world.folder().join("agent.sock"),
    });
    for (key, value) in entry.as_object().into_iter().flatten() {
        ours[key] = value.clone();
    }
    let mut chain = primary(world, cni_version);
    if let Some(plugins) = chain["plugins"].as_array_mut() {
        plugins.push(ours);
    }
    chain
}

/// bridge → portmap: a network before culvert comes.
pub fn primary(world: &World, cni_version: &str) -> Value {
    json!({
        "cniVersion": cni_version,
        "name": NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": addresses(world.folder()),
                    "ranges": SUBNETS.map(|subnet| [json!({ "subnet": subnet })]),
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

pub(crate) fn log_file(folder: &Path) -> std::path::PathBuf {
    folder.join("cni.log")
}

pub(crate) fn state_dir(folder: &Path) -> std::path::PathBuf {
    folder.join("attachments")
}

pub(crate) fn addresses(folder: &Path) -> std::path::PathBuf {
    folder.join("addresses")
}
