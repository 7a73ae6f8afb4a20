// SPDX-License-Identifier: Apache-2.0
//! `culvert-install explain`: where each kind of connection of a pod lands, and which setting decides it. Nothing is
//! touched, and no answer is written down here: each comes from a walk through the plan.

pub(crate) mod cases;
pub(crate) mod render;
mod sample;

use std::collections::BTreeMap;

use culvert_cni::pod::{Decided, Decision, Reason, names};
use culvert_cni::redirect::explain::{Connection, Explained, Landing, explain};
use culvert_cni::redirect::plan;
use culvert_cni::redirect::policy::{DNS_SERVER_PORT, IpFamilies, Policy, Protocol};
use culvert_cni::redirect::ruleset::{Action, ChainName, Hook, Match, Point, Rule, Ruleset, Stage};
use serde::Serialize;

use self::cases::{Case, cases};
use crate::cli::explain::ExplainArgs;
use crate::cli::shared::Output;
use crate::command::answer::Answer;
use crate::command::answer::Exit;
use crate::command::settings;

/// The whole answer of `explain`. Keys are stable in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    /// True if anything of the pod is redirected.
    pub onboarded: bool,
    /// Reason if nothing is redirected.
    pub reason: Option<&'static str>,
    /// A row for each kind of connection.
    pub rows: Vec<Row>,
    /// Facts about more than one row.
    pub notes: Vec<String>,
    /// Settings with another effect than their author may expect.
    pub warnings: Vec<String>,
}

/// One kind of connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// Opener of the connection.
    pub from: String,
    /// Its destination.
    pub to: String,
    /// Families for which this holds: `IPv4`, `IPv6`.
    pub families: Vec<&'static str>,
    /// `direct`, `redirected`, `dropped` or `rejected`.
    pub lands: &'static str,
    /// Port of the pod that it is redirected to.
    pub port: Option<u16>,
    /// Reason in words.
    pub because: String,
    /// Settings that matter, the deciding one first; empty if no setting changes this.
    pub settings: Vec<Setting>,
}

/// A setting and the source of its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// Its name behind `culvert.dev/`.
    pub name: &'static str,
    /// An annotation, an option, the conflist, or `default`.
    pub source: String,
}

/// Source of a setting that is not set.
pub(crate) const DEFAULT: &str = "default";
/// The plan's word for rules that no setting of ours names.
const KUMA_PORTS: &str = "ports of Kuma's proxy";
/// Source of those ports.
const KUMA_PORTS_SOURCE: &str = "kuma.io/envoy-admin-port, kuma.io/application-probe-proxy-port";

pub(crate) fn run(args: &ExplainArgs) -> Answer {
    let ExplainArgs { conflist, output, settings } = args;
    let decided = settings::node_entry(conflist.as_deref())
        .and_then(|entry| settings::decide(settings, &entry.defaults));
    match decided {
        Ok(decided) => {
            let explanation = explanation(&decided);
            let text = match output {
                Output::Text => render::text(&explanation),
                Output::Json => render::json(&explanation),
            };
            Answer::said(text, Exit::Well)
        }
        Err(refusal) => Answer::refused(&refusal, refusal.exit()),
    }
}

/// Computes where each kind of connection lands. Pure.
pub(crate) fn explanation(decided: &Decided) -> Explanation {
    let Decided { decision, warnings, sources } = decided;
    let (reason, rows, notes) = match decision {
        Decision::PassThrough(reason) => (Some(*reason), Vec::new(), Vec::new()),
        Decision::Redirect(policy) => {
            let rules = plan(policy);
            let rows = cases(policy).iter().flat_map(|case| rows(case, policy, &rules, sources)).collect();
            let rows = FAMILIES.into_iter().fold(rows, condensed);
            (None, rows, notes(policy, sources))
        }
    };
    Explanation {
        onboarded: reason.is_none(),
        reason: reason.map(Reason::as_str),
        rows,
        notes,
        warnings: warnings.clone(),
    }
}

/// Names of the families in rows.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// Makes one row for all of `family` if all of its connections land alike: the settings are about the other family.
fn condensed(mut rows: Vec<Row>, family: &'static str) -> Vec<Row> {
    let is_of = |row: &Row| row.families.contains(&family);
    let what =
        |row: &Row| (row.families.len(), row.lands, row.port, row.because.clone(), row.settings.clone());
    let Some(first) = rows.iter().find(|row| is_of(row)).cloned() else { return rows };
    if first.families.len() == 1 && rows.iter().filter(|row| is_of(row)).all(|row| what(row) == what(&first))
    {
        rows.retain(|row| !is_of(row));
        rows.push(Row { from: "anybody".to_owned(), to: "anything".to_owned(), ..first });
    }
    rows
}

type Sources = BTreeMap<&'static str, String>;

/// Makes a row for each family of `case`, or one for both if they do not differ.
fn rows(case: &Case, policy: &Policy, rules: &Ruleset, sources: &Sources) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for connection in &case.connections {
        let explained = explain(rules, connection);
        let rule = deciding(rules, connection, &explained);
        let (because, settings) = attribute(case, policy, explained.landing, rule, sources);
        let (lands, port) = match explained.landing {
            Landing::Direct => ("direct", None),
            Landing::Redirected(port) => ("redirected", Some(port)),
            Landing::Dropped => ("dropped", None),
            Landing::Rejected => ("rejected", None),
        };
        let family = FAMILIES[usize::from(connection.destination.is_ipv6())];
        let same = |row: &&mut Row| {
            row.lands == lands && row.port == port && row.because == because && row.settings == settings
        };
        match rows.iter_mut().find(same) {
            Some(row) => row.families.push(family),
            None => rows.push(Row {
                from: case.from.clone(),
                to: case.to.clone(),
                families: vec![family],
                lands,
                port,
                because,
                settings,
            }),
        }
    }
    rows
}

/// The rule that decided, if any did.
fn deciding(
    rules: &Ruleset,
    connection: &Connection,
    Explained { landing, by }: &Explained<'_>,
) -> Option<Rule> {
    let of_family = by.last().is_some_and(|rule| rule.on.iter().any(|on| matches!(on, Match::Family(_))));
    if *landing == Landing::Direct && !of_family {
        // The reason of these two is more precise than "only TCP is redirected", which a walk through all chains
        // gives.
        let asked = [
            (ChainName::OutboundUdp, connection.protocol == Protocol::Udp),
            (ChainName::Dns, connection.destination_port == DNS_SERVER_PORT),
        ];
        let alone = asked
            .into_iter()
            .filter(|(_, asked)| *asked)
            .find_map(|(name, _)| alone(rules, name, connection));
        if alone.is_some() {
            return alone;
        }
    }
    // The last rule of a redirect only names the port; the one before it has the reason.
    let why = by.iter().rev().find(|rule| !matches!(rule.then, Action::Redirect(_)));
    why.or(by.last()).map(|rule| (*rule).clone())
}

/// The rule that decides in one chain of the way out if no other chain existed.
fn alone(rules: &Ruleset, name: ChainName, connection: &Connection) -> Option<Rule> {
    let mut chain = rules.chains.iter().find(|chain| chain.name == name)?.clone();
    chain.hook = Some(Hook { at: Point::Output, stage: Stage::Nat });
    let rules = Ruleset { chains: vec![chain] };
    explain(&rules, connection).by.last().map(|rule| (*rule).clone())
}

/// Reason for the landing: the deciding rule's own, or the case's if no rule fits; and the settings that matter.
fn attribute(
    case: &Case,
    policy: &Policy,
    landing: Landing,
    rule: Option<Rule>,
    sources: &Sources,
) -> (String, Vec<Setting>) {
    let Some(rule) = rule else {
        let names = case.unsaid.settings.iter().copied();
        return (case.unsaid.because.clone(), names.map(|name| setting(name, sources)).collect());
    };
    let because = rule.because.to_string();
    if because == KUMA_PORTS {
        let kuma = Setting { name: "exclude-inbound-ports", source: KUMA_PORTS_SOURCE.to_owned() };
        return (because, vec![kuma]);
    }
    let head = because.split_once(':').map_or(because.as_str(), |(head, _)| head);
    let mut found: Vec<&'static str> = match names().find(|(name, _)| *name == head) {
        Some((name, _)) => vec![name],
        None => case.settings.to_vec(),
    };
    let proxy = policy.proxy_uid.get();
    if rule.on.contains(&Match::Uid(proxy..=proxy)) {
        found.push("proxy-uid");
    }
    if let Landing::Redirected(port) = landing {
        found.extend(port_setting(policy, port));
    }
    (because, found.into_iter().map(|name| setting(name, sources)).collect())
}

fn setting(name: &'static str, sources: &Sources) -> Setting {
    Setting { name, source: sources.get(name).cloned().unwrap_or_else(|| DEFAULT.to_owned()) }
}

fn port_setting(policy: &Policy, port: u16) -> Option<&'static str> {
    let Policy { inbound, outbound, dns, .. } = policy;
    [("inbound-port", inbound.port), ("outbound-port", outbound.port), ("dns-port", dns.port)]
        .into_iter()
        .find(|(_, of)| of.get() == port)
        .map(|(name, _)| name)
}

fn notes(policy: &Policy, sources: &Sources) -> Vec<String> {
    let from = |name: &'static str| setting(name, sources).source;
    let mut notes = Vec::new();
    if policy.inbound.redirect.is_enabled() {
        let port = policy.inbound.port;
        notes.push(format!(
            "a filter in the pod sees inbound-port {port} in place of a peer's port, and NAT rules in the pod do not see what \
             is redirected: \"Beside other NAT and filters\" in cni/ANNOTATIONS.md says what to set"
        ));
    }
    match policy.families {
        IpFamilies::Dual => {}
        IpFamilies::V4 => {
            notes.push(format!("IPv6 is not redirected at all: ip-family is ipv4 ({})", from("ip-family")))
        }
        IpFamilies::V6 => {
            notes.push(format!("IPv4 is not redirected at all: ip-family is ipv6 ({})", from("ip-family")))
        }
    }
    if policy.drop_invalid.is_enabled() {
        let source = from("drop-invalid");
        notes.push(format!("segments that conntrack cannot place are dropped: drop-invalid ({source})"));
    }
    if policy.trace.is_enabled() {
        notes.push(format!("packets are marked for `nft monitor trace`: trace ({})", from("trace")));
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cli::annotations::{Options, Settings};

    fn explained(
        text: &str,
        options: &[(&'static str, &str)],
        conflist: Option<&str>,
        output: Output,
    ) -> Answer {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| -> PathBuf {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let options = Options(options.iter().map(|(name, value)| (*name, (*value).to_owned())).collect());
        let settings = Settings { annotations: Some(file("pod.yaml", text)), options };
        let conflist = conflist.map(|text| file("10-x.conflist", text));
        let answer = run(&ExplainArgs { settings, conflist, output });
        let folder = folder.path().display().to_string();
        Answer { err: answer.err.replace(&folder, "FOLDER"), ..answer }
    }

    const ON: &str = "culvert.dev/redirect: enabled\n";
    const MANY: &str = "\
culvert.dev/redirect: enabled
culvert.dev/redirect-dns: 10.96.0.10
culvert.dev/exclude-outbound-ports: \"5432\"
culvert.dev/exclude-outbound-cidrs: 192.0.2.0/24,fd00::/8
culvert.dev/exclude-inbound-cidrs: 192.0.2.0/24
culvert.dev/exclude-outbound-ports-for-uids: tcp:80:1234;1000
culvert.dev/include-inbound-ports: 80,8000-8999
culvert.dev/exclude-inbound-ports: \"22\"
culvert.dev/virtual-interfaces: docker+:172.17.0.0/16
culvert.dev/outbound-udp: reject
culvert.dev/closed-ports: refuse
culvert.dev/drop-invalid: enabled
";
    const KUMA: &str =
        "kuma.io/sidecar-injected: 'true'\nkuma.io/gateway: enabled\nkuma.io/builtin-dns: enabled\n";
    const NODE: &str = r#"{"name":"n","plugins":[{"type":"bridge"},
        {"type":"culvert-cni","redirect":{"excludeInboundPorts":"22","proxyUid":7},"locked":["proxyUid"]}]}"#;

    #[test]
    fn golden() {
        for (name, text, conflist) in [
            ("default", ON, None),
            ("many", MANY, None),
            ("kuma", KUMA, None),
            ("node", ON, Some(NODE)),
            ("ipv4", "culvert.dev/redirect: enabled\nculvert.dev/ip-family: ipv4\n", None),
            ("not_onboarded", "a: b\n", Some(NODE)),
        ] {
            for (output, form) in [(Output::Text, "text"), (Output::Json, "json")] {
                let Answer { out, err, exit } = explained(text, &[], conflist, output);
                assert_eq!((err.as_str(), exit), ("", Exit::Well), "{name}");
                insta::assert_snapshot!(format!("{name}.{form}"), out);
            }
        }
    }

    /// The landing table as far as one table can hold it: row, family, landing.
    #[test]
    fn each_row_of_the_landing_table() {
        let answer = explained(ON, &[], None, Output::Json);
        let explanation: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
        let rows = explanation["rows"].as_array().unwrap();
        for (from, to, port) in [
            ("the application", "TCP outside of the pod", Some(15001)),
            ("the application", "the pod's own address", None),
            ("the sidecar (uid 5678)", "the pod's own address", Some(15006)),
            ("the sidecar (uid 5678)", "TCP outside of the pod", None),
            ("a peer", "TCP of the pod", Some(15006)),
            ("a peer", "status-port", None),
        ] {
            let row = rows.iter().find(|row| row["from"] == from && row["to"] == to).unwrap();
            assert_eq!(row["port"].as_u64(), port, "{from} → {to}");
            assert_eq!(row["families"].as_array().unwrap().len(), 2, "{from} → {to}");
        }
    }

    #[test]
    fn an_option_goes_before_the_file() {
        let answer = explained(
            "culvert.dev/redirect: enabled\nculvert.dev/outbound-port: '1'\n",
            &[("outbound-port", "2")],
            None,
            Output::Text,
        );
        let line = answer.out.lines().find(|line| line.contains("TCP outside")).unwrap();
        assert!(line.contains("sidecar, 2 ") && line.ends_with("--outbound-port"), "{line}");
    }

    #[test]
    fn every_wrong_annotation_is_told() {
        let text = "culvert.dev/redirekt: enabled\nculvert.dev/inbound-port: 'x'\n";
        let Answer { out, err, exit } = explained(text, &[], None, Output::Text);
        assert_eq!((out.as_str(), exit), ("", Exit::Usage));
        assert!(err.contains("no annotation of culvert: \"culvert.dev/redirekt\""), "{err}");
        assert!(
            err.contains("culvert.dev/inbound-port must be a port from 1 to 65535: it is \"x\""),
            "{err}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_no_bad_usage() {
        let settings = Settings { annotations: Some("/does/not/exist".into()), options: Options::default() };
        let Answer { err, exit, .. } = run(&ExplainArgs { settings, conflist: None, output: Output::Text });
        assert_eq!(exit, Exit::Attention);
        assert!(err.contains("cannot read /does/not/exist"), "{err}");
    }
}
