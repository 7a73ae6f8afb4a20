//! Wrong input: one JSON error with the code of the page, and no rule left behind.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_tests::kernel::netns::read_only_sysctls;
use culvert_tests::pod::plugin::ANNOTATIONS;
use culvert_tests::{Family, Invocation, Lab, eventually};
use serde_json::json;

/// Runs a wrong call and checks that it is answered with one of these codes, by a message that holds all of `words`,
/// and leaves nothing behind.
fn refused(lab: &Lab, what: &str, call: Invocation<'_>, codes: &[u64], words: &[&str]) -> Result<()> {
    let outcome = call.run()?;
    let document = outcome.document().unwrap_or_else(|| panic!("{what}: nothing was printed\n{outcome}"));
    let code = document["code"].as_u64().unwrap_or_else(|| panic!("{what}: no code\n{outcome}"));
    assert!(codes.contains(&code), "{what}: expected {codes:?}\n{outcome}");
    let error = outcome.expect_error(code);
    let said = format!("{} {}", error.msg, error.details);
    for word in words {
        assert!(said.contains(word), "{what}: the message does not say {word:?}\n{outcome}");
    }
    assert!(!said.contains('\n'), "{what}: the message has several lines\n{outcome}");
    assert!(outcome.took < Duration::from_secs(5), "{what}: answered after {:?}", outcome.took);
    let left = lab.pod.ruleset()?;
    assert!(left.is_empty(), "{what} left {left}");
    assert_eq!(lab.pod.addresses("lo")?, Family::BOTH.map(Family::loopback), "{what}");
    assert!(lab.node.ruleset()?.is_empty(), "{what}: the node got rules");
    Ok(())
}

#[test]
fn the_environment_is_checked() -> Result<()> {
    let lab = Lab::new()?;
    let add = || anyhow::Ok(lab.invoke("ADD")?.redirect());
    let calls = [
        ("no verb", add()?.without_env("CNI_COMMAND"), "CNI_COMMAND"),
        ("an empty verb", add()?.env("CNI_COMMAND", ""), "CNI_COMMAND"),
        ("an unknown verb", add()?.env("CNI_COMMAND", "ATTACH"), "ATTACH"),
        ("a verb in small letters", add()?.env("CNI_COMMAND", "add"), "add"),
        ("no container id", add()?.without_env("CNI_CONTAINERID"), "CNI_CONTAINERID"),
        ("an empty container id", add()?.env("CNI_CONTAINERID", ""), "CNI_CONTAINERID"),
        (
            "a container id that is a path",
            add()?.env("CNI_CONTAINERID", "../../etc/passwd"),
            "CNI_CONTAINERID",
        ),
        (
            "a container id that starts with a dot",
            add()?.env("CNI_CONTAINERID", ".hidden"),
            "CNI_CONTAINERID",
        ),
        ("a container id with a space", add()?.env("CNI_CONTAINERID", "a b"), "CNI_CONTAINERID"),
        ("no interface", add()?.without_env("CNI_IFNAME"), "CNI_IFNAME"),
        ("an empty interface", add()?.env("CNI_IFNAME", ""), "CNI_IFNAME"),
        ("an interface that is too long", add()?.env("CNI_IFNAME", "a234567890123456"), "CNI_IFNAME"),
        ("an interface with a slash", add()?.env("CNI_IFNAME", "eth/0"), "CNI_IFNAME"),
        ("an interface with a colon", add()?.env("CNI_IFNAME", "eth0:1"), "CNI_IFNAME"),
        ("an interface that is a dot", add()?.env("CNI_IFNAME", "."), "CNI_IFNAME"),
        ("no namespace", add()?.without_env("CNI_NETNS"), "CNI_NETNS"),
        ("an empty namespace", add()?.env("CNI_NETNS", ""), "CNI_NETNS"),
    ];
    for (what, call, variable) in calls {
        refused(&lab, what, call, &[4], &[variable])?;
    }
    Ok(())
}

#[test]
fn an_environment_that_is_no_text_is_refused() -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let lab = Lab::new()?;
    let noise = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    for variable in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME"] {
        refused(&lab, variable, lab.invoke("ADD")?.redirect().env(variable, noise), &[4], &[variable])?;
    }
    refused(&lab, "CNI_NETNS", lab.invoke("ADD")?.redirect().env("CNI_NETNS", noise), &[4, 8], &[])?;
    // What is not ours may hold anything.
    lab.invoke("ADD")?.redirect().env("SOMETHING", noise).run()?.expect_success();
    Ok(())
}

#[test]
fn a_container_id_may_be_in_capitals() -> Result<()> {
    let lab = Lab::new()?;
    for id in ["CNI-ABC_123.x", "0", "a"] {
        lab.invoke("ADD")?.redirect().env("CNI_CONTAINERID", id).run()?.expect_success();
        lab.invoke("DEL")?.env("CNI_CONTAINERID", id).run()?.expect_success();
        assert!(lab.pod.ruleset()?.is_empty());
    }
    Ok(())
}

#[test]
fn the_namespace_is_checked() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.folder().join("a-file");
    fs::write(&file, "no namespace")?;
    let node = lab.node.namespace().path();
    let mount_namespace = format!("/proc/{}/ns/mnt", std::process::id());
    let add = || anyhow::Ok(lab.invoke("ADD")?.redirect());
    let calls = [
        ("a path that does not exist", add()?.env("CNI_NETNS", "/var/run/netns/gone"), "/var/run/netns/gone"),
        ("a relative path", add()?.env("CNI_NETNS", "no/such/netns"), "no/such/netns"),
        ("a regular file", add()?.env("CNI_NETNS", &file), "a-file"),
        ("a folder", add()?.env("CNI_NETNS", lab.folder()), "culvert-lab-"),
        ("a device", add()?.env("CNI_NETNS", "/dev/null"), "/dev/null"),
        ("a namespace of another kind", add()?.env("CNI_NETNS", &mount_namespace), "ns/mnt"),
        ("the host's own namespace", add()?.env("CNI_NETNS", &node), "host"),
        ("the plugin's own namespace", add()?.env("CNI_NETNS", "/proc/self/ns/net"), "host"),
        ("the plugin's thread's namespace", add()?.env("CNI_NETNS", "/proc/thread-self/ns/net"), "host"),
    ];
    for (what, call, words) in calls {
        refused(&lab, what, call, &[8], &[words])?;
    }
    Ok(())
}

#[test]
fn a_named_pipe_as_namespace_does_not_hang() -> Result<()> {
    let lab = Lab::new()?;
    let pipe = lab.folder().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    assert!(made.success());
    refused(&lab, "a named pipe", lab.invoke("ADD")?.redirect().env("CNI_NETNS", &pipe), &[8], &["pipe"])
}

#[test]
fn standard_input_is_checked() -> Result<()> {
    let lab = Lab::new()?;
    let whole = lab.invoke("ADD")?.redirect().netconf().to_string();
    let inputs: [(&str, Vec<u8>); 11] = [
        ("nothing", vec![]),
        ("a blank", b" \n".to_vec()),
        ("no JSON", b"hello".to_vec()),
        ("half a document", whole.as_bytes()[..whole.len() / 2].to_vec()),
        ("two documents", [whole.as_bytes(), whole.as_bytes()].concat()),
        ("a list", b"[]".to_vec()),
        ("a number", b"1".to_vec()),
        ("null", b"null".to_vec()),
        (
            "bytes outside a string that are no text",
            b"{\"cniVersion\":\"1.0.0\",\xff\xfe\"name\":\"lab\",\"type\":\"culvert-cni\"}".to_vec(),
        ),
        ("a version that is a number", br#"{"cniVersion":1,"name":"lab","type":"culvert-cni"}"#.to_vec()),
        ("NUL bytes", vec![0; 4096]),
    ];
    for (what, stdin) in inputs {
        refused(&lab, what, lab.invoke("ADD")?.stdin(stdin), &[6], &[])?;
    }
    Ok(())
}

#[test]
fn brackets_without_end_do_not_crash_it() -> Result<()> {
    let lab = Lab::new()?;
    let brackets = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for place in ["runtimeConfig", "redirect", "excludeNamespaces"] {
        // Not the machine's own log.
        let stdin = format!(
            r#"{{"cniVersion":"1.0.0","name":"lab","type":"culvert-cni","logFile":"","prevResult":{{}},"{place}":{brackets}}}"#
        );
        refused(&lab, place, lab.invoke("ADD")?.stdin(stdin), &[6, 7], &[])?;
    }
    Ok(())
}

#[test]
fn versions_that_the_page_does_not_name_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    for version in ["0.1.0", "0.2.0", "0.9.9", "2.0.0", "1.0", "", "one"] {
        let call = lab.invoke("ADD")?.redirect().cni_version(version);
        refused(
            &lab,
            version,
            call,
            &[1],
            if version.is_empty() { &[] } else { std::slice::from_ref(&version) },
        )?;
    }
    Ok(())
}

#[test]
fn without_a_previous_result_there_is_nothing_to_chain() -> Result<()> {
    let lab = Lab::new()?;
    let add = || anyhow::Ok(lab.invoke("ADD")?.redirect());
    refused(&lab, "no prevResult", add()?.without_config("prevResult"), &[7], &["prevResult"])?;
    refused(&lab, "prevResult null", add()?.config("prevResult", json!(null)), &[7], &["prevResult"])
}

#[test]
fn an_annotation_outside_the_grammar_is_named_with_its_value() -> Result<()> {
    let lab = Lab::new()?;
    let annotations = [
        ("redirect", &["", "on", "true", "ENABLED", "enabled ; drop"][..]),
        (
            "proxy-uid",
            &["0", "-1", "root", "4294967295", "4294967296", "99999999999999999999", "5678;", "0x10", "1.5"],
        ),
        ("redirect-inbound", &["yes", "1", "Disabled"]),
        ("redirect-outbound", &["no", "0"]),
        ("inbound-port", &["0", "65536", "-1", "http", "15006,15007", "1 5006"]),
        ("outbound-port", &["0", "65536", "abc"]),
        ("status-port", &["0", "70000", "x"]),
        (
            "exclude-inbound-ports",
            &[
                "0",
                "65536",
                "22-",
                "-22",
                "30-20",
                "22,,23",
                "ssh",
                "22;23",
                "22-30-40",
                "{ 22 }",
                "22 accept",
            ],
        ),
        ("exclude-outbound-ports", &["0", "99999", "1-0", "a-b", "80,x", "80 443"]),
    ];
    for (name, values) in annotations {
        for value in values {
            let mut call = lab.invoke("ADD")?.annotation(&format!("culvert.dev/{name}"), value);
            if name != "redirect" {
                call = call.redirect();
            }
            let shown = value.trim();
            refused(
                &lab,
                &format!("{name}: {value:?}"),
                call,
                &[7],
                &[&format!("culvert.dev/{name}"), shown],
            )?;
        }
    }
    Ok(())
}

#[test]
fn an_unknown_annotation_of_ours_does_not_pass_in_silence() -> Result<()> {
    let lab = Lab::new()?;
    for name in ["redirekt", "exclude-inbound-port", "Redirect", "", "redirect/x"] {
        let key = format!("culvert.dev/{name}");
        // On a pod without `redirect` too: the user may have meant it.
        refused(&lab, &key, lab.invoke("ADD")?.annotation(&key, "enabled"), &[7], &[&key])?;
        refused(&lab, &key, lab.invoke("ADD")?.redirect().annotation(&key, "enabled"), &[7], &[&key])?;
    }
    Ok(())
}

#[test]
fn ports_that_collide_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    for annotations in [
        [("inbound-port", "15001"), ("outbound-port", "15001")],
        [("inbound-port", "7000"), ("outbound-port", "7000")],
        [("inbound-port", "15020"), ("outbound-port", "15001")],
        [("status-port", "15006"), ("inbound-port", "15006")],
    ] {
        let call = lab.invoke("ADD")?.redirect().annotations(&annotations);
        refused(&lab, &format!("{annotations:?}"), call, &[7], &["ports", "differ", annotations[0].1])?;
    }
    Ok(())
}

#[test]
fn annotations_of_another_type_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    for annotations in
        [json!([]), json!("redirect=enabled"), json!(1), json!({ "culvert.dev/redirect": true })]
    {
        let call = lab.invoke("ADD")?.config("runtimeConfig", json!({ ANNOTATIONS: annotations }));
        refused(&lab, &annotations.to_string(), call, &[6, 7], &[])?;
    }
    Ok(())
}

#[test]
fn a_failed_replacement_leaves_the_old_rules() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("exclude-inbound-ports", "22")])?.expect_success();
    let before = lab.pod.ruleset()?;
    lab.add(&[("exclude-inbound-ports", "no port")])?.expect_error(7);
    lab.invoke("ADD")?.redirect().without_config("prevResult").run()?.expect_error(7);
    assert_eq!(lab.pod.ruleset()?, before);
    Ok(())
}

#[test]
fn an_error_is_written_in_the_version_of_the_call() -> Result<()> {
    let lab = Lab::new()?;
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let outcome =
            lab.invoke("ADD")?.cni_version(version).annotations(&[("redirect", "perhaps")]).run()?;
        assert_eq!(outcome.expect_error(7).cni_version, version);
    }
    Ok(())
}

#[test]
fn each_call_logs_to_the_file_and_one_line_to_standard_error() -> Result<()> {
    let lab = Lab::new()?;
    let outcome = lab.add(&[("exclude-inbound-ports", "no port")])?;
    outcome.expect_error(7);
    assert_eq!(outcome.stderr.trim_end().lines().count(), 1, "{outcome}");
    assert!(lab.plugin_log().contains("exclude-inbound-ports"), "{}", lab.plugin_log());
    Ok(())
}

#[test]
fn a_log_that_cannot_be_written_stops_no_pod() -> Result<()> {
    let lab = Lab::new()?;
    let call = lab.invoke("ADD")?.redirect().config("logFile", "/proc/no/such/folder/cni.log");
    call.run()?.expect_success();
    assert!(!lab.pod.ruleset()?.is_empty());
    Ok(())
}

#[test]
fn a_state_folder_that_cannot_be_written_stops_no_pod() -> Result<()> {
    let lab = Lab::new()?;
    let call = |verb| anyhow::Ok(lab.invoke(verb)?.redirect().config("stateDir", "/proc/no/such/folder"));
    call("ADD")?.run()?.expect_success();
    assert!(!lab.pod.ruleset()?.is_empty());
    assert!(lab.plugin_log().contains("/proc/no/such/folder"), "{}", lab.plugin_log());
    call("DEL")?.run()?.expect_success();
    assert!(lab.pod.ruleset()?.is_empty());
    Ok(())
}

#[test]
fn where_the_kernel_refuses_a_sysctl_nothing_is_left() -> Result<()> {
    let lab = Lab::new()?;
    let call = lab.invoke("ADD")?.redirect().beforehand(read_only_sysctls);
    refused(&lab, "read-only sysctls", call, &[101], &["/proc/sys"])?;
    // The next attempt may succeed.
    lab.add(&[])?.expect_success();
    Ok(())
}

#[test]
fn where_the_kernel_refuses_the_rules_nothing_is_left() -> Result<()> {
    let lab = Lab::new()?;
    let names = ["net.ipv4.tcp_tw_reuse", "net.ipv4.ip_local_reserved_ports"];
    let before = names.map(|name| lab.pod.sysctl(name).ok());
    // A table that belongs to a living program cannot be changed by another one.
    let mut command = Command::new("nft");
    command.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut owner = lab.pod.namespace().run(|| command.spawn()).context("cannot start nft")?;
    let mut orders = owner.stdin.take().context("no standard input")?;
    writeln!(orders, "add table inet culvert {{ flags owner; }}")?;
    eventually!(lab.pod.ruleset().is_ok_and(|rules| rules.tables == ["inet culvert"]));
    let foreign = lab.pod.ruleset()?;

    lab.add(&[])?.expect_error(101);
    assert_eq!(lab.pod.ruleset()?, foreign);
    assert_eq!(lab.pod.addresses("lo")?, Family::BOTH.map(Family::loopback));
    assert_eq!(names.map(|name| lab.pod.sysctl(name).ok()), before);

    drop(orders);
    owner.wait()?;
    lab.add(&[])?.expect_success();
    Ok(())
}
