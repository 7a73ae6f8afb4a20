// SPDX-License-Identifier: Apache-2.0
//! Patterns of paths, as Go's `filepath.Glob` reads them: containerd's `imports` are such.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::root::HostRoot;

/// The paths of the node that `pattern` names, each folder's sorted; one without a `*` is itself, as for containerd. At most
/// `limit` are followed.
pub(crate) fn expand(root: &HostRoot, pattern: &Path, limit: usize) -> Vec<PathBuf> {
    if !pattern.to_string_lossy().contains('*') {
        return vec![pattern.to_owned()];
    }
    let mut paths = vec![PathBuf::from("/")];
    for component in pattern.components() {
        let part = match component {
            Component::Normal(part) => part.to_string_lossy(),
            Component::ParentDir => {
                paths = paths.iter().map(|path| path.join("..")).collect();
                continue;
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
        };
        let wanted: Vec<char> = part.chars().collect();
        paths = if part.contains(['*', '?', '[', '\\']) {
            paths.iter().flat_map(|folder| matching(root, folder, &wanted)).take(limit).collect()
        } else {
            paths.iter().map(|folder| folder.join(part.as_ref())).collect()
        };
    }
    paths
}

fn matching(root: &HostRoot, folder: &Path, wanted: &[char]) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.at(folder)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| matches(wanted, &name.chars().collect::<Vec<_>>()))
        .collect();
    names.sort_unstable();
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Whether a name fits. Only the last `*` is tried again, so time grows with the product of both lengths at most.
fn matches<'a>(mut pattern: &'a [char], mut name: &'a [char]) -> bool {
    let mut last_star = None;
    loop {
        if let ['*', rest @ ..] = pattern {
            last_star = Some((rest, name));
            pattern = rest;
        } else if pattern.is_empty() && name.is_empty() {
            return true;
        } else if let Some((rest, behind)) = one(pattern, name) {
            (pattern, name) = (rest, behind);
        } else if let Some((rest, [_, later @ ..])) = last_star {
            last_star = Some((rest, later));
            (pattern, name) = (rest, later);
        } else {
            return false;
        }
    }
}

/// What remains of both behind the first character, if that fits.
fn one<'a>(pattern: &'a [char], name: &'a [char]) -> Option<(&'a [char], &'a [char])> {
    let ((first, rest), (character, behind)) = (pattern.split_first()?, name.split_first()?);
    let rest = match first {
        '?' => Some(rest),
        '[' => in_class(rest, *character),
        '\\' => rest.split_first().filter(|(escaped, _)| *escaped == character).map(|(_, rest)| rest),
        literal => (literal == character).then_some(rest),
    };
    Some((rest?, behind))
}

/// What follows the class that `pattern` is in, if `character` is of it: `a-z]`, or `^a-z]` for all others.
fn in_class(pattern: &[char], character: char) -> Option<&[char]> {
    let (inverted, class) = match pattern {
        ['^', class @ ..] => (true, class),
        class => (false, class),
    };
    let end = class.iter().position(|end| *end == ']')?;
    let (mut members, rest) = (&class[..end], &class[end + 1..]);
    let mut found = false;
    while let Some((from, more)) = members.split_first() {
        let (to, more) = match more {
            ['-', to, more @ ..] => (to, more),
            more => (from, more),
        };
        found |= (*from..=*to).contains(&character);
        members = more;
    }
    (found != inverted).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_what_they_name_to_containerd() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["a/10-x.toml", "a/20-y.toml", "b/10-x.toml", "a/.z.toml", "a/no.conf"] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let root = HostRoot::new(folder.path());
        for (pattern, expected) in [
            ("/a/*.toml", &["/a/.z.toml", "/a/10-x.toml", "/a/20-y.toml"][..]),
            ("/*/10-x.toml", &["/a/10-x.toml", "/b/10-x.toml"]),
            ("/a/*-?.to*l", &["/a/10-x.toml", "/a/20-y.toml"]),
            ("/a/[2-9]*", &["/a/20-y.toml"]),
            ("/a/[^12.]*", &["/a/no.conf"]),
            ("/a/../b/*", &["/a/../b/10-x.toml"]),
            ("/a/\\1*", &["/a/10-x.toml"]),
            ("/a/[1*", &[]),
            ("/none/*", &[]),
            // No star, no pattern.
            ("/a/1?-x.toml", &["/a/1?-x.toml"]),
        ] {
            let found = expand(&root, Path::new(pattern), 100);
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{pattern}");
        }
        assert_eq!(expand(&root, Path::new("/a/*.toml"), 2).len(), 2);
    }
}
