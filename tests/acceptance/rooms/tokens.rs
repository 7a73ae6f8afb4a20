// SPDX-License-Identifier: Apache-2.0
//! Rust source as tokens: no comments, no text of literals, no code of tests.

/// One token: an identifier, `::`, or one other character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub text: String,
    pub line: usize,
}

/// Source without its test code.
#[derive(Debug, Default)]
pub(super) struct Product {
    pub tokens: Vec<Token>,
    /// Modules that are declared for tests only: `#[cfg(test)] mod promises;`.
    pub test_modules: Vec<String>,
    /// Macros that are defined here: `crate::name!` leads to them from anywhere.
    pub macros: Vec<String>,
}

impl Product {
    pub(super) fn read(source: &str) -> Self {
        let mut product = without_tests(&tokens(source));
        let defined = product.tokens.windows(3).filter(|w| w[0].text == "macro_rules" && w[1].text == "!");
        product.macros = defined.map(|w| w[2].text.clone()).collect();
        product
    }
}

/// Splits source into tokens. A literal becomes one `"`, so that nothing in it is taken for code.
fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let (mut at, mut line) = (0, 1);
    let mut found = Vec::new();
    while at < text.len() {
        let rest = &text[at..];
        let length = if rest.starts_with(&['/', '/']) {
            rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
        } else if rest.starts_with(&['/', '*']) {
            block_comment(rest)
        } else if let Some(length) = literal(rest) {
            found.push(Token { text: "\"".into(), line });
            length
        } else if rest[0].is_alphanumeric() || rest[0] == '_' {
            let length = rest.iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(rest.len());
            found.push(Token { text: rest[..length].iter().collect(), line });
            length
        } else if rest.starts_with(&[':', ':']) {
            found.push(Token { text: "::".into(), line });
            2
        } else {
            if !rest[0].is_whitespace() {
                found.push(Token { text: rest[0].to_string(), line });
            }
            1
        };
        line += rest[..length].iter().filter(|c| **c == '\n').count();
        at += length;
    }
    found
}

fn block_comment(text: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of the string or character that begins here. A lifetime is none.
fn literal(text: &[char]) -> Option<usize> {
    let prefix = text.iter().take_while(|c| matches!(c, 'b' | 'c' | 'r')).count();
    let hashes = text[prefix..].iter().take_while(|c| **c == '#').count();
    let quote = *text.get(prefix + hashes)?;
    let raw = text[..prefix].contains(&'r');
    if quote == '"' && (hashes == 0 || raw) && prefix <= 2 {
        let begin = prefix + hashes + 1;
        return Some(if raw {
            let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            text[begin..]
                .windows(end.len())
                .position(|w| w == end)
                .map_or(text.len(), |n| begin + n + end.len())
        } else {
            begin + quoted(&text[begin..], '"')
        });
    }
    // 'a' and '\n' are characters; 'a without a closing quote is a lifetime.
    let byte = usize::from(text[0] == 'b');
    if text.get(byte) == Some(&'\'') {
        let escaped = text.get(byte + 1) == Some(&'\\');
        if escaped || text.get(byte + 2) == Some(&'\'') {
            return Some(byte + 1 + quoted(&text[byte + 1..], '\''));
        }
    }
    None
}

fn quoted(text: &[char], quote: char) -> usize {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Leaves out each item that `#[cfg(test)]` stands before; after `#![cfg(test)]` everything.
fn without_tests(all: &[Token]) -> Product {
    let mut product = Product::default();
    let mut at = 0;
    while at < all.len() {
        let inner = usize::from(is(all, at + 1, "!"));
        if !is(all, at, "#") || !is(all, at + 1 + inner, "[") {
            product.tokens.push(all[at].clone());
            at += 1;
            continue;
        }
        let end = closing(all, at + 1 + inner);
        if !only_for_tests(&all[at..end]) {
            product.tokens.extend_from_slice(&all[at..end]);
            at = end;
        } else if inner == 1 {
            return product;
        } else {
            let item_end = end_of_item(all, end);
            let item = &all[end..item_end];
            if let Some(name) = item.iter().position(|t| t.text == "mod").and_then(|n| item.get(n + 1))
                && item.last().is_some_and(|t| t.text == ";")
            {
                product.test_modules.push(name.text.clone());
            }
            at = item_end;
        }
    }
    product
}

fn is(all: &[Token], at: usize, text: &str) -> bool {
    all.get(at).is_some_and(|t| t.text == text)
}

/// The place after the bracket that closes the one at `open`.
fn closing(all: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in all.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    all.len()
}

fn only_for_tests(attribute: &[Token]) -> bool {
    let words: Vec<&str> =
        attribute.iter().map(|t| t.text.as_str()).filter(|t| *t != "#" && *t != "!").collect();
    matches!(words[..], ["[", "cfg", "(", "test", ")", "]"] | ["[", "cfg", "(", "all", "(", "test", ",", ..])
}

/// Words that begin an item; `pub` stands before them.
const ITEMS: [&str; 13] = [
    "fn",
    "mod",
    "impl",
    "struct",
    "enum",
    "const",
    "static",
    "type",
    "trait",
    "use",
    "async",
    "unsafe",
    "macro_rules",
];

/// The place after the item, field or statement that begins at `start`, further attributes included.
fn end_of_item(all: &[Token], start: usize) -> usize {
    let mut at = start;
    while is(all, at, "#") && is(all, at + 1, "[") {
        at = closing(all, at + 1);
    }
    let is_item = all.get(at).is_some_and(|t| t.text == "pub" || ITEMS.contains(&t.text.as_str()));
    let is_use = all[at..].iter().find(|t| ITEMS.contains(&t.text.as_str())).is_some_and(|t| t.text == "use");
    while at < all.len() {
        match all[at].text.as_str() {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            "}" | ")" | "]" => return at,
            "{" if !is_use => return closing(all, at),
            "{" | "(" | "[" => at = closing(all, at),
            _ => at += 1,
        }
    }
    at
}
