// SPDX-License-Identifier: Apache-2.0
//! The container image, made by its script and read by a container runtime.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::repository;
use culvert_tests::process::binaries::Binaries;
use culvert_tests::runtime::{Containerd, Exit};
use serde_json::json;

use crate::runtime::leaving_nothing;

/// Runs the image script with these arguments.
fn build(arguments: &[&str]) -> Result<Output> {
    let binaries = Binaries::built()?.cni.parent().context("no folder")?;
    let mut command = Command::new(repository().join("charts/image/build"));
    command.args(arguments).env("CULVERT_BIN_DIR", binaries);
    command.output().context("cannot start charts/image/build")
}

/// An image of this name in `folder`.
pub(super) fn image(folder: &Path, name: &str) -> Result<PathBuf> {
    let archive = folder.join("culvert.tar");
    let built = build(&["--name", name, "--output", &archive.to_string_lossy()])?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Ok(archive)
}

#[test]
fn the_same_binaries_make_the_same_archive() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let read = |name: &str| -> Result<Vec<u8>> {
        let below = folder.path().join(name);
        fs::create_dir(&below)?;
        Ok(fs::read(image(&below, "localhost/culvert:test")?)?)
    };
    let (first, second) = (read("first")?, read("second")?);
    ensure!(first == second, "the archives differ");
    ensure!(first.len() > 1 << 20, "only {} bytes", first.len());
    Ok(())
}

#[test]
fn wrong_image_arguments_are_refused_with_a_remedy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let empty = folder.path().to_string_lossy();
    for (arguments, words) in [
        (&["--name", "Upper"][..], "registry.example.com/culvert:"),
        (&["--binaries", &empty], "cargo build --release"),
        (&["--binaries"], "wants a value"),
        (&["--push"], "--help"),
    ] {
        let refused = build(arguments)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(64), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    Ok(())
}

#[test]
fn every_program_runs_from_the_image() -> Result<()> {
    const NAME: &str = "localhost/culvert:test";
    leaving_nothing(
        || Containerd::start("1.0.0", &json!({})),
        |node| {
            let archive = image(node.as_ref().folder(), NAME)?;
            node.import(&archive)?;
            let pod = node.pod("image").run()?;
            for program in ["culvert-install", "culvert-sidecar"] {
                let manifest = json!({
                    "name": program, "image": NAME, "command": [program, "--version"],
                    "securityContext": { "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } },
                });
                let container = pod.start(&json!({ "containers": [manifest] }), program)?;
                assert_eq!(container.wait()?, Exit::Code(0), "{}", container.log()?);
                let expected = format!("{program} {}", env!("CARGO_PKG_VERSION"));
                assert!(container.log()?.contains(&expected), "{}", container.log()?);
            }
            // A plugin answers for its version by its own protocol.
            let manifest = json!({ "name": "plugin", "image": NAME, "command": ["culvert-cni"],
                                   "env": [{ "name": "CNI_COMMAND", "value": "VERSION" }] });
            let container = pod.start(&json!({ "containers": [manifest] }), "plugin")?;
            assert_eq!(container.wait()?, Exit::Code(0), "{}", container.log()?);
            assert!(container.log()?.contains("supportedVersions"), "{}", container.log()?);
            Ok(())
        },
    )
}
