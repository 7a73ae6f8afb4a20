// SPDX-License-Identifier: Apache-2.0
//! The table of values in the chart's README, made of values.yaml and its comments.
//!
//! `UPDATE_PAGES=1 cargo test -p culvert-tests -- chart::page` writes it anew.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::chart::{Chart, yaml};
use serde_json::Value;

const BEGIN: &str = "<!-- values: begin -->\n";
const END: &str = "<!-- values: end -->\n";
/// Words of a row at most. What a comment says beyond that stands in values.yaml only.
const WORDS: usize = 40;
/// Longest default that a row shows, in bytes.
const DEFAULT: usize = 60;
/// Values that are one setting each, whatever is in them.
const MAPS: [&str; 4] = ["nodeSelector", "resources", "affinity", "dashboard.labels"];

/// A key of values.yaml with the comment above it.
#[derive(Debug)]
struct Key {
    /// `a.b.c`
    name: String,
    comment: String,
    /// False for a key with settings below it.
    leaf: bool,
    value: Value,
}

fn is_map(name: &str) -> bool {
    MAPS.iter().any(|map| name.ends_with(map))
}

/// Reads the keys in their order.
fn keys(text: &str) -> Result<Vec<Key>> {
    let values = yaml(text)?;
    let mut keys: Vec<Key> = Vec::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(words) = line.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        let said = std::mem::take(&mut comment).join(" ");
        let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with('-')) else { continue };
        above.retain(|(column, _)| *column < indent);
        let parent = above.last().map(|(_, name)| name.as_str());
        if parent.is_some_and(|parent| keys.iter().any(|key| key.name == parent && key.leaf)) {
            // A part of a setting.
            continue;
        }
        let name = parent.map_or_else(|| key.to_owned(), |parent| format!("{parent}.{key}"));
        let value = values.pointer(&format!("/{}", name.replace('.', "/"))).with_context(|| name.clone())?;
        let leaf = is_map(&name) || value.as_object().is_none_or(serde_json::Map::is_empty);
        keys.push(Key { name: name.clone(), comment: said, leaf, value: value.clone() });
        above.push((indent, name));
    }
    Ok(keys)
}

/// As many sentences as fit, the first in any case.
fn shortened(comment: &str) -> String {
    let mut text = String::new();
    for sentence in comment.split_inclusive(". ") {
        let words = text.split_whitespace().count() + sentence.split_whitespace().count();
        if !text.is_empty() && words > WORDS {
            break;
        }
        text.push_str(sentence);
    }
    text.trim().trim_end_matches('.').replace('|', "\\|")
}

fn table(keys: &[Key]) -> String {
    let mut text = "\n| value | default | |\n|---|---|---|\n".to_owned();
    for Key { name, comment, leaf, value } in keys {
        let shown = match value {
            _ if !leaf => String::new(),
            Value::String(word) if word.is_empty() => String::new(),
            Value::String(word) => format!("`{word}`"),
            other if other.to_string().len() <= DEFAULT => format!("`{other}`"),
            _ => "[values.yaml](values.yaml)".to_owned(),
        };
        let name = if *leaf { format!("`{name}`") } else { format!("**`{name}`**") };
        text.push_str(&format!("| {name} | {shown} | {} |\n", shortened(comment)));
    }
    text + "\n"
}

#[test]
fn the_table_of_values_is_made_of_their_file() -> Result<()> {
    let page = Chart::file("README.md")?;
    let (before, rest) = page.split_once(BEGIN).context("README.md marks where its table begins")?;
    let (stands, after) = rest.split_once(END).context("README.md marks where its table ends")?;
    let table = table(&keys(&Chart::file("values.yaml")?)?);
    if std::env::var_os("UPDATE_PAGES").is_some() {
        fs::write(Chart::folder().join("README.md"), format!("{before}{BEGIN}{table}{END}{after}"))?;
        return Ok(());
    }
    assert_eq!(
        stands, table,
        "README.md differs from values.yaml: UPDATE_PAGES=1 cargo test -p culvert-tests -- chart::page"
    );
    Ok(())
}

#[test]
fn every_value_says_what_it_is_in_a_row_and_has_a_schema() -> Result<()> {
    let keys = keys(&Chart::file("values.yaml")?)?;
    ensure!(keys.iter().filter(|key| key.leaf).count() > 50, "{keys:?}");
    let schema: Value = serde_json::from_str(&Chart::file("values.schema.json")?)?;
    for Key { name, comment, .. } in &keys {
        let words = shortened(comment).split_whitespace().count();
        ensure!((2..=WORDS).contains(&words), "{name}: {words} words in {comment:?}, 2 to {WORDS} fit");
        let pointer = format!("/properties/{}", name.replace('.', "/properties/"));
        let Some(part) = schema.pointer(&pointer) else { bail!("{name} is not in values.schema.json") };
        let closed =
            part["properties"].as_object().is_none_or(|_| part["additionalProperties"] != Value::Null);
        ensure!(closed, "{name}: values.schema.json lets unknown keys in");
    }
    Ok(())
}

#[test]
fn every_setting_of_the_schema_is_in_the_file() -> Result<()> {
    let names: Vec<String> = keys(&Chart::file("values.yaml")?)?.into_iter().map(|key| key.name).collect();
    let schema: Value = serde_json::from_str(&Chart::file("values.schema.json")?)?;
    let mut parts = vec![(String::new(), &schema)];
    while let Some((at, part)) = parts.pop() {
        for (key, below) in part["properties"].as_object().into_iter().flatten() {
            let name = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            // What a user fills in: names of the plugin's settings, of labels and of Kubernetes' own fields.
            let free = is_map(&name) || ["redirect", "podLabels", "podAnnotations"].contains(&key.as_str());
            if name == "global" || *below == false {
                continue;
            }
            ensure!(names.contains(&name), "values.schema.json has {name}, which is not in values.yaml");
            if !free {
                parts.push((name, below));
            }
        }
    }
    Ok(())
}

#[test]
fn each_file_of_values_stands_on_the_page_and_says_its_platform() -> Result<()> {
    let page = Chart::file("README.md")?;
    let files = Chart::value_files()?;
    let expected = ["cilium", "eks", "gke", "k3d", "k3s", "kind", "microk8s", "openshift", "rke2"];
    assert_eq!(files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
    for (name, values) in files {
        ensure!(page.contains(&format!("`{name}`")), "{name} is not in README.md");
        // Given together with another file, as cilium is, a platform would undo that one's.
        let platform = values.get("platform").is_some();
        assert_eq!(platform, name != "cilium", "{name}");
        let text = Chart::file(&format!("values-{name}.yaml"))?;
        ensure!(text.starts_with("# "), "{name} says nothing of itself");
    }
    Ok(())
}

#[test]
fn a_comment_is_cut_between_sentences() {
    let long = format!("One. {}end. Three.", "word ".repeat(WORDS - 2));
    assert_eq!(shortened(&long), format!("One. {}end", "word ".repeat(WORDS - 2)));
    assert_eq!(shortened("Below `/a.b`: 1.5 | 2. And more."), "Below `/a.b`: 1.5 \\| 2. And more");
}
