// SPDX-License-Identifier: Apache-2.0
//! `MeshPassthrough`: destinations outside of the mesh that some pods may call.

use crate::context::Context;
use crate::kinds::Resource;
use crate::model::host_name::host_name;
use crate::model::network::Network;
use crate::read::part::{Part, Reported};
use crate::read::{At, Port, describe, fields, words};
use crate::target::{Target, TargetKind, TargetRef};
use serde_json::Value;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

/// Most matches of all policies about a pod. Each is a cluster with limits and statistics of its own, some 2 KB.
pub const MOST_MATCHES: usize = 1_000;

fields! {
    /// Destinations outside of the mesh that some pods may call.
    pub struct MeshPassthrough {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional TargetRef = "targetRef",
        /// Destinations that these pods may call.
        default: optional PassthroughConf = "default",
    }
}

fields! {
    /// Destinations that the pods may call.
    pub struct PassthroughConf {
        /// All: every destination; None: none; Matched: those of appendMatch. Default: Matched.
        mode: optional PassthroughMode = "passthroughMode",
        /// Destinations of Matched; those of all policies about a pod count together.
        append_match: default Vec<PassthroughMatch> = "appendMatch",
    }
}

words! {
    /// Destinations that the pods may call.
    pub enum PassthroughMode {
        /// Every destination.
        All = "All",
        /// No destination outside of the mesh.
        None = "None",
        /// The destinations of the matches.
        Matched = "Matched",
    }
}

fields! {
    /// Destinations outside of the mesh.
    pub struct PassthroughMatch {
        /// Domain, IP or CIDR.
        kind: required MatchType = "type",
        /// A host's name or "*." and one, an address, or a range of addresses as 10.0.0.0/8.
        value: required String = "value",
        /// Port of the destination. Absent: every port.
        port: optional Port = "port",
        /// Protocol that is spoken there. Default: tcp.
        protocol: optional MatchProtocol = "protocol",
    }
}

words! {
    /// Kinds of destinations.
    pub enum MatchType {
        /// A host's name, or all names below one.
        Domain = "Domain",
        /// An address.
        Ip = "IP",
        /// A range of addresses.
        Cidr = "CIDR",
    }
}

words! {
    /// Protocols of destinations.
    pub enum MatchProtocol {
        /// Any bytes.
        Tcp = "tcp",
        /// TLS, whose ClientHello has the server's name.
        Tls = "tls",
        /// gRPC.
        Grpc = "grpc",
        /// HTTP/1, whose requests have the server's name.
        Http = "http",
        /// HTTP/2.
        Http2 = "http2",
        /// MySQL, whose server speaks first.
        Mysql = "mysql",
    }
}

/// The destination of a match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Addresses.
    Network(Network),
    /// Names.
    Domain(Domain),
}

/// A host's name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Domain {
    /// The name, in lower case and without a dot at its end.
    pub name: String,
    /// True for the names below it (`*.`), at any depth; the name itself is not among them.
    pub below: bool,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// Matches of a class decide the same connections if their addresses and ports are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Bytes,
    Tls,
    Http,
}

impl MatchProtocol {
    /// Returns the protocol's name, as documents spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Mysql => "mysql",
        }
    }

    fn class(self) -> Class {
        match self {
            Self::Tcp | Self::Mysql => Class::Bytes,
            Self::Tls => Class::Tls,
            Self::Grpc | Self::Http | Self::Http2 => Class::Http,
        }
    }
}

impl PassthroughMatch {
    /// Returns the destination; the check of the document refuses one that is `None`.
    pub fn destination(&self) -> Option<Destination> {
        destination(self.kind, &self.value)
    }

    /// Returns the protocol that is spoken there.
    pub fn protocol(&self) -> MatchProtocol {
        self.protocol.unwrap_or(MatchProtocol::Tcp)
    }
}

fn destination(kind: MatchType, value: &str) -> Option<Destination> {
    match kind {
        MatchType::Domain => {
            let (name, below) = value.strip_prefix("*.").map_or((value, false), |name| (name, true));
            Some(Destination::Domain(Domain { name: host_name(name)?, below }))
        }
        MatchType::Ip => Some(Destination::Network(Network::host(value.parse().ok()?))),
        MatchType::Cidr => Network::parse(value).map(Destination::Network),
    }
}

impl Resource for MeshPassthrough {
    const NAME: &'static str = "MeshPassthrough";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        Target::Ref(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let target = part.field("targetRef");
        TargetRef::check(&target, at);
        if target.get("kind") == Ok(Some(TargetKind::MeshService)) {
            target.problem(at, "kind", "a service", "Mesh, MeshSubset or Dataplane: calls leave from a pod");
        }
        if target.has("sectionName") == Ok(true) {
            target.problem(at, "sectionName", "an inbound", "whole pods: calls leave from a pod");
        }
        let conf = part.field("default");
        let Ok(matches) = conf.items("appendMatch") else { return };
        if matches.len() > MOST_MATCHES {
            let found = format!("{} matches", matches.len());
            conf.problem(at, "appendMatch", found, format!("at most {MOST_MATCHES}"));
            return;
        }
        let mut taken = Taken::new();
        for one in &matches {
            let _ = protocol_fits(one, at);
            if let Ok(destination) = has_a_destination(one, at) {
                let _ = decides_alone(one, destination, &mut taken, at);
            }
        }
    }
}

fn has_a_destination(one: &Part<'_>, at: &mut At<'_>) -> Result<Destination, Reported> {
    let (kind, value) = (one.need::<MatchType>("type")?, one.need::<String>("value")?);
    destination(kind, &value).ok_or_else(|| {
        let allowed = match kind {
            MatchType::Domain => "a host's name, or \"*.\" and one",
            MatchType::Ip => "an IPv4 or IPv6 address",
            MatchType::Cidr => "a range of addresses, as 10.0.0.0/8",
        };
        one.problem(at, "value", describe(&Value::String(value)), allowed);
        Reported
    })
}

fn protocol_of(one: &Part<'_>) -> Result<MatchProtocol, Reported> {
    Ok(one.get("protocol")?.unwrap_or(MatchProtocol::Tcp))
}

fn protocol_fits(one: &Part<'_>, at: &mut At<'_>) -> Result<(), Reported> {
    use MatchProtocol::{Grpc, Http, Http2, Mysql, Tcp, Tls};
    let (kind, protocol) = (one.need::<MatchType>("type")?, protocol_of(one)?);
    let found = || format!("{} for a Domain", protocol.name());
    match (kind, protocol) {
        (MatchType::Domain, Tcp | Mysql) => {
            one.problem(at, "protocol", found(), "tls or http, whose clients say the server's name");
        }
        (MatchType::Domain, Http2 | Grpc) => {
            const ALLOWED: &str =
                "tls or http; for http2 and grpc an IP or CIDR: names in HTTP/2 are not read";
            one.problem(at, "protocol", found(), ALLOWED);
        }
        (MatchType::Domain, Http) => {
            let below = one.need::<String>("value")?.starts_with('*');
            if below && !one.has("port")? {
                const FOUND: &str = "nothing, for \"*.\" and http";
                one.problem(at, "port", FOUND, "a port: such names hold for one port at a time");
            }
        }
        (_, Mysql) => {
            if !one.has("port")? {
                one.problem(at, "port", "nothing, for mysql", "the port of the database");
            }
        }
        (MatchType::Domain, Tls) | (MatchType::Ip | MatchType::Cidr, Tcp | Tls | Grpc | Http | Http2) => {}
    }
    Ok(())
}

/// The first match of each class, port and destination, with its protocol and value as written.
type Taken = HashMap<(Class, Option<u16>, Destination), (MatchProtocol, String)>;

/// Notes a match that decides the same connections as an earlier one: chance would choose between them.
fn decides_alone(
    one: &Part<'_>,
    destination: Destination,
    taken: &mut Taken,
    at: &mut At<'_>,
) -> Result<(), Reported> {
    let (protocol, value) = (protocol_of(one)?, one.need::<String>("value")?);
    let port = one.get::<Port>("port")?.map(|port| port.0);
    match taken.entry((protocol.class(), port, destination)) {
        Entry::Vacant(free) => _ = free.insert((protocol, value)),
        Entry::Occupied(first) => {
            let (first_protocol, first) = first.get();
            if *first_protocol != protocol {
                let found = format!("{}, after {} for the same", protocol.name(), first_protocol.name());
                one.problem(at, "protocol", found, "one of these for a destination");
            } else if *first != value || port.is_some() {
                let said = |value: &str| describe(&Value::String(value.into()));
                let found = format!("{}, after {} for the same", said(&value), said(first));
                one.problem(at, "value", found, "each destination once for a port and protocol");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
