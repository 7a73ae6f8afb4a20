// SPDX-License-Identifier: Apache-2.0
//! The repository's pages: links resolve, long pages begin with links to their sections, and use fits into 700 words. Needs no root.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// A page of more lines begins with links to its sections.
const LONG: usize = 100;
/// The words of a crate's README.
const MOST_WORDS: usize = 700;
/// Citations of pages that a reader does not have. The two halves are joined here alone.
const PRIVATE: [&str; 3] = [concat!("contract", " §"), concat!("the", " seeds"), concat!("issue", "'s bar")];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every page but the changelog, by its path in the repository, with its text.
fn pages() -> Result<Vec<(PathBuf, String)>> {
    let mut pages = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository().join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                let name = entry.file_name();
                if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "md") && path != Path::new("CHANGELOG.md") {
                let text = fs::read_to_string(repository().join(&path))
                    .with_context(|| path.display().to_string())?;
                pages.push((path, text));
            }
        }
    }
    Ok(pages)
}

/// The lines outside of fenced code, each with its number.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!fence && !code).then_some((number + 1, line))
    })
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        let Some(title) = title.strip_prefix(' ').filter(|_| line.starts_with('#')) else { continue };
        let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect();
        // A heading that is there already gets a number.
        let numbered = (1..).map(|n| format!("{anchor}-{n}"));
        found.extend(std::iter::once(anchor.clone()).chain(numbered).find(|a| !found.contains(a)));
    }
    found
}

/// The targets of `[words](target)`, each with its line.
fn links(text: &str) -> Vec<(usize, &str)> {
    let targets = |(number, line)| {
        let parts: Vec<&str> = str::split(line, "](").skip(1).collect();
        parts.into_iter().filter_map(move |part| Some((number, part.split_once(')')?.0)))
    };
    prose(text).flat_map(targets).collect()
}

/// `a/b/../c` as `a/c`, without asking the file system.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    plain
}

/// The links of one page that lead nowhere. `text_of` reads another page or knows a file without text.
fn broken(page: &Path, text: &str, text_of: impl Fn(&Path) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (line, target) in links(text) {
        if target.contains("://") {
            continue;
        }
        let (file, anchor) =
            target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
        let other = if file.is_empty() {
            Some(text.to_owned())
        } else {
            text_of(&plain(&page.parent().unwrap_or(Path::new("")).join(file)))
        };
        let good = other.is_some_and(|other| anchor.is_none_or(|anchor| anchors(&other).contains(anchor)));
        if !good {
            found.push(format!("{}:{line}: {target} leads nowhere", page.display()));
        }
    }
    found
}

/// The sections of a long page that its beginning has no link to.
fn unlisted(page: &Path, text: &str) -> Vec<String> {
    if text.lines().count() <= LONG {
        return Vec::new();
    }
    let first = prose(text).find(|(_, line)| line.starts_with("## ")).map_or(0, |(number, _)| number);
    let begin: String = text.lines().take(first.saturating_sub(1)).map(|line| format!("{line}\n")).collect();
    let listed: BTreeSet<&str> =
        links(&begin).into_iter().filter_map(|(_, target)| target.strip_prefix('#')).collect();
    let sections: String =
        prose(text).filter(|(_, line)| line.starts_with("## ")).map(|(_, l)| format!("{l}\n")).collect();
    let absent = anchors(&sections).into_iter().filter(|anchor| !listed.contains(anchor.as_str()));
    absent.map(|anchor| format!("{}: no link to #{anchor} on top", page.display())).collect()
}

#[track_caller]
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_link_between_pages_resolves() -> Result<()> {
    let text_of = |path: &Path| {
        let path = repository().join(path);
        if path.is_dir() { Some(String::new()) } else { fs::read_to_string(path).ok() }
    };
    none(pages()?.iter().flat_map(|(page, text)| broken(page, text, text_of)).collect());
    Ok(())
}

#[test]
fn every_long_page_begins_with_links_to_its_sections() -> Result<()> {
    none(pages()?.iter().flat_map(|(page, text)| unlisted(page, text)).collect());
    Ok(())
}

#[test]
fn the_readme_of_every_crate_has_at_most_700_words() -> Result<()> {
    let long = |(page, text): &(PathBuf, String)| {
        let of_crate = page.ends_with("README.md")
            && page.components().count() > 1
            && repository().join(page).with_file_name("Cargo.toml").is_file();
        let words = text.split_whitespace().count();
        (of_crate && words > MOST_WORDS)
            .then(|| format!("{}: {words} words, at most {MOST_WORDS}", page.display()))
    };
    none(pages()?.iter().filter_map(long).collect());
    Ok(())
}

#[test]
fn no_page_cites_what_a_reader_cannot_open() -> Result<()> {
    let mut found = Vec::new();
    for (page, text) in pages()? {
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            found.extend(
                PRIVATE
                    .iter()
                    .filter(|words| line.contains(**words))
                    .map(|words| format!("{}:{}: {words:?}", page.display(), number + 1)),
            );
        }
    }
    none(found);
    Ok(())
}

// === the reader itself ===

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let text = "# A b\n[one](#a-b) [two](other.md#there) [three](https://x/#y) [four](../up.md)\n```\n[no](#link)\n```\n## `tests/run`, 2 \n[five](#testsrun-2)\n";
    let text_of = |path: &Path| match path.to_str() {
        Some("dir/other.md") => Some("## There\n".to_owned()),
        Some("up.md") => Some(String::new()),
        _ => None,
    };
    assert_eq!(broken(Path::new("dir/page.md"), text, text_of), Vec::<String>::new());
    for (good, bad) in [
        ("#a-b", "#ab"),
        ("#there", "#here"),
        ("other.md", "another.md"),
        ("../up.md", "up.md"),
        ("#testsrun-2", "#link"),
    ] {
        let text = text.replacen(good, bad, 1);
        let found = broken(Path::new("dir/page.md"), &text, text_of);
        assert_eq!(found.len(), 1, "{bad}: {found:?}");
        assert!(found[0].starts_with("dir/page.md:") && found[0].ends_with("leads nowhere"), "{found:?}");
    }
}

#[test]
fn a_long_page_without_a_link_to_a_section_is_found() {
    let text =
        |links: &str, lines: usize| format!("# A\n{links}\n## One\n## Two\n{}", "line\n".repeat(lines));
    let page = Path::new("page.md");
    assert_eq!(unlisted(page, &text("[One](#one) [Two](#two)", 100)), Vec::<String>::new());
    assert_eq!(unlisted(page, &text("", 96)), Vec::<String>::new());
    assert_eq!(unlisted(page, &text("[One](#one)", 97)), ["page.md: no link to #two on top"]);
    assert_eq!(unlisted(page, &text("", 97)).len(), 2);
}
