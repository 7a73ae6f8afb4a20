// SPDX-License-Identifier: Apache-2.0
//! Uninstall: first the entry, then the binary, so that at no time a configuration names a plugin that is missing.
//!
//! ```text
//! mark for the agent ─▶ entry out of every file ─▶ the runtime has read that ─▶ the binary retires
//!                              no pod needs it: removed │ pods need it: it stays, and goes with the last of them
//! ```
//! Each step accepts that an earlier run did it already: killed anywhere, a second run finishes.

mod entries;
mod leavings;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_cni::retired::{self, RESULTS};

pub(crate) use self::leavings::remove_state_folder;
use super::layout::Layout;
use super::reload::{self, Reload};
use crate::conflist::TYPE;

/// Time for the runtime to read its folder again; containerd does so at once.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// The time of the binary's removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// While pods need the plugin for their end, it stays for them and passes new pods through.
    AfterLastPod,
    Now,
}

/// Results for the operator, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UninstallReport {
    pub done: Vec<String>,
    /// Files that are still there, each with the reason.
    pub problems: Vec<String>,
}

/// The fate of the retired binary.
#[derive(Debug)]
enum Fate {
    Removed,
    /// It stays for so many pods.
    KeptForPods(usize),
    /// It stays, since a file of the runtime's folder still names it.
    KeptForName,
    /// It stays, since the pods that need it cannot be counted.
    KeptUncounted(io::Error),
}

/// Decides the fate of the binary. Pods are counted only where the runtime would still call the plugin for them.
fn fate(
    removal: Removal,
    reload: Reload,
    pods: impl FnOnce() -> io::Result<usize>,
    is_named: impl FnOnce() -> bool,
) -> Fate {
    let pods = match (removal, reload) {
        // The runtime ends pods by the configuration that it has loaded, which no longer names the plugin.
        (Removal::Now, _) | (_, Reload::WithoutUs) => Ok(0),
        (Removal::AfterLastPod, Reload::Unknown) => pods(),
    };
    match pods {
        Err(error) => Fate::KeptUncounted(error),
        Ok(0) if removal == Removal::AfterLastPod && is_named() => Fate::KeptForName,
        Ok(0) => Fate::Removed,
        Ok(pods) => Fate::KeptForPods(pods),
    }
}

/// Removes entry and plugin from the node.
pub(crate) async fn uninstall(layout: &Layout, removal: Removal) -> UninstallReport {
    let mut report = UninstallReport::default();
    let logs = match entries::remove_all(layout, &mut report).await {
        Ok(logs) => logs,
        Err(problem) => {
            report.problems.push(problem);
            return report;
        }
    };
    // A note without a binary is left by a run that was killed after it removed the binary.
    let is_there = |path: &PathBuf| layout.at(path).exists() || retired::note_of(&layout.at(path)).exists();
    let binaries: Vec<_> = layout.bin_dirs.iter().map(|folder| folder.join(TYPE)).filter(is_there).collect();
    if binaries.is_empty() {
        leavings::clear(layout, &logs, &mut report);
        if report.done.is_empty() && report.problems.is_empty() {
            report.done.push("nothing of culvert was on this node".to_owned());
        }
        return report;
    }
    let reload = match removal {
        Removal::Now => Reload::Unknown,
        Removal::AfterLastPod => reload::await_without_us(layout, READ_WITHIN).await,
    };
    let note = leavings::note(layout, &logs);
    for binary in &binaries {
        if let Err(error) = leavings::retire(&layout.at(binary), &note) {
            report.problems.push(format!("{}: {error}", binary.display()));
        }
    }
    if !report.problems.is_empty() {
        return report;
    }
    if removal == Removal::AfterLastPod {
        leavings::await_quiet(layout, &logs).await;
    }
    let here = leavings::on_this_side(layout, &note);
    let pods = || {
        // A node that is mounted only in parts may have pods that this process cannot see.
        if layout.root.path() != Path::new("/") && !here.results.is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        here.needing().map(|ids| ids.len())
    };
    let fate = fate(removal, reload, pods, || here.is_configured());
    carry_out(fate, layout, &binaries, &logs, &mut report);
    report
}

fn carry_out(
    fate: Fate,
    layout: &Layout,
    binaries: &[PathBuf],
    logs: &[PathBuf],
    report: &mut UninstallReport,
) {
    match fate {
        Fate::Removed => {
            for binary in binaries {
                match leavings::remove_binary(&layout.at(binary)) {
                    Ok(()) => report.done.push(format!("removed {}", binary.display())),
                    Err(error) => report.problems.push(format!("{}: {error}", binary.display())),
                }
            }
            leavings::clear(layout, logs, report);
        }
        Fate::KeptForPods(pods) => report.done.push(format!(
            "{} stays for {pods} pods that were made with it: it lets new ones through untouched, and goes with the last of \
             those. Or run this again, with --now so as not to wait",
            names(binaries)
        )),
        Fate::KeptForName => report.problems.push(format!(
            "a file in {} still names {TYPE}, so {} stays and lets pods through untouched: take the name out, then run \
             this again",
            layout.conf_dir.display(),
            names(binaries)
        )),
        Fate::KeptUncounted(error) => report.problems.push(format!(
            "{RESULTS} cannot be read, so the pods that need {} are not known, and it stays: {error}; mount it below \
             --host-root, or say --now",
            names(binaries)
        )),
    }
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_goes_only_where_no_pod_and_no_file_needs_it() {
        use Reload::{Unknown, WithoutUs};
        use Removal::{AfterLastPod, Now};
        let cannot_count = None;
        for (removal, reload, pods, is_named, expected) in [
            (AfterLastPod, WithoutUs, Some(3), false, "removed"),
            (AfterLastPod, WithoutUs, cannot_count, true, "named"),
            (AfterLastPod, Unknown, Some(0), false, "removed"),
            (AfterLastPod, Unknown, Some(0), true, "named"),
            (AfterLastPod, Unknown, Some(3), false, "3 pods"),
            (AfterLastPod, Unknown, Some(3), true, "3 pods"),
            (AfterLastPod, Unknown, cannot_count, false, "uncounted"),
            (Now, Unknown, Some(3), true, "removed"),
            (Now, WithoutUs, cannot_count, true, "removed"),
        ] {
            let count = || pods.ok_or_else(|| io::ErrorKind::NotFound.into());
            let found = match fate(removal, reload, count, || is_named) {
                Fate::Removed => "removed".to_owned(),
                Fate::KeptForPods(pods) => format!("{pods} pods"),
                Fate::KeptForName => "named".to_owned(),
                Fate::KeptUncounted(_) => "uncounted".to_owned(),
            };
            assert_eq!(found, expected, "{removal:?}, {reload:?}, pods {pods:?}, named {is_named}");
        }
    }
}
