// SPDX-License-Identifier: Apache-2.0
//! The check of one pod, from finding its namespace to repairing its rules. It blocks on the kernel, so it never runs on the
//! agent's own thread.
//!
//! A namespace is entered only where its identity is certain:
//! - its file is open all the while, so it cannot become another's;
//! - it is not the host's, which the namespace of the host's pid 1 shows;
//! - it has the device and inode that it had at the pod's ADD, or at the first check;
//! - found by a path, it is the one that the runtime keeps open for this sandbox under a name that is never used again;
//! - found by a process, that process is as old as the sandbox, and the same before and after its file was opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_cni::attachment::{Record, Records};
use culvert_cni::netns::{Netns, NetnsError, NetnsId};
use culvert_cni::redirect::engine::Engine;
use culvert_cni::redirect::owner::Owner;
use culvert_cni::redirect::policy::Policy;
use culvert_cni::redirect::repair::{self, Checked, Mode, State};
use culvert_cni::redirect::{Footprint, Installed, RedirectError, nftables, sysctl};

use super::subjects::Subject;
use crate::cri::Network;
use crate::host::root::HostRoot;

/// Deadline of the work in a namespace: it takes some 5 ms, but iptables' programs have 2 s each.
const WITHIN: Duration = Duration::from_secs(10);
/// Tolerance between the age of a process, by the kernel's clock, and that of its sandbox, by a clock that may have been set.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(30);
/// `USER_HZ`, the unit of a process' start time: 100 on every architecture that Rust's Linux targets have.
const TICKS: u64 = 100;

/// Merges a footprint with that of the pod's ADD.
type Merge = fn(Footprint, &Footprint) -> Footprint;

/// The reason why a pod could not be checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error(
        "cannot tell which network namespace is the node's own, so none is touched: {} must be readable (the node's /proc, and \
         CAP_SYS_PTRACE)",
        .0.display()
    )]
    Host(PathBuf),
    #[error("its network namespace cannot be found: {0}")]
    Nowhere(String),
    /// The plugin's DEL for the pod came in the meantime.
    #[error("it ends: its record is gone")]
    Ended,
    /// Device and inode differ from those of the ADD or of the first check.
    #[error("its network namespace is another than the one that it was made with: not touched")]
    Another,
    #[error("process {0} is younger than the sandbox that the runtime names it for: not touched")]
    Younger(u32),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Redirect(#[from] RedirectError),
}

/// All that a check of one pod needs, so that it can run on a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct PodCheck {
    pub root: HostRoot,
    /// The folder of the attachments' records, as this process opens it.
    pub records: PathBuf,
    /// The network's name for a record that a repair has to make; without it a repair makes none.
    pub network_name: Option<String>,
    pub subject: Subject,
    pub network: Network,
    /// The namespace's identity at the first check.
    pub netns: Option<NetnsId>,
}

impl PodCheck {
    /// Reads the kernel's count of rule changes in the pod's namespace; `None` where the kernel keeps none.
    pub(crate) fn generation(&self) -> Result<(NetnsId, Option<u32>), CheckError> {
        let (netns, id, _) = self.open_expected()?;
        let generation = netns.enter(WITHIN, nftables::generation)?;
        Ok((id, generation.unwrap_or_default()))
    }

    /// Compares the pod's rules with `policy` and, with [`Mode::Repair`], writes what differs.
    pub(crate) fn verify(
        &self,
        policy: Box<Policy>,
        mode: Mode,
    ) -> Result<(NetnsId, Box<Checked>), CheckError> {
        let (netns, id, path) = self.open_expected()?;
        let Self { root, records, network_name, subject, .. } = self;
        if mode == Mode::Repair && has_ended(records, subject) {
            return Err(CheckError::Ended);
        }
        let owner = Owner::new(&subject.id, &subject.ifname);
        let recorded = subject.engine.as_deref().and_then(|name| Engine::by_name(name, policy.families));
        let proc = root.path().join("proc");
        let checked = netns.enter(WITHIN, move || {
            sysctl::write_below(&proc);
            repair::check(&policy, &owner, recorded, mode)
        })??;
        let written = match &checked.state {
            State::Repaired(repaired) => {
                let Installed { engine, footprint, .. } = &repaired.installed;
                Some((engine, footprint, Footprint::after as Merge))
            }
            State::Completed(completed) => {
                Some((&completed.engine, &completed.footprint, Footprint::over as Merge))
            }
            _ => None,
        };
        if let Some((engine, footprint, merge)) = written
            && let Some(network) = subject.network.clone().or(network_name.clone())
        {
            let record = Record {
                network,
                container_id: subject.id.clone(),
                ifname: subject.ifname.clone(),
                netns: path.to_string_lossy().into_owned(),
                pod: Some(subject.name()),
                engine: engine.name().to_owned(),
                footprint: footprint.clone(),
                netns_id: Some(id),
                considered: subject.considered.clone(),
            };
            write_record(records, subject, record, merge);
        }
        Ok((id, Box::new(checked)))
    }

    /// Opens the pod's namespace and refuses one that is another than before.
    fn open_expected(&self) -> Result<(Netns, NetnsId, PathBuf), CheckError> {
        let (netns, path) = self.open()?;
        let id = netns.id().map_err(|error| CheckError::Nowhere(error.to_string()))?;
        let expected = [self.netns, self.subject.netns_id];
        if expected.into_iter().flatten().any(|expected| expected != id) {
            return Err(CheckError::Another);
        }
        Ok((netns, id, path))
    }

    /// Opens the namespace by the runtime's own path, else by that of the record, else by the sandbox's process.
    fn open(&self) -> Result<(Netns, PathBuf), CheckError> {
        let root = self.root.path();
        let init = root.join("proc/1/ns/net");
        let host = match NetnsId::of(&init) {
            Ok(host) => Some(host),
            // On the node itself this process is in the node's own namespace.
            Err(_) if root == Path::new("/") => None,
            Err(_) => return Err(CheckError::Host(init)),
        };
        let mut tried = Vec::new();
        for path in [self.network.path.as_ref(), self.subject.netns.as_ref()].into_iter().flatten() {
            match Netns::open_apart_from(&self.root.at(path), host) {
                Ok(netns) => return Ok((netns, path.clone())),
                // The path is not mounted here, or gone: another way may work. Any other error ends the search, above all that
                // it is the host's namespace.
                Err(error @ (NetnsError::Open { .. } | NetnsError::NotANamespace(_))) => {
                    tried.push(error.to_string())
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(pid) = self.network.pid else {
            tried.push("the runtime names no process of it".to_owned());
            return Err(CheckError::Nowhere(tried.join("; ")));
        };
        let process = root.join("proc").join(pid.to_string());
        let gone = || CheckError::Nowhere(format!("its process {pid} is gone"));
        let started = start_of(&process).ok_or_else(gone)?;
        if !self.is_old_enough(started) {
            return Err(CheckError::Younger(pid));
        }
        let path = process.join("ns/net");
        let netns = Netns::open_apart_from(&path, host)?;
        // The kernel may have given the number to another process in between.
        if start_of(&process) != Some(started) {
            return Err(gone());
        }
        Ok((netns, self.network.path.clone().unwrap_or(path)))
    }

    /// Compares the age of a process, which started so many ticks after boot, with that of the sandbox.
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

/// Reads the start time of a process in ticks since boot: field 22 of /proc/PID/stat, behind a name that may hold anything.
fn start_of(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Reads the time since boot.
fn uptime(root: &Path) -> Option<Duration> {
    let text = fs::read_to_string(root.join("proc/uptime")).ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

/// Finds the record that a pod has now.
fn record_of(records: &Records, subject: &Subject) -> Option<Record> {
    let network = subject.network.as_deref()?;
    let is_its = |record: &Record| {
        record.container_id == subject.id && record.ifname == subject.ifname && record.network == network
    };
    records.all().unwrap_or_default().into_iter().find(is_its)
}

/// Returns true for a pod that had a record and has none any more: its DEL removed it.
fn has_ended(folder: &Path, subject: &Subject) -> bool {
    subject.network.is_some() && record_of(&Records::new(folder), subject).is_none()
}

/// Writes what a repair changed, so that DEL can undo it. Best effort, as in an ADD: DEL goes by the note in the rules.
fn write_record(folder: &Path, subject: &Subject, mut record: Record, merge: Merge) {
    let records = Records::new(folder);
    match record_of(&records, subject) {
        // A DEL removed it during the repair: the pod is ending, and its record must not come back.
        None if subject.network.is_some() => return,
        None => {}
        Some(earlier) => record.footprint = merge(record.footprint, &earlier.footprint),
    }
    if let Err(error) = records.write(&record) {
        tracing::warn!(%error, folder = %folder.display(), "no record of a repair can be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::super::subjects::Desired;
    use super::*;

    fn check(network: Network, created_at: Option<i64>) -> PodCheck {
        let subject = Subject {
            bypass: None,
            id: "s1".to_owned(),
            pod: ("shop".to_owned(), "web".to_owned()),
            uid: None,
            ifname: "eth0".to_owned(),
            desired: Desired::Direct(String::new()),
            created_at,
            engine: None,
            netns: None,
            netns_id: None,
            network: None,
            considered: None,
        };
        PodCheck {
            root: HostRoot::new(Path::new("/")),
            records: PathBuf::from("/nonexistent"),
            network_name: None,
            subject,
            network,
            netns: None,
        }
    }

    #[test]
    fn the_own_namespace_is_never_entered() {
        for network in [
            Network { path: Some("/proc/self/ns/net".into()), ..Network::default() },
            Network { path: Some("/proc/1/ns/net".into()), ..Network::default() },
            Network { pid: Some(std::process::id()), ..Network::default() },
        ] {
            let error = check(network.clone(), None).generation().unwrap_err();
            assert!(
                matches!(error, CheckError::Netns(NetnsError::Host(_)) | CheckError::Nowhere(_)),
                "{network:?}: {error}"
            );
        }
    }

    #[test]
    fn a_process_younger_than_its_sandbox_is_not_the_sandboxs() {
        let network = Network { pid: Some(std::process::id()), ..Network::default() };
        // A sandbox of the beginning of 1970: any process is younger.
        let error = check(network.clone(), Some(1)).generation().unwrap_err();
        assert!(matches!(error, CheckError::Younger(_)), "{error}");
        let error = check(network, Some(i64::MAX)).generation().unwrap_err();
        assert!(matches!(error, CheckError::Netns(NetnsError::Host(_))), "{error}");
    }

    #[test]
    fn without_the_hosts_proc_nothing_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let network = Network { pid: Some(std::process::id()), ..Network::default() };
        let check = PodCheck { root: HostRoot::new(folder.path()), ..check(network, None) };
        let error = check.generation().unwrap_err();
        assert!(matches!(error, CheckError::Host(_)), "{error}");
    }

    #[test]
    fn a_process_says_when_it_started() {
        let own = start_of(Path::new("/proc/self")).unwrap();
        let up = uptime(Path::new("/")).unwrap();
        assert!(own > 0 && Duration::from_millis(own * 1000 / TICKS) <= up + Duration::from_secs(1));
        assert_eq!(start_of(Path::new("/proc/0")), None);
    }
}
