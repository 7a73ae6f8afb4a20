// SPDX-License-Identifier: Apache-2.0
//! The network of a world's pods: Debian's reference plugins, and ours behind them.

use serde_json::{Value, json};

use super::network::{BRIDGE, NETWORK, addresses, log_file, state_dir};
use super::world::World;

/// Every pod's two subnets; the bridge has `.1` and `::1`.
const SUBNETS: [&str; 2] = ["10.88.0.0/24", "fd88::/64"];

/// bridge → portmap → culvert-cni, written in this cniVersion. Further keys of our entry come from `entry`.
pub fn chain(world: &World, cni_version: &str, entry: &Value) -> Value {
    let mut ours = json!({
        "type": "culvert-cni",
        "capabilities": { crate::pod::plugin::ANNOTATIONS: true },
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
