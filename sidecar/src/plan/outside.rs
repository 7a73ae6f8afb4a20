// SPDX-License-Identifier: Apache-2.0
//! Destinations outside of the mesh that this pod may call although passthrough is closed, by MeshPassthrough. Pure.
//!
//! | a connection is let out by | of several |
//! |---|---|
//! | the address that it goes to | the longest range; then a match with a port |
//! | else the name that it asks for, by SNI of TLS or Host of HTTP | the exact name, then the longest `*.`; then a match with a port |
//!
//! An address costs a look-up for each length that a range has, and a name one for each of its dots, however many matches
//! there are.

use crate::net::addrs::Family;
use culvert_mesh::kinds::mesh_passthrough::Domain;
use culvert_mesh::model::network::{Network, first_bits};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A protocol in which a client says the server's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// TLS: the server name of the ClientHello.
    Tls,
    /// HTTP/1: the host of the request.
    Http,
}

/// The protocols whose names can let a connection to some port out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// True if a server name of TLS can.
    pub tls: bool,
    /// True if a host of HTTP can.
    pub http: bool,
}

impl Asks {
    /// Returns true if any name can.
    pub fn any(self) -> bool {
        self.tls || self.http
    }
}

/// The destinations of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Addresses, with any bytes.
    Network(Network),
    /// Servers by the name that the client says in this protocol, at any address.
    Name(Says, Domain),
}

/// A match of a MeshPassthrough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its destinations.
    pub place: Place,
    /// Their port; `None` = every port.
    pub port: Option<u16>,
    /// The protocol, as the document spells it.
    pub protocol: &'static str,
    /// Name of the policy that has it.
    pub policy: Arc<str>,
    /// Name of the cluster of its connections.
    pub cluster: Arc<str>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.protocol)?;
        match &self.place {
            Place::Network(network) => network.fmt(f)?,
            Place::Name(_, domain) => domain.fmt(f)?,
        }
        match self.port {
            Some(port) => write!(f, " port {port}"),
            None => f.write_str(" every port"),
        }
    }
}

/// The matches that are in effect for a pod. Without any it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    exits: Vec<Arc<Exit>>,
    /// By family.
    networks: [Networks; 2],
    tls: Names,
    http: Names,
}

/// Ranges by their length, the longest first, and by their first address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Networks(BTreeMap<Reverse<u8>, HashMap<IpAddr, Ports>>);

/// Matches by the names of one protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    exact: HashMap<String, Ports>,
    /// By the name that they are below.
    below: HashMap<String, Ports>,
    /// The ports of all of them; `None` stands for every port.
    ports: BTreeSet<Option<u16>>,
}

/// Matches of the same destination by their port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ports {
    every: Option<Arc<Exit>>,
    one: BTreeMap<u16, Arc<Exit>>,
}

// === impl Outside ===

impl Outside {
    /// Adds a match, unless an earlier one has the same destination and port. Returns true if it was added.
    pub fn add(&mut self, exit: Exit) -> bool {
        let exit = Arc::new(exit);
        let ports = match &exit.place {
            Place::Network(network) => {
                let lengths = &mut self.networks[Family::of(network.address()) as usize].0;
                lengths.entry(Reverse(network.length())).or_default().entry(network.address()).or_default()
            }
            Place::Name(says, domain) => {
                let names = match says {
                    Says::Tls => &mut self.tls,
                    Says::Http => &mut self.http,
                };
                names.ports.insert(exit.port);
                let all = if domain.below { &mut names.below } else { &mut names.exact };
                all.entry(domain.name.clone()).or_default()
            }
        };
        let added = ports.add(&exit);
        if added {
            self.exits.push(exit);
        }
        added
    }

    /// Returns all matches in the order in which they were added.
    pub fn exits(&self) -> &[Arc<Exit>] {
        &self.exits
    }

    /// Returns the match that lets connections to an address out, with any bytes.
    pub fn by_address(&self, to: SocketAddr) -> Option<&Exit> {
        let Networks(lengths) = &self.networks[Family::of(to.ip()) as usize];
        lengths.iter().find_map(|(Reverse(length), ranges)| {
            ranges.get(&first_bits(to.ip(), *length)).and_then(|ports| ports.at(to.port()))
        })
    }

    /// Returns the protocols whose names can let a connection to this port out.
    pub fn asks(&self, port: u16) -> Asks {
        let has = |names: &Names| names.ports.contains(&None) || names.ports.contains(&Some(port));
        Asks { tls: has(&self.tls), http: has(&self.http) }
    }

    /// Returns the match that lets connections to this port out whose client says this name, in lower case.
    pub fn by_name(&self, says: Says, name: &str, port: u16) -> Option<&Exit> {
        let names = self.names(says);
        let below = parents(name).filter_map(|parent| names.below.get(parent));
        names.exact.get(name).into_iter().chain(below).find_map(|ports| ports.at(port))
    }

    /// Returns true if one match lets out every connection that this one does.
    pub fn covers(&self, exit: &Exit) -> bool {
        match &exit.place {
            Place::Network(network) => {
                let Networks(lengths) = &self.networks[Family::of(network.address()) as usize];
                let mut wider = lengths.iter().filter(|(Reverse(length), _)| *length <= network.length());
                wider.any(|(Reverse(length), ranges)| {
                    let range = ranges.get(&first_bits(network.address(), *length));
                    range.is_some_and(|ports| ports.cover(exit.port))
                })
            }
            Place::Name(says, Domain { name, below }) => {
                let names = self.names(*says);
                let alike = if *below { &names.below } else { &names.exact };
                let same = alike.get(name);
                let wider = parents(name).filter_map(|parent| names.below.get(parent));
                same.into_iter().chain(wider).any(|ports| ports.cover(exit.port))
            }
        }
    }

    fn names(&self, says: Says) -> &Names {
        match says {
            Says::Tls => &self.tls,
            Says::Http => &self.http,
        }
    }
}

/// Returns `b.c` and `c` of `a.b.c`: the names that it is below.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, parent)| parent)).skip(1)
}

impl Ports {
    fn add(&mut self, exit: &Arc<Exit>) -> bool {
        let free = match exit.port {
            Some(port) => !self.one.contains_key(&port),
            None => self.every.is_none(),
        };
        if free {
            match exit.port {
                Some(port) => _ = self.one.insert(port, Arc::clone(exit)),
                None => self.every = Some(Arc::clone(exit)),
            }
        }
        free
    }

    fn at(&self, port: u16) -> Option<&Exit> {
        self.one.get(&port).or(self.every.as_ref()).map(|exit| &**exit)
    }

    fn cover(&self, port: Option<u16>) -> bool {
        self.every.is_some() || port.is_some_and(|port| self.one.contains_key(&port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Matches as `tcp 10.0.0.0/8 80`, `tls *.a.b *`; the cluster has the same name.
    fn outside(matches: &[&str]) -> Outside {
        let mut outside = Outside::default();
        for text in matches {
            outside.add(exit(text));
        }
        outside
    }

    fn exit(text: &str) -> Exit {
        let [protocol, value, port] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
        let ip = || value.parse().ok().map(Network::host);
        let (name, below) = value.strip_prefix("*.").map_or((value, false), |name| (name, true));
        let domain = Domain { name: name.into(), below };
        let (protocol, says) = match protocol {
            "tls" => ("tls", Says::Tls),
            "http" => ("http", Says::Http),
            _ => ("tcp", Says::Tls),
        };
        let place = ip().or_else(|| Network::parse(value)).map_or(Place::Name(says, domain), Place::Network);
        Exit { place, port: port.parse().ok(), protocol, policy: "p".into(), cluster: text.into() }
    }

    const MATCHES: [&str; 20] = [
        "tcp 0.0.0.0/0 25",
        "tcp 10.0.0.0/8 *",
        "tcp 10.0.0.0/8 80",
        "tcp 10.1.0.0/16 443",
        "tcp 10.1.2.0/24 *",
        "tcp 10.1.2.3 80",
        "tcp 10.1.2.3 *",
        "tcp fd00::/8 80",
        "tcp fd00::1 *",
        "tls example.com 443",
        "tls *.example.com 443",
        "tls *.example.com *",
        "tls *.b.example.com 8443",
        "tls *.com 993",
        "http example.com 80",
        "http example.org *",
        "http *.example.org 8080",
        "http a.example.org 8080",
        "tls 443 443",
        "tls only.test 70",
    ];

    #[test]
    fn the_most_specific_match_decides() {
        let outside = outside(&MATCHES);
        for (to, expected) in [
            ("10.9.9.9:81", "tcp 10.0.0.0/8 *"),
            ("10.9.9.9:80", "tcp 10.0.0.0/8 80"),
            ("10.1.9.9:443", "tcp 10.1.0.0/16 443"),
            // The longer range has no match for the port.
            ("10.1.9.9:80", "tcp 10.0.0.0/8 80"),
            ("10.1.9.9:81", "tcp 10.0.0.0/8 *"),
            // A longer range counts for more than a port.
            ("10.1.2.9:443", "tcp 10.1.2.0/24 *"),
            ("10.1.2.3:80", "tcp 10.1.2.3 80"),
            ("10.1.2.3:443", "tcp 10.1.2.3 *"),
            ("10.1.2.3:25", "tcp 10.1.2.3 *"),
            ("192.0.2.1:25", "tcp 0.0.0.0/0 25"),
            ("192.0.2.1:80", ""),
            ("11.0.0.0:80", ""),
            ("[fd00::2]:80", "tcp fd00::/8 80"),
            ("[fd00::2]:81", ""),
            ("[fd00::1]:81", "tcp fd00::1 *"),
            ("[fe00::]:80", ""),
            // IPv4's widest range is none of IPv6.
            ("[2001:db8::1]:25", ""),
            ("255.255.255.255:65535", ""),
        ] {
            let found = outside.by_address(to.parse().unwrap()).map_or("", |exit| &exit.cluster);
            assert_eq!(found, expected, "{to}");
        }
        use Says::{Http, Tls};
        for (says, name, port, expected) in [
            (Tls, "example.com", 443, "tls example.com 443"),
            // The name itself is not below it.
            (Tls, "example.com", 444, ""),
            (Tls, "example.com", 993, "tls *.com 993"),
            (Tls, "a.example.com", 443, "tls *.example.com 443"),
            (Tls, "a.example.com", 444, "tls *.example.com *"),
            (Tls, "a.b.example.com", 8443, "tls *.b.example.com 8443"),
            (Tls, "a.b.example.com", 443, "tls *.example.com 443"),
            (Tls, "c.a.b.example.com", 8443, "tls *.b.example.com 8443"),
            (Tls, "b.example.com", 8443, "tls *.example.com *"),
            (Tls, "badexample.com", 443, ""),
            (Tls, "example.com.evil.test", 443, ""),
            (Tls, "com", 993, ""),
            (Tls, "", 993, ""),
            (Tls, ".com", 993, "tls *.com 993"),
            (Tls, "example.org", 80, ""),
            (Http, "example.com", 80, "http example.com 80"),
            (Http, "example.com", 443, ""),
            (Http, "example.org", 9, "http example.org *"),
            (Http, "a.example.org", 8080, "http a.example.org 8080"),
            (Http, "b.example.org", 8080, "http *.example.org 8080"),
            (Http, "a.example.org", 80, ""),
            (Http, "10.1.2.3", 80, ""),
        ] {
            let found = outside.by_name(says, name, port).map_or("", |exit| &exit.cluster);
            assert_eq!(found, expected, "{says:?} {name} {port}");
        }
    }

    #[test]
    fn only_ports_of_a_name_ask_for_one() {
        let with = outside(&["tcp 10.0.0.0/8 *", "tls a.b 443", "http *.c 80"]);
        for (port, tls, http) in [(443, true, false), (80, false, true), (81, false, false)] {
            assert_eq!(with.asks(port), Asks { tls, http }, "{port}");
        }
        assert_eq!(outside(&["tls a.b *", "http c 80"]).asks(80), Asks { tls: true, http: true });
        assert!(!outside(&["tcp ::/0 *", "tcp 0.0.0.0/0 *"]).asks(80).any());
        assert!(!Outside::default().asks(80).any());
    }

    #[test]
    fn of_two_for_the_same_the_first_is_kept() {
        let mut outside = outside(&["tcp 10.0.0.1 80", "tls a.b 443", "tcp 10.0.0.1 *"]);
        for (text, added) in [
            ("http 10.0.0.1 80", false),
            ("tcp 10.0.0.1 81", true),
            ("tls a.b 443", false),
            ("tls a.b *", true),
            ("http a.b 443", true),
            ("tls *.a.b 443", true),
            ("tcp 10.0.0.1 *", false),
        ] {
            assert_eq!(outside.add(exit(text)), added, "{text}");
        }
        let shown: Vec<_> = outside.exits().iter().map(ToString::to_string).collect();
        assert_eq!(shown[..3], ["tcp 10.0.0.1 port 80", "tls a.b port 443", "tcp 10.0.0.1 every port"]);
        assert_eq!(shown.len(), 7);
        assert_eq!(exit("tcp fd00::1/8 80").to_string(), "tcp fd00::/8 port 80");
        assert_eq!(exit("http *.a.b 80").to_string(), "http *.a.b port 80");
    }

    #[test]
    fn a_wider_match_covers_a_narrower_one() {
        let outside =
            outside(&["tcp 10.0.0.0/8 *", "tcp 11.0.0.0/8 80", "tls *.a.b *", "tls c.d 443", "http *.e 80"]);
        for (text, covered) in [
            ("tcp 10.0.0.0/8 *", true),
            ("tcp 10.0.0.0/8 80", true),
            ("tcp 10.1.2.3 80", true),
            ("tcp 10.0.0.0/7 *", false),
            ("tcp 11.1.0.0/16 80", true),
            ("tcp 11.1.0.0/16 *", false),
            ("tcp 11.1.0.0/16 81", false),
            ("tcp ::/0 80", false),
            ("tls x.a.b 1", true),
            ("tls a.b 1", false),
            ("tls *.x.a.b 1", true),
            ("tls *.b 1", false),
            ("tls *.a.b *", true),
            ("tls c.d 443", true),
            ("tls c.d *", false),
            ("tls *.c.d 443", false),
            ("http x.a.b 80", false),
            ("http x.e 80", true),
            ("http x.e 81", false),
        ] {
            assert_eq!(outside.covers(&exit(text)), covered, "{text}");
        }
    }

    proptest! {
        /// The tables find what a search through all matches finds.
        #[test]
        fn the_tables_agree_with_a_search(bits: u32, port in prop::sample::select(vec![25_u16, 80, 81, 443])) {
            let outside = outside(&MATCHES);
            let ip = IpAddr::from(std::net::Ipv4Addr::from_bits((bits & 0x0001_0203) | 0x0a00_0000));
            let fits = |exit: &&Arc<Exit>| match &exit.place {
                Place::Network(network) if network.address().is_ipv4() => {
                    first_bits(ip, network.length()) == network.address() && exit.port.is_none_or(|one| one == port)
                }
                _ => false,
            };
            let length = |exit: &&Arc<Exit>| match &exit.place {
                Place::Network(network) => (network.length(), exit.port.is_some()),
                Place::Name(..) => (0, false),
            };
            let searched = outside.exits().iter().filter(fits).max_by_key(length);
            let found = outside.by_address(SocketAddr::new(ip, port));
            prop_assert_eq!(found, searched.map(|exit| &**exit));
        }
    }
}
