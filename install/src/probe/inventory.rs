// SPDX-License-Identifier: Apache-2.0
//! What of culvert, of the runtime and of its neighbours is on a node: facts for `doctor`, which changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_cni::agent::{Answer, Request, client};
use culvert_cni::attachment::{NO_ENGINE, Records};
use culvert_cni::protocol::POD_ANNOTATIONS;
use culvert_cni::retired;
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::Deserialize;

use crate::agent::status::{NodeStatus, Onboarded};
use crate::conflist::{self, Choice, Conf, Conflist, Invalid, MAX_BYTES, TYPE};
use crate::cri::Cri;
use crate::host::binary::{self, Identity};
use crate::host::entry::{self, DROP_IN, SET_ASIDE};
use crate::host::layout::Layout;
use crate::host::state;
use crate::system::read::read_bounded;

/// How long the runtime and the agent have to answer, each.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// What Cilium's agent writes down of itself.
const CILIUM: &str = "/var/run/cilium/state/agent-runtime-config.json";
/// The largest such file, in bytes; it has some 30 KiB.
const MAX_CILIUM: u64 = 4 << 20;

/// What is on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// The runtime's configuration, as it was found.
    pub runtime: String,
    /// What of it could not be read.
    pub complaints: Vec<String>,
    /// The runtime's own word on its name and version, or why it says none.
    pub version: Result<(String, String), String>,
    /// The folder of network configurations.
    pub conf_dir: PathBuf,
    /// What the runtime makes of it.
    pub network: NetworkInUse,
    /// Other files there that name the plugin.
    pub others: Vec<String>,
    /// Files that Cilium renamed away.
    pub renamed_by_cilium: Vec<String>,
    /// The runtime's folders of plugins.
    pub folders: Vec<Folder>,
    /// The binary that an agent would place, if it is here.
    pub source: Option<Identity>,
    /// What Cilium says of itself, where it runs.
    pub cilium: Option<Cilium>,
    /// Whether an agent runs.
    pub agent: bool,
    /// Whether `uninstall` was here.
    pub left: bool,
    /// Pods that went through since nobody knew whether they are onboarded; none where no agent says.
    pub unknown: Option<Vec<String>>,
    /// Onboarded pods that are not redirected as they should be, or cannot be looked at, and why, as the agent says.
    pub ill: Vec<String>,
}

/// What the runtime makes of its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkInUse {
    /// It uses this file.
    Used(Used),
    /// There is no file.
    Empty,
    /// This one cannot be loaded.
    Broken {
        /// Its name.
        name: String,
        /// Why.
        problem: String,
    },
    /// The folder cannot be read.
    Unreadable(String),
}

/// The file that the runtime uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    /// Its name.
    pub name: String,
    /// The types of its plugins.
    pub chain: Vec<String>,
    /// The version that a runtime chooses, or that none will do.
    pub version: Result<String, Invalid>,
    /// Whether our entry asks for annotations; none where there is no entry.
    pub asks: Option<bool>,
    /// Whether our drop-in is beside it.
    pub drop_in: bool,
}

/// A folder of plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// As the node calls it.
    pub path: PathBuf,
    /// Whether it is there.
    pub is_there: bool,
    /// Whether programs can be run from it.
    pub is_executable: bool,
    /// Whether it can be written.
    pub is_writable: bool,
    /// Our plugin in it.
    pub plugin: Option<PlacedPlugin>,
}

/// Our plugin on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlacedPlugin {
    /// What it is; none where it cannot be read.
    pub identity: Option<Identity>,
    /// Whether it may be run.
    pub is_executable: bool,
    /// Whether it is the stub that an uninstall left.
    pub is_retired: bool,
}

/// What Cilium's agent runs with. Names as in its own file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cilium {
    /// Its file could be read.
    Says {
        /// Whether it translates services at a pod's `connect` already.
        socket_lb: bool,
        /// Whether it leaves pods' own `connect` alone.
        host_namespace_only: bool,
    },
    /// It writes the network's configuration, and its file cannot be read, or does not say.
    Silent,
}

/// Looks at all of it.
pub(crate) fn take(layout: &Layout) -> Inventory {
    let folder = layout.at(&layout.conf_dir);
    let network = network(layout, &folder);
    let names = names_in(&folder);
    let used = match &network {
        NetworkInUse::Used(used) => Some(used),
        NetworkInUse::Empty | NetworkInUse::Broken { .. } | NetworkInUse::Unreadable(_) => None,
    };
    let by_cilium =
        used.is_some_and(|used| used.chain.first().is_some_and(|kind| kind.starts_with("cilium")));
    let others =
        names.iter().filter(|name| used.is_none_or(|used| used.name != **name) && !name.ends_with(SET_ASIDE));
    let (unknown, ill) = pods(layout);
    Inventory {
        runtime: layout.runtime.clone(),
        complaints: layout.complaints.clone(),
        version: version(layout),
        conf_dir: layout.conf_dir.clone(),
        others: others.filter(|name| names_us(&folder.join(name))).cloned().collect(),
        renamed_by_cilium: names.iter().filter(|name| name.ends_with(".cilium_bak")).cloned().collect(),
        folders: layout.bin_dirs.iter().map(|path| look_at(layout, path)).collect(),
        source: binary::identify(&layout.plugin).ok(),
        cilium: cilium(layout, by_cilium),
        agent: state::is_agent_alive(layout),
        left: state::is_uninstalled(layout),
        unknown,
        ill,
        network,
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

fn names_us(path: &Path) -> bool {
    read_bounded(path, MAX_BYTES)
        .is_ok_and(|text| Conflist::parse(&text).is_ok_and(|list| list.kinds().contains(&TYPE)))
}

fn network(layout: &Layout, folder: &Path) -> NetworkInUse {
    let files = match entry::loaded_files(layout) {
        Ok(files) => files,
        Err(error) => return NetworkInUse::Unreadable(error.to_string()),
    };
    let name = match conflist::effective(&files, &layout.loader) {
        Choice::File { name, .. } => name,
        Choice::Empty => return NetworkInUse::Empty,
        Choice::Broken { name, problem } => {
            return NetworkInUse::Broken { name, problem: problem.to_string() };
        }
    };
    let text = conflist::text_of(&files, &name);
    let Ok(list) = Conflist::parse(text) else {
        let (chain, version) = match Conf::parse(text) {
            Ok(conf) => (vec![conf.kind], conf.cni_version.unwrap_or_default()),
            Err(_) => (Vec::new(), String::new()),
        };
        return NetworkInUse::Used(Used { name, chain, version: Ok(version), asks: None, drop_in: false });
    };
    let ours =
        list.plugins.iter().position(|plugin| plugin.kind == TYPE).and_then(|index| list.plugin(index));
    let drop_in = folder.join(&list.name).join(DROP_IN);
    let asks = |text: &str| {
        let entry: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        entry["capabilities"][POD_ANNOTATIONS] == true
    };
    NetworkInUse::Used(Used {
        chain: list.kinds().into_iter().map(str::to_owned).collect(),
        version: list.speakable().map(|()| list.cni_version.clone().unwrap_or_default()),
        asks: ours.map(asks).or_else(|| read_bounded(&drop_in, MAX_BYTES).ok().map(|text| asks(&text))),
        drop_in: drop_in.exists(),
        name,
    })
}

fn look_at(layout: &Layout, path: &Path) -> Folder {
    let here = layout.at(path);
    let flags = statvfs(&here).map(|stat| stat.flags()).unwrap_or(FsFlags::empty());
    let binary = here.join(TYPE);
    let plugin = binary.exists().then(|| PlacedPlugin {
        identity: binary::identify(&binary).ok(),
        is_executable: binary::is_executable(&binary),
        is_retired: retired::note_of(&binary).exists(),
    });
    Folder {
        path: path.to_owned(),
        is_there: here.is_dir(),
        is_executable: !flags.contains(FsFlags::ST_NOEXEC),
        is_writable: !flags.contains(FsFlags::ST_RDONLY),
        plugin,
    }
}

fn version(layout: &Layout) -> Result<(String, String), String> {
    let socket = layout.runtime_socket.as_ref().ok_or("no socket of a runtime is there")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let asked = async {
        let mut cri = Cri::connect(&layout.at(socket)).await?;
        cri.version().await
    };
    let answered = runtime.block_on(async { tokio::time::timeout(ANSWERS_WITHIN, asked).await });
    match answered {
        Ok(version) => version.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWERS_WITHIN.as_secs())),
    }
}

fn cilium(layout: &Layout, writes_the_network: bool) -> Option<Cilium> {
    /// The few of its hundreds of keys that are about us, by the names of Cilium's own fields. A release may keep either
    /// elsewhere: what is not there is not known.
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "EnableSocketLB")]
        socket_lb: Option<bool>,
        #[serde(rename = "BPFSocketLBHostnsOnly", default)]
        host_namespace_only: bool,
    }
    let text = read_bounded(&layout.at(Path::new(CILIUM)), MAX_CILIUM).ok();
    let config = text.as_deref().map(serde_json::from_str::<Config>);
    match config {
        Some(Ok(Config { socket_lb: Some(socket_lb), host_namespace_only })) => {
            Some(Cilium::Says { socket_lb, host_namespace_only })
        }
        Some(Ok(Config { socket_lb: None, host_namespace_only: true })) => {
            Some(Cilium::Says { socket_lb: true, host_namespace_only: true })
        }
        Some(Ok(Config { socket_lb: None, host_namespace_only: false }) | Err(_)) | None => {
            writes_the_network.then_some(Cilium::Silent)
        }
    }
}

/// Pods that nobody knew, and those that are ill: the agent's word, or that of the records, which are kept of the former too.
fn pods(layout: &Layout) -> (Option<Vec<String>>, Vec<String>) {
    let socket = layout.at(&layout.agent_socket());
    if let Ok(Answer::Status(status)) = client::ask(&socket, &Request::Status {}, ANSWERS_WITHIN)
        && let Ok(status) = serde_json::from_value::<NodeStatus>(status)
    {
        let ill = status.pods.iter().filter(|row| row.is_ill());
        let ill = ill.map(|row| format!("{}: {}", row.pod, row.reason)).collect();
        let unknown = status.pods.into_iter().filter(|row| row.onboarded == Onboarded::Unknown);
        return (Some(unknown.map(|row| row.pod).collect()), ill);
    }
    let Ok(records) = Records::new(&layout.at(&layout.attachments())).all() else {
        return (None, Vec::new());
    };
    let unknown: Vec<_> = records.into_iter().filter(|record| record.engine == NO_ENGINE).collect();
    // No record says nothing: those of pods that are known may be gone with the last boot.
    let pods =
        unknown.into_iter().map(|record| record.pod.unwrap_or(record.container_id)).collect::<Vec<_>>();
    ((!pods.is_empty()).then_some(pods), Vec::new())
}
