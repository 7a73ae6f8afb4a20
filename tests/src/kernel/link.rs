//! Links, addresses and routes of a namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Error, Result, anyhow};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, route::RouteFlags};
use nix::sys::socket::SockProtocol;

use crate::kernel::netlink::Netlink;
use crate::kernel::netns::Namespace;
use crate::until::{DEADLINE, until_some};

/// The ends of a cable get different numbers: where they are equal, as the first ones in two namespaces would be, the
/// kernel takes them for one interface without another end and is in no hurry (a second) to notice that it is up.
static NEXT_INDEX: AtomicU32 = AtomicU32::new(100);

/// An address with the length of its prefix, as in `10.77.0.2/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, prefix) = text.split_once('/').ok_or_else(|| anyhow!("{text}: no prefix length"))?;
        Ok(Self {
            address: address.parse().with_context(|| format!("{text}: no IP address"))?,
            prefix: prefix.parse().with_context(|| format!("{text}: no prefix length"))?,
        })
    }
}

/// The links of one namespace.
pub(crate) struct Links(Netlink);

impl Links {
    /// Of the namespace in which the calling thread is.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self(Netlink::open(SockProtocol::NetlinkRoute)?))
    }

    /// Names and numbers of all links.
    pub(crate) fn list(&mut self) -> Result<Vec<(String, u32)>> {
        let links = self.0.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(links
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => {
                    let name = link.attributes.iter().find_map(|a| match a {
                        LinkAttribute::IfName(name) => Some(name.clone()),
                        _ => None,
                    })?;
                    Some((name, link.header.index))
                }
                _ => None,
            })
            .collect())
    }

    /// Number of a link.
    pub(crate) fn index(&mut self, name: &str) -> Result<u32> {
        self.list()?
            .into_iter()
            .find_map(|(found, index)| (found == name).then_some(index))
            .ok_or_else(|| anyhow!("no interface {name}"))
    }

    /// A pair of links like a cable: one end here, the other directly in `other`. Neither is ever anywhere else.
    pub(crate) fn veth(&mut self, name: &str, other: &Namespace, other_name: &str) -> Result<()> {
        let mut far = LinkMessage::default();
        far.header.index = NEXT_INDEX.fetch_add(1, Ordering::Relaxed);
        far.attributes.push(LinkAttribute::IfName(other_name.into()));
        far.attributes.push(LinkAttribute::NetNsFd(other.as_fd().as_raw_fd()));
        let mut near = LinkMessage::default();
        near.header.index = NEXT_INDEX.fetch_add(1, Ordering::Relaxed);
        near.attributes.push(LinkAttribute::IfName(name.into()));
        near.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
        ]));
        self.0
            .request(RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("cannot make the veth pair {name} – {other_name}"))
    }

    /// `ip link set NAME up`
    pub(crate) fn up(&mut self, name: &str) -> Result<()> {
        self.set(name, LinkFlags::Up).with_context(|| format!("cannot set {name} up"))
    }

    /// `ip link set NAME down`: as if the cable were pulled at this end.
    pub(crate) fn down(&mut self, name: &str) -> Result<()> {
        self.set(name, LinkFlags::empty()).with_context(|| format!("cannot set {name} down"))
    }

    fn set(&mut self, name: &str, flags: LinkFlags) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(name)?;
        link.header.flags = flags;
        link.header.change_mask = LinkFlags::Up;
        self.0.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Returns true once packets can pass: the kernel drops them until it has noticed, in the background, that a link is up.
    pub(crate) fn is_running(&mut self, name: &str) -> Result<bool> {
        let links = self.0.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(links.iter().any(|message| match message {
            RouteNetlinkMessage::NewLink(link) => {
                link.attributes.contains(&LinkAttribute::IfName(name.into()))
                    && link.attributes.contains(&LinkAttribute::OperState(State::Up))
            }
            _ => false,
        }))
    }

    /// `ip address add`; no duplicate address detection, which would take a second.
    pub(crate) fn add_address(&mut self, name: &str, Cidr { address, prefix }: Cidr) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = self.index(name)?;
        message.header.prefix_len = prefix;
        message.header.family = family(address);
        message.attributes.push(AddressAttribute::Address(address));
        if address.is_ipv4() {
            message.attributes.push(AddressAttribute::Local(address));
        } else {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.0
            .request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("cannot add {address}/{prefix} to {name}"))?;
        // The kernel adds the route to an IPv6 address in the background; before, packets for it leave the host.
        until_some(DEADLINE, || self.is_local(address).unwrap_or_default().then_some(()))
            .with_context(|| format!("{address} on {name} cannot be reached"))
    }

    /// Returns true if the kernel delivers packets for an address here.
    fn is_local(&mut self, address: IpAddr) -> Result<bool> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(address);
        let routes = self.0.dump(RouteNetlinkMessage::GetRoute(question))?;
        let destination = RouteAttribute::Destination(route_address(address));
        Ok(routes.iter().any(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => {
                route.header.kind == RouteType::Local && route.attributes.contains(&destination)
            }
            _ => false,
        }))
    }

    /// `ip route add TO via GATEWAY`
    pub(crate) fn add_route(&mut self, to: Cidr, gateway: IpAddr) -> Result<()> {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: family(to.address),
            destination_prefix_length: to.prefix,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            flags: RouteFlags::empty(),
            ..RouteHeader::default()
        };
        route.attributes.push(RouteAttribute::Destination(route_address(to.address)));
        route.attributes.push(RouteAttribute::Gateway(route_address(gateway)));
        self.0
            .request(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("cannot add a route to {}/{} via {gateway}", to.address, to.prefix))
    }

    /// `ip route add local TO dev lo`: every address of `to` is the host's own.
    pub(crate) fn add_local_route(&mut self, to: Cidr) -> Result<()> {
        let lo = self.index("lo")?;
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: family(to.address),
            destination_prefix_length: to.prefix,
            // RT_TABLE_LOCAL
            table: 255,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Host,
            kind: RouteType::Local,
            flags: RouteFlags::empty(),
            ..RouteHeader::default()
        };
        route.attributes.push(RouteAttribute::Destination(route_address(to.address)));
        route.attributes.push(RouteAttribute::Oif(lo));
        self.0
            .request(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("cannot make {}/{} local", to.address, to.prefix))
    }

    /// All addresses of a link.
    pub(crate) fn addresses(&mut self, name: &str) -> Result<Vec<IpAddr>> {
        let index = self.index(name)?;
        let found = self.0.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(a) if a.header.index == index => {
                    a.attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    })
                }
                _ => None,
            })
            .collect())
    }
}

/// The default route's destination in the family of `gateway`.
pub(crate) fn everything(gateway: IpAddr) -> Cidr {
    match gateway {
        IpAddr::V4(_) => Cidr { address: Ipv4Addr::UNSPECIFIED.into(), prefix: 0 },
        IpAddr::V6(_) => Cidr { address: Ipv6Addr::UNSPECIFIED.into(), prefix: 0 },
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}
