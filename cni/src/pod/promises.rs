// SPDX-License-Identifier: Apache-2.0
//! Tests of the annotations' effect on the plan: golden files of every annotation for every engine, and properties over
//! hostile values.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{Annotations, Decision, Settings, decide_policy};
use crate::redirect::explain::{Connection, Landing, Origin, explain};
use crate::redirect::policy::{Policy, Protocol};
use crate::redirect::ruleset::Family;
use crate::redirect::{iptables, nftables, plan};

/// Every annotation, with a value that changes the rules.
const EXAMPLES: [(&str, &str); 21] = [
    ("proxy-uid", "1000600000"),
    ("redirect-inbound", "disabled"),
    ("redirect-outbound", "disabled"),
    ("inbound-port", "25006"),
    ("outbound-port", "25001"),
    ("status-port", "25020"),
    ("include-inbound-ports", "80,443,8000-8999"),
    ("include-outbound-ports", "80,443,8000-8999"),
    ("exclude-inbound-ports", "22,1-3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33"),
    ("exclude-outbound-ports", "5432,6379-6380"),
    ("exclude-inbound-cidrs", "192.0.2.1,198.51.100.0/24,2001:db8::/32"),
    ("exclude-outbound-cidrs", "192.0.2.1,198.51.100.7/24,2001:db8::/32,::/0"),
    ("exclude-outbound-ports-for-uids", "tcp:80,443:1234;udp:53:1000-1010;4000000000"),
    ("virtual-interfaces", "docker0:172.17.0.0/16,br-+:fd00::/8"),
    ("closed-ports", "refuse"),
    ("outbound-udp", "reject"),
    ("redirect-dns", "all"),
    ("ip-family", "ipv4"),
    ("ip-family", "ipv6"),
    ("drop-invalid", "enabled"),
    ("trace", "enabled"),
];

fn policy(pairs: &[(&str, &str)]) -> Option<Policy> {
    let own = pairs.iter().map(|(name, value)| (format!("culvert.dev/{name}"), (*value).to_owned()));
    let onboard = ("culvert.dev/redirect".to_owned(), "enabled".to_owned());
    let annotations: Annotations = own.chain([onboard]).collect();
    match decide_policy(&annotations, &Settings::default()).ok()?.decision {
        Decision::Redirect(policy) => Some(*policy),
        Decision::PassThrough(_) => None,
    }
}

fn for_every_engine(policy: &Policy) -> String {
    let rules = plan(policy);
    format!(
        "# nft\n{}\n# iptables-restore\n{}\n# ip6tables-restore\n{}",
        nftables::script(&rules),
        iptables::script(&rules, Family::V4),
        iptables::script(&rules, Family::V6),
    )
}

#[test]
fn golden_every_annotation_for_every_engine() {
    insta::assert_snapshot!("annotation_none", for_every_engine(&Policy::default()));
    for (name, value) in EXAMPLES {
        let of_one = policy(&[(name, value)]).expect(name);
        let suffix = if name == "ip-family" { format!("_{value}") } else { String::new() };
        insta::assert_snapshot!(format!("annotation_{name}{suffix}"), for_every_engine(&of_one));
    }
    let named = policy(&[("redirect-dns", "10.96.0.10,fd00::53"), ("dns-port", "25053")]).expect("DNS");
    insta::assert_snapshot!("annotation_redirect-dns_servers", for_every_engine(&named));
}

fn connection(uid: Option<u32>, destination: IpAddr, port: u16) -> Connection {
    let source = match destination {
        IpAddr::V4(_) => IpAddr::from([10, 0, 0, 2]),
        IpAddr::V6(_) => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]),
    };
    Connection {
        origin: uid.map_or(Origin::Peer("eth0".to_owned()), Origin::Process),
        protocol: Protocol::Tcp,
        source,
        destination,
        destination_is_own: uid.is_none(),
        destination_port: port,
        is_listened: true,
    }
}

/// Text that is close to the grammars, and text that is not.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9,;:.*/+ -]{0,40}",
        "[a-z0-9]{0,8}[:;,/-][0-9a-f:./,-]{0,24}",
        "(tcp|udp|\\*|):(80|443|\\*|1-65535|):[0-9]{1,10}(-[0-9]{1,10})?",
        "\\PC{0,30}",
        Just("; drop table; -j ACCEPT \" ' \n $(reboot)".to_owned()),
    ]
}

fn any_name() -> impl Strategy<Value = &'static str> {
    let names: Vec<&str> = super::names().map(|(name, _)| name).collect();
    proptest::sample::select(names)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// No value causes a panic, or a line in the text that is not in the plan.
    #[test]
    fn no_value_breaks_out_of_its_rule(name in any_name(), value in hostile()) {
        if let Some(policy) = policy(&[(name, &value)]) {
            let rules = plan(&policy);
            // One line for each rule, and one for the hook of each base chain.
            let wanted: usize =
                rules.chains.iter().map(|chain| chain.rules.len() + usize::from(chain.hook.is_some())).sum();
            let script = nftables::script(&rules);
            prop_assert_eq!(script.lines().filter(|line| line.starts_with("\t\t")).count(), wanted, "{}", script);
            for family in [Family::V4, Family::V6] {
                let text = iptables::script(&rules, family);
                prop_assert!(text.lines().all(|line| ["*", ":", "-A ", "-I ", "COMMIT"].iter().any(|begin| line.starts_with(begin))));
            }
        }
    }

    /// Exactly the listed ports are excluded, in both directions.
    #[test]
    fn excluded_ports_mean_what_they_say(
        named in proptest::collection::vec((1u16..=65535, 0u16..300), 1..20),
        probes in proptest::collection::vec(1u16..=65535, 1..20),
    ) {
        let ranges: Vec<(u16, u16)> =
            named.iter().map(|(first, more)| (*first, first.saturating_add(*more))).collect();
        let list = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>().join(",");
        let policy = policy(&[("exclude-inbound-ports", &list), ("exclude-outbound-ports", &list)]).expect("valid");
        let rules = plan(&policy);
        let edges = ranges.iter().flat_map(|(first, last)| [first.saturating_sub(1), *first, *last, last.saturating_add(1)]);
        for port in probes.iter().copied().chain(edges).filter(|port| *port != 0 && *port != 15020) {
            let excluded = ranges.iter().any(|(first, last)| (*first..=*last).contains(&port));
            for address in ["192.0.2.1", "2001:db8::1"] {
                let out = connection(Some(1000), address.parse().expect("an address"), port);
                let landing = if excluded { Landing::Direct } else { Landing::Redirected(15001) };
                prop_assert_eq!(explain(&rules, &out).landing, landing, "port {}", port);
                let inward = connection(None, address.parse().expect("an address"), port);
                let landing = if excluded { Landing::Direct } else { Landing::Redirected(15006) };
                prop_assert_eq!(explain(&rules, &inward).landing, landing, "port {}", port);
            }
        }
    }

    /// Exactly the listed networks are excluded as destinations.
    #[test]
    fn excluded_networks_mean_what_they_say(
        nets in proptest::collection::vec((any::<[u8; 4]>(), 1u8..=32), 1..8),
        probe in any::<[u8; 4]>(),
    ) {
        prop_assume!(probe[0] != 127);
        let list = nets.iter().map(|(net, bits)| format!("{}/{bits}", IpAddr::from(*net))).collect::<Vec<_>>().join(",");
        let policy = policy(&[("exclude-outbound-cidrs", &list)]).expect("valid");
        let bits_of = |address: [u8; 4]| u32::from_be_bytes(address);
        let inside = |address: [u8; 4]| nets.iter().any(|(net, bits)| {
            (bits_of(*net) ^ bits_of(address)).leading_zeros() >= u32::from(*bits)
        });
        for address in nets.iter().map(|(net, _)| *net).filter(|net| net[0] != 127).chain([probe]) {
            let out = connection(Some(1000), IpAddr::from(address), 80);
            let landing = if inside(address) { Landing::Direct } else { Landing::Redirected(15001) };
            prop_assert_eq!(explain(&plan(&policy), &out).landing, landing, "{:?}", address);
        }
    }
}
