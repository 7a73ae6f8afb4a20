// SPDX-License-Identifier: Apache-2.0
//! Patterns of paths as in containerd's `imports`, which follow Go's `filepath.Glob`.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::root::HostRoot;

/// Lists the paths of the node that match `pattern`, sorted within each folder; a pattern without `*` is returned as it is, as
/// by containerd. At most `limit` are followed.
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
        paths = if part.contains(['*', '?', '[', '\\']) {
            let pattern = literal_where_go_is(&part);
            paths.iter().flat_map(|folder| matching(root, folder, &pattern)).take(limit).collect()
        } else {
            paths.iter().map(|folder| folder.join(part.as_ref())).collect()
        };
    }
    paths
}

/// Escapes what is special to `fast_glob` and literal to Go, so that `{a,b}.toml` matches the one file of that name only.
///
/// Three differences are left, none of which a file of containerd's has: Go's `?` and ranges take a character of any script
/// where `fast_glob` takes a byte, `[!a]` is `!` or `a` to Go, and `[]a]` is an error to Go.
fn literal_where_go_is(pattern: &str) -> String {
    let mut escaped = String::with_capacity(pattern.len() + 4);
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                escaped.push('\\');
                escaped.extend(characters.next());
            }
            '{' | '}' => escaped.extend(['\\', character]),
            '!' if escaped.is_empty() => escaped.extend(['\\', character]),
            other => escaped.push(other),
        }
    }
    escaped
}

fn matching(root: &HostRoot, folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.at(folder)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| fast_glob::glob_match(pattern, name))
        .collect();
    names.sort_unstable();
    names.into_iter().map(|name| folder.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_for_containerd() {
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
            // Without a star it is no pattern.
            ("/a/1?-x.toml", &["/a/1?-x.toml"]),
        ] {
            let found = expand(&root, Path::new(pattern), 100);
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{pattern}");
        }
        assert_eq!(expand(&root, Path::new("/a/*.toml"), 2).len(), 2);
    }

    /// Braces and a leading `!` are special to `fast_glob` and literal to Go.
    #[test]
    fn what_is_literal_to_go_is_literal() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["{a,b}*", "a", "!x", "y"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let root = HostRoot::new(folder.path());
        for (pattern, expected) in [
            ("/{a,b}*", &["/{a,b}*"][..]),
            ("/\\{*", &["/{a,b}*"]),
            ("/!*", &["/!x"]),
            ("/[{!]*", &["/!x", "/{a,b}*"]),
            ("/\\!*", &["/!x"]),
        ] {
            let found = expand(&root, Path::new(pattern), 100);
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{pattern}");
        }
    }
}
