// SPDX-License-Identifier: Apache-2.0
//! Sysctls of the pod's network namespace that redirected connections need, each restored on failure.
//!
//! `/proc/sys/net` shows the namespace of the thread that opens it. The sysctls of conntrack exist only while rules use
//! conntrack, so they are set after the rules.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::policy::Policy;

/// For half-closed redirected connections: the kernel forgets them after 60 s, and a late answer of the server would then
/// leave from the sidecar's port. 12 hours, the longest idle timeout that users ask for.
const CLOSE_WAIT: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "43200");
/// For connections that ended by a reset: the kernel keeps them for 10 s, and a new connection of the same addresses and ports
/// follows the old one's decision meanwhile. Application and sidecar share the pod's ports, so it would bypass the sidecar, or
/// loop into it. With 1 s a few of 20,000 still do.
const CLOSE: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_timeout_close", "0");
/// For connections that were never answered: the kernel keeps them for 120 s after the last attempt, with the same effect. An
/// answer comes within 5 s, or the next attempt begins a new entry.
const SYN_SENT: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_timeout_syn_sent", "5");
/// Without it a segment outside conntrack's window would pass untranslated, and the peer would answer with a reset.
const BE_LIBERAL: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_be_liberal", "1");
/// Without it the hop from `::6` runs out of ports at some 470 connections a second.
const TW_REUSE: (&str, &str) = ("net/ipv4/tcp_tw_reuse", "1");
/// The sysctls with one value for every policy, in the order of writing.
const FIXED: [(&str, &str); 5] = [CLOSE_WAIT, CLOSE, SYN_SENT, BE_LIBERAL, TW_REUSE];
/// Keeps connections older than the rules direct, see [`super::living`].
const LOOSE: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_loose", "0");
/// Keeps outgoing connections from using a port that the sidecar will listen on.
const RESERVED_PORTS: &str = "net/ipv4/ip_local_reserved_ports";
/// Begins each difference about [`RESERVED_PORTS`].
const LACKS: &str = "sysctl net/ipv4/ip_local_reserved_ports does not hold ";
/// Largest value of a sysctl that is read, in bytes; a list of all odd ports is smaller.
const MAX_VALUE: u64 = 512 << 10;

/// A sysctl that was changed, with its value from before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Path of its file below `/proc/sys`.
    pub name: String,
    /// Value before the change.
    pub before: String,
    /// Value after the change, in the kernel's spelling.
    pub after: String,
}

/// A sysctl could not be read or set.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} /proc/sys/{name}: {source}{hint}")]
pub struct SysctlError {
    verb: &'static str,
    name: String,
    hint: &'static str,
    source: io::Error,
}

impl SysctlError {
    /// Returns true if `/proc/sys` is read-only, as in most containers.
    pub(crate) fn is_read_only(&self) -> bool {
        self.source.kind() == io::ErrorKind::ReadOnlyFilesystem
    }

    fn new(verb: &'static str, name: &str, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => ": does this kernel have conntrack (modprobe nf_conntrack)?",
            io::ErrorKind::ReadOnlyFilesystem => {
                ": a container's /proc/sys is read-only unless it is privileged"
            }
            _ => "",
        };
        Self { verb, name: name.to_owned(), hint, source }
    }
}

/// Keep conntrack from taking the next segment of an untracked connection for a new connection.
///
/// While conntrack is a module that is not loaded, the sysctl does not exist and is left alone: the kernel's default applies
/// once the rules load the module.
pub(crate) fn keep_established(changed: &mut Vec<Changed>) -> Result<(), SysctlError> {
    let (name, wanted) = LOOSE;
    match read(name) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(before) if before == wanted => Ok(()),
        Ok(before) => {
            write(name, wanted)?;
            changed.push(Changed { name: name.to_owned(), before, after: wanted.to_owned() });
            Ok(())
        }
    }
}

/// Set the sysctls that `policy` needs, and add each change to `changed` at once, so that a failure can be undone.
pub(crate) fn set(policy: &Policy, changed: &mut Vec<Changed>) -> Result<(), SysctlError> {
    for (name, wanted) in FIXED {
        let before = read(name)?;
        if before != wanted {
            write(name, wanted)?;
            changed.push(Changed { name: name.to_owned(), before, after: wanted.to_owned() });
        }
    }
    let before = read(RESERVED_PORTS)?;
    let reserved = parse_ports(&before);
    let missing: Vec<String> = policy
        .sidecar_ports()
        .into_iter()
        .map(super::policy::Port::get)
        .filter(|port| !reserved.iter().any(|(first, last)| (*first..=*last).contains(port)))
        .map(|port| port.to_string())
        .collect();
    if !missing.is_empty() {
        let separator = if before.is_empty() { "" } else { "," };
        let wanted = format!("{before}{separator}{}", missing.join(","));
        write(RESERVED_PORTS, &wanted)?;
        changed.push(Changed { name: RESERVED_PORTS.to_owned(), before, after: wanted });
        if let Some(last) = changed.last_mut() {
            // The kernel normalizes the list, and a later comparison reads the normalized form.
            last.after = read(RESERVED_PORTS)?;
        }
    }
    Ok(())
}

/// Compare the sysctls with what `policy` needs; one line for each difference.
pub(crate) fn difference(policy: &Policy) -> Result<Vec<String>, SysctlError> {
    let mut lines = Vec::new();
    for (name, wanted) in FIXED {
        match read(name) {
            Ok(found) if found != wanted => lines.push(format!("sysctl {name} is {found}, not {wanted}")),
            Ok(_) => {}
            // Sysctls of conntrack are missing if nothing uses conntrack, so the rules are missing too.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                lines.push(format!("sysctl {name} is not there"));
            }
            Err(error) => return Err(error),
        }
    }
    let reserved = parse_ports(&read(RESERVED_PORTS)?);
    for port in policy.sidecar_ports().into_iter().map(super::policy::Port::get).collect::<BTreeSet<_>>() {
        if !reserved.iter().any(|(first, last)| (*first..=*last).contains(&port)) {
            lines.push(format!("{LACKS}{port}"));
        }
    }
    Ok(lines)
}

/// Returns true if ports of the sidecar are missing in the list of reserved ports, and nothing else differs.
///
/// That is no damage: the list is a safe sysctl since Kubernetes 1.27, and runtimes write a pod's own after ADD.
pub(crate) fn only_lacks_ports(differences: &[String]) -> bool {
    !differences.is_empty() && differences.iter().all(|line| line.starts_with(LACKS))
}

/// Restore the values from before, in reverse order, unless another program changed them since. Continues after a failure
/// and returns all of them.
pub(crate) fn restore(changed: &[Changed]) -> Vec<SysctlError> {
    let put_back = |sysctl: &Changed| {
        let found = read(&sysctl.name)?;
        // Compared as sets of ports: if the normalized list could not be read back, `after` has the written form.
        let is_ours = found == sysctl.after
            || sysctl.name == RESERVED_PORTS && port_set(&found) == port_set(&sysctl.after);
        if is_ours { write(&sysctl.name, &sysctl.before) } else { Ok(()) }
    };
    changed.iter().rev().filter_map(|sysctl| put_back(sysctl).err()).collect()
}

fn port_set(list: &str) -> BTreeSet<u16> {
    parse_ports(list).into_iter().flat_map(|(first, last)| first..=last).collect()
}

fn parse_ports(list: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    list.split(',').filter_map(range).collect()
}

fn read(name: &str) -> Result<String, SysctlError> {
    let mut text = String::new();
    OpenOptions::new()
        .read(true)
        .open(format!("/proc/sys/{name}"))
        .and_then(|file| file.take(MAX_VALUE).read_to_string(&mut text))
        .map_err(|source| SysctlError::new("read", name, source))?;
    Ok(text.trim_end().to_owned())
}

thread_local! {
    /// Root of the writable sysctls; see [`write_below`].
    static WRITABLE: RefCell<PathBuf> = RefCell::new(PathBuf::from("/proc/sys"));
}

/// Let this thread write sysctls through another mount of /proc: in a container /proc/sys is read-only, and the host's is
/// mounted elsewhere. Both show the sysctls of the thread's network namespace.
pub fn write_below(proc: &Path) {
    WRITABLE.set(proc.join("sys"));
}

fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    // With a line feed: a write of no bytes would not reach the kernel, so a list could never be emptied.
    OpenOptions::new()
        .write(true)
        .open(WRITABLE.with_borrow(|sys| sys.join(name)))
        .and_then(|mut file| file.write_all(format!("{value}\n").as_bytes()))
        .map_err(|source| SysctlError::new("set", name, source))
}
