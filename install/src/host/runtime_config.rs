// SPDX-License-Identifier: Apache-2.0
//! Reads the CNI settings in a runtime's configuration. Pure.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::cri::sandboxes::{Bypass, Handlers};

/// The CNI settings of one file, or of several merged; `None` where no file sets a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RuntimeSettings {
    pub conf_dir: Option<PathBuf>,
    pub bin_dirs: Vec<PathBuf>,
    /// The CRI socket.
    pub socket: Option<PathBuf>,
    /// The name of the network that pods are attached to.
    pub network: Option<String>,
    /// The number of files whose networks pods are attached to; 0 is all.
    pub max_conf_num: Option<usize>,
    /// The handlers whose sandboxes bypass their namespace's netfilter.
    pub handlers: Handlers,
}

/// The names of the CRI plugin's section in files of version 3, 2 and 1. The first that a file has is read.
const CRI_SECTIONS: [&str; 3] = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];

/// Reads a file of containerd: its settings, and the patterns of the files that it imports.
pub(crate) fn containerd(text: &str) -> Result<(Option<Section>, Vec<String>), toml::de::Error> {
    let table: Table = text.parse()?;
    let imports = strings(table.get("imports"));
    let socket = path(lookup(&table, &["grpc", "address"]));
    let plugins = table.get("plugins").and_then(Value::as_table);
    let cri = plugins.and_then(|plugins| CRI_SECTIONS.iter().find_map(|name| plugins.get(*name)?.as_table()));
    let cni = cri.map(|cri| {
        let at = |key: &str| cri.get("cni").and_then(|cni| cni.get(key));
        let mut bin_dirs: Vec<PathBuf> = paths(at("bin_dirs"));
        if bin_dirs.is_empty() {
            bin_dirs.extend(path(at("bin_dir")));
        }
        let max_conf_num = at("max_conf_num").and_then(Value::as_integer);
        // A negative number is no limit, as 0 is.
        let max_conf_num = max_conf_num.map(|number| usize::try_from(number).unwrap_or_default());
        RuntimeSettings {
            conf_dir: path(at("conf_dir")),
            bin_dirs,
            max_conf_num,
            handlers: handlers(cri.get("containerd"), "default_runtime_name"),
            ..RuntimeSettings::default()
        }
    });
    Ok(((cni.is_some() || socket.is_some()).then_some(Section { cni, socket }), imports))
}

/// The settings of one file of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// The CRI plugin's section, where the file has one.
    pub cni: Option<RuntimeSettings>,
    pub socket: Option<PathBuf>,
}

/// Reads a file of CRI-O.
pub(crate) fn crio(text: &str) -> Result<RuntimeSettings, toml::de::Error> {
    let table: Table = text.parse()?;
    let network = |key| lookup(&table, &["crio", "network", key]);
    let mut bin_dirs: Vec<PathBuf> = paths(network("plugin_dirs"));
    if bin_dirs.is_empty() {
        // The key of releases before 1.14.
        bin_dirs.extend(path(network("plugin_dir")));
    }
    Ok(RuntimeSettings {
        conf_dir: path(network("network_dir")),
        bin_dirs,
        socket: path(lookup(&table, &["crio", "api", "listen"])),
        network: network("cni_default_network")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        max_conf_num: None,
        handlers: handlers(lookup(&table, &["crio", "runtime"]), "default_runtime"),
    })
}

impl RuntimeSettings {
    /// Merges as containerd does: an imported file's section of the CRI plugin replaces the one before as a whole.
    pub(crate) fn overridden_by(self, section: Option<Section>) -> Self {
        let Some(Section { cni, socket }) = section else { return self };
        let socket = socket.or(self.socket.clone());
        Self { socket, ..cni.unwrap_or(self) }
    }

    /// Merges as CRI-O does: each key by itself.
    pub(crate) fn with(self, later: Self) -> Self {
        Self {
            conf_dir: later.conf_dir.or(self.conf_dir),
            bin_dirs: if later.bin_dirs.is_empty() { self.bin_dirs } else { later.bin_dirs },
            socket: later.socket.or(self.socket),
            network: later.network.or(self.network),
            max_conf_num: later.max_conf_num.or(self.max_conf_num),
            handlers: self.handlers.into_iter().chain(later.handlers).collect(),
        }
    }
}

/// Reads the table `runtimes` of `section`, and the default among them.
fn handlers(section: Option<&Value>, default: &str) -> Handlers {
    let Some(section) = section.and_then(Value::as_table) else { return Handlers::new() };
    let kind = |(name, runtime): (&String, &Value)| {
        let text = |key: &str| runtime.get(key).and_then(Value::as_str).unwrap_or_default();
        let named = [name, text("runtime_type"), text("runtime_path")].into_iter().find_map(Bypass::of);
        Some((name.clone(), named.or((text("runtime_type") == "vm").then_some(Bypass::Machine))?))
    };
    let runtimes = section.get("runtimes").and_then(Value::as_table).into_iter().flatten();
    let mut handlers: Handlers = runtimes.filter_map(kind).collect();
    let default = section.get(default).and_then(Value::as_str).and_then(|name| handlers.get(name).copied());
    handlers.extend(default.map(|kind| (String::new(), kind)));
    handlers
}

fn lookup<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

/// Reads an absolute path, without the slash at the end that CRI-O's own file has. A relative path is ignored, since it depends
/// on the folder in which the runtime was started.
fn path(value: Option<&Value>) -> Option<PathBuf> {
    value?
        .as_str()
        .map(|text| text.strip_prefix("unix://").unwrap_or(text))
        .map(|text| Path::new(text).components().collect::<PathBuf>())
        .filter(|path| path.is_absolute())
}

fn paths(value: Option<&Value>) -> Vec<PathBuf> {
    strings(value).iter().map(|text| Path::new(text).components().collect()).collect()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let values = value.and_then(Value::as_array).into_iter().flatten();
    values.filter_map(|value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> RuntimeSettings {
        RuntimeSettings::default().overridden_by(containerd(text).unwrap().0)
    }

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn handlers_of_sandboxes_that_bypass_the_rules() {
        let version_2 = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"runc\"\n\
            [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
            [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.secure]\nruntime_type = \"io.containerd.kata.v2\"\n\
            [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.gvisor]\nruntime_type = \"io.containerd.runsc.v1\"\n";
        let version_3 = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'kata-clh'\n\
            [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata-clh]\nruntime_type = 'io.containerd.kata.v2'\n";
        let kinds = |handlers: Handlers| -> Vec<(String, Bypass)> { handlers.into_iter().collect() };
        let named = |pairs: &[(&str, Bypass)]| -> Vec<(String, Bypass)> {
            pairs.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect()
        };
        assert_eq!(
            kinds(section(version_2).handlers),
            named(&[("gvisor", Bypass::Gvisor), ("secure", Bypass::Kata)])
        );
        assert_eq!(
            kinds(section(version_3).handlers),
            named(&[("", Bypass::Kata), ("kata-clh", Bypass::Kata)])
        );
        let crio = "[crio.runtime]\ndefault_runtime = \"crun\"\n[crio.runtime.runtimes.crun]\nruntime_type = \"oci\"\n\
            [crio.runtime.runtimes.kata]\nruntime_path = \"/usr/bin/containerd-shim-kata-v2\"\nruntime_type = \"vm\"\n\
            [crio.runtime.runtimes.own]\nruntime_path = \"/opt/own\"\nruntime_type = \"vm\"\n\
            [crio.runtime.runtimes.sandboxed]\nruntime_path = \"/usr/local/bin/runsc\"\n";
        let expected = [("kata", Bypass::Kata), ("own", Bypass::Machine), ("sandboxed", Bypass::Gvisor)];
        assert_eq!(kinds(super::crio(crio).unwrap().handlers), named(&expected));
        assert!(
            section("version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\nruntimes = 5\n")
                .handlers
                .is_empty()
        );
    }

    #[test]
    fn containerds_versions() {
        for (name, text, conf_dir, bin_dirs) in [
            (
                "1",
                "[plugins.cri.cni]\n  bin_dir = \"/home/kubernetes/bin\"\n  conf_dir = \"/etc/cni/net.d\"\n",
                Some("/etc/cni/net.d"),
                &["/home/kubernetes/bin"][..],
            ),
            (
                "2",
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/b\"\nconf_dir = \"/c\"\nmax_conf_num = 1\n",
                Some("/c"),
                &["/b"],
            ),
            (
                "3",
                "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [\"/opt/cni/bin\", \"/usr/libexec/cni\"]\n",
                None,
                &["/opt/cni/bin", "/usr/libexec/cni"],
            ),
            (
                "both spellings",
                "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dir = \"/old\"\nbin_dirs = [\"/new\"]\n",
                None,
                &["/new"],
            ),
            ("nothing about it", "version = 2\nroot = \"/x\"\n", None, &[]),
            ("of another kind", "[plugins.cri.cni]\nbin_dir = 5\nconf_dir = \"relative\"\n", None, &[]),
            ("empty", "", None, &[]),
        ] {
            let RuntimeSettings { conf_dir: found, bin_dirs: folders, .. } = section(text);
            assert_eq!((found, folders), (conf_dir.map(PathBuf::from), paths(bin_dirs)), "{name}");
        }
        assert!(containerd("plugins = [").is_err());
    }

    #[test]
    fn an_import_stands_in_place_of_the_section_before() {
        let first = section(
            "[grpc]\naddress = \"/run/a.sock\"\n[plugins.cri.cni]\nbin_dir = \"/b\"\nconf_dir = \"/c\"\n",
        );
        let import = |text: &str| first.clone().overridden_by(containerd(text).unwrap().0);
        assert_eq!(import("version = 2\n"), first);
        let other = import("[plugins.cri.cni]\nconf_dir = \"/d\"\n");
        assert_eq!((other.conf_dir, other.bin_dirs), (Some("/d".into()), vec![]));
        assert_eq!(other.socket, Some("/run/a.sock".into()));
        assert_eq!(
            containerd("imports = [\"a.toml\", \"/b/*.toml\", 5]").unwrap().1,
            ["a.toml", "/b/*.toml"]
        );
    }

    #[test]
    fn crios_keys_each_by_itself() {
        let main = crio(
            "[crio.api]\nlisten = \"unix:///run/x.sock\"\n[crio.network]\nnetwork_dir = \"/etc/kubernetes/cni/net.d/\"\nplugin_dirs = [\"/var/lib/cni/bin\", \"/usr/libexec/cni\"]\n",
        );
        let later = crio("[crio.network]\ncni_default_network = \"multus-cni-network\"\n").unwrap();
        let both = main.unwrap().with(later);
        assert_eq!(
            both,
            RuntimeSettings {
                conf_dir: Some("/etc/kubernetes/cni/net.d/".into()),
                bin_dirs: paths(&["/var/lib/cni/bin", "/usr/libexec/cni"]),
                socket: Some("/run/x.sock".into()),
                network: Some("multus-cni-network".to_owned()),
                max_conf_num: None,
                handlers: Handlers::new(),
            }
        );
        assert_eq!(crio("[crio.network]\nplugin_dir = \"/old\"\n").unwrap().bin_dirs, paths(&["/old"]));
    }
}
