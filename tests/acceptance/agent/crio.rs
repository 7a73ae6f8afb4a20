// SPDX-License-Identifier: Apache-2.0
//! On a node of CRI-O the entry is in the file that CRI-O takes, also when a plugin comes or goes.

use super::*;

/// The file that comes first.
const FIRST: &str = "05-first.conflist";

/// A node of CRI-O with two networks, and a plugin `bridge` that speaks 0.3.1 and 1.0.0.
fn of_crio() -> Result<Mounted> {
    let node = with_list()?;
    fs::create_dir_all(node.at("etc/crio"))?;
    fs::write(node.at("etc/crio/crio.conf"), "[crio.network]\nplugin_dirs = [\"/opt/cni/bin\"]\n")?;
    fs::write(node.configuration(FIRST), LIST.replace("bridge", "first").replace("\"net\"", "\"first\""))?;
    speaks(&node, "bridge", &["0.3.1", "1.0.0"])?;
    Ok(node)
}

/// Puts a plugin into the folder that speaks these versions.
fn speaks(node: &Mounted, kind: &str, versions: &[&str]) -> Result<()> {
    let answer = serde_json::json!({ "cniVersion": "1.0.0", "supportedVersions": versions });
    let new = node.at("new-plugin");
    fs::write(&new, format!("#!/bin/sh\necho '{answer}'\n"))?;
    fs::set_permissions(&new, Permissions::from_mode(0o755))?;
    Ok(fs::rename(new, node.at(PLUGINS).join(kind))?)
}

fn is_ready_in(agent: &MountedAgent, name: &str) -> bool {
    agent.get("/ready").is_ok_and(|ready| ready.status == 200 && ready.body.contains(name))
}

#[test]
fn a_plugin_that_comes_or_goes_moves_the_entry() -> Result<()> {
    let node = of_crio()?;
    let agent = node.agent(&[])?.ready()?;
    ensure!(
        is_ready_in(&agent, NAME) && has_entry(&node.configuration(NAME)),
        "{}",
        agent.get("/ready")?.body
    );
    ensure!(!has_entry(&node.configuration(FIRST)));
    let found = looks::found(&node, "network")?;
    ensure!(
        found.contains(NAME) && found.contains("05-first.conflist: its plugin first is in none"),
        "{found}"
    );

    speaks(&node, "first", &["0.3.1"])?;
    eventually!(has_entry(&node.configuration(FIRST)) && is_ready_in(&agent, FIRST), 10 * HEALS_WITHIN);
    // Another release, of which CRI-O takes no list of this version.
    speaks(&node, "first", &["1.0.0"])?;
    eventually!(is_ready_in(&agent, NAME), 10 * HEALS_WITHIN);
    let found = looks::found(&node, "network")?;
    ensure!(found.contains("does not speak cniVersion 0.3.1"), "{found}");
    speaks(&node, "first", &["0.3.1"])?;
    eventually!(is_ready_in(&agent, FIRST), 10 * HEALS_WITHIN);
    fs::remove_file(node.at(PLUGINS).join("first"))?;
    eventually!(is_ready_in(&agent, NAME), 10 * HEALS_WITHIN);
    // None is left: no pod can start, and `/ready` names the file.
    fs::remove_file(node.at(PLUGINS).join("bridge"))?;
    eventually!(
        agent.get("/ready").is_ok_and(|ready| ready.status == 503 && ready.body.contains("is in none")),
        10 * HEALS_WITHIN
    );
    // No program took an entry out.
    assert_eq!(agent.metric("culvert_agent_fights_total")?, 0.0, "{}", agent.log());
    ensure!(!agent.log().contains("is put back"), "{}", agent.log());
    Ok(())
}

#[test]
fn the_network_that_crio_is_set_to_gets_the_entry() -> Result<()> {
    let node = of_crio()?;
    speaks(&node, "first", &["0.3.1"])?;
    fs::write(
        node.at("etc/crio/crio.conf"),
        "[crio.network]\nplugin_dirs = [\"/opt/cni/bin\"]\ncni_default_network = \"blue\"\n",
    )?;
    let agent = node.agent(&[])?;
    eventually!(agent.get("/ready").is_ok_and(|ready| ready.body.contains("\"blue\"")), 10 * HEALS_WITHIN);
    let blue = "50-blue.conf";
    fs::write(node.configuration(blue), SINGLE.replace("\"net\"", "\"blue\""))?;
    let agent = agent.ready()?;
    ensure!(is_ready_in(&agent, "50-blue.0-culvert.conflist"), "{}", agent.get("/ready")?.body);
    ensure!(!has_entry(&node.configuration(FIRST)) && !has_entry(&node.configuration(NAME)));
    Ok(())
}

#[test]
fn a_runtime_that_takes_several_files_gets_no_list_before_a_single_plugin() -> Result<()> {
    let node = Mounted::new()?;
    fs::create_dir_all(node.at("etc/containerd"))?;
    fs::write(
        node.at("etc/containerd/config.toml"),
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nmax_conf_num = 0\n",
    )?;
    fs::write(node.configuration("10-net.conf"), SINGLE)?;
    let agent = node.agent(&[])?;
    eventually!(
        agent.get("/ready").is_ok_and(|ready| ready.status == 503 && ready.body.contains("max_conf_num")),
        10 * HEALS_WITHIN
    );
    assert_eq!(node.kept(CONFIGURATIONS)?.len(), 1);
    Ok(())
}

#[test]
fn ready_names_the_file_in_use_and_a_change_of_file_blames_no_one() -> Result<()> {
    let node = with_list()?;
    let agent = node.agent(&[])?.ready()?;
    let cilium = "05-cilium.conflist";
    renamed_in(&node, cilium, &LIST.replace("bridge", "cilium-cni"))?;
    eventually!(is_ready_in(&agent, cilium), HEALS_WITHIN);
    eventually!(agent.log().contains("uses another file than before"), HEALS_WITHIN);
    // The other one has an entry already.
    fs::remove_file(node.configuration(cilium))?;
    eventually!(is_ready_in(&agent, NAME), HEALS_WITHIN);
    assert_eq!(agent.metric("culvert_agent_fights_total")?, 0.0, "{}", agent.log());
    ensure!(!agent.log().contains("Cilium"), "{}", agent.log());
    // Cilium in exclusive mode does take it.
    fs::rename(node.configuration(NAME), node.configuration("10-net.conflist.cilium_bak"))?;
    renamed_in(&node, cilium, &LIST.replace("bridge", "cilium-cni"))?;
    eventually!(is_ready_in(&agent, cilium), HEALS_WITHIN);
    eventually!(agent.log().contains("cni-exclusive"), HEALS_WITHIN);
    assert_eq!(agent.metric("culvert_agent_fights_total")?, 1.0, "{}", agent.log());
    Ok(())
}
