// SPDX-License-Identifier: Apache-2.0
//! The built programs accept every option that the chart and the README give them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::chart::{Chart, strings};
use culvert_tests::process::binaries::Binaries;
use serde_json::{Value, json};

use super::{choices, rendered, sidecar};

/// Lets a program read a container's command line, and end with its help: it refuses what stands before that and is wrong.
pub(super) fn takes(command: &Value, arguments: &Value) -> Result<()> {
    let Binaries { cni, sidecar, install } = Binaries::built()?;
    let mut words = strings(command);
    ensure!(!words.is_empty(), "no command");
    let program = words.remove(0);
    let name = program.strip_prefix("/bin/").with_context(|| format!("{program} is not in the image"))?;
    let built = [cni, sidecar, install].into_iter().find(|path| path.ends_with(Path::new(name)));
    let output = Command::new(built.with_context(|| format!("there is no program {name}"))?)
        .args(words)
        .args(strings(arguments))
        .arg("--help")
        .env("NODE_NAME", "node-1")
        .output()?;
    if !output.status.success() {
        bail!("{command} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[test]
fn every_option_that_the_chart_sets_is_one() -> Result<()> {
    let mut commands = 0;
    for (name, values) in choices()? {
        for (whose, _, pod) in rendered(&values)?.pods() {
            for container in pod["containers"].as_array().into_iter().flatten() {
                let arguments = container.get("args").cloned().unwrap_or(json!([]));
                takes(&container["command"], &arguments).with_context(|| format!("{name}: {whose}"))?;
                commands += 1;
            }
        }
    }
    ensure!(commands > 20, "only {commands} commands were looked at");
    Ok(())
}

#[test]
fn every_option_of_the_sidecars_manifests_is_one() -> Result<()> {
    for manifest in sidecar::manifests()? {
        let container = manifest.container();
        takes(&container["command"], &container["args"])?;
        let started = &container["lifecycle"]["postStart"]["exec"]["command"];
        if !started.is_null() {
            takes(started, &json!([]))?;
        }
    }
    Ok(())
}

#[test]
fn an_option_that_is_none_is_noticed() -> Result<()> {
    for arguments in [json!(["--no-such-option"]), json!(["--inbound-port=70000"])] {
        takes(&json!(["/bin/culvert-sidecar"]), &arguments).expect_err("it was taken");
    }
    Ok(())
}

#[test]
fn the_image_that_the_chart_starts_is_the_one_that_is_built() -> Result<()> {
    let rendered = rendered(&json!({}))?;
    let container = &rendered.one("DaemonSet", "-agent")?["spec"]["template"]["spec"]["containers"][0];
    let chart = culvert_tests::chart::yaml(&Chart::file("Chart.yaml")?)?;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(container["image"], format!("localhost/culvert:{version}"));
    assert_eq!(chart["appVersion"], version);
    for manifest in sidecar::manifests()? {
        assert_eq!(manifest.container()["image"], format!("registry.example.com/culvert:{version}"));
    }
    Ok(())
}
