// SPDX-License-Identifier: Apache-2.0
//! Which iptables a node has. culvert does without; a node where nftables cannot do NAT would need one.
//!
//! The `iptables` crate runs the programs. It finds them by PATH and waits without end, so each call has a deadline, and
//! a program outside PATH, or on a node that is only mounted, is found by its file and not run. Only `--version` is
//! asked: a listing would load the legacy modules into a kernel that may do without them.

use std::error::Error;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use iptables::IPTables;

use super::deadline::within;

/// iptables' two ways into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Through nf_tables.
    Nft,
    /// Through the older x_tables.
    Legacy,
}

/// What a look for one program found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToolState {
    /// It ran and told its version, such as `1.8.9`.
    Runs {
        /// As the program says it.
        version: String,
        /// As the program says it; those before 1.8 know only one and do not say.
        backend: Backend,
    },
    /// Its file is there; it was not run.
    Found,
    /// It is there and does not work: the reason in words.
    Broken(String),
    /// It is not there.
    Absent,
}

/// One program and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tool {
    /// `ip6tables-legacy` and the like.
    pub command: &'static str,
    /// What was found.
    pub answer: ToolState,
}

/// Every name under which distributions install iptables; the first of a family is what its users call.
pub(crate) const COMMANDS: [&str; 6] =
    ["iptables", "iptables-nft", "iptables-legacy", "ip6tables", "ip6tables-nft", "ip6tables-legacy"];

/// `--version` takes 2 ms. A program that hangs (NSS, a dead NFS mount) shall not hang doctor.
const LIMIT: Duration = Duration::from_secs(3);

/// Where distributions put them.
const FOLDERS: [&str; 6] = ["usr/sbin", "sbin", "usr/local/sbin", "usr/bin", "bin", "usr/local/bin"];

/// Looks for every iptables on the node at `host_root`.
pub(crate) fn find(host_root: &Path) -> Vec<Tool> {
    // Side by side, so that six programs that hang cost one limit.
    thread::scope(|scope| {
        let asked = COMMANDS.map(|command| (command, scope.spawn(move || look_for(command, host_root))));
        asked
            .map(|(command, look)| {
                let answer =
                    look.join().unwrap_or_else(|_| ToolState::Broken("looking for it panicked".to_owned()));
                Tool { command, answer }
            })
            .into()
    })
}

fn look_for(command: &'static str, host_root: &Path) -> ToolState {
    // Programs of a node that is only mounted here would run against this container's libraries.
    let answer = if host_root == Path::new("/") {
        within(LIMIT, move || run(command)).unwrap_or_else(|late| ToolState::Broken(late.to_string()))
    } else {
        ToolState::Absent
    };
    // Without following links: those of a mounted node lead out of it.
    let exists = |folder| host_root.join(folder).join(command).symlink_metadata().is_ok();
    match answer {
        ToolState::Absent if FOLDERS.into_iter().any(exists) => ToolState::Found,
        answer => answer,
    }
}

fn run(command: &'static str) -> ToolState {
    // What this crate would do with rules plays no part here, and `--version` is understood by every release.
    let tool = IPTables { cmd: command, has_check: true, has_wait: false, is_numeric: true };
    match tool.execute("nat", "--version") {
        Ok(output) => read_version(&String::from_utf8_lossy(&output.stdout)).unwrap_or_else(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            ToolState::Broken(complaint.lines().next().unwrap_or("it does not tell its version").to_owned())
        }),
        Err(error) if is_not_there(&*error) => ToolState::Absent,
        Err(error) => ToolState::Broken(error.to_string()),
    }
}

/// Reads `iptables v1.8.9 (nf_tables)`.
fn read_version(line: &str) -> Option<ToolState> {
    let mut words = line.split_whitespace().skip(1);
    let version = words.next()?.strip_prefix('v')?.to_owned();
    let backend = if words.next() == Some("(nf_tables)") { Backend::Nft } else { Backend::Legacy };
    Some(ToolState::Runs { version, backend })
}

/// A folder of PATH that may not be searched makes an absent program a forbidden one.
fn is_not_there(error: &(dyn Error + 'static)) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn versions() {
        let runs = |version: &str, backend| Some(ToolState::Runs { version: version.to_owned(), backend });
        for (line, expected) in [
            ("iptables v1.8.9 (nf_tables)\n", runs("1.8.9", Backend::Nft)),
            ("ip6tables v1.8.10 (legacy)\n", runs("1.8.10", Backend::Legacy)),
            ("iptables v1.4.21\n", runs("1.4.21", Backend::Legacy)),
            ("BusyBox\n", None),
            ("", None),
        ] {
            assert_eq!(read_version(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_absent() {
        assert_eq!(run("culvert-has-no-such-program"), ToolState::Absent);
    }

    #[test]
    fn a_program_that_does_something_else_is_broken() {
        assert!(matches!(run("false"), ToolState::Broken(_)));
    }

    #[test]
    fn a_mounted_node_is_looked_at_and_not_run() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        symlink("/etc/alternatives/iptables", root.path().join("usr/sbin/iptables")).unwrap();
        let found: Vec<_> =
            find(root.path()).into_iter().filter(|tool| tool.answer != ToolState::Absent).collect();
        assert_eq!(found, [Tool { command: "iptables", answer: ToolState::Found }]);
    }
}
