//! Two containers in one network namespace: the DEL of one leaves the other its rules.

use std::fs;
use std::thread;

use anyhow::Result;
use culvert_tests::{Host, Invocation, Lab};
use serde_json::{Value, json};

use crate::support::by_every_engine;
use crate::verbs;

/// Two containers' ids.
const FIRST: &str = "first";
const SECOND: &str = "second";

fn call<'a>(lab: &'a Lab, verb: &str, container: &str) -> Result<Invocation<'a>> {
    Ok(lab.invoke(verb)?.env("CNI_CONTAINERID", container))
}

fn add(lab: &Lab, container: &str, annotations: &[(&str, &str)]) -> Result<()> {
    call(lab, "ADD", container)?.redirect().annotations(annotations).run()?.expect_success();
    Ok(())
}

fn del(lab: &Lab, container: &str) -> Result<()> {
    assert_eq!(call(lab, "DEL", container)?.run()?.expect_success(), Value::Null);
    Ok(())
}

/// Everything of a pod that is the plugin's to change, with the owner's note, and without the order of iptables' chains.
fn state(pod: &Host) -> Result<Vec<String>> {
    let mut lines = verbs::state(pod)?;
    lines.retain(|text| !text.starts_with("table ip ") && !text.starts_with("table ip6 "));
    for program in ["iptables-nft-save", "ip6tables-nft-save"] {
        let saved = verbs::run(pod, &[program])?;
        let ours = saved.lines().filter(|line| line.starts_with("-A") && line.contains("CULVERT"));
        lines.extend(ours.map(str::to_owned));
    }
    // Within a chain the order is that of the plan, which other tests hold.
    lines.sort();
    Ok(lines)
}

/// A pod that has what the kernel and iptables make of themselves once they are used.
fn used(engine: &str) -> Result<(Lab, Vec<String>)> {
    let lab = Lab::new()?;
    add(&lab, FIRST, &[("engine", engine)])?;
    del(&lab, FIRST)?;
    let nothing = state(&lab.pod)?;
    Ok((lab, nothing))
}

fn each_of_two_containers_keeps_its_rules_until_its_own_del(engine: &str) -> Result<()> {
    let of = [("engine", engine), ("exclude-inbound-ports", "22")];
    let others = [("engine", engine), ("exclude-inbound-ports", "33"), ("outbound-udp", "reject")];
    for (what, annotations) in [("the same annotations", &of[..]), ("other annotations", &others)] {
        for (gone, stays) in [(FIRST, SECOND), (SECOND, FIRST)] {
            let (lab, nothing) = used(engine)?;
            let of_stays = if stays == FIRST { &of[..] } else { annotations };
            // All that the one which stays would have without the other.
            add(&lab, stays, of_stays)?;
            let alone = state(&lab.pod)?;
            del(&lab, stays)?;

            add(&lab, FIRST, &of)?;
            add(&lab, SECOND, annotations)?;
            del(&lab, gone)?;
            assert_eq!(state(&lab.pod)?, alone, "{what}: after the DEL of the {gone}");
            call(&lab, "CHECK", stays)?.redirect().annotations(of_stays).run()?.expect_success();
            del(&lab, gone)?;
            assert_eq!(state(&lab.pod)?, alone, "{what}: after the second DEL of the {gone}");
            del(&lab, stays)?;
            let left = state(&lab.pod)?;
            assert_eq!(left, nothing, "{what}: after the DEL of both, the {stays} last");
        }
    }
    Ok(())
}

fn two_containers_that_leave_at_once_leave_nothing(engine: &str) -> Result<()> {
    let (lab, nothing) = used(engine)?;
    for round in 0..8 {
        for container in [FIRST, SECOND] {
            add(&lab, container, &[("engine", engine)])?;
        }
        let calls = [call(&lab, "DEL", FIRST)?, call(&lab, "DEL", SECOND)?];
        thread::scope(|scope| {
            let running = calls.map(|call| scope.spawn(|| call.run()));
            running.into_iter().map(|call| call.join().expect("no panic")).collect::<Result<Vec<_>>>()
        })?;
        assert_eq!(state(&lab.pod)?, nothing, "round {round}");
    }
    Ok(())
}

fn a_del_without_a_namespace_does_not_keep_the_rules_for_ever(engine: &str) -> Result<()> {
    let (lab, nothing) = used(engine)?;
    for container in [FIRST, SECOND] {
        add(&lab, container, &[("engine", engine)])?;
    }
    call(&lab, "DEL", FIRST)?.env("CNI_NETNS", "").run()?.expect_success();
    del(&lab, SECOND)?;
    assert_eq!(state(&lab.pod)?, nothing);
    Ok(())
}

fn a_container_that_is_not_onboarded_takes_no_rules_along(engine: &str) -> Result<()> {
    let (lab, nothing) = used(engine)?;
    add(&lab, FIRST, &[("engine", engine)])?;
    let added = state(&lab.pod)?;
    call(&lab, "ADD", SECOND)?.run()?.expect_success();
    // Neither does one whose annotations are unknown, though it has a record.
    call(&lab, "ADD", "third")?.config("runtimeConfig", json!({})).run()?.expect_success();
    for container in [SECOND, "third"] {
        del(&lab, container)?;
        assert_eq!(state(&lab.pod)?, added, "{container}");
    }
    call(&lab, "ADD", "third")?.config("runtimeConfig", json!({})).run()?.expect_success();
    del(&lab, FIRST)?;
    assert_eq!(state(&lab.pod)?, nothing, "rules that no container asked for");
    Ok(())
}

fn two_networks_in_one_namespace_are_two_attachments(engine: &str) -> Result<()> {
    let (lab, nothing) = used(engine)?;
    add(&lab, FIRST, &[("engine", engine)])?;
    let other = |verb| anyhow::Ok(call(&lab, verb, SECOND)?.config("name", "other"));
    other("ADD")?.redirect().annotations(&[("engine", engine)]).run()?.expect_success();
    del(&lab, FIRST)?;
    let kept = state(&lab.pod)?;
    assert!(kept.iter().any(|text| text.contains(&format!("container={SECOND}"))), "{kept:#?}");
    other("DEL")?.run()?.expect_success();
    assert_eq!(state(&lab.pod)?, nothing);
    Ok(())
}

by_every_engine! {
    each_of_two_containers_keeps_its_rules_until_its_own_del,
    two_containers_that_leave_at_once_leave_nothing,
    a_del_without_a_namespace_does_not_keep_the_rules_for_ever,
    a_container_that_is_not_onboarded_takes_no_rules_along,
    two_networks_in_one_namespace_are_two_attachments,
}

#[test]
fn two_containers_with_two_engines_leave_nothing() -> Result<()> {
    let engines = ["nftables", "iptables-nft", "iptables-legacy"];
    for first in engines {
        for second in engines.into_iter().filter(|second| *second != first) {
            for (gone, stays) in [(FIRST, SECOND), (SECOND, FIRST)] {
                let lab = Lab::new()?;
                add(&lab, FIRST, &[("engine", first)])?;
                add(&lab, SECOND, &[("engine", second)])?;
                let engine = if stays == FIRST { first } else { second };
                del(&lab, gone)?;
                let check = call(&lab, "CHECK", stays)?.redirect().annotations(&[("engine", engine)]);
                check.run()?.expect_success();
                del(&lab, stays)?;
                let left = state(&lab.pod)?.join("\n");
                let what = format!("{first}, {second}, the {stays} last");
                assert!(!left.contains("CULVERT") && !left.contains("culvert"), "{what}: {left}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_record_that_was_left_behind_keeps_no_rules() -> Result<()> {
    let lab = Lab::new()?;
    add(&lab, FIRST, &[])?;
    // As of a container whose DEL never came: its namespace is gone, and its inode may be this one's by now.
    let folder = lab.folder().join("attachments");
    let mut record: Value = serde_json::from_slice(&fs::read(folder.join("first~lab~eth0.json"))?)?;
    record["containerId"] = "dead".into();
    record["netns"] = "/run/netns/cni-00000000-dead".into();
    fs::write(folder.join("dead~lab~eth0.json"), record.to_string())?;
    del(&lab, FIRST)?;
    assert!(lab.pod.ruleset()?.is_empty(), "{}", lab.pod.ruleset()?);
    Ok(())
}
