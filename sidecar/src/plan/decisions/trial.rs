// SPDX-License-Identifier: Apache-2.0
//! Effects of policies on trial that connections count: the difference between the plan in force and the one with these
//! policies in it. Pure.
//!
//! | policy on trial | counted are |
//! |---|---|
//! | MeshRateLimit | connections above the rate that a listener would have, and requests above theirs |
//! | MeshCircuitBreaker | connections above the number that a cluster would have at most, where that is fewer |
//! | MeshTCPRoute | connections of a listener whose clusters would be others |
//! | MeshPassthrough | calls that would be denied, and calls that are denied and would be let out |

use crate::plan::listener::http::CallerRate;
use crate::plan::listener::rate::RatePlan;
use crate::plan::outside::Outside;
use crate::plan::{ListenerPlan, Plan, Serve};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Effects that connections count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OnTrial {
    /// Rates that listeners would have, by the listener's name. Those that would stay as they are, are not among them.
    pub(crate) rates: HashMap<Arc<str>, RatePlan>,
    /// Rates that the requests of listeners would have, by the listener's name, where any of them would be another one.
    pub(crate) requests: HashMap<Arc<str>, Vec<CallerRate>>,
    /// Names of listeners whose connections would go to other clusters, or to the same ones in other shares.
    pub(crate) elsewhere: HashSet<Arc<str>>,
    /// Connections that clusters would have at most, by the cluster's name, where that is fewer.
    pub(crate) most_connections: HashMap<Arc<str>, u32>,
    /// The ways out of the mesh, where they would be others.
    pub(crate) ways_out: Option<WaysOut>,
}

/// Destinations outside of the mesh that calls may leave for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WaysOut {
    passthrough: bool,
    direct_access: bool,
    outside: Outside,
}

// === impl OnTrial ===

impl OnTrial {
    /// Compares the plan in force with the one that the policies on trial would make; `None` where connections have nothing
    /// to count.
    pub(crate) fn between(is: &Plan, would_be: &Plan) -> Option<Self> {
        let listeners: HashMap<&str, &ListenerPlan> =
            is.listeners.iter().map(|one| (&*one.name, &**one)).collect();
        let mut on_trial = Self { ways_out: WaysOut::between(is, would_be), ..Self::default() };
        for tried in &would_be.listeners {
            let Some(now) = listeners.get(&*tried.name) else { continue };
            if let Some(rate) = tried.rate.filter(|rate| now.rate != Some(*rate)) {
                on_trial.rates.insert(Arc::clone(&tried.name), rate);
            }
            let rates = tried.request_rates();
            let has_requests = tried.serve != Serve::Tcp;
            if has_requests
                && rates.iter().any(|one| !now.request_rates().iter().any(|now| now.counts_as(one)))
            {
                on_trial.requests.insert(Arc::clone(&tried.name), rates.to_vec());
            }
            // The ways of passthrough are compared by themselves.
            if tried.origin == now.origin && tried.service.is_some() && !alike(now, tried) {
                on_trial.elsewhere.insert(Arc::clone(&tried.name));
            }
        }
        let limits: HashMap<&str, u32> =
            is.clusters.iter().map(|one| (&*one.name, one.thresholds.max_connections)).collect();
        for tried in &would_be.clusters {
            let most = tried.thresholds.max_connections;
            if limits.get(&*tried.name).is_some_and(|now| most < *now) {
                on_trial.most_connections.insert(Arc::clone(&tried.name), most);
            }
        }
        (on_trial != Self::default()).then_some(on_trial)
    }
}

/// Returns true if the connections of two listeners go to the same clusters, in the same shares.
fn alike(one: &ListenerPlan, other: &ListenerPlan) -> bool {
    let (one, other) = (shares(one), shares(other));
    let total = |shares: &BTreeMap<&str, u64>| shares.values().sum::<u64>();
    let (of_one, of_other) = (total(&one), total(&other));
    let same = |((name, share), (other, its)): ((&&str, &u64), (&&str, &u64))| {
        name == other && share.saturating_mul(of_other) == its.saturating_mul(of_one)
    };
    one.len() == other.len() && one.iter().zip(&other).all(same)
}

fn shares(listener: &ListenerPlan) -> BTreeMap<&str, u64> {
    match &listener.split[..] {
        [] => listener.cluster.iter().map(|name| (&**name, 1)).collect(),
        split => split.iter().map(|share| (&*share.cluster, u64::from(share.weight))).collect(),
    }
}

// === impl WaysOut ===

impl WaysOut {
    fn between(is: &Plan, would_be: &Plan) -> Option<Self> {
        let (is, would_be) = (Self::of(is), Self::of(would_be));
        let open = is.passthrough && would_be.passthrough;
        (!open && is != would_be).then_some(would_be)
    }

    fn of(plan: &Plan) -> Self {
        let Plan { passthrough, direct_access, outside, .. } = plan;
        Self { passthrough: *passthrough, direct_access: direct_access.is_some(), outside: outside.clone() }
    }

    /// Returns true if a call to an address would be let out; `None` where the name that its client asks for decides.
    pub(crate) fn let_out(&self, to: SocketAddr, is_member: bool) -> Option<bool> {
        let by_address = || is_member && self.direct_access || self.outside.by_address(to).is_some();
        if self.passthrough || by_address() {
            return Some(true);
        }
        (!self.outside.asks(to.port()).any()).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use crate::options::Options;
    use crate::plan::Plan;
    use crate::plan::compile::{compile, read_with_mesh};
    use clap::Parser;

    const PODS: &str = "
{type: Dataplane, name: here, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 80, tags: {kuma.io/service: here}}, {port: 81, tags: {kuma.io/service: here, kuma.io/protocol: http}}], outbound: [{port: 1000, tags: {kuma.io/service: web}}, {port: 1001, tags: {kuma.io/service: db}}]}}
---
{type: Dataplane, name: web, networking: {address: 10.0.0.3, inbound: [{port: 80, tags: {kuma.io/service: web}}]}}
---
{type: Dataplane, name: db, networking: {address: 10.0.0.4, inbound: [{port: 80, tags: {kuma.io/service: db}}]}}
";

    /// A policy, on trial or in force.
    fn policy(kind: &str, name: &str, on_trial: bool, spec: &str) -> String {
        let labels = if on_trial { "labels: {kuma.io/effect: shadow}, " } else { "" };
        format!("---\n{{type: {kind}, name: {name}, {labels}spec: {{{spec}}}}}\n")
    }

    fn plan(policies: &str) -> Plan {
        let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
        let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
        let loaded = read_with_mesh(&config, &format!("{PODS}{policies}"), "m.yaml");
        assert_eq!(loaded.errors, [], "{policies}");
        compile(&config, &loaded.found).unwrap()
    }

    /// What connections count, in words.
    fn counted(policies: &str) -> Vec<String> {
        let Some(on_trial) = plan(policies).trial else { return Vec::new() };
        let rates = on_trial.rates.iter().map(|(name, rate)| format!("{name}: {rate}"));
        let elsewhere = on_trial.elsewhere.iter().map(|name| format!("{name}: elsewhere"));
        let most = on_trial.most_connections.iter().map(|(name, most)| format!("{name}: {most}"));
        let ways = on_trial.ways_out.iter().map(|_| "ways out".to_owned());
        let requests = on_trial.requests.iter().map(|(name, rates)| {
            assert!(rates.iter().all(|one| one.from.is_everyone()), "{rates:?}");
            format!("{name}: {} requests", rates[0].rate.rate)
        });
        let mut all: Vec<_> = rates.chain(requests).chain(elsewhere).chain(most).chain(ways).collect();
        all.sort();
        all
    }

    const IN: &str = "inbound:10.0.0.2:80";
    const WITH_HTTP: &str = "inbound:10.0.0.2:81";
    /// Calls of web: by the outbound, and by its name.
    const WEB: [&str; 2] = ["outbound:127.0.0.1:1000", "outbound:254.218.165.112:80"];

    #[test]
    fn only_what_would_differ_is_counted() {
        let rate = |num| {
            format!(
                "rules: [{{default: {{local: {{tcp: {{connectionRate: {{num: {num}, interval: 10s}}}}}}}}}}]"
            )
        };
        let of_requests = |num| {
            format!(
                "rules: [{{default: {{local: {{http: {{requestRate: {{num: {num}, interval: 10s}}}}}}}}}}]"
            )
        };
        // It has no trial: it is in force, whatever its labels say, as in Kuma.
        const OLDER: &str = "---\n{type: RateLimit, name: o, labels: {kuma.io/effect: shadow}, sources: [{match: {kuma.io/service: web}}], \
                             destinations: [{match: {kuma.io/service: '*'}}], conf: {http: {requests: 3, interval: 10s}}}\n";
        let limit = |most| {
            format!(
                "to: [{{targetRef: {{kind: MeshService, name: web}}, default: {{connectionLimits: {{maxConnections: {most}}}}}}}]"
            )
        };
        let route = |backends: &str| {
            format!(
                "to: [{{targetRef: {{kind: MeshService, name: web}}, rules: [{{default: {{backendRefs: [{backends}]}}}}]}}]"
            )
        };
        const TO_WEB: &str = "{kind: MeshService, name: web, weight: 3}";
        const TO_BOTH: &str =
            "{kind: MeshService, name: web, weight: 3}, {kind: MeshService, name: db, weight: 1}";
        const TO_BOTH_ALIKE: &str =
            "{kind: MeshService, name: db, weight: 2}, {kind: MeshService, name: web, weight: 6}";
        let out = |mode: &str| format!("default: {{passthroughMode: {mode}}}");
        const ADDRESS: &str =
            "default: {passthroughMode: Matched, appendMatch: [{type: IP, value: 192.0.2.1}]}";
        for (name, policies, expected) in [
            ("nothing on trial", policy("MeshRateLimit", "a", false, &rate(5)), vec![]),
            (
                "a rate",
                policy("MeshRateLimit", "a", true, &rate(5)),
                [IN, WITH_HTTP].map(|name| format!("{name}: 5 in 10s")).into(),
            ),
            (
                "the rate in force",
                policy("MeshRateLimit", "a", false, &rate(5)) + &policy("MeshRateLimit", "b", true, &rate(5)),
                vec![],
            ),
            (
                "a rate that loses",
                policy("MeshRateLimit", "a", false, &rate(5)) + &policy("MeshRateLimit", "b", true, &rate(6)),
                vec![],
            ),
            (
                "a rate of requests",
                policy("MeshRateLimit", "a", true, &of_requests(5)),
                vec![format!("{WITH_HTTP}: 5 in 10s requests")],
            ),
            (
                "the rate of requests in force",
                policy("MeshRateLimit", "a", false, &of_requests(5))
                    + &policy("MeshRateLimit", "b", true, &of_requests(5)),
                vec![],
            ),
            (
                "out of force by an older rate",
                policy("MeshRateLimit", "a", true, &of_requests(5)) + OLDER,
                vec![],
            ),
            ("a lower limit", policy("MeshCircuitBreaker", "a", true, &limit(2)), vec!["web: 2".into()]),
            ("a higher limit", policy("MeshCircuitBreaker", "a", true, &limit(5000)), vec![]),
            (
                "a route to more",
                policy("MeshTCPRoute", "a", true, &route(TO_BOTH)),
                WEB.map(|name| format!("{name}: elsewhere")).into(),
            ),
            ("a route to the same", policy("MeshTCPRoute", "a", true, &route(TO_WEB)), vec![]),
            (
                "the same shares",
                policy("MeshTCPRoute", "b", false, &route(TO_BOTH))
                    + &policy("MeshTCPRoute", "a", true, &route(TO_BOTH_ALIKE)),
                vec![],
            ),
            ("closed", policy("MeshPassthrough", "a", true, &out("None")), vec!["ways out".into()]),
            ("open as before", policy("MeshPassthrough", "a", true, &out("All")), vec![]),
            (
                "opened",
                policy("MeshPassthrough", "b", false, &out("None"))
                    + &policy("MeshPassthrough", "a", true, &out("All")),
                vec!["ways out".into()],
            ),
            (
                "one address more",
                policy("MeshPassthrough", "b", false, &out("Matched"))
                    + &policy("MeshPassthrough", "a", true, ADDRESS),
                vec!["ways out".into()],
            ),
            (
                "of another kind",
                policy(
                    "MeshTimeout",
                    "a",
                    true,
                    "to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1m}}]",
                ),
                vec![],
            ),
        ] {
            assert_eq!(counted(&policies), expected, "{name}");
        }
    }

    #[test]
    fn a_way_out_is_known_by_address_and_else_left_to_the_name() {
        let matches =
            "default: {passthroughMode: Matched, appendMatch: [{type: CIDR, value: 192.0.2.0/24, port: 80},
            {type: Domain, value: a.test, protocol: tls, port: 443}]}";
        let ways =
            plan(&policy("MeshPassthrough", "a", true, matches)).trial.unwrap().ways_out.clone().unwrap();
        for (to, is_member, expected) in [
            ("192.0.2.9:80", false, Some(true)),
            ("192.0.2.9:81", false, Some(false)),
            ("192.0.2.9:443", false, None),
            ("203.0.113.1:80", false, Some(false)),
            ("10.0.0.3:80", true, Some(true)),
        ] {
            assert_eq!(ways.let_out(to.parse().unwrap(), is_member), expected, "{to}");
        }
    }

    #[test]
    fn policies_that_would_be_errors_are_told_and_not_counted() {
        let many = |from: u32, count: u32| {
            let all =
                (from..from + count).map(|n| format!("{{type: IP, value: 10.1.{}.{}}}", n / 256, n % 256));
            format!("default: {{appendMatch: [{}]}}", all.collect::<Vec<_>>().join(", "))
        };
        let plan = plan(
            &(policy("MeshPassthrough", "b", false, &many(0, 600))
                + &policy("MeshPassthrough", "a", true, &many(600, 600))),
        );
        assert_eq!(plan.trial, None);
        let told = plan.warnings.iter().any(|one| one.starts_with("policies on trial are not counted, "));
        assert!(told, "{:?}", plan.warnings);
    }
}
