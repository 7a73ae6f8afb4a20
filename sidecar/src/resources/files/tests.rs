// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::options::Options;
use clap::Parser;
use std::fs::File;

const SMALL: Bounds = Bounds { files: 3, bytes: 100, documents: 4 };

fn config(arguments: &[&str]) -> Config {
    let arguments = ["culvert-sidecar", "--resources=/mesh"].iter().chain(arguments);
    Options::try_parse_from(arguments).unwrap().check().unwrap()
}

/// The errors of a folder with these files.
fn errors(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let loaded = load_within(SMALL, &config(&[]), &[folder.path().into()]);
    let path = format!("{}", folder.path().display());
    loaded.errors.iter().map(|error| error.to_string().replace(&path, "F")).collect()
}

#[test]
fn what_is_out_of_bounds_is_told_with_the_bounds() {
    const MESH: &str = "---\n{type: Mesh, name: a}\n";
    assert_eq!(errors(&[("a.yaml", MESH), ("b.yaml", ""), ("c.json", ""), ("d.txt", MESH)]), [""; 0]);
    assert_eq!(
        errors(&[("a.yaml", MESH), ("b.yaml", ""), ("c.json", ""), ("d.yml", "")]),
        [format!("F: found 4 files with {} bytes; allowed: 3 files and 100 bytes in all", MESH.len())]
    );
    assert_eq!(
        errors(&[("a.yaml", &"#".repeat(60)), ("b.yaml", &"#".repeat(41))]),
        ["F: found 2 files with 101 bytes; allowed: 3 files and 100 bytes in all"]
    );
    let five = (0..5).map(|n| format!("--- {{type: Mesh, name: {n}a}}\n")).collect::<String>();
    assert!(five.len() > 100);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), five).unwrap();
    let more_bytes = Bounds { bytes: 1000, ..SMALL };
    let loaded = load_within(more_bytes, &config(&[]), &[folder.path().into()]);
    assert_eq!(
        loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [format!("{}: found 5 documents; allowed: 4", folder.path().display())]
    );
}

#[test]
fn a_file_is_not_read_before_its_size_is_known_to_be_in_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big.yaml");
    // A hole: it takes no place, and to read it would take 16 TiB.
    File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let loaded = load(&config(&[]), &[file]);
    assert!(loaded.errors[0].to_string().ends_with("allowed: 20000 files and 67108864 bytes in all"));
}

#[test]
fn no_dataplane_is_missed_that_may_be_in_what_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&["--dataplane=app"]);
    let missed = |text: &str| {
        fs::write(folder.path().join("a.yaml"), text).unwrap();
        let Err(errors) = crate::resources::plan(&config, &[folder.path().into()]) else { panic!("{text}") };
        let words: Vec<_> = errors.iter().map(ToString::to_string).collect();
        words.iter().any(|error| error.starts_with("--dataplane app: no document"))
    };
    for may_be in [
        "name: app\ntype: [",
        "{type: Dataplan, name: app}",
        "{type: Dataplane, name: 5}",
        "{type: Dataplane, name: app, mesh: 5}",
        "{type: Dataplane, name: app}",
        "{type: Dataplane, name: app, networking: {address: here}}",
    ] {
        assert!(!missed(may_be), "{may_be}");
    }
    for is_not in [
        "name: web\ntype: [",
        "{type: TrafficRoute, name: web}",
        "{type: Mesh, name: 5}",
        "{type: Dataplane, name: app, mesh: other, networking: {address: here}}",
        "{type: Dataplane, name: web, networking: {address: here}}",
        "",
    ] {
        assert!(missed(is_not), "{is_not}");
    }
}
