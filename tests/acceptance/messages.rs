//! Errors as a kubelet shows them: an event holds 1,024 characters, so the reason comes first and the value last, cut.

use anyhow::Result;
use culvert_tests::pod::plugin::ANNOTATIONS;
use culvert_tests::{Invocation, Lab};
use serde_json::json;

/// Longest message, and longest value in one.
const MESSAGE: usize = 701;
const VALUE: usize = 200;

/// A wrong value, longer than any message.
fn long() -> String {
    "v".repeat(3000)
}

/// Runs a wrong call: its message has to begin with the reason, end with the value, and be short.
fn says(what: &str, call: Invocation<'_>, code: u64, reason: &str) -> Result<()> {
    let error = call.run()?.expect_error(code);
    let length = error.msg.chars().count();
    assert!(length <= MESSAGE, "{what}: {length} characters: {}", error.msg);
    let values = error.msg.matches('v').count();
    assert!(values < VALUE + 40, "{what}: {values} characters of the value: {}", error.msg);
    let value = error.msg.find("vvvv");
    let reason_at = error.msg.find(reason).unwrap_or_else(|| panic!("{what}: no {reason:?}: {}", error.msg));
    assert!(value.is_none_or(|value| reason_at < value), "{what}: the value comes first: {}", error.msg);
    assert!(!error.msg.contains('\n'), "{what}: {}", error.msg);
    Ok(())
}

#[test]
fn the_reason_comes_before_the_value_of_an_annotation() -> Result<()> {
    let lab = Lab::new()?;
    let kuma = "traffic.kuma.io/transparent-proxy-config";
    let rows = [
        ("culvert.dev/redirect", long(), "enabled or disabled"),
        ("culvert.dev/proxy-uid", long(), "a uid from 1 to 4294967294"),
        ("culvert.dev/exclude-inbound-ports", long(), "ports from 1 to 65535"),
        ("culvert.dev/exclude-outbound-cidrs", long(), "addresses and networks"),
        ("culvert.dev/exclude-outbound-ports-for-uids", long(), "[protocols:][ports:]uids"),
        ("culvert.dev/virtual-interfaces", long(), "interfaces with their networks"),
        ("culvert.dev/engine", long(), "iptables-legacy"),
        ("kuma.io/sidecar-uid", long(), "a uid from 1 to 4294967294"),
        ("kuma.io/envoy-admin-port", long(), "a port from 1 to 65535"),
        (kuma, format!("kumaDPUser: {}", long()), "a uid from 1 to 4294967294"),
        (kuma, format!("{}: 1", "v".repeat(1000)), "unknown"),
        (
            kuma,
            format!("redirect: {{inbound: {{enabled: {}}}}}", long()),
            "redirect.inbound.enabled must be true or false",
        ),
        (kuma, format!("redirect: {}", long()), "redirect must hold keys"),
        (kuma, format!("ipFamilyMode: [{}]", long()), kuma),
        (kuma, long(), kuma),
        (kuma, format!("{{{}", long()), kuma),
    ];
    for (name, value, reason) in rows {
        let call = lab.invoke("ADD")?.annotation("kuma.io/sidecar-injected", "true");
        says(name, call.annotation(name, &value), 7, reason)?;
    }
    let unknown = format!("culvert.dev/{}", long());
    says("unknown", lab.invoke("ADD")?.redirect().annotation(&unknown, "x"), 7, "no annotation of culvert")?;
    let locked = lab.invoke("ADD")?.redirect().annotation("culvert.dev/proxy-uid", &long());
    says("locked", locked.config("locked", json!(["proxyUid"])), 7, "locked on this node")
}

#[test]
fn many_wrong_annotations_make_no_endless_message() -> Result<()> {
    let lab = Lab::new()?;
    let mut call = lab.invoke("ADD")?.redirect();
    for name in ["proxy-uid", "inbound-port", "outbound-port", "status-port", "dns-port", "engine"] {
        call = call.annotation(&format!("culvert.dev/{name}"), &"w".repeat(3000));
    }
    for n in 0..100 {
        call = call.annotation(&format!("culvert.dev/unknown-{n}"), "x");
    }
    says("many", call, 7, "a uid from 1 to 4294967294")
}

#[test]
fn the_reason_comes_before_the_value_of_the_configuration() -> Result<()> {
    let lab = Lab::new()?;
    let add = || anyhow::Ok(lab.invoke("ADD")?.redirect());
    let rows = [
        ("cniVersion", json!(long()), 1, "supports cniVersion"),
        ("logLevel", json!(long()), 7, "error, warn, info, debug"),
        ("onUnknown", json!(long()), 7, "allow or deny"),
        ("logFile", json!([long()]), 6, "logFile must be a string"),
        ("locked", json!(long()), 6, "locked must be a list of strings"),
        ("locked", json!([long()]), 7, "unknown in the conflist's locked"),
        ("redirect", json!({ long(): 1 }), 7, "unknown in the conflist's redirect"),
        ("redirect", json!({ "proxyUid": [long()] }), 7, "a string, a number, true or false"),
        ("redirect", json!({ "proxyUid": long() }), 7, "a uid from 1 to 4294967294"),
        ("runtimeConfig", json!({ ANNOTATIONS: { long(): 1 } }), 7, "no string"),
        ("runtimeConfig", json!({ ANNOTATIONS: long() }), 7, "no JSON object"),
        ("redirect", json!(long()), 7, "redirect is no JSON object"),
        ("runtimeConfig", json!(long()), 6, "runtimeConfig is not a JSON object"),
        ("prevResult", json!(long()), 6, "prevResult is not a JSON object"),
    ];
    for (key, value, code, reason) in rows {
        says(key, add()?.config(key, value), code, reason)?;
    }
    let twice = format!(r#"{{"{0}":1,"{0}":2,"cniVersion":"1.0.0","name":"n"}}"#, long());
    says("twice", add()?.stdin(twice), 6, "a key twice")?;
    let text = format!(r#""{}""#, long());
    says("a text", add()?.stdin(text), 6, "stdin is not a JSON object")
}

#[test]
fn the_reason_comes_before_the_value_of_the_environment() -> Result<()> {
    let lab = Lab::new()?;
    let rows = [
        ("CNI_COMMAND", long(), 4, "must be one of ADD, DEL"),
        ("CNI_CONTAINERID", format!("{}/", long()), 4, "must begin with a letter or digit"),
        ("CNI_IFNAME", long(), 4, "must be 1 to 15 bytes"),
        ("CNI_NETNS", format!("/run/netns/{}", "v".repeat(250)), 8, "No such file or directory"),
        // A folder that every machine has: in one that is missing no name is looked at.
        ("CNI_NETNS", format!("/run/{}", long()), 8, "File name too long"),
    ];
    for (name, value, code, reason) in rows {
        says(name, lab.invoke("ADD")?.redirect().env(name, value), code, reason)?;
    }
    Ok(())
}
