// SPDX-License-Identifier: Apache-2.0
//! Killed anywhere, agent and `uninstall` are finished by their next run.

use super::*;

/// The calls of the kernel at which a run is killed, each at its first, second, … time.
const KILLED_AT: [&str; 3] = ["renameat2", "rename", "unlink"];
/// More than any of them is called in a run.
const TIMES: usize = 24;

/// Runs that have to get to their end before a point is known not to be there. strace counts the calls of each thread for itself,
/// so a call that another thread makes than in most runs is not the one that the kill waits for: one run of ten.
const TRIES: usize = 4;

/// Runs `run` under strace with a kill at every point, until it gets to its end. How often it was killed.
fn killed_everywhere(
    node: &dyn Fn() -> Result<Mounted>,
    mut run: impl FnMut(&Mounted, &[&str]) -> Result<bool>,
    mut check: impl FnMut(&Mounted, &str) -> Result<()>,
) -> Result<usize> {
    let mut kills = 0;
    for call in KILLED_AT {
        for time in 1..=TIMES {
            let (inject, only) = (format!("inject={call}:signal=KILL:when={time}"), format!("trace={call}"));
            let mut finishes = || -> Result<bool> {
                let node = node()?;
                let trace = node.at("strace").to_string_lossy().into_owned();
                let finished = run(&node, &["strace", "-f", "-o", &trace, "-e", &inject, "-e", &only])?;
                check(&node, &format!("killed at {call} number {time}"))?;
                Ok(finished)
            };
            let mut runs = 0;
            while runs < TRIES && finishes()? {
                runs += 1;
            }
            if runs == TRIES {
                break;
            }
            kills += 1;
            ensure!(time < TIMES, "{call} is called more than {TIMES} times");
        }
    }
    Ok(kills)
}

#[test]
fn an_agent_that_is_killed_anywhere_is_finished_by_the_next() -> Result<()> {
    let names = |kept: Vec<Kept>| kept.into_iter().map(|kept| kept.name).collect::<Vec<_>>();
    for (name, text, is_upgrade) in
        [(NAME, LIST, false), ("10-net.conf", SINGLE, false), ("10-net.conf", SINGLE, true)]
    {
        let node = || {
            if is_upgrade {
                return single::of_an_earlier_release();
            }
            let node = Mounted::new()?;
            fs::write(node.configuration(name), text)?;
            Ok(node)
        };
        let list = if name == NAME { NAME } else { "10-net.0-culvert.conflist" };
        let kills = killed_everywhere(
            &node,
            |node, strace| node.agent_behind(strace, &[])?.comes_to_its_end(),
            |node, when| {
                // At no time does a configuration name a plugin that is not there, nor is there none.
                ensure!(!has_entry(&node.configuration(list)) || node.plugin().exists(), "{when}");
                let is_there = |name: &&str| node.configuration(name).exists();
                ensure!([name, list, NAME].iter().any(is_there), "{when}: {:?}", node.kept(CONFIGURATIONS)?);
                node.agent(&[])?.ready().context(when.to_owned())?.terminate()?;
                let expected = if name == NAME { vec![NAME] } else { vec![list, name] };
                ensure!(
                    names(node.kept(CONFIGURATIONS)?) == expected,
                    "{when}: {:?}",
                    node.kept(CONFIGURATIONS)?
                );
                ensure!(
                    names(node.kept(PLUGINS)?) == ["culvert-cni"],
                    "{when}: {:?}",
                    names(node.kept(PLUGINS)?)
                );
                node.uninstall().context(when.to_owned())?;
                ensure!(fs::read_to_string(node.configuration(name))? == text, "{when}");
                Ok(())
            },
        )?;
        println!("{name}, an upgrade: {is_upgrade}: the agent was killed {kills} times");
        assert!(kills >= 5, "{kills}");
    }
    Ok(())
}

#[test]
fn an_uninstall_that_is_killed_anywhere_is_finished_by_the_next() -> Result<()> {
    for (name, text, is_earlier) in
        [(NAME, LIST, false), ("10-net.conf", SINGLE, false), ("10-net.conf", SINGLE, true)]
    {
        let node = || {
            if is_earlier {
                return single::of_an_earlier_release();
            }
            let node = Mounted::new()?;
            fs::write(node.configuration(name), text)?;
            node.agent(&[])?.ready()?.terminate()?;
            Ok(node)
        };
        let kills = killed_everywhere(
            &node,
            |node, strace| Ok(node.uninstall_behind(strace, &["--now"])?.0),
            |node, when| {
                let lists = [NAME, "10-net.0-culvert.conflist"].map(|list| node.configuration(list));
                ensure!(!lists.iter().any(|list| has_entry(list)) || node.plugin().exists(), "{when}");
                let is_there = |name: &&str| node.configuration(name).exists();
                ensure!([name, NAME].iter().any(is_there), "{when}: {:?}", node.kept(CONFIGURATIONS)?);
                node.uninstall().context(when.to_owned())?;
                let kept = node.kept(CONFIGURATIONS)?;
                ensure!(
                    kept.len() == 1 && kept[0].name == name && kept[0].bytes == text.as_bytes(),
                    "{when}: {kept:?}"
                );
                ensure!(node.kept(PLUGINS)?.is_empty(), "{when}: {:?}", node.kept(PLUGINS)?);
                ensure!(!node.at("run/culvert").exists(), "{when}");
                Ok(())
            },
        )?;
        println!("{name}, of an earlier release: {is_earlier}: uninstall was killed {kills} times");
        assert!(kills >= 5, "{kills}");
    }
    Ok(())
}
