// SPDX-License-Identifier: Apache-2.0
//! A listener: the address of connections, the way they are served, and where they go.

pub mod http;
pub mod rate;

use self::http::{CallerRate, HttpPlan};
use self::rate::RatePlan;
use super::Origin;
use crate::net::addrs::Direction;
use culvert_mesh::kinds::dataplane::{Inbound, Protocol};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The protocol by which a listener's connections are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serve {
    /// Bytes, in both directions.
    #[default]
    Tcp,
    /// Messages of HTTP/1, or streams of HTTP/2: the client's first bytes say which.
    Http,
    /// The same, where a document says that the server speaks HTTP/2.
    Http2,
}

/// Tag with the protocol of an inbound.
const PROTOCOL: &str = "kuma.io/protocol";

impl Serve {
    /// Returns the way to serve a protocol, as documents name it.
    pub(crate) fn of_protocol(protocol: &str) -> Self {
        match protocol {
            "http" => Self::Http,
            "http2" | "grpc" => Self::Http2,
            _ => Self::Tcp,
        }
    }

    /// Returns true if its connections carry requests.
    pub(crate) fn is_http(self) -> bool {
        self != Self::Tcp
    }

    /// Returns the way to serve calls that go to all of these: what they have in common. Of none it is TCP.
    pub(crate) fn common(all: impl Iterator<Item = Self>) -> Self {
        let common = |one, other| match (one, other) {
            (Self::Tcp, _) | (_, Self::Tcp) => Self::Tcp,
            (Self::Http2, Self::Http2) => Self::Http2,
            _ => Self::Http,
        };
        all.reduce(common).unwrap_or_default()
    }

    /// Returns the way to serve an inbound: by its protocol, else by the tag.
    pub(crate) fn of_inbound(inbound: &Inbound) -> Self {
        let tag = || inbound.tags.0.get(PROTOCOL).map(|protocol| Self::of_protocol(protocol));
        let field = inbound.protocol.map(|protocol| match protocol {
            Protocol::Http => Self::Http,
            Protocol::Http2 | Protocol::Grpc => Self::Http2,
            _ => Self::Tcp,
        });
        field.or_else(tag).unwrap_or_default()
    }
}

/// A cluster's share of the connections of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Name of the cluster; no other share of the listener has it.
    pub cluster: Arc<str>,
    /// The share, beside the weights of the others; above 0.
    pub weight: u32,
}

/// A listener: the address of connections, and the cluster they go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPlan {
    /// Unique among the listeners of a plan.
    pub name: Arc<str>,
    /// Inbound for calls of the pod, outbound for calls by it.
    pub direction: Direction,
    /// Origin, for the match of a ProxyTemplate.
    pub origin: Origin,
    /// Address that it binds, or that redirected connections were meant for.
    pub address: SocketAddr,
    /// True if it binds the address itself; false if it receives redirected connections.
    pub binds: bool,
    /// The protocol by which its connections are served.
    pub serve: Serve,
    /// Rules of its requests; `None` = there are none.
    pub http: Option<Arc<HttpPlan>>,
    /// Its cluster's name; `None` = every connection is denied. Of a split the first one's.
    pub cluster: Option<Arc<str>>,
    /// The clusters that its connections are split among; empty = all go to `cluster`.
    pub split: Vec<Share>,
    /// Longest time without a byte on a connection; `None` = no limit.
    pub idle_timeout: Option<Duration>,
    /// Name of the server in logs.
    pub service: Option<Arc<str>>,
    /// The rate of its connections; `None` = no limit.
    pub rate: Option<RatePlan>,
}

impl ListenerPlan {
    /// Returns the shortest of the times that a sweep looks for.
    pub(crate) fn shortest_time(&self) -> Option<Duration> {
        let of_requests = self.http.as_ref().and_then(|plan| plan.times.shortest());
        self.idle_timeout.into_iter().chain(of_requests).min()
    }

    /// Returns the rates of its requests, by their callers.
    pub(crate) fn request_rates(&self) -> &[CallerRate] {
        self.http.as_ref().map_or(&[], |plan| &plan.rates)
    }

    /// Returns the names of the clusters that its connections go to.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let whole = self.cluster.iter().filter(|_| self.split.is_empty());
        whole.chain(self.split.iter().map(|share| &share.cluster))
    }

    /// Finds the cluster that was made under a name: an equal name of another cluster has put a number behind it.
    pub(crate) fn cluster_made_as(&self, wanted: &str) -> Option<&Arc<str>> {
        let is = |name: &&Arc<str>| {
            name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
        };
        self.clusters().find(is)
    }
}

#[cfg(test)]
mod tests {
    use super::Serve::{self, Http, Http2, Tcp};

    #[test]
    fn protocols_are_served_and_calls_have_what_their_servers_have_in_common() {
        for (protocol, serve) in [
            ("http", Http),
            ("http2", Http2),
            ("grpc", Http2),
            ("tcp", Tcp),
            ("kafka", Tcp),
            ("HTTP", Tcp),
            ("", Tcp),
        ] {
            assert_eq!(Serve::of_protocol(protocol), serve, "{protocol}");
        }
        for (all, common) in [
            (&[][..], Tcp),
            (&[Http], Http),
            (&[Http2, Http2], Http2),
            (&[Http2, Http], Http),
            (&[Http, Http2, Http2], Http),
            (&[Http2, Http2, Tcp], Tcp),
            (&[Tcp, Http2], Tcp),
        ] {
            assert_eq!(Serve::common(all.iter().copied()), common, "{all:?}");
        }
    }
}
