// SPDX-License-Identifier: Apache-2.0
//! The paths by which a file names other modules of its crate.

use super::tokens::Token;

/// A path from the crate's root, and the words that stand in the source for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    pub path: Vec<String>,
    pub line: usize,
    pub words: String,
    /// The name that a `use` gives to the path in its own module; `None` of a path within code.
    pub name: Option<String>,
}

/// Every path of the tokens that begins with `crate`, `super` or `self`, and every other `use`, seen from `module`.
pub(super) fn imports(tokens: &[Token], module: &[String]) -> Vec<Import> {
    let mut found = Vec::new();
    // The inline modules around a token, each with the depth of braces inside it.
    let mut inside: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut at) = (0, 0);
    while at < tokens.len() {
        let here =
            || module.iter().cloned().chain(inside.iter().map(|(name, _)| name.clone())).collect::<Vec<_>>();
        let text = |n: usize| tokens.get(n).map_or("", |t| t.text.as_str());
        match text(at) {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inside.retain(|(_, at_depth)| *at_depth <= depth);
            }
            "mod" if text(at + 2) == "{" => {
                inside.push((text(at + 1).to_owned(), depth + 1));
                at += 1;
            }
            // `use<'a>` is a bound and no import.
            "use" if text(at + 1) != "<" => {
                let mut reader = Uses { tokens, at: at + 1, found: Vec::new() };
                reader.tree(&[]);
                at = reader.at;
                found.extend(
                    reader
                        .found
                        .into_iter()
                        .filter_map(|(words, name, line)| import(&words, name, line, &here())),
                );
                continue;
            }
            "crate" | "super" | "self" if text(at + 1) == "::" && !follows_a_path(tokens, at) => {
                let mut words = vec![text(at).to_owned()];
                let line = tokens[at].line;
                while text(at + 1) == "::" && is_name(text(at + 2)) {
                    words.push(text(at + 2).to_owned());
                    at += 2;
                }
                found.extend(import(&words, None, line, &here()));
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Not a path's beginning: `pub(in crate::a)`.
fn follows_a_path(tokens: &[Token], at: usize) -> bool {
    let before = |n: usize| at.checked_sub(n).map_or("", |n| tokens[n].text.as_str());
    before(1) == "::" || (before(1) == "in" && before(2) == "(" && before(3) == "pub")
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Resolves `crate`, `super` and `self`. A `use` of another first word may name a child of the module.
fn import(words: &[String], name: Option<String>, line: usize, module: &[String]) -> Option<Import> {
    let mut path = module.to_vec();
    let mut rest = words;
    match rest.first()?.as_str() {
        "crate" => {
            path.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {}
        _ if name.is_none() => return None,
        _ => {}
    }
    while rest.first().is_some_and(|word| word == "super") {
        path.pop()?;
        rest = &rest[1..];
    }
    path.extend(rest.iter().filter(|word| *word != "*" && *word != "self").cloned());
    Some(Import { path, line, words: words.join("::"), name })
}

/// Reads the tree of a `use`: `crate::a::{self, b as c, d::*}`.
struct Uses<'a> {
    tokens: &'a [Token],
    at: usize,
    found: Vec<(Vec<String>, Option<String>, usize)>,
}

impl Uses<'_> {
    fn text(&self) -> &str {
        self.tokens.get(self.at).map_or(";", |t| t.text.as_str())
    }

    /// Reads one branch, up to the `,`, `}` or `;` behind it.
    fn tree(&mut self, before: &[String]) {
        let mut words = before.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |t| t.line);
        loop {
            match self.text() {
                "::" => self.at += 1,
                "{" => {
                    while !matches!(self.text(), "}" | ";") {
                        self.at += 1;
                        if self.text() != "}" {
                            self.tree(&words);
                        }
                    }
                    self.at += 1;
                    return;
                }
                "," | "}" | ";" => break,
                "as" => {
                    self.at += 1;
                    let name = self.text().to_owned();
                    self.at += 1;
                    self.found.push((words, Some(name), line));
                    return;
                }
                word => {
                    words.push(word.to_owned());
                    self.at += 1;
                }
            }
        }
        let name = match words.last().map(String::as_str) {
            Some("self") if words.len() > 1 => words[words.len() - 2].clone(),
            Some(last) => last.to_owned(),
            None => return,
        };
        self.found.push((words, Some(name), line));
    }
}
