// SPDX-License-Identifier: Apache-2.0
//! Destinations of the names of the mesh → their listeners.

use crate::cluster::registry::Listener;
use crate::net::addrs::Direction;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Adds the other addresses of listeners: one of names has an address of each family. A listener that a patch took out has
/// none, and one whose own address it is keeps it.
pub(super) fn add(
    by_destination: &mut HashMap<(Direction, SocketAddr), Arc<Listener>>,
    listeners: &[Arc<Listener>],
    ways: &HashMap<SocketAddr, Arc<str>>,
) {
    if ways.is_empty() {
        return;
    }
    let outbound = listeners.iter().filter(|listener| listener.plan.direction == Direction::Outbound);
    let by_name: HashMap<&str, _> = outbound.map(|listener| (&*listener.plan.name, listener)).collect();
    for (address, name) in ways {
        if let Some(listener) = by_name.get(&**name) {
            let key = (Direction::Outbound, *address);
            by_destination.entry(key).or_insert_with(|| Arc::clone(listener));
        }
    }
}
