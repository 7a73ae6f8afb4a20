// SPDX-License-Identifier: Apache-2.0
//! The one image of all containers, as `docker save` writes it: a static busybox, and the sidecar.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::world::program;
use crate::process::binaries::Binaries;

/// The image's name, also of the one that holds a sandbox.
pub(super) const NAME: &str = "localhost/pause:test";

/// The answer of a container's web server.
pub const PAGE: &str = "the application";

/// The sidecar in the image.
pub const SIDECAR: &str = "/bin/culvert-sidecar";

/// Names under which a container calls its busybox.
const APPLETS: [&str; 5] = ["httpd", "id", "sh", "sleep", "wget"];

/// Writes the image into `folder` and returns its file.
pub(crate) fn build(folder: &Path) -> Result<PathBuf> {
    let files = folder.join("image");
    for below in ["bin", "www", "tmp"] {
        fs::create_dir_all(files.join("root").join(below))?;
    }
    let busybox = program("busybox")?;
    // It fails for a static one.
    if Command::new(program("ldd")?).arg(&busybox).output()?.status.success() {
        bail!(
            "{} needs libraries, which containers here have not: install busybox-static",
            busybox.display()
        );
    }
    fs::copy(busybox, files.join("root/bin/busybox"))?;
    fs::copy(&Binaries::built()?.sidecar, files.join("root").join(&SIDECAR[1..]))?;
    for applet in APPLETS {
        symlink("busybox", files.join("root/bin").join(applet))?;
    }
    fs::write(files.join("root/www/index.html"), PAGE)?;
    tar(&files.join("root"), &files.join("layer.tar"), &["."])?;

    let config = json!({
        "architecture": architecture()?,
        "os": "linux",
        // The sandbox's own process; it takes no part in anything.
        "config": { "Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&files.join("layer.tar"))?)] },
    });
    fs::write(files.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    fs::write(files.join("manifest.json"), manifest.to_string())?;
    let image = folder.join("image.tar");
    tar(&files, &image, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(image)
}

/// In the words of container images.
fn architecture() -> Result<&'static str> {
    Ok(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no name for the architecture {other} in container images"),
    })
}

fn tar(folder: &Path, archive: &Path, files: &[&str]) -> Result<()> {
    let mut command = Command::new(program("tar")?);
    command.arg("--create").arg("--file").arg(archive).arg("--directory").arg(folder).args(files);
    output(command).map(drop)
}

fn sha256(file: &Path) -> Result<String> {
    let mut command = Command::new(program("sha256sum")?);
    command.arg(file);
    let line = output(command)?;
    Ok(line.split_whitespace().next().context("sha256sum printed nothing")?.to_owned())
}

/// Of a program that only reads and writes files.
fn output(mut command: Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
