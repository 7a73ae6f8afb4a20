// SPDX-License-Identifier: Apache-2.0
//! DNS queries of the pod's processes.

use super::outbound::uid_exclusion;
use super::{NOT_UDP, other_family, rule, to, uid};
use crate::redirect::policy::{DNS_SERVER_PORT, DnsCapture, Outbound, Policy, Protocol, UidExclusion, host};
use crate::redirect::ruleset::{Action, Chain, ChainName, Match, Rule};

/// Rules before conntrack that set captured queries over UDP apart.
///
/// A captured query leaves an entry in conntrack for 30 s, which sends packets from that port to that server to the sidecar.
/// The sidecar's own query, or an excluded one, that gets the same port within that time would follow the entry. So captured
/// queries are looked up in a zone of their own. Their answers need none: they come from the sidecar's address, which no
/// other entry has. All else stays tracked as without culvert, for filters and NAT of the pod.
pub(super) fn zone(policy: &Policy) -> Vec<Rule> {
    if policy.dns.capture == DnsCapture::Off {
        return Vec::new();
    }
    let others = "only captured queries are set apart";
    let mut rules = other_family(policy.families);
    rules.push(rule([NOT_UDP], Action::Direct, others));
    rules.push(rule([super::UDP, Match::NotDestinationPort(DNS_SERVER_PORT)], Action::Direct, others));
    rules.extend(decisions(policy, &[Protocol::Udp], Action::Direct, Action::Zone));
    rules
}

/// Chain for DNS queries over UDP and TCP, entered for port 53. Queries that are not captured continue in the calling chain.
pub(super) fn captured(policy: &Policy) -> Chain {
    let protocols = [Protocol::Udp, Protocol::Tcp];
    let rules = decisions(policy, &protocols, Action::Back, Action::Goto(ChainName::DnsRedirect));
    Chain { name: ChainName::Dns, hook: None, rules }
}

/// Rules that decide about a query of one of `protocols` to port 53.
fn decisions(policy: &Policy, protocols: &[Protocol], passed: Action, captured: Action) -> Vec<Rule> {
    let Outbound { exclude_destinations, exclude_uids, .. } = &policy.outbound;
    let mut rules = vec![rule([uid(policy)], passed, "the sidecar's own DNS goes out")];
    rules.extend(exclude_destinations.iter().map(|net| rule([to(*net)], passed, "exclude-outbound-cidrs")));
    let excluded = |protocol: &Protocol| {
        let protocol = *protocol;
        let names_dns = move |exclusion: &&UidExclusion| {
            exclusion.ports.is_empty() || exclusion.ports.contains(DNS_SERVER_PORT)
        };
        exclude_uids
            .iter()
            .filter(names_dns)
            .flat_map(move |exclusion| uid_exclusion(exclusion, protocol, Some(DNS_SERVER_PORT), passed))
    };
    rules.extend(protocols.iter().flat_map(excluded));
    match &policy.dns.capture {
        DnsCapture::Off => {}
        DnsCapture::All => rules.push(rule([], captured, "redirect-dns: all")),
        DnsCapture::Servers(servers) => {
            rules.extend(servers.iter().map(|server| rule([to(host(*server))], captured, "redirect-dns")));
        }
    }
    rules
}
