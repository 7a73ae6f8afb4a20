//! The configuration that Kuma's injector writes on a pod, as its newest versions and their neighbours write it.

use anyhow::Result;
use culvert_tests::{Invocation, Lab};

const CONFIG: &str = "traffic.kuma.io/transparent-proxy-config";

fn injected<'a>(lab: &'a Lab, config: &str) -> Result<Invocation<'a>> {
    let call = lab.invoke("ADD")?.annotation("kuma.io/sidecar-injected", "true");
    Ok(call.annotation(CONFIG, config))
}

/// A pod with this configuration gets the rules of one with these annotations.
fn is_like(config: &str, annotations: &[(&str, &str)]) -> Result<()> {
    let (found, expected) = (Lab::new()?, Lab::new()?);
    let outcome = injected(&found, config)?.run()?;
    assert!(outcome.status.success(), "{config}\n{outcome}");
    expected.add(annotations)?.expect_success();
    let (found, expected) = (found.pod.ruleset()?, expected.pod.ruleset()?);
    assert!(found.says_the_same_as(&expected), "{config}: {found} rather than {expected}");
    Ok(())
}

#[test]
fn a_pod_of_the_newest_injector_is_redirected() -> Result<()> {
    // Where DNS is not captured, it writes the port 0.
    let without_dns = "
ipFamilyMode: dualstack
kumaDPUser: \"1234\"
redirect:
  dns: {captureAll: false, enabled: false, port: 0, resolvConfigPath: /etc/resolv.conf, skipConntrackZoneSplit: false}
  inbound:
    enabled: true
    excludePorts:
    - 9000
    - 9902
    port: 15006
  outbound: {enabled: true, port: 15001}
retry: {maxRetries: 4, sleepBetweenRetries: 2s}
wait: 5
waitInterval: 0
";
    is_like(without_dns, &[("proxy-uid", "1234"), ("exclude-inbound-ports", "9000,9902")])
}

#[test]
fn what_asks_for_nothing_changes_nothing() -> Result<()> {
    for config in [
        "",
        "{}",
        "redirect:",
        "redirect: {dns: {enabled: false, port: '0'}}",
        "redirect: {inbound: {includePorts: [], excludePorts: null, excludePortsForIPs: '', excludePortsForUIDs: []}}",
        "redirect: {outbound: {includePorts: null, excludePorts: '', excludePortsForIPs: [], excludePortsForUIDs: []}}",
        "redirect: {vnet: {networks: []}}",
        "redirect: {vnet:}",
        // Keys to come, with the zero of their type.
        "later: false",
        "redirect: {later: {enabled: false, ports: [], name: '', port: 0}}",
        "redirect: {inbound: {later: 0}, outbound: {later: ''}, dns: {later: null}}",
        "wait: -1",
        "retry: 5",
    ] {
        is_like(config, &[])?;
    }
    Ok(())
}

#[test]
fn a_direction_that_is_off_may_have_the_port_0() -> Result<()> {
    is_like("redirect: {inbound: {enabled: false, port: 0}}", &[("redirect-inbound", "disabled")])?;
    is_like("redirect: {outbound: {enabled: false, port: 0}}", &[("redirect-outbound", "disabled")])
}

#[test]
fn what_cannot_be_followed_is_an_error_still() -> Result<()> {
    for (config, word) in [
        ("redirect: {inbound: {port: 0}}", "from 1 to 65535"),
        ("redirect: {outbound: {enabled: true, port: 0}}", "from 1 to 65535"),
        ("redirect: {dns: {enabled: true, port: 0}}", "from 1 to 65535"),
        ("redirect: {dns: {captureAll: true, port: 0}}", "from 1 to 65535"),
        ("redirect: {dns: {port: -1}}", "from 1 to 65535"),
        ("redirect: {inbound: {later: true}}", "redirect.inbound.later"),
        ("later: {enabled: true}", "later"),
        ("redirect: {inbound: {excludePortsForUIDs: ['1']}}", "excludePortsForUIDs"),
    ] {
        let lab = Lab::new()?;
        let error = injected(&lab, config)?.run()?.expect_error(7);
        assert!(error.msg.contains(word) && error.msg.contains(CONFIG), "{config}: {}", error.msg);
        assert!(lab.pod.ruleset()?.is_empty(), "{config}");
    }
    Ok(())
}
