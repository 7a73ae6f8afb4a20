// SPDX-License-Identifier: Apache-2.0
//! The node agent and `uninstall` on a node's files: ours stay and come back, and nothing else changes.

mod again;
mod bound;
mod crio;
mod doctor;
mod go_json;
mod handlers;
mod killed;
mod looks;
mod memory;
mod pages;
mod single;
mod stays;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::eventually;
use culvert_tests::mounted::{CONFIGURATIONS, Kept, Mounted, MountedAgent, PLUGINS, has_entry};
use culvert_tests::process::binaries::Binaries;
use culvert_tests::until::until_some;

/// An attack so soon after the last is taken for an answer to the agent's own write.
const STOOD_FOR: Duration = Duration::from_millis(150);
/// The longest that the agent may take to restore the entry.
const HEALS_WITHIN: Duration = Duration::from_secs(1);
/// A list as many primaries write it.
const LIST: &str = "{\n  \"name\": \"net\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    { \"type\": \"bridge\" }\n  ]\n}\n";
/// The same as one plugin.
const SINGLE: &str = "{ \"name\": \"net\", \"cniVersion\": \"0.3.1\", \"type\": \"bridge\" }\n";
/// File name of the primary's list.
const NAME: &str = "10-net.conflist";

fn with_list() -> Result<Mounted> {
    let node = Mounted::new()?;
    fs::write(node.configuration(NAME), LIST)?;
    Ok(node)
}

/// The samples, each a folder with one file.
fn samples() -> Result<Vec<(String, String, Vec<u8>)>> {
    let mut samples = Vec::new();
    for folder in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("conflists"))? {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        let file = fs::read_dir(folder.path())?.next().context("an empty sample")??;
        let name = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        samples.push((name(folder.file_name()), name(file.file_name()), fs::read(file.path())?));
    }
    ensure!(samples.len() >= 9, "only {} samples", samples.len());
    Ok(samples)
}

/// Removes a folder as often as the agent writes into it meanwhile.
fn remove_folder(path: &Path) -> Result<()> {
    until_some(HEALS_WITHIN, || fs::remove_dir_all(path).ok()).context("the folder does not go")
}

#[test]
fn every_primarys_folder_is_as_it_was_after_the_round_trip() -> Result<()> {
    for (index, (whose, name, bytes)) in samples()?.into_iter().enumerate() {
        let node = Mounted::new()?;
        let path = node.configuration(&name);
        fs::write(&path, &bytes)?;
        fs::set_permissions(&path, Permissions::from_mode([0o600, 0o644, 0o640][index % 3]))?;
        chown(&path, Some(7), Some(8))?;
        // Neighbours in the folder that are none of our business.
        fs::write(
            node.configuration("99-loopback.conf"),
            "{\"name\":\"lo\",\"type\":\"loopback\",\"cniVersion\":\"0.3.1\"}",
        )?;
        fs::write(node.configuration("calico-kubeconfig"), "a secret")?;
        let before = node.kept(CONFIGURATIONS)?;

        let agent = node.agent(&[])?.ready().with_context(|| whose.clone())?;
        let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
        let is_list = name.ends_with(".conflist");
        let list = if is_list { name.clone() } else { format!("{stem}.0-culvert.conflist") };
        let path = node.configuration(&list);
        ensure!(has_entry(&path), "{whose}: no entry in {}", path.display());
        let kept = node.kept(CONFIGURATIONS)?;
        let now = kept.iter().find(|kept| kept.name == list).context("no list")?;
        let then = before.iter().find(|kept| kept.name == name).context("no file")?;
        assert_eq!((now.mode, now.owner), (then.mode, then.owner), "{whose}");
        ensure!(is_list || kept.contains(then), "{whose}: its own file stays as it is");
        agent.terminate()?;
        assert_eq!(node.kept(CONFIGURATIONS)?, kept, "{whose}: SIGTERM removes nothing");

        node.uninstall()?;
        assert_eq!(node.kept(CONFIGURATIONS)?, before, "{whose}");
        assert_eq!(node.kept(PLUGINS)?, [], "{whose}");
        assert!(!node.at("run/culvert").exists(), "{whose}");
    }
    Ok(())
}

#[test]
fn changes_by_others_survive_uninstall() -> Result<()> {
    let node = with_list()?;
    let agent = node.agent(&[])?.ready()?;
    let theirs =
        fs::read_to_string(node.configuration(NAME))?.replace("\"name\": \"net\"", "\"name\": \"other\"");
    fs::write(node.configuration(NAME), &theirs)?;
    agent.terminate()?;
    // Cilium's exclusive mode keeps a file under this name until Cilium goes.
    fs::rename(node.configuration(NAME), node.configuration("10-net.conflist.cilium_bak"))?;
    fs::write(node.configuration("05-cilium.conflist"), LIST)?;
    node.agent(&[])?.ready()?.terminate()?;
    assert!(has_entry(&node.configuration("05-cilium.conflist")));

    node.uninstall()?;
    assert_eq!(fs::read_to_string(node.configuration("05-cilium.conflist"))?, LIST);
    let expected = LIST.replace("\"net\"", "\"other\"");
    assert_eq!(fs::read_to_string(node.configuration("10-net.conflist.cilium_bak"))?, expected);
    assert!(node.uninstall()?.contains("nothing of culvert was on this node"));
    Ok(())
}

/// A link's absolute path is the node's, not that of the container that mounts the node.
#[test]
fn a_list_that_is_a_link_is_followed_as_the_node_does_and_stays_a_link() -> Result<()> {
    let node = with_list()?;
    let theirs = node.at("var/lib/primary/05-net.conflist");
    fs::create_dir_all(theirs.parent().expect("below the root"))?;
    fs::write(&theirs, LIST)?;
    let link = node.configuration("05-net.conflist");
    std::os::unix::fs::symlink("/var/lib/primary/05-net.conflist", &link)?;
    let agent = node.agent(&[])?.ready()?;
    assert!(has_entry(&theirs), "{}", agent.log());
    agent.terminate()?;
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, LIST, "the runtime does not use this one");
    assert!(link.is_symlink());
    node.uninstall()?;
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(&theirs)?, LIST);
    Ok(())
}

fn is_whole(node: &Mounted) -> bool {
    let executable =
        fs::metadata(node.plugin()).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 == 0o111);
    executable && has_entry(&node.configuration(NAME))
}

/// By rename, as careful neighbours write.
fn renamed_in(node: &Mounted, name: &str, text: &str) -> Result<()> {
    fs::write(node.configuration(".theirs"), text)?;
    Ok(fs::rename(node.configuration(".theirs"), node.configuration(name))?)
}

#[test]
fn an_uninstall_beside_a_running_agent_is_not_undone_and_a_new_agent_comes_back() -> Result<()> {
    let node = with_list()?;
    let agent = node.agent(&[])?.ready()?;
    node.uninstall()?;
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, LIST);
    eventually!(
        agent.get("/ready").is_ok_and(|answer| answer.status == 503 && answer.body.contains("uninstall")),
        HEALS_WITHIN
    );
    // A cleaner of /run takes the uninstall's mark; only a new agent brings culvert back.
    fs::remove_dir_all(node.at("run/culvert"))?;
    // What would wake it.
    renamed_in(&node, NAME, LIST)?;
    eventually!(agent.get("/live").is_ok_and(|answer| answer.status == 200));
    std::thread::park_timeout(HEALS_WITHIN);
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, LIST);
    assert_eq!(node.kept(PLUGINS)?, []);
    agent.terminate()?;
    node.agent(&[])?.ready()?.terminate()?;
    assert!(is_whole(&node));
    Ok(())
}

#[test]
fn a_plugin_that_does_not_work_here_is_not_placed_and_the_old_one_stays() -> Result<()> {
    let node = with_list()?;
    let plugin = node.at("broken");
    fs::write(&plugin, "#!/bin/sh\necho '{\"code\":50,\"msg\":\"no engine\"}'\nexit 1\n")?;
    fs::set_permissions(&plugin, Permissions::from_mode(0o755))?;
    let broken = ["--plugin", plugin.to_str().context("a path")?];

    let agent = node.agent(&broken)?;
    eventually!(
        agent.get("/ready").is_ok_and(|answer| answer.body.contains("does not answer VERSION")),
        5 * HEALS_WITHIN
    );
    assert!(!has_entry(&node.configuration(NAME)) && node.kept(PLUGINS)?.is_empty());
    agent.terminate()?;

    node.agent(&[])?.ready()?.terminate()?;
    let before = fs::read(node.plugin())?;
    let agent = node.agent(&broken)?.ready()?;
    eventually!(agent.log().contains("the one that was there stays"));
    assert_eq!(
        agent.metric("culvert_agent_installs_total{result=\"Refused\"}")?,
        1.0,
        "{}",
        agent.get("/metrics")?.body
    );
    agent.terminate()?;
    assert_eq!(fs::read(node.plugin())?, before);
    assert!(is_whole(&node));
    Ok(())
}

#[test]
fn a_folder_that_no_plugin_can_run_from_is_a_clear_refusal() -> Result<()> {
    for (options, said) in [("noexec", "mounted noexec"), ("ro", "mounted read-only")] {
        let node = with_list()?;
        let folder = node.at(PLUGINS);
        let mount = format!("mount -t tmpfs -o {options} none {} && exec \"$@\"", folder.display());
        let agent = node.agent_behind(&["unshare", "--mount", "sh", "-c", &mount, "sh"], &[])?;
        eventually!(agent.get("/ready").is_ok_and(|answer| answer.body.contains(said)), 5 * HEALS_WITHIN);
        assert!(!has_entry(&node.configuration(NAME)), "{options}");
        eventually!(agent.log().contains("--cni-bin-dir"));
    }
    Ok(())
}

#[test]
fn an_entry_that_no_pod_could_follow_ends_the_agent_before_it_writes() -> Result<()> {
    let node = with_list()?;
    fs::write(
        node.at("etc/culvert/entry.json"),
        "{\"onUnknwon\":\"deny\",\"redirect\":{\"proxyUid\":\"root\"}}",
    )?;
    let mut agent = node.agent(&[])?;
    assert!(!agent.becomes_ready()?);
    for named in ["onUnknwon", "root"] {
        eventually!(agent.log().contains(named));
    }
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, LIST);
    Ok(())
}

#[test]
fn a_list_that_the_plugin_cannot_speak_to_gets_no_entry() -> Result<()> {
    let node = Mounted::new()?;
    let list = LIST.replace("0.3.1", "0.2.0");
    fs::write(node.configuration(NAME), &list)?;
    let agent = node.agent(&[])?;
    eventually!(agent.get("/ready").is_ok_and(|answer| answer.body.contains("0.2.0")), 5 * HEALS_WITHIN);
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, list);
    // The primary is upgraded.
    fs::write(node.configuration(NAME), LIST)?;
    agent.ready()?.terminate()?;
    assert!(is_whole(&node));
    Ok(())
}

#[test]
fn a_drop_in_leaves_the_primarys_file_alone() -> Result<()> {
    let node = with_list()?;
    let drop_in = node.configuration("net/50-culvert.conf");
    let agent = node.agent(&["--mode", "drop-in"])?.ready()?;
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, LIST);
    assert!(fs::read_to_string(&drop_in)?.contains("culvert-cni"));
    remove_folder(&node.configuration("net"))?;
    eventually!(drop_in.exists(), HEALS_WITHIN);
    agent.terminate()?;
    // From one mode to the other, and back.
    node.agent(&[])?.ready()?.terminate()?;
    assert!(!drop_in.exists() && has_entry(&node.configuration(NAME)));
    node.agent(&["--mode", "drop-in"])?.ready()?.terminate()?;
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, LIST);
    node.uninstall()?;
    assert_eq!(node.kept(CONFIGURATIONS)?.len(), 1);

    fs::write(
        node.configuration(NAME),
        LIST.replace("\"name\"", "\"loadOnlyInlinedPlugins\": true, \"name\""),
    )?;
    let agent = node.agent(&["--mode", "drop-in"])?;
    eventually!(
        agent.get("/ready").is_ok_and(|answer| answer.body.contains("loadOnlyInlinedPlugins")),
        5 * HEALS_WITHIN
    );
    Ok(())
}

#[test]
fn the_runtimes_own_configuration_says_where() -> Result<()> {
    let node = Mounted::new()?;
    for folder in ["etc/containerd/conf.d", "home/kubernetes/bin", "etc/other/net.d"] {
        fs::create_dir_all(node.at(folder))?;
    }
    fs::write(node.at("etc/containerd/config.toml"), "version = 3\nimports = [\"conf.d/*.toml\"]\n")?;
    let import = "[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [\"/not/there\", \"/home/kubernetes/bin\"]\nconf_dir = \"/etc/other/net.d\"\n";
    fs::write(node.at("etc/containerd/conf.d/10.toml"), import)?;
    fs::write(node.at("etc/other/net.d").join(NAME), LIST)?;
    let agent = node.agent(&[])?.ready()?;
    assert!(node.at("home/kubernetes/bin/culvert-cni").exists());
    assert!(has_entry(&node.at("etc/other/net.d").join(NAME)));
    agent.terminate()?;
    node.uninstall()?;
    assert!(!node.at("home/kubernetes/bin/culvert-cni").exists());
    assert_eq!(fs::read_to_string(node.at("etc/other/net.d").join(NAME))?, LIST);
    Ok(())
}

#[test]
fn an_entry_that_stood_there_before_the_agent_goes_with_the_binary_that_it_names() -> Result<()> {
    let node = with_list()?;
    let ours = "{\"type\":\"culvert-cni\"}";
    let twice = LIST.replacen("\"plugins\": [", &format!("\"plugins\": [\n    {ours},\n    {ours},"), 1);
    ensure!(twice != LIST, "the list is set otherwise");
    fs::write(node.configuration(NAME), &twice)?;
    let alone = format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"x\",\"plugins\":[{ours}]}}");
    fs::write(node.configuration("99-alone.conflist"), alone)?;
    node.agent(&[])?.ready()?.terminate()?;
    let said = node.uninstall()?;
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, LIST);
    assert!(!node.configuration("99-alone.conflist").exists(), "{said}");
    ensure!(said.contains("99-alone.conflist: removed"), "{said}");
    Ok(())
}
