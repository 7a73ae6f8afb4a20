// SPDX-License-Identifier: Apache-2.0
//! Finds the container runtime of a node, and the folders of networks and plugins in its own configuration.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::glob;
use super::root::HostRoot;
use super::runtime_config::{self, RuntimeSettings};
use crate::conflist::Loader;
use crate::cri::sandboxes::Handlers;
use crate::system::read::read_bounded;

/// The runtime of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runtime {
    /// Name and configuration file, for people: `containerd, /etc/containerd/config.toml`.
    pub name: String,
    /// The folder of CNI configurations.
    pub conf_dir: PathBuf,
    /// The folders of plugins.
    pub bin_dirs: Vec<PathBuf>,
    /// Its rule for the file of the folder that it uses.
    pub loader: Loader,
    /// Its CRI socket, if that exists.
    pub socket: Option<PathBuf>,
    /// The handlers whose sandboxes bypass their namespace's netfilter.
    pub handlers: Handlers,
    /// Lines about files that could not be read.
    pub complaints: Vec<String>,
}

/// A runtime as a distribution sets it up.
struct Distribution {
    name: &'static str,
    program: Program,
    config: &'static str,
    socket: &'static str,
    /// Set where it differs from the program's own default, like `bin_dir`.
    conf_dir: Option<&'static str>,
    bin_dir: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Containerd,
    Crio,
}

/// The default of containerd and CRI-O for the folder of configurations.
pub(crate) const CONF_DIR: &str = "/etc/cni/net.d";
/// Their default for the folder of plugins.
pub(crate) const BIN_DIR: &str = "/opt/cni/bin";

const fn containerd(name: &'static str, config: &'static str, socket: &'static str) -> Distribution {
    Distribution { name, program: Program::Containerd, config, socket, conf_dir: None, bin_dir: None }
}

/// In order of preference: a distribution's own runtime before the general ones, which may be installed beside it.
const KNOWN: [Distribution; 7] = [
    containerd(
        "k3s",
        "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "/run/k3s/containerd/containerd.sock",
    ),
    containerd(
        "RKE2",
        "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        "/run/k3s/containerd/containerd.sock",
    ),
    Distribution {
        name: "MicroK8s",
        program: Program::Containerd,
        config: "/var/snap/microk8s/current/args/containerd.toml",
        socket: "/var/snap/microk8s/common/run/containerd.sock",
        conf_dir: Some("/var/snap/microk8s/current/args/cni-network"),
        bin_dir: Some("/var/snap/microk8s/current/opt/cni/bin"),
    },
    containerd("k0s", "/etc/k0s/containerd.toml", "/run/k0s/containerd.sock"),
    Distribution {
        name: "CRI-O",
        program: Program::Crio,
        config: "/etc/crio/crio.conf",
        socket: "/run/crio/crio.sock",
        conf_dir: None,
        bin_dir: None,
    },
    containerd("containerd", "/etc/containerd/config.toml", "/run/containerd/containerd.sock"),
    // GKE's images keep the plugins beside the kubelet. Their containerd's configuration names that folder; this entry is for
    // the case that it cannot be read.
    Distribution {
        name: "containerd of GKE",
        program: Program::Containerd,
        config: "/home/kubernetes/containerd/config.toml",
        socket: "/run/containerd/containerd.sock",
        conf_dir: None,
        bin_dir: Some("/home/kubernetes/bin"),
    },
];

/// The largest configuration of a runtime that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// The most files that one configuration is read from.
const MAX_FILES: usize = 100;

/// Finds the runtime of the node at `root`. `socket` is the CRI socket that the operator set.
pub(crate) fn find(root: &HostRoot, socket: Option<&Path>) -> Runtime {
    let there = |path: &str| root.at(Path::new(path)).exists();
    let drop_ins = |known: &Distribution| known.program == Program::Crio && there("/etc/crio/crio.conf.d");
    let best = KNOWN.iter().enumerate().max_by_key(|(index, known)| {
        let is_meant = socket.is_some_and(|socket| socket == Path::new(known.socket));
        let (config, listens) = (there(known.config) || drop_ins(known), there(known.socket));
        // Preferred is a runtime that listens and is configured, then one that is configured, then one that listens.
        (is_meant && (config || listens), config && listens, config, listens, usize::MAX - index)
    });
    let known = best
        .map(|(_, known)| known)
        .filter(|known| there(known.config) || drop_ins(known) || there(known.socket));
    let Some(known) = known else {
        return Runtime {
            name: "no runtime's configuration found".to_owned(),
            conf_dir: CONF_DIR.into(),
            bin_dirs: vec![BIN_DIR.into()],
            loader: Loader::containerd(1),
            socket: None,
            handlers: Handlers::new(),
            complaints: Vec::new(),
        };
    };
    let mut reader = Reader { root, complaints: Vec::new(), files: 0 };
    let settings = match known.program {
        Program::Containerd => reader.containerd(Path::new(known.config)),
        Program::Crio => reader.crio(Path::new(known.config)),
    };
    let RuntimeSettings { conf_dir, bin_dirs, socket, network, max_conf_num, handlers } = settings;
    let or = |found: Option<PathBuf>, distribution: Option<&str>, default: &str| {
        found.unwrap_or_else(|| distribution.unwrap_or(default).into())
    };
    let socket =
        [socket, Some(known.socket.into())].into_iter().flatten().find(|path| root.at(path).exists());
    Runtime {
        name: format!("{}, {}", known.name, known.config),
        conf_dir: or(conf_dir, known.conf_dir, CONF_DIR),
        bin_dirs: if bin_dirs.is_empty() { vec![or(None, known.bin_dir, BIN_DIR)] } else { bin_dirs },
        loader: match known.program {
            Program::Containerd => Loader::containerd(max_conf_num.unwrap_or(1)),
            Program::Crio => Loader::crio(network),
        },
        socket,
        handlers,
        complaints: reader.complaints,
    }
}

/// Reads a runtime's files. A file that cannot be read makes a complaint, and the settings of the others hold.
struct Reader<'a> {
    root: &'a HostRoot,
    complaints: Vec<String>,
    files: usize,
}

impl Reader<'_> {
    /// Reads the file, then its imports, then the imports of those, each once. A later file's section of the CRI plugin replaces
    /// an earlier one.
    fn containerd(&mut self, config: &Path) -> RuntimeSettings {
        let mut settings = RuntimeSettings::default();
        let (mut todo, mut read) = (VecDeque::from([config.to_owned()]), BTreeSet::new());
        while let Some(path) = todo.pop_front() {
            if !read.insert(path.clone()) {
                continue;
            }
            let Some(text) = self.read(&path) else { continue };
            match runtime_config::containerd(&text) {
                Ok((found, imports)) => {
                    settings = settings.overridden_by(found);
                    let folder = path.parent().unwrap_or(Path::new("/"));
                    let patterns = imports.iter().map(|pattern| folder.join(pattern));
                    todo.extend(patterns.flat_map(|pattern| glob::expand(self.root, &pattern, MAX_FILES)));
                }
                Err(error) => self.complaints.push(format!("{}: {error}", path.display())),
            }
        }
        settings
    }

    /// Reads the file, then the drop-ins. A later file's key replaces an earlier one.
    fn crio(&mut self, config: &Path) -> RuntimeSettings {
        let mut settings = RuntimeSettings::default();
        let mut files = vec![config.to_owned()];
        let drop_ins = glob::expand(self.root, Path::new("/etc/crio/crio.conf.d/*"), MAX_FILES);
        let is_hidden =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."));
        files.extend(drop_ins.into_iter().filter(|path| !is_hidden(path)));
        for path in files {
            let Some(text) = self.read(&path) else { continue };
            match runtime_config::crio(&text) {
                Ok(found) => settings = settings.with(found),
                Err(error) => self.complaints.push(format!("{}: {error}", path.display())),
            }
        }
        settings
    }

    fn read(&mut self, path: &Path) -> Option<String> {
        self.files += 1;
        if self.files > MAX_FILES {
            return None;
        }
        match read_bounded(&self.root.at(path), MAX_CONFIG) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.complaints.push(format!("{}: {error}", path.display()));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Finds the runtime on a node with these files.
    fn found(files: &[(&str, &str)], socket: Option<&str>) -> Runtime {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        find(&HostRoot::new(folder.path()), socket.map(Path::new))
    }

    fn where_of(found: &Runtime) -> (String, Vec<String>) {
        let text = |path: &PathBuf| path.display().to_string();
        (text(&found.conf_dir), found.bin_dirs.iter().map(text).collect())
    }

    const K3S: &str = "/var/lib/rancher/k3s/agent/etc/cni/net.d";

    #[test]
    fn each_distribution_is_found_by_its_own_files() {
        let cri = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n";
        let k3s = format!("{cri}bin_dir = \"/var/lib/rancher/k3s/data/0123/bin\"\nconf_dir = \"{K3S}\"\n");
        let gke = format!("{cri}bin_dir = \"/home/kubernetes/bin\"\nconf_dir = \"/etc/cni/net.d\"\n");
        let openshift = "[crio.network]\nnetwork_dir = \"/etc/kubernetes/cni/net.d/\"\nplugin_dirs = [\"/var/lib/cni/bin\"]\n";
        for (name, files, conf_dir, bin_dir) in [
            ("no runtime's", vec![], CONF_DIR, BIN_DIR),
            ("containerd", vec![("etc/containerd/config.toml", "version = 2\n")], CONF_DIR, BIN_DIR),
            ("containerd", vec![("run/containerd/containerd.sock", "")], CONF_DIR, BIN_DIR),
            (
                "containerd",
                vec![("etc/containerd/config.toml", gke.as_str())],
                "/etc/cni/net.d",
                "/home/kubernetes/bin",
            ),
            (
                "k3s",
                vec![
                    ("etc/containerd/config.toml", gke.as_str()),
                    ("var/lib/rancher/k3s/agent/etc/containerd/config.toml", k3s.as_str()),
                ],
                K3S,
                "/var/lib/rancher/k3s/data/0123/bin",
            ),
            (
                "RKE2",
                vec![("var/lib/rancher/rke2/agent/etc/containerd/config.toml", "version = 2\n")],
                CONF_DIR,
                BIN_DIR,
            ),
            (
                "MicroK8s",
                vec![("var/snap/microk8s/current/args/containerd.toml", "version = 2\n")],
                "/var/snap/microk8s/current/args/cni-network",
                "/var/snap/microk8s/current/opt/cni/bin",
            ),
            ("k0s", vec![("etc/k0s/containerd.toml", "version = 2\n")], CONF_DIR, BIN_DIR),
            ("CRI-O", vec![("etc/crio/crio.conf", "")], CONF_DIR, BIN_DIR),
            (
                "CRI-O",
                vec![
                    ("etc/crio/crio.conf.d/10-default", "[crio.network]\nnetwork_dir = \"/x\"\n"),
                    ("etc/crio/crio.conf.d/20-ocp", openshift),
                ],
                "/etc/kubernetes/cni/net.d",
                "/var/lib/cni/bin",
            ),
            // Both are installed, and the one that runs is found.
            (
                "CRI-O",
                vec![
                    ("etc/containerd/config.toml", gke.as_str()),
                    ("etc/crio/crio.conf", openshift),
                    ("run/crio/crio.sock", ""),
                ],
                "/etc/kubernetes/cni/net.d",
                "/var/lib/cni/bin",
            ),
            (
                "containerd",
                vec![
                    ("etc/containerd/config.toml", gke.as_str()),
                    ("run/containerd/containerd.sock", ""),
                    ("etc/crio/crio.conf", openshift),
                ],
                "/etc/cni/net.d",
                "/home/kubernetes/bin",
            ),
        ] {
            let found = found(&files, None);
            assert!(found.name.starts_with(name), "{name}: {}", found.name);
            assert_eq!(where_of(&found), (conf_dir.to_owned(), vec![bin_dir.to_owned()]), "{name}");
            assert_eq!(found.complaints, [""; 0], "{name}");
        }
    }

    #[test]
    fn imports_are_followed_in_order_and_no_further_than_they_may() {
        let cni =
            |folder: &str| format!("[plugins.'io.containerd.cri.v1.runtime'.cni]\nconf_dir = \"{folder}\"\n");
        let files = [
            (
                "etc/containerd/config.toml",
                format!("version = 3\nimports = [\"conf.d/*.toml\", \"/etc/last.toml\"]\n{}", cni("/main")),
            ),
            ("etc/containerd/conf.d/20-b.toml", cni("/b")),
            ("etc/containerd/conf.d/10-a.toml", cni("/a")),
            ("etc/containerd/conf.d/30-c.toml.bak", cni("/c")),
            // It imports itself.
            ("etc/last.toml", "imports = [\"/etc/last.toml\"]\n".to_owned()),
        ];
        let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        assert_eq!(where_of(&found(&files, None)).0, "/b");
    }

    #[test]
    fn imports_of_an_import_come_after_its_siblings_and_only_once() {
        let cni = "[plugins.'io.containerd.cri.v1.runtime'.cni]\nconf_dir = ";
        let importing = format!("imports = [\"../conf.d/../deep/[0-9]*.toml\"]\n{cni}\"/a\"\n");
        let (b, last) =
            (format!("{cni}\"/b\"\n"), format!("imports = [\"/etc/conf.d/*\"]\n{cni}\"/last\"\n"));
        let files = [
            ("etc/containerd/config.toml", "imports = [\"/etc/c*.d/*.toml\"]\n"),
            ("etc/conf.d/10-a.toml", importing.as_str()),
            ("etc/conf.d/20-b.toml", b.as_str()),
            ("etc/deep/1.toml", last.as_str()),
        ];
        assert_eq!(where_of(&found(&files, None)).0, "/last");
    }

    #[test]
    fn a_file_that_cannot_be_read_makes_a_complaint_and_the_rest_holds() {
        let found = found(
            &[("etc/containerd/config.toml", "imports = [\"x.toml\"]\n"), ("etc/containerd/x.toml", "[[[")],
            None,
        );
        assert_eq!(where_of(&found), (CONF_DIR.to_owned(), vec![BIN_DIR.to_owned()]));
        assert_eq!(found.complaints.len(), 1);
        assert!(found.complaints[0].starts_with("/etc/containerd/x.toml: "), "{:?}", found.complaints);
    }

    #[test]
    fn the_operators_socket_selects_the_runtime() {
        let files = [
            ("etc/containerd/config.toml", ""),
            ("run/containerd/containerd.sock", ""),
            ("etc/crio/crio.conf", ""),
        ];
        assert!(found(&files, Some("/run/crio/crio.sock")).name.starts_with("CRI-O"));
        assert!(found(&files, Some("/some/where.sock")).name.starts_with("containerd"));
    }
}
