//! The plugin, verb by verb.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use culvert_tests::lab::host::Host;
use culvert_tests::pod::plugin::{ANNOTATIONS, previous_result};
use culvert_tests::server::echo;
use culvert_tests::{Family, Lab, Landing};
use serde_json::{Value, json};

use crate::annotations::holds_port;
use crate::support::{APP, Rows};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn add_prints_the_previous_result_exactly_as_it_came() -> Result<()> {
    for version in VERSIONS {
        let lab = Lab::new()?;
        // Numbers, escapes, spaces and order that a rewrite would change.
        let previous = format!(
            r#"{{ "ips" : [{{"version":"4","address": "10.77.0.2/24","x":1.50e1}}],  "cniVersion":"{version}", "interfaces":[], "dns":{{}}, "caf\u00e9":"\u00fc\/", "x-large":12345678901234567890123 }}"#
        );
        let netconf = format!(
            r#"{{"cniVersion":"{version}","name":"lab","type":"culvert-cni","logFile":"{log}","stateDir":"{state}","runtimeConfig":{{"{ANNOTATIONS}":{{"culvert.dev/redirect":"enabled"}}}},"prevResult":{previous}}}"#,
            log = lab.folder().join("cni.log").display(),
            state = lab.folder().join("attachments").display(),
        );
        let outcome = lab.invoke("ADD")?.stdin(netconf).run()?;
        outcome.expect_success();
        assert_eq!(String::from_utf8(outcome.stdout)?.trim(), previous, "cniVersion {version}");
        assert!(!lab.pod.ruleset()?.is_empty());
    }
    Ok(())
}

#[test]
fn add_understands_every_version_of_cni_that_the_page_names() -> Result<()> {
    for version in VERSIONS {
        let lab = Lab::new()?;
        let added = lab.invoke("ADD")?.redirect().cni_version(version).run()?.expect_success();
        let mut expected = previous_result();
        expected["cniVersion"] = version.into();
        assert_eq!(added, expected);
        assert_eq!(lab.invoke("DEL")?.cni_version(version).run()?.expect_success(), Value::Null);
        assert!(lab.pod.ruleset()?.is_empty());
    }
    Ok(())
}

#[test]
fn version_answers_without_a_configuration() -> Result<()> {
    let lab = Lab::new()?;
    let with_config = lab.invoke("VERSION")?.run()?.expect_success();
    for stdin in
        ["", "{}", r#"{"cniVersion":"1.0.0"}"#, r#"{"cniVersion":"1.1.0","name":"x","type":"culvert-cni"}"#]
    {
        let version = lab
            .invoke("VERSION")?
            .stdin(stdin)
            .without_env("CNI_NETNS")
            .without_env("CNI_IFNAME")
            .without_env("CNI_CONTAINERID")
            .without_env("CNI_ARGS")
            .without_env("CNI_PATH")
            .run()?
            .expect_success();
        assert_eq!(version["supportedVersions"], json!(VERSIONS), "stdin {stdin:?}");
        assert_eq!(version["supportedVersions"], with_config["supportedVersions"]);
    }
    Ok(())
}

#[test]
fn a_pod_that_is_not_onboarded_goes_through_untouched() -> Result<()> {
    let lab = Lab::new()?;
    let calls = [
        ("no annotation", lab.invoke("ADD")?),
        ("redirect disabled", lab.invoke("ADD")?.annotation("culvert.dev/redirect", "disabled")),
        ("somebody else's annotations", lab.invoke("ADD")?.annotation("example.com/redirect", "enabled")),
        (
            "the injector's annotations",
            lab.invoke("ADD")?.annotation("inject.culvert.dev/anything", "at all"),
        ),
        ("annotations are null", lab.invoke("ADD")?.config("runtimeConfig", json!({ ANNOTATIONS: null }))),
        (
            "the namespace is excluded",
            lab.invoke("ADD")?
                .redirect()
                .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=x"),
        ),
    ];
    for (what, call) in calls {
        assert_eq!(call.run()?.expect_success(), previous_result(), "{what}");
        assert!(lab.pod.ruleset()?.is_empty(), "{what}: {}", lab.pod.ruleset()?);
        assert_eq!(lab.pod.addresses("lo")?, Family::BOTH.map(Family::loopback), "{what}");
    }
    Ok(())
}

#[test]
fn an_excluded_namespace_is_the_configurations_choice() -> Result<()> {
    let lab = Lab::new()?;
    let call = lab.invoke("ADD")?.redirect().config("excludeNamespaces", json!(["default", "other"]));
    assert_eq!(call.run()?.expect_success(), previous_result());
    assert!(lab.pod.ruleset()?.is_empty());
    Ok(())
}

#[test]
fn a_second_add_leaves_the_same_rules() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("exclude-inbound-ports", "22")])?.expect_success();
    let first = lab.pod.ruleset()?;
    let addresses = lab.pod.addresses("lo")?;
    let reserved = lab.pod.sysctl("net.ipv4.ip_local_reserved_ports")?;
    for _ in 0..2 {
        lab.add(&[("exclude-inbound-ports", "22")])?.expect_success();
        // Not even replaced by equal ones: what is under way keeps its connection tracking.
        assert_eq!(lab.pod.ruleset()?, first);
        assert_eq!(lab.pod.addresses("lo")?, addresses);
        assert_eq!(lab.pod.sysctl("net.ipv4.ip_local_reserved_ports")?, reserved);
    }
    Ok(())
}

#[test]
fn an_add_with_other_annotations_replaces_the_rules() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("exclude-inbound-ports", "22")])?.expect_success();
    lab.add(&[("exclude-inbound-ports", "8080"), ("proxy-uid", "1234")])?.expect_success();
    let replaced = lab.pod.ruleset()?;

    let fresh = Lab::new()?;
    fresh.add(&[("exclude-inbound-ports", "8080"), ("proxy-uid", "1234")])?.expect_success();
    assert!(replaced.says_the_same_as(&fresh.pod.ruleset()?));
    Ok(())
}

#[test]
fn del_takes_the_rules_away() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    assert!(!lab.pod.ruleset()?.is_empty());
    assert_eq!(lab.del()?.expect_success(), Value::Null);
    assert!(lab.pod.ruleset()?.is_empty(), "{}", lab.pod.ruleset()?);

    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        landing.target(&lab.peer, (family.outside(), 80))?;
        landing.target(&lab.pod, (family.pod(), 8080))?;
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
        rows.direct("peer", lab.peer.as_root(), (family.pod(), 8080))?;
    }
    Ok(())
}

#[test]
fn del_always_succeeds() -> Result<()> {
    let lab = Lab::new()?;
    lab.del()?.expect_success();
    lab.add(&[])?.expect_success();
    lab.del()?.expect_success();
    // As containerd repeats it.
    lab.invoke("DEL")?.env("CNI_NETNS", "").without_config("prevResult").run()?.expect_success();
    lab.invoke("DEL")?.without_env("CNI_NETNS").run()?.expect_success();
    lab.invoke("DEL")?.env("CNI_NETNS", "/var/run/netns/gone").run()?.expect_success();
    lab.invoke("DEL")?.annotation("culvert.dev/redirect", "no such value").run()?.expect_success();
    Ok(())
}

#[test]
fn del_succeeds_when_the_pods_namespace_is_gone() -> Result<()> {
    let lab = Lab::new()?;
    let pod = Host::new("short-lived")?;
    let path = pod.namespace().path();
    lab.invoke_for(&pod, "ADD")?.redirect().run()?.expect_success();
    let del = lab.invoke_for(&pod, "DEL")?;
    drop(pod);
    assert!(!path.exists());
    del.run()?.expect_success();
    assert_eq!(attachments(&lab)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn del_leaves_the_rules_of_another_container_alone() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let before = lab.pod.ruleset()?;
    lab.invoke("DEL")?.env("CNI_CONTAINERID", "another").run()?.expect_success();
    assert_eq!(lab.pod.ruleset()?, before);
    Ok(())
}

#[test]
fn del_leaves_the_rules_of_others_alone() -> Result<()> {
    let lab = Lab::new()?;
    let neighbour = |arguments: &[&str]| -> Result<()> {
        let status =
            lab.pod.namespace().run(|| std::process::Command::new("nft").args(arguments).status())?;
        assert!(status.success(), "nft {arguments:?}");
        Ok(())
    };
    neighbour(&["add", "table", "inet", "neighbour"])?;
    neighbour(&["add", "chain", "inet", "neighbour", "out", "{ type filter hook output priority 0; }"])?;
    neighbour(&["add", "rule", "inet", "neighbour", "out", "counter"])?;
    let before = lab.pod.ruleset()?;
    lab.add(&[])?.expect_success();
    lab.add(&[("proxy-uid", "77")])?.expect_success();
    lab.del()?.expect_success();
    assert!(lab.pod.ruleset()?.tables == before.tables && lab.pod.ruleset()?.chains == before.chains);
    assert_eq!(lab.pod.ruleset()?.rules.len(), before.rules.len());
    Ok(())
}

#[test]
fn a_living_pod_keeps_its_rules_until_its_last_attachment_goes() -> Result<()> {
    let mut lab = Lab::new()?;
    let _second = lab.another_peer()?;
    lab.add(&[])?.expect_success();
    lab.invoke("ADD")?.redirect().env("CNI_IFNAME", "eth1").run()?.expect_success();
    lab.invoke("DEL")?.env("CNI_IFNAME", "eth1").run()?.expect_success();
    assert!(!lab.pod.ruleset()?.is_empty());
    lab.del()?.expect_success();
    assert!(lab.pod.ruleset()?.is_empty());
    Ok(())
}

#[test]
fn each_attachment_has_one_record_that_only_root_reads() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    lab.add(&[])?.expect_success();
    let records = attachments(&lab)?;
    assert_eq!(records.len(), 1, "{records:?}");
    let folder = lab.folder().join("attachments");
    let mode = |path| -> Result<u32> { Ok(fs::metadata(path)?.permissions().mode() & 0o7777) };
    assert_eq!(mode(folder.clone())?, 0o700);
    assert_eq!(mode(folder.join(&records[0]))?, 0o600);
    let _: Value = serde_json::from_slice(&fs::read(folder.join(&records[0]))?)?;
    lab.del()?.expect_success();
    assert_eq!(attachments(&lab)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn add_sets_what_redirected_connections_need_of_the_kernel() -> Result<()> {
    let lab = Lab::new()?;
    lab.pod.set_sysctl("net.ipv4.ip_local_reserved_ports", "4000-4010")?;
    lab.add(&[])?.expect_success();
    // Half-closed connections live for the idle timeout's sake, not for the kernel's minute.
    assert_eq!(lab.pod.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close_wait")?, "43200");
    // A new connection does not follow the decision about one that was reset, or never answered.
    assert_eq!(lab.pod.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close")?, "0");
    assert_eq!(lab.pod.sysctl("net.netfilter.nf_conntrack_tcp_timeout_syn_sent")?, "5");
    assert_eq!(lab.pod.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal")?, "1");
    assert_eq!(lab.pod.sysctl("net.ipv4.tcp_tw_reuse")?, "1");
    let reserved = lab.pod.sysctl("net.ipv4.ip_local_reserved_ports")?;
    for port in ["15001", "15006", "15020", "4000", "4010"] {
        assert!(holds_port(&reserved, port), "{port} is not in {reserved}");
    }
    for family in Family::BOTH {
        assert!(
            family == Family::V4 || lab.pod.addresses("lo")?.contains(&family.hop()),
            "{family}: no hop address"
        );
    }
    Ok(())
}

#[test]
fn the_nodes_own_namespace_stays_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let names = [
        "net.netfilter.nf_conntrack_tcp_be_liberal",
        "net.ipv4.tcp_tw_reuse",
        "net.ipv4.ip_local_reserved_ports",
    ];
    let before = names.map(|name| lab.node.sysctl(name).ok());
    lab.add(&[])?.expect_success();
    assert!(lab.node.ruleset()?.is_empty());
    assert_eq!(lab.node.addresses("lo")?, Family::BOTH.map(Family::loopback));
    assert_eq!(names.map(|name| lab.node.sysctl(name).ok()), before);
    Ok(())
}

#[test]
fn add_needs_no_other_program() -> Result<()> {
    let lab = Lab::new()?;
    lab.invoke("ADD")?.redirect().env("PATH", "").run()?.expect_success();
    let with_empty_path = lab.pod.ruleset()?;
    lab.del()?.expect_success();
    lab.invoke("ADD")?.redirect().without_env("PATH").without_env("CNI_PATH").run()?.expect_success();
    assert!(lab.pod.ruleset()?.says_the_same_as(&with_empty_path));
    Ok(())
}

#[test]
fn add_answers_in_time() -> Result<()> {
    let lab = Lab::new()?;
    let outcome = lab.add(&[])?;
    outcome.expect_success();
    assert!(outcome.took < Duration::from_secs(1), "{:?}", outcome.took);
    Ok(())
}

#[test]
fn adds_at_the_same_time_leave_one_set_of_rules() -> Result<()> {
    let alone = Lab::new()?;
    alone.add(&[])?.expect_success();
    for _ in 0..5 {
        let lab = Lab::new()?;
        // A runtime takes turns, but an agent that repairs the pod does not wait for it.
        thread::scope(|scope| {
            let calls = [(); 8].map(|()| scope.spawn(|| lab.add(&[])));
            calls.into_iter().try_for_each(|call| {
                call.join().expect("the call does not panic").map(|outcome| drop(outcome.expect_success()))
            })
        })?;
        let together = lab.pod.ruleset()?;
        assert!(together.says_the_same_as(&alone.pod.ruleset()?), "{together}");
    }
    Ok(())
}

#[test]
fn a_connection_that_is_open_survives_a_second_add() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let _sidecar = lab.pod.sidecar().start()?;
    let server = lab.peer.serve("192.0.2.10:80", echo())?;
    let mut stream = lab.pod.as_uid(APP).connect(&server)?;
    let mut ask = |question: &[u8; 4]| -> Result<[u8; 4]> {
        let mut answer = [0; 4];
        stream.write_all(question)?;
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    assert_eq!(&ask(b"one.")?, b"one.");
    lab.add(&[])?.expect_success();
    assert_eq!(&ask(b"two.")?, b"two.");
    lab.add(&[("exclude-inbound-ports", "22")])?.expect_success();
    assert_eq!(&ask(b"tri.")?, b"tri.");
    Ok(())
}

/// Names of the records in the state folder.
fn attachments(lab: &Lab) -> Result<Vec<String>> {
    let folder = lab.folder().join("attachments");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| !name.as_ref().is_ok_and(|name| name.ends_with(".lock")))
        .collect()
}
