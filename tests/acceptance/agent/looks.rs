// SPDX-License-Identifier: Apache-2.0
//! `doctor` and `status` see the same of a node's folder as its runtime.

use std::os::unix::fs::symlink;

use culvert_tests::mounted::json_of;
use serde_json::Value;

use super::*;

/// Returns the result of the check `name` of `doctor`.
pub(super) fn found(node: &Mounted, name: &str) -> Result<String> {
    let (_, report) = json_of(node.command(&[], "doctor")?)?;
    let checks = report["checks"].as_array().context("no checks")?;
    let check = checks.iter().find(|check| check["name"] == name).context("no such check")?;
    Ok(check["found"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn doctor_reports_why_a_file_cannot_be_read() -> Result<()> {
    let node = Mounted::new()?;
    let path = node.configuration(NAME);
    let large = LIST.to_owned() + &" ".repeat(2 << 20);
    let broken = [LIST.as_bytes(), b"\xff"].concat();
    for (bytes, reason) in [
        (broken.as_slice(), "it is no JSON object"),
        (large.as_bytes(), "more than 2097152 bytes"),
        (b"", "it is empty"),
    ] {
        fs::write(&path, bytes)?;
        let found = found(&node, "network")?;
        ensure!(found.contains(NAME) && found.contains(reason), "{reason}: {found}");
    }
    fs::remove_file(&path)?;
    symlink("/not/there", &path)?;
    let found = found(&node, "network")?;
    ensure!(found.contains("a link that leads nowhere"), "{found}");
    Ok(())
}

#[test]
fn a_folder_with_the_name_of_a_list_is_passed_over() -> Result<()> {
    let node = with_list()?;
    fs::create_dir(node.configuration("00-folder.conflist"))?;
    let found = found(&node, "network")?;
    ensure!(found.contains(NAME), "{found}");
    node.agent(&[])?.ready()?.terminate()?;
    assert!(has_entry(&node.configuration(NAME)));
    Ok(())
}

#[test]
fn status_finds_the_entry_behind_a_link_and_in_a_drop_in() -> Result<()> {
    let linked = Mounted::new()?;
    fs::write(linked.at("etc/culvert/list"), LIST)?;
    symlink("/etc/culvert/list", linked.configuration(NAME))?;
    for (node, options) in [(linked, &[][..]), (with_list()?, &["--mode", "drop-in"])] {
        let problem = || -> Result<String> {
            let (_, status) = json_of(node.command(&[], "status")?)?;
            Ok(status["problem"].as_str().unwrap_or_default().to_owned())
        };
        ensure!(problem()?.contains("no entry of culvert-cni"), "{}", problem()?);
        node.agent(options)?.ready()?.terminate()?;
        ensure!(!problem()?.contains("no entry of culvert-cni"), "{options:?}: {}", problem()?);
    }
    Ok(())
}

#[test]
fn status_that_cannot_look_says_so_in_json() -> Result<()> {
    let node = with_list()?;
    fs::create_dir_all(node.at("run/culvert"))?;
    fs::write(node.at("run/culvert/attachments"), "no folder")?;
    let (code, status) = json_of(node.command(&[], "status")?)?;
    assert_eq!((code, &status["pods"]), (Some(1), &Value::Array(Vec::new())));
    let problem = status["problem"].as_str().unwrap_or_default();
    ensure!(problem.contains("cannot look"), "{problem}");
    Ok(())
}

#[test]
fn doctor_reads_what_cilium_writes_of_itself() -> Result<()> {
    let node = Mounted::new()?;
    fs::write(node.configuration("05-cilium.conflist"), LIST.replace("bridge", "cilium-cni"))?;
    fs::create_dir_all(node.at("var/run/cilium/state"))?;
    let says = |config: &str| fs::write(node.at("var/run/cilium/state/agent-runtime-config.json"), config);
    let (in_pods, unknown, renamed) = ("works in pods", "cannot be read", "99-x.conf.cilium_bak");
    for (config, finding) in [
        ("{\"EnableSocketLB\":true,\"BPFSocketLBHostnsOnly\":false}", Some(in_pods)),
        ("{\"EnableSocketLB\":true,\"BPFSocketLBHostnsOnly\":true}", None),
        ("{\"EnableSocketLB\":false}", None),
        // A release that keeps them elsewhere.
        ("{\"EnableIPv4\":true}", Some(unknown)),
    ] {
        says(config)?;
        let found = found(&node, "neighbour")?;
        let there = [in_pods, unknown].into_iter().find(|text| found.contains(text));
        assert_eq!(there, finding, "{config}: {found}");
    }
    // Both at once are both reported.
    says("{\"EnableSocketLB\":true}")?;
    fs::write(node.configuration(renamed), "{}")?;
    let found = found(&node, "neighbour")?;
    ensure!(found.contains(in_pods) && found.contains(renamed), "{found}");
    Ok(())
}
