// SPDX-License-Identifier: Apache-2.0
//! Onboarding, precedence of values, and settings that are refused.

use serde_json::value::RawValue;

use super::*;
use crate::redirect::policy::Port;

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn node(json: &str, locked: &[&str]) -> Settings {
    let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
    let locked: Vec<String> = locked.iter().map(|key| (*key).to_owned()).collect();
    Settings::of_node(Some(&raw), &locked).unwrap()
}

fn redirected(pairs: &[(&str, &str)], defaults: &Settings) -> Policy {
    match decide_policy(&annotations(pairs), defaults) {
        Ok(Decided { decision: Decision::Redirect(policy), .. }) => *policy,
        other => panic!("{pairs:?}: {other:?}"),
    }
}

fn refused(pairs: &[(&str, &str)], defaults: &Settings) -> String {
    decide_policy(&annotations(pairs), defaults).expect_err("must be refused").to_string()
}

const ON: (&str, &str) = ("culvert.dev/redirect", "enabled");

#[test]
fn a_pod_is_onboarded_by_our_annotation_or_kumas() {
    type Row<'a> = (&'a [(&'a str, &'a str)], Option<Reason>);
    let rows: [Row<'_>; 8] = [
        (&[], Some(Reason::NotOnboarded)),
        (&[("culvert.dev/redirect", "disabled")], Some(Reason::Disabled)),
        (&[ON], None),
        (&[("kuma.io/sidecar-injected", "true")], None),
        (&[("kuma.io/sidecar-injected", "false")], Some(Reason::NotOnboarded)),
        (
            &[("culvert.dev/redirect", "disabled"), ("kuma.io/sidecar-injected", "true")],
            Some(Reason::Disabled),
        ),
        (&[("inject.culvert.dev/redirekt", "x")], Some(Reason::NotOnboarded)),
        (&[("kuma.io/gateway", "perhaps")], Some(Reason::NotOnboarded)),
    ];
    for (pairs, reason) in rows {
        let decided = decide_policy(&annotations(pairs), &Settings::default());
        match (decided.map(|decided| decided.decision), reason) {
            (Ok(Decision::Redirect(_)), None) => {}
            (Ok(Decision::PassThrough(found)), Some(reason)) => assert_eq!(found, reason, "{pairs:?}"),
            (other, _) => panic!("{pairs:?}: {other:?}"),
        }
    }
}

#[test]
fn our_names_go_before_kumas_and_those_before_the_nodes() {
    let defaults = node(r#"{"proxyUid": 1000, "inboundPort": "16006", "outboundPort": 16001}"#, &[]);
    let pairs = [
        ON,
        ("culvert.dev/proxy-uid", "3000"),
        ("kuma.io/sidecar-uid", "2000"),
        ("kuma.io/transparent-proxying-inbound-port", "17006"),
    ];
    let policy = redirected(&pairs, &defaults);
    assert_eq!(policy.proxy_uid.get(), 3000);
    assert_eq!(policy.inbound.port, Port::new(17006).unwrap());
    assert_eq!(policy.outbound.port, Port::new(16001).unwrap());
}

#[test]
fn an_empty_value_clears_the_nodes_default_unless_it_is_locked() {
    let json = r#"{"excludeInboundPorts": "22"}"#;
    assert_eq!(redirected(&[ON], &node(json, &[])).inbound.exclude_ports.to_string(), "22");
    let cleared = [ON, ("culvert.dev/exclude-inbound-ports", "")];
    assert!(redirected(&cleared, &node(json, &[])).inbound.exclude_ports.is_empty());
    let error = refused(&cleared, &node(json, &["excludeInboundPorts"]));
    assert_eq!(
        error,
        "exclude-inbound-ports is locked on this node: culvert.dev/exclude-inbound-ports may not set it to \"\""
    );
}

#[test]
fn a_locked_value_may_be_repeated_but_not_changed() {
    let defaults = node(r#"{"proxyUid": 5678}"#, &["proxyUid"]);
    assert_eq!(redirected(&[ON, ("culvert.dev/proxy-uid", "5678")], &defaults).proxy_uid.get(), 5678);
    for name in ["culvert.dev/proxy-uid", "kuma.io/sidecar-uid"] {
        assert!(refused(&[ON, (name, "1")], &defaults).contains("locked"), "{name}");
    }
}

#[test]
fn errors_name_the_annotation_the_value_and_what_is_allowed() {
    let rows = [
        ("culvert.dev/redirect", "yes", "culvert.dev/redirect must be enabled or disabled: it is \"yes\""),
        (
            "culvert.dev/proxy-uid",
            "0",
            "culvert.dev/proxy-uid must be a uid from 1 to 4294967294: it is \"0\"",
        ),
        (
            "culvert.dev/inbound-port",
            "70000",
            "culvert.dev/inbound-port must be a port from 1 to 65535: it is \"70000\"",
        ),
    ];
    for (name, value, expected) in rows {
        assert_eq!(refused(&[(name, value)], &Settings::default()), expected);
    }
    let error = refused(&[("culvert.dev/redirekt", "enabled")], &Settings::default());
    assert!(
        error.starts_with("no annotation of culvert: \"culvert.dev/redirekt\" (known are redirect, "),
        "{error}"
    );
}

#[test]
fn all_errors_are_returned_at_once() {
    let pairs =
        [ON, ("culvert.dev/inbound-port", "x"), ("culvert.dev/proxy-uid", "x"), ("culvert.dev/x", "")];
    assert_eq!(refused(&pairs, &Settings::default()).matches("; ").count(), 2);
}

#[test]
fn listeners_on_one_port_are_refused() {
    assert!(
        refused(&[ON, ("culvert.dev/inbound-port", "15001")], &Settings::default()).contains("must differ")
    );
}

#[test]
fn an_unknown_key_of_the_nodes_defaults_is_refused() {
    for json in [r#"{"redirect": "enabled"}"#, r#"{"proxy-uid": 1}"#, r#"{"proxyUid": [1]}"#, "[]", "5"] {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        assert!(Settings::of_node(Some(&raw), &[]).is_err(), "{json}");
    }
    assert!(Settings::of_node(None, &["proxy-uid".to_owned()]).is_err());
}

#[test]
fn the_page_has_every_setting_with_its_names() {
    let page = include_str!("../../../ANNOTATIONS.md");
    let page =
        page.split("\n## ").find(|section| section.starts_with("Settings")).expect("a section of settings");
    for Setting { name, key, kuma, .. } in &SETTINGS {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` | `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("{name} with {key} is not in ANNOTATIONS.md"));
        let kuma = kuma.unwrap_or("| |");
        assert!(row.contains(kuma), "{name}: {kuma} is not in its row");
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, SETTINGS.len() + 1, "a row for each setting, and one for {ONBOARD}");
}
