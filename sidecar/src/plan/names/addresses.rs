// SPDX-License-Identifier: Apache-2.0
//! Addresses for keys: those of documents, those that keys have already, and for all others a digest of the key.
//!
//! Keys are the services or names that an address stands for. The same keys get the same addresses in every pod and after
//! every start: a collision is resolved in their order.

use crate::net::addrs::{Family, is_link_local, is_loopback};
use crate::plan::names::error::AddressError;
use crate::plan::names::ledger::{FIRST_V4, FIRST_V6, Ledger, in_ranges};
use ring::digest::{SHA256, digest};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

/// Candidates that are tried for a key and family: more than three are needed only where routes of the pod cover most of a range.
const MOST_TRIES: u8 = 128;

/// Keys, each with the addresses that documents give it. A family without one gets an address of the range.
pub(crate) type Wanted = BTreeMap<Arc<str>, Vec<IpAddr>>;

/// Addresses of a pod that no key may get.
#[derive(Clone, Copy)]
pub(crate) struct Forbidden<'f> {
    /// True for an address of the pod itself: even a document may not give it to a key.
    pub(crate) own: &'f dyn Fn(IpAddr) -> bool,
    /// True for an address of the ranges that the pod reaches another way, as by a route other than the default.
    pub(crate) taken: &'f dyn Fn(IpAddr) -> bool,
}

impl Forbidden<'_> {
    /// Forbids nothing.
    #[cfg(test)]
    pub(crate) const NONE: Forbidden<'static> = Forbidden { own: &|_| false, taken: &|_| false };
}

/// Gives each key its addresses: IPv4 before IPv6; of a family none where no address of its range is free. Returns the ledger
/// that has them, and from which the next time begins.
///
/// Those of documents win, even over a key that has the same by its digest: in Kubernetes an address passes to another Service
/// without this process being asked. All other addresses stay with their keys, as `before` knows them.
///
/// # Errors
/// Every address of a document that no key can have.
pub(crate) fn assign(
    wanted: &Wanted,
    before: &Ledger,
    forbidden: Forbidden<'_>,
    now: Instant,
) -> Result<Ledger, Vec<AddressError>> {
    let mut owners = fixed(wanted, forbidden.own)?;
    owners.reserve(2 * wanted.len());
    let mut had: HashMap<&str, Vec<IpAddr>> = HashMap::new();
    for entry in before.entries(now) {
        // Entries in use come first, and after them those that went last, so the first address of a family is the one to keep.
        had.entry(&*entry.key).or_default().extend(entry.addresses.iter().copied());
        for address in entry.addresses.iter().filter(|address| in_ranges(**address)) {
            owners.entry(*address).or_insert(&entry.key);
        }
    }
    let mut used = Vec::with_capacity(wanted.len());
    for (key, fixed) in wanted {
        let mut addresses = Vec::with_capacity(2);
        for family in Family::ALL {
            let mut given =
                fixed.iter().map(IpAddr::to_canonical).filter(|ip| Family::of(*ip) == family).peekable();
            if given.peek().is_some() {
                addresses.extend(given);
                continue;
            }
            let is_free = |address: &IpAddr| {
                owners.get(address).is_none_or(|owner| *owner == &**key)
                    && !(forbidden.taken)(*address)
                    && !(forbidden.own)(*address)
            };
            let kept = had.get(&**key).into_iter().flatten().copied();
            let mut kept = kept.filter(|ip| Family::of(*ip) == family && in_ranges(*ip));
            let chosen = kept.find(is_free).or_else(|| candidates(key, family).find(is_free));
            if let Some(address) = chosen {
                owners.insert(address, key);
                addresses.push(address);
            }
        }
        addresses.dedup();
        used.push((Arc::clone(key), addresses.into()));
    }
    drop(owners);
    Ok(before.next(used, now))
}

/// Returns the keys of all addresses of documents.
fn fixed<'w>(
    wanted: &'w Wanted,
    own: &dyn Fn(IpAddr) -> bool,
) -> Result<HashMap<IpAddr, &'w str>, Vec<AddressError>> {
    let mut owners: HashMap<IpAddr, &Arc<str>> = HashMap::new();
    let mut errors = Vec::new();
    for (key, fixed) in wanted {
        for address in fixed.iter().map(IpAddr::to_canonical) {
            if let Some(why) = unusable(address, own) {
                errors.push(AddressError::Forbidden { address, key: Arc::clone(key), why });
                continue;
            }
            match owners.get(&address) {
                Some(first) if *first != key => errors.push(AddressError::Twice {
                    address,
                    first: Arc::clone(first),
                    second: Arc::clone(key),
                }),
                _ => _ = owners.insert(address, key),
            }
        }
    }
    match errors.is_empty() {
        true => Ok(owners.into_iter().map(|(address, key)| (address, &**key)).collect()),
        false => Err(errors),
    }
}

/// Returns the reason why no service can have an address.
fn unusable(address: IpAddr, own: &dyn Fn(IpAddr) -> bool) -> Option<&'static str> {
    let is_v4_link_local = matches!(address, IpAddr::V4(ip) if ip.is_link_local());
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if is_loopback(address) => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        _ if is_v4_link_local || is_link_local(address) => Some("a link-local address"),
        _ if own(address) => Some("an address of this pod"),
        _ => None,
    }
}

/// Returns the addresses of the range that a key may have, the best first.
fn candidates(key: &str, family: Family) -> impl Iterator<Item = IpAddr> {
    (0..MOST_TRIES).map(move |nth| candidate(key, family, nth)).filter(|address| is_plain(*address))
}

/// The `nth` candidate of a key: SHA-256 of the key, a zero byte and `nth`, of which IPv4 takes the first four bytes and IPv6
/// the last eight.
fn candidate(key: &str, family: Family, nth: u8) -> IpAddr {
    let mut text = Vec::with_capacity(key.len() + 2);
    text.extend_from_slice(key.as_bytes());
    text.extend_from_slice(&[0, nth]);
    let digest = digest(&SHA256, &text);
    let bytes = digest.as_ref();
    match family {
        Family::V4 => {
            let bits = bytes.iter().take(4).fold(0, |bits: u32, byte| bits << 8 | u32::from(*byte));
            Ipv4Addr::from_bits(FIRST_V4.to_bits() | bits >> 4).into()
        }
        Family::V6 => {
            let bits = bytes.iter().skip(24).fold(0, |bits: u64, byte| bits << 8 | u64::from(*byte));
            Ipv6Addr::from_bits(FIRST_V6.to_bits() | u128::from(bits)).into()
        }
    }
}

/// Returns false for one that looks like that of a network or a broadcast, which some programs refuse, or that means something
/// elsewhere: 240.0.0.1 stands for names that are not looked up.
fn is_plain(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(address.octets(), [_, _, _, 0 | 255] | [240, 0, 0, 1]),
        // The first is the routers' anycast address, and the last 128 are reserved anycast addresses (RFC 2526).
        IpAddr::V6(address) => !matches!(
            address.segments(),
            [.., 0, 0, 0, 0..=1] | [.., 0xfdff, 0xffff, 0xffff, 0xff80..=0xffff]
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::names::ledger::{KEPT, MOST_ENTRIES};
    use std::cell::Cell;
    use std::collections::HashSet;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn wanted(keys: &[(&str, &[&str])]) -> Wanted {
        keys.iter()
            .map(|(key, fixed)| (Arc::from(*key), fixed.iter().map(|text| ip(text)).collect()))
            .collect()
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Assigned {
        addresses: BTreeMap<Arc<str>, Arc<[IpAddr]>>,
        ledger: Ledger,
    }

    fn assigned(wanted: &Wanted, before: &Ledger, now: Instant) -> Assigned {
        without(wanted, before, Forbidden::NONE, now)
    }

    fn without(wanted: &Wanted, before: &Ledger, forbidden: Forbidden<'_>, now: Instant) -> Assigned {
        let ledger = assign(wanted, before, forbidden, now).unwrap();
        let of = |key: &Arc<str>| (Arc::clone(key), Arc::clone(ledger.addresses(key).unwrap()));
        Assigned { addresses: wanted.keys().map(of).collect(), ledger }
    }

    fn many(number: usize) -> Wanted {
        (0..number).map(|nth| (format!("service-{nth}.mesh").into(), Vec::new())).collect()
    }

    /// Two keys whose first candidates in IPv4 are the same, the first one before the other.
    fn colliding() -> (Arc<str>, Arc<str>) {
        let mut seen: HashMap<IpAddr, Arc<str>> = HashMap::new();
        for nth in 0.. {
            let key: Arc<str> = format!("c-{nth:06}").into();
            let first = candidates(&key, Family::V4).next().unwrap();
            if let Some(other) = seen.insert(first, Arc::clone(&key)) {
                return (other, key);
            }
        }
        unreachable!()
    }

    fn both(all: &Assigned, key: &str) -> [IpAddr; 2] {
        all.addresses[key][..].try_into().unwrap()
    }

    #[test]
    fn a_key_has_an_address_of_each_range_that_is_the_same_for_ever() {
        let all = assigned(
            &wanted(&[("web.mesh", &[]), ("backend.mesh", &[])]),
            &Ledger::default(),
            Instant::now(),
        );
        for (key, addresses) in &all.addresses {
            assert!(addresses.len() == 2 && addresses.iter().copied().all(in_ranges), "{key} {addresses:?}");
            assert_eq!(Family::of(addresses[0]), Family::V4);
        }
        // SHA-256 of "web.mesh\0\0", as any other program counts it.
        let digest = digest(&SHA256, b"web.mesh\0\0");
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let four = 0xf000_0000 | u32::from_str_radix(&hex[..8], 16).unwrap() >> 4;
        let six = u128::from(u64::from_str_radix(&hex[48..], 16).unwrap()) | 0xfd00_fd00_u128 << 96;
        let expected = [IpAddr::V4(Ipv4Addr::from_bits(four)), IpAddr::V6(Ipv6Addr::from_bits(six))];
        assert_eq!(both(&all, "web.mesh"), expected);
    }

    #[test]
    fn addresses_that_look_like_others_are_given_to_no_key() {
        for (text, plain) in [
            ("240.0.0.0", false),
            ("240.0.0.1", false),
            ("240.0.0.2", true),
            ("241.0.0.1", true),
            ("250.1.2.0", false),
            ("250.1.2.255", false),
            ("255.255.255.255", false),
            ("255.255.255.254", true),
            ("fd00:fd00::", false),
            ("fd00:fd00::1", false),
            ("fd00:fd00::2", true),
            ("fd00:fd00::1:0:0:0", true),
            ("fd00:fd00::fdff:ffff:ffff:ff7f", true),
            ("fd00:fd00::fdff:ffff:ffff:ff80", false),
            ("fd00:fd00::fdff:ffff:ffff:ffff", false),
            ("fd00:fd00::ffff:ffff:ffff:ffff", true),
        ] {
            assert_eq!(is_plain(ip(text)), plain, "{text}");
        }
    }

    #[test]
    fn a_collision_goes_to_the_first_in_the_order_of_keys_and_the_other_gets_its_next() {
        let (first, second) = colliding();
        assert!(first < second);
        let keys = wanted(&[(&second, &[]), (&first, &[])]);
        let all = assigned(&keys, &Ledger::default(), Instant::now());
        let [mine, other] = [both(&all, &first)[0], both(&all, &second)[0]];
        assert_eq!(Some(mine), candidates(&first, Family::V4).next());
        assert_eq!(Some(other), candidates(&second, Family::V4).nth(1));
        // Alone, the second one has what both would like.
        let alone = assigned(&wanted(&[(&second, &[])]), &Ledger::default(), Instant::now());
        assert_eq!(both(&alone, &second)[0], mine);
        // And while it is in use there, the first one does not take it away.
        let later = assigned(&keys, &alone.ledger, Instant::now());
        assert_eq!(both(&later, &second), both(&alone, &second));
        assert_ne!(both(&later, &first)[0], mine);
    }

    #[test]
    fn addresses_of_documents_win_over_digests() {
        let now = Instant::now();
        let before = assigned(&wanted(&[("a", &[])]), &Ledger::default(), now);
        let [four, six] = both(&before, "a");
        let texts = [four.to_string(), six.to_string()];
        let fixed = [texts[0].as_str(), texts[1].as_str()];
        // In a new process, and in one where another key has them.
        for ledger in [Ledger::default(), before.ledger] {
            let all = assigned(&wanted(&[("a", &[]), ("b", &fixed)]), &ledger, now);
            assert_eq!(both(&all, "b"), [four, six]);
            assert!(!all.addresses["a"].contains(&four) && !all.addresses["a"].contains(&six));
            assert_eq!(all.addresses["a"].len(), 2);
        }
        // A ClusterIP of one family leaves the other one to the digest, and an address twice counts once.
        let all = assigned(
            &wanted(&[("a", &["10.96.0.7", "::ffff:10.96.0.7", "10.96.0.8"])]),
            &Ledger::default(),
            now,
        );
        assert_eq!(all.addresses["a"][..], [ip("10.96.0.7"), ip("10.96.0.8"), six]);
    }

    #[test]
    fn an_address_of_documents_that_none_can_have_is_an_error_and_all_are_told() {
        let own = |address| address == ip("10.0.0.2");
        let forbidden = Forbidden { own: &own, ..Forbidden::NONE };
        let keys = wanted(&[
            ("a", &["10.96.0.7", "127.0.0.9", "::1"]),
            ("b", &["10.96.0.7", "224.0.0.1", "ff02::1", "0.0.0.0", "::"]),
            (
                "c",
                &["10.0.0.2", "255.255.255.255", "169.254.1.1", "fe80::1", "::ffff:127.0.0.1", "240.0.0.9"],
            ),
        ]);
        let errors = assign(&keys, &Ledger::default(), forbidden, Instant::now()).unwrap_err();
        let words: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "127.0.0.9 of a is a loopback address",
                "::1 of a is a loopback address",
                "10.96.0.7 is the address of a and of b",
                "224.0.0.1 of b is a multicast address",
                "ff02::1 of b is a multicast address",
                "0.0.0.0 of b is the unspecified address",
                ":: of b is the unspecified address",
                "10.0.0.2 of c is an address of this pod",
                "255.255.255.255 of c is the broadcast address",
                "169.254.1.1 of c is a link-local address",
                "fe80::1 of c is a link-local address",
                "127.0.0.1 of c is a loopback address",
            ]
        );
    }

    #[test]
    fn no_key_gets_an_address_of_the_pods_networks() {
        let now = Instant::now();
        let keys = many(500);
        // Half of the range, as where pods are of class E; then all of it.
        let upper = |address: IpAddr| matches!(address, IpAddr::V4(ip) if ip.octets()[0] >= 248);
        let forbidden = Forbidden { taken: &upper, ..Forbidden::NONE };
        let all = without(&keys, &Ledger::default(), forbidden, now);
        assert!(all.addresses.values().all(|addresses| addresses.len() == 2 && !upper(addresses[0])));
        let four = |address: IpAddr| address.is_ipv4();
        let none = without(&keys, &all.ledger, Forbidden { taken: &four, ..Forbidden::NONE }, now);
        assert!(none.addresses.values().all(|addresses| addresses.len() == 1 && addresses[0].is_ipv6()));
        // A network that came takes an address away from its key, and no other.
        let [key, other] = ["service-0.mesh", "service-1.mesh"];
        let lost = both(&all, key)[0];
        let one = |address: IpAddr| address == lost;
        let moved = without(&keys, &all.ledger, Forbidden { own: &one, ..Forbidden::NONE }, now);
        assert_ne!(both(&moved, key)[0], lost);
        assert_eq!(both(&moved, key)[1], both(&all, key)[1]);
        assert_eq!(both(&moved, other), both(&all, other));
        // It stays its own for an hour even so, and comes back to it at need.
        let (first, second) = colliding();
        let start = assigned(&wanted(&[(&first, &[])]), &Ledger::default(), now);
        let want = both(&start, &first)[0];
        let taken = |address: IpAddr| address == want;
        let away = assign(
            &wanted(&[(&first, &[])]),
            &start.ledger,
            Forbidden { taken: &taken, ..Forbidden::NONE },
            now,
        );
        let both_keys = assigned(&wanted(&[(&first, &[]), (&second, &[])]), &away.unwrap(), now);
        assert_ne!(both(&both_keys, &second)[0], want);
    }

    #[test]
    fn an_address_stays_with_its_key_for_an_hour_after_the_key_went() {
        let now = Instant::now();
        let (first, second) = colliding();
        let [one, other] = [wanted(&[(&first, &[])]), wanted(&[(&second, &[])])];
        let start = assigned(&one, &Ledger::default(), now);
        let want = both(&start, &first)[0];
        let gone = assigned(&other, &start.ledger, now);
        assert_ne!(both(&gone, &second)[0], want, "it is the first one's");
        assert_eq!((gone.ledger.addresses(&first), gone.ledger.len()), (None, 2));
        // Half an hour later the first one comes back, to its own.
        let half = now + KEPT / 2;
        let back = assigned(&wanted(&[(&first, &[]), (&second, &[])]), &gone.ledger, half);
        assert_eq!(both(&back, &first), both(&start, &first));
        assert_eq!(both(&back, &second), both(&gone, &second), "what is in use stays");
        // An hour after it went a third one may have it: here the second, in a process that never used another.
        let without = assigned(&Wanted::new(), &start.ledger, now);
        let before = assigned(&other, &without.ledger, now + KEPT - Duration::from_nanos(1));
        assert_ne!(both(&before, &second)[0], want);
        let after = assigned(&other, &without.ledger, now + KEPT);
        assert_eq!(both(&after, &second)[0], want);
        assert_eq!(after.ledger.len(), 1);
        // Looks in between do not begin the hour anew.
        let looked = assigned(&Wanted::new(), &without.ledger, half);
        assert_eq!(both(&assigned(&other, &looked.ledger, now + KEPT), &second)[0], want);
    }

    #[test]
    fn an_address_that_a_document_gave_passes_on_at_once_and_is_no_keys_by_itself() {
        let now = Instant::now();
        let start = assigned(&wanted(&[("a", &["10.96.0.7", "240.0.0.9"])]), &Ledger::default(), now);
        // Kubernetes gives the address of a Service that went to another one.
        let next = assigned(&wanted(&[("a", &[]), ("b", &["10.96.0.7"])]), &start.ledger, now);
        assert_eq!(next.addresses["b"][0], ip("10.96.0.7"));
        // What is left to the first one is of the range.
        assert_eq!(next.addresses["a"][0], ip("240.0.0.9"));
        let last = assigned(&wanted(&[("c", &["240.0.0.9"])]), &next.ledger, now);
        assert_eq!(last.addresses["c"][0], ip("240.0.0.9"));
        assert!(
            assigned(&wanted(&[("b", &[])]), &next.ledger, now).addresses["b"].iter().copied().all(in_ranges)
        );
    }

    /// Names in an order of this seed, each time through a different history, and how often a candidate was looked at.
    #[test]
    fn many_names_have_the_same_addresses_in_every_order_and_none_twice() {
        for number in [10_000, 200_000] {
            let keys = many(number);
            let looked = Cell::new(0_usize);
            let taken = |_: IpAddr| {
                looked.set(looked.get() + 1);
                false
            };
            let now = Instant::now();
            let all = without(&keys, &Ledger::default(), Forbidden { taken: &taken, ..Forbidden::NONE }, now);
            let distinct: HashSet<_> =
                all.addresses.values().flat_map(|addresses| addresses.iter()).collect();
            assert_eq!(distinct.len(), 2 * number);
            assert!(distinct.iter().all(|address| in_ranges(**address) && is_plain(**address)));
            assert_eq!(looked.get(), 2 * number, "candidates in use are passed over before");
            // The same names, as they are inserted from the other end.
            let turned: Wanted =
                keys.iter().rev().map(|(key, fixed)| (Arc::clone(key), fixed.clone())).collect();
            assert_eq!(assigned(&turned, &Ledger::default(), now).addresses, all.addresses);
        }
    }

    #[test]
    fn names_that_come_later_have_what_they_would_have_had_but_for_the_few_that_collide() {
        let (keys, now) = (many(10_000), Instant::now());
        let all = assigned(&keys, &Ledger::default(), now);
        assert_eq!(assigned(&keys, &all.ledger, now), all, "the same names again");
        let half: Wanted =
            keys.iter().step_by(2).map(|(key, fixed)| (Arc::clone(key), fixed.clone())).collect();
        let grown = assigned(&keys, &assigned(&half, &Ledger::default(), now).ledger, now);
        let other =
            grown.addresses.iter().filter(|(key, addresses)| all.addresses[*key] != **addresses).count();
        assert!(other <= 10, "{other}");
        let distinct: HashSet<_> = grown.addresses.values().flat_map(|addresses| addresses.iter()).collect();
        assert_eq!(distinct.len(), 20_000);
    }

    #[test]
    fn the_ledger_forgets_the_ones_that_went_first_and_none_that_is_in_use() {
        let now = Instant::now();
        let all = assigned(&many(MOST_ENTRIES + 10), &Ledger::default(), now);
        assert_eq!(all.ledger.len(), MOST_ENTRIES + 10);
        let few = wanted(&[("a", &[]), ("b", &[])]);
        let without = assigned(&few, &Ledger::default(), now);
        let late = assigned(&many(MOST_ENTRIES), &without.ledger, now + Duration::from_secs(1));
        assert_eq!(late.ledger.len(), MOST_ENTRIES, "all of it is in use");
        // What went later pushes out what went first.
        let first = assigned(&few, &Ledger::default(), now);
        let first = assigned(&Wanted::new(), &first.ledger, now);
        let many_now = assigned(&many(MOST_ENTRIES - 2), &first.ledger, now + Duration::from_secs(1));
        assert_eq!(many_now.ledger.len(), MOST_ENTRIES);
        let last = assigned(&wanted(&[("c", &[])]), &many_now.ledger, now + Duration::from_secs(2));
        assert_eq!(last.ledger.len(), MOST_ENTRIES);
        let owner = |ledger: &Ledger, key: &str| ledger.entries(now).any(|entry| *entry.key == *key);
        assert!(owner(&last.ledger, "c") && owner(&last.ledger, "service-0.mesh"));
        assert!(!(owner(&last.ledger, "a") && owner(&last.ledger, "b")));
    }
}
