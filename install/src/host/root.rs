// SPDX-License-Identifier: Apache-2.0
//! The node's file system, which may be mounted below a folder: translates between the node's paths and ours.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Links that are followed in one path; the kernel has the same bound.
const MAX_LINKS: usize = 40;

/// The mount point of the node's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostRoot(PathBuf);

impl HostRoot {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path by which this process opens the node's `path`. Links are followed as on the node: an absolute one leads
    /// on below the root, and never out of it. A missing file keeps its name, so that it can be created.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        let mut todo: VecDeque<OsString> = normal(path);
        let mut on_node: Vec<OsString> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                on_node.pop();
                continue;
            }
            on_node.push(part);
            let here = self.0.join(on_node.iter().collect::<PathBuf>());
            let Ok(target) = fs::read_link(&here) else { continue };
            links += 1;
            if links > MAX_LINKS {
                // Opening this path fails with ELOOP, as it does on the node.
                break;
            }
            on_node.pop();
            if target.is_absolute() {
                on_node.clear();
            }
            for part in normal(&target).into_iter().rev() {
                todo.push_front(part);
            }
        }
        on_node.extend(todo);
        self.0.join(on_node.iter().collect::<PathBuf>())
    }

    /// Returns the node's name of the path that this process opens as `here`.
    pub(crate) fn on_node(&self, here: &Path) -> PathBuf {
        match here.strip_prefix(&self.0) {
            Ok(below) => Path::new("/").join(below),
            Err(_) => here.to_owned(),
        }
    }
}

fn normal(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_where_they_lead_on_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("var/lib/cni")).unwrap();
        fs::create_dir_all(at("opt")).unwrap();
        symlink("/var/lib/cni", at("opt/cni")).unwrap();
        symlink("../var/lib/cni", at("opt/relative")).unwrap();
        symlink("/../../../../../etc", at("opt/out")).unwrap();
        symlink("round", at("opt/round")).unwrap();
        let root = HostRoot::new(folder.path());
        for (path, found) in [
            ("/opt/cni/bin", "var/lib/cni/bin"),
            ("/opt/relative/bin", "var/lib/cni/bin"),
            ("/opt/out/passwd", "etc/passwd"),
            ("/not/there", "not/there"),
            ("/opt/cni/../x", "var/lib/x"),
            ("/", ""),
        ] {
            assert_eq!(root.at(Path::new(path)), at(found), "{path}");
        }
        assert!(root.at(Path::new("/opt/round")).starts_with(folder.path()));
        assert_eq!(root.on_node(&at("var/x")), Path::new("/var/x"));
        assert_eq!(HostRoot::new(Path::new("/")).at(Path::new("/no/such")), Path::new("/no/such"));
    }
}
