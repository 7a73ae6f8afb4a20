// SPDX-License-Identifier: Apache-2.0
//! The agent as the chart starts it, under a real containerd, with exactly the capabilities and folders that the chart gives
//! it: it comes, works, and goes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{NAMESPACE, Rendered, strings};
use culvert_tests::runtime::{Container, Containerd, Exit, Pod, World};
use culvert_tests::until::until_some;
use culvert_tests::{Family, eventually, http};
use serde_json::{Value, json};

use crate::chart::image::image;
use crate::chart::rendered;
use crate::runtime::leaving_nothing;

const IMAGE: &str = "localhost/culvert:test";

/// From its start to an entry that is effective.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// From a flush of its rules to a pod that is whole again.
const HEALED_WITHIN: Duration = Duration::from_secs(5);

/// The chart for the node of this world.
fn chart_for(node: &Containerd) -> Result<Rendered> {
    let folder = node.as_ref().folder();
    rendered(&json!({
        "image": { "repository": "localhost/culvert", "tag": "test" },
        "paths": {
            "cniConfDir": node.conflist().parent(),
            "cniBinDir": node.as_ref().plugins(),
            "runtimeConfigDir": folder.join("no-config"),
            "runtimeSocket": node.socket(),
        },
        "entry": { "logFile": folder.join("log/cni.log") },
    }))
}

/// The pod of a DaemonSet, with what the API server would add to its volumes.
fn pod_of(chart: &Rendered, name: &str) -> Result<Value> {
    let mut pod = chart.one("DaemonSet", name)?["spec"]["template"]["spec"].clone();
    let data = &chart.one("ConfigMap", "-entry")?["data"];
    for volume in pod["volumes"].as_array_mut().context("no volumes")? {
        if volume.get("configMap").is_some() {
            volume["configMap"]["data"] = data.clone();
        }
    }
    Ok(pod)
}

/// Reads the capabilities of the process that the chart names.
fn capabilities(pod: &Value) -> Result<u64> {
    const BITS: [(&str, u64); 6] = [
        ("CHOWN", 0),
        ("DAC_OVERRIDE", 1),
        ("FOWNER", 3),
        ("NET_ADMIN", 12),
        ("SYS_PTRACE", 19),
        ("SYS_ADMIN", 21),
    ];
    let bit = |name: &str| BITS.iter().find(|(known, _)| *known == name).map(|(_, bit)| 1 << bit);
    let added = strings(&pod["containers"][0]["securityContext"]["capabilities"]["add"]);
    added.into_iter().try_fold(0, |set, name| Ok(set | bit(name).with_context(|| name.to_owned())?))
}

/// The answer of the agent at its status port, as the kubelet asks for it.
fn status(world: &World, agent: &Pod<'_>, path: &str) -> Result<http::Response> {
    http::get(world.node.connect((agent.address(Family::V4)?, 15090))?, path)
}

/// Returns true if a pod that asks for it is redirected.
fn redirects(node: &Containerd, name: &str) -> Result<bool> {
    let pod = node.pod(name).annotation("culvert.dev/redirect", "enabled").run()?;
    let redirected = pod.host().ruleset()?.tables == ["inet culvert"];
    ensure!(redirected || pod.host().ruleset()?.is_empty(), "{}", pod.host().ruleset()?);
    pod.stop()?;
    pod.remove()?;
    Ok(redirected)
}

fn start<'a>(node: &'a Containerd, pod: &Value, name: &str) -> Result<(Pod<'a>, Container<'a>)> {
    let sandbox = node.pod(name).namespace(NAMESPACE).run()?;
    let container = sandbox.start(pod, name)?;
    Ok((sandbox, container))
}

#[test]
fn the_charts_permissions_are_enough_for_the_agent_from_install_to_uninstall() -> Result<()> {
    leaving_nothing(
        || Containerd::without_culvert("1.0.0"),
        |node| {
            let world: &World = node.as_ref();
            node.import(&image(world.folder(), IMAGE)?)?;
            let chart = chart_for(node)?;
            let before = fs::read_to_string(node.conflist())?;
            ensure!(!redirects(node, "early")?, "the plugin is there already");

            let pod = pod_of(&chart, "-agent")?;
            let (sandbox, agent) = start(node, &pod, "agent")?;
            let ready = || status(world, &sandbox, "/ready");
            let is_ready = until_some(READY_WITHIN, || ready().ok().filter(|answer| answer.status == 200));
            ensure!(is_ready.is_some(), "not ready: {:?}\n{}", ready(), agent.log()?);
            let allowed = format!("{:016x}", capabilities(&pod)?);
            for line in [
                format!("CapEff:\t{allowed}"),
                format!("CapBnd:\t{allowed}"),
                "NoNewPrivs:\t1".to_owned(),
                "Seccomp:\t2".to_owned(),
            ] {
                let status = agent.process_status()?;
                assert!(status.contains(&line), "no {line:?} in {status}");
            }
            assert_eq!(status(world, &sandbox, "/live")?.status, 200);
            ensure!(redirects(node, "covered")?, "the pod is not redirected: {}", agent.log()?);

            // Into a pod's namespace, by the node's /proc.
            let flushed = node.pod("flushed").annotation("culvert.dev/redirect", "enabled").run()?;
            let flush = || Command::new("nft").args(["flush", "ruleset"]).status();
            ensure!(flushed.host().namespace().run(flush)?.success(), "nft did not flush");
            let covered = || flushed.host().ruleset().is_ok_and(|rules| rules.tables == ["inet culvert"]);
            let healed = until_some(HEALED_WITHIN, || covered().then_some(()));
            ensure!(healed.is_some(), "not put right: {}", agent.log()?);
            flushed.stop()?;
            flushed.remove()?;

            // A neighbour writes the file as it was.
            fs::write(node.conflist(), &before)?;
            let has_entry =
                || fs::read_to_string(node.conflist()).is_ok_and(|text| text.contains("culvert-cni"));
            eventually!(has_entry(), Duration::from_secs(1));
            ensure!(redirects(node, "after-the-fight")?, "the pod is not redirected: {}", agent.log()?);

            // As `helm uninstall` does it: beside the agent, which must not put back what is taken off.
            let pod = pod_of(&chart, "-uninstall")?;
            let (uninstall_sandbox, uninstall) = start(node, &pod, "uninstall")?;
            assert_eq!(uninstall.wait()?, Exit::Code(0), "{}\n{}", uninstall.log()?, agent.log()?);
            let said = uninstall.log()?;
            assert_eq!(fs::read_to_string(node.conflist())?, before, "not as it was");
            ensure!(!redirects(node, "late")?, "the plugin is still there");
            let back = until_some(Duration::from_secs(2), || {
                fs::read_to_string(node.conflist()).ok().filter(|text| *text != before)
            });
            assert_eq!(back, None, "{}", agent.log()?);

            agent.stop(10)?;
            assert_eq!(agent.wait()?, Exit::Code(0), "{}", agent.log()?);
            for pod in [sandbox, uninstall_sandbox] {
                pod.stop()?;
                pod.remove()?;
            }
            nothing_is_left(node, &said)
        },
    )
}

/// Of the plugin on the node, once no pod of its time is left.
fn nothing_is_left(node: &Containerd, said: &str) -> Result<()> {
    let folder = node.as_ref().folder();
    let names = |folder: &Path| -> Result<Vec<String>> {
        let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    let left = || -> Result<Vec<String>> {
        let mut left = names(&node.as_ref().plugins())?;
        left.retain(|name| name.contains("culvert"));
        left.extend(names(&folder.join("log"))?);
        Ok(left)
    };
    let gone = until_some(Duration::from_secs(10), || left().ok().filter(Vec::is_empty));
    ensure!(gone.is_some(), "left on the node: {:?}\n{said}", left()?);
    Ok(())
}
