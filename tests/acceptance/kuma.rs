//! Pods that Kong Mesh injected, and the node's defaults and locks over every annotation.

use anyhow::Result;
use culvert_tests::server::UdpEcho;
use culvert_tests::{Family, Invocation, Lab, Landing};
use serde_json::json;

use crate::support::{APP, Rows, SIDECAR, by_every_engine};

/// As Kong Mesh's injector writes it.
const CONFIG: &str = "traffic.kuma.io/transparent-proxy-config";

/// Every annotation but `redirect`: its name, its key among the node's defaults, a value that is not the default.
const SETTINGS: [(&str, &str, &str); 22] = [
    ("proxy-uid", "proxyUid", "1234"),
    ("redirect-inbound", "redirectInbound", "disabled"),
    ("redirect-outbound", "redirectOutbound", "disabled"),
    ("inbound-port", "inboundPort", "7006"),
    ("outbound-port", "outboundPort", "7001"),
    ("status-port", "statusPort", "7020"),
    ("include-inbound-ports", "includeInboundPorts", "80,8000-8010"),
    ("include-outbound-ports", "includeOutboundPorts", "443"),
    ("exclude-inbound-ports", "excludeInboundPorts", "22,9000-9010"),
    ("exclude-outbound-ports", "excludeOutboundPorts", "25"),
    ("exclude-inbound-cidrs", "excludeInboundCidrs", "10.0.0.0/8,fd00::/8"),
    ("exclude-outbound-cidrs", "excludeOutboundCidrs", "192.0.2.10,2001:db8::10"),
    ("exclude-outbound-ports-for-uids", "excludeOutboundPortsForUids", "tcp:80,443:1234;udp:53:1000-1010"),
    ("virtual-interfaces", "virtualInterfaces", "docker0:172.17.0.0/16"),
    ("closed-ports", "closedPorts", "refuse"),
    ("outbound-udp", "outboundUdp", "reject"),
    ("redirect-dns", "redirectDns", "all"),
    ("dns-port", "dnsPort", "7053"),
    ("ip-family", "ipFamily", "ipv4"),
    ("drop-invalid", "dropInvalid", "enabled"),
    ("trace", "trace", "enabled"),
    ("engine", "engine", "iptables-nft"),
];

#[test]
fn every_annotation_is_a_default_of_the_node_too() -> Result<()> {
    for (annotation, key, value) in SETTINGS {
        let (by_node, by_pod) = (Lab::new()?, Lab::new()?);
        // A DNS port says nothing where DNS is not captured.
        let dns = [("redirect-dns", "all")];
        let beside = if annotation == "dns-port" { &dns[..] } else { &[] };
        let call = by_node.invoke("ADD")?.redirect().annotations(beside);
        call.config("redirect", json!({ key: value })).run()?.expect_success();
        by_pod.add(&[beside, &[(annotation, value)]].concat())?.expect_success();
        let (found, expected) = (by_node.pod.ruleset()?, by_pod.pod.ruleset()?);
        assert!(found.says_the_same_as(&expected), "{key}: {found} rather than {expected}");

        let plain = Lab::new()?;
        plain.add(beside)?.expect_success();
        assert!(!plain.pod.ruleset()?.says_the_same_as(&expected), "{annotation} {value} changed no rule");
    }
    Ok(())
}

#[test]
fn every_annotation_can_be_locked() -> Result<()> {
    let lab = Lab::new()?;
    for (annotation, key, value) in SETTINGS {
        let locked = || anyhow::Ok(lab.invoke("ADD")?.redirect().config("locked", json!([key])));
        let error = locked()?.annotation(&format!("culvert.dev/{annotation}"), value).run()?.expect_error(7);
        assert!(error.msg.contains(annotation) && error.msg.contains("locked"), "{key}: {}", error.msg);
        assert!(lab.pod.ruleset()?.is_empty(), "{key}");
    }
    Ok(())
}

#[test]
fn a_lock_holds_for_kumas_names_too() -> Result<()> {
    let lab = Lab::new()?;
    let node = || -> Result<Invocation<'_>> {
        let call = lab.invoke("ADD")?.annotation("kuma.io/sidecar-injected", "true");
        Ok(call.config("locked", json!(["proxyUid", "excludeOutboundPorts", "redirectDns"])))
    };
    for (name, value) in [
        ("kuma.io/sidecar-uid", "1"),
        ("traffic.kuma.io/exclude-outbound-ports", "1-65535"),
        ("kuma.io/builtin-dns", "enabled"),
        (CONFIG, "{kumaDPUser: \"1\"}"),
        (CONFIG, "{redirect: {outbound: {excludePorts: [443]}}}"),
    ] {
        let error = node()?.annotation(name, value).run()?.expect_error(7);
        assert!(error.msg.contains("locked"), "{name}: {}", error.msg);
        assert!(lab.pod.ruleset()?.is_empty(), "{name}");
    }
    node()?.run()?.expect_success();
    Ok(())
}

#[test]
fn an_unknown_field_of_kumas_config_is_an_error() -> Result<()> {
    let lab = Lab::new()?;
    for (value, word) in [
        ("redirekt: {inbound: {enabled: true}}", "redirekt"),
        ("redirect: {inbound: {prot: 15006}}", "prot"),
        ("redirect: {outbound: {port: 70000}}", "70000"),
        ("kumaDPUser: [", CONFIG),
        ("ipFamilyMode: ipv5", "ipv5"),
    ] {
        let call = lab.invoke("ADD")?.annotation("kuma.io/sidecar-injected", "true");
        let error = call.annotation(CONFIG, value).run()?.expect_error(7);
        assert!(error.msg.contains(word), "{value}: {}", error.msg);
        assert!(lab.pod.ruleset()?.is_empty(), "{value}");
    }
    Ok(())
}

/// A pod with annotations by their whole names, and a listener in the sidecar's place.
fn injected(
    engine: &str,
    annotations: &[(&str, &str)],
    inbound: u16,
    outbound: u16,
) -> Result<(Lab, Landing)> {
    let lab = Lab::new()?;
    let mut call = lab.invoke("ADD")?.config("redirect", json!({ "engine": engine }));
    for (name, value) in annotations {
        call = call.annotation(name, value);
    }
    call.run()?.expect_success();
    let mut landing = Landing::in_place_of_sidecar(&lab.pod, inbound, outbound)?;
    for family in Family::BOTH {
        for port in [25, 80] {
            landing.target(&lab.peer, (family.outside(), port))?;
        }
        for port in [22, 8080, 9901, 9001, 9902] {
            landing.target(&lab.pod, (family.pod(), port))?;
        }
    }
    Ok((lab, landing))
}

fn a_pod_with_kumas_names_is_redirected_as_they_say(engine: &str) -> Result<()> {
    let annotations = [
        ("kuma.io/sidecar-injected", "true"),
        ("kuma.io/sidecar-uid", "1234"),
        ("kuma.io/transparent-proxying-inbound-port", "7006"),
        ("kuma.io/transparent-proxying-outbound-port", "7001"),
        ("traffic.kuma.io/exclude-inbound-ports", "22"),
        ("traffic.kuma.io/exclude-outbound-ports", "25"),
        ("traffic.kuma.io/exclude-outbound-ports-for-uids", "tcp:80:2000"),
        ("traffic.kuma.io/exclude-inbound-ips", "192.0.2.0/24,2001:db8::/32"),
        ("kuma.io/transparent-proxying-ip-family-mode", "dualstack"),
        ("traffic.kuma.io/drop-invalid-packets", "true"),
    ];
    let (lab, landing) = injected(engine, &annotations, 7006, 7001)?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
        rows.outbound("the default uid", lab.pod.as_uid(SIDECAR), (family.outside(), 80))?;
        rows.direct("excluded port", lab.pod.as_uid(APP), (family.outside(), 25))?;
        rows.direct("excluded uid", lab.pod.as_uid(2000), (family.outside(), 80))?;
        rows.direct("sidecar", lab.pod.as_uid(1234), (family.outside(), 80))?;
        rows.inbound("sidecar to its own pod", lab.pod.as_uid(1234), (family.pod(), 8080))?;
        rows.inbound("peer", lab.peer.as_root(), (family.pod(), 8080))?;
        rows.direct("excluded source", lab.peer.as_root().from(family.outside()), (family.pod(), 8080))?;
        // Kuma's proxy is asked there, by a kubelet and by Prometheus.
        for port in [22, 9901, 9001] {
            rows.direct("excluded port", lab.peer.as_root(), (family.pod(), port))?;
        }
    }
    Ok(())
}

fn kumas_own_ports_can_be_moved(engine: &str) -> Result<()> {
    let annotations = [
        ("kuma.io/sidecar-injected", "true"),
        ("kuma.io/envoy-admin-port", "9902"),
        ("kuma.io/application-probe-proxy-port", "0"),
    ];
    let (lab, landing) = injected(engine, &annotations, 15_006, 15_001)?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("the admin port", lab.peer.as_root(), (family.pod(), 9902))?;
        rows.inbound("the default admin port", lab.peer.as_root(), (family.pod(), 9901))?;
        rows.inbound("no probe proxy", lab.peer.as_root(), (family.pod(), 9001))?;
    }
    Ok(())
}

fn a_gateway_of_kumas_takes_its_connections_itself(engine: &str) -> Result<()> {
    let annotations = [("kuma.io/sidecar-injected", "true"), ("kuma.io/gateway", "enabled")];
    let (lab, landing) = injected(engine, &annotations, 15_006, 15_001)?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("peer", lab.peer.as_root(), (family.pod(), 8080))?;
        rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
    }
    Ok(())
}

fn a_pod_with_kumas_config_is_redirected_as_it_says(engine: &str) -> Result<()> {
    let config = r#"
cniMode: true
dropInvalidPackets: true
ebpf: {enabled: false, instanceIPEnvVarName: INSTANCE_IP}
ipFamilyMode: dualstack
kumaDPUser: "1234"
log: {enabled: false, level: 7}
redirect:
  dns: {captureAll: true, enabled: true, port: 7053, resolvConfigPath: /etc/resolv.conf}
  inbound: {enabled: true, excludePorts: [9901, 9001, 22], includePorts: [], port: 7006}
  outbound:
    enabled: true
    excludePorts: "25"
    excludePortsForIPs: ["10.77.0.1", "fd77::/64"]
    excludePortsForUIDs: ["tcp:80:2000"]
    port: 7001
  vnet: {networks: []}
retry: {maxRetries: 4, sleepBetweenRetries: 2s}
verbose: false
"#;
    let annotations = [("kuma.io/sidecar-injected", "true"), (CONFIG, config)];
    let (lab, mut landing) = injected(engine, &annotations, 7006, 7001)?;
    let mut answers = Vec::new();
    for family in Family::BOTH {
        landing.target(&lab.peer, (family.peer(), 80))?;
        let sidecars = lab.pod.as_uid(1234).udp((family.loopback(), 7053))?;
        answers.push(UdpEcho::answering(sidecars, |_| b"the sidecar".into())?);
        let (answer, _) = lab.pod.as_uid(APP).ask_udp((family.outside(), 53), b"who?")?;
        assert_eq!(answer, b"the sidecar", "{family}");
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
        rows.direct("excluded port", lab.pod.as_uid(APP), (family.outside(), 25))?;
        rows.direct("excluded network", lab.pod.as_uid(APP), (family.peer(), 80))?;
        rows.direct("excluded uid", lab.pod.as_uid(2000), (family.outside(), 80))?;
        rows.direct("sidecar", lab.pod.as_uid(1234), (family.outside(), 80))?;
        rows.inbound("sidecar to its own pod", lab.pod.as_uid(1234), (family.pod(), 8080))?;
        rows.inbound("peer", lab.peer.as_root(), (family.pod(), 8080))?;
        for port in [22, 9901, 9001] {
            rows.direct("excluded port", lab.peer.as_root(), (family.pod(), port))?;
        }
    }
    Ok(())
}

by_every_engine! {
    a_pod_with_kumas_names_is_redirected_as_they_say,
    kumas_own_ports_can_be_moved,
    a_gateway_of_kumas_takes_its_connections_itself,
    a_pod_with_kumas_config_is_redirected_as_it_says,
}
