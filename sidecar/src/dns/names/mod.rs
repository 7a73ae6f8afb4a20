// SPDX-License-Identifier: Apache-2.0
//! The records of the mesh's names: those of the plan in force, in the families that the pod can reach.
//!
//! Nothing is copied from the plan. A name is found by bisection, 14 comparisons among 10,000 names, and its records are made
//! when they are asked for: a table of names as on the wire took 6 MiB for as many, this takes 8 bytes for each address.

use crate::dns::message::{HEADER, MOST_NAME, question_end};
use crate::net::addrs::Family;
use crate::plan::names::{MeshName, MeshNames, NamePort};
use culvert_mesh::model::host_name::host_name;
use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{Name, RData, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Between the name of a port and the host in a question for SRV. Listeners of documents take TCP alone.
const PROTOCOL: &str = "._tcp.";

/// The families in which the pod has a way to the addresses of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// True if `240.0.0.0/4` can be dialled.
    pub v4: bool,
    /// True if `fd00:fd00::/64` can be dialled.
    pub v6: bool,
}

/// The names of the mesh with their records.
#[derive(Clone, Debug)]
pub struct Names {
    mesh: Arc<MeshNames>,
    reach: Reach,
    /// In the order of addresses.
    by_address: Box<[Place]>,
}

/// An address of a name, by the indices of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    name: u32,
    nth: u32,
}

impl Place {
    fn name(self, names: &[MeshName]) -> Option<&MeshName> {
        names.get(self.name as usize)
    }

    fn address(self, names: &[MeshName]) -> Option<IpAddr> {
        self.name(names)?.addresses.get(self.nth as usize).copied()
    }
}

/// The records of one question's name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NameRecords<'n> {
    /// A name.
    Host(&'n MeshName, Reach),
    /// A port of a name, as in `_http._tcp.web.mesh`; the text is the port's name.
    Port(&'n MeshName, &'n str),
    /// An address, as in `2.0.0.240.in-addr.arpa`: the part of [`Names::by_address`] with its names.
    Address(&'n [MeshName], &'n [Place]),
}

// === impl Reach ===

impl Reach {
    /// Both families.
    pub const ALL: Self = Self { v4: true, v6: true };

    /// Asks about each family.
    pub(crate) fn by(reaches: impl Fn(Family) -> bool) -> Self {
        Self { v4: reaches(Family::V4), v6: reaches(Family::V6) }
    }

    fn has(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

// === impl NameRecords ===

impl NameRecords<'_> {
    /// Seconds for which an answer may be kept.
    pub(crate) fn ttl(&self) -> u32 {
        match self {
            Self::Host(name, _) | Self::Port(name, _) => name.ttl,
            Self::Address(names, at) => hosts(names, at).map(|name| name.ttl).min().unwrap_or_default(),
        }
    }

    /// Returns the records of a type, or of all types for ANY.
    ///
    /// # Errors
    /// A name of the plan is none of DNS, which compiling lets none be.
    pub(crate) fn records(&self, wanted: RecordType) -> Result<Vec<RData>, ProtoError> {
        let is = |kind| wanted == kind || wanted == RecordType::ANY;
        let mut records = Vec::new();
        match self {
            Self::Host(name, reach) => {
                for &address in name.addresses.iter().filter(|address| reach.has(**address)) {
                    match address {
                        IpAddr::V4(ip) if is(RecordType::A) => records.push(RData::A(A(ip))),
                        IpAddr::V6(ip) if is(RecordType::AAAA) => records.push(RData::AAAA(AAAA(ip))),
                        IpAddr::V4(_) | IpAddr::V6(_) => {}
                    }
                }
            }
            Self::Port(name, port) if is(RecordType::SRV) => {
                for place in name.ports.iter().filter(|place| is_named(place, port)) {
                    records.push(RData::SRV(SRV::new(0, 0, place.port, of_text(&name.host)?)));
                }
            }
            Self::Address(names, at) if is(RecordType::PTR) => {
                for name in hosts(names, at) {
                    records.push(RData::PTR(PTR(of_text(&name.host)?)));
                }
            }
            Self::Port(..) | Self::Address(..) => {}
        }
        Ok(records)
    }
}

fn is_named(port: &NamePort, name: &str) -> bool {
    port.name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name))
}

fn hosts<'n>(names: &'n [MeshName], at: &'n [Place]) -> impl Iterator<Item = &'n MeshName> {
    at.iter().filter_map(|place| place.name(names))
}

// === impl Names ===

impl Default for Names {
    fn default() -> Self {
        Self::of(Arc::default(), Reach::ALL)
    }
}

impl Names {
    /// Makes the records of a plan's names.
    pub fn of(mesh: Arc<MeshNames>, reach: Reach) -> Self {
        let mut by_address: Vec<Place> = (0..)
            .zip(&mesh.names)
            .flat_map(|(index, name)| {
                (0..).zip(&*name.addresses).map(move |(nth, _)| Place { name: index, nth })
            })
            .collect();
        by_address.sort_unstable_by_key(|place| (place.address(&mesh.names), place.name));
        by_address.dedup_by_key(|place| (place.address(&mesh.names), place.name));
        Self { by_address: by_address.into(), mesh, reach }
    }

    /// Returns the families in which addresses are told.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// Returns true if there is no name.
    pub fn is_empty(&self) -> bool {
        self.mesh.names.is_empty()
    }

    /// Looks up the name of a question that ends at `end`.
    pub(crate) fn get(&self, message: &[u8], end: usize) -> Option<NameRecords<'_>> {
        if self.is_empty() {
            return None;
        }
        let wire = message.get(HEADER..end.checked_sub(4)?)?;
        let mut text = [0; MOST_NAME];
        let name = std::str::from_utf8(text_of(wire, &mut text)?).ok()?;
        let host = self.find(name).map(|name| NameRecords::Host(name, self.reach));
        host.or_else(|| self.port(name)).or_else(|| self.address(name))
    }

    /// Returns the host of a question, where the mesh may have that name and documents do not say so yet.
    pub(crate) fn may_be(&self, message: &[u8]) -> Option<Arc<str>> {
        let wire = message.get(HEADER..question_end(message)?.checked_sub(4)?)?;
        let mut text = [0; MOST_NAME];
        let name = std::str::from_utf8(text_of(wire, &mut text)?).ok()?;
        let host =
            name.strip_prefix('_').and_then(|name| name.split_once(PROTOCOL)).map_or(name, |(_, host)| host);
        // A template without an expression is a whole name.
        let ends = |end: &str| host.ends_with(end) && (host.len() > end.len() || !end.starts_with('.'));
        let may_be = self.mesh.ends.iter().any(|end| ends(end)) && host_name(host).is_some();
        may_be.then(|| host.into())
    }

    /// Finds a name that is in lower case already.
    fn find(&self, name: &str) -> Option<&MeshName> {
        let names = &self.mesh.names;
        names.binary_search_by(|one| (*one.host).cmp(name)).ok().and_then(|at| names.get(at))
    }

    fn port(&self, name: &str) -> Option<NameRecords<'_>> {
        let (port, host) = name.strip_prefix('_')?.split_once(PROTOCOL)?;
        let host = self.find(host)?;
        let place = host.ports.iter().find(|place| is_named(place, port))?;
        Some(NameRecords::Port(host, place.name.as_deref()?))
    }

    fn address(&self, name: &str) -> Option<NameRecords<'_>> {
        let address = address_of(name)?;
        let of = |place: &Place| place.address(&self.mesh.names);
        let from = self.by_address.partition_point(|place| of(place) < Some(address));
        let length = self.by_address.get(from..)?.partition_point(|place| of(place) == Some(address));
        let at = self.by_address.get(from..from + length).filter(|at| !at.is_empty())?;
        Some(NameRecords::Address(&self.mesh.names, at))
    }
}

/// Writes a name of the wire as text in lower case. One with a dot inside a label is none of the mesh, and would look as one.
fn text_of<'t>(wire: &[u8], text: &'t mut [u8; MOST_NAME]) -> Option<&'t [u8]> {
    let (mut from, mut to) = (0, 0);
    loop {
        let length = usize::from(*wire.get(from)?);
        if length == 0 {
            // The dot behind the last label is left out; of the root there is none.
            return text.get(..usize::checked_sub(to, 1)?);
        }
        let label = wire.get(from + 1..=from + length)?;
        if label.contains(&b'.') {
            return None;
        }
        let place = text.get_mut(to..=to + length)?;
        place[..length].copy_from_slice(label);
        place[..length].make_ascii_lowercase();
        place[length] = b'.';
        (from, to) = (from + 1 + length, to + 1 + length);
    }
}

/// Reads the name of an address: `2.0.0.240.in-addr.arpa`. Each address has one spelling.
fn address_of(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut bytes = [0; 4];
        fill(digits, &mut bytes, |part| {
            let plain =
                part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
            part.parse().ok().filter(|_| plain)
        })?;
        return Some(Ipv4Addr::from_octets(bytes).into());
    }
    let mut digits = [0; 32];
    fill(name.strip_suffix(".ip6.arpa")?, &mut digits, |part| match part.as_bytes() {
        [digit] => char::from(*digit).to_digit(16),
        _ => None,
    })?;
    let bits = digits.iter().fold(0, |bits: u128, digit| (bits << 4) | u128::from(*digit));
    Some(Ipv6Addr::from_bits(bits).into())
}

/// Fills the places from the last to the first with what stands between dots. There have to be as many.
fn fill<T>(text: &str, places: &mut [T], read: impl Fn(&str) -> Option<T>) -> Option<()> {
    let mut parts = text.split('.');
    for place in places.iter_mut().rev() {
        *place = read(parts.next()?)?;
    }
    parts.next().is_none().then_some(())
}

/// Reads a name of the plan.
fn of_text(host: &str) -> Result<Name, ProtoError> {
    Name::from_labels(host.split('.').map(str::as_bytes))
}

#[cfg(test)]
pub(crate) mod tests;
