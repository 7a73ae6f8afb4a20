// SPDX-License-Identifier: Apache-2.0
//! The list of what the image's programs are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::repository;
use serde_json::Value;

use super::image::folder;

fn list(target: &str) -> Result<String> {
    let mut command = Command::new(repository().join("charts/image/sbom"));
    let output = command.arg(folder()?).arg(target).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Checksums of Cargo.lock by `name version`; empty for crates of this repository.
fn locked() -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(repository().join("Cargo.lock"))?;
    let mut crates = BTreeMap::new();
    for package in text.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let value = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            value.unwrap_or_default().trim_matches('"').to_owned()
        };
        crates.insert(format!("{} {}", field("name"), field("version")), field("checksum"));
    }
    ensure!(crates.len() > 150, "{}", crates.len());
    Ok(crates)
}

#[test]
fn every_part_is_a_locked_crate_or_a_library_of_the_toolchain() -> Result<()> {
    let text = list("x86_64-unknown-linux-gnu")?;
    let list: Value = serde_json::from_str(&text)?;
    for (field, expected) in
        [("spdxVersion", "SPDX-2.3"), ("dataLicense", "CC0-1.0"), ("SPDXID", "SPDXRef-DOCUMENT")]
    {
        assert_eq!(list[field], expected);
    }
    assert_eq!(list["creationInfo"]["created"], "1970-01-01T00:00:00Z");
    let locked = locked()?;
    let mut ids = BTreeSet::from(["SPDXRef-DOCUMENT"]);
    let mut toolchain = BTreeSet::new();
    for package in list["packages"].as_array().context("no packages")? {
        let text = |field: &str| package[field].as_str().with_context(|| format!("{package}: no {field}"));
        let (name, version) = (text("name")?, text("versionInfo")?);
        ensure!(ids.insert(text("SPDXID")?), "{name}: its id is another one's");
        ensure!(text("licenseDeclared")?.len() >= 3 && !text("licenseDeclared")?.contains('/'), "{package}");
        let purl = package["externalRefs"][0]["referenceLocator"].as_str();
        let Some(checksum) = locked.get(&format!("{name} {version}")) else {
            if name != "culvert" {
                toolchain.insert(name);
                ensure!(purl.is_some_and(|purl| purl.contains(name)), "{package}");
            }
            continue;
        };
        let stands = package["checksums"][0]["checksumValue"].as_str().unwrap_or_default();
        assert_eq!(stands, checksum, "{name}");
        if !checksum.is_empty() {
            assert_eq!(purl, Some(format!("pkg:cargo/{name}@{version}").as_str()));
        }
    }
    assert_eq!(toolchain, BTreeSet::from(["glibc", "rust-std"]));
    for relation in list["relationships"].as_array().context("no relationships")? {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            let id = relation[end].as_str().context("no id")?;
            ensure!(ids.contains(id), "{id} is no package");
        }
    }
    Ok(())
}

#[test]
fn each_program_links_its_own_crates_and_none_of_the_tests() -> Result<()> {
    let text = list("x86_64-unknown-linux-gnu")?;
    let list: Value = serde_json::from_str(&text)?;
    let linked = |program: &str, part: &str| {
        let from = format!("SPDXRef-{program}-{}", env!("CARGO_PKG_VERSION"));
        let to = format!("SPDXRef-{part}-");
        list["relationships"].as_array().into_iter().flatten().any(|relation| {
            relation["relationshipType"] == "STATIC_LINK"
                && relation["spdxElementId"] == from.as_str()
                && relation["relatedSpdxElement"].as_str().is_some_and(|id| id.starts_with(&to))
        })
    };
    for (program, part, expected) in [
        ("culvert-cni", "serde-json", true),
        ("culvert-cni", "nix", true),
        ("culvert-cni", "glibc", true),
        ("culvert-cni", "rust-std", true),
        ("culvert-cni", "rustls", false),
        ("culvert-sidecar", "tokio", true),
        ("culvert-sidecar", "culvert-mesh", true),
        ("culvert-install", "culvert-cni", true),
        ("culvert-install", "insta", false),
        ("culvert-sidecar", "proptest", false),
        // A macro runs in the compiler.
        ("culvert-sidecar", "thiserror-impl", false),
    ] {
        assert_eq!(linked(program, part), expected, "{program} and {part}");
    }
    ensure!(!text.contains("windows-sys"), "crates of another system");
    Ok(())
}

#[test]
fn the_list_has_the_same_bytes_each_time_and_another_name_for_other_parts() -> Result<()> {
    let [here, again, arm] =
        ["x86_64-unknown-linux-gnu", "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"].map(list);
    let (here, again, arm) = (here?, again?, arm?);
    ensure!(here == again, "two lists differ");
    let namespace = |text: &str| -> Result<Value> {
        Ok(serde_json::from_str::<Value>(text)?["documentNamespace"].clone())
    };
    assert_ne!(namespace(&here)?, namespace(&arm)?);
    Ok(())
}
