// SPDX-License-Identifier: Apache-2.0
//! The entry and the plugin come back after any neighbour's change, without an endless fight.

use super::*;

/// An attack on a node that is well, and when it is well again.
struct Attack {
    name: &'static str,
    on: fn(&Mounted) -> Result<()>,
    healed: fn(&Mounted) -> bool,
}

fn has_plugin(node: &Mounted) -> bool {
    let ours = Binaries::built().ok().and_then(|built| fs::read(&built.cni).ok());
    is_whole(node) && ours.is_some_and(|ours| fs::read(node.plugin()).is_ok_and(|bytes| bytes == ours))
}

const ATTACKS: [Attack; 10] = [
    Attack {
        name: "the file is written anew",
        on: |node| Ok(fs::write(node.configuration(NAME), LIST)?),
        healed: is_whole,
    },
    Attack {
        name: "another file is renamed over it",
        on: |node| renamed_in(node, NAME, LIST),
        healed: is_whole,
    },
    Attack {
        name: "it is written in halves",
        on: |node| {
            let (half, rest) = LIST.split_at(LIST.len() / 2);
            fs::write(node.configuration(NAME), half)?;
            std::thread::park_timeout(Duration::from_millis(50));
            let mut file = fs::OpenOptions::new().append(true).open(node.configuration(NAME))?;
            Ok(std::io::Write::write_all(&mut file, rest.as_bytes())?)
        },
        healed: is_whole,
    },
    Attack {
        name: "it is renamed away, and another comes first",
        on: |node| {
            fs::rename(node.configuration(NAME), node.configuration("10-net.conflist.cilium_bak"))?;
            Ok(fs::write(node.configuration("05-cilium.conflist"), LIST)?)
        },
        healed: |node| has_entry(&node.configuration("05-cilium.conflist")),
    },
    Attack {
        name: "the other goes, and it comes back without us",
        on: |node| {
            fs::remove_file(node.configuration("05-cilium.conflist"))?;
            fs::remove_file(node.configuration("10-net.conflist.cilium_bak"))?;
            renamed_in(node, NAME, LIST)
        },
        healed: is_whole,
    },
    Attack {
        name: "a .conf comes first",
        on: |node| Ok(fs::write(node.configuration("09-first.conf"), SINGLE)?),
        healed: |node| {
            has_entry(&node.configuration("09-first.0-culvert.conflist"))
                && node.configuration("09-first.conf").exists()
        },
    },
    Attack {
        name: "the folder is deleted and made again",
        on: |node| {
            remove_folder(&node.at(CONFIGURATIONS))?;
            fs::create_dir(node.at(CONFIGURATIONS))?;
            Ok(fs::write(node.configuration(NAME), LIST)?)
        },
        healed: is_whole,
    },
    Attack {
        name: "the plugin is deleted",
        on: |node| Ok(fs::remove_file(node.plugin())?),
        healed: has_plugin,
    },
    Attack {
        name: "the plugin is another's",
        on: |node| {
            // By renaming: where the agent's own is back already, and is being run, it cannot be written to.
            let another = node.at("another-plugin");
            fs::write(&another, "#!/bin/false\n")?;
            Ok(fs::rename(another, node.plugin())?)
        },
        healed: has_plugin,
    },
    Attack {
        name: "the plugin may not be run",
        on: |node| Ok(fs::set_permissions(node.plugin(), Permissions::from_mode(0o600))?),
        healed: has_plugin,
    },
];

fn heals(node: &Mounted, agent: &MountedAgent, how: &str) -> Result<()> {
    let mut wrong = Vec::new();
    for Attack { name, on, healed } in ATTACKS {
        std::thread::park_timeout(STOOD_FOR);
        on(node).context(name)?;
        let start = Instant::now();
        let done = until_some(10 * HEALS_WITHIN, || healed(node).then(|| start.elapsed()));
        match done {
            Some(took) => {
                println!("{how}: {name}: healed in {:.1} ms", took.as_secs_f64() * 1e3);
                if took > HEALS_WITHIN {
                    wrong.push(format!("{name}: {took:?}"));
                }
            }
            None => bail!("{name}: not healed\n{}", agent.log()),
        }
        eventually!(agent.get("/ready").is_ok_and(|answer| answer.status == 200), HEALS_WITHIN);
    }
    ensure!(wrong.is_empty(), "{wrong:?}\n{}", agent.log());
    Ok(())
}

#[test]
fn each_attack_is_healed_within_a_second() -> Result<()> {
    let node = with_list()?;
    let agent = node.agent(&[])?.ready()?;
    heals(&node, &agent, "told by inotify")?;
    assert!(agent.metric("culvert_agent_fights_total")? >= 2.0);
    eventually!(agent.log().contains("is put back"));
    agent.terminate().map(drop)
}

#[test]
fn each_attack_is_healed_within_a_second_without_inotify() -> Result<()> {
    let node = with_list()?;
    let nothing = node.at("strace");
    let exhausted = [
        "strace",
        "-f",
        "-o",
        &nothing.to_string_lossy(),
        "-e",
        "inject=inotify_init1:error=EMFILE",
        "-e",
        "trace=inotify_init1",
    ]
    .map(str::to_owned);
    let agent = node.agent_behind(&exhausted.each_ref().map(String::as_str), &[])?.ready()?;
    eventually!(agent.log().contains("no inotify watch can be had"));
    heals(&node, &agent, "without inotify")
}

/// A neighbour that answers each write of ours at once would go on for ever; ours become rarer instead.
#[test]
fn a_neighbour_that_answers_gets_no_war_and_the_entry_is_back_once_it_rests() -> Result<()> {
    let node = with_list()?;
    let agent = node.agent(&[])?.ready()?;
    let (rests, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let neighbour = scope.spawn(|| -> Result<()> {
            while !rests.load(Ordering::Relaxed) {
                if has_entry(&node.configuration(NAME)) {
                    renamed_in(&node, NAME, LIST)?;
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Ok(())
        });
        std::thread::park_timeout(Duration::from_secs(4));
        rests.store(true, Ordering::Relaxed);
        neighbour.join().expect("the neighbour panicked")
    })?;
    let answers = answers.into_inner();
    println!("the neighbour answered {answers} times in 4 s");
    assert!((3..=40).contains(&answers), "{answers}\n{}", agent.log());
    assert!(agent.metric("culvert_agent_fights_total")? >= 3.0);
    let lines = agent.log().lines().filter(|line| line.contains("is put back")).count();
    assert_eq!(lines, 1, "one line a minute\n{}", agent.log());
    eventually!(has_entry(&node.configuration(NAME)), HEALS_WITHIN);
    eventually!(agent.get("/ready").is_ok_and(|answer| answer.status == 200), HEALS_WITHIN);
    Ok(())
}

#[test]
fn a_neighbour_that_writes_by_its_clock_is_answered_at_once() -> Result<()> {
    let node = with_list()?;
    let agent = node.agent(&[])?.ready()?;
    let (rests, mut there, mut looks) = (AtomicBool::new(false), 0, 0);
    std::thread::scope(|scope| -> Result<()> {
        let neighbour = scope.spawn(|| -> Result<()> {
            let start = Instant::now();
            for write in 1..=80 {
                renamed_in(&node, NAME, LIST)?;
                std::thread::park_timeout(
                    (write * Duration::from_millis(50)).saturating_sub(start.elapsed()),
                );
            }
            rests.store(true, Ordering::Relaxed);
            Ok(())
        });
        while !rests.load(Ordering::Relaxed) && !neighbour.is_finished() {
            looks += 1;
            there += usize::from(has_entry(&node.configuration(NAME)));
            std::thread::park_timeout(Duration::from_millis(1));
        }
        neighbour.join().expect("the neighbour panicked")
    })?;
    println!("written each 50 ms for 4 s: the entry was there {} % of the time", 100 * there / looks);
    assert!(2 * there > looks, "{there} of {looks}\n{}", agent.log());
    eventually!(has_entry(&node.configuration(NAME)), HEALS_WITHIN);
    Ok(())
}

/// It replaces the file, or writes into it, in two versions: in each case the next list is written beforehand. Nothing of that stays.
#[test]
fn lists_written_beforehand_are_removed_by_the_agents_end_and_by_uninstall() -> Result<()> {
    let node = with_list()?;
    let other = LIST.replace("bridge", "ptp");
    let names = || -> Result<Vec<String>> {
        Ok(node.kept(CONFIGURATIONS)?.into_iter().map(|kept| kept.name).collect())
    };
    let restless = |agent: &MountedAgent| -> Result<()> {
        for write in 0..12 {
            let list = if write % 2 == 0 { LIST } else { &other };
            match write % 3 {
                0 => fs::write(node.configuration(NAME), list)?,
                _ => renamed_in(&node, NAME, list)?,
            }
            eventually!(has_entry(&node.configuration(NAME)), HEALS_WITHIN * 10);
            let now = fs::read_to_string(node.configuration(NAME))?;
            ensure!(now.contains("ptp") == (write % 2 == 1), "{now}\n{}", agent.log());
        }
        eventually!(names().is_ok_and(|names| names.len() > 1), HEALS_WITHIN * 10);
        Ok(())
    };
    let agent = node.agent(&[])?.ready()?;
    restless(&agent)?;
    agent.terminate()?;
    assert_eq!(names()?, [NAME]);

    let agent = node.agent(&[])?.ready()?;
    restless(&agent)?;
    node.uninstall()?;
    eventually!(agent.get("/ready").is_ok_and(|answer| answer.body.contains("uninstall")), HEALS_WITHIN * 10);
    assert_eq!(names()?, [NAME]);
    assert_eq!(fs::read_to_string(node.configuration(NAME))?, other);
    Ok(())
}
