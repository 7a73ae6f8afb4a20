// SPDX-License-Identifier: Apache-2.0
//! The node agent beside a real containerd: pods come and go while it is ended, killed and replaced, and while a neighbour
//! writes the same file.

use std::fs;

use anyhow::Result;
use culvert_tests::runtime::Node;
use culvert_tests::runtime::node::names;

use super::leaving_nothing;

#[test]
fn a_pod_is_covered_from_the_agents_start_to_the_uninstall() -> Result<()> {
    leaving_nothing(
        || Node::start("1.0.0"),
        |node| {
            let client = node.client()?;
            let before = client.run("before")?;
            assert!(!before.is_covered()?);
            let agent = node.agent(&["--repair", "off"])?.ready()?;
            let with = client.run("with")?;
            assert!(with.is_covered()?);
            assert_eq!(agent.metric("culvert_agent_entry_present")?, 1.0);
            let log = agent.terminate()?;
            println!("{log}");
            assert!(node.has_entry() && node.plugin().exists());
            let after = client.run("after")?;
            assert!(after.is_covered()?);
            after.end()?;

            let ran = node.run("uninstall", &[])?;
            println!("{ran:?}");
            ran.succeeded()?;
            assert_eq!(fs::read_to_string(node.conflist())?, node.primary());
            let last = client.run("last")?;
            assert!(!last.is_covered()?);
            for sandbox in [before, with, last] {
                sandbox.end()?;
            }
            println!("{:?} {:?}", names(&node.configurations())?, names(&node.world().plugins())?);
            assert!(node.world().addresses_in_use()?.is_empty());
            Ok(())
        },
    )
}
