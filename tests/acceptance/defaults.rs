//! Precedence of the pod's annotations, of Kuma's names for them and of the node's defaults.

use anyhow::Result;
use culvert_tests::pod::plugin::{ANNOTATIONS, previous_result};
use culvert_tests::{Invocation, Lab};
use serde_json::json;

/// Compares the rules that a call leaves with those of our own annotations.
fn says_the_same(
    what: &str,
    call: impl Fn(&Lab) -> Result<Invocation<'_>>,
    ours: &[(&str, &str)],
) -> Result<()> {
    let (lab, expected) = (Lab::new()?, Lab::new()?);
    call(&lab)?.run()?.expect_success();
    expected.add(ours)?.expect_success();
    let (found, expected) = (lab.pod.ruleset()?, expected.pod.ruleset()?);
    assert!(found.says_the_same_as(&expected), "{what}: {found} rather than {expected}");
    Ok(())
}

#[test]
fn the_nodes_defaults_hold_where_the_pod_says_nothing() -> Result<()> {
    let node = json!({ "proxyUid": 1234, "excludeInboundPorts": "22", "outboundPort": 7001, "redirectInbound": "enabled" });
    let all = [("proxy-uid", "1234"), ("exclude-inbound-ports", "22"), ("outbound-port", "7001")];
    says_the_same(
        "defaults",
        |lab| lab.invoke("ADD").map(|c| c.redirect().config("redirect", node.clone())),
        &all,
    )?;
    says_the_same(
        "the pod knows better",
        |lab| {
            let call = lab.invoke("ADD")?.redirect().config("redirect", node.clone());
            Ok(call.annotation("culvert.dev/proxy-uid", "99"))
        },
        &[("proxy-uid", "99"), ("exclude-inbound-ports", "22"), ("outbound-port", "7001")],
    )?;
    says_the_same(
        "an empty value clears a default",
        |lab| {
            let call = lab.invoke("ADD")?.redirect().config("redirect", node.clone());
            Ok(call.annotation("culvert.dev/exclude-inbound-ports", ""))
        },
        &[("proxy-uid", "1234"), ("outbound-port", "7001")],
    )?;
    Ok(())
}

#[test]
fn a_pod_cannot_change_a_setting_that_the_node_locked() -> Result<()> {
    let lab = Lab::new()?;
    let locked = |value: &str| -> Result<_> {
        lab.invoke("ADD")?
            .redirect()
            .config("redirect", json!({ "proxyUid": 1234, "excludeOutboundPorts": "22" }))
            .config("locked", json!(["proxyUid", "excludeOutboundPorts"]))
            .annotation("culvert.dev/proxy-uid", value)
            .run()
    };
    let error = locked("5678")?.expect_error(7);
    assert!(error.msg.contains("proxy-uid") && error.msg.contains("locked"), "{}", error.msg);
    locked("")?.expect_error(7);
    assert!(lab.pod.ruleset()?.is_empty());
    locked("1234")?.expect_success();
    Ok(())
}

#[test]
fn a_wrong_default_of_the_node_is_named() -> Result<()> {
    let lab = Lab::new()?;
    for (redirect, word) in [
        (json!({ "proxyUidd": 1 }), "proxyUidd"),
        (json!({ "proxyUid": 0 }), "proxyUid"),
        (json!({ "proxyUid": [1] }), "proxyUid"),
        (json!({ "excludeInboundPorts": "70000" }), "excludeInboundPorts"),
        (json!({ "redirect": "enabled" }), "redirect"),
        (json!(["proxyUid"]), "redirect"),
    ] {
        let error = lab.invoke("ADD")?.redirect().config("redirect", redirect.clone()).run()?.expect_error(7);
        assert!(error.msg.contains(word), "{redirect}: {}", error.msg);
        assert!(lab.pod.ruleset()?.is_empty(), "{redirect}");
    }
    Ok(())
}

#[test]
fn an_unknown_key_elsewhere_is_only_a_warning() -> Result<()> {
    let lab = Lab::new()?;
    // Runtimes and Multus add their own.
    lab.invoke("ADD")?
        .redirect()
        .config("ipMasq", true)
        .config("x-runtime", json!({ "a": 1 }))
        .run()?
        .expect_success();
    assert!(lab.plugin_log().contains("ipMasq"), "{}", lab.plugin_log());
    Ok(())
}

#[test]
fn kumas_names_say_the_same_as_ours() -> Result<()> {
    says_the_same(
        "Kuma's names",
        |lab| {
            Ok(lab
                .invoke("ADD")?
                .annotation("kuma.io/sidecar-injected", "true")
                .annotation("kuma.io/sidecar-uid", "1234")
                .annotation("kuma.io/gateway", "enabled")
                .annotation("kuma.io/transparent-proxying-outbound-port", "7001")
                .annotation("traffic.kuma.io/exclude-outbound-ports", "22,443"))
        },
        &[
            ("proxy-uid", "1234"),
            ("redirect-inbound", "disabled"),
            ("outbound-port", "7001"),
            ("exclude-outbound-ports", "22,443"),
        ],
    )?;
    says_the_same(
        "our names come first",
        |lab| {
            let call = lab.invoke("ADD")?.redirect().annotation("kuma.io/sidecar-uid", "1");
            Ok(call.annotation("culvert.dev/proxy-uid", "1234"))
        },
        &[("proxy-uid", "1234")],
    )
}

#[test]
fn a_pod_that_kuma_did_not_inject_is_not_onboarded() -> Result<()> {
    let lab = Lab::new()?;
    for value in ["false", "disabled"] {
        let call = lab.invoke("ADD")?.annotation("kuma.io/sidecar-injected", value);
        assert_eq!(call.run()?.expect_success(), previous_result());
        assert!(lab.pod.ruleset()?.is_empty());
    }
    Ok(())
}

#[test]
fn pods_without_known_annotations_follow_on_unknown() -> Result<()> {
    let lab = Lab::new()?;
    let unknown = || anyhow::Ok(lab.invoke("ADD")?.without_config("runtimeConfig"));
    assert_eq!(unknown()?.run()?.expect_success(), previous_result());
    assert_eq!(unknown()?.config("onUnknown", "allow").run()?.expect_success(), previous_result());
    assert!(lab.plugin_log().contains("warn"), "{}", lab.plugin_log());
    unknown()?.config("onUnknown", "deny").run()?.expect_error(11);
    // Annotations that the runtime passes as none are known: there are none.
    let none =
        lab.invoke("ADD")?.config("runtimeConfig", json!({ ANNOTATIONS: null })).config("onUnknown", "deny");
    assert_eq!(none.run()?.expect_success(), previous_result());
    assert!(lab.pod.ruleset()?.is_empty());
    Ok(())
}

/// The specification: an error carries the version of the configuration, as far as that says one.
#[test]
fn errors_of_the_configuration_are_written_in_its_own_version() -> Result<()> {
    let lab = Lab::new()?;
    for (key, value, code) in
        [("onUnknown", json!("maybe"), 7), ("runtimeConfig", json!([]), 6), ("name", json!(null), 7)]
    {
        let wrong = lab.invoke("ADD")?.cni_version("0.3.1").config(key, value);
        let error = wrong.run()?.expect_error(code);
        assert_eq!(error.cni_version, "0.3.1", "{key}: {error:?}");
    }
    Ok(())
}
