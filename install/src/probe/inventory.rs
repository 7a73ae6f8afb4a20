// SPDX-License-Identifier: Apache-2.0
//! Facts about culvert, the runtime and its neighbours on a node, for `doctor`. Nothing is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_cni::agent::{Answer, Request, client};
use culvert_cni::attachment::{NO_ENGINE, Records};
use culvert_cni::protocol::POD_ANNOTATIONS;
use culvert_cni::retired;
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::Deserialize;

use crate::agent::status::{NodeStatus, Onboarded, PodRow};
use crate::conflist::effective::InvalidFile;
use crate::conflist::stand_in;
use crate::conflist::{Choice, Conf, Conflist, Invalid, MAX_BYTES, TYPE};
use crate::cri::Cri;
use crate::cri::sandboxes::Handlers;
use crate::host::binary::{self, Identity};
use crate::host::entry::DROP_IN;
use crate::host::folder::{Folder as Configurations, SET_ASIDE};
use crate::host::layout::Layout;
use crate::host::plugins::Plugins;
use crate::host::state;
use crate::system::lossless::read_lossless;
use crate::system::read::read_bounded;

/// Deadline of the runtime and of the agent, each.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// File in which Cilium's agent keeps its own settings.
const CILIUM: &str = "/var/run/cilium/state/agent-runtime-config.json";
/// Largest such file, in bytes; usual are some 30 KiB.
const MAX_CILIUM: u64 = 4 << 20;

/// Facts about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// Configuration of the runtime as it was found.
    pub runtime: String,
    /// Parts of that configuration that could not be read.
    pub complaints: Vec<String>,
    /// Its handlers whose sandboxes bypass the rules.
    pub handlers: Handlers,
    /// Name and version as the runtime reports them, or the reason why it does not.
    pub version: Result<(String, String), String>,
    /// Folder of network configurations.
    pub conf_dir: PathBuf,
    /// Choice of the runtime in that folder.
    pub network: NetworkInUse,
    /// Further files there that name the plugin.
    pub others: Vec<String>,
    /// Files that Cilium renamed.
    pub renamed_by_cilium: Vec<String>,
    /// The runtime's folders of plugins.
    pub folders: Vec<Folder>,
    /// Binary that an agent would place, if it is here.
    pub source: Option<Identity>,
    /// Settings of Cilium, if it runs.
    pub cilium: Option<Cilium>,
    /// True if an agent runs.
    pub agent: bool,
    /// True if `uninstall` ran here.
    pub left: bool,
    /// Pods that passed without a decision, because their annotations were unknown. None without an agent's report.
    pub unknown: Option<Vec<String>>,
    /// Onboarded pods with missing rules or that cannot be checked, with the agent's reason.
    pub ill: Vec<String>,
    /// NAT rules and drop policies of other programs in onboarded pods, as the agent saw them.
    pub beside: Vec<String>,
}

/// Choice of the runtime in its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkInUse {
    Used(Used),
    /// The folder has no configuration, or none of this network, which is the only one that the runtime wants.
    Empty(Option<String>),
    /// This file cannot be loaded.
    Broken {
        name: String,
        problem: String,
        /// The runtime's treatment of such a file.
        rule: InvalidFile,
    },
    /// The folder cannot be read.
    Unreadable(String),
}

/// The file that the runtime uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    pub name: String,
    /// Types of its plugins.
    pub chain: Vec<String>,
    /// Version that a runtime chooses, or the reason why none fits.
    pub version: Result<String, Invalid>,
    /// True if our entry requests annotations. None without our entry.
    pub asks: Option<bool>,
    /// True if our drop-in stands beside it.
    pub drop_in: bool,
    /// For a list of ours before a neighbour's file: the difference between the two.
    pub stale: Option<String>,
    /// Files before it that the runtime passes over, each with the reason.
    pub passed_over: Vec<String>,
}

/// A folder of plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Path on the node.
    pub path: PathBuf,
    pub is_there: bool,
    /// True if programs can be run from it.
    pub is_executable: bool,
    pub is_writable: bool,
    pub plugin: Option<PlacedPlugin>,
}

/// Our plugin on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlacedPlugin {
    /// None if the binary cannot be read.
    pub identity: Option<Identity>,
    pub is_executable: bool,
    /// True if it is the stub that an uninstall left.
    pub is_retired: bool,
}

/// Settings of Cilium's agent, under the names of its own file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cilium {
    /// The file could be read.
    Says {
        /// True if Cilium translates services when a pod calls `connect`.
        socket_lb: bool,
        /// True if that excludes pods.
        host_namespace_only: bool,
    },
    /// Cilium writes the network's configuration, but its file cannot be read or lacks these keys.
    Silent,
}

/// Takes the whole inventory.
pub(crate) fn take(layout: &Layout) -> Inventory {
    let folder = layout.at(&layout.conf_dir);
    let network = network(layout, &folder);
    let names = names_in(&folder);
    let used = match &network {
        NetworkInUse::Used(used) => Some(used),
        NetworkInUse::Empty(_) | NetworkInUse::Broken { .. } | NetworkInUse::Unreadable(_) => None,
    };
    let by_cilium =
        used.is_some_and(|used| used.chain.first().is_some_and(|kind| kind.starts_with("cilium")));
    let others =
        names.iter().filter(|name| used.is_none_or(|used| used.name != **name) && !name.ends_with(SET_ASIDE));
    let (unknown, ill, beside) = pods(layout);
    Inventory {
        runtime: layout.runtime.clone(),
        complaints: layout.complaints.clone(),
        handlers: layout.handlers.clone(),
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
        beside,
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
    read_lossless(path, MAX_BYTES)
        .is_ok_and(|text| Conflist::parse(&text).is_ok_and(|list| list.kinds().contains(&TYPE)))
}

fn network(layout: &Layout, folder: &Path) -> NetworkInUse {
    let files = match Configurations::read(layout, &Plugins::default()) {
        Ok(files) => files,
        Err(error) => return NetworkInUse::Unreadable(error.to_string()),
    };
    let name = match files.effective(layout) {
        Choice::File { name, .. } => name,
        Choice::Empty => return NetworkInUse::Empty(layout.loader.network.clone()),
        Choice::Broken { name, problem } => {
            return NetworkInUse::Broken { name, problem: problem.to_string(), rule: layout.loader.invalid };
        }
    };
    let text = files.text(&name);
    let Ok(list) = Conflist::parse(text) else {
        let (chain, version) = match Conf::parse(text) {
            Ok(conf) => (vec![conf.kind], conf.cni_version.unwrap_or_default()),
            Err(_) => (Vec::new(), String::new()),
        };
        let version = Ok(version);
        let passed_over = passed_over(&files, layout, &name);
        let (asks, drop_in, stale) = (None, false, None);
        return NetworkInUse::Used(Used { name, chain, version, asks, drop_in, stale, passed_over });
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
        drop_in: drop_in.exists() && !list.inlined_only,
        stale: stale(&files, &name),
        passed_over: passed_over(&files, layout, &name),
        name,
    })
}

/// Returns the files that the runtime passes over before `name`, each with the reason.
fn passed_over(files: &Configurations, layout: &Layout, name: &str) -> Vec<String> {
    let passed = files.passed_over(layout, name).into_iter();
    passed.map(|(name, problem)| format!("{name}: {problem}")).collect()
}

/// Returns the difference between a list of ours and its neighbour's file, which an agent removes.
fn stale(files: &Configurations, name: &str) -> Option<String> {
    let sources = stand_in::sources(name);
    let source = sources.iter().find(|source| files.has(source));
    match source {
        None if sources.is_empty() => None,
        None => Some(format!("stands before {}, which is gone", sources[0])),
        Some(source) if stand_in::represents(files.text(name), source, files.text(source)) => None,
        Some(source) => Some(format!("stands before {source}, which was written anew since")),
    }
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
    /// The few of Cilium's many keys that matter here. A release may store either of them elsewhere; then it is
    /// unknown.
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

/// Pods with unknown annotations and pods with damage, from the agent, or from the records, which also list the
/// former.
fn pods(layout: &Layout) -> (Option<Vec<String>>, Vec<String>, Vec<String>) {
    let socket = layout.at(&layout.agent_socket());
    if let Ok(Answer::Status(status)) = client::ask(&socket, &Request::Status {}, ANSWERS_WITHIN)
        && let Ok(status) = serde_json::from_value::<NodeStatus>(status)
    {
        let ill = status.pods.iter().filter(|row| row.is_ill());
        let ill = ill.map(|row| format!("{}: {}", row.pod, row.reason)).collect();
        let named =
            |row: &PodRow| row.beside.iter().map(|line| format!("{}: {line}", row.pod)).collect::<Vec<_>>();
        let beside = status.pods.iter().flat_map(named).collect();
        let unknown = status.pods.into_iter().filter(|row| row.onboarded == Onboarded::Unknown);
        return (Some(unknown.map(|row| row.pod).collect()), ill, beside);
    }
    let Ok(records) = Records::new(&layout.at(&layout.attachments())).all() else {
        return (None, Vec::new(), Vec::new());
    };
    let unknown: Vec<_> = records.into_iter().filter(|record| record.engine == NO_ENGINE).collect();
    // An empty folder of records is not a report: records of known pods may have gone with the last boot.
    let pods =
        unknown.into_iter().map(|record| record.pod.unwrap_or(record.container_id)).collect::<Vec<_>>();
    ((!pods.is_empty()).then_some(pods), Vec::new(), Vec::new())
}
