// SPDX-License-Identifier: Apache-2.0
//! A list that is mounted by itself cannot be replaced: it stays, and a list of ours is before it.

use super::*;

/// Our list before it.
const OURS: &str = "10-net.0-culvert.conflist";

#[test]
fn a_list_that_is_a_bind_mount_gets_a_list_before_it_that_follows() -> Result<()> {
    let node = with_list()?;
    let theirs = node.at("etc/culvert/theirs");
    fs::write(&theirs, LIST)?;
    let before = node.kept(CONFIGURATIONS)?;
    let mount =
        format!("mount --bind {} {} && exec \"$@\"", theirs.display(), node.configuration(NAME).display());
    let agent = node.agent_behind(&["unshare", "--mount", "sh", "-euc", &mount, "sh"], &[])?.ready()?;
    ensure!(agent.get("/ready")?.body.contains(OURS), "{}", agent.get("/ready")?.body);
    assert!(has_entry(&node.configuration(OURS)));
    assert_eq!(fs::read_to_string(&theirs)?, LIST);
    // Into the mounted file, as it cannot be replaced: no event of the folder.
    let anew = LIST.replace("\"bridge\"", "\"bridge\", \"mtu\": 1400");
    fs::write(&theirs, &anew)?;
    let ours = || fs::read_to_string(node.configuration(OURS)).unwrap_or_default();
    eventually!(ours().contains("1400") && has_entry(&node.configuration(OURS)), 10 * HEALS_WITHIN);
    assert_eq!(agent.metric("culvert_agent_fights_total")?, 0.0, "{}", agent.log());
    // Our entry is taken out of ours.
    renamed_in(&node, OURS, &anew)?;
    eventually!(has_entry(&node.configuration(OURS)), HEALS_WITHIN);
    let writes = agent.metric("culvert_agent_entry_writes_total")?;
    ensure!(writes < 10.0, "written {writes} times\n{}", agent.log());
    assert_eq!(fs::read_to_string(&theirs)?, anew);
    agent.terminate()?;
    // Without the mount the list itself gets the entry.
    node.agent(&[])?.ready()?.terminate()?;
    assert!(has_entry(&node.configuration(NAME)) && !node.configuration(OURS).exists());
    node.uninstall()?;
    assert_eq!(node.kept(CONFIGURATIONS)?, before);
    Ok(())
}
