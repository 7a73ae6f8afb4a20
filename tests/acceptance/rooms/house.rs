// SPDX-License-Identifier: Apache-2.0
//! A crate's modules, its table of rooms, and what breaks the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::imports::{Import, imports};
use super::tokens::Product;

/// Modules on one level, the top one included.
const MOST: usize = 15;

type Name = Vec<String>;

/// The sources of a crate, by their path below `src`.
#[derive(Debug)]
pub(super) struct House {
    folder: String,
    files: BTreeMap<String, String>,
}

struct Module {
    file: String,
    imports: Vec<Import>,
    macros: Vec<String>,
}

/// The product's modules; those of tests are not among them.
type Modules = BTreeMap<Name, Module>;

impl House {
    /// Reads the crate in a folder of the repository.
    pub(super) fn read(repository: &Path, folder: &str) -> Result<Self> {
        let mut files = BTreeMap::new();
        let root = repository.join(folder).join("src");
        let mut folders = vec![root.clone()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).with_context(|| next.display().to_string())? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let name = path.strip_prefix(&root)?.to_string_lossy().into_owned();
                    files.insert(name, fs::read_to_string(&path)?);
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), files })
    }

    /// A crate of these files, for the tests of the reader.
    pub(super) fn of(sources: &[(&str, &str)]) -> Self {
        let files = sources.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Self { folder: "small".into(), files }
    }

    /// Everything that breaks the rules, one line each.
    pub(super) fn violations(&self) -> Vec<String> {
        let modules = self.modules();
        let mut found = self.style();
        found.extend(self.crowds(&modules));
        found.extend(self.circles(&modules));
        match self.table() {
            Ok(levels) => {
                found.extend(self.in_table(&modules, &levels));
                found.extend(self.upwards(&modules, &levels));
            }
            Err(wrong) => found.push(wrong),
        }
        found
    }

    fn place(&self, file: &str) -> String {
        format!("{}/src/{file}", self.folder)
    }

    /// `| 9 | `room` | … |` in the crate's doc.
    fn table(&self) -> Result<BTreeMap<String, u32>, String> {
        let mut levels = BTreeMap::new();
        let lib = self.files.get("lib.rs").map(String::as_str).unwrap_or_default();
        for (number, line) in lib.lines().enumerate() {
            let Some(row) = line.strip_prefix("//! |") else { continue };
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let (Some(Ok(level)), Some(room)) = (cells.first().map(|c| c.parse()), cells.get(1)) else {
                continue;
            };
            let at = format!("{}:{}", self.place("lib.rs"), number + 1);
            let room = room.trim_matches('`').to_owned();
            if levels.insert(room.clone(), level).is_some() {
                return Err(format!("{at}: room `{room}` stands in the table twice"));
            }
        }
        if levels.is_empty() {
            return Err(format!("{}:1: no table of rooms in the crate's doc", self.place("lib.rs")));
        }
        Ok(levels)
    }

    fn modules(&self) -> Modules {
        let read: BTreeMap<Name, (&str, Product)> = self
            .files
            .iter()
            .filter_map(|(file, text)| Some((module(file)?, (file.as_str(), Product::read(text)))))
            .collect();
        let for_tests: BTreeSet<Name> = read
            .iter()
            .flat_map(|(name, (_, product))| {
                product.test_modules.iter().map(|child| [name.clone(), vec![child.clone()]].concat())
            })
            .collect();
        let is_for_tests =
            |name: &Name| (1..=name.len()).any(|n| for_tests.contains(&name[..n]) || name[n - 1] == "tests");
        read.into_iter()
            .filter(|(name, _)| !is_for_tests(name))
            .map(|(name, (file, product))| {
                let imports = imports(&product.tokens, &name);
                (name, Module { file: file.to_owned(), imports, macros: product.macros })
            })
            .collect()
    }

    /// No `name.rs` beside a folder `name`.
    fn style(&self) -> Vec<String> {
        let folders: BTreeSet<&str> = self.files.keys().filter_map(|f| Some(f.rsplit_once('/')?.0)).collect();
        let beside = |file: &&String| file.strip_suffix(".rs").is_some_and(|name| folders.contains(name));
        let files = self.files.keys().filter(beside);
        files
            .map(|file| {
                format!("{}:1: stands beside a folder of its name: make it its mod.rs", self.place(file))
            })
            .collect()
    }

    fn in_table(&self, modules: &Modules, levels: &BTreeMap<String, u32>) -> Vec<String> {
        let rooms: BTreeMap<&str, &str> = modules
            .iter()
            .filter(|(name, _)| name.len() == 1)
            .map(|(n, m)| (n[0].as_str(), m.file.as_str()))
            .collect();
        let absent = rooms.iter().filter(|(room, _)| !levels.contains_key(**room));
        let absent =
            absent.map(|(room, file)| format!("{}:1: room `{room}` is not in the table", self.place(file)));
        let gone = levels.keys().filter(|room| !rooms.contains_key(room.as_str()));
        let gone = gone.map(|room| format!("{}:1: there is no room `{room}`", self.place("lib.rs")));
        absent.chain(gone).collect()
    }

    /// Levels with more modules than a reader can keep in mind.
    fn crowds(&self, modules: &Modules) -> Vec<String> {
        let mut children: BTreeMap<&[String], usize> = BTreeMap::new();
        for name in modules.keys().filter(|name| !name.is_empty()) {
            *children.entry(&name[..name.len() - 1]).or_default() += 1;
        }
        let crowded = children.into_iter().filter(|(_, count)| *count > MOST);
        crowded
            .map(|(name, count)| format!("{}: {count} modules, at most {MOST}", self.place(&name.join("/"))))
            .collect()
    }

    fn upwards(&self, modules: &Modules, levels: &BTreeMap<String, u32>) -> Vec<String> {
        let mut found = Vec::new();
        for (name, module) in modules {
            let Some((room, level)) = name.first().and_then(|room| Some((room, levels.get(room)?))) else {
                continue;
            };
            for import in &module.imports {
                let Some(target) = resolve(modules, &import.path) else { continue };
                let (other, wrong) = match target.first().map(|other| (other, levels.get(other))) {
                    Some((other, _)) if other == room => continue,
                    Some((_, Some(lower))) if lower < level => continue,
                    Some((other, Some(higher))) => (other.as_str(), format!("level {higher}")),
                    Some((other, None)) => (other.as_str(), "in no table".to_owned()),
                    None => ("the crate's root", "above all".to_owned()),
                };
                found.push(format!(
                    "{}:{}: `{}`: room `{room}` (level {level}) imports `{other}` ({wrong})",
                    self.place(&module.file),
                    import.line,
                    import.words
                ));
            }
        }
        found
    }

    /// Circles among the children of one module.
    fn circles(&self, modules: &Modules) -> Vec<String> {
        let parents: BTreeSet<&[String]> =
            modules.keys().filter(|name| name.len() > 1).map(|name| &name[..name.len() - 1]).collect();
        let mut found = Vec::new();
        for parent in parents {
            let mut arrows: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
            let below =
                modules.iter().filter(|(name, _)| name.len() > parent.len() && name.starts_with(parent));
            for (name, module) in below {
                for import in &module.imports {
                    let Some(target) = resolve(modules, &import.path) else { continue };
                    if target.len() > parent.len() && target.starts_with(parent) {
                        let (from, to) = (&name[parent.len()], &target[parent.len()]);
                        if from != to {
                            let at =
                                format!("{}:{}: `{}`", self.place(&module.file), import.line, import.words);
                            arrows.entry(from).or_default().entry(to.clone()).or_insert(at);
                        }
                    }
                }
            }
            if let Some(circle) = circle(&arrows) {
                found.push(format!(
                    "in {} these import each other: {}",
                    self.place(&parent.join("/")),
                    circle.join("; ")
                ));
            }
        }
        found
    }
}

/// The module that a file below `src` holds; `None` of a program, and of tests.
fn module(file: &str) -> Option<Name> {
    if file == "main.rs" || file.starts_with("bin/") {
        return None;
    }
    let name = file.strip_suffix(".rs")?;
    let name = name.strip_suffix("/mod").unwrap_or(name);
    Some(if name == "lib" { Vec::new() } else { name.split('/').map(str::to_owned).collect() })
}

/// The module in which a path ends. A name that a module on the way only imports is followed to its home.
fn resolve(modules: &Modules, path: &[String]) -> Option<Name> {
    let mut path = path.to_vec();
    // As many steps as re-exports of re-exports may take.
    for _ in 0..8 {
        let known =
            (0..=path.len()).rev().find(|n| *n == 0 || modules.contains_key(&path[..*n])).unwrap_or(0);
        let module = modules.get(&path[..known]);
        let passed_on = path.get(known).and_then(|word| {
            let import = module?.imports.iter().find(|i| i.name.as_ref() == Some(word))?;
            // A use of its own name, as of a crate, leads nowhere.
            (import.path != path[..=known]).then_some(import)
        });
        match passed_on {
            // An import from another crate: the path ends where it is imported.
            Some(import) if import.path.starts_with(&path[..known]) && import.path.len() > known => {
                let inner = [&import.path[..], &path[known + 1..]].concat();
                if !modules.contains_key(&import.path[..=known]) {
                    return Some(path[..known].to_vec());
                }
                path = inner;
            }
            Some(import) => path = [&import.path[..], &path[known + 1..]].concat(),
            None if known == 0 => {
                let defines = |module: &Module| path.first().is_some_and(|word| module.macros.contains(word));
                let defined = modules.iter().find(|(_, module)| defines(module));
                return Some(defined.map(|(name, _)| name.clone()).unwrap_or_default());
            }
            None => return Some(path[..known].to_vec()),
        }
    }
    None
}

/// The imports of one circle, if there is any.
fn circle(arrows: &BTreeMap<&str, BTreeMap<String, String>>) -> Option<Vec<String>> {
    fn walk<'a>(
        arrows: &'a BTreeMap<&str, BTreeMap<String, String>>,
        at: &'a str,
        way: &mut Vec<(&'a str, &'a str)>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(begin) = way.iter().position(|(name, _)| *name == at) {
            return Some(way[begin..].iter().map(|(_, import)| (*import).to_owned()).collect());
        }
        if done.insert(at) {
            for (to, import) in arrows.get(at).into_iter().flatten() {
                way.push((at, import));
                let found = walk(arrows, to, way, done);
                way.pop();
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|start| walk(arrows, start, &mut Vec::new(), &mut done))
}
