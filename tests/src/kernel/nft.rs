//! The nftables rules of a namespace, read by netlink.

use std::convert::Infallible;
use std::fmt;

use anyhow::{Context, Result};
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlasIterator};
use nix::sys::socket::SockProtocol;

use crate::kernel::netlink::Netlink;

/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's type.
const NFTABLES: u16 = 10 << 8;
/// Family, version, resource: in front of the attributes.
const HEADER: usize = 4;

/// Every table, chain, rule and set, in the kernel's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Tables as `inet culvert`.
    pub tables: Vec<String>,
    /// All chains.
    pub chains: Vec<Object>,
    /// All rules.
    pub rules: Vec<Object>,
    /// All sets.
    pub sets: Vec<Object>,
}

/// A chain, a rule or a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The table it is in, as `inet culvert`.
    pub table: String,
    /// Name of the chain or set; of a rule's chain.
    pub name: String,
    /// The kernel's number for it: another one after it was replaced.
    pub handle: u64,
    /// Its content as the kernel encodes it, without the numbers that change when it is replaced.
    pub body: Vec<u8>,
}

/// The kinds of objects to dump, with the numbers of linux/netfilter/nf_tables.h.
struct Kind {
    get: u16,
    table: u16,
    name: u16,
    handle: u16,
    /// Attributes that say nothing about what the object does: counts of users, positions, counters.
    volatile: &'static [u16],
}

/// `NFTA_RULE_EXPRESSIONS`: what a rule does, one nested attribute a step.
const EXPRESSIONS: u16 = 4;
/// `NFTA_EXPR_NAME`, in a step.
const EXPRESSION_NAME: u16 = 1;

const CHAINS: Kind = Kind { get: 4, table: 1, name: 3, handle: 2, volatile: &[2, 6, 8] };
const RULES: Kind = Kind { get: 7, table: 1, name: 2, handle: 3, volatile: &[3, 6] };
const SETS: Kind = Kind { get: 10, table: 1, name: 2, handle: 16, volatile: &[10, 16] };

impl Ruleset {
    /// Of the namespace in which the calling thread is.
    pub(crate) fn dump() -> Result<Self> {
        let mut netlink = Netlink::open(SockProtocol::NetlinkNetFilter)?;
        let tables = netlink.dump(Message::get(1)).context("cannot list nftables tables")?;
        let tables = tables.iter().map(|m| table_name(m, 1)).collect();
        let mut objects = |kind: Kind| -> Result<Vec<Object>> {
            let found = netlink.dump(Message::get(kind.get)).context("cannot list nftables objects")?;
            Ok(found.iter().map(|m| Object::read(m, &kind)).collect())
        };
        Ok(Self { tables, chains: objects(CHAINS)?, rules: objects(RULES)?, sets: objects(SETS)? })
    }

    /// Nothing is there, not even a table.
    pub fn is_empty(&self) -> bool {
        let Self { tables, chains, rules, sets } = self;
        tables.is_empty() && chains.is_empty() && rules.is_empty() && sets.is_empty()
    }

    /// Compares the content alone, not the time at which it was written.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let said = |objects: &[Object]| -> Vec<_> {
            objects.iter().map(|o| (o.table.clone(), o.name.clone(), o.body.clone())).collect()
        };
        self.tables == other.tables
            && said(&self.chains) == said(&other.chains)
            && said(&self.rules) == said(&other.rules)
            && said(&self.sets) == said(&other.sets)
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tables, chains, rules, sets } = self;
        write!(f, "{} chains, {} rules, {} sets in tables {tables:?}", chains.len(), rules.len(), sets.len())
    }
}

impl Object {
    fn read(message: &Message, kind: &Kind) -> Self {
        let mut body = Vec::new();
        for (number, value) in message.attributes() {
            if kind.volatile.contains(&number) {
                continue;
            }
            body.extend_from_slice(&number.to_be_bytes());
            if kind.get == RULES.get && number == EXPRESSIONS {
                body.extend(without_counts(&value));
            } else {
                body.extend(value);
            }
        }
        Self {
            table: table_name(message, kind.table),
            name: message.attribute(kind.name).map(text).unwrap_or_default(),
            handle: message
                .attribute(kind.handle)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u64::from_be_bytes)
                .unwrap_or_default(),
            body,
        }
    }
}

/// A rule's expressions, of its counters the name only: iptables-nft gives each rule one, and a pod's own first packets
/// (IPv6 looks for its neighbours) are counted whenever they happen to be sent.
fn without_counts(expressions: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    for expression in NlasIterator::new(expressions).map_while(Result::ok) {
        let step = expression.value();
        let mut parts = NlasIterator::new(step).map_while(Result::ok);
        let name = parts.find(|part| part.kind() == EXPRESSION_NAME);
        let counter = name.is_some_and(|name| name.value() == b"counter\0");
        kept.extend_from_slice(if counter { b"counter\0" } else { step });
    }
    kept
}

fn table_name(message: &Message, attribute: u16) -> String {
    let family = match message.body.first() {
        Some(1) => "inet",
        Some(2) => "ip",
        Some(10) => "ip6",
        Some(5) => "netdev",
        Some(7) => "bridge",
        _ => "?",
    };
    format!("{family} {}", message.attribute(attribute).map(text).unwrap_or_default())
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// A netfilter message, its attributes unread.
#[derive(Debug, Clone)]
struct Message {
    kind: u16,
    body: Vec<u8>,
}

impl Message {
    fn get(kind: u16) -> Self {
        Self { kind: NFTABLES | kind, body: vec![0; HEADER] }
    }

    fn attributes(&self) -> impl Iterator<Item = (u16, Vec<u8>)> {
        let attributes = self.body.get(HEADER..).unwrap_or_default();
        NlasIterator::new(attributes).map_while(Result::ok).map(|nla| (nla.kind(), nla.value().to_vec()))
    }

    fn attribute(&self, number: u16) -> Option<Vec<u8>> {
        self.attributes().find_map(|(found, value)| (found == number).then_some(value))
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self { kind: header.message_type, body: payload.to_vec() })
    }
}
