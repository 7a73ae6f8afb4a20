// SPDX-License-Identifier: Apache-2.0
//! Plans before and after a change of documents → the ways in which the pod is more open after it. Pure.
//!
//! A policy that goes while its mesh still loads is a decision, so it is in force at once. An operator who did not mean it
//! learns here that something was opened. A new permission for callers that no document named before is not one of these.

use crate::plan::tls::permissions::{Action, Peer, Permissions, Verdict, Who};
use crate::plan::{Gate, Mtls, Plan, TlsMode};
use culvert_mesh::model::spiffe::TrustDomain;
use culvert_mesh::model::tags::SERVICE;
use rustls::pki_types::CertificateDer;
use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Ports or matches that a line lists; a Dataplane has 512 inbounds.
const LISTED: usize = 10;
/// Callers that are tried on each port, so that thousands of denials do not delay a reload.
const TRIED: usize = 64;

/// Lists what may enter or leave after a change and could not before, a line each.
pub(crate) fn openings(before: &Plan, after: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    if after.passthrough && !before.passthrough {
        lines.push("passthrough is on: calls may leave for destinations that no document names".into());
    }
    if !after.passthrough && !before.passthrough {
        let exits = after.outside.exits().iter().filter(|exit| !before.outside.covers(exit));
        let names: Vec<_> = exits.map(ToString::to_string).collect();
        lines.extend(listed("calls may leave for more destinations", &names, "matches"));
        let before = outside(before);
        let new: Vec<_> = outside(after).into_iter().filter(|service| !before.contains(service)).collect();
        lines.extend(listed("calls may leave for more services outside of the mesh", &new, "services"));
    }
    let Some(was) = &before.mtls else { return lines };
    let Some(is) = &after.mtls else {
        lines.push("mTLS is off: every peer may call this pod, and its own calls leave unencrypted".into());
        return lines;
    };
    if is.settings.min < was.settings.min {
        lines.push("TLS 1.2 is allowed".into());
    }
    if others(before, was) && !others(after, is) {
        lines.push("no Dataplane of another pod is left: calls to these pods leave unencrypted".into());
    }
    let domains = newly_trusted(was, is);
    lines.extend(listed(
        "identities of more authorities are accepted, in the trust domains",
        &domains,
        "ones",
    ));
    let ports = ports(was, is);
    let mut line = |words: &str, opened: &dyn Fn(&Gate, &Gate) -> bool| {
        let opened = ports.iter().filter(|(_, was, is)| opened(was, is));
        let names: Vec<_> = opened.map(|(name, ..)| name.as_str()).collect();
        lines.extend(listed(words, &names, "ports"));
    };
    line("PERMISSIVE instead of STRICT, so peers without an identity may call", &|was, is| {
        was.mode == TlsMode::Strict && is.mode == TlsMode::Permissive
    });
    line("no MeshTrafficPermission is in effect, so every member may call", &|was, is| {
        was.permissions.restricted && !is.permissions.restricted
    });
    line("members that were denied may call", &|was, is| {
        is.permissions.restricted && admits(&was.permissions, &is.permissions)
    });
    lines
}

/// Returns the services outside of the mesh that the pod calls by name. Those of the mesh are reachable in any case.
fn outside(plan: &Plan) -> BTreeSet<&str> {
    let services = plan.names.names.iter().map(|name| &*name.service);
    let kinds = ["MeshExternalService ", "ExternalService "];
    services.filter(|service| kinds.iter().any(|kind| service.starts_with(kind))).collect()
}

/// Returns the trust domains that have an authority which they had not.
fn newly_trusted(was: &Mtls, is: &Mtls) -> Vec<String> {
    let (Some(was), Some(is)) = (&was.settings.trust, &is.settings.trust) else { return Vec::new() };
    let has_more = |domain: &TrustDomain, all: &[CertificateDer<'static>]| {
        let known = was.authorities.get(domain).map_or(&[][..], Vec::as_slice);
        all.iter().any(|one| !known.contains(one))
    };
    let domains = is.authorities.iter().filter(|(domain, all)| has_more(domain, all));
    domains.map(|(domain, _)| domain.to_string()).collect()
}

/// Returns a line that names the first of several; none without names.
fn listed(words: &str, names: &[impl Borrow<str>], kind: &str) -> Option<String> {
    match names.len().checked_sub(LISTED).filter(|more| *more > 0) {
        Some(more) => Some(format!("{words}: {} and {more} more {kind}", names[..LISTED].join(", "))),
        None => (!names.is_empty()).then(|| format!("{words}: {}", names.join(", "))),
    }
}

/// Returns true if a document names the address of another pod.
fn others(plan: &Plan, mtls: &Mtls) -> bool {
    plan.members.keys().any(|address| !mtls.inbounds.contains_key(address))
}

/// Returns each port of either plan with its gates, and the ports that no inbound names.
fn ports<'p>(was: &'p Mtls, is: &'p Mtls) -> Vec<(String, &'p Gate, &'p Gate)> {
    let all: BTreeSet<&SocketAddr> = was.inbounds.keys().chain(is.inbounds.keys()).collect();
    let gate = |of: &'p Mtls, address| of.inbounds.get(address).unwrap_or(&of.others);
    let named = all.into_iter().map(|address| (address.to_string(), gate(was, address), gate(is, address)));
    named.chain([("ports that no inbound names".to_owned(), &was.others, &is.others)]).collect()
}

/// Returns true if a caller that a document denied may call now. Unknown members are tried too.
fn admits(was: &Permissions, is: &Permissions) -> bool {
    if was == is || !was.restricted {
        return false;
    }
    let all = was.ordered.iter().chain(&was.unordered);
    let denied = all.filter(|one| one.action == Action::Deny).map(|one| &one.who);
    let callers = denied.take(TRIED).chain([&Who::Everyone]).filter_map(caller);
    callers.into_iter().any(|caller| {
        was.decide(&caller, true) == Verdict::Denied && is.decide(&caller, true) != Verdict::Denied
    })
}

/// Makes a member that a document names.
fn caller(who: &Who) -> Option<Peer> {
    let (id, tags) = match who {
        Who::Everyone => ("spiffe://mesh/a-member".to_owned(), Vec::new()),
        Who::Tags(tags) => {
            let value = |value: &String| if value == "*" { "any".into() } else { value.clone() };
            let service = tags.0.get(SERVICE).map_or_else(|| "a-member".into(), value);
            let tags = tags.0.iter().map(|(key, tag)| (key.clone(), value(tag))).collect();
            (format!("spiffe://mesh/{service}"), tags)
        }
        Who::Exactly(id) => (id.clone(), Vec::new()),
        Who::Prefix(prefix) => (format!("{}/a-member", prefix.trim_end_matches('/')), Vec::new()),
    };
    Some(Peer { ids: [id.parse().ok()?].into(), tags: tags.into() })
}

#[cfg(test)]
mod tests {
    use super::openings;
    use crate::options::Options;
    use crate::plan::Plan;
    use crate::plan::compile::{compile, read_with_mesh};
    use clap::Parser;

    const HERE: &str = "---\n{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 80, tags: {kuma.io/service: here}}]}}\n";
    const WEB: &str = "---\n{type: Dataplane, name: web, networking: {address: 10.0.0.3, inbound: [{port: 80, tags: {kuma.io/service: web}}]}}\n";

    fn mesh(rest: &str) -> String {
        format!("{{type: Mesh, name: default, {rest}}}\n{HERE}{WEB}")
    }

    fn mtls(mode: &str) -> String {
        mesh(&format!("mtls: {{enabledBackend: a, backends: [{{name: a, mode: {mode}}}]}}"))
    }

    fn permissions(from: &[(&str, &str)]) -> String {
        let from = from
            .iter()
            .map(|(who, action)| format!("{{targetRef: {{{who}}}, default: {{action: {action}}}}}"));
        let from = from.collect::<Vec<_>>().join(", ");
        format!("---\n{{type: MeshTrafficPermission, name: p, spec: {{from: [{from}]}}}}\n")
    }

    fn rules(lists: &str) -> String {
        format!(
            "---\n{{type: MeshTrafficPermission, name: r, spec: {{rules: [{{default: {{{lists}}}}}]}}}}\n"
        )
    }

    fn tls(spec: &str) -> String {
        format!("---\n{{type: MeshTLS, name: t, spec: {{rules: [{{default: {{{spec}}}}}]}}}}\n")
    }

    fn out(mode: &str) -> String {
        format!("---\n{{type: MeshPassthrough, name: out, spec: {{default: {{passthroughMode: {mode}}}}}}}\n")
    }

    fn plan(documents: &str) -> Plan {
        let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
        let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
        let loaded = read_with_mesh(&config, documents, "mesh.yaml");
        assert_eq!(loaded.errors, []);
        compile(&config, &loaded.found).unwrap()
    }

    #[test]
    fn a_change_that_opens_something_is_told_and_no_other() {
        const ALL: &str = "kind: Mesh";
        const TO_WEB: &str = "kind: MeshService, name: web";
        const STRICT: &str = "STRICT";
        const NARROW: &str = "Matched, appendMatch: [{type: CIDR, value: 10.1.0.0/16, port: 80}, {type: Domain, value: a.b, protocol: tls, port: 443}]";
        const WIDE: &str = "Matched, appendMatch: [{type: CIDR, value: 10.0.0.0/8}, {type: Domain, value: '*.b', protocol: tls}]";
        const EXTERNAL: &str = "---\n{type: MeshExternalService, name: ext, spec: {match: {type: HostnameGenerator, port: 443, protocol: tcp}, endpoints: [{address: 192.0.2.5, port: 443}]}}\n";
        let closed = "networking: {outbound: {passthrough: false}}";
        let redirect = "transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}";
        let caught =
            |rest: &str| mesh(rest).replace("address: 10.0.0.2,", &format!("address: 10.0.0.2, {redirect},"));
        let strict = |more: String| mtls(STRICT) + &more;
        let deny =
            |id: &str| format!("deny: [{{spiffeID: {{type: Exact, value: 'spiffe://default/{id}'}}}}]");
        let allow_all = "allow: [{spiffeID: {type: Prefix, value: 'spiffe://default/'}}]";
        for (name, before, after, told) in [
            ("passthrough", mesh(closed), mesh(""), Some("passthrough is on")),
            ("passthrough off", mesh(""), mesh(closed), None),
            ("passthrough by a policy", mesh("") + &out("None"), mesh(""), Some("passthrough is on")),
            ("the same said twice", mesh(closed) + &out("None"), mesh(closed), None),
            ("open, and then matches", mesh(""), mesh("") + &out(NARROW), None),
            (
                "matches",
                mesh(closed),
                mesh("") + &out(NARROW),
                Some("calls may leave for more destinations: tcp 10.1.0.0/16 port 80, tls a.b port 443"),
            ),
            (
                "wider matches",
                mesh("") + &out(NARROW),
                mesh("") + &out(WIDE),
                Some("calls may leave for more"),
            ),
            ("narrower matches", mesh("") + &out(WIDE), mesh("") + &out(NARROW), None),
            (
                "a service outside of the mesh",
                caught(closed),
                caught(closed) + EXTERNAL,
                Some("calls may leave for more services outside of the mesh: MeshExternalService ext"),
            ),
            ("the same in an open mesh", caught(""), caught("") + EXTERNAL, None),
            ("a service of the mesh", caught(closed).replace(WEB, ""), caught(closed), None),
            ("mTLS", mtls(STRICT), mesh(""), Some("mTLS is off")),
            ("mTLS of PERMISSIVE", mtls("PERMISSIVE"), mesh(""), Some("mTLS is off")),
            (
                "mode",
                mtls(STRICT),
                mtls("PERMISSIVE"),
                Some(
                    "PERMISSIVE instead of STRICT, so peers without an identity may call: 10.0.0.2:80, ports that no inbound names",
                ),
            ),
            ("stricter", mtls("PERMISSIVE"), mtls(STRICT), None),
            (
                "mode by a MeshTLS that goes",
                mtls("PERMISSIVE") + &tls("mode: Strict"),
                mtls("PERMISSIVE"),
                Some("PERMISSIVE instead"),
            ),
            (
                "versions",
                strict(tls("tlsVersion: {min: TLS13}")),
                strict(String::new()),
                Some("TLS 1.2 is allowed"),
            ),
            ("versions back", strict(String::new()), strict(tls("tlsVersion: {min: TLS13}")), None),
            (
                "permission gone",
                strict(permissions(&[(TO_WEB, "Allow")])),
                mtls(STRICT),
                Some("no MeshTrafficPermission is in effect, so every member may call: 10.0.0.2:80, "),
            ),
            (
                "a denial gone",
                strict(permissions(&[(ALL, "Allow"), (TO_WEB, "Deny")])),
                strict(permissions(&[(ALL, "Allow")])),
                Some("members that were denied may call: 10.0.0.2:80, "),
            ),
            (
                "a denial that is a trial now",
                strict(permissions(&[(ALL, "Allow"), (TO_WEB, "Deny")])),
                strict(permissions(&[(ALL, "Allow"), (TO_WEB, "AllowWithShadowDeny")])),
                Some("members that were denied"),
            ),
            (
                "a denial that changed nothing",
                strict(permissions(&[(ALL, "Deny"), (TO_WEB, "Allow")])),
                strict(permissions(&[(TO_WEB, "Allow")])),
                None,
            ),
            (
                "a denial of all that came last",
                strict(permissions(&[(TO_WEB, "Allow"), (TO_WEB, "Deny")])),
                strict(permissions(&[(TO_WEB, "Allow")])),
                Some("members that were denied"),
            ),
            (
                "a permission on trial",
                strict(permissions(&[(TO_WEB, "Allow")])),
                strict(
                    permissions(&[(TO_WEB, "Allow")])
                        .replace("name: p,", "name: p, labels: {kuma.io/effect: shadow},"),
                ),
                Some("no MeshTrafficPermission is in effect"),
            ),
            (
                "a denial by identity gone",
                strict(rules(&format!("{allow_all}, {}", deny("web")))),
                strict(rules(allow_all)),
                Some("members that were denied"),
            ),
            (
                "everyone",
                strict(permissions(&[(TO_WEB, "Allow")])),
                strict(permissions(&[(ALL, "Allow")])),
                Some("members that were denied"),
            ),
            (
                "a caller more",
                strict(permissions(&[(TO_WEB, "Allow")])),
                strict(permissions(&[(TO_WEB, "Allow"), ("kind: MeshService, name: api", "Allow")])),
                None,
            ),
            (
                "fewer callers",
                strict(permissions(&[(ALL, "Allow")])),
                strict(permissions(&[(TO_WEB, "Allow")])),
                None,
            ),
            (
                "other pods",
                mtls(STRICT),
                mtls(STRICT).replace(WEB, ""),
                Some("no Dataplane of another pod is left"),
            ),
            ("the same", mtls(STRICT), mtls(STRICT), None),
        ] {
            let lines = openings(&plan(&before), &plan(&after));
            assert_eq!(lines.len(), usize::from(told.is_some()), "{name}: {lines:?}");
            assert!(lines.iter().all(|line| line.starts_with(told.unwrap_or("-"))), "{name}: {lines:?}");
        }
    }

    #[test]
    fn many_ports_are_one_line() {
        let inbounds: Vec<_> =
            (1..=12).map(|port| format!("{{port: {port}, tags: {{kuma.io/service: here}}}}")).collect();
        let twelve =
            |mode| mtls(mode).replace("{port: 80, tags: {kuma.io/service: here}}", &inbounds.join(", "));
        let lines = openings(&plan(&twelve("STRICT")), &plan(&twelve("PERMISSIVE")));
        assert!(lines[0].ends_with("10.0.0.2:10 and 3 more ports"), "{lines:?}");
    }
}
