// SPDX-License-Identifier: Apache-2.0
//! The checks of `doctor` on a node's files.

use super::*;

/// The status of each check about what is on the node, by its name.
fn doctor(node: &Mounted) -> Result<Vec<(String, String)>> {
    let mut command = node.command(&[], "doctor")?;
    command.args(["--output", "json", "--plugin"]).arg(&Binaries::built()?.cni);
    let output = command.output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let attention = |status: &str| !matches!(status, "ok" | "absent");
    let checks = report["checks"].as_array().context("no checks")?.iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let all: Vec<_> = checks.map(|check| (text(&check["name"]), text(&check["status"]))).collect();
    assert_eq!(output.status.success(), !all.iter().any(|(_, status)| attention(status)), "{all:?}");
    Ok(all
        .into_iter()
        .filter(|(name, _)| ["network", "plugin", "entry", "agent"].contains(&name.as_str()))
        .collect())
}

#[test]
fn doctor_distinguishes_nodes_with_culvert_without_it_and_damaged() -> Result<()> {
    let node = with_list()?;
    let are = |network: &str, plugin: &str, entry: &str, agent: &str| {
        [("network", network), ("plugin", plugin), ("entry", entry), ("agent", agent)]
            .map(|(name, status)| (name.to_owned(), status.to_owned()))
            .to_vec()
    };
    assert_eq!(doctor(&node)?, are("ok", "absent", "absent", "absent"));
    let agent = node.agent(&[])?.ready()?;
    assert_eq!(doctor(&node)?, are("ok", "ok", "ok", "ok"));
    agent.terminate()?;
    assert_eq!(doctor(&node)?, are("ok", "ok", "ok", "degraded"));
    let whole = fs::read(node.plugin())?;
    fs::write(node.plugin(), "#!/bin/false\n")?;
    assert_eq!(doctor(&node)?, are("ok", "degraded", "ok", "degraded"));
    fs::remove_file(node.plugin())?;
    assert_eq!(doctor(&node)?, are("ok", "missing", "ok", "degraded"));
    fs::write(node.plugin(), whole)?;
    fs::set_permissions(node.plugin(), Permissions::from_mode(0o755))?;
    fs::write(node.configuration(NAME), LIST)?;
    assert_eq!(doctor(&node)?, are("ok", "ok", "missing", "absent"));
    fs::write(node.configuration(NAME), "half")?;
    assert_eq!(doctor(&node)?, are("missing", "ok", "missing", "absent"));
    Ok(())
}
