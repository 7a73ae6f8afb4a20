// SPDX-License-Identifier: Apache-2.0
//! `Dataplane`: a workload, and what it serves and calls.

use super::read::{At, Ignored, Port, RedirectPort, Tags, fields, words};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Most inbounds or outbounds of one document: each is a listener and a cluster with statistics.
pub const MOST_LISTENERS: usize = 512;

fields! {
    /// A workload: the one that --dataplane names is this pod, the others are where the mesh's services live.
    pub struct Dataplane {
        /// Its addresses and ports.
        networking: required Networking = "networking",
    }
}

fields! {
    /// Addresses and ports of a workload.
    pub struct Networking {
        /// The workload's address.
        address: required IpAddr = "address",
        /// Where others reach it, if that is another address.
        advertised_address: optional IpAddr = "advertisedAddress",
        /// What it serves.
        inbound: default Vec<Inbound> = "inbound",
        /// What it calls.
        outbound: default Vec<Outbound> = "outbound",
        /// The tags of a gateway, which has no inbound.
        gateway: optional Gateway = "gateway",
        /// How connections are redirected. Absent: they are not, and listeners bind their own ports.
        transparent_proxying: optional TransparentProxying = "transparentProxying",
    }
}

fields! {
    /// A service that the workload offers.
    pub struct Inbound {
        /// The port of the listener.
        port: required Port = "port",
        /// The address of the listener. Default: networking.address.
        address: optional IpAddr = "address",
        /// The application's port. Default: port.
        service_port: optional Port = "servicePort",
        /// The application's address: loopback or the workload's own. Default: with a redirect the listener's address,
        /// without one 127.0.0.1.
        service_address: optional IpAddr = "serviceAddress",
        /// What the service is called and how it differs from others of that name; kuma.io/service is required.
        tags: required Tags = "tags",
        /// A name, for people.
        name: optional String = "name",
        /// Whether it can be called.
        health: optional Health = "health",
        /// Whether it can be called, in Kuma 2.x's newer words.
        state: optional State = "state",
    }
}

fields! {
    /// Whether a service can be called.
    pub struct Health {
        /// Whether it can be called.
        ready: default bool = "ready",
    }
}

words! {
    /// Whether a service can be called.
    pub enum State {
        /// It can.
        Ready = "Ready",
        /// It cannot.
        NotReady = "NotReady",
        /// It is none.
        Ignored = "Ignored",
    }
}

fields! {
    /// A service that the workload calls.
    pub struct Outbound {
        /// The port of the listener.
        port: required Port = "port",
        /// The address of the listener. Default: 127.0.0.1. One outside of loopback takes redirected connections.
        address: optional IpAddr = "address",
        /// The service: endpoints have all of these tags; kuma.io/service is required.
        tags: required Tags = "tags",
    }
}

fields! {
    /// A gateway: a workload that takes its connections itself.
    pub struct Gateway {
        /// Its tags.
        tags: required Tags = "tags",
        /// Only a gateway of its own is known here, not one that Envoy plays.
        kind: optional GatewayKind = "type",
    }
}

words! {
    /// The kinds of gateways.
    pub enum GatewayKind {
        /// A program of its own.
        Delegated = "DELEGATED",
    }
}

fields! {
    /// How the pod's connections are redirected.
    pub struct TransparentProxying {
        /// The inbound port; 0 = not redirected. As --inbound-port.
        redirect_port_inbound: default RedirectPort = "redirectPortInbound",
        /// The inbound port of IPv6, where Kuma has two.
        redirect_port_inbound_v6: default RedirectPort = "redirectPortInboundV6",
        /// The outbound port; 0 = not redirected. As --outbound-port.
        redirect_port_outbound: default RedirectPort = "redirectPortOutbound",
        /// Services that may be called by their endpoints' addresses. Here that holds for all.
        direct_access_services: default Vec<String> = "directAccessServices",
        /// Which services the control plane tells this pod of. Here these are the outbounds.
        reachable_services: default Vec<String> = "reachableServices",
        /// The same in newer words.
        reachable_backends: optional Ignored = "reachableBackends",
        /// The redirected families; the plugin's annotations decide that here.
        ip_family_mode: optional IpFamilyMode = "ipFamilyMode",
    }
}

words! {
    /// The redirected families.
    pub enum IpFamilyMode {
        /// Both.
        DualStack = "DualStack" | "UnSpecified",
        /// IPv4.
        V4 = "IPv4",
        /// IPv6.
        V6 = "IPv6",
    }
}

// === impl Dataplane ===

impl Dataplane {
    /// The tags that selectors are held against: of each inbound, or of the gateway.
    pub fn tags(&self) -> impl Iterator<Item = &Tags> {
        let Networking { inbound, gateway, .. } = &self.networking;
        inbound.iter().map(|inbound| &inbound.tags).chain(gateway.iter().map(|gateway| &gateway.tags))
    }

    /// Where others reach an inbound.
    pub fn endpoint(&self, inbound: &Inbound) -> SocketAddr {
        let Networking { address, advertised_address, .. } = &self.networking;
        SocketAddr::new(advertised_address.or(inbound.address).unwrap_or(*address), inbound.port.0)
    }

    /// Where the listener of an inbound is.
    pub fn listener(&self, inbound: &Inbound) -> SocketAddr {
        SocketAddr::new(inbound.address.unwrap_or(self.networking.address), inbound.port.0)
    }

    /// What the fields say together.
    pub fn check(&self, at: &mut At<'_>) {
        at.field("networking", |at| {
            let Networking { address, advertised_address, inbound, outbound, .. } = &self.networking;
            real_address(at, "address", Some(*address));
            real_address(at, "advertisedAddress", *advertised_address);
            for (name, count) in [("inbound", inbound.len()), ("outbound", outbound.len())] {
                if count > MOST_LISTENERS {
                    at.field(name, |at| {
                        at.problem(format!("a list of {count}"), format!("at most {MOST_LISTENERS} of them"));
                    });
                }
            }
            let mut listeners = std::collections::BTreeSet::new();
            for (index, one) in inbound.iter().enumerate() {
                at.field("inbound", |at| {
                    at.item(index, |at| {
                        one.check(at, self);
                        once(at, listeners.insert((true, self.listener(one))), self.listener(one));
                    });
                });
            }
            for (index, one) in outbound.iter().enumerate() {
                at.field("outbound", |at| {
                    at.item(index, |at| {
                        real_address(at, "address", one.address);
                        needs_service(at, &one.tags, "*");
                        once(at, listeners.insert((false, one.listener())), one.listener());
                    });
                });
            }
        });
    }
}

fn once(at: &mut At<'_>, new: bool, listener: SocketAddr) {
    if !new {
        at.field("port", |at| {
            at.problem(format!("{listener} again"), "one listener for an address and port")
        });
    }
}

fn real_address(at: &mut At<'_>, field: &str, address: Option<IpAddr>) {
    if let Some(address) = address.filter(|address| address.is_unspecified() || address.is_multicast()) {
        at.field(field, |at| at.problem(format!("{address}"), "the address of one host"));
    }
}

fn needs_service(at: &mut At<'_>, tags: &Tags, wildcard: &str) {
    at.field("tags", |at| {
        for (key, value) in &tags.0 {
            if value == wildcard {
                at.field(key, |at| at.problem("\"*\"", "one value; \"*\" is for selectors"));
            }
        }
        if tags.service().is_none() {
            at.field(super::read::SERVICE, |at| at.problem("nothing", "this field is required"));
        }
    });
}

impl Inbound {
    /// Whether others may call it.
    pub fn is_ready(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.ready)
            && !matches!(self.state, Some(State::NotReady | State::Ignored))
    }

    fn check(&self, at: &mut At<'_>, of: &Dataplane) {
        real_address(at, "address", self.address);
        needs_service(at, &self.tags, "*");
        if let Some(service) = self.service_address {
            let own = service == of.networking.address || Some(service) == self.address;
            // Of loopback these two alone are let through to the application by the redirect rules.
            let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), std::net::Ipv6Addr::LOCALHOST.into()];
            if !own && !loopback.contains(&service) {
                at.field("serviceAddress", |at| {
                    at.problem(
                        format!("\"{service}\""),
                        "127.0.0.1, ::1, or this workload's own address: a sidecar is no way to another host",
                    );
                });
            }
        }
    }
}

impl Outbound {
    /// Where its listener is.
    pub fn listener(&self) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(Ipv4Addr::LOCALHOST.into()), self.port.0)
    }
}

impl TransparentProxying {
    /// The ports with their fields' names; those of IPv6 say the same or nothing.
    pub fn ports(&self) -> [(&'static str, u16); 3] {
        [
            ("redirectPortInbound", self.redirect_port_inbound.0),
            ("redirectPortInboundV6", self.redirect_port_inbound_v6.0),
            ("redirectPortOutbound", self.redirect_port_outbound.0),
        ]
    }
}
