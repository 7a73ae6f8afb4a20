// SPDX-License-Identifier: Apache-2.0
//! One look at one pod, from finding its namespace to putting it right. Waits for the kernel: not for the agent's own thread.
//!
//! A namespace is only acted on where it is certain which it is:
//! - its file is open all the while, so it cannot become another's;
//! - it is none of the host's: the host's pid 1 must be readable to tell;
//! - it is the one that was seen at the pod's ADD, or at the first look, by device and inode;
//! - by a path, it is the one that the runtime keeps open for this sandbox under a name that is never used again;
//! - by a process, that process is as old as the sandbox and the same before and after the file was opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_cni::attachment::{Record, Records};
use culvert_cni::netns::{Netns, NetnsError, NetnsId};
use culvert_cni::redirect::engine::Engine;
use culvert_cni::redirect::owner::Owner;
use culvert_cni::redirect::policy::Policy;
use culvert_cni::redirect::repair::{self, Checked, Mode, State};
use culvert_cni::redirect::{Footprint, RedirectError, nftables, sysctl};

use super::subjects::Subject;
use crate::cri::Network;
use crate::host::root::HostRoot;

/// How long the work in a namespace may take: some 5 ms, but iptables' programs have 2 s each.
const WITHIN: Duration = Duration::from_secs(10);
/// By how much a process may look younger than the sandbox that it belongs to: the clock of the one is the kernel's, that of
/// the other may have been set.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(30);
/// `USER_HZ`, in which the kernel tells a process' start: 100 on every architecture that Rust's Linux targets have.
const TICKS: u64 = 100;

/// Why a pod was not looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// The host's own namespace is not known.
    #[error(
        "cannot tell which network namespace is the node's own, so none is touched: {} must be readable (the node's /proc, and \
         CAP_SYS_PTRACE)",
        .0.display()
    )]
    Host(PathBuf),
    /// The namespace cannot be found.
    #[error("its network namespace cannot be found: {0}")]
    Nowhere(String),
    /// The pod had its DEL meanwhile.
    #[error("it ends: its record is gone")]
    Ended,
    /// Another namespace than before.
    #[error("its network namespace is another than the one that it was made with: not touched")]
    Another,
    /// The process is not the sandbox's.
    #[error("process {0} is younger than the sandbox that the runtime names it for: not touched")]
    Younger(u32),
    /// The namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel or the engine.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
}

/// What to do there.
#[derive(Debug, Clone)]
pub(crate) enum Task {
    /// Only whether any rule changed.
    Pulse,
    /// Verify, and with [`Mode::Repair`] put right.
    Check(Box<Policy>, Mode),
}

/// What was found.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// The kernel's count of changes.
    Pulse(Option<u32>),
    /// How it is.
    Checked(Box<Checked>),
}

/// A look to be had.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Where the node's file system is.
    pub root: HostRoot,
    /// The folder of the records, as it is opened here.
    pub records: PathBuf,
    /// The network's name for a record that has to be made; without one none is.
    pub network_name: Option<String>,
    /// Whose.
    pub subject: Subject,
    /// Where its network is.
    pub network: Network,
    /// Which namespace it was at the first look.
    pub seen: Option<NetnsId>,
    /// What for.
    pub task: Task,
}

impl Look {
    /// Has the look; says which namespace it was, too.
    pub(crate) fn run(self) -> Result<(NetnsId, Found), LookError> {
        let (netns, path) = self.open()?;
        let id = netns.id().map_err(|error| LookError::Nowhere(error.to_string()))?;
        let expected = [self.seen, self.subject.netns_id];
        if expected.into_iter().flatten().any(|expected| expected != id) {
            return Err(LookError::Another);
        }
        let Self { root, records, network_name, subject, task, .. } = self;
        let (policy, mode) = match task {
            Task::Pulse => {
                let generation = netns.enter(WITHIN, nftables::generation)?;
                return Ok((id, Found::Pulse(generation.unwrap_or_default())));
            }
            Task::Check(policy, mode) => (policy, mode),
        };
        if mode == Mode::Repair && has_ended(&records, &subject) {
            return Err(LookError::Ended);
        }
        let owner = Owner::new(&subject.id, &subject.ifname);
        let recorded = subject.engine.as_deref().and_then(|name| Engine::by_name(name, policy.families));
        let proc = root.path().join("proc");
        let checked = netns.enter(WITHIN, move || {
            sysctl::write_below(&proc);
            repair::check(&policy, &owner, recorded, mode)
        })??;
        if let State::Repaired(repaired) = &checked.state {
            let installed = &repaired.installed;
            remember(
                &records,
                network_name,
                subject,
                id,
                &path,
                installed.engine,
                installed.footprint.clone(),
            );
        }
        Ok((id, Found::Checked(Box::new(checked))))
    }

    /// Opens the namespace: by the runtime's own path, by that of the record, by the sandbox's process.
    fn open(&self) -> Result<(Netns, PathBuf), LookError> {
        let root = self.root.path();
        let init = root.join("proc/1/ns/net");
        let host = match NetnsId::of(&init) {
            Ok(host) => Some(host),
            // On the node itself this process' own namespace is the node's.
            Err(_) if root == Path::new("/") => None,
            Err(_) => return Err(LookError::Host(init)),
        };
        let mut said = Vec::new();
        for path in [self.network.path.as_ref(), self.subject.netns.as_ref()].into_iter().flatten() {
            match Netns::open_apart_from(&self.root.at(path), host) {
                Ok(netns) => return Ok((netns, path.clone())),
                // Not mounted here, or gone: there may be another way. The host's own is an end of it.
                Err(error @ (NetnsError::Open { .. } | NetnsError::NotANamespace(_))) => {
                    said.push(error.to_string())
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(pid) = self.network.pid else {
            said.push("the runtime names no process of it".to_owned());
            return Err(LookError::Nowhere(said.join("; ")));
        };
        let process = root.join("proc").join(pid.to_string());
        let gone = || LookError::Nowhere(format!("its process {pid} is gone"));
        let started = start_of(&process).ok_or_else(gone)?;
        if !self.is_old_enough(started) {
            return Err(LookError::Younger(pid));
        }
        let path = process.join("ns/net");
        let netns = Netns::open_apart_from(&path, host)?;
        // The number was not given to another process meanwhile.
        if start_of(&process) != Some(started) {
            return Err(gone());
        }
        Ok((netns, self.network.path.clone().unwrap_or(path)))
    }

    /// Whether a process that started so many ticks after boot can be as old as the sandbox.
    fn is_old_enough(&self, started: u64) -> bool {
        let (Some(created), Some(uptime)) = (self.subject.created_at, uptime(self.root.path())) else {
            return true;
        };
        let process = uptime.saturating_sub(Duration::from_millis(started * 1000 / TICKS));
        let created = UNIX_EPOCH + Duration::from_nanos(u64::try_from(created).unwrap_or_default());
        let sandbox = SystemTime::now().duration_since(created).unwrap_or_default();
        process + CLOCKS_DIFFER_BY >= sandbox
    }
}

/// When a process started, in ticks since boot: field 22 of /proc/PID/stat, behind a name that may hold anything.
fn start_of(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// How long the machine has been up.
fn uptime(root: &Path) -> Option<Duration> {
    let text = fs::read_to_string(root.join("proc/uptime")).ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

/// The record that a pod has now.
fn record_of(records: &Records, subject: &Subject) -> Option<Record> {
    let network = subject.network.as_deref()?;
    let is_its = |record: &Record| {
        record.container_id == subject.id && record.ifname == subject.ifname && record.network == network
    };
    records.all().unwrap_or_default().into_iter().find(is_its)
}

/// Whether a pod that had a record has none any more: its DEL took it away.
fn has_ended(folder: &Path, subject: &Subject) -> bool {
    subject.network.is_some() && record_of(&Records::new(folder), subject).is_none()
}

/// Keeps what a repair changed, so that DEL can take it back. Best effort, as in an ADD: DEL goes by the rules' own note.
fn remember(
    folder: &Path,
    network_name: Option<String>,
    subject: Subject,
    id: NetnsId,
    path: &Path,
    engine: Engine,
    footprint: Footprint,
) {
    let Some(network) = subject.network.clone().or(network_name) else { return };
    let records = Records::new(folder);
    let earlier = record_of(&records, &subject);
    // A DEL took it away while we were at work: then the pod is going, and its record must not come back.
    if subject.network.is_some() && earlier.is_none() {
        return;
    }
    let record = Record {
        network,
        container_id: subject.id.clone(),
        ifname: subject.ifname.clone(),
        netns: path.to_string_lossy().into_owned(),
        pod: Some(subject.name()),
        engine: engine.name().to_owned(),
        footprint: match &earlier {
            Some(earlier) => footprint.after(&earlier.footprint),
            None => footprint,
        },
        netns_id: Some(id),
        considered: subject.considered,
    };
    if let Err(error) = records.write(&record) {
        tracing::warn!(%error, folder = %folder.display(), "no record of a repair can be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::super::subjects::Wanted;
    use super::*;

    fn look(network: Network, created_at: Option<i64>) -> Look {
        let subject = Subject {
            id: "s1".to_owned(),
            pod: ("shop".to_owned(), "web".to_owned()),
            uid: None,
            ifname: "eth0".to_owned(),
            wanted: Wanted::Direct(String::new()),
            created_at,
            engine: None,
            netns: None,
            netns_id: None,
            network: None,
            considered: None,
        };
        Look {
            root: HostRoot::new(Path::new("/")),
            records: PathBuf::from("/nonexistent"),
            network_name: None,
            subject,
            network,
            seen: None,
            task: Task::Pulse,
        }
    }

    #[test]
    fn the_own_namespace_is_never_entered() {
        for network in [
            Network { path: Some("/proc/self/ns/net".into()), ..Network::default() },
            Network { path: Some("/proc/1/ns/net".into()), ..Network::default() },
            Network { pid: Some(std::process::id()), ..Network::default() },
        ] {
            let error = look(network.clone(), None).run().unwrap_err();
            assert!(
                matches!(error, LookError::Netns(NetnsError::Host(_)) | LookError::Nowhere(_)),
                "{network:?}: {error}"
            );
        }
    }

    #[test]
    fn a_process_younger_than_its_sandbox_is_not_the_sandboxs() {
        let network = Network { pid: Some(std::process::id()), ..Network::default() };
        // Made at the beginning of 1970: any process is younger.
        let error = look(network.clone(), Some(1)).run().unwrap_err();
        assert!(matches!(error, LookError::Younger(_)), "{error}");
        let error = look(network, Some(i64::MAX)).run().unwrap_err();
        assert!(matches!(error, LookError::Netns(NetnsError::Host(_))), "{error}");
    }

    #[test]
    fn without_the_hosts_proc_nothing_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let network = Network { pid: Some(std::process::id()), ..Network::default() };
        let look = Look { root: HostRoot::new(folder.path()), ..look(network, None) };
        let error = look.run().unwrap_err();
        assert!(matches!(error, LookError::Host(_)), "{error}");
    }

    #[test]
    fn a_process_says_when_it_started() {
        let own = start_of(Path::new("/proc/self")).unwrap();
        let up = uptime(Path::new("/")).unwrap();
        assert!(own > 0 && Duration::from_millis(own * 1000 / TICKS) <= up + Duration::from_secs(1));
        assert_eq!(start_of(Path::new("/proc/0")), None);
    }
}
