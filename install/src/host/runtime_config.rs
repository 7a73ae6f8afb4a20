// SPDX-License-Identifier: Apache-2.0
//! What a runtime's configuration says of CNI. Pure.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// What a file says; none where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The folder of CNI configurations.
    pub conf_dir: Option<PathBuf>,
    /// The folders of plugins.
    pub bin_dirs: Vec<PathBuf>,
    /// Where the runtime listens.
    pub socket: Option<PathBuf>,
    /// The name of the network that pods get.
    pub network: Option<String>,
}

/// The CRI plugin's section by the version of the file: 3, 2, 1. A file is read by whichever it has.
const CRI_SECTIONS: [&str; 3] = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];

/// containerd's: what it says, and the patterns of the files that it imports.
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
        Settings { conf_dir: path(at("conf_dir")), bin_dirs, socket: None, network: None }
    });
    Ok(((cni.is_some() || socket.is_some()).then_some(Section { cni, socket }), imports))
}

/// What one of containerd's files says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// The CRI plugin's section, if it has one.
    pub cni: Option<Settings>,
    /// Where containerd listens.
    pub socket: Option<PathBuf>,
}

/// CRI-O's.
pub(crate) fn crio(text: &str) -> Result<Settings, toml::de::Error> {
    let table: Table = text.parse()?;
    let network = |key| lookup(&table, &["crio", "network", key]);
    let mut bin_dirs: Vec<PathBuf> = paths(network("plugin_dirs"));
    if bin_dirs.is_empty() {
        // Of releases before 1.14.
        bin_dirs.extend(path(network("plugin_dir")));
    }
    Ok(Settings {
        conf_dir: path(network("network_dir")),
        bin_dirs,
        socket: path(lookup(&table, &["crio", "api", "listen"])),
        network: network("cni_default_network")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
    })
}

impl Settings {
    /// containerd's way: an imported file's section of the CRI plugin stands in place of the one before.
    pub(crate) fn overridden_by(self, section: Option<Section>) -> Self {
        let Some(Section { cni, socket }) = section else { return self };
        let socket = socket.or(self.socket.clone());
        Self { socket, ..cni.unwrap_or(self) }
    }

    /// CRI-O's way: each key by itself.
    pub(crate) fn with(self, later: Self) -> Self {
        Self {
            conf_dir: later.conf_dir.or(self.conf_dir),
            bin_dirs: if later.bin_dirs.is_empty() { self.bin_dirs } else { later.bin_dirs },
            socket: later.socket.or(self.socket),
            network: later.network.or(self.network),
        }
    }
}

fn lookup<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

/// An absolute path, without the slash that CRI-O's own file ends folders with; others would depend on where the runtime was
/// started.
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

    fn section(text: &str) -> Settings {
        Settings::default().overridden_by(containerd(text).unwrap().0)
    }

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
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
            let Settings { conf_dir: found, bin_dirs: folders, .. } = section(text);
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
            Settings {
                conf_dir: Some("/etc/kubernetes/cni/net.d/".into()),
                bin_dirs: paths(&["/var/lib/cni/bin", "/usr/libexec/cni"]),
                socket: Some("/run/x.sock".into()),
                network: Some("multus-cni-network".to_owned()),
            }
        );
        assert_eq!(crio("[crio.network]\nplugin_dir = \"/old\"\n").unwrap().bin_dirs, paths(&["/old"]));
    }
}
