// SPDX-License-Identifier: Apache-2.0
//! The iptables programs of a node. culvert works without them; a node whose nftables has no NAT needs one.
//!
//! The `iptables` crate runs the programs. It resolves them by PATH and waits without a limit, so each call has a
//! deadline. A program outside PATH, or on a node that is only mounted, is found by its file and not run. Only
//! `--version` is run: a listing would load the legacy modules into a kernel that may do without them.

use std::error::Error;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use iptables::IPTables;

use super::deadline::within;

/// Kernel interface of an iptables program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// nf_tables.
    Nft,
    /// The older x_tables.
    Legacy,
}

/// Result of a search for one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToolState {
    /// The program ran and printed its version, such as `1.8.9`.
    Runs {
        /// Version as printed.
        version: String,
        /// Backend as printed; programs before 1.8 have only one and do not print it.
        backend: Backend,
    },
    /// The file exists; it was not run.
    Found,
    /// The program exists and does not work, with the reason.
    Broken(String),
    /// The program does not exist.
    Absent,
}

/// One program and the result for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tool {
    /// Name of the program, such as `ip6tables-legacy`.
    pub command: &'static str,
    pub answer: ToolState,
}

/// All names under which distributions install iptables; the first of a family is what users call.
pub(crate) const COMMANDS: [&str; 6] =
    ["iptables", "iptables-nft", "iptables-legacy", "ip6tables", "ip6tables-nft", "ip6tables-legacy"];

/// Deadline: `--version` takes 2 ms, and a program that hangs (NSS, a dead NFS mount) must not hang doctor.
const LIMIT: Duration = Duration::from_secs(3);

/// Folders in which distributions install them.
const FOLDERS: [&str; 6] = ["usr/sbin", "sbin", "usr/local/sbin", "usr/bin", "bin", "usr/local/bin"];

/// Searches the node at `host_root` for every iptables program.
pub(crate) fn find(host_root: &Path) -> Vec<Tool> {
    // In parallel, so six programs that hang cost one deadline.
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
    // Programs of a node that is only mounted would run with this container's libraries.
    let answer = if host_root == Path::new("/") {
        within(LIMIT, move || run(command)).unwrap_or_else(|late| ToolState::Broken(late.to_string()))
    } else {
        ToolState::Absent
    };
    // Links are not followed: those of a mounted node lead out of it.
    let exists = |folder| host_root.join(folder).join(command).symlink_metadata().is_ok();
    match answer {
        ToolState::Absent if FOLDERS.into_iter().any(exists) => ToolState::Found,
        answer => answer,
    }
}

fn run(command: &'static str) -> ToolState {
    // The crate's options for rules do not matter here, and every release understands `--version`.
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

/// Parses `iptables v1.8.9 (nf_tables)`.
fn read_version(line: &str) -> Option<ToolState> {
    let mut words = line.split_whitespace().skip(1);
    let version = words.next()?.strip_prefix('v')?.to_owned();
    let backend = if words.next() == Some("(nf_tables)") { Backend::Nft } else { Backend::Legacy };
    Some(ToolState::Runs { version, backend })
}

/// A folder of PATH that may not be searched turns an absent program into a forbidden one.
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
