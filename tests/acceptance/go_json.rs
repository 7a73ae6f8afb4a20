//! JSON as Go's encoding/json reads it, by which runtimes and most plugins go: what loads there loads here.

use anyhow::Result;
use culvert_tests::pod::plugin::ANNOTATIONS;
use culvert_tests::{Invocation, Lab};
use serde_json::Value;

/// A call whose configuration is sent with `from` replaced by `to`.
fn replaced<'a>(lab: &'a Lab, verb: &str, from: &str, to: &[u8]) -> Result<Invocation<'a>> {
    let call = lab.invoke(verb)?.redirect();
    let text = call.netconf().to_string();
    let (before, after) = text.split_once(from).unwrap_or_else(|| panic!("no {from} in {text}"));
    let stdin = [before.as_bytes(), to, after.as_bytes()].concat();
    Ok(call.stdin(stdin))
}

/// Adds and deletes with the configuration as `from` and `to` say; returns what ADD printed.
fn redirected(what: &str, from: &str, to: &[u8]) -> Result<Value> {
    let lab = Lab::new()?;
    let added = replaced(&lab, "ADD", from, to)?.run()?;
    assert!(added.status.success(), "{what}: {added}");
    assert!(!lab.pod.ruleset()?.is_empty(), "{what}: no rules");
    replaced(&lab, "CHECK", from, to)?.run()?.expect_success();
    assert_eq!(replaced(&lab, "DEL", from, to)?.run()?.expect_success(), Value::Null, "{what}");
    assert!(lab.pod.ruleset()?.is_empty(), "{what}: rules are left");
    Ok(added.expect_success())
}

#[test]
fn a_byte_that_is_not_utf_8_stops_no_pod() -> Result<()> {
    let rows: [(&str, &str, &[u8]); 5] = [
        ("in the name", r#""name":"lab""#, b"\"name\":\"lab\xff\""),
        ("in a foreign value", r#""name":"lab""#, b"\"name\":\"lab\",\"args\":{\"x\":\"\xe2\x82\"}"),
        ("in a foreign key", r#""name":"lab""#, b"\"name\":\"lab\",\"x\xfe\":1"),
        ("half a surrogate pair", r#""name":"lab""#, br#""name":"lab\ud800","x\udc00":1"#),
        ("in prevResult", r#""name":"cni0""#, b"\"name\":\"cni0\xff\xfe\""),
    ];
    for (what, from, to) in rows {
        redirected(what, from, to)?;
    }
    let annotations = format!(r#""{ANNOTATIONS}":{{"#);
    let with_one = [annotations.as_bytes(), b"\"example.com/x\":\"\xff\","].concat();
    redirected("in an annotation", &annotations, &with_one)?;
    // Each byte becomes one character, as in Go.
    let printed = redirected("in prevResult", r#""name":"cni0""#, b"\"name\":\"cni0\xff\xe2\x82\"")?;
    assert_eq!(printed["interfaces"][0]["name"], "cni0\u{fffd}\u{fffd}\u{fffd}");
    Ok(())
}

#[test]
fn a_byte_outside_a_string_is_an_error_as_ever() -> Result<()> {
    let lab = Lab::new()?;
    replaced(&lab, "ADD", r#""name""#, b"\xff\"name\"")?.run()?.expect_error(6);
    Ok(())
}

#[test]
fn keys_count_in_any_case() -> Result<()> {
    for (from, to) in [
        ("cniVersion", "CNIVersion"),
        ("prevResult", "PrevResult"),
        ("runtimeConfig", "RuntimeConfig"),
        ("\"name\":\"lab\"", "\"Name\":\"lab\""),
        ("stateDir", "statedir"),
        ("logFile", "LogFile"),
        ("\"name\":\"lab\"", "\"name\":\"lab\",\"Redirect\":{\"ProxyUID\":1234}"),
        // The last one counts.
        ("\"name\":\"lab\"", "\"name\":\"lab\",\"loglevel\":\"loud\",\"logLevel\":\"debug\""),
    ] {
        redirected(to, from, to.as_bytes())?;
    }
    let lab = Lab::new()?;
    let uid =
        replaced(&lab, "ADD", "\"name\":\"lab\"", b"\"name\":\"lab\",\"Redirect\":{\"ProxyUID\":1234}")?;
    uid.run()?.expect_success();
    let expected = Lab::new()?;
    expected.add(&[("proxy-uid", "1234")])?.expect_success();
    assert!(lab.pod.ruleset()?.says_the_same_as(&expected.pod.ruleset()?));
    // Annotations are a map, whose keys Go takes to the letter.
    let other = ANNOTATIONS.to_uppercase();
    let lab = Lab::new()?;
    replaced(&lab, "ADD", ANNOTATIONS, other.as_bytes())?.run()?.expect_success();
    assert!(lab.pod.ruleset()?.is_empty());
    Ok(())
}

#[test]
fn versions_to_come_beside_a_known_one_are_no_error_and_no_warning() -> Result<()> {
    let lab = Lab::new()?;
    let known = r#""name":"lab""#;
    replaced(&lab, "ADD", known, br#""name":"lab","cniVersions":["0.4.0","1.0.0","1.2.0","2.0.0-rc1"]"#)?
        .run()?
        .expect_success();
    assert!(!lab.plugin_log().contains("warn"), "{}", lab.plugin_log());
    Ok(())
}
