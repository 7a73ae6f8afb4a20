// SPDX-License-Identifier: Apache-2.0
//! Each crate's rooms: imports go downwards only, by the table in its `lib.rs`. Needs no root.
//!
//! Held of `cni`, `sidecar`, `sidecar/http`, `sidecar/http2`, `sidecar/mesh`, `install` and `tests`:
//! - every top-level module stands in the table, and imports only rooms with a lower number;
//! - at most 15 modules on a level, and no import circle among the modules of a folder;
//! - no `name.rs` beside a folder `name`.
//!
//! `lib.rs`, programs and code of tests are free.

mod house;
mod imports;
mod tokens;

use std::path::Path;

use self::house::House;

#[track_caller]
fn holds(folder: &str) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let violations = House::read(&repository, folder).expect("the sources can be read").violations();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn the_plugin_imports_downwards_only() {
    holds("cni");
}

#[test]
fn the_sidecar_imports_downwards_only() {
    holds("sidecar");
}

#[test]
fn the_http_relay_imports_downwards_only() {
    holds("sidecar/http");
}

#[test]
fn the_http2_relay_imports_downwards_only() {
    holds("sidecar/http2");
}

#[test]
fn the_mesh_documents_import_downwards_only() {
    if Path::new(env!("CARGO_MANIFEST_DIR")).join("../sidecar/mesh").is_dir() {
        holds("sidecar/mesh");
    }
}

#[test]
fn the_installer_imports_downwards_only() {
    holds("install");
}

#[test]
fn the_lab_imports_downwards_only() {
    holds("tests");
}

// === the reader itself, on small crates ===

const LIB: &str = "//! | level | room | holds |\n//! |---|---|---|\n//! | 2 | `top` | a |\n//! | 1 | `low` | b |\n//! | 1 | `side` | c |\nmod low;\nmod side;\nmod top;\npub use self::low::Thing;\n";

/// The violations of a crate with the rooms `top` (2), `low` (1) and `side` (1), where these files are added.
fn found(more: &[(&str, &str)]) -> Vec<String> {
    let mut sources = vec![("lib.rs", LIB), ("low.rs", "pub struct Thing;"), ("side.rs", ""), ("top.rs", "")];
    sources.retain(|(name, _)| {
        let room = name.trim_end_matches(".rs");
        !more.iter().any(|(other, _)| other == name || *other == format!("{room}/mod.rs"))
    });
    sources.extend_from_slice(more);
    House::of(&sources).violations()
}

#[track_caller]
fn breaks(more: &[(&str, &str)], parts: &[&str]) {
    let lines = found(more);
    assert_eq!(lines.len(), 1, "{more:?}: {lines:?}");
    for part in parts {
        assert!(lines[0].contains(part), "{more:?}: {part} is not in {lines:?}");
    }
}

#[track_caller]
fn keeps(more: &[(&str, &str)]) {
    assert_eq!(found(more), Vec::<String>::new(), "{more:?}");
}

#[test]
fn an_import_of_a_higher_room_or_of_the_same_level_is_found_in_every_spelling() {
    for source in [
        "use crate::top::Up;",
        "pub(crate) use crate::top as other;",
        "use crate::{low::A, top::{self}};",
        "use crate::low::{A, B};\nuse crate::{top::{B as C}, low::D};",
        "use crate::top::*;",
        "use super::top;",
        "fn f() { crate::top::up() }",
        "fn f(x: &crate::top::Up) {}",
        "fn f() { super::top::up() }",
        "macro_rules! m { () => { $crate::top::up() } }",
        "mod inner { use super::super::top; }",
        "fn f() { use crate::top::up; up() }",
    ] {
        breaks(&[("low.rs", source)], &["small/src/low.rs:", "`low` (level 1)", "`top` (level 2)"]);
    }
    breaks(
        &[("low/mod.rs", "mod deep;"), ("low/deep.rs", "\n\nuse super::super::top;")],
        &["low/deep.rs:3: `super::super::top`"],
    );
    breaks(&[("low.rs", "use crate::side::A;")], &["`low` (level 1) imports `side` (level 1)"]);
}

#[test]
fn an_import_of_a_lower_room_is_free_and_so_are_words_that_are_none() {
    for source in [
        "use crate::low::{A, B as C};\nuse super::side::D;",
        "use std::fmt;\nuse self::inner::X;\nmod inner { pub struct X; }",
        "use crate::Thing;",
    ] {
        keeps(&[("top.rs", source)]);
    }
    for source in [
        "// use crate::top::A;\n/// See [`crate::top`].\n/* crate::top /* crate::top */ */",
        "const A: &str = \"crate::top::A\";\nconst B: &str = r#\"use crate::top::A;\"#;\nconst C: char = '\"';",
        "fn f<'a>(x: &'a str) -> impl Sized + use<'a> { x }",
        "pub(in crate::low) fn f() {}",
        "pub(crate) fn f() { std::top::x() }",
        "mod inner { use super::top; }\nmod top {}",
    ] {
        keeps(&[("low.rs", source)]);
    }
}

#[test]
fn what_the_root_passes_on_counts_as_an_import_of_its_room() {
    breaks(
        &[("side.rs", "use crate::Thing;")],
        &["`crate::Thing`", "`side` (level 1) imports `low` (level 1)"],
    );
    breaks(&[("low.rs", "use crate::of_the_root;")], &["imports `the crate's root` (above all)"]);
    breaks(
        &[("top.rs", "#[macro_export] macro_rules! m { () => {} }"), ("low.rs", "fn f() { crate::m!() }")],
        &["`low` (level 1) imports `top` (level 2)"],
    );
}

#[test]
fn code_of_tests_is_free() {
    for source in [
        "#[cfg(test)]\nmod tests { use crate::top::A; }",
        "#[cfg(test)]\nuse crate::{low::A, top::{B}};\nfn f() {}",
        "#[cfg(test)]\n#[allow(unused)]\npub(crate) fn f(a: [u8; 2]) -> u8 { crate::top::g() }",
        "#[cfg(all(test, unix))]\nimpl A { fn f() { crate::top::g() } }",
        "struct A {\n#[cfg(test)]\nb: crate::top::B,\nc: u8 }",
        "#![cfg(test)]\nuse crate::top::A;",
    ] {
        keeps(&[("low.rs", source)]);
        let counted = source.replace("test", "unix");
        assert_eq!(found(&[("low.rs", &counted)]).len(), 1, "{counted}");
    }
    keeps(&[("low/mod.rs", "#[cfg(test)]\nmod tests;"), ("low/tests.rs", "use crate::top::A;")]);
    keeps(&[("low/mod.rs", "#[cfg(test)]\nmod proof;"), ("low/proof.rs", "use crate::top::A;")]);
    keeps(&[("main.rs", "use crate::anything;"), ("bin/b.rs", "use crate::anything;")]);
    // What follows the code of tests counts again.
    breaks(&[("low.rs", "#[cfg(test)]\nmod tests {}\nuse crate::top::A;")], &["low.rs:3"]);
}

#[test]
fn every_room_is_in_the_table_and_every_row_has_a_room() {
    breaks(&[("more.rs", "")], &["small/src/more.rs:1: room `more` is not in the table"]);
    let row = LIB.replace("mod low", "//! | 3 | `gone` | d |\nmod low");
    breaks(&[("lib.rs", &row)], &["there is no room `gone`"]);
    let twice = LIB.replace("mod low", "//! | 3 | `top` | d |\nmod low");
    breaks(&[("lib.rs", &twice)], &["lib.rs:6: room `top` stands in the table twice"]);
    breaks(&[("lib.rs", "//! A crate.")], &["no table of rooms"]);
    breaks(&[("new.rs", ""), ("low.rs", ""), ("side.rs", ""), ("top.rs", "")], &["`new`"]);
}

#[test]
fn a_level_has_at_most_fifteen_modules() {
    let files: Vec<String> = (0..16).map(|n| format!("low/part{n}.rs")).collect();
    let mut sources: Vec<(&str, &str)> = files.iter().map(|file| (file.as_str(), "")).collect();
    sources.push(("low/mod.rs", "#[cfg(test)]\nmod tests;"));
    sources.push(("low/tests.rs", ""));
    breaks(&sources, &["small/src/low: 16 modules, at most 15"]);
    sources.remove(0);
    keeps(&sources);
}

#[test]
fn the_modules_of_a_folder_have_no_import_circle() {
    breaks(
        &[
            ("low/mod.rs", "mod a;\nmod b;\nmod c;\nuse self::c::C;"),
            ("low/a.rs", "use super::b::B;"),
            ("low/b.rs", "use super::C;"),
            ("low/c.rs", "use crate::low::a::A;"),
        ],
        &[
            "in small/src/low",
            "low/a.rs:1: `super::b::B`; small/src/low/b.rs:1: `super::C`; small/src/low/c.rs:1",
        ],
    );
    keeps(&[
        ("low/mod.rs", "mod a;\nmod b;\nmod c;\nuse self::c::C;"),
        ("low/a.rs", "use super::b::B;"),
        ("low/b.rs", "use super::C;"),
        ("low/c.rs", "use super::Other;"),
    ]);
}

#[test]
fn a_module_with_children_is_their_folders_mod_rs() {
    breaks(&[("low.rs", ""), ("low/a.rs", "")], &["small/src/low.rs:1: stands beside a folder of its name"]);
    keeps(&[("low/mod.rs", ""), ("low/a.rs", "")]);
}
