// SPDX-License-Identifier: Apache-2.0
//! Reports of sidecars, with workloads in the place of addresses.

use std::net::IpAddr;

use culvert_control::MAX_TRAFFIC;
use culvert_control::messages::{Report, Traffic as Entry};

use super::{Amount, Counts, Ends, Node};
use crate::controller::key::Key;
use crate::controller::world::{Pod, World};

/// Connections between two workloads, as one pod reports them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub ends: Ends,
    pub told: Amount,
    /// Those that the client's sidecar tells too, wherever it has its stream.
    pub echo: Amount,
    /// The part of them that went past the client's sidecar, if it has one.
    pub past: Counts,
    /// Another pod that reports them too if its sidecar has a stream: inbound connections' client.
    pub reporter: Option<Key>,
}

impl Seen {
    /// Leaves to the client's sidecar what it tells: to this replica, or to another one if `elsewhere`.
    pub(crate) fn leave_to_client(&mut self, elsewhere: bool) {
        let told = std::mem::replace(&mut self.told, Amount { counts: self.past, open: 0 });
        if elsewhere {
            self.echo = told.without(self.told);
        }
    }
}

/// A report that was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub seen: Vec<Seen>,
    /// Connections that are in none of them.
    pub left_out: u64,
}

/// Reads what a pod reports. Entries over the bound and those with no address are left out, and counted.
pub(crate) fn read(world: &World, own: &Pod, report: Report) -> Read {
    let Report { traffic, left_out } = report;
    let mut read = Read { seen: Vec::new(), left_out };
    for (at, entry) in traffic.into_iter().enumerate() {
        match address(&entry.address).filter(|_| at < MAX_TRAFFIC) {
            Some(peer) => read.seen.push(seen(world, own, peer, &entry)),
            None => read.left_out = read.left_out.saturating_add(entry.ended),
        }
    }
    read
}

fn seen(world: &World, own: &Pod, peer: IpAddr, entry: &Entry) -> Seen {
    let Entry { outbound, address: _, port: _, ended, failed, tls, bytes, open, plain, plain_failed } =
        *entry;
    // A part is no more than the whole, or shares would be over 100%.
    let counts = Counts { ended, failed: failed.min(ended), tls: tls.min(ended), bytes };
    let plain = plain.min(ended);
    let past = Counts { ended: plain, failed: plain_failed.min(plain), ..Counts::default() };
    let (other, pod) = node(world, peer);
    let own = Node::Workload(workload(own));
    let (client, server) = if outbound { (own, other) } else { (other, own) };
    let reporter = pod.filter(|pod| !outbound && pod.is_onboarded()).map(|pod| pod.key.clone());
    let told = Amount { counts, open };
    Seen { ends: Ends { client, server }, told, echo: Amount::default(), past, reporter }
}

fn node(world: &World, address: IpAddr) -> (Node, Option<&Pod>) {
    if let Some(pod) = world.pod_at(address) {
        return (Node::Workload(workload(pod)), Some(pod));
    }
    let service = world.service_at(address).map(|service| service.key.clone());
    (service.map_or(Node::Outside, Node::Service), None)
}

/// Namespace and name of a pod's workload.
pub(crate) fn workload(pod: &Pod) -> Key {
    Key::new(pod.key.namespace(), &pod.workload)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| sixteen()).ok().map(|address| address.to_canonical())
}
