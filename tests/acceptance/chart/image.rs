// SPDX-License-Identifier: Apache-2.0
//! The container image, made by its script and read by a container runtime, and the Dockerfile beside it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::repository;
use culvert_tests::process::binaries::Binaries;
use culvert_tests::runtime::{Containerd, Exit};
use serde_json::{Value, json};

use crate::runtime::leaving_nothing;

const PROGRAMS: [&str; 3] = ["culvert-cni", "culvert-install", "culvert-sidecar"];
const LABEL: &str = "org.opencontainers.image.";

/// Runs the image script with these arguments.
fn build(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(repository().join("charts/image/build"));
    command.args(arguments).env("CULVERT_BIN_DIR", folder()?);
    command.output().context("cannot start charts/image/build")
}

/// The folder of the built programs.
pub(super) fn folder() -> Result<&'static Path> {
    Binaries::built()?.cni.parent().context("no folder")
}

/// An image of this name in `folder`, with these options too.
fn image_with(folder: &Path, name: &str, options: &[&str]) -> Result<PathBuf> {
    let archive = folder.join("culvert.tar");
    let output = archive.to_string_lossy();
    // A commit in the middle of a test would make another image.
    let fixed = ["--revision", "test", "--name", name, "--output", &output];
    let built = build(&[&fixed, options].concat())?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Ok(archive)
}

/// An image of this name in `folder`.
pub(crate) fn image(folder: &Path, name: &str) -> Result<PathBuf> {
    image_with(folder, name, &[])
}

/// Standard output of a program that went well.
fn said(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An archive's files, unpacked.
struct Layout {
    folder: tempfile::TempDir,
}

impl Layout {
    fn of(archive: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(folder.path());
        said(tar)?;
        Ok(Self { folder })
    }

    fn json(&self, path: &str) -> Result<Value> {
        let path = self.folder.path().join(path);
        serde_json::from_slice(&fs::read(&path).with_context(|| path.display().to_string())?)
            .context("no JSON")
    }

    fn path_of(descriptor: &Value) -> Result<String> {
        let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        Ok(format!("blobs/sha256/{}", digest.context("no digest")?))
    }

    fn blob(&self, descriptor: &Value) -> Result<Value> {
        self.json(&Self::path_of(descriptor)?)
    }

    /// The only manifest, where the image is of one architecture.
    fn manifest(&self) -> Result<Value> {
        self.blob(&self.json("index.json")?["manifests"][0])
    }

    /// Mode, owner and path of each file of the layer, as tar lists them.
    fn files(&self) -> Result<Vec<String>> {
        let layer = self.folder.path().join(Self::path_of(&self.manifest()?["layers"][0])?);
        let mut tar = Command::new("tar");
        tar.args(["--list", "--gzip", "--verbose", "--numeric-owner", "--file"]).arg(layer);
        let rows = said(tar)?;
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[0], words[1], words[words.len() - 1])
        };
        Ok(rows.lines().map(row).collect())
    }
}

/// Everything in the image beside the bytes of its files.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    /// Mode, owner and path.
    files: Vec<String>,
    user: String,
    environment: Vec<String>,
    labels: BTreeMap<String, String>,
    /// Entry points, commands, volumes and the like, of which there are none.
    others: Vec<String>,
}

const REVISION: &str = "0123456789abcdef";
const SOURCE: &str = "https://git.example.com/culvert";

fn content(folder: &Path) -> Result<Content> {
    let options = ["--revision", REVISION, "--source", SOURCE];
    let layout = Layout::of(&image_with(folder, "localhost/culvert:test", &options)?)?;
    let config = layout.blob(&layout.manifest()?["config"])?["config"].clone();
    let config = config.as_object().context("no configuration")?;
    let labels = config["Labels"].as_object().context("no labels")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Content {
        files: layout.files()?.into_iter().filter(|file| !file.starts_with('d')).collect(),
        user: text(&config["User"]),
        environment: culvert_tests::chart::strings(&config["Env"]).into_iter().map(str::to_owned).collect(),
        labels: labels.iter().map(|(key, value)| (key.clone(), text(value))).collect(),
        others: config
            .keys()
            .filter(|key| !["User", "Env", "Labels"].contains(&key.as_str()))
            .cloned()
            .collect(),
    })
}

/// The last stage of the Dockerfile, with these build arguments.
fn of_dockerfile(text: &str, arguments: &[(&str, &str)]) -> Result<Content> {
    let joined = text.replace("\\\n", " ");
    let (_, stage) = joined.rsplit_once("\nFROM ").context("no stage")?;
    let mut content = Content {
        files: Vec::new(),
        user: String::new(),
        environment: Vec::new(),
        labels: BTreeMap::new(),
        others: Vec::new(),
    };
    ensure!(stage.lines().next() == Some("scratch"), "{stage}");
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    for line in stage.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (verb, rest) = line.split_once(' ').context("a bare word")?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        match verb {
            "COPY" => {
                let option =
                    |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
                let mode = match option("--chmod") {
                    Some("755") => "-rwxr-xr-x",
                    Some("644") => "-rw-r--r--",
                    other => anyhow::bail!("mode {other:?}"),
                };
                ensure!(option("--chown") == Some("0:0"), "{line}");
                let paths: Vec<&str> = words.into_iter().filter(|word| !word.starts_with("--")).collect();
                let (to, from) = paths.split_last().context("no paths")?;
                ensure!(to.ends_with('/'), "{line}");
                for file in from {
                    let name = file.rsplit('/').next().unwrap_or_default();
                    content.files.push(format!("{mode} 0/0 {}{name}", to.trim_start_matches('/')));
                }
            }
            "USER" => content.user = rest.to_owned(),
            "ENV" => content.environment.push(rest.to_owned()),
            "ARG" => {
                let (name, default) = rest.split_once('=').unwrap_or((rest, ""));
                let given = arguments.iter().find(|(known, _)| *known == name);
                variables.insert(name.to_owned(), given.map_or(default, |(_, value)| value).to_owned());
            }
            "LABEL" => {
                for word in words {
                    let (name, value) = word.split_once('=').context("no value")?;
                    let value = match value.strip_prefix('$') {
                        Some(variable) => {
                            variables.get(variable).with_context(|| variable.to_owned())?.clone()
                        }
                        None => value.to_owned(),
                    };
                    content.labels.insert(name.to_owned(), value);
                }
            }
            other => content.others.push(other.to_owned()),
        }
    }
    Ok(content)
}

#[test]
fn the_dockerfile_makes_the_same_image_as_the_script() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = content(folder.path())?;
    let text = fs::read_to_string(repository().join("charts/image/Dockerfile"))?;
    let arguments = [("REVISION", REVISION), ("SOURCE", SOURCE)];
    assert_eq!(of_dockerfile(&text, &arguments)?, script);
    // Each change is seen.
    for (from, to) in [
        ("--chmod=755", "--chmod=644"),
        ("/culvert-cni /culvert-install", "/culvert-cni"),
        ("USER 5678:5678", "USER 0:0"),
        ("PATH=/bin", "PATH=/sbin"),
        ("title=culvert", "title=pipe"),
        ("USER 5678:5678", "USER 5678:5678\nENTRYPOINT /bin/culvert-install"),
    ] {
        // In the last stage.
        let (before, stage) = text.rsplit_once("\nFROM ").context("no stage")?;
        let changed = format!("{before}\nFROM {}", stage.replacen(from, to, 1));
        assert_ne!(of_dockerfile(&changed, &arguments)?, script, "{from} became {to}");
    }
    // Rust as old as the workspace allows would do; this is the one.
    let cargo = fs::read_to_string(repository().join("Cargo.toml"))?;
    let rust = cargo.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'));
    let rust = rust.context("no rust-version")?;
    ensure!(
        text.contains(&format!("/rust:{rust}-bookworm AS build")),
        "the Dockerfile has another Rust than {rust}"
    );
    Ok(())
}

#[test]
fn the_image_holds_three_programs_and_the_list_of_their_parts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Content { files, user, environment, labels, others } = content(folder.path())?;
    assert_eq!(
        files,
        [
            "-rwxr-xr-x 0/0 bin/culvert-cni",
            "-rwxr-xr-x 0/0 bin/culvert-install",
            "-rwxr-xr-x 0/0 bin/culvert-sidecar",
            "-rw-r--r-- 0/0 usr/share/sbom/culvert.spdx.json",
        ]
    );
    assert_eq!(
        (user.as_str(), &environment[..], others),
        ("5678:5678", &["PATH=/bin".to_owned()][..], vec![])
    );
    let expected = [
        ("licenses", "Apache-2.0"),
        ("revision", REVISION),
        ("source", SOURCE),
        ("title", "culvert"),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    let expected = expected.map(|(name, value)| (format!("{LABEL}{name}"), value.to_owned()));
    assert_eq!(labels, BTreeMap::from(expected));
    Ok(())
}

#[test]
fn the_programs_of_the_image_have_no_symbols() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let layout = Layout::of(&image(folder.path(), "localhost/culvert:test")?)?;
    let layer = layout.folder.path().join(Layout::path_of(&layout.manifest()?["layers"][0])?);
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--file"]).arg(layer).arg("--directory").arg(folder.path());
    said(tar)?;
    for program in PROGRAMS {
        let inside = folder.path().join("bin").join(program);
        let mut readelf = Command::new("readelf");
        readelf.args(["--sections", "--wide"]).arg(&inside);
        let sections = said(readelf)?;
        ensure!(sections.contains(".text"), "{program}: {sections}");
        for section in [".symtab", ".debug_line"] {
            ensure!(!sections.contains(section), "{program} has {section}");
        }
        ensure!(
            fs::metadata(&inside)?.len() < fs::metadata(self::folder()?.join(program))?.len(),
            "{program}"
        );
    }
    Ok(())
}

#[test]
fn the_same_binaries_make_the_same_archive() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let read = |name: &str| -> Result<Vec<u8>> {
        let below = folder.path().join(name);
        fs::create_dir(&below)?;
        let archive = fs::read(image(&below, "localhost/culvert:test")?)?;
        ensure!(below.join("culvert.spdx.json").is_file(), "no list of parts beside the archive");
        Ok(archive)
    };
    let (first, second) = (read("first")?, read("second")?);
    ensure!(first == second, "the archives differ");
    ensure!(first.len() > 1 << 20, "only {} bytes", first.len());
    Ok(())
}

/// Programs as a machine of the other architecture would have built them, by their headers.
fn for_arm(folder: &Path) -> Result<PathBuf> {
    let other = folder.join("arm64");
    fs::create_dir(&other)?;
    for program in PROGRAMS {
        let mut bytes = fs::read(self::folder()?.join(program))?;
        // e_machine.
        bytes[18] = 0xb7;
        fs::write(other.join(program), bytes)?;
        fs::set_permissions(other.join(program), fs::Permissions::from_mode(0o755))?;
    }
    Ok(other)
}

#[test]
fn two_architectures_make_an_index_of_both() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (here, other) = (self::folder()?.to_string_lossy(), for_arm(folder.path())?);
    let (other, name) = (other.to_string_lossy(), "localhost/culvert:test");
    let one = Layout::of(&image_with(folder.path(), name, &["--binaries", &here, "--no-strip"])?)?;
    let alone = one.json("index.json")?["manifests"][0]["digest"].clone();
    let mut digests = Vec::new();
    for order in [[&here, &other], [&other, &here]] {
        let options = ["--binaries", order[0].as_ref(), "--binaries", order[1].as_ref(), "--no-strip"];
        let layout = Layout::of(&image_with(folder.path(), name, &options)?)?;
        let top = layout.json("index.json")?["manifests"].clone();
        assert_eq!(top.as_array().map(Vec::len), Some(1), "{top}");
        assert_eq!(top[0]["annotations"]["io.containerd.image.name"], name);
        let index = layout.blob(&top[0])?;
        assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
        let list = index["manifests"].as_array().context("no manifests")?;
        let platforms: Vec<&Value> = list.iter().map(|manifest| &manifest["platform"]).collect();
        let amd = json!({ "architecture": "amd64", "os": "linux" });
        let arm = json!({ "architecture": "arm64", "os": "linux" });
        assert_eq!(platforms, [&amd, &arm]);
        assert_eq!(list[0]["digest"], alone, "the index holds another image than the script makes alone");
        for (manifest, architecture) in list.iter().zip(["amd64", "arm64"]) {
            let config = layout.blob(&layout.blob(manifest)?["config"])?;
            assert_eq!(config["architecture"], architecture);
            assert!(folder.path().join(format!("culvert-{architecture}.spdx.json")).is_file());
        }
        digests.push(top[0]["digest"].clone());
    }
    assert_eq!(digests[0], digests[1], "the order of the folders counts");
    Ok(())
}

#[test]
fn wrong_image_arguments_are_refused_with_a_remedy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let empty = folder.path().to_string_lossy();
    let here = self::folder()?.to_string_lossy();
    for (arguments, words) in [
        (&["--name", "Upper"][..], "registry.example.com/culvert:"),
        (&["--binaries", &empty], "cargo build --release"),
        (&["--binaries", &here, "--binaries", &here, "--no-strip"], "two folders with programs for amd64"),
        (&["--binaries"], "wants a value"),
        (&["--source", "git@example.com"], "https://git.example.com/culvert"),
        (&["--revision", "a\"b"], "a commit or a tag"),
        (&["--push"], "--help"),
    ] {
        let refused = build(&[arguments, &["--output", &format!("{empty}/culvert.tar")]].concat());
        // A value is missing only where it is the last word.
        let refused = if words == "wants a value" { build(arguments)? } else { refused? };
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
