// SPDX-License-Identifier: Apache-2.0
//! The names of the mesh: an immutable table from exact names to records.
//!
//! A key is a name as it stands on the wire, in lower case: a query is looked up without decoding it. A table of 10,000 names
//! with an address each is some 3 MiB, the names of the addresses included.

use crate::dns::message::{HEADER, MOST_LABEL, MOST_NAME};
use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Seconds for which clients keep an answer where nothing else is said: a name that goes is gone soon. Kuma says 30 too.
pub const DEFAULT_TTL: u32 = 30;

/// A name on the wire, in lower case, its end included.
type Key = Arc<[u8]>;

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{name}\" is no DNS name: {why}")]
pub struct NameError {
    name: String,
    why: &'static str,
}

/// One place of a service, as in RFC 2782.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvTarget {
    /// Lower ones are tried first.
    pub priority: u16,
    /// Share among those of the same priority.
    pub weight: u16,
    /// Port of the service.
    pub port: u16,
    /// Name of the host.
    pub target: String,
}

/// Data of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NameData {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv(Box<SrvData>),
    /// The name of an address.
    Ptr(Key),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SrvData {
    priority: u16,
    weight: u16,
    port: u16,
    target: Key,
}

/// The records of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameEntry {
    ttl: u32,
    data: Box<[NameData]>,
}

/// The names of the mesh with their records. Made by a [`NamesBuilder`].
#[derive(Clone, Debug, Default)]
pub struct Names(HashMap<Key, NameEntry>);

/// Collects names. The order of calls is the order of records.
#[derive(Debug, Default)]
pub struct NamesBuilder(BTreeMap<Key, (u32, Vec<NameData>)>);

// === impl NameData ===

impl NameData {
    fn kind(&self) -> RecordType {
        match self {
            Self::A(_) => RecordType::A,
            Self::Aaaa(_) => RecordType::AAAA,
            Self::Srv(_) => RecordType::SRV,
            Self::Ptr(_) => RecordType::PTR,
        }
    }

    fn record(&self) -> Result<RData, DecodeError> {
        Ok(match self {
            Self::A(address) => RData::A(A(*address)),
            Self::Aaaa(address) => RData::AAAA(AAAA(*address)),
            Self::Srv(place) => {
                let SrvData { priority, weight, port, target } = &**place;
                RData::SRV(SRV::new(*priority, *weight, *port, decoded(target)?))
            }
            Self::Ptr(name) => RData::PTR(PTR(decoded(name)?)),
        })
    }
}

// === impl NameEntry ===

impl NameEntry {
    /// Seconds for which an answer may be kept.
    pub(crate) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Returns the records of a type, or of all types for ANY.
    ///
    /// # Errors
    /// Never, as the names of a table are whole.
    pub(crate) fn records(&self, kind: RecordType) -> Result<Vec<RData>, ProtoError> {
        let wanted = |data: &&NameData| kind == RecordType::ANY || data.kind() == kind;
        let records: Result<_, DecodeError> = self.data.iter().filter(wanted).map(NameData::record).collect();
        Ok(records?)
    }
}

// === impl Names ===

impl Names {
    /// Returns the number of names, those of addresses included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there is no name.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks up the name of a question that ends at `end`.
    pub(crate) fn get(&self, message: &[u8], end: usize) -> Option<&NameEntry> {
        if self.is_empty() {
            return None;
        }
        let name = message.get(HEADER..end.checked_sub(4)?)?;
        let mut key = [0; MOST_NAME];
        let key = key.get_mut(..name.len())?;
        key.copy_from_slice(name);
        // Lengths are below the letters.
        key.make_ascii_lowercase();
        self.0.get(&*key)
    }
}

// === impl NamesBuilder ===

impl NamesBuilder {
    /// Adds addresses to a name, and the name to those of each address. The lowest TTL of a name holds.
    ///
    /// # Errors
    /// The text is no name.
    pub fn host(&mut self, name: &str, ttl: u32, addresses: &[IpAddr]) -> Result<&mut Self, NameError> {
        let key = key(name)?;
        // A name without an address exists, too: it has no data.
        self.add(&key, ttl, None);
        for &address in addresses {
            let data = match address {
                IpAddr::V4(address) => NameData::A(address),
                IpAddr::V6(address) => NameData::Aaaa(address),
            };
            self.add(&key, ttl, Some(data));
            self.add(&reverse(address)?, ttl, Some(NameData::Ptr(Arc::clone(&key))));
        }
        Ok(self)
    }

    /// Adds the places of a service to a name, as in `_http._tcp.web.mesh`.
    ///
    /// # Errors
    /// The name, or the name of a host, is none.
    pub fn service(&mut self, name: &str, ttl: u32, places: &[SrvTarget]) -> Result<&mut Self, NameError> {
        let key_of_service = key(name)?;
        self.add(&key_of_service, ttl, None);
        for SrvTarget { priority, weight, port, target } in places {
            let place = SrvData { priority: *priority, weight: *weight, port: *port, target: key(target)? };
            self.add(&key_of_service, ttl, Some(NameData::Srv(Box::new(place))));
        }
        Ok(self)
    }

    /// Makes the table.
    pub fn build(self) -> Names {
        let entry =
            |(key, (ttl, data)): (Key, (u32, Vec<NameData>))| (key, NameEntry { ttl, data: data.into() });
        Names(self.0.into_iter().map(entry).collect())
    }

    fn add(&mut self, key: &Key, ttl: u32, data: Option<NameData>) {
        let (lowest, all) = self.0.entry(Arc::clone(key)).or_insert((ttl, Vec::new()));
        *lowest = ttl.min(*lowest);
        if let Some(data) = data.filter(|data| !all.contains(data)) {
            all.push(data);
        }
    }
}

/// Reads a name: labels of letters, digits, '-' and '_', with or without a dot at the end.
fn key(text: &str) -> Result<Key, NameError> {
    let error = |why| NameError { name: text.to_owned(), why };
    let name = text.strip_suffix('.').unwrap_or(text);
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| usize::from(*length) <= MOST_LABEL);
        wire.push(length.ok_or_else(|| error("a part between dots is longer than 63 bytes"))?);
        if label.is_empty() {
            return Err(error("a part between dots is empty"));
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Err(error("only letters, digits, '-' and '_' are allowed between dots"));
        }
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.push(0);
    if wire.len() > MOST_NAME {
        return Err(error("it is longer than 253 characters"));
    }
    Ok(wire.into())
}

/// Returns the name of an address: `2.0.0.240.in-addr.arpa`.
fn reverse(address: IpAddr) -> Result<Key, NameError> {
    let mut name = String::new();
    let end = match address {
        IpAddr::V4(address) => {
            for byte in address.octets().iter().rev() {
                // Writing to a String does not fail.
                let _ = write!(name, "{byte}.");
            }
            "in-addr.arpa"
        }
        IpAddr::V6(address) => {
            for byte in address.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", byte & 0xf, byte >> 4);
            }
            "ip6.arpa"
        }
    };
    key(&(name + end))
}

fn decoded(key: &[u8]) -> Result<Name, DecodeError> {
    Name::read(&mut BinDecoder::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_labels_of_legal_bytes() {
        for good in ["web", "web.mesh", "web.mesh.", "_http._tcp.web-1.mesh", "1.2", "WEB.mesh"] {
            assert!(key(good).is_ok(), "{good}");
        }
        assert_eq!(&*key("Web.mesh.").unwrap(), b"\x03web\x04mesh\x00");
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert!(key(&longest).is_ok());
        for wrong in
            ["", ".", "..", "a..b", ".a", "a b", "a/b", "ä", "a\0b", &"a".repeat(64), &(longest + "a")]
        {
            let error = key(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("\"{wrong}\" is no DNS name: ")), "{error}");
        }
        for byte in 0..=u8::MAX {
            let name = format!("a{}b", char::from(byte));
            let legal = byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            assert_eq!(key(&name).is_ok(), legal, "{byte}");
        }
    }

    #[test]
    fn an_address_has_the_names_of_its_hosts() {
        let mut names = NamesBuilder::default();
        let address = "240.0.0.2".parse().unwrap();
        names.host("web.mesh", 30, &[address, "fd00:fd00::2".parse().unwrap()]).unwrap();
        names.host("other.mesh", 10, &[address, address]).unwrap();
        names.host("nothing.mesh", 30, &[]).unwrap();
        let names = names.build();
        assert_eq!(names.len(), 5);
        let entry = &names.0[&key("2.0.0.240.in-addr.arpa").unwrap()];
        let name = |name| NameData::Ptr(key(name).unwrap());
        assert_eq!(*entry.data, [name("web.mesh"), name("other.mesh")]);
        assert_eq!(entry.ttl, 10, "the lowest");
        let six = format!("2.{}0.0.d.f.0.0.d.f.ip6.arpa", "0.".repeat(23));
        assert_eq!(*names.0[&key(&six).unwrap()].data, [name("web.mesh")]);
        assert!(names.0[&key("nothing.mesh").unwrap()].data.is_empty());
    }
}
