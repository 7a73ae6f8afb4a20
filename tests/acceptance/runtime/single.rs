// SPDX-License-Identifier: Apache-2.0
//! A real containerd, a neighbour's single plugin, and the list of ours before it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::eventually;
use culvert_tests::runtime::Node;
use culvert_tests::runtime::node::{NodeClient, PRIMARY, names};
use serde_json::Value;

use super::leaving_nothing;

/// For containerd to read its folder and the agent to follow, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Makes a pod and ends it; true where it was redirected.
fn covers(client: &NodeClient<'_>, name: &str) -> Result<bool> {
    let sandbox = client.run(name)?;
    let covered = sandbox.is_covered()?;
    sandbox.end()?;
    Ok(covered)
}

/// The first plugin of the primary's list, as a file of its own.
fn single(node: &Node) -> Result<String> {
    let list: Value = serde_json::from_str(node.primary())?;
    let mut plugin = list["plugins"][0].clone();
    for key in ["name", "cniVersion"] {
        plugin[key] = list[key].clone();
    }
    Ok(plugin.to_string())
}

#[test]
fn a_file_that_lives_for_20_ms_keeps_no_pod_from_starting() -> Result<()> {
    leaving_nothing(
        || Node::start("0.3.1"),
        |node| {
            let before = names(&node.configurations())?;
            let agent = node.agent(&["--repair", "off"])?.ready()?;
            let client = node.client()?;
            ensure!(covers(&client, "first")?);
            let mesh = node.configurations().join("01-linkerd-cni.conf");
            for life in [20, 20, 20, 40, 80] {
                fs::write(
                    &mesh,
                    "{\"name\":\"linkerd-cni\",\"cniVersion\":\"0.3.0\",\"type\":\"linkerd-cni\"}",
                )?;
                std::thread::park_timeout(Duration::from_millis(life));
                // As `rm -f` does.
                let _ = fs::remove_file(&mesh);
            }
            eventually!(agent.get("/ready").is_ok_and(|ready| ready.status == 200), SOON);
            // containerd reads its folder some time after the event.
            let mut last = String::new();
            let starts = |last: &mut String| match covers(&client, "then") {
                Ok(covered) => covered,
                Err(error) => {
                    *last = format!("{error:#}");
                    false
                }
            };
            eventually!(starts(&mut last), SOON);
            println!("the last pod that did not start, if any: {last}");
            ensure!(covers(&client, "and-the-next")?);
            agent.terminate()?;
            node.run("uninstall", &[])?.succeeded()?;
            assert_eq!(names(&node.configurations())?, before);
            Ok(())
        },
    )
}

#[test]
fn pods_of_a_single_plugin_are_covered_until_it_goes_and_after() -> Result<()> {
    leaving_nothing(
        || Node::start("0.4.0"),
        |node| {
            let conf = node.configurations().join("05-lab.conf");
            let text = single(node)?;
            fs::write(&conf, &text)?;
            let agent = node.agent(&["--repair", "off"])?.ready()?;
            let ours = "05-lab.0-culvert.conflist";
            assert_eq!(names(&node.configurations())?, [ours, "05-lab.conf", PRIMARY]);
            let client = node.client()?;
            eventually!(covers(&client, "single").unwrap_or_default(), SOON);
            // As Multus ends: the runtime takes the list, which gets the entry.
            fs::remove_file(&conf)?;
            eventually!(names(&node.configurations()).is_ok_and(|names| names == [PRIMARY]), SOON);
            eventually!(node.has_entry(), SOON);
            eventually!(covers(&client, "list").unwrap_or_default(), SOON);
            fs::write(&conf, &text)?;
            eventually!(node.configurations().join(ours).exists(), SOON);
            eventually!(covers(&client, "again").unwrap_or_default(), SOON);
            agent.terminate()?;
            node.run("uninstall", &[])?.succeeded().context("uninstall")?;
            assert_eq!(names(&node.configurations())?, ["05-lab.conf", PRIMARY]);
            assert_eq!(
                (fs::read_to_string(&conf)?, fs::read_to_string(node.conflist())?),
                (text, node.primary().to_owned())
            );
            let last = client.run("last")?;
            ensure!(!last.is_covered()?);
            last.end()
        },
    )
}
