// SPDX-License-Identifier: Apache-2.0
//! A neighbour's single plugin stays in its file, and a list of ours before it follows that.

use std::os::unix::fs::MetadataExt;

use culvert_tests::http;

use super::*;

/// The neighbour's file.
const CONF: &str = "10-net.conf";
/// Our list before it.
const OURS: &str = "10-net.0-culvert.conflist";
/// A list as earlier releases put it in place of the file that they renamed away.
const EARLIER: &str = "{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"net\",\n  \"plugins\": [\n    { \"name\": \"net\", \"cniVersion\": \"0.3.1\", \"type\": \"bridge\" },\n    { \"type\": \"culvert-cni\", \"capabilities\": {\"io.kubernetes.cri.pod-annotations\":true} }\n  ]\n}\n";

fn with_single() -> Result<Mounted> {
    let node = Mounted::new()?;
    fs::write(node.configuration(CONF), SINGLE)?;
    Ok(node)
}

/// As an earlier release left a node with one single plugin.
pub(super) fn of_an_earlier_release() -> Result<Mounted> {
    let node = Mounted::new()?;
    fs::write(node.configuration("10-net.conf.culvert-original"), SINGLE)?;
    fs::write(node.configuration(NAME), EARLIER)?;
    fs::copy(&Binaries::built()?.cni, node.plugin())?;
    Ok(node)
}

/// The names of the files that a runtime loads, in its order.
fn loaded(node: &Mounted) -> Result<Vec<String>> {
    let names = node.kept(CONFIGURATIONS)?.into_iter().map(|kept| kept.name);
    Ok(names.filter(|name| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end))).collect())
}

#[test]
fn a_single_plugins_file_is_never_touched() -> Result<()> {
    let node = with_single()?;
    let (path, before) = (node.configuration(CONF), node.kept(CONFIGURATIONS)?);
    let (inode, changed) = (fs::metadata(&path)?.ino(), fs::metadata(&path)?.ctime_nsec());
    let agent = node.agent(&[])?.ready()?;
    assert_eq!(loaded(&node)?, [OURS, CONF]);
    assert!(has_entry(&node.configuration(OURS)));
    agent.terminate()?;
    node.uninstall()?;
    assert_eq!(node.kept(CONFIGURATIONS)?, before);
    assert_eq!((fs::metadata(&path)?.ino(), fs::metadata(&path)?.ctime_nsec()), (inode, changed));
    Ok(())
}

#[test]
fn a_conf_that_its_primary_writes_anew_or_removes_is_followed() -> Result<()> {
    let node = with_single()?;
    let agent = node.agent(&[])?.ready()?;
    let ours = || fs::read_to_string(node.configuration(OURS)).unwrap_or_default();
    for (how, mtu) in [("in place", 1400), ("by rename", 1300), ("in place", 1200)] {
        let anew = SINGLE.replace("\"bridge\"", &format!("\"bridge\", \"mtu\": {mtu}"));
        match how {
            "in place" => fs::write(node.configuration(CONF), &anew)?,
            _ => renamed_in(&node, CONF, &anew)?,
        }
        eventually!(ours().contains(&mtu.to_string()) && has_entry(&node.configuration(OURS)), HEALS_WITHIN);
        assert_eq!(fs::read_to_string(node.configuration(CONF))?, anew);
    }
    // The neighbour took nothing out.
    assert_eq!(agent.metric("culvert_agent_fights_total")?, 0.0, "{}", agent.log());
    // As Multus ends.
    fs::remove_file(node.configuration(CONF))?;
    let start = Instant::now();
    eventually!(loaded(&node).is_ok_and(|names| names.is_empty()), HEALS_WITHIN);
    println!("our list was gone {:.1} ms after its file", start.elapsed().as_secs_f64() * 1e3);
    eventually!(
        agent.get("/ready").is_ok_and(|ready| ready.status == 503 && ready.body.contains("no network")),
        HEALS_WITHIN
    );
    fs::write(node.configuration(CONF), SINGLE)?;
    eventually!(agent.get("/ready").is_ok_and(|ready| ready.status == 200), HEALS_WITHIN);
    assert_eq!(loaded(&node)?, [OURS, CONF]);
    agent.terminate()?;
    // A file that goes while no agent runs is found by the next.
    fs::remove_file(node.configuration(CONF))?;
    fs::write(node.configuration("20-next.conflist"), LIST)?;
    node.agent(&[])?.ready()?.terminate()?;
    assert_eq!(loaded(&node)?, ["20-next.conflist"]);
    Ok(())
}

/// Whatever the agent is at when the file comes or goes, the last word is the neighbour's.
#[test]
fn a_conf_that_comes_and_goes_all_the_time_is_followed_to_its_end() -> Result<()> {
    let node = Mounted::new()?;
    let agent = node.agent(&[])?;
    eventually!(agent.get("/ready").is_ok_and(|ready| ready.body.contains("no network")), 20 * HEALS_WITHIN);
    for round in 0..120_u64 {
        fs::write(
            node.configuration(CONF),
            SINGLE.replace("bridge", if round % 2 == 0 { "bridge" } else { "ptp" }),
        )?;
        std::thread::park_timeout(Duration::from_micros(round * 977 % 9000));
        fs::remove_file(node.configuration(CONF))?;
        std::thread::park_timeout(Duration::from_micros(round * 1409 % 5000));
        if round % 30 == 29 {
            eventually!(node.kept(CONFIGURATIONS).is_ok_and(|kept| kept.is_empty()), HEALS_WITHIN);
        }
    }
    fs::write(node.configuration(CONF), SINGLE)?;
    // Ready may still be the word about the file before this one.
    eventually!(loaded(&node).is_ok_and(|loaded| loaded == [OURS, CONF]), HEALS_WITHIN);
    eventually!(agent.get("/ready").is_ok_and(|ready| ready.status == 200), HEALS_WITHIN);
    ensure!(!fs::read_to_string(node.configuration(OURS))?.contains("ptp"));
    // A neighbour in exclusive mode renames both away, and culvert leaves.
    agent.terminate()?;
    for name in [OURS, CONF] {
        fs::rename(node.configuration(name), node.configuration(&format!("{name}.cilium_bak")))?;
    }
    node.uninstall()?;
    let kept = node.kept(CONFIGURATIONS)?;
    assert_eq!(
        kept.iter().map(|kept| (kept.name.as_str(), kept.bytes.as_slice())).collect::<Vec<_>>(),
        [("10-net.conf.cilium_bak", SINGLE.as_bytes())]
    );
    Ok(())
}

/// It lives for 20 ms while a mesh's installer is at work.
#[test]
fn a_chained_plugins_own_file_gets_no_list_and_leaves_no_trace() -> Result<()> {
    for (kind, primary, text) in [
        ("linkerd-cni", NAME, LIST),
        ("istio-cni", CONF, SINGLE),
        ("tuning", NAME, LIST),
        ("portmap", CONF, SINGLE),
    ] {
        let node = Mounted::new()?;
        fs::write(node.configuration(primary), text)?;
        let before = node.kept(CONFIGURATIONS)?;
        let agent = node.agent(&[])?.ready()?;
        let whole = node.kept(CONFIGURATIONS)?;
        let first = node.configuration("01-mesh.conf");
        fs::write(&first, SINGLE.replace("bridge", kind))?;
        // For a moment the file is there and empty.
        let says = |ready: &http::Response| ready.body.contains("01-mesh.conf") && ready.body.contains(kind);
        eventually!(agent.get("/ready").is_ok_and(|ready| ready.status == 503 && says(&ready)), HEALS_WITHIN);
        fs::remove_file(&first)?;
        eventually!(agent.get("/ready").is_ok_and(|ready| ready.status == 200), HEALS_WITHIN);
        assert_eq!(node.kept(CONFIGURATIONS)?, whole, "{kind}");
        agent.terminate()?;
        node.uninstall()?;
        assert_eq!(node.kept(CONFIGURATIONS)?, before, "{kind}");
    }
    Ok(())
}

/// The folder itself has no event then.
#[test]
fn a_conf_that_is_a_link_is_followed_where_it_leads() -> Result<()> {
    let node = Mounted::new()?;
    let theirs = node.at("var/lib/primary/net.conf");
    fs::create_dir_all(theirs.parent().context("below the root")?)?;
    fs::write(&theirs, SINGLE)?;
    std::os::unix::fs::symlink("/var/lib/primary/net.conf", node.configuration(CONF))?;
    let agent = node.agent(&[])?.ready()?;
    let ours = || fs::read_to_string(node.configuration(OURS)).unwrap_or_default();
    fs::write(&theirs, SINGLE.replace("\"bridge\"", "\"bridge\", \"mtu\": 1400"))?;
    eventually!(ours().contains("1400"), HEALS_WITHIN);
    fs::remove_file(&theirs)?;
    eventually!(!node.configuration(OURS).exists(), HEALS_WITHIN);
    fs::write(&theirs, SINGLE)?;
    agent.ready()?.terminate()?;
    node.uninstall()?;
    ensure!(node.configuration(CONF).is_symlink() && fs::read_to_string(&theirs)? == SINGLE);
    assert_eq!(loaded(&node)?, [CONF]);
    Ok(())
}

#[test]
fn a_list_and_a_single_plugin_of_one_name_are_both_the_neighbours() -> Result<()> {
    let node = Mounted::new()?;
    let (conf, list) = ("80-openshift-network.conf", "80-openshift-network.conflist");
    fs::write(node.configuration(conf), SINGLE)?;
    fs::write(node.configuration(list), LIST)?;
    let before = node.kept(CONFIGURATIONS)?;
    let agent = node.agent(&[])?.ready()?;
    assert_eq!(loaded(&node)?, ["80-openshift-network.0-culvert.conflist", conf, list]);
    assert_eq!(fs::read_to_string(node.configuration(list))?, LIST);
    // The runtime takes the other one then, and so do we.
    fs::remove_file(node.configuration(conf))?;
    eventually!(has_entry(&node.configuration(list)), HEALS_WITHIN);
    eventually!(loaded(&node).is_ok_and(|names| names == [list]), HEALS_WITHIN);
    fs::write(node.configuration(conf), SINGLE)?;
    eventually!(has_entry(&node.configuration("80-openshift-network.0-culvert.conflist")), HEALS_WITHIN);
    agent.terminate()?;
    node.uninstall()?;
    let names = |kept: Vec<Kept>| kept.into_iter().map(|kept| (kept.name, kept.bytes)).collect::<Vec<_>>();
    assert_eq!(names(node.kept(CONFIGURATIONS)?), names(before));
    Ok(())
}

#[test]
fn a_single_plugin_gets_a_list_before_it_with_drop_ins_too() -> Result<()> {
    let node = with_single()?;
    let agent = node.agent(&["--mode", "drop-in"])?.ready()?;
    assert_eq!(loaded(&node)?, [OURS, CONF]);
    // The primary is upgraded, and writes a list.
    fs::write(node.configuration(NAME), LIST)?;
    fs::remove_file(node.configuration(CONF))?;
    eventually!(node.configuration("net/50-culvert.conf").exists(), HEALS_WITHIN);
    eventually!(loaded(&node).is_ok_and(|names| names == [NAME]), HEALS_WITHIN);
    // And back.
    fs::write(node.configuration(CONF), SINGLE)?;
    eventually!(has_entry(&node.configuration(OURS)), HEALS_WITHIN);
    eventually!(!node.configuration("net/50-culvert.conf").exists(), HEALS_WITHIN);
    agent.terminate()?;
    node.uninstall()?;
    assert_eq!(loaded(&node)?, [CONF, NAME]);
    Ok(())
}

#[test]
fn an_upgrade_gives_a_file_back_that_an_earlier_release_renamed_away() -> Result<()> {
    let node = of_an_earlier_release()?;
    let done = AtomicBool::new(false);
    let uncovered = std::thread::scope(|scope| -> Result<Vec<String>> {
        // The runtime's choice, looked at all the time.
        let look = scope.spawn(|| {
            let mut uncovered = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let first = loaded(&node).unwrap_or_default().into_iter().next();
                let first = first.map(|name| node.configuration(&name)).filter(|path| path.exists());
                uncovered
                    .extend(first.filter(|path| !has_entry(path)).map(|path| path.display().to_string()));
            }
            uncovered
        });
        let agent = node.agent(&[])?.ready();
        done.store(true, Ordering::Relaxed);
        let uncovered = look.join().expect("looking panicked");
        agent?.terminate()?;
        Ok(uncovered)
    })?;
    ensure!(uncovered.is_empty(), "{uncovered:?}");
    assert_eq!(loaded(&node)?, [OURS, CONF]);
    assert_eq!(fs::read_to_string(node.configuration(CONF))?, SINGLE);
    node.uninstall()?;
    assert_eq!(loaded(&node)?, [CONF]);

    // The neighbour wrote its file anew while no agent ran, or changed the list in its place.
    let node = of_an_earlier_release()?;
    let anew = SINGLE.replace("\"bridge\"", "\"bridge\", \"mtu\": 1400");
    fs::write(node.configuration(CONF), &anew)?;
    node.agent(&[])?.ready()?.terminate()?;
    assert_eq!(loaded(&node)?, [OURS, CONF]);
    assert_eq!(fs::read_to_string(node.configuration(CONF))?, anew);
    let node = of_an_earlier_release()?;
    fs::write(node.configuration(NAME), LIST)?;
    node.agent(&[])?.ready()?.terminate()?;
    assert_eq!(node.kept(CONFIGURATIONS)?.len(), 1);
    assert!(has_entry(&node.configuration(NAME)));
    node.uninstall()?;
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, LIST);
    Ok(())
}

#[test]
fn doctor_names_a_list_of_ours_that_stayed_without_its_file() -> Result<()> {
    let node = with_single()?;
    node.agent(&[])?.ready()?.terminate()?;
    let found = |name: &str| looks::found(&node, name);
    ensure!(found("network")?.contains(OURS) && found("entry")?.contains(OURS), "{}", found("network")?);
    fs::write(node.configuration(CONF), SINGLE.replace("bridge", "ptp"))?;
    ensure!(found("network")?.contains("written anew"), "{}", found("network")?);
    fs::remove_file(node.configuration(CONF))?;
    ensure!(found("network")?.contains("which is gone"), "{}", found("network")?);
    Ok(())
}
