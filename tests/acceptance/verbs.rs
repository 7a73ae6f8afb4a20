//! CHECK, STATUS, GC, DEL and repetition, as a runtime calls them.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use culvert_tests::{Family, Host, Invocation, Lab};
use serde_json::{Value, json};

use crate::support::by_every_engine;

/// The sysctls that ADD may change.
const SYSCTLS: [&str; 7] = [
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "net.netfilter.nf_conntrack_tcp_timeout_close",
    "net.netfilter.nf_conntrack_tcp_timeout_syn_sent",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_loose",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.ip_local_reserved_ports",
];

/// Everything of a pod that is the plugin's to change, as a person reads it.
pub(crate) fn state(pod: &Host) -> Result<Vec<String>> {
    let mut lines: Vec<String> = vec![format!("lo {:?}", pod.addresses("lo")?)];
    lines.extend(SYSCTLS.iter().map(|name| format!("{name} = {:?}", pod.sysctl(name).ok())));
    lines.push(run(pod, &["nft", "--stateless", "list", "ruleset"])?);
    for family in ["iptables-legacy-save", "ip6tables-legacy-save"] {
        let saved = run(pod, &[family])?;
        lines.extend(saved.lines().filter(|line| line.contains("CULVERT")).map(str::to_owned));
    }
    Ok(lines)
}

/// Runs a program in a host, as an operator with root would.
pub(crate) fn run(host: &Host, words: &[&str]) -> Result<String> {
    let output = host.namespace().run(|| Command::new(words[0]).args(&words[1..]).output())?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// CHECK for a pod that was added with this engine.
fn check<'a>(lab: &'a Lab, engine: &str) -> Result<Invocation<'a>> {
    Ok(lab.invoke("CHECK")?.redirect().annotations(&[("engine", engine)]))
}

fn check_is_content_with_what_add_left(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    for annotations in
        [&[][..], &[("redirect-dns", "all"), ("drop-invalid", "enabled"), ("ip-family", "ipv4")]]
    {
        lab.add(&[annotations, &[("engine", engine)]].concat())?.expect_success();
        let before = state(&lab.pod)?;
        let outcome = check(&lab, engine)?.annotations(annotations).run()?;
        assert_eq!(outcome.expect_success(), Value::Null, "CHECK prints nothing");
        assert_eq!(state(&lab.pod)?, before);
        lab.del()?.expect_success();
    }
    Ok(())
}

fn check_tells_each_damage_and_repairs_none(engine: &str) -> Result<()> {
    let flush: &[&str] = match engine {
        "nftables" => &["nft", "flush", "chain", "inet", "culvert", "outbound"],
        "iptables-nft" => &["iptables-nft", "-t", "nat", "-F", "CULVERT_OUTBOUND"],
        _ => &["ip6tables-legacy", "-t", "nat", "-F", "CULVERT_OUTBOUND"],
    };
    let off_and_on = |pod: &Host| -> Result<()> {
        // IPv6 that goes and comes again takes every address but ::1 along.
        pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "1")?;
        pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "0")
    };
    type Damage<'a> = (&'a str, &'a dyn Fn(&Host) -> Result<()>);
    let damages: [Damage<'_>; 5] = [
        ("outbound", &|pod| run(pod, flush).map(drop)),
        ("::6", &off_and_on),
        ("tcp_timeout_close is 10", &|pod| {
            pod.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "10")
        }),
        ("tcp_tw_reuse", &|pod| pod.set_sysctl("net.ipv4.tcp_tw_reuse", "0")),
        ("ip_local_reserved_ports", &|pod| pod.set_sysctl("net.ipv4.ip_local_reserved_ports", "15001")),
    ];
    for (word, damage) in damages {
        let lab = Lab::new()?;
        lab.add(&[("engine", engine)])?.expect_success();
        let whole = state(&lab.pod)?;
        damage(&lab.pod)?;
        let damaged = state(&lab.pod)?;
        assert_ne!(damaged, whole, "{word} is not damaged");
        for _ in 0..2 {
            let error = check(&lab, engine)?.run()?.expect_error(100);
            assert!(error.details.to_lowercase().contains(word), "{word}: {}", error.details);
            assert_eq!(state(&lab.pod)?, damaged, "CHECK changed something");
        }
        lab.add(&[("engine", engine)])?.expect_success();
        check(&lab, engine)?.run()?.expect_success();
    }
    Ok(())
}

fn check_tells_that_nothing_is_there(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = state(&lab.pod)?;
    let error = check(&lab, engine)?.run()?.expect_error(100);
    assert!(!error.details.is_empty());
    assert_eq!(state(&lab.pod)?, before);
    Ok(())
}

fn check_tells_that_other_annotations_are_in_force(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("engine", engine), ("exclude-inbound-ports", "22")])?.expect_success();
    let error =
        check(&lab, engine)?.annotations(&[("exclude-inbound-ports", "2222")]).run()?.expect_error(100);
    assert!(error.details.contains("22"), "{}", error.details);
    Ok(())
}

fn the_last_del_leaves_the_pod_as_it_was_before_the_first_add(engine: &str) -> Result<()> {
    for order in [["eth0", "net1"], ["net1", "eth0"]] {
        let lab = Lab::new()?;
        lab.pod.set_sysctl("net.ipv4.ip_local_reserved_ports", "4000-4010")?;
        // conntrack's sysctls hold their defaults, but are there only once it is used.
        run(
            &lab.pod,
            &[
                "nft",
                "add table inet t; add chain inet t c { type nat hook output priority 0; }; delete table inet t",
            ],
        )?;
        let before = state(&lab.pod)?;
        for interface in ["eth0", "net1"] {
            let call = lab.invoke("ADD")?.redirect().annotations(&[("engine", engine)]);
            call.env("CNI_IFNAME", interface).run()?.expect_success();
        }
        let added = state(&lab.pod)?;
        assert_ne!(added, before);
        lab.invoke("DEL")?.env("CNI_IFNAME", order[0]).run()?.expect_success();
        assert_eq!(state(&lab.pod)?, added, "the running pod was stripped by the DEL of {}", order[0]);
        lab.invoke("DEL")?.env("CNI_IFNAME", order[0]).env("CNI_NETNS", "").run()?.expect_success();
        assert_eq!(state(&lab.pod)?, added);
        for _ in 0..2 {
            lab.invoke("DEL")?.env("CNI_IFNAME", order[1]).run()?.expect_success();
            assert_eq!(without_empty_tables(state(&lab.pod)?), before, "after the DEL of {}", order[1]);
        }
    }
    Ok(())
}

/// iptables-nft leaves its own tables behind, without a rule; other programs use them too.
fn without_empty_tables(state: Vec<String>) -> Vec<String> {
    let is_rule = |line: &str| line.contains("CULVERT") || line.contains("culvert");
    state
        .into_iter()
        .map(|text| if text.starts_with("table ip") && !is_rule(&text) { String::new() } else { text })
        .collect()
}

fn ipv6_that_is_switched_off_on_lo_stops_no_pod(engine: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "1")?;
    lab.add(&[("engine", engine)])?.expect_success();
    assert_eq!(lab.pod.addresses("lo")?, [Family::V4.loopback()]);
    check(&lab, engine)?.run()?.expect_success();
    let records = records(&lab)?;
    assert_eq!(records[0]["footprint"]["hopAddress"], "off", "{records:?}");

    // IPv6 appears: CHECK reports what is missing, and the next ADD puts it there.
    lab.pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "0")?;
    let error = check(&lab, engine)?.run()?.expect_error(100);
    assert!(error.details.contains("::6"), "{}", error.details);
    lab.add(&[("engine", engine)])?.expect_success();
    assert!(lab.pod.addresses("lo")?.contains(&Family::V6.hop()));

    // And goes again.
    lab.pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "1")?;
    check(&lab, engine)?.run()?.expect_success();
    lab.add(&[("engine", engine)])?.expect_success();
    lab.del()?.expect_success();
    lab.pod.set_sysctl("net.ipv6.conf.lo.disable_ipv6", "0")?;
    assert!(!lab.pod.addresses("lo")?.contains(&Family::V6.hop()));
    Ok(())
}

by_every_engine! {
    check_is_content_with_what_add_left,
    check_tells_each_damage_and_repairs_none,
    check_tells_that_nothing_is_there,
    check_tells_that_other_annotations_are_in_force,
    the_last_del_leaves_the_pod_as_it_was_before_the_first_add,
    ipv6_that_is_switched_off_on_lo_stops_no_pod,
}

#[test]
fn check_has_nothing_against_a_pod_that_is_not_onboarded() -> Result<()> {
    let lab = Lab::new()?;
    assert_eq!(lab.invoke("CHECK")?.run()?.expect_success(), Value::Null);
    lab.invoke("CHECK")?.redirect().without_config("prevResult").run()?.expect_error(7);
    Ok(())
}

#[test]
fn status_says_that_an_engine_works_and_leaves_no_trace() -> Result<()> {
    let lab = Lab::new()?;
    let status =
        || anyhow::Ok(lab.invoke("STATUS")?.without_config("prevResult").without_config("runtimeConfig"));
    for call in [status()?, status()?.cni_version("1.1.0"), status()?.env("PATH", "")] {
        let call = call.without_env("CNI_NETNS").without_env("CNI_CONTAINERID").without_env("CNI_IFNAME");
        assert_eq!(call.run()?.expect_success(), Value::Null);
    }
    status()?.config("redirect", json!({ "proxyUidd": 1 })).run()?.expect_error(7);
    assert!(lab.node.ruleset()?.is_empty());
    assert_eq!(lab.plugin_log(), "", "containerd asks every 5 s");
    Ok(())
}

/// The records in the state folder.
fn records(lab: &Lab) -> Result<Vec<Value>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(lab.folder().join("attachments"))? {
        records.push(serde_json::from_slice(&fs::read(entry?.path())?)?);
    }
    Ok(records)
}

#[test]
fn gc_forgets_what_the_runtime_forgot_of_its_own_network_alone() -> Result<()> {
    let lab = Lab::new()?;
    let pods = [Host::new("one")?, Host::new("two")?, Host::new("three")?];
    for (network, container, pod) in
        [("lab", "one", &pods[0]), ("lab", "two", &pods[1]), ("other", "three", &pods[2])]
    {
        let call = lab.invoke_for(pod, "ADD")?.redirect().config("name", network);
        call.env("CNI_CONTAINERID", container).run()?.expect_success();
    }
    let known = || -> Result<Vec<String>> {
        let mut known: Vec<_> = records(&lab)?
            .iter()
            .map(|record| record["containerId"].as_str().unwrap_or_default().to_owned())
            .collect();
        known.sort();
        Ok(known)
    };
    let gc = |valid: Value| -> Result<_> {
        let call = lab.invoke("GC")?.without_config("prevResult").without_config("runtimeConfig");
        let call = call.without_env("CNI_NETNS").without_env("CNI_CONTAINERID").without_env("CNI_IFNAME");
        call.config("cni.dev/valid-attachments", valid).cni_version("1.1.0").run()
    };
    assert_eq!(known()?, ["one", "three", "two"]);
    let both =
        json!([{ "containerID": "one", "ifname": "eth0" }, { "containerID": "two", "ifname": "eth0" }]);
    assert_eq!(gc(both)?.expect_success(), Value::Null);
    assert_eq!(known()?, ["one", "three", "two"]);
    gc(json!([{ "containerID": "one", "ifname": "eth0" }, { "containerID": "two", "ifname": "net1" }]))?
        .expect_success();
    assert_eq!(known()?, ["one", "three"]);
    gc(json!([]))?.expect_success();
    gc(json!([]))?.expect_success();
    assert_eq!(known()?, ["three"]);
    // Forgotten is the record: the pods are alive.
    for pod in &pods {
        assert!(!pod.ruleset()?.is_empty(), "{}", pod.name());
    }
    let without = lab.invoke("GC")?.without_config("prevResult").cni_version("1.1.0").run()?;
    without.expect_error(7);
    assert_eq!(known()?, ["three"]);
    Ok(())
}
