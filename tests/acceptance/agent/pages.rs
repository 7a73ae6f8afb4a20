// SPDX-License-Identifier: Apache-2.0
//! The agent's status port, and two agents on one node.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use culvert_tests::eventually;
use culvert_tests::mounted::{CONFIGURATIONS, has_entry};
use culvert_tests::process::Process;
use culvert_tests::process::binaries::Binaries;

use super::{HEALS_WITHIN, LIST, NAME, renamed_in, with_list};

#[test]
fn every_path_and_method_gets_its_http_status() -> Result<()> {
    let node = with_list()?;
    let agent = node.agent(&[])?.ready()?;
    for (method, path, status) in [
        ("GET", "/ready", 200),
        ("GET", "/ready?verbose=1", 200),
        ("HEAD", "/live", 200),
        ("GET", "/metrics", 200),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/ready", 405),
        ("DELETE", "/live", 405),
    ] {
        let answer = agent.request(method, path)?;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let headers = answer.headers.to_ascii_lowercase();
        // RFC 9110, 15.5.6: a 405 says what is allowed.
        assert_eq!(headers.contains("allow: get, head"), status == 405, "{method} {path}: {headers}");
    }
    agent.terminate().map(drop)
}

#[test]
fn a_status_address_that_is_taken_ends_the_agent_before_it_touches_anything() -> Result<()> {
    let (node, other) = (with_list()?, with_list()?);
    let agent = node.agent(&[])?.ready()?;
    let taken = agent.status_address()?;
    let before = other.kept(CONFIGURATIONS)?;
    let mut late = other.command(&[], "agent")?;
    late.args(["--repair", "off", "--status-address", &taken, "--plugin"]).arg(&Binaries::built()?.cni);
    let mut late = Process::start(late)?;
    assert_eq!(late.wait(Duration::from_secs(20))?.code(), Some(1));
    let said = late.stderr().text();
    assert!(said.contains(&taken) && said.contains("in use"), "{said}");
    assert_eq!(other.kept(CONFIGURATIONS)?, before);
    agent.terminate().map(drop)
}

/// As while a pod of a DaemonSet is replaced by force.
#[test]
fn two_agents_on_one_node_keep_one_entry_and_either_may_go() -> Result<()> {
    let node = with_list()?;
    let list = node.configuration(NAME);
    let (first, second) = (node.agent(&[])?.ready()?, node.agent(&[])?.ready()?);
    for _ in 0..5 {
        renamed_in(&node, NAME, LIST)?;
        eventually!(has_entry(&list), HEALS_WITHIN * 10);
    }
    let ours = fs::read_to_string(&list)?;
    assert_eq!(ours.matches("\"culvert-cni\"").count(), 1, "{ours}");
    first.terminate()?;
    renamed_in(&node, NAME, LIST)?;
    eventually!(has_entry(&list), HEALS_WITHIN * 10);
    second.terminate()?;
    assert!(has_entry(&list));
    node.uninstall()?;
    assert_eq!(fs::read_to_string(&list)?, LIST);
    Ok(())
}
